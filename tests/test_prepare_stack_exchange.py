"""scripts/prepare_stack_exchange.py: from a dump to questions and pairs, whole or not at all, in little memory."""

import gzip
import json
import math
import os
import tracemalloc
from collections import Counter
from xml.sax.saxutils import quoteattr

import pytest

from apo.data.sources.base import sources
from apo.data.stack_exchange import SPLITS
from apo.schema import DataConfig

SITE = "tea.stackexchange.com"
RAW = "stack_exchange/raw/coffee_Posts.xml.gz"
QUESTIONS = "stack_exchange/questions.jsonl.gz"


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("prepare_stack_exchange")


@pytest.fixture
def prepare(script, tmp_path, capsys):
    """`prepare("Posts.xml")`: exit code, what was printed, and what was said of mistakes."""

    def run(path, *options, output="out"):
        code = script.main([str(path), str(tmp_path / output), *options])
        return code, *capsys.readouterr()
    return run


@pytest.fixture
def posts(tmp_path):
    """`posts(row, ...)`: a Posts.xml of one site; a row is a dict of attributes, or text as it is."""

    def write(*rows, name="Posts.xml", root="posts", head=""):
        body = "".join(f"  {row}\n" if isinstance(row, str) else
                       "  <row " + " ".join(f"{key}={quoteattr(str(value))}" for key, value in row.items()) + " />\n"
                       for row in rows)
        text = f'<?xml version="1.0" encoding="utf-8"?>\n{head}<{root}>\n{body}</{root}>\n'.encode()
        path = tmp_path / SITE / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
        return path
    return write


def question(number, **more):
    return {"Id": number, "PostTypeId": 1, "Score": 3, "Title": f"Why {number}?", "OwnerUserId": 40,
            "Body": f"<p>Body &amp; {number}</p>\n", **more}


def answer(number, parent, votes, **more):
    return {"Id": number, "PostTypeId": 2, "ParentId": parent, "Score": votes,
            "Body": f"<p>Answer {number}</p>", **more}


SMALL = (answer(5, 1, 12, ContentLicense="CC BY-SA 4.0", OwnerUserId=41), question(1, AcceptedAnswerId=7),
         {"Id": 2, "PostTypeId": 5, "Body": "a tag"}, question(3, ContentLicense="CC BY-SA 3.0"), answer(6, 1, -2),
         answer(7, 1, 0), answer(9, 3, 1), answer(8, 1, 1), answer(10, 99, 1), answer(11, 3, 1, Body="<!-- -->"))
"""Answers before and after their question; question 1 has scores 4, -1, 1 (accepted) and 1: 6 pairs, one a tie."""


def rows(folder, name):
    found = []
    for split in SPLITS:
        with gzip.open(folder / split / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
            found += [{**json.loads(line), "split": split} for line in file]
    return found


def bytes_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# --------------------------------------------------------------------------------------------------------------- output

def test_a_small_dump(prepare, posts, tmp_path):
    code, printed, said = prepare(posts(*SMALL))
    assert (code, said) == (0, "")
    counts = {line.split(maxsplit=1)[1]: int(line.split()[0]) for line in printed.split("\n")[:10]}
    assert counts == {
        "questions": 2, "with two answers or more": 1, "answers": 5, "of them with negative votes": 1,
        "of them accepted": 1, "pairs whose scores differ": 5, "of them kept": 5,
        "answers without their question, left out": 1, "answers without text, left out": 1,
        "posts of other kinds, left out": 1}
    first, second = sorted(rows(tmp_path / "out", "questions"), key=lambda row: row["qid"])
    assert {key: first[key] for key in first if key not in ("answers", "split")} == {
        "qid": 1, "site": SITE, "question": "Why 1?\n\nBody & 1", "url": f"https://{SITE}/questions/1",
        "license": "CC BY-SA", "author_id": 40}
    assert [(a["answer_id"], a["votes"], a["score"], a["accepted"]) for a in first["answers"]] == [
        (5, 12, 4, False), (7, 0, 1, True), (8, 1, 1, False), (6, -2, -1, False)]
    assert first["answers"][0] == {
        "answer_id": 5, "text": "Answer 5", "votes": 12, "score": 4, "accepted": False, "author_id": 41,
        "license": "CC BY-SA 4.0", "url": f"https://{SITE}/a/5"}
    assert (second["license"], [a["answer_id"] for a in second["answers"]]) == ("CC BY-SA 3.0", [9])


def test_pairs_have_the_columns_of_the_hub(prepare, posts, tmp_path):
    prepare(posts(*SMALL))
    found = rows(tmp_path / "out", "pairs")
    assert [(row["answer_id_j"], row["answer_id_k"]) for row in found] == [(5, 6), (5, 7), (5, 8), (7, 6), (8, 6)]
    assert {key: found[1][key] for key in found[1] if key != "split"} == {
        "question": "Why 1?\n\nBody & 1", "response_j": "Answer 5", "response_k": "Answer 7", "qid": 1, "site": SITE,
        "answer_id_j": 5, "answer_id_k": 7, "license": "CC BY-SA, CC BY-SA 4.0", "url": f"https://{SITE}/questions/1"}


def test_both_outputs_can_be_trained_on(prepare, posts, tmp_path):
    prepare(posts(*SMALL))
    split = next(row["split"] for row in rows(tmp_path / "out", "questions") if row["qid"] == 1)
    ranked, paired = (next(iter(sources.get("stack_exchange")(DataConfig(path=str(path))).rankings())) for path in (
        tmp_path / "out" / split / "questions.jsonl.gz", tmp_path / "out" / split / "pairs.jsonl.gz"))
    assert ranked.prompt == paired.prompt == "Question: Why 1?\n\nBody & 1\n\nAnswer:"
    assert (ranked.rewards, ranked.completions[0]) == ([4.0, 1.0, 1.0, -1.0], " Answer 5")
    assert (paired.rewards, paired.completions) == (None, [" Answer 5", " Answer 6"])


def many(count=60, answers=6):
    return [row for q in range(1, count + 1) for row in
            [question(q), *(answer(1000 * q + i, q, 2**i - 1) for i in range(answers))]]


def test_the_same_input_gives_the_same_bytes(prepare, posts, tmp_path):
    """Whatever the order of the rows in the dump, whether it is gzipped, and when it is made."""
    for output, path in (("a", posts(*many())), ("b", posts(*many()[::-1])), ("c", posts(*many(), name="P.xml.gz"))):
        assert prepare(path, output=output)[0] == 0
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b") == bytes_of(tmp_path / "c")
    prepare(posts(*many()), "--seed", "2", output="d")
    a, d = bytes_of(tmp_path / "a"), bytes_of(tmp_path / "d")
    assert all((a[path] == d[path]) == (path.name == "questions.jsonl.gz") for path in a)


def test_a_prepared_file_is_prepared_again_to_itself(prepare, posts, tmp_path):
    prepare(posts(*many()))
    assert prepare(tmp_path / "out/rl/questions.jsonl.gz", output="again")[0] == 0
    assert bytes_of(tmp_path / "again/rl") == bytes_of(tmp_path / "out/rl")
    assert {row["split"] for row in rows(tmp_path / "again", "questions")} == {"rl"}


def test_a_question_stands_in_one_part_and_others_do_not_move_it(prepare, posts, tmp_path):
    prepare(posts(*many()))
    prepare(posts(*many(90)), output="later")
    places, later = ({row["qid"]: row["split"] for row in rows(tmp_path / name, "questions")}
                     for name in ("out", "later"))
    assert len(places) == 60 and len(later) == 90 and places.items() <= later.items()
    assert all(places[row["qid"]] == row["split"] for row in rows(tmp_path / "out", "pairs"))
    assert set(places.values()) == set(SPLITS)


def test_pairs_of_a_question_are_limited(prepare, posts, tmp_path):
    for limit, kept in ((10, 10), (4, 4), (99, 15)):
        _, printed, _ = prepare(posts(*many()), "--limit", str(limit), output=f"out{limit}")
        assert "         900 pairs whose scores differ" in printed and f"{60 * kept:>12,} of them kept" in printed
        assert set(Counter(row["qid"] for row in rows(tmp_path / f"out{limit}", "pairs")).values()) == {kept}


def test_json_lines_give_what_the_dump_gives(prepare, posts, tmp_path):
    prepare(posts(*SMALL))
    row = {"qid": 1, "site": SITE, "title": "Why 1?", "question": "<p>Body &amp; 1</p>\n", "author_id": 40, "answers": [
        {"answer_id": number, "text": f"<p>Answer {number}</p>", "score": votes, "selected": number == 7}
        for number, votes in ((6, -2), (5, 12), (7, 0), (8, 1))]}
    (tmp_path / "q.jsonl").write_text(json.dumps(row) + "\n")
    assert prepare(tmp_path / "q.jsonl", output="json")[0] == 0
    dump, again = ([{key: pair[key] for key in pair if key != "license"} for pair in rows(tmp_path / name, "pairs")]
                   for name in ("out", "json"))
    assert dump == again


# ------------------------------------------------------------------------------------------------------------- mistakes

@pytest.mark.parametrize("content, message", [
    (b"plain text\n", "line 1: not whole XML (syntax error)"),
    (b"", "line 1: not whole XML (no element found)"),
    (b"<posts>\n<row Id='1'", "not whole XML (unclosed token)"),
    (b"<posts>\n", "not whole XML (no element found)"),
    (b"<posts></posts>", "no rows; there is nothing to prepare"),
    (b"<users><row Id='1'/></users>", "holds <users>, not <posts>"),
    (b"<posts><row Id='1' PostTypeId='5'/></posts>", "no questions"),
    (b"<posts><row Id='1' PostTypeId='1' Body='\xff'/></posts>", "not whole XML (not well-formed (invalid token))"),
])
def test_a_file_that_is_no_dump(prepare, tmp_path, content, message):
    (tmp_path / "Posts.xml").write_bytes(content)
    code, printed, said = prepare(tmp_path / "Posts.xml", "--site", SITE)
    assert (code, printed) == (2, "") and str(tmp_path / "Posts.xml") in said and message in said
    assert os.listdir(tmp_path) == ["Posts.xml"]


@pytest.mark.parametrize("row, message", [
    ({"Id": 1, "PostTypeId": 1, "Title": "a"}, 'no "Body"; the row has "Id"'),
    ({"Id": 1}, 'no "PostTypeId"'),
    (question("x"), '"Id" holds the text "x" where a whole number is needed'),
    (question(2**70), '"Id" holds a number of more than 64 bits'),
    ({key: value for key, value in answer(3, 1, 1).items() if key != "Score"}, 'no "Score"'),
    ({key: value for key, value in answer(3, 1, 1).items() if key != "ParentId"}, 'no "ParentId"'),
    (question(77), "post 77 stands there twice"),
])
def test_a_bad_row_is_named_by_its_line(prepare, posts, tmp_path, row, message):
    path = posts(question(77), row, question(78))
    code, _, said = prepare(path)
    assert code == 2 and said.startswith(f"{path}, line 4: ") and message in said and said.count("\n") == 1
    assert os.listdir(tmp_path) == [SITE]


def test_a_file_that_was_cut_off(prepare, posts, tmp_path):
    path = posts(*many(), name="Posts.xml.gz")
    path.write_bytes(path.read_bytes()[:-30])
    code, _, said = prepare(path)
    assert code == 2 and "not a whole gzip file" in said and os.listdir(tmp_path) == [SITE]


@pytest.mark.parametrize("doctype", [
    '<!DOCTYPE posts>\n', '<!DOCTYPE posts SYSTEM "http://127.0.0.1:9/x.dtd">\n',
    '<!DOCTYPE posts [<!ENTITY a SYSTEM "file:///etc/passwd">]>\n',
    '<!DOCTYPE posts [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>\n'])
def test_documents_with_types_and_entities_are_refused(prepare, posts, doctype):
    code, _, said = prepare(posts(question(1), '<row Id="3" PostTypeId="1" Body="&b;" />', head=doctype))
    assert code == 2 and "has a document type" in said


def test_the_site_must_be_known(prepare, posts, tmp_path):
    (tmp_path / "Posts.xml").write_bytes(posts(*SMALL).read_bytes())
    (tmp_path / "dump").mkdir()
    (tmp_path / "Posts.xml").rename(tmp_path / "dump/Posts.xml")
    code, _, said = prepare(tmp_path / "dump/Posts.xml")
    assert code == 2 and "add --site NAME.stackexchange.com" in said
    assert prepare(tmp_path / "dump/Posts.xml", "--site", SITE)[0] == 0
    assert {row["site"] for row in rows(tmp_path / "out", "questions")} == {SITE}


def test_what_is_there_is_not_touched(prepare, posts, tmp_path):
    (tmp_path / "out").mkdir()
    assert prepare(posts(*SMALL))[0] == 0
    before = bytes_of(tmp_path / "out")
    code, _, said = prepare(posts(*many()))
    assert code == 2 and "is there already" in said and bytes_of(tmp_path / "out") == before


def test_other_mistakes(prepare, posts, tmp_path, capsys):
    assert 'Did you mean "Posts.xml"?' in prepare(posts(*SMALL).with_name("Post.xml"))[2]
    packed = posts(*SMALL).with_name("Posts.7z")
    packed.write_bytes(b"7z")
    assert "unpack it first" in prepare(packed)[2]
    (tmp_path / "q.jsonl").write_text('{"qid": 1}\n')
    code, _, said = prepare(tmp_path / "q.jsonl")
    assert code == 2 and said.startswith(f"{tmp_path / 'q.jsonl'}, row 1: no \"site\"")
    (tmp_path / "file").write_text("")
    code, _, said = prepare(posts(*SMALL), output="file/out")
    assert code == 2 and "cannot be written" in said
    with pytest.raises(SystemExit) as error:
        prepare(posts(*SMALL), "--limit", "0")
    assert error.value.code == 2 and "positive whole number" in capsys.readouterr().err


def test_killed_in_the_middle_nothing_is_left(script, posts, tmp_path, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt
    monkeypatch.setattr(script, "pairs", stop)
    assert script.main([str(posts(*SMALL)), str(tmp_path / "out")]) == 130
    assert os.listdir(tmp_path) == [SITE] and "nothing is kept" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------------------- memory

def test_memory_does_not_grow_with_the_dump(script, posts, tmp_path, monkeypatch):
    """30 MB of posts, their Markdown left out for speed; the trace sees Python's memory, not the database's 32 MB."""
    body = "<p>" + "word &amp; " * 600 + "</p>"
    path = posts(*(row for q in range(1, 1301) for row in
                   (question(q, Body=body), answer(10_000 + q, 1301 - q, q, Body=body),
                    answer(20_000 + q, q, 0, Body=body))))
    assert path.stat().st_size > 30e6
    monkeypatch.setattr(script, "html_to_markdown", lambda html: html[:50])
    tracemalloc.start()
    try:
        counts = script.prepare(path, tmp_path / "out", SITE, 10, 1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (counts["questions"], counts["answers"], counts["pairs"]) == (1300, 2600, 1300)
    assert peak < 8e6


# ------------------------------------------------------------------------------------------------------------ real data

def test_a_real_dump(prepare, shared_data, tmp_path):
    """Against a count from the dump's own text, without a parser of XML and without logarithms."""
    code, printed, _ = prepare(shared_data(RAW), "--site", "coffee.stackexchange.com")
    counts = {line.split(maxsplit=1)[1]: int(line.split()[0].replace(",", "")) for line in printed.split("\n")[:7]}
    with gzip.open(shared_data(RAW), "rt", encoding="utf-8") as file:
        lines = [dict(pair.split('="', 1) for pair in line.strip()[5:-3].rstrip().removesuffix('"').split('" '))
                 for line in file if line.strip().startswith("<row")]
    by_id = {line["Id"]: [] for line in lines if line["PostTypeId"] == "1"}
    accepted = {line.get("AcceptedAnswerId") for line in lines if line["PostTypeId"] == "1"}
    for line in lines:
        if line["PostTypeId"] == "2":
            votes = int(line["Score"])
            score = -1 if votes < 0 else sum((1 + votes) ** 2 > 2 ** (2 * k + 1) for k in range(40))
            by_id[line["ParentId"]].append((score + (line["Id"] in accepted), votes))
    untied = [sum(a > b for a, _ in found for b, _ in found) for found in by_id.values()]
    assert code == 0 and list(counts.values()) == [
        len(by_id), sum(len(found) > 1 for found in by_id.values()), sum(map(len, by_id.values())),
        sum(votes < 0 for found in by_id.values() for _, votes in found),
        sum(line["Id"] in accepted for line in lines), sum(untied), sum(min(n, 10) for n in untied)]
    assert list(counts.values()) == [173, 65, 254, 5, 75, 107, 102]


def test_real_questions_and_the_dump_they_came_from_agree(prepare, shared_data, tmp_path):
    code, printed, _ = prepare(shared_data(QUESTIONS))
    assert code == 0 and [int(line.split()[0].replace(",", "")) for line in printed.split("\n")[:7]] == [
        1427, 710, 2690, 81, 790, 2443, 1754]
    assert prepare(shared_data(RAW), "--site", "coffee.stackexchange.com", output="dump")[0] == 0
    kept = [[{key: row[key] for key in row if key != "license"} for row in rows(tmp_path / name, "pairs")
             if row["site"] == "coffee.stackexchange.com"] for name in ("out", "dump")]
    assert kept[0] == kept[1] and len(kept[0]) == 102
    sizes = Counter(row["split"] for row in rows(tmp_path / "out", "questions"))
    assert all(abs(sizes[name] - 1427 * share) < 5 * math.sqrt(1427 * share * (1 - share))
               for name, share in SPLITS.items())
