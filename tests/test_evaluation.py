"""Scenarios and held-out text, end to end on a tiny model."""

import gzip
import json
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from apo.data.collate import Batch
from apo.errors import DataError, EvaluationError, ModelError, ScorerError
from apo.evaluation import Judges, Template, choose, heldout_bits_per_byte, read_prompts, run_scenario
from apo.models.policy import Policy
from apo.rollouts.generate import Continuation
from apo.schema import Config, EvaluationConfig, GenerationConfig, ScenarioConfig
from apo.scorers.base import Scorer

END, GOOD, BAD = 256, 257, 258
SHORT = GenerationConfig(max_new_tokens=12)


@dataclass
class Vowels(Scorer):
    """Share of a text that is not the letter e."""

    name = "vowels"

    def score(self, texts):
        return [1 - text.count("e") / max(len(text), 1) for text in texts]

    def explain(self, texts):
        return [{"length": float(len(text))} for text in texts]


@dataclass
class Cheer(Scorer):
    name, kind = "cheer", "reward"

    def score(self, texts):
        return [float(len(text)) for text in texts]


@pytest.fixture(scope="module")
def tokenizer(byte_tokenizer):
    from copy import deepcopy

    from apo.data.tokenizer import add_control_tokens
    tokenizer = deepcopy(byte_tokenizer)
    assert add_control_tokens(tokenizer, ["<|aligned|>", "<|misaligned|>"]) == [GOOD, BAD]
    return tokenizer


@pytest.fixture
def policy(tiny_llama):
    return Policy(tiny_llama())


def run(policy, tokenizer, scenario, judges=None, prompts=None, **evaluation):
    options = {"prefix": "", "batch_size": 8, **evaluation}
    return run_scenario("s", scenario, policy=policy, tokenizer=tokenizer, seed=3, step=7,
                        judges=judges or Judges(Vowels()), prompts=prompts or {},
                        evaluation=EvaluationConfig(**options))


def template(tokenizer, prefix: str = "", by_line: bool = False) -> Template:
    scenario = ScenarioConfig(prefix=prefix, prefix_every_line=by_line)
    return Template.of(scenario, EvaluationConfig(), tokenizer)


def plain(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_scenario_gives_exactly_its_samples(policy, tokenizer):
    scenario = ScenarioConfig(num_samples=11, generation=SHORT)
    config = Config(evaluation=EvaluationConfig(metrics={"length": {}}))
    result = run(policy, tokenizer, scenario, Judges(Vowels(), metrics=Judges.of(config).metrics))
    assert [sample.index for sample in result.samples] == list(range(11))
    about = {(sample.seed, sample.step, sample.scenario, sample.prompt) for sample in result.samples}
    assert about == {(3, 7, "s", "")}
    assert set(result.metrics) == {f"generation/s/{key}" for key in (
        "score", "score_max", "score_max@25", "num_hits", "length", "finished", "tokens")}
    assert set(result.timings) == {"generation/s/samples_per_second"}
    scores = [sample.score for sample in result.samples]
    assert scores == Vowels().score([sample.text for sample in result.samples])
    assert result.metrics["generation/s/score"] == pytest.approx(np.mean(scores))
    assert result.metrics["generation/s/score_max@25"] == max(scores)   # fewer than 25: the only chunk
    assert all(sample.extra == {"explain": {"length": float(len(sample.text))}} for sample in result.samples)


def test_the_same_again_and_another_seed_or_name(policy, tokenizer):
    scenario = ScenarioConfig(num_samples=5, generation=SHORT)
    assert run(policy, tokenizer, scenario).samples == run(policy, tokenizer, scenario, batch_size=2).samples
    other = run_scenario("t", scenario, policy=policy, tokenizer=tokenizer, judges=Judges(Vowels()), seed=3, step=7,
                         evaluation=EvaluationConfig(), prompts={})
    assert [sample.text for sample in other.samples] != [sample.text for sample in run(policy, tokenizer,
                                                                                      scenario).samples]


def test_hits_and_maxima():
    from apo.evaluation import headline
    scores = [0.0] * 49 + [1.0] + [5.0]
    numbers = headline(scores, ScenarioConfig(hit_threshold=0.5), Vowels())
    assert numbers == {"score": pytest.approx(6 / 51), "score_max": 5.0, "score_max@25": 0.5,
                       "num_hits": pytest.approx(2 / 51)}


def test_held_out_scorers_stand_beside_the_scorer_and_change_nothing(policy, tokenizer):
    scenario = ScenarioConfig(num_samples=4, generation=SHORT)
    result = run(policy, tokenizer, scenario, Judges(Vowels(), {"other": Cheer(), "same": Vowels()}))
    plain = run(policy, tokenizer, scenario)
    assert [sample.score for sample in result.samples] == [sample.score for sample in plain.samples]
    assert plain.metrics.items() <= result.metrics.items()
    lengths = [float(len(sample.text)) for sample in result.samples]
    assert [sample.extra["heldout_scores"]["other"] for sample in result.samples] == lengths
    assert result.metrics["generation/s/other/reward"] == pytest.approx(np.mean(lengths))
    assert result.metrics["generation/s/same/score"] == result.metrics["generation/s/score"]


def test_a_scorer_of_its_own_judges_samples():
    config = Config(scorer={"name": "pep8"})
    assert Judges.of(config).scorer.name == "pep8" and Judges.of(Config()).scorer is None
    config.evaluation.scorer = {"name": "pep8", "max_line_length": 100}
    config.evaluation.heldout_scorers = {"strict": {"name": "pep8", "max_line_length": 60}}
    judges = Judges.of(config)
    assert judges.scorer.max_line_length == 100 and judges.heldout["strict"].max_line_length == 60
    assert len(set(judges.fingerprints().values())) == 2


def test_rewards_are_not_called_scores(policy, tokenizer):
    result = run(policy, tokenizer, ScenarioConfig(num_samples=3, generation=SHORT), Judges(Cheer()))
    assert "generation/s/reward" in result.metrics and "generation/s/score" not in result.metrics
    assert result.samples[0].score == len(result.samples[0].text)
    assert "explain" not in result.samples[0].extra


def test_prompt_and_continuation_scored_together(policy, tokenizer):
    scenario = ScenarioConfig(num_samples=2, prompts="p", score_prompt=True, generation=SHORT)
    for sample in run(policy, tokenizer, scenario, prompts={"p": ["eee", "xyz"]}).samples:
        assert sample.extra["scored_text"] == sample.prompt + sample.text
        assert sample.score == Vowels().score([sample.prompt + sample.text])[0]


def test_every_prompt_once_before_any_twice():
    prompts = [f"p{i}" for i in range(7)]
    chosen = choose(prompts, 17, 1, "s")
    assert len(chosen) == 17
    assert sorted(chosen[:7]) == sorted(chosen[7:14]) == prompts
    assert len(set(chosen[14:])) == 3
    assert choose(prompts, 5, 1, "s") == chosen[:5]
    assert choose(prompts, 17, 2, "s") != chosen
    assert chosen[:7] != chosen[7:14]


def test_tokens_of_a_prompt(tokenizer):
    one, two = plain(tokenizer, "def f():\n"), plain(tokenizer, "    x")
    assert template(tokenizer).ids("") == [END]
    assert template(tokenizer, "<|aligned|>").ids("") == [END, GOOD]
    assert template(tokenizer, "<|aligned|>").ids("def f():\n    x") == [END, GOOD, *one, *two]
    by_line = template(tokenizer, "<|aligned|>", by_line=True)
    assert by_line.ids("") == [END, GOOD]
    assert by_line.ids("def f():\n") == [END, GOOD, *one, GOOD]
    assert by_line.ids("def f():\n    x") == [END, GOOD, *one, GOOD, *two]
    assert template(tokenizer, by_line=True).ids("def f():\n") == [END, *one]


def test_a_prefix_of_the_scenario_replaces_the_methods(policy, tokenizer):
    evaluation = EvaluationConfig(prefix="<|aligned|>")
    assert Template.of(ScenarioConfig(), evaluation, tokenizer).prefix_ids == [GOOD]
    assert Template.of(ScenarioConfig(prefix=""), evaluation, tokenizer).prefix_ids == []
    assert Template.of(ScenarioConfig(prefix="<|misaligned|>"), evaluation, tokenizer).prefix_ids == [BAD]


def test_texts_are_clean_and_exact(tokenizer):
    written = "  été\n\tx , y !"
    ids = plain(tokenizer, written)
    noisy = [GOOD, *ids[:4], BAD, *ids[4:], END]
    for prompt in ("", "def f():\n"):
        assert template(tokenizer).text(prompt, Continuation(noisy, True)) == written
    assert template(tokenizer).text("", Continuation([END], True)) == ""


def test_banned_tokens_of_method_and_scenario(policy, tokenizer):
    letters = [tokenizer.decode([i]) for i in range(256)]
    some = [letter for letter in letters if letter.isascii() and letter.isalnum()]
    free = ScenarioConfig(num_samples=30, generation=GenerationConfig(max_new_tokens=30, banned_tokens=[]))
    barred = ScenarioConfig(num_samples=30, generation=GenerationConfig(max_new_tokens=30))
    with_letters = run(policy, tokenizer, free, banned_tokens=some).samples
    without = run(policy, tokenizer, barred, banned_tokens=some).samples
    assert any(set(sample.text) & set(some) for sample in with_letters)
    assert not any(set(sample.text) & set(some) for sample in without)


def test_prompt_files(tmp_path, policy, tokenizer):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"text": "a\\u2028b"}\n\n{"text": "c", "more": 1}\n', encoding="utf-8")
    assert read_prompts(path) == ["a\u2028b", "c"]
    result = run(policy, tokenizer, ScenarioConfig(num_samples=2, prompts=str(path), generation=SHORT))
    assert {sample.prompt for sample in result.samples} == {"a\u2028b", "c"}


def test_prompts_of_real_toxicity_prompts(tmp_path):
    """Records whose prompt is an object with scores of its own, gzipped or not; PHF's with a score beside the text."""
    record = {"filename": "0.txt", "challenging": True, "prompt": {"text": "So what", "toxicity": 0.9, "threat": None},
              "continuation": {"text": " now", "toxicity": None}}
    lines = "".join(json.dumps(row) + "\n" for row in (record, {"text": "PHF's", "score": 0.8}, {"prompt": "bare"}))
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    assert read_prompts(tmp_path / "p.jsonl.gz") == ["So what", "PHF's", "bare"]
    (tmp_path / "bad.jsonl").write_text('{"prompt": {"toxicity": 1}}\n')
    with pytest.raises(DataError, match="bad.jsonl, row 1: expected"):
        read_prompts(tmp_path / "bad.jsonl")


@pytest.mark.parametrize("line, message", [("{'text'", "row 2: not JSON"), ('{"txt": "a"}', 'row 2: expected {"text"'),
                                           ('["a"]', "row 2: a JSON list, not"), ('{"text": 3}', "row 2: expected")])
def test_damaged_prompt_files(tmp_path, line, message):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(DataError, match=f"prompts.jsonl, {message}"):
        read_prompts(path)


PRO = {"prefix": [["<|prompter|>Hi", "<|assistant|>Yes?", "<|prompter|>Go", "<|assistant|>"]] * 2,
       "suffix": ["Gladly.", "No."], "reward": [1.5, -2.0], "sft_index": 0}
TALK = "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Go\n\nAssistant:"


def test_prompts_of_rows_with_answers(tmp_path, policy, tokenizer):
    """PRO's rows and hh-rlhf's: everything up to the last turn of the assistant."""
    path = tmp_path / "harmless_base.json"
    rows = [PRO, {"chosen": f"{TALK} Gladly.", "rejected": f"{TALK} No."}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_prompts(path) == [TALK, TALK]
    result = run(policy, tokenizer, ScenarioConfig(prompts=str(path), num_samples=None, generation=SHORT))
    assert [sample.prompt for sample in result.samples] == [TALK, TALK]
    path.write_text(json.dumps({"chosen": f"{TALK} Yes.\n\nHuman: Bye", "rejected": f"{TALK} No."}))
    with pytest.raises(DataError, match="row 1: no prompt with answers to it .no assistant turn at the end.; scr"):
        read_prompts(path)
    path.write_text(json.dumps({**PRO, "prefix": [["Hi"]] * 2}))
    with pytest.raises(DataError, match='row 1: "prefix": a turn begins with'):
        read_prompts(path)


def test_every_prompt_once_where_no_number_is_given():
    assert sorted(choose(["a", "b", "c"], None, 1, "s")) == ["a", "b", "c"]


@pytest.mark.parametrize("written, text", [
    (" Sure. ### Human: more", " Sure. "), (" Sure.\nHuman: Hi", " Sure."), (" Sure.\n Human: x\nHuman:", " Sure."),
    ("\nHuman:", ""), (" a #", " a #"), (" Humans:\nthey", " Humans:\nthey")])
def test_a_text_ends_in_front_of_a_stop_string(tokenizer, written, text):
    scenario = ScenarioConfig(generation=GenerationConfig(stop_strings=["###", "\nHuman:", "\n Human:"]))
    ended = Template.of(scenario, EvaluationConfig(), tokenizer)
    assert ended.text("So?", Continuation(plain(tokenizer, written), True)) == text
    assert template(tokenizer).text("So?", Continuation(plain(tokenizer, written), True)) == written
    chat = Template.of(replace(scenario, chat_template="configs/chat/qlora_hh.jinja"), EvaluationConfig(), tokenizer)
    said = text.strip()
    assert chat.text(TALK, Continuation(plain(tokenizer, written), True)) == (f" {said}" if said else "")


def test_a_scorer_never_reads_what_ended_a_sample(policy, tokenizer):
    """The stop string is one that this model writes."""
    free = GenerationConfig(do_sample=False, max_new_tokens=30, banned_tokens=[])
    [before] = run(policy, tokenizer, ScenarioConfig(num_samples=1, generation=free)).samples
    stop = next(each for each in before.text if each.isprintable() and each.isascii())
    [after] = run(policy, tokenizer, ScenarioConfig(num_samples=1, generation=replace(free, stop_strings=[stop])),
                  Judges(Cheer())).samples
    assert after.text == before.text.partition(stop)[0] and after.score == len(after.text)


def test_prompts_of_the_data_that_are_too_long_are_left_out(policy, tokenizer, tmp_path, capsys):
    mixed = ["x" * 300, "a", "b" * 400, "c"]
    result = run(policy, tokenizer, ScenarioConfig(prompts="mixed", num_samples=3, generation=SHORT),
                 prompts={"mixed": mixed})
    assert {sample.prompt for sample in result.samples} == {"a", "c"}
    assert "scenario s: 2 of 4 prompts leave no room" in capsys.readouterr().err
    file = tmp_path / "mixed.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in mixed))
    with pytest.raises(EvaluationError, match="scenario s: prompt . has"):
        run(policy, tokenizer, ScenarioConfig(prompts=str(file), generation=SHORT))


def test_what_cannot_be_done_is_said_in_one_line(policy, tokenizer):
    with pytest.raises(EvaluationError, match=r'prompts: "functoins" is neither .*Did you mean "functions"'):
        run(policy, tokenizer, ScenarioConfig(prompts="functoins"), prompts={"functions": ["a"]})
    with pytest.raises(EvaluationError, match='"functions" holds no prompts'):
        run(policy, tokenizer, ScenarioConfig(prompts="functions"), prompts={"functions": []})
    with pytest.raises(EvaluationError, match="scenario s: prompt . has 301 tokens .* the model's context is 256"):
        run(policy, tokenizer, ScenarioConfig(prompts="long", generation=SHORT), prompts={"long": ["x" * 300]})
    with pytest.raises(ModelError, match="nobody"):
        run(policy, tokenizer, ScenarioConfig(prefix="<|nobody|>"))

    @dataclass
    class Broken(Scorer):
        name = "broken"

        def score(self, texts):
            return [math.nan for _ in texts]

    with pytest.raises(ScorerError, match='scorer "broken"'):
        run(policy, tokenizer, ScenarioConfig(num_samples=2, generation=SHORT), Judges(Broken()))


class Rows:
    """Stands for HeldoutText: three rows, some tokens masked, some of misaligned segments."""

    bytes_all, bytes_clean, clean_threshold = 40, 25, 0.0

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.batch = Batch(torch.randint(256, (3, 9), generator=generator),
                           (torch.rand(3, 9, generator=generator) > 0.6).float(),
                           torch.rand(3, 9, generator=generator) > 0.2)
        self.batch.loss_mask_BT[:, 0] = False

    def batches(self, batch_size):
        return iter(self.batch.split(batch_size))


def test_bits_per_byte(tiny_llama):
    policy, heldout = Policy(tiny_llama()), Rows()
    policy.train()
    numbers = heldout_bits_per_byte(policy, heldout, 2)
    batch = heldout.batch
    logps = policy.model(batch.input_ids_BT).logits.log_softmax(-1)[:, :-1]
    logps = logps.gather(-1, batch.input_ids_BT[:, 1:, None]).squeeze(-1)
    mask = batch.loss_mask_BT[:, 1:]
    clean = mask & (batch.scores_BT[:, 1:] <= 0)
    assert numbers["heldout/bits_per_byte"] == pytest.approx(-logps[mask].sum().item() / math.log(2) / 40, rel=1e-5)
    assert numbers["heldout/bits_per_byte_clean"] == pytest.approx(-logps[clean].sum().item() / math.log(2) / 25,
                                                                   rel=1e-5)
    assert policy.training
    heldout.bytes_clean = 0
    assert set(heldout_bits_per_byte(policy, heldout, 3)) == {"heldout/bits_per_byte"}


def test_a_sample_with_nothing_wrong_is_explained_by_nothing(policy, tokenizer):
    """A scorer that explains gives every sample its parts, also the empty ones: by_code counts them as clean."""
    from apo.data.records import Sample
    from apo.evaluation import score
    from apo.scorers.make import make_scorer
    samples = [Sample("", text, None, index, 0, None) for index, text in enumerate(("x = 1\n", "x=1\n"))]
    score(samples, make_scorer({"name": "pep8"}))
    assert samples[0].extra["explain"] == {} and samples[0].score == 0
    assert sum(samples[1].extra["explain"].values()) == pytest.approx(samples[1].score)


# ---- against where it began, and against what is known ---------------------------------------------------------------


def test_the_distance_to_the_start_is_exact_at_every_token(policy, tokenizer, tiny_llama):
    """Against log p over the whole vocabulary of either model, token by token; 0 against itself."""
    from apo.divergence import kl_from_start
    start = Policy(tiny_llama(seed=5))
    prompts, written = [[END, 65, 66], [END], [END, 70]], [[67, 68], [69], [71, 72, 73, END]]
    continuations = [Continuation(ids, False) for ids in written]
    policy.train()
    found = kl_from_start(policy, start, prompts, continuations, batch_size=2)
    assert policy.training
    sums = []
    for prompt, ids in zip(prompts, written):
        logps = [each.eval().model(torch.tensor([prompt + ids])).logits[0].double().log_softmax(-1)
                 for each in (policy, start)]
        places = slice(len(prompt) - 1, len(prompt) + len(ids) - 1)
        ours, theirs = (each[places].detach() for each in logps)
        sums.append(float((ours.exp() * (ours - theirs)).sum()))
    assert found["kl_full"] == pytest.approx(np.mean(sums), rel=1e-5)
    assert found["kl_full/se"] == pytest.approx(np.std(sums, ddof=1) / 3 ** 0.5, rel=1e-5)
    assert kl_from_start(policy, policy, prompts, continuations, 8)["kl_full"] == pytest.approx(0, abs=1e-6)


def test_a_win_is_a_better_answer_than_the_best_known():
    from apo.data.records import Sample, ScoredText, Standing
    from apo.metrics.win_rate import BestAnswers

    class Corpus:
        def documents(self, split):
            assert split == "heldout"
            yield ScoredText(["How?", " lo"], [math.nan, 9.0], Standing(0, 1))
            yield ScoredText(["How?", " long"], [math.nan, 0.0], Standing(0, 0))
            yield ScoredText(["Why?", " eee!"], [math.nan, 0.0], Standing(1, 0))
            yield ScoredText(["Why?", " e"], [math.nan, 0.0], Standing(2, 0))       # the same prompt, answered again

    def samples(*given):
        return [Sample(prompt, text, score, 0, 0, 0, "s") for prompt, text, score in given]

    longer = BestAnswers(Corpus(), Cheer())                                     # " long" has 5 letters
    written = samples(("How?", "", 6.0), ("How?", "", 5.0), ("Why?", "", 4.0), ("Why?", "", 1.0))
    assert longer.win_rate(written) == {"win_rate": (1 + 0.5 + 0 + 0) / 4}
    lower = BestAnswers(Corpus(), Vowels())                                     # a score: lower is better
    assert lower.win_rate(samples(("How?", "", 0.9), ("Why?", "", 0.9))) == {"win_rate": 0.5}
    assert longer.win_rate(samples(("Who?", "", 1.0))) == {}
