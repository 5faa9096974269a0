"""Tokens per second of our mle run over the fastest plain PyTorch loop we can write, in one process, interleaved.

    python benchmarks/train_speed.py [--tokens 400000] [--repetitions 3] [--precision auto] [--threads N]

Both train the same model from the same weights on the same rows with the same optimiser, schedule, clipping and
precision.  The plain loop has no logging, no checkpoints, no NaN check, no callbacks: forward, F.cross_entropy on the
model's own logits, backward, clip, fused AdamW.  Ours is `ScoredTextTrainer` as `train.py` runs it, evaluation and
checkpoints switched off (they are not training), logging every ten steps.  Rounds alternate; the figure is the ratio of
medians, since a machine that does other things varies by a third.  The share of the measured matmul rate says how far
both are from the hardware; peak memory is read in a process of its own for each.
"""

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch.nn import functional as F

from apo.config import load_config
from apo.dry_run import matmul_rate
from apo.host import reuse_freed_memory
from apo.training_arguments import resolve_precision

WARM_UP_STEPS = 5


def parts_of(precision: str, tokens: int):
    from apo.evaluation import scorers_of
    from apo.experiment import build
    config = load_config(["task=pep8", "method=mle", f"training.precision={precision}",
                          f"training.num_tokens={tokens}", "training.warmup_ratio=0"])
    return config, build(config, scorers_of(config), config.model)


class Rows:
    """Batches made beforehand, so that neither side pays for reading them."""

    epoch, documents_seen = 0.0, 0

    def __init__(self, batches):
        self.batches, self.at = batches, 0

    def next(self):
        self.at += 1
        return self.batches[(self.at - 1) % len(self.batches)]

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def ours(config, parts, batches, state) -> float:
    from apo.rundir import RunDirectory
    from apo.trainer import ScoredTextTrainer
    parts.policy.model.load_state_dict(state)
    folder = Path(tempfile.mkdtemp(prefix="apo-speed-"))
    trainer = ScoredTextTrainer(parts.policy, parts.objective, Rows(batches), config.training, run=RunDirectory(folder),
                                seed=1, max_steps=len(batches),
                                tokens_per_step=batches[0].input_ids_BT.numel())
    trainer._save_checkpoint = lambda *_: None
    clock = {}
    step = trainer.training_step

    def timed(*arguments):
        if trainer.step == WARM_UP_STEPS:
            clock["start"] = time.perf_counter()
        return step(*arguments)
    trainer.training_step = timed
    trainer.fit()
    seconds = time.perf_counter() - clock["start"]
    shutil.rmtree(folder)
    return seconds


def plain(config, parts, batches, state, device) -> float:
    model = parts.policy.model.to(device)
    model.load_state_dict(state)
    model.train()
    training = config.training
    optimizer = torch.optim.AdamW(model.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay,
                                  fused=True)
    steps = len(batches)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, (steps - step) / steps))
    bf16 = resolve_precision(training.precision) == "bf16"
    for number, batch in enumerate(batches):
        if number == WARM_UP_STEPS:
            start = time.perf_counter()
        ids = batch.input_ids_BT.to(device, non_blocking=True)
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            logits = model(input_ids=ids, use_cache=False).logits
            loss = F.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]).float(), ids[:, 1:].reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(options) -> dict:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config, parts = parts_of(options.precision, options.tokens)
    per_step, steps = config.training.effective_batch_size * config.data.block_size, parts.steps
    batches = [parts.source.next() for _ in range(steps)]
    state = {name: value.clone() for name, value in parts.policy.model.state_dict().items()}
    sides = {"ours": lambda: ours(config, parts, batches, state),
             "plain": lambda: plain(config, parts, batches, state, device)}
    if options.only:
        sides[options.only]()
        return {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    rates = {name: [] for name in sides}
    for _ in range(options.repetitions):
        for name, side in sides.items():
            rates[name].append((steps - WARM_UP_STEPS) * per_step / side())
    parameters = sum(p.numel() for p in parts.policy.model.parameters())
    return {"rates": rates, "parameters": parameters, "precision": resolve_precision(options.precision),
            "matmul": matmul_rate(resolve_precision(options.precision))}


def peak_memory(side: str, options) -> float:
    """Of a process that does only this side, in MB."""
    command = [sys.executable, __file__, "--only", side, "--tokens", "60000", "--precision", options.precision,
               "--threads", str(options.threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])["peak_mb"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=400_000, help="per round and side")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", choices=("ours", "plain"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    reuse_freed_memory()        # for both sides: a process has one allocator
    result = measure(options)
    if options.only:
        print(json.dumps(result))
        return
    medians = {name: statistics.median(rates) for name, rates in result["rates"].items()}
    print(f"{result['parameters']:,} parameters, {result['precision']}, {options.threads} threads, "
          f"{options.repetitions} interleaved rounds of {options.tokens:,} tokens")
    print(f"{'':8}{'tokens/s':>10}{'of matmul':>11}{'peak MB':>9}   rounds")
    for name, median in medians.items():
        share = 6 * result["parameters"] * median / result["matmul"]
        rounds = " ".join(f"{rate:,.0f}" for rate in result["rates"][name])
        print(f"{name:8}{median:>10,.0f}{share:>11.0%}{peak_memory(name, options):>9,.0f}   {rounds}")
    print(f"matmul here: {result['matmul'] / 1e9:,.0f} GFLOP/s")
    print(f"ours / plain: {medians['ours'] / medians['plain']:.2f}")


if __name__ == "__main__":
    main()
