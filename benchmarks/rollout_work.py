"""What the sides of `rollout_speed.py` share: a model, prompts, answers with scores, settings, and how all are checked.

No import at the top but the standard library's, since TRL's side runs in an environment of its own.
"""

import json
from pathlib import Path

import small_model

TRAIN_STEPS = 240
NEW_TOKENS, SAMPLED = 128, 256
"""Of an answer at most; answers in a round of experience."""
EPISODES, EPOCHS, MINIBATCH, MICRO_BATCH = 64, 4, 16, 8
PROMPT, ANSWER = 32, 64
"""Tokens where all are of equal length."""
LEARNING_RATE, BETA, GAMMA, LAMBDA, CLIP, VALUE_COEF = 1.41e-5, 0.05, 1.0, 0.95, 0.2, 0.1


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


def given(folder: Path) -> dict:
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
