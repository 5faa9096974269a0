"""Where metrics go beside metrics.jsonl: TensorBoard and Weights & Biases, each a switch.

Nothing leaves the machine unasked: W&B is offline without a key, with `offline=true`, or where its server does not
answer within a few seconds (`wandb.init` itself would block for a minute and a half).  A resumed run continues the
same W&B run.  Names are those of PHF and the Trainer: `train/loss`, `generation/<scenario>/score`, and a table
`generation/<scenario>/current_samples`.
"""

import os
import secrets
import socket
from pathlib import Path
from urllib.parse import urlparse

from apo.console import say
from apo.disk import write_atomic
from apo.errors import ConfigError
from apo.rundir import RunDirectory

CONNECT_TIMEOUT_S = 3.0
TABLE_ROWS = 100


def make_loggers(config, run: RunDirectory) -> list:
    loggers = []
    if config.logger.tensorboard:
        loggers.append(TensorBoard(run))
    if config.logger.wandb:
        loggers.append(WeightsAndBiases(config, run))
    return loggers


def named(row: dict) -> dict:
    """Training metrics get the Trainer's `train/` prefix, evaluation metrics have theirs."""
    return {key if "/" in key else f"train/{key}": value for key, value in row.items() if key != "step"}


class TensorBoard:
    def __init__(self, run: RunDirectory):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError("logger.tensorboard=true needs a package: pip install tensorboard") from error
        self.writer_class, self.folder, self.writer = SummaryWriter, str(run.path / "tensorboard"), None
        self.begin(0)

    def begin(self, step: int) -> None:
        """Nothing after `step` has happened: what a killed run had logged beyond its checkpoint is not shown."""
        if self.writer is not None:
            self.writer.close()
        self.writer = self.writer_class(self.folder, purge_step=step + 1 if step else None)

    def log(self, step: int, row: dict) -> None:
        for key, value in named(row).items():
            if isinstance(value, dict):
                self._histogram(key, value, step)
            elif value is not None:
                self.writer.add_scalar(key, value, step)
        self.writer.flush()

    def _histogram(self, key: str, value: dict, step: int) -> None:
        edges, counts = value["edges"], value["counts"]
        middles = [(a + b) / 2 for a, b in zip(edges, edges[1:])]
        total = sum(counts)
        mean = sum(m * c for m, c in zip(middles, counts))
        self.writer.add_histogram_raw(key, min=edges[0], max=edges[-1], num=total, sum=mean,
                                      sum_squares=sum(m * m * c for m, c in zip(middles, counts)),
                                      bucket_limits=edges[1:], bucket_counts=counts, global_step=step)

    def samples(self, step: int, name: str, rows: list[dict]) -> None:
        shown = "\n\n---\n\n".join(f"    {row['prompt']}{row['text']}".replace("\n", "\n    ") for row in rows[:8])
        self.writer.add_text(f"generation/{name}/samples", shown, step)

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    def __init__(self, config, run: RunDirectory):
        try:
            import wandb
        except ImportError as error:
            raise ConfigError("logger.wandb=true needs the package wandb: pip install wandb") from error
        from apo.identity import to_dict
        self.wandb = wandb
        mode = wandb_mode(config.offline)
        id_file = run.path / "wandb_id"
        run_id = id_file.read_text().strip() if id_file.exists() else secrets.token_hex(4)
        write_atomic(id_file, run_id + "\n")
        self.run = wandb.init(
            mode=mode, id=run_id, resume="allow", dir=str(run.path), config=to_dict(config),
            project=os.environ.get("WANDB_PROJECT", "apo"), entity=os.environ.get("WANDB_ENTITY"),
            name=config.name or f"{config.task}-{config.method}-s{config.seed}", group=config.group,
            tags=config.tags or None, settings=wandb.Settings(console="off", x_disable_stats=True))

    def begin(self, step: int) -> None:
        """Its server takes no step twice."""

    def log(self, step: int, row: dict) -> None:
        values = {key: self._value(value) for key, value in named(row).items()}
        self.run.log(values, step=step)

    def _value(self, value):
        if not isinstance(value, dict):
            return value
        return self.wandb.Histogram(np_histogram=(value["counts"], value["edges"]))

    def samples(self, step: int, name: str, rows: list[dict]) -> None:
        columns = ["step", "prompt", "text", "score"]
        data = [[row[column] for column in columns] for row in rows[:TABLE_ROWS]]
        self.run.log({f"generation/{name}/current_samples": self.wandb.Table(columns=columns, data=data)}, step=step)

    def close(self) -> None:
        self.run.finish()


def wandb_mode(offline: bool) -> str:
    """`online` only where a key is set and the server answers."""
    asked = os.environ.get("WANDB_MODE")
    if asked == "disabled":
        return asked
    if offline or asked == "offline":
        return "offline"
    if not _wandb_key():
        say("wandb: no API key (WANDB_API_KEY or `wandb login`): logging offline; `wandb sync` uploads later")
        return "offline"
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"))
    try:
        socket.create_connection((host.hostname, host.port or 443), timeout=CONNECT_TIMEOUT_S).close()
    except OSError:
        say(f"wandb: {host.hostname} does not answer: logging offline; `wandb sync` uploads later")
        return "offline"
    return "online"


def _wandb_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    import netrc
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return netrc.netrc(os.environ.get("NETRC", Path.home() / ".netrc")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
