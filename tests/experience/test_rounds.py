"""Rounds of samples as a batch source: what is served, what is written down, and going on inside a round."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from apo.errors import DataError, RunError
from apo.experience.kept import load
from apo.experience.prompts import Prompt, Prompts
from apo.experience.rounds import Rounds, trained_bits
from apo.experience.writing import Judged, Writer, unjudged
from apo.metrics import running
from apo.models.policy import Policy
from apo.models.reference import reference_of
from apo.objectives.base import Needs, NothingToDraw, objectives
from apo.objectives.online import VIEW, Lesson, Online
from apo.rollouts.generate import Continuation
from apo.schema import RolloutConfig
from apo.seeds import stream

TEXTS = ["the sea", "a", "stones and sand", "we went by", "to", "evening, then night"]


@dataclass
class Plain(Online):
    """Every completion a row, its reward for an advantage."""

    name = "plain"
    enough: bool = False
    fails: int = 0

    @property
    def needs(self):
        return Needs(view=VIEW, reference_model=self.reference is not None)

    def learn(self, round, state):
        count = state.get("rounds", 0)
        if count == 0 and self.fails > 0:
            self.fails -= 1
            raise NothingToDraw("nothing here")
        advantages_CT = torch.tensor(round.scores_C).float()[:, None] * round.mask_CT
        return Lesson(np.arange(len(round.scores_C))[:, None], {"advantages": advantages_CT},
                      metrics={"objective/scores": running.mean(torch.tensor(round.scores_C))},
                      state={"rounds": count + 1})

    def exhausted(self):
        said, self.enough = self.enough, False
        return said


@dataclass
class Pairs(Online):
    """The best of each prompt against the worst, measured from where the round began."""

    name = "pairs"
    completions_per_row = 2
    generations = 2
    with_given = False

    def learn(self, round, state):
        rows = []
        for prompt in np.unique(round.prompts_C):
            own = np.flatnonzero(round.prompts_C == prompt)
            order = own[np.argsort(-round.scores_C[own], kind="stable")]
            rows.append([order[0], order[-1]])
        return Lesson(np.array(rows), ref_logps_C=round.logps_CT.sum(1))


class Scripted(Writer):
    """Writes random tokens of random lengths, a function of (seed, round, place), and counts."""

    calls = 0

    def write(self, policy, prompts, number, progress):
        self.calls += 1
        found = []
        for place in range(len(prompts)):
            random = stream(self.seed, "scripted", number, place)
            length = int(random.integers(1, 9))
            ids = random.integers(0, 200, length).tolist()
            found.append(Continuation([*ids[:-1], 256] if place % 2 else ids, bool(place % 2)))
        progress.advance(len(prompts))
        return found


def judge(pairs, number, check):
    rewards = np.array([len(text) + 0.5 * len(prompt) for prompt, text in pairs])
    return Judged(rewards, [{"length": len(text)} for _, text in pairs])


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


def stands_in(folder, number):
    """A checkpoint inside that round."""
    checkpoint = folder.parent / "checkpoints" / f"checkpoint-{number}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").write_text(json.dumps({"source": {"round": number}}))


def same(one, other):
    assert one.tensors().keys() == other.tensors().keys()
    for name, tensor in one.tensors().items():
        torch.testing.assert_close(tensor, other.tensors()[name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("minibatch, micro_batch", [(8, 8), (4, 2), (3, 1), (8, 3)])
def test_the_first_minibatches_have_a_ratio_of_one_to_the_last_bit(make, minibatch, micro_batch):
    source = make(minibatch=minibatch, micro_batch=micro_batch)
    source.policy.eval()
    seen = 0
    for _ in range(round(8 / minibatch)):
        for part in source.next().split(micro_batch):
            with torch.no_grad():
                stats = source.policy.completion_tokens(part)
            assert torch.equal(stats.logps_BT, part.old_logps_RT)
            seen += len(part)
    assert seen == 8 and source.number == 0


def test_log_probabilities_are_those_of_each_completion_by_itself(make):
    source = make(minibatch=8)
    batch = source.next()
    assert (batch.old_logps_RT[batch.branch_RT != 1] == 0).all()
    for ids, branches, logps in zip(batch.input_ids_RT, batch.branch_RT, batch.old_logps_RT):
        ids, begin = ids[branches >= 0], int((branches == 0).sum())
        with torch.no_grad():
            expected = source.policy.model(input_ids=ids[None]).logits[0].log_softmax(-1)
        own = torch.stack([expected[place - 1, ids[place]] for place in range(begin, len(ids))])
        torch.testing.assert_close(logps[branches == 1], own, rtol=1e-4, atol=1e-5)


def test_every_token_has_the_numbers_of_its_own_completion(make):
    batch = make(minibatch=8).next()
    inside_RT = batch.branch_RT == 1
    assert torch.equal(batch.advantages_RT[inside_RT],
                       batch.rewards_RN.expand(-1, inside_RT.shape[1])[inside_RT])
    assert (batch.advantages_RT[~inside_RT] == 0).all()


def test_a_round_is_served_for_its_epochs_and_then_comes_the_next(make):
    source = make(minibatch=4, epochs=2)
    batches = [source.next() for _ in range(4)]
    assert source.writer.calls == 1 and source.number == 0
    rows = [sorted(tuple(row.tolist()) for batch in batches[start:start + 2]
                   for row in torch.nn.functional.pad(batch.input_ids_RT, (0, 99 - batch.input_ids_RT.shape[1])))
            for start in (0, 2)]
    assert rows[0] == rows[1]                       # both epochs have every row
    assert batches[0].input_ids_RT.shape != batches[2].input_ids_RT.shape or not torch.equal(
        batches[0].input_ids_RT, batches[2].input_ids_RT)       # in another order
    source.next()
    assert source.writer.calls == 2 and source.number == 1 and source.state == {"rounds": 2}


def test_every_prompt_comes_before_one_comes_again(make):
    source = make(prompts=3)
    first = [index for number in range(2) for index in source._chosen(number)]
    second = [index for number in range(2, 4) for index in source._chosen(number)]
    assert sorted(first) == sorted(second) == list(range(len(TEXTS))) and first != second
    wide = make(prompts=4)
    assert [index for number in range(3) for index in wide._chosen(number)] == first + second


def test_spin_needs_nobody_to_judge(make):
    source = make(objectives.get("spin")())
    source.judge = unjudged
    assert source.next().rewards_RN.tolist() == [[0.0, 0.0]] * 4
    rows = [json.loads(line) for line in next(source.folder.glob("*.jsonl")).read_text().splitlines()]
    assert len(rows) == 12 and {row["reward"] for row in rows} == {None}


def test_a_run_goes_on_inside_a_round_without_writing_it_again(make):
    whole = make(epochs=2)
    stands_in(whole.folder, 0)
    batches = [whole.next() for _ in range(7)]
    cut = make(folder=whole.folder, epochs=2)
    cut.load_state_dict(json.loads(json.dumps({"round": 0, "served": 3, "skipped": False, "state": {"rounds": 1}})))
    for batch in batches[3:]:
        same(cut.next(), batch)
    assert cut.writer.calls == 0 and cut.state_dict() == whole.state_dict()
    assert cut.news().keys() == whole.news().keys()


def test_what_was_written_after_the_checkpoint_is_taken_again_if_the_policy_is_the_same(make, tiny_llama):
    whole = make()
    [whole.next() for _ in range(2)]
    stands_in(whole.folder, 0)
    state = whole.state_dict()
    third = whole.next()                # of round 1, of which no checkpoint knows
    again = make(folder=whole.folder)
    again.load_state_dict(state)
    same(again.next(), third)
    assert again.writer.calls == 0
    other = make(folder=whole.folder, policy=Policy(tiny_llama(seed=5, initializer_range=0.3)))
    other.load_state_dict(state)
    assert not torch.equal(other.next().old_logps_RT, third.old_logps_RT) and other.writer.calls == 1


def test_bits_of_what_is_trained_are_told_apart(tiny_llama):
    policy = Policy(tiny_llama())
    before = trained_bits(policy)
    assert before == trained_bits(Policy(tiny_llama()))
    weight = next(policy.parameters())
    with torch.no_grad():
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(torch.inf))
    assert trained_bits(policy) != before
    policy.requires_grad_(False)
    next(policy.parameters()).requires_grad_(True)
    assert trained_bits(policy) != before       # only what is trained counts


def test_enough_of_a_round_ends_it_also_after_a_checkpoint(make):
    source = make(epochs=3)
    source.next()
    stands_in(source.folder, 0)
    source.objective.enough = True
    state = source.state_dict()
    assert state == {"round": 0, "served": 1, "skipped": True, "state": {"rounds": 1}}
    again = make(folder=source.folder, epochs=3)
    again.load_state_dict(state)
    assert source.next() is not None and source.number == 1
    again.next()
    assert again.number == 1 and again.writer.calls == 0


def test_a_round_without_a_lesson_is_passed_over(make, capsys):
    source = make(Plain(fails=2))
    source.next()
    assert source.number == 2 and source.writer.calls == 3
    assert "round 1: nothing here; another is sampled" in capsys.readouterr().err
    with pytest.raises(DataError, match="10 rounds in a row had nothing to train on"):
        make(Plain(fails=99), folder=source.folder.parent / "other").next()


def test_pairs_stand_in_one_row_and_are_measured_from_where_the_round_began(make):
    source = make(Pairs(), minibatch=4)
    batch = source.next()
    assert batch.rewards_RN.shape == (4, 2) and (batch.rewards_RN[:, 0] >= batch.rewards_RN[:, 1]).all()
    with torch.no_grad():
        stats = source.policy.completion_stats(batch)
    torch.testing.assert_close(stats.logps_RN, batch.ref_logps_RN, rtol=1e-4, atol=1e-4)
    assert batch.old_logps_RT is None
    assert source.describe()["rows_per_round"] == 4
    with pytest.raises(DataError, match="rollout.generations=1: pairs compares completions"):
        make(Pairs(), generations=1)


def test_what_the_data_say_stands_beside_what_is_sampled(make):
    objective = Pairs()
    objective.with_given, objective.generations = True, 1
    source = make(objective, generations=1)
    source.next()
    samples = [json.loads(line) for line in (source.folder / "round-000000.jsonl").read_text().splitlines()]
    assert [row["sampled"] for row in samples] == [True, False] * 4
    assert all(row["text"] == row["prompt"][::-1] and row["finished"] for row in samples if not row["sampled"])


def test_samples_are_kept_with_the_parts_of_their_reward(make):
    source = make(missing_eos_penalty=2.5)
    source.next()
    samples = [json.loads(line) for line in (source.folder / "round-000000.jsonl").read_text().splitlines()]
    assert len(samples) == 8
    for row in samples:
        judged = len(row["text"]) + 0.5 * len(row["prompt"])
        assert row["judged"] == judged and row["length"] == len(row["text"])
        assert row["missing_eos"] == (0.0 if row["finished"] else -2.5)
        assert row["reward"] == judged + row["missing_eos"] and row["prompt"] in TEXTS
    kept = load(source.folder, 0)
    assert [len(ids) for ids in kept.completion_ids] == [row["tokens"] for row in samples]
    torch.testing.assert_close(kept.tokens["old_logps"].sum(1).double(),
                               torch.tensor([row["logp"] for row in samples]).double(), rtol=1e-5, atol=1e-5)


def test_numbers_are_kept_as_long_as_a_checkpoint_may_ask_for_them(make):
    source = make()
    for _ in range(4):
        source.next()
    stands_in(source.folder, source.number)
    for _ in range(4):
        source.next()
    assert source.number == 3
    assert sorted(path.name for path in source.folder.glob("*.safetensors")) == [
        f"round-00000{number}.safetensors" for number in (1, 2, 3)]
    assert len(list(source.folder.glob("*.jsonl"))) == 4


@pytest.mark.parametrize("spoil, message", [(lambda path: path.unlink(), "round 0 is gone"),
                                            (lambda path: path.write_bytes(path.read_bytes()[:200]), "is damaged")])
def test_a_round_that_is_gone_or_damaged_is_an_error(make, spoil, message):
    source = make()
    source.next()
    spoil(source.folder / "round-000000.safetensors")
    again = make(folder=source.folder)
    again.load_state_dict(source.state_dict())
    with pytest.raises(RunError, match=message):
        again.next()


def test_a_signal_while_sampling_leaves_the_cursor_where_it_was(make):
    class Stop(Exception):
        pass

    def stop():
        raise Stop
    source = make()
    [source.next() for _ in range(2)]
    before = source.state_dict()
    source.check = stop
    with pytest.raises(Stop):
        source.next()
    assert source.state_dict() == before and not (source.folder / "round-000001.safetensors").exists()


def test_lengths_are_drawn_for_each_completion(byte_tokenizer, tiny_llama):
    policy = Policy(tiny_llama(initializer_range=0.02))
    prompts = [Prompt([256, 5, 6], "", [])] * 40

    class Bar:
        advance = staticmethod(lambda count: None)

    def write(**options):
        writer = Writer(RolloutConfig(max_new_tokens=12, **options), byte_tokenizer, None, [], [], 16, 1)
        return writer.write(policy, prompts, 7, Bar)
    plain, drawn = write(), write(lengths=[3, 9])
    assert {len(each.ids) for each in drawn} >= set(range(3, 10))
    for long, short in zip(plain, drawn):
        assert long.ids[:len(short.ids)] == short.ids and len(short.ids) <= 9
        assert short.finished == (long.finished and len(long.ids) == len(short.ids))


def test_the_beta_of_a_round_is_that_of_the_round_also_after_a_resume(make):
    source = make(objectives.get("spin")(beta=[0.1, 0.3, 5.0]), generations=1, epochs=2)
    betas, batches = [], []
    for _ in range(6):
        stands_in(source.folder, len(betas))
        batches.append(source.next())
        betas.append(source.objective.dpo.beta)
        at = json.loads(json.dumps(source.state_dict()))
    assert betas == [0.1, 0.1, 0.3, 0.3, 5.0, 5.0] and at["round"] == 2
    resumed = make(objectives.get("spin")(beta=[0.1, 0.3, 5.0]), folder=source.folder, generations=1, epochs=2)
    resumed.load_state_dict(at | {"served": 1})
    assert resumed.objective.dpo.beta == 5.0
    same(resumed.next(), batches[-1])
    assert source.describe()["rows_per_round"] == 4


def test_one_text_written_again_and_again_is_no_pair(make, capsys):
    source = make(objectives.get("external_reward_dpo")())
    source.judge = lambda pairs, number, check: Judged(np.arange(len(pairs), dtype=float), [{} for _ in pairs])
    source.writer.write = lambda policy, prompts, number, bar: [Continuation([1, 2], False) for _ in prompts]
    with pytest.raises(DataError, match="10 rounds in a row"):
        source.next()
    assert "of 4 possible, 0 lack a known reward, 4 are of one text, 0 are tied" in capsys.readouterr().err


@pytest.mark.parametrize("name, options, rows", [("online_dpo", {}, 4), ("online_dpo", {"pairs": "all"}, 12),
                                                 ("best_of_n", {}, 4), ("self_rewarding", {}, 4), ("spin", {}, 12)])
def test_rows_that_a_round_has_are_those_foreseen(make, name, options, rows):
    """Of four prompts with three completions each, no two of one reward."""
    source = make(objectives.get(name)(**options), generations=3, minibatch=100)
    source.objective.reference = None if name != "online_dpo" else reference_of(source.policy)
    source.judge = lambda pairs, number, check: Judged(np.arange(len(pairs), dtype=float), [{} for _ in pairs])
    assert len(source.next()) == source.rows_per_round == rows
