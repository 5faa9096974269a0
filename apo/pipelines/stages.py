"""What a pipeline is once it is composed: stages, each with its config and the earlier ones that it needs."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from apo.config import run_directory
from apo.identity import HASH_LENGTH, RUN_NAME
from apo.schema import Config

RECORDS = "pipelines"
"""Folder of what is known of pipelines, beside those of tasks."""


@dataclass
class Stage:
    name: str
    config: Config
    start: str | None
    """The stage whose policy it starts from; null for what its method starts from by itself."""
    uses: dict[str, str] = field(default_factory=dict)
    """Option -> the stage whose run directory it holds."""
    own_seed: bool = False

    @property
    def directory(self) -> Path:
        return run_directory(self.config)

    @property
    def needs(self) -> dict[str, str]:
        """What for -> stage."""
        return ({} if self.start is None else {"weights": self.start}) | self.uses


@dataclass
class Pipeline:
    name: str
    stages: list[Stage]
    notes: list[str] = field(default_factory=list)

    @property
    def seed(self) -> int:
        """Of the stages that have none of their own."""
        return next((stage for stage in self.stages if not stage.own_seed), self.stages[-1]).config.seed

    @property
    def record(self) -> Path:
        """`outputs/pipelines/<name>-<8 hex>-s<seed>.json`."""
        said = [[stage.name, RUN_NAME.fullmatch(str(stage.directory))[1]] for stage in self.stages]
        digest = hashlib.sha256(json.dumps(said).encode()).hexdigest()[:HASH_LENGTH]
        return Path(self.stages[0].config.output_dir, RECORDS, f"{self.name[:100]}-{digest}-s{self.seed}.json")
