"""Examples of judging, and of answering, from answers that people ranked: docs/methods/self_rewarding.md.

    python scripts/prepare_eft.py ranked.jsonl OUT
    python scripts/prepare_eft.py oasst.jsonl.gz OUT --ift 3200 --lang en
    python scripts/prepare_eft.py ranked.jsonl OUT --writer outputs/custom/mle/HASH-s1/final --draws 4
    python scripts/prepare_eft.py ranked.jsonl OUT --url http://localhost:8000/v1 --model NAME

Reads rows that data.source=completions reads (a prompt with its completions and rewards, or `rank` in place of
`reward`, 0 the best), or messages of Open Assistant, flat or as trees, of which first questions with their ranked
answers are taken.  Writes JSON lines of prompt, completion and label, to be trained on with data.source=completions:

    OUT/train.jsonl     the judge's question about an answer, and a reply that ends with its mark
    OUT/eval.jsonl      the same of other prompts
    OUT/ift.jsonl       with --ift: the best answers to further prompts

The question is that of rollout.judge, so --template, --pattern, --low and --high have to be its options.  By default a
mark follows from the rank and is all of the reply.  With --writer or --url a model judges, and what it says of the
answers to a prompt is kept where its marks have the people's order.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Iterator

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from apo.data.dialogue import HEADS
from apo.data.sources.base import BadRow, Ranked, number_in, text_in, told
from apo.data.sources.completions import joined, ordered, ranked_of
from apo.data.sources.file import rows_of
from apo.disk import write_atomic
from apo.errors import DataError, UserError
from apo.judges.examples import Agreement, Example, balanced, by_rank, by_reward, by_writer, has_order
from apo.judges.rubric import PATTERN, Rubric
from apo.seeds import stream

MESSAGES = {"message_id", "message_tree_id"}
"""A row with one of them is Open Assistant's."""


# ------------------------------------------------------------------------------------------------------------- reading

def read(paths: list[Path], language: str | None) -> list[Ranked]:
    """Every prompt with its answers, best first.  Raises DataError."""
    found = []
    for path in paths:
        rows = list(told(rows_of(path), lambda row, origin: (origin, row), str(path)))
        if MESSAGES & rows[0][1].keys():
            found += told(_threads(rows), _ranked_thread(language), str(path))
        else:
            found += joined(told(rows, _ranked_row, str(path)))
    return [ranked for ranked in found if ranked is not None]


def _ranked_row(row: dict[str, Any], origin: str) -> Ranked:
    """Raises BadRow."""
    if row.get("rank") is not None and "reward" not in row:
        row = {**row, "reward": -number_in(row["rank"], "rank")}
    return ranked_of(row, origin)


def _threads(rows: list[tuple[str, dict[str, Any]]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Of each question that begins a tree, itself with its `replies`."""
    replies: dict[str, list[dict[str, Any]]] = {}
    for _, row in rows:
        if row.get("parent_id") is not None:
            replies.setdefault(row["parent_id"], []).append(row)
    for origin, row in rows:
        if isinstance(row.get("prompt"), dict):
            yield origin, row["prompt"]
        elif row.get("parent_id") is None:
            yield origin, {**row, "replies": replies.get(row.get("message_id"), [])}


def _ranked_thread(language: str | None):
    def read_thread(row: dict[str, Any], origin: str) -> Ranked | None:
        if row.get("role") != "prompter":
            raise BadRow('a tree begins with a message whose "role" is prompter')
        if row.get("deleted") or language is not None and row.get("lang") != language:
            return None
        answers = [each for each in row.get("replies") or [] if each.get("role") == "assistant"
                   and each.get("rank") is not None and not each.get("deleted")]
        asked = f"{HEADS['user']} {text_in(row.get('text'), 'text').strip()}{HEADS['assistant']}"
        texts = [f" {text_in(each.get('text'), 'text').strip()}" for each in answers]
        return ordered(Ranked(origin, asked, texts, [-number_in(each["rank"], "rank") for each in answers]))
    return read_thread


# ------------------------------------------------------------------------------------------------------------- writing

def divided(prompts: list[str], ift: int, share: float, seed: int) -> tuple[set[str], set[str]]:
    """Prompts whose best answer is learnt, and prompts of the evaluation; the rest is for training."""
    if ift and ift >= len(prompts):
        raise DataError(f"--ift {ift}: there are {len(prompts)} prompts, and some are needed to learn judging from")
    drawn = [prompts[place] for place in stream(seed, "eft").permutation(len(prompts))]
    held_out = max(round(share * (len(drawn) - ift)), 1) if share else 0
    return set(drawn[:ift]), set(drawn[ift:ift + held_out])


def judged(rubric: Rubric, rankings: list[Ranked],
           options: argparse.Namespace) -> tuple[list[list[Example]], Agreement | None]:
    """Examples of each ranking; none where a model's marks are in another order than people's.  And how often that
    was so, of a model."""
    if not (options.writer or options.url):
        by = by_reward if options.marks == "reward" else by_rank
        return [by(rubric, ranked) for ranked in rankings], None
    from apo.judges import Answers, ModelWriter, ServerWriter
    from apo.rollouts.chat_server import ChatServer
    from apo.schema import GenerationConfig
    if options.writer:
        generation = GenerationConfig(temperature=0.7, top_p=0.9, max_new_tokens=options.max_tokens)
        writer = ModelWriter.from_directory(options.writer, options.seed, generation=generation,
                                            chat_template=options.chat_template)
        return by_writer(rubric, writer, rankings, options.draws)
    with Answers(options.output / "answers.jsonl") as answers:
        server = ChatServer(options.url, options.model, options.api_key_env)
        writer = ServerWriter(server, answers, max_tokens=options.max_tokens)
        return by_writer(rubric, writer, rankings, options.draws)


def prepare(options: argparse.Namespace) -> list[str]:
    """Writes the files.  What is to be said of them."""
    rubric = (Rubric.from_file(options.template, options.pattern, options.low, options.high) if options.template else
              Rubric(pattern=options.pattern, low=options.low, high=options.high))
    every = read(options.files, options.lang)
    in_order = [ranked for ranked in every if has_order(ranked)]
    best: dict[str, str] = {}
    for ranked in every:
        if ranked.completions:
            best.setdefault(ranked.prompt, ranked.completions[0])
    learnt, held_out = divided(list(dict.fromkeys(ranked.prompt for ranked in in_order)), options.ift, options.eval,
                               options.seed)
    rankings = [ranked for ranked in in_order if ranked.prompt not in learnt]
    found, agreement = judged(rubric, rankings, options)
    parts: dict[str, list[Example]] = {"train": [], "eval": []}
    for ranked, examples in zip(rankings, found):
        parts["eval" if ranked.prompt in held_out else "train"] += examples
    if not parts["train"]:
        raise DataError(f"{len(every)} prompts, {len(rankings)} of them to judge, and no example of judging comes of "
                        "them: two answers of different rank are needed, and a writer that gives the better one more"
                        + ("" if agreement is None else f"\n{_agreed(agreement)}"))
    made = parts["train"]
    if options.balance:
        parts["train"] = balanced(made, options.seed)
    rows = {name: [each.row() for each in examples] for name, examples in parts.items()}
    if options.ift:
        rows["ift"] = [{"prompt": prompt, "completion": best[prompt], "label": True} for prompt in best
                       if prompt in learnt]
    for name, lines in rows.items():
        write_atomic(options.output / f"{name}.jsonl",
                     "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    said = [] if agreement is None else [_agreed(agreement)]
    return [*said, f"read     {len(every):9,}  prompts",
            f"dropped  {len(every) - len(in_order):9,}  of them without two answers of different rank",
            f"dropped  {found.count([]):9,}  of them whose marks are not in the people's order or cannot be read",
            f"dropped  {len(made) - len(parts['train']):9,}  examples of the most frequent mark",
            *(f"written  {len(lines):9,}  {options.output / name}.jsonl{_marks(parts.get(name, []))}"
              for name, lines in rows.items())]


def _agreed(agreement: Agreement) -> str:
    share = "" if agreement.share is None else f": agrees with people on {agreement.share:.1%}, ties as half"
    return (f"judge    {agreement.right:,} pairs in the people's order, {agreement.tied:,} tied, {agreement.wrong:,} "
            f"the other way round, {agreement.unread:,} with a mark that could not be read{share}")


def _marks(examples: list[Example]) -> str:
    counts = sorted(Counter(each.mark for each in examples).items())
    return "  marks " + ", ".join(f"{mark:g}: {count}" for mark, count in counts) if counts else ""


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="IN", help="JSONL, Parquet or CSV, also .gz")
    parser.add_argument("output", type=Path, metavar="OUT", help="a folder")
    parser.add_argument("--template", type=Path, help="of rollout.judge (default: ours)")
    parser.add_argument("--pattern", default=PATTERN, help=f'of rollout.judge (default: "{PATTERN}")')
    parser.add_argument("--low", type=float, default=0.0)
    parser.add_argument("--high", type=float, default=5.0)
    parser.add_argument("--marks", choices=("rank", "reward"), default="rank",
                        help="what a mark is: spread by rank from high to low (default), or the reward itself")
    parser.add_argument("--writer", help="a model's directory: it judges, and is kept where it agrees with people")
    parser.add_argument("--url", help="the same by a server of OpenAI's chat protocol")
    parser.add_argument("--model", help="its name there")
    parser.add_argument("--api-key-env", default="OPENAI_API_KEY")
    parser.add_argument("--chat-template", default="plain", help="of --writer, as data.chat_template (default: plain)")
    parser.add_argument("--draws", type=int, default=3, metavar="N", help="times that it is asked (default: 3)")
    parser.add_argument("--max-tokens", type=int, default=300, help="of what it says (default: 300)")
    parser.add_argument("--ift", type=int, default=0, metavar="N", help="prompts whose best answer goes to ift.jsonl, "
                        "and which are not judged (default: 0)")
    parser.add_argument("--eval", type=float, default=0.25, metavar="SHARE", help="of the prompts (default: 0.25)")
    parser.add_argument("--no-balance", dest="balance", action="store_false", help="keep all of the most frequent mark")
    parser.add_argument("--lang", help="of Open Assistant: messages of this language alone (en)")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_intermixed_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parsed(arguments)
    try:
        if options.output.is_file():
            raise DataError(f"{options.output} is a file; the last argument is the folder to write into")
        if any(path.resolve().parent == options.output.resolve() for path in options.files):
            raise DataError(f"{options.output} holds what is read; name another folder to write into")
        for name, right in (("draws", options.draws >= 1), ("ift", options.ift >= 0), ("eval", 0 <= options.eval < 1),
                            ("model", bool(options.model) or not options.url)):
            if not right:
                raise DataError(f"--{name} {getattr(options, name)}: makes no sense here; --help says what it is")
        said = prepare(options)
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print("\n".join(said))
    return 0


if __name__ == "__main__":
    sys.exit(main())
