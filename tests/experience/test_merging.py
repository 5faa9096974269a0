"""SPIN on the pairs of a round and of the one before: whose they are, against which reference, and going on inside."""

import json

import pytest
import torch
from scripted import same, stands_in

from apo import experiment
from apo.config import load_config
from apo.errors import DataError, RunError
from apo.experience.kept import load
from apo.experience.merging import left_by
from apo.objectives.base import objectives


def spin(**options):
    return objectives.get("spin")(merge_previous=True, **options)


def pairs(batch):
    """Prompt, data's completion and sample of every row, as tokens."""
    return sorted(tuple(tuple(ids[branches == part].tolist()) for part in range(3))
                  for ids, branches in zip(batch.input_ids_RT, batch.branch_RT))


def step(source):
    """The policy moves."""
    with torch.no_grad():
        for parameter in source.policy.parameters():
            parameter.mul_(1.05)


def served(source, rounds):
    """The one batch of each of so many rounds."""
    found = []
    for number in range(rounds):
        stands_in(source.folder, number)
        found.append(source.next())
        step(source)
    return found


def logps(policy, batch):
    with torch.no_grad():
        return policy.completion_stats(batch).logps_RN


def test_a_round_has_the_pairs_of_the_one_before_and_of_no_other(make):
    alone = make(objectives.get("spin")(), generations=1, minibatch=100)
    alone_batches = served(alone, 3)
    merged = make(spin(), folder=alone.folder.parent.parent / "merged" / "rounds", generations=1, minibatch=100)
    first, second, third = served(merged, 3)
    own = [pairs(batch) for batch in alone_batches]
    assert pairs(first) == own[0] and len(first) == 4
    assert pairs(second) == sorted(own[0] + own[1]) and pairs(third) == sorted(own[1] + own[2])
    assert merged.state == {"rounds": 3, "own": 4} and merged.rows_per_round == 8 == len(third)
    assert [len(file.read_text().splitlines()) for file in sorted(merged.folder.glob("*.jsonl"))] == [8, 8, 8]


def test_all_are_measured_by_the_policy_that_began_the_round(make):
    """Older samples too: their reference is the opponent of now, and not the one who wrote them."""
    source = make(spin(), generations=1, minibatch=100)
    first = source.next()
    then = logps(source.policy, first)
    torch.testing.assert_close(first.ref_logps_RN, then, rtol=1e-5, atol=1e-4)
    step(source)
    stands_in(source.folder, 0)
    second = source.next()
    torch.testing.assert_close(second.ref_logps_RN, logps(source.policy, second), rtol=1e-5, atol=1e-4)
    older = [row for row, pair in enumerate(zip(second.input_ids_RT, second.branch_RT))
             if pairs(second[[row]])[0] in pairs(first)]
    assert len(older) == 4 and not torch.allclose(second.ref_logps_RN[older].sort(0).values, then.sort(0).values,
                                                  atol=1e-2)
    loss = source.objective.compute_loss(source.policy, second)
    assert loss.total.item() == pytest.approx(8 * torch.log(torch.tensor(2.0)).item(), abs=1e-4)


def test_what_is_logged_is_of_the_round_itself_and_says_how_much_is_not(make):
    source = make(spin(), generations=1, minibatch=100)
    source.next()
    first = source.news()
    step(source)
    stands_in(source.folder, 0)
    source.next()
    second = source.news()
    for news, merged in ((first, [0, 4]), (second, [4, 8])):
        assert news["pairs/merged"].values.tolist() == merged and news["pairs/kept"].values.tolist() == [4, 4]
        assert news["rollout/rows"].values[0] == merged[1]
    assert first["tokens/queries_len_mean"].values[1] == second["tokens/queries_len_mean"].values[1] == 4


def test_a_run_goes_on_with_both_rounds_to_the_same_bits(make):
    """From inside a merged round, and from the round before it, whose numbers are still there."""
    whole, states, batches = make(spin(), generations=1, epochs=2, minibatch=4), [], []
    for _ in range(2 + 4 + 4):
        states.append(json.loads(json.dumps(whole.state_dict())))
        batches.append(whole.next())
        if whole.number == len(list(whole.folder.parent.glob("checkpoints/*"))):
            stands_in(whole.folder, whole.number)
    for at in (1, 2, 3, 6, 7):          # inside round 0, at its end, inside round 1, at its end, inside round 2
        cut = make(spin(), folder=whole.folder, generations=1, epochs=2, minibatch=4)
        cut.load_state_dict(states[at])
        for batch in batches[at:]:
            same(cut.next(), batch)
        assert cut.writer.calls == 0 and cut.state_dict() == whole.state_dict()
    for file in whole.folder.glob("*.safetensors"):
        if file.stem > "round-000000":
            file.unlink()
    again = make(spin(), folder=whole.folder, generations=1, epochs=2, minibatch=4)
    again.load_state_dict(states[1])
    for batch in batches[1:]:
        same(again.next(), batch)
    assert again.writer.calls == 2


def test_the_first_round_has_those_of_the_run_before(make, tmp_path, capsys):
    before = make(spin(), folder=tmp_path / "one" / "rounds", generations=1, minibatch=100)
    own = [pairs(batch) for batch in served(before, 2)]
    last = [pair for pair in own[1] if pair not in own[0]]
    after = make(spin(), folder=tmp_path / "two" / "rounds", generations=1, minibatch=100)
    after.before = lambda: left_by(before.folder, "spin", 64)
    alone = make(objectives.get("spin")(), folder=tmp_path / "three" / "rounds", generations=1, minibatch=100)
    assert pairs(after.next()) == sorted(last + pairs(alone.next())) and after.state == {"rounds": 1, "own": 4}
    kept = load(before.folder, 1)
    assert kept.made_by == "spin" and len(kept.rows_PN) == 8
    assert left_by(before.folder, "self_rewarding", 64) is None and left_by(tmp_path / "none" / "rounds", "spin", 64) \
        is None
    assert "did not learn by self_rewarding" in (said := capsys.readouterr().err) and "wrote no rounds" in said
    with pytest.raises(DataError, match="have up to [0-9]+ tokens, and data.block_size=8 has no room"):
        left_by(before.folder, "spin", 8)
    for file in before.folder.glob("*.safetensors"):
        file.unlink()
    with pytest.raises(RunError, match="the numbers of its last round are gone"):
        left_by(before.folder, "spin", 64)


def test_runs_one_after_the_other_as_the_paper_has_its_iterations(tmp_path):
    """`init_from.run` of a run of spin: pairs of its own and of that one's in each of two epochs."""
    def config(*options):
        return load_config(["task=hh", "method=spin", "scale=smoke", f"output_dir={tmp_path / 'outputs'}",
                            f"cache_dir={tmp_path / 'cache'}", "evaluation.at_start=false", "data.block_size=256",
                            "evaluation.every_n_steps=null", "evaluation.num_bootstrap=10", *options])

    def rows(run):
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return [(line["rollout/rows"], line.get("pairs/merged")) for line in lines if "rollout/rows" in line]
    first = experiment.train(config("training.max_steps=2"))
    second = experiment.train(config("training.max_steps=4", "objective.merge_previous=true",
                                     f"init_from.run={first.path}"))
    one, other = (load(run.path / "rounds", 0) for run in (first, second))
    own, both = len(one.rows_PN), len(other.rows_PN)
    assert rows(first.path) == [(own, None)] and rows(second.path) == [(both, pytest.approx(own / both))]
    assert other.state == {"rounds": 1, "own": both - own} and both > own
    told = [[(kept.prompt_ids[kept.prompts_C[row[0]]], [kept.completion_ids[each] for each in row])
             for row in kept.rows_PN.tolist()] for kept in (one, other)]
    assert sorted(told[1][both - own:]) == sorted(told[0])
