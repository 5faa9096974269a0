"""Which of two models writes better, in the opinion of a language model behind a chat server: docs/judging.md.

    python scripts/judge.py RUN_A RUN_B --scenario replies --url http://localhost:8000/v1 --model NAME --out judged/a-b
    python scripts/judge.py a.jsonl b.jsonl --url https://api.openai.com/v1 --model gpt-4o --num 200 --out judged/a-b
    python scripts/judge.py RUN_A --against data --scenario replies --url URL --model NAME --out judged/a-data

A and B are run directories, of which the newest samples are taken, or JSONL files of {"prompt": ..., "text": ...}.
Every pair is asked in both orders: two requests.  Each answer is kept as it comes; the same command again asks only
what is missing, and finished it asks nothing.  The key is read from the environment (--api-key-env), stored nowhere.
"""

import argparse
import json
import sys
from dataclasses import asdict
from os.path import normpath
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from apo.console import say
from apo.errors import EvaluationError, RunError, ServerError, UserError

AGAINST_DATA = "the best known answers of the held-out data"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="judge.py", description=__doc__, allow_abbrev=False,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("a", metavar="A", help="a run directory or a JSONL file")
    made.add_argument("b", metavar="B", nargs="?", help="another one")
    made.add_argument("--against", choices=["data"], help="data: instead of B, the best known answer to each prompt in "
                                                          "the held-out data of A's run")
    made.add_argument("--scenario", help="whose samples to take, of run directories")
    made.add_argument("--num", type=int, default=100, metavar="N", help="pairs at most, the first ones (default 100)")
    made.add_argument("--url", required=True, help="of the API, such as http://localhost:8000/v1")
    made.add_argument("--model", required=True, metavar="NAME", help="the judge, as the server calls it")
    made.add_argument("--api-key-env", default="OPENAI_API_KEY", metavar="NAME",
                      help="environment variable with the server's key (default OPENAI_API_KEY)")
    made.add_argument("--template", type=Path, metavar="FILE",
                      help="another question, with {{ prompt }}, {{ first }} and {{ second }}")
    made.add_argument("--aspects", default="helpful,safe", metavar="WORD[,WORD]",
                      help="what is asked: which text is more ... (default helpful,safe)")
    made.add_argument("--max-tokens", type=int, default=300, metavar="N", help="of an answer (default 300)")
    made.add_argument("--temperature", type=float, default=0.0, metavar="T", help="of the judge (default 0)")
    made.add_argument("--concurrency", type=int, default=4, metavar="N", help="requests at once (default 4)")
    made.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the answers and results go")
    return made


def make_judge(options: argparse.Namespace) -> Any:
    from apo.judges import PairJudge, Question
    from apo.judges.question import TEMPLATE
    from apo.rollouts.chat_server import ChatServer
    aspects = tuple(word.strip() for word in options.aspects.split(",") if word.strip())
    question = Question.from_file(options.template, aspects) if options.template else Question(TEMPLATE, aspects)
    return PairJudge(ChatServer(options.url, options.model, options.api_key_env), question, options.max_tokens,
                     options.temperature, options.concurrency)


def make_pairing(options: argparse.Namespace) -> tuple[Any, dict[str, str]]:
    """The pairs, and the file that each side's texts are from."""
    from apo.judges.texts import find_texts, pair_up, pair_with_best, read_texts
    if (options.b is None) == (options.against is None):
        raise EvaluationError("Name two run directories or files, A and B; or A alone with --against data.")
    if options.num < 1:
        raise EvaluationError(f"--num {options.num}: it must be 1 or more.")
    a = find_texts(options.a, options.scenario)
    if options.against:
        pairing, b = pair_with_best(read_texts(a), best_answers(Path(options.a))), AGAINST_DATA
    else:
        b = find_texts(options.b, options.scenario)
        pairing = pair_up(read_texts(a), read_texts(b))
    if not pairing.pairs:
        raise EvaluationError(f"{a} and {b} have no prompt in common ({pairing.unpaired_a} and {pairing.unpaired_b} "
                              "texts): nothing can be paired. Take samples of the same scenario and prompts.")
    return pairing, {"a": str(a), "b": str(b)}


def best_answers(directory: Path) -> dict[str, str]:
    """Prompt -> the first of its best answers in the held-out data of a run.  EvaluationError where there are none."""
    from apo.config import config_from_file
    from apo.launch import set_environment
    from apo.report.rescore import Rescorer
    from apo.report.runs import open_run
    if not (directory / "config.yaml").is_file():
        raise EvaluationError(f"--against data: {directory} is no run directory (one with config.yaml), so nobody "
                              "knows its data.")
    run = open_run(directory, config_from_file)
    set_environment(run.config.offline)
    found: dict[str, str] = {}
    for document in Rescorer().corpus(run).documents("heldout"):
        if document.standing and document.standing.rank == 0:
            found.setdefault(document.texts[0], document.texts[1])
    if not found:
        raise EvaluationError(f"--against data: the data of {directory} have no answers to prompts.")
    return found


def refuse_another(path: Path, compared: dict[str, Any]) -> None:
    """One folder is one comparison; more pairs of it may be added."""
    from apo.rundir import read_json
    known = read_json(path) or {}
    if different := [name for name, value in compared.items() if known and known.get(name) != value]:
        raise RunError(f"{path} is the result of another comparison ({', '.join(different)}: not the same); choose "
                       "another folder with --out.")


def judge(options: argparse.Namespace) -> None:
    from apo.judges import Answers
    from apo.report.runs import write
    from apo.report.tables import show_tables
    asking = make_judge(options)
    pairing, files = make_pairing(options)
    pairs = pairing.pairs[:options.num]
    compared = {"a": normpath(options.a), "b": normpath(options.b) if options.b else AGAINST_DATA,
                "scenario": options.scenario, "judge": asking.describe()}
    refuse_another(options.out / "summary.json", compared)
    with Answers(options.out / "answers.jsonl") as asking.answers:
        say(f"{len(pairs)} pairs in both orders, at most {2 * len(pairs)} requests to {asking.server.url}")
        try:
            verdicts = asking.compare(pairs)
        except ServerError as problem:
            raise ServerError(f"{problem}; what was answered is kept ({asking.answers.added} answers of this call), "
                              "and the same command goes on from it") from None
        added = asking.answers.added
    found = {**compared, "files": files, "pairs": len(pairs), "pairs_left_out": len(pairing.pairs) - len(pairs),
             "unpaired_a": pairing.unpaired_a, "unpaired_b": pairing.unpaired_b, **summary(verdicts, asking.question)}
    write(options.out / "verdicts.jsonl", "".join(json.dumps(row(verdict)) + "\n" for verdict in verdicts))
    write(options.out / "summary.json", json.dumps(found, indent=2) + "\n")
    show_tables([table(found)])
    say(f"{added} requests made now; all of it in {options.out}")


def summary(verdicts: list[Any], question: Any) -> dict[str, Any]:
    from apo.judges.tally import tally, usage
    return {"aspects": {aspect: asdict(tally(verdicts, aspect)) for aspect in question.aspects}, **usage(verdicts)}


def row(verdict: Any) -> dict[str, Any]:
    """One pair, with all that was said of it."""
    answers = {name: {"choices": answer.choices, "text": answer.reply.text}
               for name, answer in (("a_first", verdict.forward), ("b_first", verdict.backward))}
    aspects = {**verdict.forward.choices, **verdict.backward.choices}
    return {**asdict(verdict.pair), "outcomes": {aspect: verdict.outcome(aspect) for aspect in aspects}, **answers}


def table(found: dict[str, Any]) -> Any:
    from apo.metrics.statistics import Interval
    from apo.report.tables import Table, interval_in_words
    rows = []
    for aspect, counts in found["aspects"].items():
        rate = interval_in_words(Interval(**counts["win_rate"])) if counts["win_rate"] else ""
        rows.append([aspect, *(str(counts[name]) for name in ("wins", "ties", "losses")), rate,
                     *map(percent, (counts["order_decided"], counts["first_place"])), str(counts["unparsable"])])
    notes = [f"A: {found['a']}; B: {found['b']}. Judge: {found['judge']['model']}.",
             "A text wins where it wins in both orders; all else is a tie, and half a win. order decided: pairs in "
             "which the same place won both times. first place: answers with a winner in which it stood first.",
             left_out(found), in_tokens(found)]
    return Table(f"A against B, more ...: {found['pairs']} pairs, each in both orders",
                 ["aspect", "wins", "ties", "losses", "win rate [95 %]", "order decided", "first place", "not read"],
                 rows, notes)


def percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def left_out(found: dict[str, Any]) -> str:
    unpaired = found["unpaired_a"] + found["unpaired_b"]
    parts = [f"{unpaired} texts without a partner" if unpaired else "",
             f"{found['pairs_left_out']} further pairs (--num)" if found["pairs_left_out"] else ""]
    return f"Left out: {', '.join(filter(None, parts))}." if any(parts) else ""


def in_tokens(found: dict[str, Any]) -> str:
    uncounted = found["requests_without_count"]
    if uncounted == found["requests"]:
        return f"{uncounted:,} requests; the server counts no tokens."
    tokens = f"{found['prompt_tokens']:,} tokens read and {found['completion_tokens']:,} written by the judge"
    missing = f" ({uncounted} not counted by the server)" if uncounted else ""
    return f"{found['requests']:,} requests, {tokens}{missing}."


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        judge(options)
    except UserError as problem:
        print(problem, file=sys.stderr)
        return problem.exit_code
    except KeyboardInterrupt:
        print("stopped; what was answered is kept, and the same command goes on from it", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
