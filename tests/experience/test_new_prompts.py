"""New prompts by self-instruct: what is asked, what is kept and counted, and that nobody is asked twice."""

import json
import re

import pytest

from apo import experiment
from apo.config import load_config
from apo.errors import ConfigError, DataError, EvaluationError, ServerError
from apo.experience.new_prompts import Frame, NewPrompts
from apo.experience.writing import Writer
from apo.judges import ModelWriter
from apo.schema import NewPromptsConfig
from apo.seeds import stream

OWN = [f"\n\nHuman: How do I {word} it?\n\nAssistant:" for word in ("bake", "mend", "sell", "sew", "cut", "boil")]
SEVERAL = "\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: How do I read it?\n\nAssistant:"


class Scripted(ModelWriter):
    """Says what `says(question, number)` does, and keeps what it was asked."""

    def __init__(self, says):
        self.says, self.asked = says, []

    def answer(self, questions, numbers):
        self.asked += zip(questions, numbers)
        return [self.says(question, number) for question, number in zip(questions, numbers)]


def fresh(question, number):
    """Words drawn for the request."""
    words = stream(number, "words").permutation(900)[:6]
    return f"<request>{' '.join(f'w{word}' for word in words)}</request>"


@pytest.fixture
def make(tmp_path):
    def build(says=fresh, own=OWN, room=30, seed=1, folder="rounds", **options):
        def ids_of(text):
            if "untellable" in text:
                raise DataError("no")
            return text.split()
        (tmp_path / folder).mkdir(exist_ok=True)
        return NewPrompts(NewPromptsConfig(kind="policy", **options), Scripted(says), own, ids_of, room, seed,
                          tmp_path / folder)
    return build


def nothing():
    pass


def examples(question):
    return re.findall(r"<request>\n(.*?)\n</request>", question, re.DOTALL)


# ---- what stands around a prompt -------------------------------------------------------------------------------------

@pytest.mark.parametrize("texts, before, after, inside", [
    (OWN, "\n\nHuman: ", "\n\nAssistant:", "How do I bake it?"),
    (["Question: Who?\n\nAnswer:", "Question: Why so?\n\nAnswer:"], "Question: ", "\n\nAnswer:", "Who?"),
    (["Rex asks: why?\n\nAnswer:", "Una asks: who?\n\nAnswer:"], "", "\n\nAnswer:", "Rex asks: why?"),
    (["How do I sew?", "How do I sell?"], "", "", "How do I sew?"), (["To: you\nHi."], "", "", "To: you\nHi."),
    (["A:\n", "A:\n\n"], "", "", "A:"), (["a", "b"], "", "", "a")])
def test_the_frame_of_prompts(texts, before, after, inside):
    frame = Frame.of(texts)
    assert frame == Frame(before, after) and frame.inside(texts[0]) == inside
    assert frame.around(frame.inside(texts[0])).strip() == texts[0].strip()


# ---- what is asked ---------------------------------------------------------------------------------------------------

def test_a_request_shows_prompts_of_the_data_and_of_those_written(make):
    prompts = make(own=[*OWN, SEVERAL], shots=5, written_shots=2)
    first, counts = prompts.of_round(0, "k", 4, nothing)
    assert counts.asked == counts.kept == 4 and len(prompts.writer.asked) == 4
    own = {f"How do I {word} it?" for word in ("bake", "mend", "sell", "sew", "cut", "boil")}
    for question, _ in prompts.writer.asked:        # never one of several turns
        assert len(shown := examples(question)) == 5 == len(set(shown)) and set(shown) <= own
    assert len({question for question, _ in prompts.writer.asked}) > 1
    written = {prompt.text.removeprefix("\n\nHuman: ").removesuffix("\n\nAssistant:") for prompt in first}
    assert all(prompt.text.startswith("\n\nHuman: w") and prompt.text.endswith("\n\nAssistant:") for prompt in first)
    assert all(prompt.ids == prompt.text.split() and prompt.given == [] for prompt in first)
    prompts.of_round(1, "k", 4, nothing)
    for question, _ in prompts.writer.asked[4:]:
        shown = set(examples(question))
        assert len(shown & own) == 3 and len(shown & written) == 2
    few = make(own=OWN[:3], shots=8, folder="few")
    few.of_round(0, "k", 1, nothing)
    assert len(examples(few.writer.asked[0][0])) == 3


def test_it_depends_on_seed_and_round_alone(make):
    one, same, other = make(folder="a"), make(folder="b"), make(folder="c", seed=2)
    rounds = [[prompts.of_round(number, "k", 3, nothing)[0] for number in (0, 1)] for prompts in (one, same, other)]
    assert rounds[0] == rounds[1] and rounds[0] != rounds[2] and rounds[0][0] != rounds[0][1]
    assert one.writer.asked == same.writer.asked and len({number for _, number in one.writer.asked}) == 6


# ---- what is kept ----------------------------------------------------------------------------------------------------

def test_what_is_no_new_prompt_is_counted_and_asked_for_again(make):
    """One of each kind, then good ones."""
    said = ["I would not know.", "<request> ?! </request>", "<request>How do I bake it all?</request>",
            "<request>w1 w2 w3 w4</request>", "<request>w1 w2 w3 w4 w5</request>", f"<request>{'w ' * 40}</request>",
            "<request>Draw me an Image of Rome.</request>", "<request>an untellable thing</request>",
            "<request>So?\n\nAssistant: So.</request>", None]
    answers = iter(said)
    prompts = make(lambda question, number: next(answers, fresh(question, number)), unwanted_words=["image"])
    found, counts = prompts.of_round(0, "k", len(said), nothing)
    assert len(found) == counts.kept == 10 and counts.asked == 10 + 9
    assert (counts.unparsable, counts.empty, counts.duplicates, counts.too_long, counts.unwanted, counts.failed) == (
        3, 1, 2, 1, 1, 1)
    told = {name: stat.values.tolist() for name, stat in counts.metrics().items()}
    assert told["new_prompts/asked"] == [19, 1] and told["new_prompts/duplicates"] == [2, 1]
    short = make(lambda question, number: fresh(question, number), max_length=5, folder="short")
    with pytest.raises(DataError, match="20 were too long"):
        short.of_round(0, "k", 2, nothing)


def test_prompts_of_earlier_rounds_come_only_once(make):
    prompts = make(lambda question, number: f"<request>{len(prompts.writer.asked) % 7} apples and pears</request>",
                   similarity=1.0, attempts=3)
    first, _ = prompts.of_round(0, "k", 1, nothing)
    prompts.writer.says = lambda question, number: f"<request>{first[0].text[9:].split()[0]} apples and pears</request>"
    with pytest.raises(DataError, match="3 requests for 1 new prompts gave 0: 3 were nearly one that there is"):
        prompts.of_round(1, "k", 1, nothing)


def test_too_few_is_an_error_that_says_what_to_do(make):
    prompts = make(lambda question, number: "la la la", attempts=4)
    with pytest.raises(DataError, match=r"round 2: 12 requests for 3 new prompts gave 0: 12 could not be read\. A "
                                        r"small model cannot do this: .*rollout\.new_prompts\.kind.*attempts, simi.*"
                                        r"leave rollout\.new_prompts out"):
        prompts.folder.joinpath("prompts-000000.jsonl").write_text('{"key": "k"}\n')
        prompts.folder.joinpath("prompts-000001.jsonl").write_text('{"key": "k"}\n')
        prompts.of_round(2, "k", 3, nothing)
    assert len(prompts.writer.asked) == 12 and not list(prompts.folder.glob("prompts-000002*"))
    with pytest.raises(DataError, match="no prompt of the data can be shown as an example"):
        make(own=[SEVERAL, "\n\nHuman: Well?\n\nAssistant: Yes?\n\nHuman: Who?\n\nAssistant:"])


def test_the_policy_without_room_for_the_examples_is_told_what_to_shorten(byte_tokenizer, tiny_llama, make):
    prompts = make()
    prompts.writer = ModelWriter(tiny_llama(), byte_tokenizer, 1, doing="writing prompts")
    with pytest.raises(EvaluationError, match="the policy has no room for writing prompts: .*Fewer examples "
                                              r"\(rollout.new_prompts.shots\)"):
        prompts.of_round(0, "k", 1, nothing)


# ---- what is on the disk ---------------------------------------------------------------------------------------------

def test_a_round_is_read_back_and_of_another_policy_written_anew(make):
    prompts = make()
    found, counts = prompts.of_round(0, "k", 3, nothing)
    again = make()
    assert again.of_round(0, "k", 3, nothing) == (found, counts) and again.writer.asked == []
    again.of_round(0, "other", 3, nothing)
    assert len(again.writer.asked) == 3
    rows = [json.loads(line) for line in (prompts.folder / "prompts-000000.jsonl").read_text().splitlines()]
    assert rows[0]["asked"] == 3 and [row["prompt"] for row in rows[1:]] == [prompt.text for prompt in found]


def test_a_signal_leaves_nothing_behind(make):
    class Stop(Exception):
        pass

    def stop():
        raise Stop
    prompts = make()
    with pytest.raises(Stop):
        prompts.of_round(0, "k", 3, stop)
    assert not list(prompts.folder.iterdir()) and prompts.writer.asked == []


# ---- a run -----------------------------------------------------------------------------------------------------------

@pytest.fixture
def config(tmp_path):
    def build(*options, method="self_rewarding"):
        return load_config(["task=hh", f"method={method}", "scale=smoke", f"output_dir={tmp_path / 'outputs'}",
                            f"cache_dir={tmp_path / 'cache'}", "rollout.prompts=4", "rollout.generations=3",
                            "training.max_steps=3", "training.logging_steps=1", "evaluation.at_start=false",
                            "evaluation.every_n_steps=null", "evaluation.num_bootstrap=10", *options])
    return build


def said(text):
    return {"choices": [{"message": {"content": text}, "finish_reason": "stop"}], "usage": {}}


def test_a_server_writes_the_prompts_of_a_run_and_is_asked_for_none_twice(config, completions_server):
    """It goes away after six answers, in the middle of the second round."""
    asked, most = [], {"answers": 6}

    def answer(request):
        question = request["messages"][0]["content"]
        if len(asked) >= most["answers"]:
            return (401, {}, b"the key is not valid any more")
        asked.append(question)
        assert (request["temperature"], request["top_p"]) == (0.6, 0.9) and "Human:" not in question
        return said("I cannot." if len(asked) == 2 else f"<request>Say {fresh('', len(asked))[9:-10]}</request>")
    server = completions_server(answer)
    made = config("rollout.new_prompts.kind=server", f"rollout.new_prompts.url={server.url}",
                  "rollout.new_prompts.model=m", "rollout.new_prompts.concurrency=1",
                  "training.effective_batch_size=12", method="rloo")
    with pytest.raises(ServerError):
        experiment.train(made)
    most["answers"] = 10_000
    outcome = experiment.train(made)
    assert outcome.state == "done" and len(asked) == len(set(asked)) == 13      # 12 prompts, one of which twice
    told = [json.loads(line) for line in (outcome.path / "metrics.jsonl").read_text().splitlines()]
    told = [line for line in told if "new_prompts/asked" in line]
    assert [(line["new_prompts/asked"], line["new_prompts/kept"], line["new_prompts/unparsable"]) for line in told] == [
        (5, 4, 1), (4, 4, 0), (4, 4, 0)]
    rounds = [[json.loads(line) for line in file.read_text().splitlines()]
              for file in sorted((outcome.path / "rounds").glob("round-*.jsonl"))]
    answered = [list(dict.fromkeys(row["prompt"] for row in rows)) for rows in rounds]
    assert [len(prompts) for prompts in answered] == [4, 4, 4] and len({*sum(answered, [])}) == 12
    assert all(re.fullmatch(r"\n\nHuman: Say w\d+ .*\n\nAssistant:", prompt) for prompts in answered
               for prompt in prompts)
    manifest = json.loads((outcome.path / "manifest.json").read_text())
    assert {"examples", "new_prompts"} <= set(manifest["seeds"]["streams"])


def test_a_policy_that_cannot_write_prompts_ends_the_run_in_one_message(config):
    with pytest.raises(DataError, match="round 0: 8 requests for 4 new prompts gave 0: 8 could not be read") as caught:
        experiment.train(config("rollout.new_prompts.kind=policy", "rollout.new_prompts.attempts=2",
                                "rollout.new_prompts.max_tokens=8", "model.config.max_position_embeddings=1024"))
    assert caught.value.exit_code == 2


def test_a_policy_that_has_learnt_to_write_prompts_does(tmp_path, config, monkeypatch):
    """Words of two letters between brackets: learnt from rows that show two and write a third.  And a run that ends
    while the second round's are answered goes on to the same bits, without asking for these prompts again."""
    draw = stream(1, "words")
    words = list(dict.fromkeys("".join(draw.choice(["a", "b"], draw.integers(3, 9))) for _ in range(200)))
    rows = [{"prompt": f"[{one}]\n\n[{other}]", "completion": f"[{third}]", "label": True}
            for one, other, third in zip(words[::3], words[1::3], words[2::3])]
    for name, lines in (("rows", rows), ("own", [{"prompt": word, "completion": "!", "label": True}
                                                 for word in words[:20]])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "ask.txt").write_text("{{ examples }}")
    common = ["task=custom", "data.source=completions", "data.block_size=64", "data.max_documents=null",
              "evaluation.scenarios.unconditional=null", "evaluation.best=null", "evaluation.heldout_tokens=0"]
    tuned = experiment.train(config(*common, f"data.path={tmp_path / 'rows.jsonl'}", "training.max_steps=300",
                                    "training.learning_rate=5e-3", "model.vocab_size=260", method="mle"))
    new = {"kind": "policy", "shots": 2, "written_shots": 1, "template": tmp_path / "ask.txt", "temperature": 1.0,
           "pattern": "'[{{ prompt }}]'", "max_tokens": 16, "similarity": 1.0, "max_length": 12}
    options = [*common, f"data.path={tmp_path / 'own.jsonl'}", f"init_from.run={tuned.path}", "scorer.name=lexicon",
               "scorer.words=[a]", *(f"rollout.new_prompts.{name}={value}" for name, value in new.items())]
    outcome = experiment.train(config(*options, method="rloo"))
    files = sorted((outcome.path / "rounds").glob("prompts-*.jsonl"))
    rounds = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    assert len(rounds) > 1 and [counts["kept"] for counts, *_ in rounds] == [4] * len(rounds)
    found = [row["prompt"] for _, *rows in rounds for row in rows]
    assert len(set(found)) == len(found) and not set(found) & set(words[:20])
    assert sum(set(text) <= {"a", "b"} for text in found) > 0.9 * len(found)

    class Gone(Exception):
        pass
    write, asked = Writer.write, []

    def written(self, policy, prompts, number, progress):
        if number == 1:
            raise Gone
        return write(self, policy, prompts, number, progress)
    again = config(*options, f"output_dir={tmp_path / 'again'}", "training.save_steps=1", method="rloo")
    with monkeypatch.context() as patched:
        patched.setattr(Writer, "write", written)
        with pytest.raises(Gone):
            experiment.train(again)
    monkeypatch.setattr(ModelWriter, "answer", lambda self, questions, numbers, answer=ModelWriter.answer: (
        asked.append(len(questions)), answer(self, questions, numbers))[1])
    resumed = experiment.train(again)
    assert sum(asked) == sum(counts["asked"] for counts, *_ in rounds[2:])
    for file in [*(outcome.path / "rounds").glob("*.jsonl"), outcome.path / "metrics.jsonl"]:
        assert file.read_bytes() == (resumed.path / file.relative_to(outcome.path)).read_bytes(), file.name


@pytest.mark.parametrize("options, method, problem", [
    (["kind=policy"], "spin", "rollout.new_prompts: spin takes the completions that the data have"),
    (["kind=server"], "self_rewarding", "rollout.new_prompts.url: missing: a writer of prompts of kind server needs"),
    (["kind=model"], "best_of_n", "rollout.new_prompts.model: missing"),
    (["kind=policy", "written_shots=9"], "ppo", "rollout.new_prompts.written_shots: must be at most shots=8"),
    (["kind=policy", "similarity=0"], "ppo", "rollout.new_prompts.similarity: must be above 0 and at most 1"),
    (["kind=policy", "pattern=request"], "ppo", "rollout.new_prompts: the pattern of new prompts \"request\" needs"),
    (["kind=policy", "template=gone.txt"], "ppo", "rollout.new_prompts: gone.txt"), (["kind=rule"], "ppo", "expected")])
def test_what_cannot_be(config, options, method, problem):
    with pytest.raises(ConfigError, match=problem):
        config(*(f"rollout.new_prompts.{option}" for option in options), method=method)


def test_what_else_cannot_be(config):
    with pytest.raises(ConfigError, match="rollout.with_original takes the completions that the data have"):
        config("rollout.new_prompts.kind=policy", "rollout.with_original=true")
    with pytest.raises(ConfigError, match="synthetic_pii yields texts without prompts"):
        config("task=pii", "rollout.new_prompts.kind=policy")
