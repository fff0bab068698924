"""Models and tokenizers to and from Hugging Face transformers, logits compared both ways.

Run by hf-round-trip.sh, which makes an environment with torch and transformers. Prints a line for each check
and ends with 1 if one failed. Nothing is downloaded: every model and tokenizer is made here.
`--tokenizers FILE` writes test/vectors/tokenizers.json instead; `--classifiers` compares classifiers alone.
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
import numpy
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, BertConfig,
                          BertForSequenceClassification, BertModel, RobertaConfig,
                          RobertaForSequenceClassification, LlamaConfig, LlamaForCausalLM, MistralConfig,
                          MistralForCausalLM, PreTrainedTokenizerFast)

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
ROOT = pathlib.Path(__file__).resolve().parents[2]
TOLERANCE = 1e-4
TEXT = ["My fellow citizens, the state of the Union is strong.", "  two  spaces\tand a tab\n\nnew lines ",
        "naïve café – 東京 🙂 e\u0301", "don't we'll 12345 3.14", "", " ", "<|end|>x</s>"]
failures = 0


def check(name, ok, detail):
    global failures
    failures += not ok
    print(f"{'ok  ' if ok else 'FAIL'}  {name:58s} {detail}", flush=True)


def galore(*args):
    done = subprocess.run(["node", str(ROOT / "bin/galore.js"), *map(str, args)], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"galore {' '.join(map(str, args))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def ours(folder, **question):
    done = subprocess.run(["node", str(ROOT / "dist/bench/peers/hf-answers.js")], capture_output=True, text=True,
                          input=json.dumps({"folder": str(folder), **question}))
    if done.returncode != 0:
        sys.exit(f"hf-answers {folder}: {done.stderr}")
    return json.loads(done.stdout)


def token_rows(vocab, rows=3, length=24):
    return numpy.random.default_rng(5).integers(0, vocab, (rows, length)).tolist()


def compare_logits(name, folder, model):
    """The model of transformers, computed in f32, against ours on the same folder."""
    ids = token_rows(model.config.vocab_size)
    with torch.no_grad():
        theirs = model.float().eval()(torch.tensor(ids)).logits.numpy()
    answer = ours(folder, ids=ids)
    worst = float(numpy.abs(theirs - numpy.array(answer["logits"], "float32").reshape(answer["shape"])).max())
    check(name, worst <= TOLERANCE, f"logits within {worst:.1e} (size up to {numpy.abs(theirs).max():.2f})")


def compare_tokens(name, folder, tokenizer):
    answer = ours(folder, texts=TEXT)
    theirs = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXT]
    same = [a == b for a, b in zip(theirs, answer["tokens"])]
    check(name, all(same), f"ids of {sum(same)} of {len(same)} texts equal")
    texts = [tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in theirs]
    same = [a == b for a, b in zip(texts, answer["decoded"])]
    wrong = [(a, b) for a, b in zip(texts, answer["decoded"]) if a != b]
    check(name + ", decoded", all(same), f"{sum(same)} of {len(same)} texts equal {wrong if wrong else ''}")


def from_ours(work):
    """Runs of galore, exported, loaded by transformers."""
    corpus = work / "corpus.txt"
    corpus.write_text("".join(f"Line {i}: the state of the Union, {i * 7919 % 1000} citizens, is café.\n" for i in range(900)))
    for kind, fields in {"untied MHA": {}, "tied GQA": {"num_key_value_heads": 2, "tie_word_embeddings": True}}.items():
        run = work / f"run-{kind.replace(' ', '-')}"
        config = work / "run.yaml"
        model = {"hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 3, "num_attention_heads": 4,
                 "initializer_range": 0.1, **fields}
        config.write_text(json.dumps({"name": "trip", "model": model, "data": {"path": str(corpus)},
                                      "tokenizer": {"type": "bpe", "vocab_size": 400}, "seq_len": 32, "batch_size": 4,
                                      "steps": 3, "coordinator": {"port": 0}, "evaluation": {"every": 0}}))
        galore("train", config, "--dir", run, "--trainers", 1)
        for dtype, size in (("f32", "5GB"), ("f32", "100KB"), ("bf16", "5GB"), ("f16", "60KB")):
            out = work / f"{run.name}-{dtype}-{size}"
            galore("export", run, out, "--dtype", dtype, "--max-shard-size", size)
            loaded, info = AutoModelForCausalLM.from_pretrained(out, dtype="auto", output_loading_info=True)
            name = f"ours to transformers: {kind}, {dtype}, {len(list(out.glob('*.safetensors')))} file(s)"
            clean = not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
            wanted = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[dtype]
            check(name, clean and loaded.dtype == wanted, f"loads as {loaded.dtype}, nothing missing or unexpected")
            compare_logits(name, out, loaded)
        compare_tokens(f"ours to transformers: tokenizer of {kind}", out, AutoTokenizer.from_pretrained(out))
        # What was rounded is what torch rounds to.
        exact = AutoModelForCausalLM.from_pretrained(work / f"{run.name}-f32-5GB", dtype=torch.float32).state_dict()
        for dtype, folder in (("bf16", "bf16-5GB"), ("f16", "f16-60KB")):
            rounded = AutoModelForCausalLM.from_pretrained(work / f"{run.name}-{folder}", dtype="auto").state_dict()
            same = all(torch.equal(value.to(rounded[key].dtype), rounded[key]) for key, value in exact.items())
            check(f"ours to transformers: {kind}, {dtype} rounding", same, "every number as torch rounds it")


def from_theirs(work):
    """Checkpoints that transformers writes, read by galore; and exported again."""
    small = dict(vocab_size=300, hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4,
                 max_position_embeddings=128, initializer_range=0.1)
    gqa = dict(num_key_value_heads=2, tie_word_embeddings=True)
    cases = [
        ("untied MHA, f32", LlamaForCausalLM, LlamaConfig(**small), torch.float32, "5GB"),
        ("tied GQA, f32", LlamaForCausalLM, LlamaConfig(**small, **gqa), torch.float32, "5GB"),
        ("untied MHA, f32, sharded", LlamaForCausalLM, LlamaConfig(**small), torch.float32, "60KB"),
        ("untied MHA, bf16", LlamaForCausalLM, LlamaConfig(**small), torch.bfloat16, "5GB"),
        ("tied GQA, bf16, sharded", LlamaForCausalLM, LlamaConfig(**small, **gqa), torch.bfloat16, "60KB"),
        ("untied GQA, f16", LlamaForCausalLM, LlamaConfig(**small, num_key_value_heads=1), torch.float16, "5GB"),
        ("head_dim of its own, other eps and base", LlamaForCausalLM,
         LlamaConfig(**small, head_dim=24, rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 5e5}),
         torch.float32, "5GB"),
        ("mistral without a window", MistralForCausalLM,
         MistralConfig(**small, num_key_value_heads=2, sliding_window=None), torch.float32, "5GB"),
    ]
    for number, (name, kind, config, dtype, size) in enumerate(cases):
        torch.manual_seed(number)
        folder = work / f"theirs-{number}"
        kind(config).to(dtype).save_pretrained(folder, max_shard_size=size)
        model = kind.from_pretrained(folder, dtype=torch.float32)
        files = len(list(folder.glob("*.safetensors")))
        compare_logits(f"transformers to ours: {name} ({files} file(s))", folder, model)
        again = work / f"again-{number}"
        galore("export", folder, again)
        loaded = AutoModelForCausalLM.from_pretrained(again, dtype=torch.float32)
        same = all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
        check(f"  and exported as f32 again", same, "every weight has the same bits")
        old = json.loads((folder / "config.json").read_text())
        rope = old.pop("rope_parameters")
        old["rope_theta"], old["torch_dtype"] = rope["rope_theta"], old.pop("dtype")
        if config.head_dim == config.hidden_size // config.num_attention_heads:
            old.pop("head_dim", None)
        (folder / "config.json").write_text(json.dumps(old))
        compare_logits("  and with the older layout of config.json", folder, model)


def compare_classes(name, folder, model, pad):
    """Logits of texts of several lengths in one batch."""
    rows = token_rows(model.config.vocab_size - 4, 4, 20)
    lengths = [20, 7, 1, 13]
    ids = torch.tensor([[4 + id if at < length else pad for at, id in enumerate(row)] for row, length in zip(rows, lengths)])
    mask = torch.tensor([[int(at < length) for at in range(20)] for length in lengths])
    with torch.no_grad():
        theirs = model.float().eval()(input_ids=ids, attention_mask=mask).logits.numpy()
    answer = ours(folder, ids=torch.where(mask == 1, ids, -1).tolist())
    worst = float(numpy.abs(theirs - numpy.array(answer["logits"], "float32").reshape(answer["shape"])).max())
    check(name, worst <= TOLERANCE, f"logits within {worst:.1e} (size up to {numpy.abs(theirs).max():.2f})")


def classifiers(work):
    """Encoders that transformers writes: read, exported again, and trained on with a new head."""
    small = dict(vocab_size=300, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4,
                 max_position_embeddings=64, initializer_range=0.2)
    labels = dict(id2label={0: "ham", 1: "spam", 2: "egg"}, label2id={"ham": 0, "spam": 1, "egg": 2})
    cases = [
        ("BERT, 3 classes, f32", BertForSequenceClassification, BertConfig(**small, **labels), torch.float32, "5GB", 0),
        ("BERT, 2 classes, bf16, sharded", BertForSequenceClassification, BertConfig(**small), torch.bfloat16, "60KB", 0),
        ("RoBERTa, 3 classes, f32", RobertaForSequenceClassification,
         RobertaConfig(**small, **labels, type_vocab_size=1, pad_token_id=1, layer_norm_eps=1e-5), torch.float32, "5GB", 1),
    ]
    for number, (name, kind, config, dtype, size, pad) in enumerate(cases):
        torch.manual_seed(number)
        folder, again = work / f"classes-{number}", work / f"classes-again-{number}"
        kind(config).to(dtype).save_pretrained(folder, max_shard_size=size)
        model = kind.from_pretrained(folder, dtype=torch.float32)
        compare_classes(f"transformers to ours: {name}", folder, model, pad)
        galore("export", folder, again)
        loaded = AutoModelForSequenceClassification.from_pretrained(again, dtype=torch.float32)
        same = all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
        check("  and exported as f32 again", same and loaded.config.id2label == model.config.id2label,
              "every weight has the same bits, the classes their names")
    # A bare encoder with a tokenizer, trained for three steps each way of pooling.
    words = sorted({word for text in ("win money now", "meet here at noon") for word in text.split()})
    vocab = {token: id for id, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    base = work / "encoder"
    BertModel(BertConfig(**small)).save_pretrained(base)
    tokenizer.save(str(base / "tokenizer.json"))
    data = work / "mails.jsonl"
    data.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for _ in range(20)
                            for text, label in (("win money now", "spam"), ("meet here at noon", "ham"))))
    for pooling in ("cls", "mean"):
        run, out, config = work / f"classified-{pooling}", work / f"classified-out-{pooling}", work / "classify.yaml"
        config.write_text(json.dumps({
            "name": "trip", "model": {"path": str(base)}, "data": {"path": str(data), "validation_fraction": 0},
            "task": {"type": "sequence-classification", "labels": ["ham", "spam"], "pooling": pooling},
            "tokenizer": {"type": "file", "path": str(base)}, "seq_len": 16, "batch_size": 4, "steps": 3,
            "optimizer": {"lr": 0.01}, "coordinator": {"port": 0}, "evaluation": {"every": 0}}))
        galore("train", config, "--dir", run, "--trainers", 1)
        galore("export", run, out)
        loaded, info = AutoModelForSequenceClassification.from_pretrained(
            out, trust_remote_code=pooling == "mean", output_loading_info=True)
        clean = not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
        check(f"ours to transformers: classifier with pooling {pooling}", clean, "nothing missing or unexpected")
        compare_classes("  and its logits", out, loaded, 0)
        texts = ["win money now", "meet here at noon", "now"]
        fast = AutoTokenizer.from_pretrained(out)
        with torch.no_grad():
            theirs = loaded(**fast(texts, padding=True, return_tensors="pt")).logits.softmax(-1)[:, 1].tolist()
        told = [json.loads(line)["probabilities"]["spam"] for line in galore("predict", out, *texts, "--json").splitlines()]
        worst = max(abs(a - b) for a, b in zip(theirs, told))
        check("  and galore predict against AutoTokenizer with padding", worst <= 1e-5, f"probabilities within {worst:.1e}")


def tokenizer_kinds():
    """Made here in the way of the published ones."""
    corpus = TEXT + ["the state of the union don't stop 123 4567 café naïve <0x0A>"] * 20
    split = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    gpt2 = Tokenizer(models.BPE())
    gpt2.pre_tokenizer, gpt2.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    llama3 = Tokenizer(models.BPE(ignore_merges=True))
    llama3.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(split), "isolated", False), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    llama3.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    for tokenizer in (gpt2, llama3):
        tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(
            vocab_size=330, initial_alphabet=alphabet, special_tokens=["<|begin|>", "<|end|>"], show_progress=False))
        tokenizer.post_processor = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 0)])
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    decoder = lambda: decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    llama2 = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    llama2.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    metaspace = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    metaspace.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    ascii_only = ["the state of the union don't stop 123 4567 My fellow citizens strong new lines and a tab"] * 20
    for tokenizer in (llama2, metaspace):
        tokenizer.train_from_iterator(ascii_only, trainers.BpeTrainer(
            vocab_size=360, special_tokens=["<unk>", "<s>", "</s>", *bytes_], show_progress=False))
        made = json.loads(tokenizer.to_str())
        made["added_tokens"] = made["added_tokens"][:3]  # the bytes are ordinary tokens
        tokenizer = Tokenizer.from_str(json.dumps(made))
        tokenizer.decoder = decoder()
        yield ("Llama 2 (Prepend, byte fallback)" if made["normalizer"] else "Metaspace, byte fallback"), tokenizer, "<s>", "</s>"
    yield "GPT-2 (byte level)", gpt2, "<|begin|>", "<|end|>"
    yield "Llama 3 (split by pattern, ignore_merges)", llama3, "<|begin|>", "<|end|>"


def tokenizers(work):
    for number, (name, tokenizer, bos, eos) in enumerate(tokenizer_kinds()):
        folder = work / f"tokens-{number}"
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos)
        fast.save_pretrained(folder)
        compare_tokens(f"tokenizer to ours: {name}", folder, fast)
        config = LlamaConfig(vocab_size=len(fast), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                             num_attention_heads=2, bos_token_id=fast.bos_token_id, eos_token_id=fast.eos_token_id)
        LlamaForCausalLM(config).save_pretrained(folder)
        galore("export", folder, work / f"tokens-again-{number}", "--dtype", "bf16")
        again = AutoTokenizer.from_pretrained(work / f"tokens-again-{number}")
        same = all(again(text)["input_ids"] == fast(text)["input_ids"] for text in TEXT) and again.eos_token == eos
        check("  and exported, loaded by AutoTokenizer", same, "the same ids and end of a text")


def tokenizer_vectors():
    """test/vectors/tokenizers.json: tokenizers of the kinds above, with ids and texts of the reference."""
    texts = TEXT + ["a\u0301 \U0001f468\u200d\U0001f469 \u00df", "\n\n\n", "tab\tand  spaces ", "<s>the state", "9999999 99"]
    cases = []
    for name, tokenizer, _, _ in tokenizer_kinds():
        ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        decoded = [tokenizer.decode(row, skip_special_tokens=False) for row in ids]
        cases.append({"name": name, "tokenizer": json.loads(tokenizer.to_str()), "texts": texts, "ids": ids, "decoded": decoded})
    return {"source": f"tokenizers {__import__('tokenizers').__version__}, by bench/peers/hf-round-trip.py --tokenizers", "cases": cases}


if sys.argv[1:2] == ["--tokenizers"]:
    pathlib.Path(sys.argv[2]).write_text(json.dumps(tokenizer_vectors(), ensure_ascii=False, separators=(",", ":")) + "\n")
    sys.exit()
with tempfile.TemporaryDirectory() as name:
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, tolerance {TOLERANCE}")
    if "--classifiers" not in sys.argv:
        from_ours(pathlib.Path(name))
        from_theirs(pathlib.Path(name))
        tokenizers(pathlib.Path(name))
    classifiers(pathlib.Path(name))
print("all checks passed" if failures == 0 else f"{failures} checks failed")
sys.exit(failures > 0)
