"""How much faster than `model.generate`, and is it the same text?

    python benchmarks/generate_speed.py [--device cuda] [--samples 512] [--tokens 128] [--repeats 3] [--threads 2]

Samples `--samples` texts of exactly `--tokens` tokens (the end-of-text token is held back on both sides) at
temperature 0.7 and top_p 0.9, with `apo.rollouts.generate` and with transformers' `generate` at several batch sizes in
fp32 and in bf16 (the whole model cast, which is faster there than autocast).  Every setting runs once per round, round
after round, in a process of its own, so that a busy machine slows all alike; the table has medians, and the ratio is
ours over the best of theirs.

The model is a fresh Llama of 4 layers of 256, vocabulary 2,048 (3.7 M parameters), first trained for `--train-steps` on
the sources of the standard library: top-p over the flat distribution of an untrained model is a case that nobody meets;
`--train-steps 0` shows it.  Peak memory is the largest resident size of that setting's
process, everything included (torch and transformers alone take some 0.5 GB); with CUDA, the allocator's peak.

Checks: greedy text of both identical in fp32; and the first tokens sampled by both, by a chi-square test.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import small_model
import timed

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = (("ours", "bf16", 128), ("ours", "bf16", 256), ("ours", "fp32", 256),
            ("generate", "bf16", 128), ("generate", "bf16", 256), ("generate", "bf16", 512),
            ("generate", "fp32", 256))
WARM_UP_ROWS = 32


def main() -> None:
    args = arguments()
    from transformers.utils.logging import disable_progress_bar
    disable_progress_bar()
    if args.setting:
        serve(args)
        return
    import torch
    with tempfile.TemporaryDirectory() as folder:
        torch.set_num_threads(args.threads)
        small_model.make(Path(folder), small_model.library_files(), args.train_steps, args.heads)
        checks(Path(folder), args)
        compare(Path(folder), args)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--train-steps", type=int, default=120)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--setting", nargs=3, metavar=("ENGINE", "PRECISION", "BATCH"), help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    return parser.parse_args()


# ---- the two engines -------------------------------------------------------------------------------------------------

def loaded(folder: str | Path, args):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    torch.set_num_threads(args.threads)
    return (AutoModelForCausalLM.from_pretrained(folder).to(args.device).eval(), AutoTokenizer.from_pretrained(folder))


def ours(model, tokenizer, precision: str, batch: int, rows: int, tokens: int, seed: int, sample: bool = True):
    from apo.rollouts.generate import generate
    from apo.schema import GenerationConfig
    options = GenerationConfig(do_sample=sample, temperature=0.7, top_p=0.9, min_new_tokens=tokens,
                               max_new_tokens=tokens)
    texts = generate(model, [[tokenizer.eos_token_id]] * rows, options, tokenizer=tokenizer, seed=seed,
                     batch_size=batch, precision=precision)
    return [text.ids for text in texts]


def theirs(model, tokenizer, precision: str, batch: int, rows: int, tokens: int, seed: int, sample: bool = True):
    import torch
    torch.manual_seed(seed)
    warpers = {"temperature": 0.7, "top_p": 0.9, "top_k": 0} if sample else {}
    texts = []
    for start in range(0, rows, batch):
        prompts = torch.full((min(batch, rows - start), 1), tokenizer.eos_token_id, device=model.device)
        output = model.generate(input_ids=prompts, attention_mask=torch.ones_like(prompts), do_sample=sample,
                                min_new_tokens=tokens, max_new_tokens=tokens, pad_token_id=tokenizer.eos_token_id,
                                **warpers)
        texts += output[:, 1:].tolist()
    return texts


# ---- checks ----------------------------------------------------------------------------------------------------------

def checks(folder: Path, args) -> None:
    """Greedy text and sampled frequencies, in fp32."""
    model, tokenizer = loaded(folder, args)
    greedy = [engine(model, tokenizer, "fp32", 4, 4, args.tokens, 0, sample=False) for engine in (ours, theirs)]
    print(f"greedy text identical to generate's (fp32, {args.tokens} tokens): {greedy[0] == greedy[1]}")
    sampled = [[ids[1] for ids in engine(model, tokenizer, "fp32", 512, 2048, 2, 1)] for engine in (ours, theirs)]
    print(f"second sampled token, 2,048 texts each, chi-square p = {same_distribution(*sampled):.3f}")


def same_distribution(a: list[int], b: list[int], least: int = 10) -> float:
    """p-value of the hypothesis that both were drawn from one distribution; rare tokens are pooled."""
    import numpy as np
    from scipy.stats import chi2_contingency
    counts = np.stack([np.bincount(tokens, minlength=max(a + b) + 1) for tokens in (a, b)])
    common = counts.sum(0) >= least
    table = np.column_stack([counts[:, common], counts[:, ~common].sum(1)])
    return chi2_contingency(table[:, table.sum(0) > 0]).pvalue


# ---- the race --------------------------------------------------------------------------------------------------------

def compare(folder: Path, args) -> None:
    runners = {setting: start(setting, folder, args) for setting in SETTINGS}
    seconds = {setting: [] for setting in SETTINGS}
    memory = {}
    for repeat in range(args.repeats):
        for setting, runner in runners.items():
            print(repeat + 1, file=runner.stdin, flush=True)
            answer = json.loads(runner.stdout.readline())
            seconds[setting].append(answer["seconds"])
            memory[setting] = answer["peak_mb"]
        print(f"round {repeat + 1} of {args.repeats}", file=sys.stderr)
    for runner in runners.values():
        runner.stdin.close()
        runner.wait()
    show(seconds, memory, args)


def start(setting: tuple, folder: Path, args) -> subprocess.Popen:
    command = [sys.executable, __file__, "--setting", *map(str, setting), "--model", str(folder)]
    for name in ("device", "samples", "tokens", "threads"):
        command += [f"--{name}", str(getattr(args, name))]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    runner = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                              env={**os.environ, "PYTHONPATH": path})
    runner.stdout.readline()    # ready: loaded and warm
    return runner


def serve(args) -> None:
    """One setting: waits for a seed on standard input, samples, answers with seconds and peak memory."""
    import torch
    name, precision, batch = args.setting[0], args.setting[1], int(args.setting[2])
    model, tokenizer = loaded(args.model, args)
    if name == "generate" and precision == "bf16":
        model = model.to(torch.bfloat16)
    engine = ours if name == "ours" else theirs
    engine(model, tokenizer, precision, WARM_UP_ROWS, WARM_UP_ROWS, 8, 0)
    print("ready", flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        engine(model, tokenizer, precision, batch, args.samples, args.tokens, int(line))
        took = time.perf_counter() - began
        print(json.dumps({"seconds": took, "peak_mb": peak_mb(args.device)}), flush=True)


def peak_mb(device: str) -> float:
    import torch
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return timed.peak_mb()


def show(seconds: dict, memory: dict, args) -> None:
    tokens = args.samples * args.tokens
    speed = {setting: tokens / statistics.median(times) for setting, times in seconds.items()}
    best = max(value for (name, *_), value in speed.items() if name == "generate")
    print(f"\n{args.samples} samples x {args.tokens} tokens, {args.device}, {args.threads} threads, "
          f"median of {args.repeats} rounds\n\n{'':10}{'precision':>10}{'batch':>7}{'tokens/s':>10}"
          f"{'/ best generate':>17}{'peak MB':>9}")
    for setting in sorted(speed, key=speed.get, reverse=True):
        name, precision, batch = setting
        print(f"{name:10}{precision:>10}{batch:>7}{speed[setting]:>10,.0f}{speed[setting] / best:>16.2f}x"
              f"{memory[setting]:>9,.0f}")
    ratio = max(value for (name, *_), value in speed.items() if name == "ours") / best
    print(f"\nours at its best over generate at its best: {ratio:.2f}x")


if __name__ == "__main__":
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    main()
