"""TensorBoard and W&B: the real packages, offline, on a run directory; and W&B never hangs."""

import socket
import time
from types import SimpleNamespace

import pytest

from apo.callbacks.loggers import TensorBoard, WeightsAndBiases, named, wandb_mode
from apo.config import load_config
from apo.rundir import RunDirectory

ROW = {"step": 4, "num_tokens": 400, "loss": 2.5, "value_reward_corr": None,
       "weight_dist": {"edges": [0.0, 1.0, 2.0], "counts": [3.0, 1.0]}, "generation/functions/score": 0.01}
SAMPLES = [{"prompt": "def f():\n", "text": "    pass\n", "score": 0.0, "step": 4, "seed": 1, "index": 0}]


@pytest.fixture
def run(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    return run


def test_names_are_those_of_the_trainer_and_of_phf():
    assert set(named(ROW)) == {"train/num_tokens", "train/loss", "train/value_reward_corr", "train/weight_dist",
                               "generation/functions/score"}


def test_tensorboard_holds_scalars_histograms_and_samples(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    logger = TensorBoard(run)
    logger.log(4, ROW)
    logger.samples(4, "functions", SAMPLES)
    logger.close()
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    (loss,) = events.Scalars("train/loss")
    assert (loss.step, loss.value) == (4, 2.5)
    assert events.Scalars("generation/functions/score")[0].value == pytest.approx(0.01)
    histogram = events.Histograms("train/weight_dist")[0].histogram_value
    assert histogram.num == 4 and list(histogram.bucket) == [3.0, 1.0]
    assert events.Tensors("generation/functions/samples/text_summary")


def test_tensorboard_forgets_what_a_killed_run_logged_after_its_checkpoint(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    for begun, steps in ((0, (1, 2, 3)), (1, (2, 3, 4))):
        logger = TensorBoard(run)
        logger.begin(begun)
        for step in steps:
            logger.log(step, {"step": step, "loss": float(10 * begun + step)})
        logger.close()
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 1), (2, 12), (3, 13), (4, 14)]


def test_wandb_offline_and_the_same_run_after_a_resume(run, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = load_config(["task=pep8", "method=mle", "scale=smoke", "name=one", "logger.wandb=true"])
    ids = []
    for step in (4, 8):
        logger = WeightsAndBiases(config, run)
        logger.log(step, ROW)
        logger.samples(step, "functions", SAMPLES)
        ids.append(logger.run.id)
        assert logger.run.settings.run_name == "one"
        logger.close()
    assert ids[0] == ids[1] == (run.path / "wandb_id").read_text().strip()
    assert len(list((run.path / "wandb").glob(f"offline-run-*-{ids[0]}"))) >= 1
    assert list((run.path / "wandb").rglob("*.table.json"))


class TestMode:
    @pytest.fixture(autouse=True)
    def clean(self, monkeypatch, tmp_path):
        monkeypatch.delenv("WANDB_MODE", raising=False)
        monkeypatch.setenv("NETRC", str(tmp_path / "none"))
        self.monkeypatch = monkeypatch

    def test_offline_without_a_key(self, capsys):
        assert wandb_mode(offline=False) == "offline"
        assert "WANDB_API_KEY" in capsys.readouterr().err

    def test_offline_when_asked(self):
        self.monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
        assert wandb_mode(offline=True) == "offline"
        self.monkeypatch.setenv("WANDB_MODE", "online")
        assert wandb_mode(offline=True) == "offline"

    def test_offline_where_the_server_does_not_answer_within_seconds(self, capsys):
        """A server that accepts nothing: its queue is full, so that connecting would wait for minutes."""
        self.monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
        self.monkeypatch.setattr(socket, "create_connection", self.never_answers)
        self.monkeypatch.setenv("WANDB_BASE_URL", "http://localhost:9")
        start = time.monotonic()
        assert wandb_mode(offline=False) == "offline"
        assert time.monotonic() - start < 10
        assert "does not answer" in capsys.readouterr().err

    @staticmethod
    def never_answers(address, timeout):
        assert timeout <= 5
        raise TimeoutError

    def test_online_with_a_key_and_a_server_that_listens(self):
        self.monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
            assert wandb_mode(offline=False) == "online"


def test_switches(run):
    from apo.callbacks.loggers import make_loggers
    config = SimpleNamespace(logger=SimpleNamespace(tensorboard=True, wandb=False))
    loggers = make_loggers(config, run)
    assert [type(logger).__name__ for logger in loggers] == ["TensorBoard"]
    loggers[0].close()
