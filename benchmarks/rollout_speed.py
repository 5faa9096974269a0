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
import json
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

import small_model
from timed import in_turns, make_peer, peer_python, report_side, seconds_of, side

PEER = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "apo-benchmarks" / "trl-0.11.4"
PEER_PACKAGES = (["torch==2.13.0"],
                 ["trl==0.11.4", "transformers==4.46.3", "accelerate==1.1.1", "datasets==3.6.0", "numpy==2.4.*",
                  "rich"])      # which TRL imports and does not name
TRAIN_STEPS = 240
NEW_TOKENS, SAMPLED = 128, 256
"""Of an answer at most; answers in a round of experience."""
EPISODES, EPOCHS, MINIBATCH, MICRO_BATCH = 64, 4, 16, 8
PROMPT, ANSWER = 32, 64
"""Tokens where all are of equal length."""
LEARNING_RATE, BETA, GAMMA, LAMBDA, CLIP, VALUE_COEF = 1.41e-5, 0.05, 1.0, 0.95, 0.2, 0.1


# ---- what all sides are given ----------------------------------------------------------------------------------------

def prepare(folder: Path, options) -> None:
    """The model, its tokenizer, prompts, and answers of equal and of natural lengths with their scores."""
    import torch

    from apo.rollouts.generate import generate
    from apo.schema import GenerationConfig
    functions = small_model.library_functions()
    small_model.make(folder, [first + rest for first, rest in functions], options.train_steps, heads=4)
    model, tokenizer = loaded(folder)
    end, count = tokenizer.eos_token_id, EPISODES * (options.rounds + 1)
    prompts = [[end, *tokenizer(first)["input_ids"]] for first, _ in functions]
    order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(1)).tolist()
    prompts = [prompts[i] for i in order if len(prompts[i]) <= 2 * PROMPT]
    written = generate(model, prompts[:count], GenerationConfig(max_new_tokens=NEW_TOKENS), tokenizer=tokenizer, seed=1)
    long = [tokenizer(functions[i][0] + functions[i][1])["input_ids"] for i in order]
    long = [ids for ids in long if len(ids) >= PROMPT + ANSWER - 1][:count]
    sets = {"ragged": list(zip(prompts, [each.ids for each in written])),
            "equal": [([end, *ids[:PROMPT - 1]], ids[PROMPT - 1:PROMPT + ANSWER - 1]) for ids in long]}
    assert all(len(episodes) == count for episodes in sets.values()), "too few functions for so many rounds"
    episodes = {kind: [(prompt, answer, score(tokenizer.decode(answer, skip_special_tokens=True)))
                       for prompt, answer in pairs] for kind, pairs in sets.items()}
    (folder / "work.json").write_text(json.dumps({"prompts": prompts, **episodes}))


def loaded(folder: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def score(text: str) -> float:
    """Something that costs nothing."""
    return text.count(" ") / (len(text) + 1)


def work_of(folder: Path) -> dict:
    return json.loads((folder / "work.json").read_text())


def mean_logp(model, episodes) -> float:
    """Of the tokens of these answers."""
    import torch
    with torch.no_grad():
        logps = [answer_logps(model, prompt, answer) for prompt, answer, _ in episodes]
    return float(torch.cat(logps).mean())


def answer_logps(model, prompt, answer):
    import torch
    logits_TV = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1:-1].float()
    return logits_TV.log_softmax(-1).gather(1, torch.tensor(answer)[:, None])[:, 0]


# ---- ours ------------------------------------------------------------------------------------------------------------

def our_rounds(folder: Path, options, policy, objective, pool, writer, tokenizer, **rollout):
    """`Rounds` on the prompts of a pool that judge by `score`.  `writer`: class."""
    import numpy as np

    from apo.evaluation import Template
    from apo.experience.prompts import Prompts
    from apo.experience.rounds import Rounds
    from apo.experience.writing import Judged
    from apo.models.reference import reference_of
    from apo.schema import EvaluationConfig, RolloutConfig, ScenarioConfig
    objective.reference = reference_of(policy)
    rollout = RolloutConfig(max_new_tokens=NEW_TOKENS, **rollout)
    template = Template.of(ScenarioConfig(), EvaluationConfig(), tokenizer)

    def judge(pairs, number, check):
        return Judged(np.array([score(text) for _, text in pairs]), [{} for _ in pairs])

    return Rounds(rollout, objective, Prompts(pool, 0), policy,
                  writer(rollout, tokenizer, template, [], [], EvaluationConfig().batch_size, 1), judge, 1, MINIBATCH,
                  MICRO_BATCH, options.precision, folder)


def experience_of_ours(folder: Path, options) -> dict:
    from apo.experience import writing
    from apo.experience.prompts import Prompt
    from apo.models.policy import Policy
    from apo.objectives.base import objectives
    model, tokenizer = loaded(folder)
    # `train.py` samples in bf16 where the hardware has it, whatever the precision of training; here all are equal.
    writing.generate = partial(writing.generate, precision=options.precision)
    prompts = [Prompt(ids, tokenizer.decode(ids[1:]), []) for ids in work_of(folder)["prompts"]]
    with tempfile.TemporaryDirectory() as rounds:
        source = our_rounds(Path(rounds) / "run" / "rounds", options, Policy(model, value_head=True),
                            objectives.get("ppo")(beta=BETA), prompts, writing.Writer, tokenizer, prompts=SAMPLED)
        seconds = tokens = 0
        for number in range(options.rounds + 1):
            source.skipped = True           # the next batch is the first of another round
            start = time.perf_counter()
            source.next()
            if number:
                seconds += time.perf_counter() - start
                tokens += sum(map(len, source.kept.completion_ids))
    return {"rate": tokens / seconds, "mean_length": tokens / (SAMPLED * options.rounds)}


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

    model, tokenizer = loaded(folder)
    end, episodes = tokenizer.eos_token_id, work_of(folder)[kind]
    policy, objective = Policy(model, value_head=True), objectives.get("ppo")(beta=BETA)
    prompts = [Prompt(prompt, tokenizer.decode(prompt[1:]), answer) for prompt, answer, _ in episodes]
    per_round = EPOCHS * EPISODES // MINIBATCH
    steps = per_round * (options.rounds + 1)
    config = load_config(["task=hh", "method=ppo", f"training.precision={options.precision}",
                          f"training.max_steps={steps}", f"training.learning_rate={LEARNING_RATE}",
                          "training.lr_scheduler_type=constant", "training.warmup_ratio=0", "training.weight_decay=0",
                          f"training.effective_batch_size={MINIBATCH}",
                          f"training.per_device_train_batch_size={MICRO_BATCH}"])
    with tempfile.TemporaryDirectory() as rounds:
        run = RunDirectory(Path(rounds) / "run")
        source = our_rounds(run.rounds, options, policy, objective, prompts, Given, tokenizer, prompts=EPISODES,
                            epochs=EPOCHS)
        trainer = ScoredTextTrainer(policy, objective, source, config.training, run=run, seed=1, max_steps=steps,
                                    tokens_per_step=1)
        seconds = seconds_of(trainer, per_round)
    # every prompt comes once, in an order of its own: as many tokens as there are in all, less those of the first round
    first = sum(len(prompts[i].given) for i in source._chosen(0))
    tokens = sum(len(answer) for _, answer, _ in episodes) - first
    return {"rate": tokens / seconds, "logp": mean_logp(policy.model.eval(), episodes[-EPISODES:])}


# ---- plain loops -----------------------------------------------------------------------------------------------------

def padded(rows: list[tuple[list[int], list[int]]]):
    """([R, T] ids, padded on the right, and bool: the answers)."""
    import torch
    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids_RT = torch.zeros(len(rows), width, dtype=torch.int64)
    answers_RT = torch.zeros(len(rows), width, dtype=torch.bool)
    for row, (prompt, answer) in enumerate(rows):
        ids_RT[row, :len(prompt) + len(answer)] = torch.tensor([*prompt, *answer])
        answers_RT[row, len(prompt):len(prompt) + len(answer)] = True
    return ids_RT, answers_RT


def experience_of_generate(folder: Path, options, batch: int) -> dict:
    import copy

    import torch
    model, tokenizer = loaded(folder)
    model, reference, end = model.eval(), copy.deepcopy(model).eval(), tokenizer.eos_token_id
    value_head = torch.nn.Linear(small_model.WIDTH, 1, bias=False)
    bf16 = options.precision == "bf16"
    prompts = work_of(folder)["prompts"]
    seconds = tokens = 0
    torch.manual_seed(1)
    for number in range(options.rounds + 1):
        chosen = [prompts[(number * SAMPLED + i) % len(prompts)] for i in range(SAMPLED)]
        start = time.perf_counter()
        with torch.no_grad():
            sampler = copy.deepcopy(model).to(torch.bfloat16) if bf16 else model
            answers = [answer for first in range(0, SAMPLED, batch)
                       for answer in generated(sampler, chosen[first:first + batch], end)]
            scores = [score(text) for text in tokenizer.batch_decode(answers, skip_special_tokens=True)]
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                rows = list(zip(chosen, answers))
                measured = [measured_by(model, reference, value_head, rows[first:first + MINIBATCH])
                            for first in range(0, SAMPLED, MINIBATCH)]
        assert len(scores) == len(answers) and len(measured)
        if number:
            seconds += time.perf_counter() - start
            tokens += sum(map(len, answers))
    return {"rate": tokens / seconds, "mean_length": tokens / (SAMPLED * options.rounds)}


def generated(model, prompts, end: int) -> list[list[int]]:
    import torch
    width = max(map(len, prompts))
    ids_BT = torch.tensor([[end] * (width - len(prompt)) + prompt for prompt in prompts])
    mask_BT = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    output_BT = model.generate(input_ids=ids_BT, attention_mask=mask_BT, do_sample=True, temperature=1.0, top_k=0,
                               top_p=1.0, max_new_tokens=NEW_TOKENS, eos_token_id=end, pad_token_id=end)
    new = output_BT[:, width:].tolist()
    return [ids[:ids.index(end) + 1] if end in ids else ids for ids in new]


def measured_by(model, reference, value_head, rows):
    """Log-probabilities under both and values, [R, T - 1]."""
    ids_RT, _ = padded(rows)
    out = model(input_ids=ids_RT, use_cache=False, output_hidden_states=True)
    logps = [logits_RTV[:, :-1].float().log_softmax(-1).gather(2, ids_RT[:, 1:, None])[..., 0]
             for logits_RTV in (out.logits, reference(input_ids=ids_RT, use_cache=False).logits)]
    return *logps, value_head(out.hidden_states[-1][:, :-1])[..., 0]


def ppo_of_plain(folder: Path, options, kind: str, micro_batch: int, attention: str) -> dict:
    import copy

    import torch
    model, _ = loaded(folder)
    model.set_attn_implementation(attention)
    model, reference = model.train(), copy.deepcopy(model).eval()
    value_head = torch.nn.Linear(small_model.WIDTH, 1, bias=False)
    torch.nn.init.zeros_(value_head.weight)
    parameters = [*model.parameters(), *value_head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    episodes = work_of(folder)[kind]
    torch.manual_seed(1)
    autocast = partial(torch.autocast, "cpu", torch.bfloat16, enabled=options.precision == "bf16")
    for number in range(options.rounds + 1):
        if number == 1:
            start = time.perf_counter()
        own = episodes[number * EPISODES:(number + 1) * EPISODES]
        own.sort(key=lambda row: -len(row[0]) - len(row[1]))
        rows = [(prompt, answer) for prompt, answer, _ in own]
        scores_C = torch.tensor([reward for _, _, reward in own])
        mask_CT = torch.arange(max(len(answer) for _, answer in rows)) < torch.tensor([[len(a)] for _, a in rows])
        logps_CT, ref_CT, values_CT = (torch.zeros(mask_CT.shape) for _ in range(3))
        with torch.no_grad(), autocast():
            for first in range(0, EPISODES, MINIBATCH):
                part = slice(first, first + MINIBATCH)
                ids_RT, answers_RT = padded(rows[part])
                logps, values = asked(model, value_head, ids_RT, answers_RT)
                for into_CT, found in ((logps_CT, logps), (values_CT, values),
                                       (ref_CT, asked(reference, value_head, ids_RT, answers_RT)[0])):
                    into_CT[part][mask_CT[part]] = found
        advantages_CT, returns_CT = advantages(scores_C, logps_CT - ref_CT, values_CT, mask_CT)
        for _ in range(EPOCHS):
            for chosen in torch.randperm(EPISODES).split(MINIBATCH):
                chosen = chosen.sort().values       # the longest first, as all are
                tokens = mask_CT[chosen].sum()
                for part in chosen.split(micro_batch):
                    ids_RT, answers_RT = padded([rows[i] for i in part.tolist()])
                    inside = mask_CT[part]
                    with autocast():
                        logps, values = asked(model, value_head, ids_RT, answers_RT)
                    loss = losses(logps, values, *(x_CT[part][inside] for x_CT in (logps_CT, values_CT, advantages_CT,
                                                                                   returns_CT)))
                    (loss / tokens).backward()
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
    seconds = time.perf_counter() - start
    tokens = sum(len(answer) for _, answer, _ in episodes[EPISODES:])
    return {"rate": tokens / seconds, "logp": mean_logp(model.eval(), episodes[-EPISODES:])}


def asked(model, value_head, ids_RT, answers_RT):
    """(log p, value) of each token of the answers, [N] fp32."""
    from torch.nn import functional as F
    hidden_RTD = model.model(input_ids=ids_RT, use_cache=False).last_hidden_state
    hidden_ND = hidden_RTD[:, :-1][answers_RT[:, 1:]]
    logits_NV = model.lm_head(hidden_ND).float()
    return -F.cross_entropy(logits_NV, ids_RT[answers_RT], reduction="none"), value_head(hidden_ND)[:, 0].float()


def advantages(scores_C, kl_CT, values_CT, mask_CT):
    import torch
    rewards_CT = -BETA * kl_CT
    rewards_CT[torch.arange(len(scores_C)), mask_CT.sum(1) - 1] += scores_C
    advantages_CT, ahead_C = torch.zeros_like(rewards_CT), 0.0
    for t in range(mask_CT.shape[1] - 1, -1, -1):
        next_C = values_CT[:, t + 1] if t + 1 < mask_CT.shape[1] else 0.0
        ahead_C = rewards_CT[:, t] + GAMMA * next_C - values_CT[:, t] + GAMMA * LAMBDA * ahead_C
        advantages_CT[:, t] = ahead_C
    inside = advantages_CT[mask_CT]
    return (advantages_CT - inside.mean()) * torch.rsqrt(inside.var() + 1e-8), advantages_CT + values_CT


def losses(logps, values, old_logps, old_values, advantages, returns):
    """Summed over tokens."""
    import torch
    ratios = (logps - old_logps).exp()
    policy = torch.maximum(-advantages * ratios, -advantages * ratios.clamp(1 - CLIP, 1 + CLIP))
    near = old_values + (values - old_values).clamp(-CLIP, CLIP)
    value = torch.maximum((values - returns).square(), (near - returns).square()) / 2
    return policy.sum() + VALUE_COEF * value.sum()


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
    config = PPOConfig(batch_size=EPISODES, mini_batch_size=MINIBATCH, ppo_epochs=EPOCHS, learning_rate=LEARNING_RATE,
                       adap_kl_ctrl=False, init_kl_coef=BETA, gamma=GAMMA, lam=LAMBDA, cliprange=CLIP,
                       cliprange_value=CLIP, vf_coef=VALUE_COEF, max_grad_norm=1.0,
                       accelerator_kwargs={"mixed_precision": "bf16" if options.precision == "bf16" else "no",
                                           "cpu": True})
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    trainer = PPOTrainer(config, model, reference, tokenizer, optimizer=optimizer)
    episodes = work_of(folder)[kind]
    for number in range(options.rounds + 1):
        if number == 1:
            start = time.perf_counter()
        own = episodes[number * EPISODES:(number + 1) * EPISODES]
        prompts, answers, rewards = zip(*own)
        trainer.step([torch.tensor(prompt) for prompt in prompts], [torch.tensor(answer) for answer in answers],
                     [torch.tensor(reward) for reward in rewards])
    seconds = time.perf_counter() - start
    tokens = sum(len(answer) for _, answer, _ in episodes[EPISODES:])
    return {"rate": tokens / seconds, "logp": mean_logp(model.pretrained_model.eval(), episodes[-EPISODES:])}


# ---- the race --------------------------------------------------------------------------------------------------------

SIDES = {"experience ours": experience_of_ours,
         **{f"experience generate {batch}": partial(experience_of_generate, batch=batch) for batch in (64, 128, 256)},
         **{f"{kind} {name}": partial(run, kind=kind) for kind in ("equal", "ragged")
            for name, run in {"ours": ppo_of_ours,
                              **{f"plain {attention} {rows}": partial(ppo_of_plain, micro_batch=rows,
                                                                      attention=attention)
                                 for attention in ("sdpa", "eager") for rows in (16, 8, 4)},
                              "trl": ppo_of_trl, "trl with allocator": ppo_of_trl}.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="timed, in a process")
    parser.add_argument("--repetitions", type=int, default=3, help="processes of each side")
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--train-steps", type=int, default=TRAIN_STEPS)
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
    run = prepare if options.side == "prepare" else SIDES[options.side]
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
        lengths = [len(answer) for _, answer, _ in work_of(Path(folder))["ragged"]]
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
