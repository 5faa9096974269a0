"""evaluate.py on an adapter that is named by its path, asked in the form of a template file, test file by test file."""

import json

import evaluate
from apo.models.load import load_policy
from apo.models.save import save_policy
from apo.report.runs import read_jsonl
from apo.schema import LoraConfig, ModelConfig
from tests.test_evaluation import PRO, TALK


def test_an_adapter_on_prompts_of_a_test_file(tmp_path, monkeypatch, tiny_llama, byte_tokenizer):
    monkeypatch.chdir(tmp_path)
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    tiny_llama(max_position_embeddings=1024).save_pretrained(base)
    byte_tokenizer.save_pretrained(base)
    adapter.mkdir()
    config = ModelConfig(name=str(base), lora=LoraConfig(r=4))
    save_policy(load_policy(config, byte_tokenizer, 257, seed=1, new_ids=[], value_head=False, block_size=32), adapter)
    test = tmp_path / "harmless_base.json"
    test.write_text(json.dumps(PRO) + "\n")
    words = ["--task", "hh", "--model", str(adapter), f"base={base}", "scale=smoke", "output_dir=out", "offline=true",
             "data.chat_template=configs/chat/qlora_hh.jinja", "data.synthetic.num_documents=60",
             "evaluation.heldout_tokens=0", "evaluation.best=null", "evaluation.scenarios.replies=null",
             f"evaluation.scenarios.harmless_base={{num_samples: null, prompts: '{test}'}}",
             "evaluation.scenarios.harmless_base.generation={do_sample: false, max_new_tokens: 4}",
             "evaluation.metrics.distinct_n.ns=[1,2,3]"]
    assert evaluate.main(words) == 0
    folder = tmp_path / "out/hh/models"
    [found] = folder.glob("*/evaluation.json")
    kept = json.loads(found.read_text())
    assert {"reward", "length", "distinct-1", "distinct-3"} <= kept["scenarios"]["harmless_base"]["metrics"].keys()
    assert "data.chat_template" in kept["settings"]["named_files"]
    [sample] = read_jsonl(found.parent / "samples/evaluation-harmless_base.jsonl")
    assert sample["prompt"] == TALK and not sample["text"].strip().startswith("###")
