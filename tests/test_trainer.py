"""The one loop: the factoring of a step changes nothing; memory, NaN, signals and resume are handled to the bit."""

import json
import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from apo import checkpoint as checkpoints
from apo.callbacks.base import Callback, Measurement
from apo.data.collate import Batch
from apo.data.completions import laid_out
from apo.data.sampling import BatchSource
from apo.errors import Interrupted, NonFiniteLoss, OutOfMemory
from apo.models.policy import Policy
from apo.objectives.base import objectives
from apo.rundir import RunDirectory
from apo.schema import TrainingConfig
from apo.trainer import ScoredTextTrainer, finite
from apo.training_arguments import resolve_precision

ROWS, LENGTH = 8, 20


class Rows(BatchSource):
    """Random rows whose numbers of scored tokens differ widely."""

    def __init__(self):
        self.step = 0

    def next(self) -> Batch:
        generator = torch.Generator().manual_seed(self.step)
        self.step += 1
        mask = torch.arange(LENGTH) < torch.randint(2, LENGTH, (ROWS, 1), generator=generator)
        return Batch(torch.randint(0, 260, (ROWS, LENGTH), generator=generator),
                     torch.rand(ROWS, LENGTH, generator=generator), mask)

    def state_dict(self):
        return {"step": self.step}

    def load_state_dict(self, state):
        self.step = state["step"]

    def skip(self, tokens):
        self.step = tokens // (ROWS * LENGTH)

    documents_seen = 0
    epoch = 0.0

    def describe(self):
        return {}


class Probe(Callback):
    name = "probe"

    def __init__(self, at=(), score=lambda step: 1.0):
        self.at, self.score, self.seen = at, score, []

    def due(self, step, max_steps):
        return step in self.at

    def measure(self, policy, step, max_steps, check):
        check()
        torch.rand(7)           # whatever it draws, training goes on as if it had not
        self.seen.append(step)
        return Measurement({"probe/score": self.score(step)}, best=self.score(step))


@pytest.fixture
def make(tmp_path, tiny_llama):
    def build(folder="run", objective="mle", max_steps=6, callbacks=(), dropout=0.0, **training):
        run = RunDirectory(tmp_path / folder)
        run.path.mkdir(exist_ok=True)
        objective = objectives.get(objective)() if isinstance(objective, str) else objective
        policy = Policy(tiny_llama(attention_dropout=dropout), objective.needs.value_head)
        config = TrainingConfig(**{"effective_batch_size": ROWS, "per_device_train_batch_size": 4, "logging_steps": 2,
                                   "save_steps": 2, "precision": "fp32", "learning_rate": 1e-2, **training})
        return ScoredTextTrainer(policy, objective, Rows(), config, run=run, seed=1, max_steps=max_steps,
                                 tokens_per_step=ROWS * LENGTH, callbacks=list(callbacks))
    return build


def weights(trainer):
    return {name: p.detach().clone() for name, p in trainer.policy.named_parameters()}


def metrics(trainer):
    return [json.loads(line) for line in trainer.run.metrics_file.read_text().splitlines()]


def gradients_of_one_step(trainer):
    trainer.create_optimizer()
    trainer.model.train()
    trainer.training_step(trainer.model, next(iter(trainer.loader)))
    return {name: p.grad.clone() for name, p in trainer.policy.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("objective", ["mle", "unlikelihood", "awr"])
def test_factoring_changes_neither_loss_nor_gradient(make, objective):
    """1 x 8, 2 x 4 and 8 x 1 through the Trainer, rows with different numbers of scored tokens, fp32."""
    found = {}
    for micro in (1, 2, 8):
        trainer = make(f"run{micro}", objective, per_device_train_batch_size=micro, max_steps=3, logging_steps=1)
        gradients = gradients_of_one_step(make(f"gradient{micro}", objective, per_device_train_batch_size=micro))
        trainer.fit()
        found[micro] = [row["loss"] for row in metrics(trainer)], gradients
    for micro in (1, 2):
        assert found[micro][0] == pytest.approx(found[8][0], rel=1e-5)
        for name, gradient in found[8][1].items():
            torch.testing.assert_close(found[micro][1][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_dropout_acts_in_a_model_that_was_loaded(make):
    """transformers gives loaded models back in eval mode; a wrapper around one says that it is training."""
    losses = {}
    for loaded in (False, True):
        trainer = make(f"loaded-{loaded}", dropout=0.5, max_steps=2, logging_steps=1)
        trainer.policy.model.train(not loaded)
        trainer.fit()
        losses[loaded] = [row["loss"] for row in metrics(trainer)]
    plain = make("plain", max_steps=2, logging_steps=1)
    plain.fit()
    assert losses[True] == losses[False] != [row["loss"] for row in metrics(plain)]


class Labels(Rows):
    """Rows of a prompt, a completion with its label, and one of another prompt, with log-ratios far from 0."""

    def next(self):
        generator = torch.Generator().manual_seed(self.step)
        self.step += 1
        rows = [([1, 2, 3], [[4, 5 + row], [6 + row, 7, 8][:1 + row % 3]]) for row in range(ROWS)]
        labels = torch.tensor([[row % 2, 0.0] for row in range(ROWS)])
        ref_logps = -30 * torch.rand(ROWS, 2, generator=generator)
        return laid_out(rows, labels, ref_logps, torch.ones(ROWS, 2).bool())


def test_what_is_over_the_step_is_so_however_it_is_cut(make):
    """KTO's baseline through the Trainer; by itself each micro-batch would have another."""
    found, baselines = {}, {}
    for micro in (1, 2, 8):
        trainer = make(f"run{micro}", "kto", per_device_train_batch_size=micro, max_steps=3, logging_steps=1)
        trainer.source = trainer.loader.source = Labels()
        trainer.fit()
        found[micro] = weights(trainer)
        baselines[micro] = [(row["loss"], row["kl"]) for row in metrics(trainer)]
    assert all(kl > 0.1 for _, kl in baselines[8])
    for micro in (1, 2):
        for one, other in zip(baselines[micro], baselines[8]):
            assert one == pytest.approx(other, rel=1e-4)
        for name, weight in found[8].items():
            torch.testing.assert_close(found[micro][name], weight, rtol=1e-3, atol=1e-5, msg=name)


def test_the_loss_is_the_mean_over_the_scored_tokens(make):
    trainer = make(max_steps=1)
    batch = Rows().next()
    logps = trainer.policy.model(input_ids=batch.input_ids_BT).logits[:, :-1].log_softmax(-1)
    nll = -logps.gather(-1, batch.input_ids_BT[:, 1:, None]).squeeze(-1)
    trainer.fit()
    assert metrics(trainer)[0]["loss"] == pytest.approx(nll[batch.loss_mask_BT[:, 1:]].mean().item(), rel=1e-5)


def test_out_of_memory_halves_the_micro_batch_and_changes_nothing_else(make, monkeypatch, capsys):
    plain = make("plain", per_device_train_batch_size=1)
    plain.fit()
    trainer = make("oom", per_device_train_batch_size=8)
    compute, failed = trainer.model.objective.compute_loss, []

    def limited(policy, batch):
        if len(batch) > 1:
            failed.append(len(batch))
            result = compute(policy, batch)
            result.total.backward()     # gradients of the failed attempt must not survive
            raise torch.OutOfMemoryError("out of memory")
        return compute(policy, batch)
    monkeypatch.setattr(trainer.model.objective, "compute_loss", limited)
    trainer.fit()
    assert failed == [8, 4, 2] and trainer.progressed.micro_batch_size == 1
    assert "going on with 4" in capsys.readouterr().err
    assert all(torch.equal(a, b) for a, b in zip(weights(trainer).values(), weights(plain).values()))


def test_out_of_memory_with_one_row_says_what_to_lower(make, monkeypatch):
    trainer = make(per_device_train_batch_size=1)

    def never(policy, batch):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
    monkeypatch.setattr(trainer.model.objective, "compute_loss", never)
    with pytest.raises(OutOfMemory, match="data.block_size"):
        trainer.fit()


def test_out_of_memory_in_a_measurement_is_a_sentence(make):
    probe = Probe((2,))

    def hungry(policy, step, max_steps, check):
        raise torch.OutOfMemoryError("out of memory")
    probe.measure = hungry
    with pytest.raises(OutOfMemory, match="evaluation.batch_size"):
        make(callbacks=[probe]).fit()


def test_a_nan_stops_before_the_optimiser_steps(make, monkeypatch):
    trainer = make(max_steps=4)
    compute = trainer.model.objective.compute_loss

    def poisoned(policy, batch):
        loss = compute(policy, batch)
        if trainer.step == 2:
            loss.total = loss.total * float("nan")
        return loss
    monkeypatch.setattr(trainer.model.objective, "compute_loss", poisoned)
    with pytest.raises(NonFiniteLoss, match="step 3"):
        trainer.fit()
    saved = load_file(trainer.run.path / "crash" / "batch-2.safetensors")
    reference = Rows()
    reference.step = 2
    assert torch.equal(saved["input_ids"], reference.next().input_ids_BT)
    assert checkpoints.latest(trainer.run.checkpoints).name == "checkpoint-2"
    kept = load_file(trainer.run.checkpoints / "checkpoint-2" / "model.safetensors")
    assert torch.equal(kept["model.norm.weight"], trainer.policy.model.model.norm.weight)


class TestSignals:
    @pytest.mark.parametrize("where", ["between micro-batches", "in a measurement"])
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
    def test_stops_saves_and_goes_on_to_the_same_bits(self, make, monkeypatch, number, where):
        at, before = (0, 3, 6), signal.getsignal(number)
        whole = make("whole", "awr", dropout=0.1, callbacks=[Probe(at)])
        whole.fit()
        trainer = make("stopped", "awr", dropout=0.1, callbacks=[Probe(at)], save_steps=100)
        if where == "in a measurement":
            probe = trainer.periodic[0]
            monkeypatch.setattr(probe, "measure", _signalled(probe.measure, number, 3))
        else:
            compute = trainer.model.objective.compute_loss

            def signalled(policy, batch):
                if trainer.step == 3:
                    os.kill(os.getpid(), number)
                return compute(policy, batch)
            monkeypatch.setattr(trainer.model.objective, "compute_loss", signalled)
        with pytest.raises(Interrupted) as stop:
            trainer.fit()
        assert stop.value.exit_code == 128 + number
        assert trainer.run.status()["state"] == "preempted" and trainer.run.status()["step"] == 3
        resumed = make("stopped", "awr", dropout=0.1, callbacks=[Probe(at)])
        resumed.fit()
        assert all(torch.equal(a, b) for a, b in zip(weights(resumed).values(), weights(whole).values()))
        assert resumed.run.metrics_file.read_text() == whole.run.metrics_file.read_text()
        assert signal.getsignal(number) is before


def _signalled(measure, number, at):
    def wrapped(policy, step, max_steps, check):
        if step == at:
            os.kill(os.getpid(), number)
        return measure(policy, step, max_steps, check)
    return wrapped


class TestCheckpoints:
    def test_the_last_two_and_the_best_are_kept(self, make):
        scores = {2: 0.5, 4: 0.1, 6: 0.3, 8: 0.4, 10: 0.2}
        trainer = make(max_steps=10, callbacks=[Probe(tuple(scores), scores.get)])
        trainer.fit()
        assert [checkpoints.step_of(path) for path in checkpoints.listed(trainer.run.checkpoints)] == [4, 8, 10]

    def test_the_untrained_model_is_never_the_best(self, make):
        trainer = make(max_steps=4, callbacks=[Probe((0, 1, 4), {0: 0.0, 1: 0.5, 4: 0.7}.get)], save_steps=100)
        trainer.fit()
        assert trainer.progressed.best_step == 1
        assert [checkpoints.step_of(path) for path in checkpoints.listed(trainer.run.checkpoints)] == [1, 4]

    def test_killed_while_a_checkpoint_is_replaced(self, make):
        """Between the two renames the old one stands under another name: it is taken back."""
        trainer = make(max_steps=2)
        trainer.fit()
        folder = trainer.run.checkpoints
        (folder / "checkpoint-2").rename(folder / ".replaced-checkpoint-2")
        assert checkpoints.latest(folder).name == "checkpoint-2"

    def test_a_new_best_is_saved_whenever_it_is_measured(self, make):
        trainer = make(max_steps=6, callbacks=[Probe((3,))], save_steps=100)
        trainer.fit()
        assert [checkpoints.step_of(path) for path in checkpoints.listed(trainer.run.checkpoints)] == [3, 6]

    def test_resume_of_a_complete_training_does_no_step(self, make):
        trainer = make(callbacks=[Probe((6,))])
        trainer.fit()
        before = weights(trainer)
        again = make(callbacks=[Probe((6,))])
        again.fit()
        assert again.periodic[0].seen == [] and again.source.step == 6
        assert all(torch.equal(a, b) for a, b in zip(weights(again).values(), before.values()))

    @pytest.mark.parametrize("harm", ["truncated", "changed", "missing", "unsealed"])
    def test_a_damaged_checkpoint_is_set_aside(self, make, harm, capsys):
        whole = make("whole")
        whole.fit()
        trainer = make("harmed", max_steps=6)
        trainer.fit()
        newest = trainer.run.checkpoints / "checkpoint-6"
        file = newest / ("checkpoint.json" if harm == "unsealed" else "optimizer.pt")
        content = file.read_bytes()
        if harm == "truncated":
            file.write_bytes(content[:100])
        elif harm == "changed":
            file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        else:
            file.unlink()
        resumed = make("harmed", max_steps=6)
        resumed.fit()
        assert "set aside" in capsys.readouterr().err and (trainer.run.checkpoints / "checkpoint-6.broken").is_dir()
        assert all(torch.equal(a, b) for a, b in zip(weights(resumed).values(), weights(whole).values()))
        assert resumed.run.metrics_file.read_text() == whole.run.metrics_file.read_text()

    def test_an_incomplete_save_is_ignored_and_cleared(self, make):
        trainer = make(max_steps=2)
        trainer.fit()
        leftover = trainer.run.checkpoints / ".incomplete-checkpoint-9"
        leftover.mkdir()
        (leftover / "model.safetensors").write_bytes(b"half")
        assert checkpoints.latest(trainer.run.checkpoints).name == "checkpoint-2"
        assert not leftover.exists()

    def test_measuring_does_not_change_training(self, make):
        plain, probed = make("plain", dropout=0.1), make("probed", dropout=0.1, callbacks=[Probe((0, 1, 3, 5))])
        plain.fit(), probed.fit()
        assert all(torch.equal(a, b) for a, b in zip(weights(plain).values(), weights(probed).values()))


def test_nothing_but_numbers_in_the_log(make):
    trainer = make(objective="awr", max_steps=2, logging_steps=1)
    trainer.fit()
    rows = metrics(trainer)
    assert rows[0]["value_reward_corr"] is None         # the head is zero: its value is constant
    assert rows[1]["learning_rate"] > 0 and rows[1]["num_tokens"] == 2 * ROWS * LENGTH
    assert not {"seconds", "runtime", "tokens_per_second"} & set().union(*rows)
    assert finite(float("inf")) is None and finite(1.5) == 1.5


def test_precision_by_name():
    assert resolve_precision("fp32") == "fp32" and resolve_precision("auto") in ("bf16", "fp32")


def test_activation_checkpointing_changes_memory_not_numbers(make):
    plain, saving = make("plain", max_steps=2), make("saving", max_steps=2, activation_checkpointing=True)
    assert saving.policy.model.is_activation_checkpointing and not plain.policy.model.is_activation_checkpointing
    plain.fit(), saving.fit()
    for (name, a), b in zip(weights(plain).items(), weights(saving).values()):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.slow
def test_compiled_training_gives_the_same_losses(make):
    plain, compiled = make("plain", max_steps=2, logging_steps=1), make("compiled", max_steps=2, logging_steps=1,
                                                                        torch_compile=True)
    plain.fit(), compiled.fit()
    losses = [[row["loss"] for row in metrics(trainer)] for trainer in (plain, compiled)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert set(load_file(compiled.run.checkpoints / "checkpoint-2" / "model.safetensors")) == set(
        load_file(plain.run.checkpoints / "checkpoint-2" / "model.safetensors"))
