"""scripts/pii_recall.py: the table, a file of every name, and what it says of wrong files."""

import json

import pytest


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("pii_recall")


def write(path, *rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


TEXT = "Write to ann@example.com, not to Bob."
MAIL, NAME = ({"type": kind, "start": TEXT.index(word), "end": TEXT.index(word) + len(word)}
              for kind, word in (("EMAIL_ADDRESS", "ann@example.com"), ("PERSON", "Bob")))


def test_two_files_of_one_name_are_two_tables(script, tmp_path, capsys):
    one = write(tmp_path / "one" / "rows.jsonl", {"text": TEXT, "spans": [MAIL, NAME]})
    two = write(tmp_path / "two" / "rows.jsonl", {"text": TEXT, "spans": [MAIL]}, {"text": "Nothing.", "spans": []})
    assert script.main([one, two, "--least", "1"]) == 0
    first, second = capsys.readouterr().out.split(f"**{two}**")
    assert first.startswith(f"**{one}**: {len(TEXT)} characters, 1 filths, 0 of them beside every label")
    assert "| EMAIL_ADDRESS | 1 | 1 | 100% | 100% |\n| PERSON | 1 | 0 | 0% | 0% |" in first
    assert "| EMAIL_ADDRESS | 1 | 1 | 100% | 100% |" in second and "PERSON" not in second


def test_a_file_that_is_not_there(script, tmp_path, capsys):
    write(tmp_path / "rows.jsonl", {"text": TEXT, "spans": []})
    assert script.main([str(tmp_path / "row.jsonl")]) == 2
    assert capsys.readouterr().err.endswith('row.jsonl: no such file. Did you mean "rows.jsonl"?\n')


@pytest.mark.parametrize("row, message", [
    ({"text": TEXT}, 'no "spans", which is to be a list'),
    ({"text": TEXT, "span": []}, 'Did you mean "span"?'),
    ({"spans": []}, 'no "text", which is to be text'),
    ({"text": None, "spans": []}, '"text" is to be text, got None'),
    ({"text": TEXT, "spans": {"start": 1}}, '"spans" is to be a list'),
    ({"text": TEXT, "spans": [{"type": "PERSON", "start": 3}]}, "a span is"),
    ({"text": TEXT, "spans": [{**NAME, "end": 99}]}, f"characters from 0 to {len(TEXT)}"),
    ("{", "not JSON")])
def test_a_row_that_cannot_be_used_is_named_before_anything_is_printed(script, tmp_path, capsys, row, message):
    good = write(tmp_path / "good.jsonl", {"text": TEXT, "spans": [MAIL]})
    bad = write(tmp_path / "bad.jsonl", {"text": TEXT, "spans": [MAIL]}, row)
    assert script.main([good, bad]) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"{bad}, row 2: ") and message in said.err and not said.out
