"""A policy on disk: a model directory that AutoModelForCausalLM loads, and its value head in a file beside it."""

from pathlib import Path

from safetensors.torch import load_file, save_file

from apo.models.policy import Policy

VALUE_HEAD = "value_head.safetensors"


def save_policy(policy: Policy, folder: Path) -> None:
    policy.model.save_pretrained(folder)
    if policy.value_head is not None:
        save_file(policy.value_head.state_dict(), folder / VALUE_HEAD)


def save_reward_model(policy: Policy, folder: Path) -> None:
    """What the value head says at the end of a text, as a model that `AutoModelForSequenceClassification` loads."""
    from apo.models.reward_model import RewardModel
    policy.model.config.closed_texts = True     # as apo.scorers.reward_model reads it
    made = RewardModel.from_causal(policy.model, seed=0)
    made.score.load_state_dict(policy.value_head.linear.state_dict())
    made.save(folder)


def restore_policy(policy: Policy, folder: Path) -> None:
    """Weights into the policy that stands, through transformers' own reader (tied weights, shards, renamed keys)."""
    loaded = type(policy.model).from_pretrained(folder, dtype=policy.model.dtype, config=policy.model.config)
    policy.model.load_state_dict(loaded.state_dict())
    if policy.value_head is not None:
        policy.value_head.load_state_dict(load_file(folder / VALUE_HEAD))
