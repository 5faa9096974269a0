"""Stack Exchange: scores, pairs and Markdown by hand, the source, and the counts of real questions."""

import gzip
import json
import math
import time
from collections import Counter

import pytest

from apo.data.sources.base import sources
from apo.data.stack_exchange import SPLITS, Answer, Question, answer_score, html_to_markdown, pairs, read_question
from apo.errors import ConfigError, DataError
from apo.schema import DataConfig

QUESTIONS = "stack_exchange/questions.jsonl.gz"


def source(path):
    return sources.get("stack_exchange")(DataConfig(source="stack_exchange", path=path))


def rankings(path):
    return list(source(path).rankings())


def refused(path):
    with pytest.raises(DataError) as error:
        rankings(path)
    return str(error.value)


def answers_of(*scores):
    """Answers 1, 2, ... with these scores, all from 0 to 6 by votes alone."""
    return [Answer(number, f"answer {number}", 2**score - 1, False) for number, score in enumerate(scores, 1)]


def raw_row(**changes):
    return {"qid": 7, "site": "tea.stackexchange.com", "title": "How long?", "question": "<p>Green <em>tea</em>.</p>\n",
            "answers": [{"answer_id": 8, "text": "<p>Two minutes.</p>\n", "score": -3, "selected": False},
                        {"answer_id": 9, "text": "<p>One.</p>\n", "score": 0, "selected": True},
                        {"answer_id": 11, "text": "<p>Three.</p>\n", "score": 1, "selected": False},
                        {"answer_id": 10, "text": "<p>Five.</p>\n", "score": 12, "selected": False}], **changes}


# --------------------------------------------------------------------------------------------------------------- scores

@pytest.mark.parametrize("votes, accepted, score", [
    (0, False, 0), (1, False, 1), (2, False, 2), (3, False, 2), (4, False, 2), (5, False, 3), (10, False, 3),
    (11, False, 4), (1023, False, 10), (-1, False, -1), (-500, False, -1), (-1, True, 0), (0, True, 1), (7, True, 4)])
def test_scores(votes, accepted, score):
    """1 + 4 = 5 has log2 2.32, 1 + 5 = 6 has 2.58; 1 + 10 = 11 has 3.46, 1 + 11 = 12 has 3.58."""
    assert answer_score(votes, accepted) == score


def test_no_number_of_votes_lies_between_two_scores():
    """So that half to even or half up is the same: the boundaries 2^(k + 1/2) are irrational, and stay so in floats."""
    for k in range(20):
        below = math.isqrt(2 ** (2 * k + 1))        # the whole part of 2^(k + 1/2)
        assert [answer_score(below - 1, False), answer_score(below, False)] == [k, k + 1]


# ---------------------------------------------------------------------------------------------------------------- pairs

def test_all_pairs_but_ties():
    found = [(better.answer_id, worse.answer_id) for better, worse in pairs(answers_of(2, 0, 2, 3), "q", seed=1)]
    assert found == [(1, 2), (4, 1), (3, 2), (4, 2), (4, 3)]
    assert pairs(answers_of(1, 1, 1), "q", seed=1) == pairs(answers_of(4), "q", seed=1) == []


def test_a_negative_answer_is_worse_than_one_without_votes():
    bad, plain = Answer(1, "a", -2, False), Answer(2, "b", 0, False)
    assert pairs([bad, plain], "q") == [(plain, bad)]


def test_the_draw_depends_on_seed_and_question_alone():
    answers = answers_of(0, 1, 2, 3, 4, 5, 6)
    drawn = pairs(answers, "q", 10, 1)
    assert len({(a.answer_id, b.answer_id) for a, b in drawn}) == 10 and all(a.score > b.score for a, b in drawn)
    assert pairs(answers[::-1], "q", 10, 1) == drawn == pairs(answers, "q", 10, 1)
    assert pairs(answers, "q", 10, 2) != drawn != pairs(answers, "p", 10, 1)
    assert len(pairs(answers, "q", None)) == 21 and set(map(id, sum(drawn, ()))) <= set(map(id, answers))


def test_every_pair_is_drawn_as_often_as_any_other():
    answers, times = answers_of(0, 1, 2, 3, 4), Counter()
    for question in range(2000):
        times.update((a.answer_id, b.answer_id) for a, b in pairs(answers, str(question), 3, 1))
    assert len(times) == 10 and all(abs(count - 600) < 5 * math.sqrt(600 * 0.7) for count in times.values())


def test_questions_are_divided_for_good():
    """By site and number and nothing else, in the shares promised."""
    split = [Question(qid, "tea.stackexchange.com", "", []).split for qid in range(4000)]
    for name, share in SPLITS.items():
        assert abs(split.count(name) - 4000 * share) < 5 * math.sqrt(4000 * share * (1 - share))
    assert split[7] == Question(7, "tea.stackexchange.com", "other", answers_of(1, 2)).split
    assert split != [Question(qid, "soup.stackexchange.com", "", []).split for qid in range(4000)]


# ------------------------------------------------------------------------------------------------------------- Markdown

@pytest.mark.parametrize("html, markdown", [
    ("<p>One <strong>b</strong> <em>i</em></p>\n\n<p>two</p>\n", "One **b** *i*\n\ntwo"),
    ("<h1>A</h1><h2>B</h2><h3>C_d</h3>", "# A\n\n## B\n\n### C\\_d"),
    ('<p><a href="http://x.org/a_b">here</a></p>', "[here](http://x.org/a_b)"),
    ("<ul><li>a</li><li>b</li></ul>", "* a\n* b"),
    ("<blockquote><p>said</p></blockquote><p>no</p>", "> said\n\nno"),
    ("<p>use <code>a_b &lt; c*d</code></p>", "use `a_b < c*d`"),
    ("<p>2 * 3 &lt; 7 &amp; so</p>", "2 \\* 3 < 7 & so"),
    ("<p>so $x_{1} * y_{2}$ and $$\na_b\n$$ not a_b</p>", "so $x_{1} * y_{2}$ and $$\na_b\n$$ not a\\_b"),
    ("notes.txt", "notes.txt"),
    ("<p>&#xD800; &#0;</p>", "\ufffd \ufffd"),
    ("<!-- nothing -->", ""),
    ("", ""),
])
def test_markdown(html, markdown):
    assert html_to_markdown(html) == markdown


def test_code_stays_as_it_is():
    code = '    if a < b && c:\n\n\treturn "&amp;"  # x_y * <b>\n        z'
    escaped = code.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert html_to_markdown(f"<p>so:</p>\r\n<pre><code>{escaped}\r\n</code></pre><p>x</p>") == (
        f"so:\n\n```\n{code}\n```\n\nx")


def test_code_names_its_language_and_its_fence_is_longer_than_any_inside():
    html = '<pre class="lang-py prettyprint-override"><code>a = """\n```\n"""\n</code></pre>'
    assert html_to_markdown(html) == '````py\na = """\n```\n"""\n````'
    assert html_to_markdown('<pre class="lang-none"><code>a</code></pre>') == "```\na\n```"


def test_code_in_a_list_is_indented_with_it():
    html = "<ol><li><p>do</p><pre><code>  a\n    b\n</code></pre></li></ol>"
    assert html_to_markdown(html) == "1. do\n\n   ```\n     a\n       b\n   ```"


def test_lines_are_not_wrapped():
    line = "word " * 500
    assert html_to_markdown(f"<p>{line}</p>") == line.strip()


@pytest.mark.parametrize("html", ["<pre>" + " " * 50_000 + "x</pre>", "$" * 5001, "<p>" * 10_000, "`" * 50_000])
def test_odd_posts_take_no_longer_than_others(html):
    start = time.perf_counter()
    html_to_markdown(html)
    assert time.perf_counter() - start < 5


def test_html_that_the_parser_rejects_is_read_all_the_same():
    assert html_to_markdown("<p>a</p>\n<![foo bar").startswith("a")


def test_html_nested_too_deeply_becomes_its_text():
    assert html_to_markdown("<blockquote>" * 5000 + "deep") == "deep"


# --------------------------------------------------------------------------------------------------------------- source

def test_a_raw_question(rows_file):
    """Scores 4 (12 votes), 1 (accepted, no votes), 1 (one vote) and -1: the tie stays, in the order of answer ids."""
    path = rows_file("a.jsonl", [raw_row()])
    [ranked] = rankings(path)
    assert ranked.prompt == "Question: How long?\n\nGreen *tea*.\n\nAnswer:"
    assert ranked.completions == [" Five.", " One.", " Three.", " Two minutes."]
    assert ranked.rewards == [4.0, 1.0, 1.0, -1.0]
    assert ranked.origin == f"{path}, row 1"


def test_documents_are_prompt_and_completion_ranked(rows_file):
    documents = list(source(rows_file("a.jsonl.gz", [raw_row()])).documents())
    assert [document.standing.rank for document in documents] == [0, 1, 1, 3]       # two of one score are a tie
    assert [document.scores[1] for document in documents] == [-4.0, -1.0, -1.0, 1.0]
    assert all(math.isnan(document.scores[0]) and document.texts[0].endswith("Answer:") for document in documents)


def test_a_prepared_question_gives_what_the_raw_one_gives(rows_file):
    """Markdown is not converted again: its escapes and angle brackets stay."""
    prepared = {"qid": 7, "site": "tea.stackexchange.com", "question": "How long?\n\nGreen *tea*.", "answers": [
        {"answer_id": 8, "text": "Two minutes.", "votes": -3, "score": -1, "accepted": False},
        {"answer_id": 9, "text": "One.", "votes": 0, "score": 1, "accepted": True},
        {"answer_id": 11, "text": "Three.", "votes": 1, "score": 1, "accepted": False},
        {"answer_id": 10, "text": "Five.", "votes": 12, "score": 4, "accepted": False}]}
    [raw], [same] = (rankings(rows_file(name, [row])) for name, row in (("a.jsonl", raw_row()), ("b.jsonl", prepared)))
    assert (raw.prompt, raw.completions, raw.rewards) == (same.prompt, same.completions, same.rewards)
    prepared["answers"][0]["text"] = "a\\_b <http://x.org>"
    assert rankings(rows_file("c.jsonl", [prepared]))[0].completions[-1] == " a\\_b <http://x.org>"


def test_what_has_no_answer_is_left_out(rows_file):
    empty = raw_row(answers=[{"answer_id": 1, "text": "<!-- nothing -->\n", "score": 1, "selected": False}])
    path = rows_file("a.jsonl", [raw_row(answers=[]), empty, raw_row(title=None)])
    assert [(ranked.origin, ranked.prompt) for ranked in rankings(path)] == [
        (f"{path}, row 3", "Question: Green *tea*.\n\nAnswer:")]
    assert "no question has an answer; there is nothing to train on" in refused(rows_file("b.jsonl", [empty]))


def test_pairs_as_on_the_hub(rows_file):
    rows = [{"qid": 1, "question": "Why?\n", "response_j": "So.", "response_k": "No.\n", "metadata": ["x"]},
            {"qid": 1, "question": "Why?", "response_j": "So.", "response_k": " "}]
    [ranked] = rankings(rows_file("a.jsonl", rows))
    assert (ranked.prompt, ranked.completions, ranked.rewards) == (
        "Question: Why?\n\nAnswer:", [" So.", " No."], None)
    assert [document.scores for document in source(rows_file("a.jsonl", rows)).documents()] == [None, None]


PAIRED = [{"qid": qid, "question": f"Why {qid}?", "date": "2010/08/31", "metadata": ["https://tea.stackexchange.com"],
           "response_j": "So.", "response_k": "No."} for qid in range(5)]
"""As in lvwerra/stack-exchange-paired."""


@pytest.fixture(params=["train-00000-of-00001.parquet", "a.parquet", "a.arrow"])
def local_copy(request, tmp_path):
    """The dataset's folders, each with a file of PAIRED."""
    import pyarrow
    import pyarrow.parquet
    table = pyarrow.Table.from_pylist(PAIRED)
    for split in SPLITS:
        (tmp_path / "paired/data" / split).mkdir(parents=True)
        file = tmp_path / "paired/data" / split / request.param
        if file.suffix == ".arrow":
            with pyarrow.ipc.new_stream(file, table.schema) as writer:
                writer.write_table(table)
        else:
            pyarrow.parquet.write_table(table, file)
    return tmp_path / "paired"


@pytest.mark.parametrize("folder", SPLITS)
def test_a_local_copy_of_the_paired_dataset(local_copy, folder):
    path = str(local_copy / "data" / folder)
    found = rankings(path)
    assert [(ranked.origin, ranked.prompt) for ranked in found] == [
        (f"{path}, row {qid + 1}", f"Question: Why {qid}?\n\nAnswer:") for qid in range(5)]
    assert all(ranked.completions == [" So.", " No."] and ranked.rewards is None for ranked in found)
    assert source(path).fingerprint() == source(path).fingerprint() and source(path).size().bytes > 500
    few = sources.get("stack_exchange")(DataConfig(source="stack_exchange", path=path, max_documents=3))
    assert [document.texts for document in few.limited()] == [
        [f"Question: Why {qid}?\n\nAnswer:", answer] for qid in (0, 1) for answer in (" So.", " No.")]


@pytest.mark.parametrize("limit, streamed", [(None, False), (4, True)])
def test_the_first_few_of_the_hub_are_streamed(monkeypatch, limit, streamed):
    """The whole is tens of gigabytes."""
    import datasets
    calls = []

    def load_dataset(name, **options):
        calls.append((name, options))
        made = datasets.Dataset.from_list(PAIRED)
        return made.to_iterable_dataset() if options["streaming"] else made
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    data = DataConfig(source="stack_exchange", path="lvwerra/stack-exchange-paired/data/rl", max_documents=limit)
    made = sources.get("stack_exchange")(data)
    assert len(list(made.limited())) == (limit or 10) and not made.local and made.size().bytes is None
    assert calls == [("lvwerra/stack-exchange-paired", {"split": "train", "streaming": streamed, "revision": None,
                                                        "data_dir": "data/rl"})]
    assert made.fingerprint() and len(calls) == (1 if streamed else 2)     # a stream is known by its name


def test_the_hub_out_of_reach(monkeypatch):
    import datasets
    name = "lvwerra/stack-exchange-paired/data/rl"
    said = refused(name)
    assert said.startswith(f"{name}: ") and said.endswith("download the dataset first, or run with offline=false")

    def unreachable(*args, **options):
        raise ConnectionError("Couldn't reach 'lvwerra/stack-exchange-paired' on the Hub (ConnectionError)")
    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    assert refused(name) == (f"{name}: Couldn't reach 'lvwerra/stack-exchange-paired' on the Hub (ConnectionError). "
                             "Check the network; with a downloaded copy, run with offline=true")


@pytest.mark.parametrize("row, message", [
    (raw_row(qid="7a"), '"qid" holds the text "7a" where a number is needed'),
    (raw_row(qid=7.5), '"qid" holds 7.5 where a whole number is needed'),
    (raw_row(question=None), '"question" holds nothing (null) where text is needed'),
    (raw_row(title=3), '"title" holds the number 3 where text is needed'),
    (raw_row(answers="none"), '"answers" is the text "none", not a list'),
    (raw_row(answers=["none"]), '"answers" holds the text "none" where an object is needed'),
    (raw_row(answers=[{"answer_id": 1, "text": "a", "selected": True}]), 'answer 1: no "score"; the row has'),
    (raw_row(answers=[{"answer_id": 1, "text": "a", "score": float("nan")}]), 'answer 1: "score" holds nan'),
    (raw_row(answers=[{"answer_id": 1, "text": 4, "score": 1}]), 'answer 1: "text" holds the number 4'),
    (raw_row(answers=[{"answer_id": 1, "text": "a", "score": 1, "selected": 1}]), '"selected" holds 1, not true or'),
    (raw_row(answers=[{"answer_id": i, "text": "a", "score": 1, "selected": True} for i in (1, 2)]), "several answers"),
    (raw_row(answers=[{"answer_id": 1, "text": "a", "score": 1}] * 2), "two answers have one answer_id"),
    ({"qid": 1, "question": "a"}, 'no "answers"; the row has "qid", "question"'),
    ({"question": "a", "response_j": "b"}, 'no "response_k"; the row has "question", "response_j"'),
    ({"question": "a", "response_j": "b", "response_k": 3}, '"response_k" holds the number 3 where text is needed'),
    ('{"qid": 1, "question": "\\ud800", "answers": []}', "half a surrogate pair"),
    ("[]", "a JSON list, not an object"),
])
def test_a_bad_row_is_named(rows_file, row, message):
    path = rows_file("a.jsonl", [raw_row(), row if isinstance(row, str) else json.dumps(row), raw_row()])
    said = refused(path)
    assert said.startswith(f"{path}, row 2: ") and message in said


def test_several_bad_rows_are_told_together(rows_file):
    said = refused(rows_file("a.jsonl", [raw_row(), *[{"qid": 1}] * 7]))
    assert said.startswith("the first 5 rows that cannot be used:") and said.count("\n") == 5


def test_files_that_are_not_there_or_not_whole(rows_file, tmp_path):
    with pytest.raises(ConfigError, match="data.path"):
        source(None)
    rows_file("mine.jsonl", [raw_row()])
    assert 'Did you mean "mine.jsonl"?' in refused(str(tmp_path / "mien.jsonl"))
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(json.dumps(raw_row()).encode() * 99)[:-20])
    assert "not a whole gzip file" in refused(str(tmp_path / "cut.jsonl.gz"))


def test_the_fingerprint_follows_contents(rows_file):
    a, b, same = (rows_file(name, [raw_row(qid=qid)]) for name, qid in (("a.jsonl", 1), ("b.jsonl", 2), ("c.jsonl", 1)))
    assert source(a).fingerprint() == source(same).fingerprint() != source(b).fingerprint()
    assert source([a, b]).fingerprint() != source([b, a]).fingerprint()
    assert len(rankings([a, b])) == 2 and source([a, b]).size().bytes > 500


# ------------------------------------------------------------------------------------------------------- real questions

def real_rows(shared_data):
    with gzip.open(shared_data(QUESTIONS), "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def score_by_counting(votes, accepted):
    """Without logarithms: k where 2^(k - 1/2) < 1 + votes < 2^(k + 1/2), squared to stay among whole numbers."""
    if votes < 0:
        return accepted - 1
    return sum((1 + votes) ** 2 > 2 ** (2 * k + 1) for k in range(40)) + accepted


def test_counts_of_real_questions(shared_data):
    """Pairs are of answers whose *scores* differ, not their votes (which would give 2,894, or 1,882 of ten at most)."""
    questions = [read_question(row) for row in real_rows(shared_data)]
    answers = [answer for question in questions for answer in question.answers]
    several = sum(len(question.answers) >= 2 for question in questions)
    assert (len(questions), several, len(answers)) == (1427, 710, 2690)
    assert sum(answer.score == -1 for answer in answers) == 81
    assert sum(len(pairs(question.answers, question.key, None)) for question in questions) == 2443
    assert sum(len(pairs(question.answers, question.key, 10)) for question in questions) == 1754


def test_counts_of_real_questions_counted_otherwise(shared_data):
    """From the rows: all pairs less the ties, which are counted by how often each score stands there.  All 81 negative
    answers are at -1, since none of them was accepted."""
    histograms, negative = [], []
    for row in real_rows(shared_data):
        histograms.append(Counter(score_by_counting(a["score"], a["selected"]) for a in row["answers"]))
        negative += [a["selected"] for a in row["answers"] if a["score"] < 0]
    untied = [math.comb(h.total(), 2) - sum(math.comb(n, 2) for n in h.values()) for h in histograms]
    sizes = [h.total() for h in histograms]
    assert (len(sizes), sum(size > 1 for size in sizes), sum(sizes)) == (1427, 710, 2690)
    assert (len(negative), any(negative), sum(h[-1] for h in histograms)) == (81, False, 81)
    assert (sum(untied), sum(min(n, 10) for n in untied)) == (2443, 1754)


def test_real_questions_are_ranked_by_their_scores(shared_data):
    rows = {(row["title"].strip(), len(row["answers"])): row for row in real_rows(shared_data)}
    found = rankings(str(shared_data(QUESTIONS)))
    assert len(found) == sum(bool(row["answers"]) for row in real_rows(shared_data)) == 1312
    for ranked in found:
        assert ranked.prompt.startswith("Question: ") and ranked.prompt.endswith("\n\nAnswer:")
        assert all(text[0] == " " and text[1:] == text.strip() != "" for text in ranked.completions)
        row = rows[ranked.prompt.split("\n")[0].removeprefix("Question: "), len(ranked.completions)]
        assert ranked.rewards == sorted((score_by_counting(a["score"], a["selected"]) for a in row["answers"]),
                                        reverse=True)


def test_code_of_real_posts_survives(shared_data):
    """Every line of every code block outside lists and quotations stands in the Markdown as it was."""
    from bs4 import BeautifulSoup
    lines = 0
    for row in real_rows(shared_data):
        for html in (row["question"], *(answer["text"] for answer in row["answers"])):
            blocks = BeautifulSoup(html, "html.parser").find_all("pre") if "<pre" in html else []
            for block in blocks:
                if not block.find_parent(["li", "blockquote"]):
                    kept = html_to_markdown(html).split("\n")
                    wanted = block.get_text().rstrip().split("\n")
                    lines += len(wanted)
                    assert not [line for line in wanted[:-1] if line.strip() and line not in kept]
    assert lines > 1000
