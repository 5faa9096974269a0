"""Heads that say what reward is expected behind a prompt."""

import pytest
import torch

from apo.models.prompt_value import PromptValueHead

KINDS = ["attention", "mean_pool", "mean_pool_mlp"]


def head_of(kind, **options):
    torch.manual_seed(0)
    head = PromptValueHead(kind, 24, **{"low": -1.0, "high": 3.0, "constant": 0.5, "dropout": 0.1, **options}).eval()
    return head


def trained(head):
    """Away from the constant that it begins as."""
    torch.nn.init.normal_(head.output.weight)
    return head


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_what_a_prompt_is_batched_with_does_not_matter(kind, side):
    """Padding on either side, prompts of unlike lengths: V is what it is of each prompt alone."""
    head = trained(head_of(kind))
    prompts = [torch.randn(length, 24) for length in (2, 7, 4)]
    alone = torch.stack([head(prompt[None], torch.ones(1, len(prompt)).bool())[0] for prompt in prompts])
    hidden_BTD, mask_BT = torch.full((3, 7, 24), 1e4), torch.zeros(3, 7).bool()
    for row, prompt in enumerate(prompts):
        place = slice(7 - len(prompt), 7) if side == "left" else slice(0, len(prompt))
        hidden_BTD[row, place], mask_BT[row, place] = prompt, True
    torch.testing.assert_close(head(hidden_BTD, mask_BT), alone, atol=1e-5, rtol=1e-5)
    assert alone.std() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_it_begins_as_the_constant_and_stays_in_its_range(kind):
    hidden_BTD, mask_BT = torch.randn(5, 3, 24), torch.ones(5, 3).bool()
    torch.testing.assert_close(head_of(kind)(hidden_BTD, mask_BT), torch.full((5,), 0.5))
    head = head_of(kind)
    torch.nn.init.constant_(head.output.weight, 1e3)
    values_B = head(hidden_BTD, mask_BT)
    assert values_B.min() >= -1 and values_B.max() <= 3


def test_any_width_has_a_number_of_heads():
    head = PromptValueHead("attention", 30, low=0, high=1, constant=0.5, dropout=0.0)
    assert 30 % head.attention.num_heads == 0
    with pytest.raises(ValueError, match='no head "mean"'):
        PromptValueHead("mean", 30, low=0, high=1, constant=0.5, dropout=0.0)
