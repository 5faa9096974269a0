"""The model that benchmarks sample from: a Llama of 3.7 M parameters that has seen some Python, and its tokenizer.

An untrained model's distribution is flat and its answers never end; nobody meets either.
"""

import ast
import sys
import sysconfig
from pathlib import Path

VOCABULARY, WIDTH, ROWS, BLOCK = 2048, 256, 16, 128


def library_files(count: int = 80) -> list[str]:
    """Modules of the standard library."""
    return [path.read_text(errors="ignore") for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:count]]


def library_functions(most: int = 1200) -> list[tuple[str, str]]:
    """(first line, the rest from its line break on) of the standard library's functions of at most so many characters,
    one for each first line."""
    found = {}
    for text in library_files(200):
        lines = text.splitlines(keepends=True)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                first, *rest = [line[node.col_offset:] or "\n" for line in lines[node.lineno - 1:node.end_lineno]]
                if rest and len(first) + sum(map(len, rest)) <= most:
                    found.setdefault(first.rstrip("\n"), "\n" + "".join(rest))
    return list(found.items())


def make(folder: Path, texts: list[str], steps: int, heads: int = 8) -> None:
    """Trains both on the texts, each behind the end of text, and leaves them in the folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from apo.data.tokenizer import train_tokenizer
    torch.manual_seed(0)
    tokenizer = train_tokenizer(texts, VOCABULARY)
    end = tokenizer.eos_token_id
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=688, num_hidden_layers=4,
        num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=1024, tie_word_embeddings=True,
        bos_token_id=end, eos_token_id=end, pad_token_id=end))
    model.generation_config.eos_token_id = end
    ids = torch.tensor([token for text in texts for token in [end, *tokenizer(text)["input_ids"]]])
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(steps):
        starts = torch.randint(len(ids) - BLOCK, (ROWS,)).tolist()
        rows_BT = torch.stack([ids[start:start + BLOCK] for start in starts])
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=rows_BT, labels=rows_BT).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        if (step + 1) % 40 == 0:
            print(f"training the model: step {step + 1} of {steps}, loss {loss.item():.2f}", file=sys.stderr)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
