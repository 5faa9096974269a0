"""The plain loops of `rollout_speed.py`: experience around `model.generate`, and PPO by hand."""

import copy
import time
from functools import partial
from pathlib import Path

import rollout_work as work
import small_model
import torch
from torch.nn import functional as F


def padded(rows: list[tuple[list[int], list[int]]]):
    """([R, T] ids, padded on the right, and bool: the answers)."""
    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids_RT = torch.zeros(len(rows), width, dtype=torch.int64)
    answers_RT = torch.zeros(len(rows), width, dtype=torch.bool)
    for row, (prompt, answer) in enumerate(rows):
        ids_RT[row, :len(prompt) + len(answer)] = torch.tensor([*prompt, *answer])
        answers_RT[row, len(prompt):len(prompt) + len(answer)] = True
    return ids_RT, answers_RT


def experience_of_generate(folder: Path, options, batch: int) -> dict:
    model, tokenizer = work.loaded(folder)
    model, reference, end = model.eval(), copy.deepcopy(model).eval(), tokenizer.eos_token_id
    value_head = torch.nn.Linear(small_model.WIDTH, 1, bias=False)
    bf16 = options.precision == "bf16"
    prompts = work.given(folder)["prompts"]
    seconds = tokens = 0
    torch.manual_seed(1)
    for number in range(options.rounds + 1):
        chosen = [prompts[(number * work.SAMPLED + i) % len(prompts)] for i in range(work.SAMPLED)]
        start = time.perf_counter()
        with torch.no_grad():
            sampler = copy.deepcopy(model).to(torch.bfloat16) if bf16 else model
            answers = [answer for first in range(0, work.SAMPLED, batch)
                       for answer in generated(sampler, chosen[first:first + batch], end)]
            scores = [work.score(text) for text in tokenizer.batch_decode(answers, skip_special_tokens=True)]
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                rows = list(zip(chosen, answers))
                measured = [measured_by(model, reference, value_head, rows[first:first + work.MINIBATCH])
                            for first in range(0, work.SAMPLED, work.MINIBATCH)]
        assert len(scores) == len(answers) and len(measured)
        if number:
            seconds += time.perf_counter() - start
            tokens += sum(map(len, answers))
    return {"rate": tokens / seconds, "mean_length": tokens / (work.SAMPLED * options.rounds)}


def generated(model, prompts, end: int) -> list[list[int]]:
    width = max(map(len, prompts))
    ids_BT = torch.tensor([[end] * (width - len(prompt)) + prompt for prompt in prompts])
    mask_BT = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    output_BT = model.generate(input_ids=ids_BT, attention_mask=mask_BT, do_sample=True, temperature=1.0, top_k=0,
                               top_p=1.0, max_new_tokens=work.NEW_TOKENS, eos_token_id=end, pad_token_id=end)
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
    model, _ = work.loaded(folder)
    model.set_attn_implementation(attention)
    model, reference = model.train(), copy.deepcopy(model).eval()
    value_head = torch.nn.Linear(small_model.WIDTH, 1, bias=False)
    torch.nn.init.zeros_(value_head.weight)
    parameters = [*model.parameters(), *value_head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=work.LEARNING_RATE, weight_decay=0.0, fused=True)
    episodes = work.given(folder)[kind]
    torch.manual_seed(1)
    autocast = partial(torch.autocast, "cpu", torch.bfloat16, enabled=options.precision == "bf16")
    for number in range(options.rounds + 1):
        if number == 1:
            start = time.perf_counter()
        own = episodes[number * work.EPISODES:(number + 1) * work.EPISODES]
        own.sort(key=lambda row: -len(row[0]) - len(row[1]))
        rows = [(prompt, answer) for prompt, answer, _ in own]
        scores_C = torch.tensor([reward for _, _, reward in own])
        mask_CT = torch.arange(max(len(answer) for _, answer in rows)) < torch.tensor([[len(a)] for _, a in rows])
        logps_CT, ref_CT, values_CT = (torch.zeros(mask_CT.shape) for _ in range(3))
        with torch.no_grad(), autocast():
            for first in range(0, work.EPISODES, work.MINIBATCH):
                part = slice(first, first + work.MINIBATCH)
                ids_RT, answers_RT = padded(rows[part])
                logps, values = asked(model, value_head, ids_RT, answers_RT)
                for into_CT, found in ((logps_CT, logps), (values_CT, values),
                                       (ref_CT, asked(reference, value_head, ids_RT, answers_RT)[0])):
                    into_CT[part][mask_CT[part]] = found
        advantages_CT, returns_CT = advantages(scores_C, logps_CT - ref_CT, values_CT, mask_CT)
        for _ in range(work.EPOCHS):
            for chosen in torch.randperm(work.EPISODES).split(work.MINIBATCH):
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
    tokens = sum(len(answer) for _, answer, _ in episodes[work.EPISODES:])
    return {"rate": tokens / seconds, "logp": work.mean_logp(model.eval(), episodes[-work.EPISODES:])}


def asked(model, value_head, ids_RT, answers_RT):
    """(log p, value) of each token of the answers, [N] fp32."""
    hidden_RTD = model.model(input_ids=ids_RT, use_cache=False).last_hidden_state
    hidden_ND = hidden_RTD[:, :-1][answers_RT[:, 1:]]
    logits_NV = model.lm_head(hidden_ND).float()
    return -F.cross_entropy(logits_NV, ids_RT[answers_RT], reduction="none"), value_head(hidden_ND)[:, 0].float()


def advantages(scores_C, kl_CT, values_CT, mask_CT):
    rewards_CT = -work.BETA * kl_CT
    rewards_CT[torch.arange(len(scores_C)), mask_CT.sum(1) - 1] += scores_C
    advantages_CT, ahead_C = torch.zeros_like(rewards_CT), 0.0
    for t in range(mask_CT.shape[1] - 1, -1, -1):
        next_C = values_CT[:, t + 1] if t + 1 < mask_CT.shape[1] else 0.0
        ahead_C = rewards_CT[:, t] + work.GAMMA * next_C - values_CT[:, t] + work.GAMMA * work.LAMBDA * ahead_C
        advantages_CT[:, t] = ahead_C
    inside = advantages_CT[mask_CT]
    return (advantages_CT - inside.mean()) * torch.rsqrt(inside.var() + 1e-8), advantages_CT + values_CT


def losses(logps, values, old_logps, old_values, advantages, returns):
    """Summed over tokens."""
    ratios = (logps - old_logps).exp()
    policy = torch.maximum(-advantages * ratios, -advantages * ratios.clamp(1 - work.CLIP, 1 + work.CLIP))
    near = old_values + (values - old_values).clamp(-work.CLIP, work.CLIP)
    value = torch.maximum((values - returns).square(), (near - returns).square()) / 2
    return policy.sum() + work.VALUE_COEF * value.sum()
