"""V of the reference: fitted once, found again by whom it is the same for, fitted anew where anything that decides it
is another; and what a run on advantages does with it."""

import json

import numpy as np
import pytest
import torch

from apo import experiment, reference_value
from apo.compared import writing
from apo.config import load_config
from apo.errors import DataError
from apo.objectives.base import PromptValue
from apo.reference_value import Examples, Fit

FAMILY = ["nll", "wbc", "r_gold", "r_lol", "a_lol", "a_lol_seq", "a_lol_ref_free", "a_lol_kl", "reward_threshold"]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Options of runs on a file of prompts with rewarded completions, whose start run and caches are shared."""
    folder = tmp_path_factory.mktemp("advantages")
    rows = [{"prompt": f"Question: what is {i} plus {i % 7}?\n\nAnswer:", "completion": text, "reward": reward}
            for i in range(60)
            for text, reward in ((f" The sum is {i + i % 7}.", 1.0 - i / 200), (" No idea.", i / 200))]
    (folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["task=custom", "scale=smoke", "data.source=completions", f"data.path={folder / 'mine.jsonl'}",
            "scorer=lexicon", "scorer.words=[idea]", f"output_dir={folder / 'outputs'}",
            f"cache_dir={folder / 'cache'}",
            "training.precision=fp32", "evaluation.num_bootstrap=10"]


def trained(places, method, *options):
    return experiment.train(load_config([*places, f"method={method}", *options]))


def rows_of(outcome):
    return [json.loads(line) for line in (outcome.path / "metrics.jsonl").read_text().splitlines()]


def advantages(outcome):
    return json.loads((outcome.path / "advantages.json").read_text())


@pytest.fixture
def fits(monkeypatch):
    """How often V was fitted."""
    build, counted = reference_value._build, []
    monkeypatch.setattr(reference_value, "_build", lambda *args: (counted.append(1), build(*args)))
    return counted


@pytest.mark.parametrize("method", FAMILY)
def test_all_of_them_train(places, method):
    outcome = trained(places, method)
    rows = rows_of(outcome)
    assert outcome.state == "done" and np.isfinite(rows[-1]["eval/loss"])
    assert (outcome.path / "advantages.json").exists() == ("a_lol" in method or method == "reward_threshold")


def test_at_its_first_step_every_ratio_is_1(places):
    for method in ("a_lol", "a_lol_seq", "r_lol"):
        first = next(row for row in rows_of(trained(places, method, "model.dropout=0.1")) if "ratio_avg" in row)
        assert first["step"] == 1
        assert [first[f"ratio_{name}"] for name in ("avg", "min", "max")] == pytest.approx([1, 1, 1], abs=1e-3)
    noisy = next(row for row in rows_of(trained(places, "a_lol", "model.dropout=0.1", "objective.ratio=train"))
                 if "ratio_avg" in row)
    assert noisy["ratio_avg"] != pytest.approx(1, abs=1e-3)


def test_what_the_reference_said_of_clean_data_is_not_taken_for_noisy_ones(places):
    """Noise puts completions into another order, and what is kept of them goes by their place."""
    for option in ("data.reward_noise=0", "data.reward_noise=0.5", "data.reward_noise=0.3"):
        first = next(row for row in rows_of(trained(places, "dpo", option)) if "rewards/margins" in row)
        assert first["step"] == 1 and first["rewards/margins"] == pytest.approx(0, abs=1e-4), option


def test_a_second_algorithm_finds_it_and_what_changes_it_does_not(places, fits):
    trained(places, "a_lol", "objective.value_prompts=40")
    assert len(fits) == 1
    trained(places, "a_lol_seq", "objective.value_prompts=40", "objective.sampling=none")
    trained(places, "a_lol", "objective.value_prompts=40", "objective.clip=0.2")
    assert len(fits) == 1
    for option in ("objective.rewards_as=sigmoid", "objective.value_head=mean_pool", "scorer.words=[sum]",
                   "init_from.overrides=['training.max_steps=5']", "data.reward_noise=0.5", "seed=2"):
        before = len(fits)
        trained(places, "a_lol", "objective.value_prompts=40", option)
        assert len(fits) == before + 1, option


def test_a_changed_adapter_is_another_reference(places, fits):
    base = trained(places, "mle").path / "final"
    adapted = [f"model.name={base}", "model.lora.r=2", "objective.value_prompts=30"]
    for steps, method, fitted in ((3, "a_lol", 1), (4, "a_lol", 2), (3, "a_lol_ref_free", 2)):
        trained(places, method, *adapted, f"init_from.overrides=['training.max_steps={steps}']")
        assert len(fits) == fitted


def test_what_is_told_of_it(places):
    outcome = trained(places, "a_lol")
    told = advantages(outcome)
    sizes = json.loads((outcome.path / "manifest.json").read_text())["sizes"]
    assert told["completions"] > told["good"] >= told["kept"] > 0 and told["dropped"] == sizes["dropped"]
    fit = told["fit"]
    assert len(fit["targets"]) == len(fit["predictions"]) == fit["prompts"] and fit["heldout_prompts"] > 0
    assert fit["error"] == min(fit["error_by_epoch"]) and fit["error"] <= fit["constant_error"]
    assert told["examples"]["top"][0]["A"] >= told["examples"]["top"][-1]["A"] > told["examples"]["bottom"][0]["A"]
    assert told["examples"]["top"][0]["completion"].startswith(" The sum")


def test_published_makes_fewer_steps(places):
    outcome = trained(places, "a_lol", "objective.preset=published", "objective.value_targets=data",
                      "objective.rewards_as=raw", "data.reward_noise=0.5")
    told = advantages(outcome)
    assert told["share_of_steps"] == told["kept"] / told["good"] < 1
    assert rows_of(outcome)[-1]["step"] == max(int(6 * told["share_of_steps"]), 1)


def test_without_a_scorer_it_is_fitted_on_the_data_or_refused(places):
    without = [place for place in places if not place.startswith("scorer")]
    with pytest.raises(DataError, match="no scorer judges that.*objective.value_targets=data"):
        trained(without, "a_lol")
    assert trained(without, "a_lol", "objective.value_targets=data").state == "done"


def test_equal_rewards_are_no_advantage(places, tmp_path):
    file = tmp_path / "equal.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"Q{i}?", "completion": f" A{i}.", "reward": 1.0}) + "\n"
                            for i in range(60)))
    with pytest.raises(DataError, match="all .* training completions have one reward"):
        trained([place for place in places if "data.path" not in place], "a_lol", f"data.path={file}")


def test_a_scorer_on_another_scale_than_the_data_is_told(places, capsys):
    trained(places, "a_lol", "objective.rewards_as=raw", "scorer.words=[sum]", "seed=3")
    assert "the scorer gives the data's own completions" in capsys.readouterr().err


def test_standardised_rewards_and_what_is_judged_anew_are_of_one_scale(places):
    plain = advantages(trained(places, "a_lol", "objective.value_targets=generations", "objective.rewards_as=raw"))
    scaled = advantages(trained(places, "a_lol", "objective.rewards_as=raw", "data.standardise_rewards=true"))
    sizes = json.loads(next(iter(trained(places, "a_lol", "objective.rewards_as=raw", "data.standardise_rewards=true")
                                 .path.glob("manifest.json"))).read_text())["sizes"]
    expected = (np.array(sorted(plain["fit"]["targets"])) - sizes["reward_mean"]) / sizes["reward_std"]
    assert sorted(scaled["fit"]["targets"]) == pytest.approx(
        expected.clip(scaled["fit"]["low"], scaled["fit"]["high"]).tolist(), abs=1e-5)


def test_answers_are_written_in_the_form_of_the_rows_that_they_answer(byte_tokenizer):
    """Whatever the scenario's: V is kept under the data's form alone."""
    words, form = ["task=hh", "method=a_lol", "scale=smoke"], "configs/chat/qlora_hh.jinja"

    def template(*options):
        return writing(load_config([*words, *options]), PromptValue(), None, byte_tokenizer, None).template

    assert template(f"data.chat_template={form}", "evaluation.scenarios.replies.chat_template=plain").chat.form == form
    assert template(f"evaluation.scenarios.replies.chat_template={form}").chat is None


# ---- fitting ---------------------------------------------------------------------------------------------------------


class Anything:
    """A policy, as far as a fit looks at it."""

    device = torch.device("cpu")

    class model:
        class config:
            @staticmethod
            def get_text_config():
                class sizes:
                    hidden_size = 16
                return sizes


def examples(of, count=80):
    """Prompts of unlike lengths whose reward is what `of` makes of the mean of their states' first number."""
    generator = torch.Generator().manual_seed(0)
    hidden = [torch.randn(int(length), 16, generator=generator) + shift for length, shift in
              zip(torch.randint(2, 9, (count,), generator=generator), torch.randn(count, generator=generator))]
    return Examples(hidden, torch.stack([of(each.mean()) for each in hidden])[:, None])


@pytest.mark.parametrize("selection", ["kfold", "heldout"])
def test_what_can_be_learnt_is_learnt(selection):
    found = Fit(PromptValue(selection=selection, learning_rate=3e-3), Anything, 0.0, 1.0, 1).choose(
        examples(lambda mean: torch.sigmoid(2 * mean)))
    assert found["epochs"] > 3 and found["explained"] > 0.6


def test_where_nothing_can_be_learnt_it_stays_near_the_constant():
    """By the error of prompts that are left out, more training is worse; by that of training itself, never."""
    noise = torch.Generator().manual_seed(1)
    data = examples(lambda mean: torch.rand((), generator=noise))
    honest, published = (Fit(PromptValue(selection=selection, learning_rate=1e-2, epochs=40), Anything, 0.0, 1.0, 1)
                         .choose(data) for selection in ("kfold", "training"))
    assert honest["epochs"] <= 5 and honest["explained"] < 0.1
    assert published["epochs"] > 20 and published["explained"] > 0.3


def test_a_fit_is_a_function_of_its_seed():
    data = examples(lambda mean: torch.sigmoid(mean))
    torch.manual_seed(5)
    heads = [Fit(PromptValue(), Anything, 0.0, 1.0, seed).trained(data, 3, "all") for seed in (1, 1, 2)]
    weights = [head.output.weight for head in heads]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
