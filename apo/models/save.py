"""A policy on disk: a model directory that AutoModelForCausalLM loads, or an adapter's that PEFT loads on its base; its
value head in a file beside it."""

from pathlib import Path

from safetensors.torch import load_file, save_file

from apo.models.adapters import is_adapted, restore_adapter, save_adapter
from apo.models.policy import Policy

VALUE_HEAD = "value_head.safetensors"


def save_policy(policy: Policy, folder: Path) -> None:
    if is_adapted(policy.model):
        save_adapter(policy.model, folder)
    else:
        policy.model.save_pretrained(folder)
    if policy.value_head is not None:
        save_file(policy.value_head.state_dict(), folder / VALUE_HEAD)


def save_reward_model(policy: Policy, folder: Path) -> None:
    """What the value head says at the end of a text, as a model that `AutoModelForSequenceClassification` loads.  An
    adapter is merged into it: its readers look for one model."""
    from apo.models.load import merged
    from apo.models.reward_model import RewardModel
    model = merged(policy.model) if is_adapted(policy.model) else policy.model
    model.config.closed_texts = True    # as apo.scorers.reward_model reads it
    made = RewardModel.from_causal(model, seed=0)
    made.score.load_state_dict(policy.value_head.linear.state_dict())
    made.save(folder)


def load_reward_policy(folder: str | Path) -> Policy:
    """What `save_reward_model` left, as the policy whose value head it was.  It has no language-model head."""
    from apo.models.reward_model import load_reward_model
    loaded = load_reward_model(folder)
    policy = Policy(loaded.body, value_head=True)
    policy.value_head.linear.load_state_dict(loaded.score.state_dict())
    return policy.eval()


def restore_policy(policy: Policy, folder: Path) -> None:
    """Weights into the policy that stands, through transformers' own reader (tied weights, shards, renamed keys)."""
    if is_adapted(policy.model):
        restore_adapter(policy.model, folder)
    else:
        loaded = type(policy.model).from_pretrained(folder, dtype=policy.model.dtype, config=policy.model.config)
        policy.model.load_state_dict(loaded.state_dict())
    if policy.value_head is not None:
        policy.value_head.load_state_dict(load_file(folder / VALUE_HEAD))
