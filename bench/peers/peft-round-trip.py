"""LoRA adapters to and from the peft package, logits compared both ways.

Run by peft-round-trip.sh, which makes an environment with torch, transformers and peft. Prints a line for each check
and ends with 1 if one failed. Nothing is downloaded: every model and adapter is made here.
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")
import numpy
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (AutoModelForCausalLM, AutoModelForSequenceClassification, BertConfig,
                          BertForSequenceClassification, LlamaConfig, LlamaForCausalLM)

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
ROOT = pathlib.Path(__file__).resolve().parents[2]
TOLERANCE = 1e-4
SMALL = dict(vocab_size=257, hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4,
             max_position_embeddings=128, initializer_range=0.1)
GQA = dict(num_key_value_heads=2, tie_word_embeddings=True)
failures = 0


def check(name, ok, detail):
    global failures
    failures += not ok
    print(f"{'ok  ' if ok else 'FAIL'}  {name:62s} {detail}", flush=True)


def galore(*args, code=0):
    done = subprocess.run(["node", str(ROOT / "bin/galore.js"), *map(str, args)], capture_output=True, text=True)
    if done.returncode != code:
        sys.exit(f"galore {' '.join(map(str, args))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def compare(name, folder, model, adapter=None):
    """The model of transformers and peft against ours on the same folders."""
    ids = numpy.random.default_rng(5).integers(0, SMALL["vocab_size"], (3, 24)).tolist()
    with torch.no_grad():
        theirs = model.float().eval()(torch.tensor(ids)).logits.numpy()
    question = {"folder": str(folder), "ids": ids, **({"adapter": str(adapter)} if adapter else {})}
    done = subprocess.run(["node", str(ROOT / "dist/bench/peers/hf-answers.js")], capture_output=True, text=True,
                          input=json.dumps(question))
    if done.returncode != 0:
        sys.exit(f"hf-answers {folder}: {done.stderr}")
    answer = json.loads(done.stdout)
    worst = float(numpy.abs(theirs - numpy.array(answer["logits"], "float32").reshape(answer["shape"])).max())
    check(name, worst <= TOLERANCE, f"logits within {worst:.1e} (size up to {numpy.abs(theirs).max():.2f})")


def base_model(work, name, **fields):
    torch.manual_seed(len(name))
    folder = work / name
    LlamaForCausalLM(LlamaConfig(**SMALL, **fields)).save_pretrained(folder)
    return folder


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def from_theirs(work):
    """Adapters that peft writes, used, merged and trained on by galore."""
    cases = [
        ("q and v", {}, dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])),
        ("every linear layer, tied GQA", GQA, dict(r=8, lora_alpha=4, target_modules="all-linear")),
        ("rslora", {}, dict(r=4, lora_alpha=8, use_rslora=True, target_modules=["o_proj", "down_proj"])),
        ("head trained whole", {}, dict(r=2, lora_alpha=8, target_modules=["q_proj"], modules_to_save=["lm_head"])),
        ("one layer", {}, dict(r=3, lora_alpha=8, target_modules=["q_proj"], layers_to_transform=[1])),
    ]
    for number, (name, fields, lora) in enumerate(cases):
        base = base_model(work, f"base-{number}", **fields)
        torch.manual_seed(number)
        model = get_peft_model(load(base), LoraConfig(**lora))
        with torch.no_grad():
            for key, value in model.named_parameters():
                if "lora_B" in key or "modules_to_save" in key:
                    value.normal_(0, 0.1)
        adapter = work / f"adapter-{number}"
        model.save_pretrained(adapter)
        model = PeftModel.from_pretrained(load(base), adapter)
        compare(f"peft to ours: {name}", base, model, adapter)
        merged = work / f"merged-{number}"
        galore("export", base, merged, "--adapter", adapter)
        ours, theirs = load(merged).state_dict(), model.merge_and_unload().state_dict()
        worst = max(float((ours[key] - value).abs().max()) for key, value in theirs.items())
        check(f"peft to ours: {name}, merged", worst <= 1e-6, f"every weight within {worst:.1e}")


def classifier(work):
    """A BERT with two classes: an adapter of peft here, and one of a run here in peft."""
    torch.manual_seed(3)
    base, adapter = work / "bert", work / "bert-adapter"
    BertForSequenceClassification(BertConfig(vocab_size=257, hidden_size=64, num_hidden_layers=2, num_attention_heads=2,
                                             intermediate_size=128, max_position_embeddings=64)).save_pretrained(base)
    model = get_peft_model(AutoModelForSequenceClassification.from_pretrained(base),
                           LoraConfig(r=4, lora_alpha=8, task_type="SEQ_CLS"))
    with torch.no_grad():
        for key, value in model.named_parameters():
            if "lora_B" in key or "modules_to_save" in key:
                value.normal_(0, 0.1)
    model.save_pretrained(adapter)
    compare("peft to ours: BERT", base, model, adapter)
    corpus, config, run, out = (work / name for name in ("mails.jsonl", "bert.yaml", "bert-run", "bert-ours"))
    corpus.write_text("".join(json.dumps({"text": f"{i * 7919 % 1000} citizens", "label": ["ham", "spam"][i % 2]}) + "\n"
                              for i in range(60)))
    config.write_text(json.dumps({"name": "trip", "model": {"path": str(base)}, "data": {"path": str(corpus)},
                                  "task": {"type": "sequence-classification", "labels": ["ham", "spam"]},
                                  "tokenizer": {"type": "byte"}, "seq_len": 24, "batch_size": 4, "steps": 3,
                                  "method": {"name": "lora", "rank": 4}, "optimizer": {"lr": 0.01},
                                  "coordinator": {"port": 0}, "evaluation": {"every": 0}}))
    galore("train", config, "--dir", run, "--trainers", 1)
    galore("export", run, out)
    model = PeftModel.from_pretrained(AutoModelForSequenceClassification.from_pretrained(base), out)
    compare("ours to peft: BERT", base, model, out)


def run_config(work, base, method, **more):
    corpus = work / "corpus.txt"
    corpus.write_text("".join(f"Line {i}: the state of the Union, {i * 7919 % 1000} citizens.\n" for i in range(300)))
    config = work / "run.yaml"
    config.write_text(json.dumps({"name": "trip", "model": {"path": str(base), **more}, "data": {"path": str(corpus)},
                                  "tokenizer": {"type": "byte"}, "seq_len": 32, "batch_size": 4, "steps": 3,
                                  "method": method, "optimizer": {"lr": 0.01}, "coordinator": {"port": 0},
                                  "evaluation": {"every": 0}}))
    return config


def from_ours(work):
    """Adapters that runs of galore train, loaded by peft; and trained on."""
    cases = [
        ("q and v", {}, {"name": "lora", "rank": 4}),
        ("every linear layer, tied GQA", GQA, {"name": "lora", "rank": 8, "target_modules": ["attn", "mlp"]}),
        ("rslora, head trained whole", {}, {"name": "lora", "rank": 4, "use_rslora": True, "modules_to_save": ["lm_head"]}),
    ]
    for number, (name, fields, method) in enumerate(cases):
        base = base_model(work, f"start-{number}", **fields)
        run, out, merged = (work / f"{what}-{number}" for what in ("run", "ours", "whole"))
        galore("train", run_config(work, base, method), "--dir", run, "--trainers", 1)
        galore("export", run, out)
        model = PeftModel.from_pretrained(load(base), out)
        compare(f"ours to peft: {name}", base, model, out)
        galore("export", run, merged, "--merge")
        compare(f"ours to peft: {name}, merged", merged, model)
        again = work / f"again-{number}"
        model.save_pretrained(again)
        more = {"adapter": str(again)}
        galore("train", run_config(work, base, method, **more), "--dir", work / f"on-{number}", "--trainers", 1)
        compare(f"ours to peft and on from there: {name}", base, model, again)
    wrong = galore("train", run_config(work, base, {**method, "rank": 5}, **more), "--dir", work / "no", code=2)
    check("an adapter of another rank is refused", "method.rank is 5; it must be 4" in wrong, "by its name")


with tempfile.TemporaryDirectory() as folder:
    from_theirs(pathlib.Path(folder))
    from_ours(pathlib.Path(folder))
    classifier(pathlib.Path(folder))
print(f"{failures} failed")
sys.exit(failures > 0)
