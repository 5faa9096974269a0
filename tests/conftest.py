"""What every test stands on: no network, one thread, folders of the session's own, a tiny model built in code.

The environment is set when this file is imported, before any test imports torch or transformers, and reaches the
processes that tests start: they too are offline (tests/offline/sitecustomize.py) and write into the session's folder,
never into the home directory.  Tokens are taken out, so that a test does not depend on who runs it.
"""

import atexit
import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRATCH = Path(tempfile.mkdtemp(prefix="apo-tests-"))
atexit.register(shutil.rmtree, SCRATCH, ignore_errors=True)

FOLDERS = ("APO_CACHE", "HF_HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR", "WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR",
           "WANDB_DATA_DIR", "TORCHINDUCTOR_CACHE_DIR", "NLTK_DATA")
TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "WANDB_PROJECT", "WANDB_ENTITY", "OPENAI_API_KEY",
          "HF_HUB_CACHE", "HF_DATASETS_CACHE", "TRANSFORMERS_CACHE")
SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
    "TOKENIZERS_PARALLELISM": "false",
    # The same bits need the same number of threads; a tiny model is fastest on one.
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MPLBACKEND": "Agg",
    "COLUMNS": "120",
}


def _set_environment() -> None:
    for name in TOKENS:
        os.environ.pop(name, None)
    os.environ.update(SETTINGS)
    for name in FOLDERS:
        folder = SCRATCH / name.lower()
        folder.mkdir()
        os.environ[name] = str(folder)
    # The project's root lets a child import `apo` whatever folder it starts in.
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT / "tests" / "offline"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


_set_environment()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`@pytest.mark.gpu` skips where there is no CUDA device; torch is imported only if such a test was collected."""
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items:
        return
    import torch
    if not torch.cuda.is_available():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's root."""
    return ROOT


@pytest.fixture(scope="session")
def load_script():
    """`load_script("chat")`: the module `scripts/chat.py`, which is in no package."""

    def load(name: str):
        spec = importlib.util.spec_from_file_location(f"script_{name}", ROOT / f"scripts/{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module         # where dataclasses look for the names of their annotations
        spec.loader.exec_module(module)
        return module
    return load


@pytest.fixture(scope="session")
def cache_dir() -> Path:
    """The session's $APO_CACHE: scored corpora and tokenizers are built once for all tests."""
    return Path(os.environ["APO_CACHE"])


@pytest.fixture(scope="session")
def shared_data():
    """`shared_data("pep8/functions.jsonl")`: a file of the data folder beside the project, or a skip that says so."""
    folder = ROOT.parent / "shared" / "data"

    def find(name: str) -> Path:
        path = folder / name
        if not path.exists():
            pytest.skip(f"no {name} in a data folder beside the project")
        return path
    return find


@pytest.fixture(scope="session")
def byte_tokenizer():
    """A fast tokenizer in which every byte is one token: ids 0-255 (not the byte
    values: the alphabet is sorted), and <|endoftext|> = 256 as eos, bos and pad."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({character: i for i, character in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, bos_token=end, pad_token=end,
                                   clean_up_tokenization_spaces=False)


@pytest.fixture(scope="session")
def tiny_llama():
    """`tiny_llama(seed=0, **config)`: a fresh two-layer Llama of about 30 k weights that fits `byte_tokenizer`, in
    eval mode.  Built anew at every call, so a test may train it; torch's global random state is left alone."""

    def build(seed: int = 0, **config):
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM
        options = {"vocab_size": 260, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
                   "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 256,
                   "bos_token_id": 256, "eos_token_id": 256, "pad_token_id": 256, "tie_word_embeddings": True}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return LlamaForCausalLM(LlamaConfig(**{**options, **config})).eval()
    return build


@pytest.fixture
def completions_server(monkeypatch):
    """`completions_server(answer, mishaps=())`: a real HTTP server on localhost that speaks the completions protocol.
    `answer(request) -> list of choices`, or a dict, which is the whole answer (of a chat), or a mishap; each of
    `mishaps` spoils one request first: a status, (status, headers, body), "drop" (the connection, in mid-answer),
    "trickle" (an answer that comes byte by byte and has no end), or bytes sent in place of the answer.  Pauses between
    attempts are recorded in `.pauses` and not slept.  Also `.url`, `.requests` and `.headers`."""
    import contextlib
    import json
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from types import SimpleNamespace
    started = []
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    def start(answer, mishaps=()):
        log = SimpleNamespace(requests=[], headers=[], pauses=[])
        waiting = iter(mishaps)      # which several threads may draw from

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                log.requests.append(body)
                log.headers.append({"path": self.path, **self.headers})
                mishap = next(waiting, None)
                answered = answer(body) if mishap is None else mishap
                if answered == "trickle":
                    self.send_response(200)
                    self.end_headers()
                    self.close_connection = True
                    with contextlib.suppress(OSError):      # which is how it ends
                        while True:
                            self.wfile.write(b" ")
                            threading.Event().wait(0.001)
                    return
                if answered == "drop":
                    self.send_response(200)
                    self.send_header("Content-Length", "1000")
                    self.end_headers()
                    self.wfile.write(b'{"choices": [')
                    self.close_connection = True
                    return
                status, headers, sent = 200, {}, answered
                if isinstance(answered, (dict, list)):
                    sent = json.dumps(answered if isinstance(answered, dict) else {"choices": answered}).encode()
                elif not isinstance(answered, bytes):
                    status, headers, sent = answered if isinstance(answered, tuple) else (answered, {}, b"")
                with contextlib.suppress(OSError):          # of one who did not wait for it
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(sent)))
                    self.end_headers()
                    self.wfile.write(sent)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        started.append(server)
        log.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        monkeypatch.setattr("apo.rollouts.servers.time", SimpleNamespace(sleep=log.pauses.append))
        return log
    yield start
    for server in started:
        server.shutdown()
        server.server_close()
