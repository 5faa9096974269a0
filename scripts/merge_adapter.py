"""Turn a LoRA adapter and its base into one model, which loads and samples without PEFT.

    python scripts/merge_adapter.py outputs/pep8/mle/0a1b2c3d-s1 merged/
    python scripts/merge_adapter.py path/to/adapter merged/ --dtype bfloat16

The first is a run, or a folder (or hub name) with adapter_config.json.  A base in 8 or 4 bits is brought back to
numbers first, because the adapter was trained to correct those and not the ones before rounding.  Tokenizer and heads
beside the model are copied.  Nothing is uploaded.
"""

import argparse
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from apo.errors import ModelError, UserError

DTYPES = ("float32", "bfloat16", "float16")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("adapter", metavar="RUN_OR_ADAPTER")
    made.add_argument("output", type=Path, metavar="OUT")
    made.add_argument("--dtype", choices=DTYPES, default="float32", help="of the weights written (default: float32)")
    made.add_argument("--base", help="what it is put on, where its own base has moved")
    made.add_argument("--trust-remote-code", action="store_true", help="run code that the base's repository brings")
    return made


def place_of(name: str) -> str:
    """A run's final model, or the adapter that is named."""
    return str(Path(name) / "final") if (Path(name) / "config.yaml").is_file() else name


def merge(name: str, output: Path, dtype: str = "float32", trust_remote_code: bool = False,
          base_instead: str | None = None) -> None:
    """Raises ModelError where there is no adapter, or something in the way."""
    import torch

    from apo.models.adapters import find_adapter
    from apo.models.load import load_adapted, load_tokenizer, quieten
    from apo.schema import ModelConfig
    quieten()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ModelError(f"{output} exists and is not an empty folder: name another")
    adapter = find_adapter(name, base=base_instead)
    if adapter is None:
        raise ModelError(f"{name} holds no adapter: there is no adapter_config.json")
    tokenizer = load_tokenizer(ModelConfig(name=name, base=base_instead, trust_remote_code=trust_remote_code))
    base = adapter.base_config()
    base.trust_remote_code = trust_remote_code
    merged = load_adapted(adapter, base, dequantise=True).merge_and_unload()
    output.mkdir(parents=True, exist_ok=True)
    merged.to(getattr(torch, dtype)).save_pretrained(output)
    tokenizer.save_pretrained(output)
    for head in sorted(Path(name).glob("*head.safetensors")):
        shutil.copy(head, output / head.name)


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        merge(place_of(options.adapter), options.output, options.dtype, options.trust_remote_code,
              options.base)
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(f"merged: {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
