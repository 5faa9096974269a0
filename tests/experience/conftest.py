"""Rounds of scripted samples by a tiny model."""

import pytest
from scripted import TEXTS, Plain, Scripted, judge

from apo.experience.prompts import Prompt, Prompts
from apo.experience.rounds import Rounds
from apo.models.policy import Policy
from apo.schema import RolloutConfig


@pytest.fixture
def make(tmp_path, byte_tokenizer, tiny_llama):
    """`make(objective, policy=..., **rollout options)`."""
    from apo.evaluation import Template
    from apo.schema import EvaluationConfig, ScenarioConfig
    ids = {text: byte_tokenizer(text)["input_ids"] for each in TEXTS for text in (each, each[::-1])}
    prompts = Prompts([Prompt([256, *ids[text]], text, [*ids[text[::-1]], 256]) for text in TEXTS], 0)
    template = Template.of(ScenarioConfig(), EvaluationConfig(), byte_tokenizer)

    def build(objective=None, policy=None, folder=None, minibatch=4, micro_batch=2, **options):
        options = RolloutConfig(**{"prompts": 4, "generations": 2, "max_new_tokens": 8, **options})
        writer = Scripted(options, byte_tokenizer, template, [], [], 8, 3)
        policy = policy or Policy(tiny_llama(initializer_range=0.3))
        return Rounds(options, objective or Plain(), prompts, policy, writer, judge, 3, minibatch, micro_batch, "fp32",
                      folder or tmp_path / "run" / "rounds")
    return build
