"""The trainer with adapters: resumed to the bit, every optimiser of bitsandbytes, activations made anew."""

import json
import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from apo.errors import Interrupted
from apo.models.load import load_policy
from apo.objectives.base import objectives
from apo.rundir import RunDirectory
from apo.schema import LoraConfig, ModelConfig, TrainingConfig
from apo.trainer import ScoredTextTrainer
from tests.models.adapting import train
from tests.test_trainer import LENGTH, ROWS, Rows, weights

OPTIMISERS = ("adamw_bnb_8bit", "paged_adamw_8bit", "paged_adamw_32bit")


class WithNewTokens(Rows):
    """Rows that begin with a token the base does not know."""

    def next(self):
        batch = super().next()
        batch.input_ids_BT[:, 0] = 260 + self.step % 2
        return batch


@pytest.fixture(scope="module")
def base(tmp_path_factory, tiny_llama):
    from apo.models.policy import Policy
    folder = tmp_path_factory.mktemp("base")
    train(Policy(tiny_llama(hidden_size=64, intermediate_size=128)), 5, 1e-2).model.save_pretrained(folder)
    return folder


@pytest.fixture
def make(tmp_path, base, byte_tokenizer):
    def build(folder="run", objective="mle", max_steps=6, quantization="none", name=base, new_ids=(), dropout=0.1,
              **training):
        run = RunDirectory(tmp_path / folder)
        run.path.mkdir(exist_ok=True)
        objective = objectives.get(objective)()
        model = ModelConfig(name=str(name), lora=LoraConfig(r=4, dropout=dropout), quantization=quantization)
        policy = load_policy(model, byte_tokenizer, 257, seed=1, new_ids=list(new_ids),
                             value_head=objective.needs.value_head)
        config = TrainingConfig(**{"effective_batch_size": ROWS, "per_device_train_batch_size": 4, "logging_steps": 2,
                                   "save_steps": 100, "precision": "fp32", "learning_rate": 1e-2, **training})
        return ScoredTextTrainer(policy, objective, WithNewTokens() if new_ids else Rows(), config, run=run, seed=1,
                                 max_steps=max_steps, tokens_per_step=ROWS * LENGTH)
    return build


def stop_at(trainer, step, monkeypatch):
    compute = trainer.model.objective.compute_loss

    def signalled(policy, batch):
        if trainer.step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return compute(policy, batch)
    monkeypatch.setattr(trainer.model.objective, "compute_loss", signalled)
    with pytest.raises(Interrupted):
        trainer.fit()


CASES = {
    "lora": {},
    "values and new tokens": {"objective": "awr", "new_ids": (260, 261)},
    "nf4": {"quantization": "nf4"},
    "8bit and its optimiser": {"quantization": "8bit", "optim": "paged_adamw_8bit"},
}


@pytest.mark.parametrize("case", CASES)
def test_interrupted_it_ends_with_the_same_bits(make, monkeypatch, case):
    whole = make("whole", **CASES[case])
    before = weights(whole)
    whole.fit()
    stop_at(make("stopped", **CASES[case]), 3, monkeypatch)
    resumed = make("stopped", **CASES[case])
    resumed.fit()
    after = weights(whole)
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed == {name for name, p in whole.policy.named_parameters() if p.requires_grad}
    assert all(torch.equal(a, b) for a, b in zip(weights(resumed).values(), after.values()))
    assert resumed.run.metrics_file.read_text() == whole.run.metrics_file.read_text()
    files = [load_file(trainer.run.checkpoints / "checkpoint-6" / "adapter_model.safetensors")
             for trainer in (whole, resumed)]
    assert all(torch.equal(a, b) for a, b in zip(files[0].values(), files[1].values()))
    again = make("stopped", **CASES[case])          # complete: restored, and no step
    again.fit()
    assert all(torch.equal(a, b) for a, b in zip(weights(again).values(), after.values()))


def test_a_continued_adapter_is_resumed_from_its_own_checkpoint(make, monkeypatch):
    first = make("first")
    first.fit()
    start = first.run.checkpoints / "checkpoint-6"
    whole = make("whole", name=start)
    whole.fit()
    stop_at(make("stopped", name=start), 3, monkeypatch)
    resumed = make("stopped", name=start)
    resumed.fit()
    assert all(torch.equal(a, b) for a, b in zip(weights(resumed).values(), weights(whole).values()))
    names = [name for name in weights(first) if "lora_B" in name]
    assert not any(torch.equal(weights(first)[name], weights(whole)[name]) for name in names)


def test_a_checkpoint_holds_the_adapter_alone(make):
    trainer = make(max_steps=2)
    trainer.fit()
    files = {file.name for file in (trainer.run.checkpoints / "checkpoint-2").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "adapter_base.json"} <= files
    assert not {"model.safetensors", "config.json"} & files
    moments = torch.load(trainer.run.checkpoints / "checkpoint-2" / "optimizer.pt", weights_only=True)["state"]
    assert len(moments) == sum(p.requires_grad for p in trainer.policy.parameters())


@pytest.mark.parametrize("optim", OPTIMISERS)
def test_optimisers_of_bitsandbytes_step(make, optim):
    trainer = make(max_steps=2, optim=optim, logging_steps=1)
    before = weights(trainer)
    trainer.fit()
    kind = type(getattr(trainer.optimizer, "optimizer", trainer.optimizer))
    assert "bitsandbytes" in kind.__module__
    after = weights(trainer)
    assert all(torch.equal(before[name], after[name]) != p.requires_grad for name, p in
               trainer.policy.named_parameters())
    losses = [json.loads(line)["loss"] for line in trainer.run.metrics_file.read_text().splitlines()]
    assert all(isinstance(loss, float) for loss in losses)


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_activation_checkpointing_changes_memory_not_numbers(make, quantization):
    options = {"max_steps": 2, "quantization": quantization, "dropout": 0.0, "optim": "sgd"}
    plain, saving = make("plain", **options), make("saving", activation_checkpointing=True, **options)
    before = weights(plain)
    assert saving.policy.language_model.is_activation_checkpointing
    plain.fit(), saving.fit()
    names = [name for name, p in plain.policy.named_parameters() if "lora_B" in name]
    assert names and not any(torch.equal(before[name], weights(plain)[name]) for name in names)
    for name in names:
        torch.testing.assert_close(weights(plain)[name], weights(saving)[name], rtol=1e-4, atol=1e-6, msg=name)
