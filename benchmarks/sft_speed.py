"""Tokens per second of our mle over TRL's SFTTrainer and over a plain PyTorch loop, on one model and one set of texts.

    pip install trl==1.16.0
    python benchmarks/sft_speed.py [--documents 4000] [--repetitions 3] [--precision bf16] [--threads N]

A fresh Llama of 3.5 M weights; documents of 120 random words on average, of unlike lengths, at most 256 tokens with
their end, so that none is cut and a token counts once on every side.  Steps of 8 rows of at most 256 tokens, fused
AdamW, gradients clipped, logging every 100 steps.  TRL gets tokens, not text, and runs in three ways: `wrapped`
(documents cut into rows of 256, as ours are), `bfd` (whole documents packed, each attending to itself) and `unpacked`
(a document a row, padded to the longest); the ratio is over its best.  Ours is the Trainer as `train.py` runs it, on
packed rows.  Plain is forward, `F.cross_entropy`, backward, clip, step, on the rows of ours.  All have the
allocator's setting of `apo/host.py`.  Each side runs in a process of its own, rounds alternate, the figure is the
ratio of medians; the first steps are not timed.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from dpo_speed import WORDS, make_model
from timed import in_turns, report_side, seconds_of, trained_by_trl
from torch.nn import functional as F

from apo.host import reuse_freed_memory

ROWS, BLOCK, MEAN, LEARNING_RATE, WARM_UP = 8, 256, 120, 1e-4, 5


def make_documents(count: int) -> list[list[int]]:
    """Token ids with the end of text behind."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.gamma(4, MEAN / 4, count), 8, BLOCK - 1).astype(int)
    return [[*rng.integers(2, WORDS + 2, length).tolist(), 1] for length in lengths]


def rows_of(documents):
    """Our packed rows: the documents in an order drawn for the epoch, one after another, cut every BLOCK tokens."""
    from apo.data.sampling import PackedRows
    from apo.data.store import TokenStore
    from apo.data.thresholds import View
    count, texts = len(documents), [document[:-1] for document in documents]    # the end is put before each there
    store = TokenStore(np.concatenate(texts).astype(np.uint16), np.cumsum([0, *map(len, texts)]), np.zeros(count),
                       np.zeros(count, np.int32), np.arange(count + 1), *[np.full(count, -1, np.int32)] * 2)
    return PackedRows(store, View(eos_id=1), block_size=BLOCK, effective_batch_size=ROWS, seed=1)


def steps_of(documents) -> int:
    return sum(map(len, documents)) // (ROWS * BLOCK)


def ours(documents, precision: str) -> tuple[float, float]:
    """Tokens per second and mean loss of one pass over the documents but the first steps."""
    from apo.config import load_config
    from apo.models.policy import Policy
    from apo.objectives.base import objectives
    from apo.rundir import RunDirectory
    from apo.trainer import ScoredTextTrainer
    steps = steps_of(documents)
    config = load_config(["task=pep8", "method=mle", f"training.precision={precision}",
                          f"training.max_steps={steps}", f"training.learning_rate={LEARNING_RATE}",
                          "training.warmup_ratio=0", f"training.effective_batch_size={ROWS}",
                          "training.logging_steps=100"])
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory(Path(folder) / "run")
        trainer = ScoredTextTrainer(Policy(make_model()), objectives.get("mle")(), rows_of(documents), config.training,
                                    run=run, seed=1, max_steps=steps, tokens_per_step=ROWS * BLOCK)
        seconds = seconds_of(trainer, WARM_UP)
        loss = json.loads(run.metrics_file.read_text().splitlines()[-1])["loss"]
    return (steps - WARM_UP) * ROWS * BLOCK / seconds, loss


def plain(documents, precision: str) -> tuple[float, float]:
    steps, rows, model = steps_of(documents), rows_of(documents), make_model().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    for step in range(steps):
        if step == WARM_UP:
            start = time.perf_counter()
        ids_BT = rows.next().input_ids_BT
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = model(input_ids=ids_BT, use_cache=False).logits
            loss = F.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]).float(), ids_BT[:, 1:].reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return (steps - WARM_UP) * ROWS * BLOCK / (time.perf_counter() - start), loss.item()


def of_trl(documents, precision: str, packing: str | None) -> tuple[float, float]:
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from transformers.utils import logging
    from trl import SFTConfig, SFTTrainer
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(output_dir=folder, use_cpu=not torch.cuda.is_available(), bf16=precision == "bf16",
                           per_device_train_batch_size=ROWS, num_train_epochs=1, learning_rate=LEARNING_RATE,
                           warmup_steps=0, logging_steps=100, save_strategy="no", report_to=[], disable_tqdm=True,
                           gradient_checkpointing=False, max_length=BLOCK, packing=packing is not None,
                           **({"packing_strategy": packing} if packing else {}))
        trainer = SFTTrainer(model=make_model(), args=config, train_dataset=Dataset.from_dict({"input_ids": documents}),
                             processing_class=tokenizer)
        steps = len(trainer.get_train_dataloader())
        seconds, loss = trained_by_trl(trainer, WARM_UP)
    # of the steps that were timed, about: rows are of unlike lengths where they are not packed
    tokens = sum(map(len, documents)) * (steps - WARM_UP) / steps
    return tokens / seconds, loss


SIDES = {"ours": ours, "plain": plain, "wrapped": partial(of_trl, packing="wrapped"),
         "bfd": partial(of_trl, packing="bfd"), "unpacked": partial(of_trl, packing=None)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=4000)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.side:
        reuse_freed_memory()
        rate, loss = SIDES[options.side](make_documents(options.documents), options.precision)
        report_side(rate=rate, loss=loss)
        return
    found = in_turns(__file__, SIDES, options.repetitions,
                     ["--documents", str(options.documents), "--precision", options.precision,
                      *(["--threads", str(options.threads)] if options.threads else [])])
    rates = {side: statistics.median(run["rate"] for run in runs) for side, runs in found.items()}
    for side, runs in found.items():
        rounds = " ".join(f"{run['rate']:,.0f}" for run in runs)
        print(f"{side:<9}{rates[side]:8,.0f} tokens/s  loss {runs[0]['loss']:.4f}  "
              f"peak {max(run['peak_mb'] for run in runs):,.0f} MB  rounds {rounds}")
    best = max(("wrapped", "bfd", "unpacked"), key=rates.get)
    print(f"ours / TRL's best ({best}): {rates['ours'] / rates[best]:.2f}; ours / plain: "
          f"{rates['ours'] / rates['plain']:.2f}")


if __name__ == "__main__":
    main()
