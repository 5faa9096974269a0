"""Preference pairs per second of our dpo over TRL's DPOTrainer, on one model, one set of pairs and one machine.

    pip install trl==1.16.0
    python benchmarks/dpo_speed.py [--pairs 256] [--repetitions 3] [--precision bf16] [--threads N]

A fresh Llama of 3.5 M weights; prompts of 163 and answers of 61 tokens on average, of unlike lengths, made of random
words.  Both sides start from the same weights, take the same pairs in batches of 8, use fused AdamW and clip gradients,
and have the reference's log-probabilities computed beforehand, which is not timed (TRL: `precompute_ref_log_probs`, its
faster setting).  TRL runs without activation checkpointing, with logging every 100 steps, at its best.  Rounds
alternate and the figure is the ratio of medians, since a machine that does other things varies.  The mean loss of both
over the run stands beside: they do the same work.  Peak memory is each side's own, in a process of its own.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from timed import in_turns, report_side, seconds_of, trained_by_trl

BATCH, BETA, LEARNING_RATE, WORDS, WARM_UP = 8, 0.1, 1e-5, 2000, 2
PROMPT, ANSWER = 163, 61


def make_pairs(count: int) -> list[tuple[list[int], list[int], list[int]]]:
    """(prompt, chosen, rejected) token ids, geometric-like lengths with the means above."""
    rng = np.random.default_rng(0)

    def some(mean: int) -> list[int]:
        length = int(np.clip(rng.gamma(4, mean / 4), 8, 3 * mean))
        return rng.integers(2, WORDS + 2, length).tolist()

    return [(some(PROMPT), some(ANSWER), some(ANSWER)) for _ in range(count)]


def make_model():
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=WORDS + 2, hidden_size=256, intermediate_size=704, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=1024, tie_word_embeddings=True, pad_token_id=0,
        bos_token_id=None, eos_token_id=1))


def ours(pairs, precision: str) -> tuple[float, float]:
    """Seconds and mean loss of one pass over the pairs but the first steps."""
    from apo.cache import Cache
    from apo.config import load_config
    from apo.data.ranked import Items, RankedRows
    from apo.models.policy import Policy
    from apo.objectives.base import objectives
    from apo.reference_logps import reference_logps
    from apo.rundir import RunDirectory
    from apo.trainer import ScoredTextTrainer
    steps = len(pairs) // BATCH
    config = load_config(["task=hh", "method=dpo", f"training.precision={precision}", f"training.max_steps={steps}",
                          f"training.learning_rate={LEARNING_RATE}", "training.warmup_ratio=0",
                          f"training.effective_batch_size={BATCH}", "training.logging_steps=100"])
    store = store_of(pairs)
    documents = np.arange(2 * len(pairs)).reshape(-1, 2)
    rows = RankedRows(store, Items(documents), max_length=1024, end_id=1, effective_batch_size=BATCH, seed=1,
                      bucket_steps=config.data.bucket_steps)
    policy, objective = Policy(make_model()), objectives.get("dpo")(beta=BETA)
    with tempfile.TemporaryDirectory() as folder:
        rows.keep_reference(reference_logps(policy, rows, {}, Cache(folder), precision, BATCH))
        run = RunDirectory(Path(folder) / "run")
        trainer = ScoredTextTrainer(policy, objective, rows, config.training, run=run, seed=1, max_steps=steps,
                                    tokens_per_step=1)
        seconds = seconds_of(trainer, WARM_UP)
        losses = [json.loads(line)["loss"] for line in run.metrics_file.read_text().splitlines()]
    return seconds, losses[-1]


def store_of(pairs):
    from apo.data.store import TokenStore
    segments = [part for prompt, chosen, rejected in pairs for part in (prompt, [*chosen, 1], prompt, [*rejected, 1])]
    starts = np.cumsum([0, *map(len, segments)])
    count = len(segments)
    scores = np.where(np.arange(count) % 2 == 0, np.nan, np.arange(count) % 4 // 2)
    numbers_D = np.arange(count // 2, dtype=np.int32)
    return TokenStore(np.concatenate(segments).astype(np.uint16), starts, scores, np.zeros(count, np.int32),
                      np.arange(0, count + 1, 2), numbers_D % 2, numbers_D // 2)


def of_trl(pairs, precision: str) -> tuple[float, float]:
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.utils import logging
    from trl import DPOConfig, DPOTrainer
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1, **{f"w{i}": i for i in range(2, WORDS + 2)}},
                                       unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")

    def text(ids):
        return " ".join(f"w{i}" for i in ids)

    data = Dataset.from_list([{"prompt": "<eos> " + text(prompt), "chosen": " " + text(chosen),
                               "rejected": " " + text(rejected)} for prompt, chosen, rejected in pairs])
    with tempfile.TemporaryDirectory() as folder:
        config = DPOConfig(output_dir=folder, use_cpu=not torch.cuda.is_available(), bf16=precision == "bf16",
                           per_device_train_batch_size=BATCH, num_train_epochs=1, learning_rate=LEARNING_RATE,
                           warmup_steps=0, logging_steps=100, save_strategy="no", report_to=[], disable_tqdm=True,
                           precompute_ref_log_probs=True, gradient_checkpointing=False, max_length=1024, beta=BETA)
        trainer = DPOTrainer(model=make_model(), args=config, train_dataset=data, processing_class=tokenizer)
        return trained_by_trl(trainer, WARM_UP)


SIDES = {"ours": ours, "trl": of_trl}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    pairs = make_pairs(options.pairs)
    if options.side:
        seconds, loss = SIDES[options.side](pairs, options.precision)
        report_side(seconds=seconds, loss=loss)
        return
    found = in_turns(__file__, SIDES, options.repetitions,
                     ["--pairs", str(options.pairs), "--precision", options.precision,
                      *(["--threads", str(options.threads)] if options.threads else [])])
    timed = options.pairs - WARM_UP * BATCH
    rates = {side: timed / statistics.median(run["seconds"] for run in runs) for side, runs in found.items()}
    for side, runs in found.items():
        print(f"{side:<5} {rates[side]:6.1f} pairs/s  loss {runs[0]['loss']:.4f}  "
              f"peak {max(run['peak_mb'] for run in runs):,.0f} MB")
    print(f"ratio {rates['ours'] / rates['trl']:.2f}")


if __name__ == "__main__":
    main()
