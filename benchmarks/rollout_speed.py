"""Learning from own samples: our experience against a loop around `model.generate`, our PPO step against TRL's.

    python benchmarks/rollout_speed.py --make-peer      # once: TRL 0.11.4 in an environment of its own, some 1.4 GB
    python benchmarks/rollout_speed.py [--rounds 3] [--repetitions 3] [--precision bf16] [--threads 2]

Sides take turns, each in a process of its own; figures are medians, ratios are of medians, tokens are those of answers.
The model is a Llama of 3.7 M parameters that was trained for a minute on functions of the standard library, so that
its answers end by themselves, of lengths that differ as they do; a prompt is a function's first line, an answer has at
most 128 tokens.

*Experience* is what a method has before it trains: sampled answers at temperature 1, scores (the share of blanks),
log-probabilities under policy and reference, and values.  Ours is `Rounds` as `train.py` has it, its file on the disk
and PPO's advantages included.  The plain loop samples with transformers' `generate`, the whole model cast to bf16 where
the precision is bf16 (faster there than autocast), in its best batch size, and asks policy and reference about padded
rows.

*A PPO step* takes 64 answers that are given to all sides: log-probabilities, values, advantages, then 4 epochs of
minibatches of 16, fused AdamW, clipped gradients; once with 32 + 64 tokens each, once with the model's own answers.
Ours is the Trainer on `Rounds`, whose writer gives the answers.  Plain is the same work by hand: only answers reach the
head, rows are batched by length where that is free, no entropy is computed and nothing is logged.  TRL is the last
release with the classic PPOTrainer; it needs transformers 4.46, hence its own environment, and is left out where that
is not there.  Beside the speed stands the mean log p of the last round's answers after training: all do the same work.

All but TRL have the allocator's setting of `apo/host.py`; TRL runs with it and without.  The first round is not timed.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import rollout_work as work
from rollout_plain import experience_of_generate, ppo_of_plain
from timed import in_turns, make_peer, peer_python, report_side, seconds_of, side

PEER = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "apo-benchmarks" / "trl-0.11.4"
PEER_PACKAGES = (["torch==2.13.0"],
                 ["trl==0.11.4", "transformers==4.46.3", "accelerate==1.1.1", "datasets==3.6.0", "numpy==2.4.*",
                  "rich"])      # which TRL imports and does not name


# ---- ours ------------------------------------------------------------------------------------------------------------

def our_rounds(folder: Path, options, policy, objective, pool, writer, tokenizer, **rollout):
    """`Rounds` on the prompts of a pool that judge by `score`.  `writer`: class."""
    import numpy as np

    from apo.evaluation import Template
    from apo.experience.prompts import Prompts
    from apo.experience.rounds import Rounds
    from apo.experience.writing import Judged
    from apo.models.reference import reference_of
    from apo.rollouts.generate import generate
    from apo.schema import EvaluationConfig, RolloutConfig, ScenarioConfig
    objective.reference = reference_of(policy)
    rollout = RolloutConfig(max_new_tokens=work.NEW_TOKENS, **rollout)
    template = Template.of(ScenarioConfig(), EvaluationConfig(), tokenizer)

    def judge(pairs, number, check):
        return Judged(np.array([work.score(text) for _, text in pairs]), [{} for _ in pairs])

    # `train.py` samples in bf16 where the hardware has it, whatever the precision of training; here all are equal.
    written_by = writer(rollout, tokenizer, template, [], [], EvaluationConfig().batch_size, 1,
                        partial(generate, precision=options.precision))
    return Rounds(rollout, objective, Prompts(pool, 0), policy, written_by, judge, 1, work.MINIBATCH, work.MICRO_BATCH,
                  options.precision, folder)


def experience_of_ours(folder: Path, options) -> dict:
    from apo.experience.prompts import Prompt
    from apo.experience.writing import Writer
    from apo.models.policy import Policy
    from apo.objectives.base import objectives
    model, tokenizer = work.loaded(folder)
    prompts = [Prompt(ids, tokenizer.decode(ids[1:]), []) for ids in work.given(folder)["prompts"]]
    with tempfile.TemporaryDirectory() as rounds:
        source = our_rounds(Path(rounds) / "run" / "rounds", options, Policy(model, value_head=True),
                            objectives.get("ppo")(beta=work.BETA), prompts, Writer, tokenizer,
                            prompts=work.SAMPLED)
        seconds = tokens = 0
        for number in range(options.rounds + 1):
            source.skipped = True           # the next batch is the first of another round
            start = time.perf_counter()
            source.next()
            if number:
                seconds += time.perf_counter() - start
                tokens += sum(map(len, source.kept.completion_ids))
    return {"rate": tokens / seconds, "mean_length": tokens / (work.SAMPLED * options.rounds)}


def ppo_of_ours(folder: Path, options, kind: str) -> dict:
    from apo.config import load_config
    from apo.experience.prompts import Prompt
    from apo.experience.writing import Writer
    from apo.models.policy import Policy
    from apo.objectives.base import objectives
    from apo.rollouts.generate import Continuation
    from apo.rundir import RunDirectory
    from apo.trainer import ScoredTextTrainer

    class Given(Writer):
        def write(self, policy, prompts, number, progress):
            return [Continuation(prompt.given, prompt.given[-1] == end) for prompt in prompts]

    model, tokenizer = work.loaded(folder)
    end, episodes = tokenizer.eos_token_id, work.given(folder)[kind]
    policy, objective = Policy(model, value_head=True), objectives.get("ppo")(beta=work.BETA)
    prompts = [Prompt(prompt, tokenizer.decode(prompt[1:]), answer) for prompt, answer, _ in episodes]
    per_round = work.EPOCHS * work.EPISODES // work.MINIBATCH
    steps = per_round * (options.rounds + 1)
    config = load_config(["task=hh", "method=ppo", f"training.precision={options.precision}",
                          f"training.max_steps={steps}", f"training.learning_rate={work.LEARNING_RATE}",
                          "training.lr_scheduler_type=constant", "training.warmup_ratio=0", "training.weight_decay=0",
                          f"training.effective_batch_size={work.MINIBATCH}",
                          f"training.per_device_train_batch_size={work.MICRO_BATCH}"])
    with tempfile.TemporaryDirectory() as rounds:
        run = RunDirectory(Path(rounds) / "run")
        source = our_rounds(run.rounds, options, policy, objective, prompts, Given, tokenizer, prompts=work.EPISODES,
                            epochs=work.EPOCHS)
        trainer = ScoredTextTrainer(policy, objective, source, config.training, run=run, seed=1, max_steps=steps,
                                    tokens_per_step=1)
        seconds = seconds_of(trainer, per_round)
    # every prompt comes once, in an order of its own: as many tokens as there are in all, less those of the first round
    first = sum(len(prompts[i].given) for i in source._chosen(0))
    tokens = sum(len(answer) for _, answer, _ in episodes) - first
    return {"rate": tokens / seconds, "logp": work.mean_logp(policy.model.eval(), episodes[-work.EPISODES:])}


# ---- TRL -------------------------------------------------------------------------------------------------------------

def ppo_of_trl(folder: Path, options, kind: str) -> dict:
    """Run by the peer's Python: nothing of ours is imported."""
    warnings.simplefilter("ignore")
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
    from trl import AutoModelForCausalLMWithValueHead, PPOConfig, PPOTrainer
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), pad_token="<|endoftext|>",
                                        padding_side="right")
    model, reference = (AutoModelForCausalLMWithValueHead.from_pretrained(
        LlamaForCausalLM.from_pretrained(folder), summary_dropout_prob=0.0) for _ in range(2))
    torch.nn.init.zeros_(model.v_head.summary.weight)
    torch.nn.init.zeros_(model.v_head.summary.bias)
    config = PPOConfig(batch_size=work.EPISODES, mini_batch_size=work.MINIBATCH, ppo_epochs=work.EPOCHS,
                       learning_rate=work.LEARNING_RATE, adap_kl_ctrl=False, init_kl_coef=work.BETA, gamma=work.GAMMA,
                       lam=work.LAMBDA, cliprange=work.CLIP, cliprange_value=work.CLIP,
                       vf_coef=work.VALUE_COEF, max_grad_norm=1.0,
                       accelerator_kwargs={"mixed_precision": "bf16" if options.precision == "bf16" else "no",
                                           "cpu": True})
    optimizer = torch.optim.AdamW(model.parameters(), lr=work.LEARNING_RATE, weight_decay=0.0, fused=True)
    trainer = PPOTrainer(config, model, reference, tokenizer, optimizer=optimizer)
    episodes = work.given(folder)[kind]
    for number in range(options.rounds + 1):
        if number == 1:
            start = time.perf_counter()
        own = episodes[number * work.EPISODES:(number + 1) * work.EPISODES]
        prompts, answers, rewards = zip(*own)
        trainer.step([torch.tensor(prompt) for prompt in prompts], [torch.tensor(answer) for answer in answers],
                     [torch.tensor(reward) for reward in rewards])
    seconds = time.perf_counter() - start
    tokens = sum(len(answer) for _, answer, _ in episodes[work.EPISODES:])
    return {"rate": tokens / seconds, "logp": work.mean_logp(model.pretrained_model.eval(), episodes[-work.EPISODES:])}


# ---- the race --------------------------------------------------------------------------------------------------------

SIDES = {"experience ours": experience_of_ours,
         **{f"experience generate {batch}": partial(experience_of_generate, batch=batch) for batch in (128, 256)},
         **{f"{kind} {name}": partial(run, kind=kind) for kind in ("equal", "ragged")
            for name, run in {"ours": ppo_of_ours,
                              **{f"plain {attention} {rows}": partial(ppo_of_plain, micro_batch=rows,
                                                                      attention=attention)
                                 for attention in ("sdpa", "eager") for rows in (16, 8)},
                              "trl": ppo_of_trl, "trl with allocator": ppo_of_trl}.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="timed, in a process")
    parser.add_argument("--repetitions", type=int, default=3, help="processes of each side")
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--train-steps", type=int, default=work.TRAIN_STEPS)
    parser.add_argument("--only", default="", help="sides whose names begin so: experience, equal, ragged")
    parser.add_argument("--peer", type=Path, default=PEER, help=f"environment with TRL 0.11.4, by default {PEER}")
    parser.add_argument("--make-peer", action="store_true", help="make that environment, and nothing else")
    parser.add_argument("--side", choices=[*SIDES, "prepare"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make_peer:
        make_peer(options.peer, *PEER_PACKAGES)
    elif options.side:
        run_side(options)
    else:
        race(options)


def run_side(options) -> None:
    import torch
    torch.set_num_threads(options.threads)
    if not options.side.endswith(" trl"):
        from apo.host import reuse_freed_memory
        reuse_freed_memory()
    run = work.prepare if options.side == "prepare" else SIDES[options.side]
    report_side(**(run(options.folder, options) or {}))


def race(options) -> None:
    python = peer_python(options.peer)
    names = [name for name in SIDES if name.startswith(options.only)]
    if not python.exists():
        names = [name for name in names if " trl" not in name]
        print(f"without TRL: no environment in {options.peer} (--make-peer makes it)", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--folder", folder, "--rounds", str(options.rounds), "--precision", options.precision,
                     "--threads", str(options.threads), "--train-steps", str(options.train_steps)]
        print("preparing model and answers", file=sys.stderr)
        side(__file__, "prepare", arguments)
        lengths = [len(answer) for _, answer, _ in work.given(Path(folder))["ragged"]]
        found = in_turns(__file__, names, options.repetitions, arguments,
                         {name: str(python) for name in names if " trl" in name})
    print(f"{options.precision}, {options.threads} threads, {options.repetitions} processes a side, {options.rounds} "
          f"timed rounds in each; ragged answers: {statistics.mean(lengths):.0f} tokens on average, quartiles "
          f"{', '.join(f'{each:.0f}' for each in statistics.quantiles(lengths))}")
    show(found)


def show(found: dict[str, list[dict]]) -> None:
    rates = {name: statistics.median(run["rate"] for run in runs) for name, runs in found.items()}
    print(f"{'':28}{'tokens/s':>9}{'log p after':>13}{'peak MB':>9}  runs")
    for name, runs in found.items():
        after = f"{runs[0]['logp']:.4f}" if "logp" in runs[0] else ""
        print(f"{name:28}{rates[name]:>9,.0f}{after:>13}{max(run['peak_mb'] for run in runs):>9,.0f}  "
              f"{' '.join(f'''{run['rate']:,.0f}''' for run in runs)}")
    for part, rivals in (("experience", ("generate",)), ("equal", ("plain", "trl", "trl with")),
                         ("ragged", ("plain", "trl", "trl with"))):
        for rival in rivals:
            theirs = {name: rate for name, rate in rates.items() if name.startswith(f"{part} {rival}")}
            if theirs and f"{part} ours" in rates:
                best = max(theirs, key=theirs.get)
                print(f"{part}: ours / {best.removeprefix(part).strip()} {rates[f'{part} ours'] / rates[best]:.2f}")


if __name__ == "__main__":
    main()
