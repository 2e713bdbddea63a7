"""Pretraining that starts from weights: of a run, of a file, of a model of transformers."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from fastssl._words import amount
from fastssl.cli import app
from fastssl.cli.recipes import build_method, started_from
from fastssl.data import Corpus, TokenFile, digits, load_tokenizer, tokenize_corpus, train_tokenizer
from fastssl.methods import GPT, SimCLR, get
from fastssl.models import Encoder, as_language, build_encoder
from fastssl.models.architectures import CAUSAL, MASKED
from fastssl.models.libraries import quiet_loading
from fastssl.train import (
    Pretraining,
    load_checkpoint,
    load_encoder,
    load_language,
    load_method,
    pretrain,
    start_encoder,
)
from fastssl.train.language import build_text_method
from tests.support.language import corpus

OPTIONS = {"name": "resnet", "size": 16, "width": 4}
SMALL = Pretraining(epochs=1, batch_size=32, precision="32-true", seed=3)
runner = CliRunner()


def run(*arguments: object, code: int = 0) -> str:
    result = runner.invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code or (code and result.exception), result.output + str(result.exception)
    return result.output if code == 0 else str(result.exception)


def same(one: nn.Module, two: nn.Module) -> bool:
    a, b = one.state_dict(), two.state_dict()
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("images") / "run"
    pretrain(SimCLR(build_encoder(OPTIONS)), digits().subset(range(64)), SMALL, out=out)
    return out


@pytest.mark.parametrize("name", ("byol", "dino", "moco", "vicreg", "deep-cluster"))
def test_methods_start_from_the_encoder_of_a_run(images: Path, name: str) -> None:
    encoder = load_encoder(images)[0]
    method: Any = build_method(name, OPTIONS, digits(), 0, init=str(images))
    assert same(method.encoder, encoder)
    fresh: Any = build_method(name, OPTIONS, digits(), 0)
    assert not same(fresh.encoder, encoder)
    for teacher in (one for key, one in method.named_modules() if isinstance(one, Encoder) and key != "encoder"):
        assert same(teacher, encoder)  # momentum encoders begin as copies
    assert method.encoder.training == fresh.encoder.training


def test_an_encoder_that_was_built_from_options_is_recorded(images: Path, tmp_path: Path) -> None:
    assert load_checkpoint(images)[1]["encoder"] == OPTIONS
    again = tmp_path / "again"
    pretrain("vicreg", digits().subset(range(64)), SMALL, out=again, encoder=load_encoder(images)[0].at(24))
    assert load_checkpoint(again)[1]["encoder"] == {**OPTIONS, "size": 24}
    assert load_encoder(again)[0].size == 24
    changed = build_encoder(OPTIONS)
    changed.network = nn.Sequential(nn.Conv2d(3, 16, 4, 4))  # no longer what the options build
    pretrain(SimCLR(changed), digits().subset(range(64)), SMALL, out=tmp_path / "changed")
    assert load_checkpoint(tmp_path / "changed")[1]["encoder"] is None


def test_a_run_that_started_from_another_is_resumed_without_it(images: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    shutil.copytree(images, first)
    given = ["--data", "digits", "--precision", "32-true", "--batch-size", "256", "--schedule", "constant"]
    given += ["--warmup-epochs", "0"]
    begun = run("pretrain", "simclr", *given, "--init", first, "--epochs", "1", "--out", tmp_path / "a")
    assert "checkpoint" in begun and load_checkpoint(tmp_path / "a")[1]["encoder"] == OPTIONS
    run("pretrain", "simclr", *given, "--init", first, "--epochs", "2", "--out", tmp_path / "b")
    shutil.rmtree(first)
    resumed = ["--epochs", "2", "--out", tmp_path / "a", "--resume"]
    message = run("pretrain", "simclr", *given, "--init", images, *resumed, code=2)
    assert f"a' was started from '{first}', got '{images}'" in message
    run("pretrain", "simclr", *given, *resumed)
    run("pretrain", "simclr", *given, "--init", first, *resumed)
    assert same(load_encoder(tmp_path / "a")[0], load_encoder(tmp_path / "b")[0])


def test_what_a_run_started_from_is_recorded_with_its_folder(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("first", "word2vec"):
        Path(folder).mkdir()
    assert started_from(None, "first/") == ("first/", str(tmp_path / "first"))
    assert started_from(None, "huggingface:first")[1] == f"huggingface:{tmp_path / 'first'}"
    assert started_from(None, "word2vec:first")[1] == f"word2vec:{tmp_path / 'first'}"
    for name in ("word2vec", "huggingface:google/bert", "none"):
        assert started_from(None, name) == (name, name)
    assert started_from(None, None) == (None, None) == started_from(images, None)
    with pytest.raises(ValueError, match="was started from random weights, got 'first'; it is resumed without init"):
        started_from(images, "first")


WITHIN = (None, "state_dict", "teacher")  # safetensors holds tensors alone


@pytest.mark.parametrize("prefix", ("", "module.encoder_q.", "backbone."))
@pytest.mark.parametrize(
    ("suffix", "within"),
    [(".safetensors", None), *((suffix, key) for suffix in (".pth", ".pth.tar") for key in WITHIN)],
)
def test_files_of_weights(tmp_path: Path, suffix: str, prefix: str, within: str | None) -> None:
    options = {"name": "resnet18", "size": 32, "width": 8}
    trained, path = build_encoder(options), tmp_path / f"weights{suffix}"
    tensors = {prefix + name: value.clone() for name, value in trained.network.state_dict().items()}
    tensors = {name: value for name, value in tensors.items() if not name.endswith("num_batches_tracked")}
    tensors["fc.weight"] = torch.zeros(10, 64)  # a classifier
    if suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    else:
        torch.save({"epoch": 9, within: tensors} if within else tensors, path)
    encoder = build_encoder(options)
    start_encoder(encoder, path)
    assert same(encoder, trained)


def test_weights_of_other_networks_are_named(images: Path, tmp_path: Path) -> None:
    other = build_encoder({**OPTIONS, "width": 8})
    for where in (images, tmp_path / "w.pth"):
        torch.save(load_encoder(images)[0].network.state_dict(), tmp_path / "w.pth")
        with pytest.raises(ValueError, match=r"init: .* has weights of another network: \S+ is \[4, 3, 3, 3\]"):
            start_encoder(other, where)
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="parameters are not in it, such as stem.0.weight; it has a, ..."):
        start_encoder(other, tmp_path / "w.pth")
    for content, match in (([1], "expected parameters by name .* got list"), ({}, "expected parameters by name")):
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(ValueError, match=match):
            start_encoder(other, tmp_path / "w.pth")
    broken = load_encoder(images)[0]
    with torch.no_grad():
        next(broken.network.parameters())[0] = torch.nan
    torch.save(broken.network.state_dict(), tmp_path / "w.pth")
    with pytest.raises(ValueError, match="numbers that are not finite, in stem.0.weight"):
        start_encoder(build_encoder(OPTIONS), tmp_path / "w.pth")
    (tmp_path / "w.pth").write_bytes(b"PK")
    with pytest.raises(ValueError, match="cannot be read as a file of weights"):
        start_encoder(other, tmp_path / "w.pth")
    with pytest.raises(FileNotFoundError, match="expected a run or a file of weights"):
        start_encoder(other, tmp_path / "none")
    message = run("pretrain", "simclr", "--data", "digits", "--init", images, "--width", "8", "--out", "x", code=2)
    assert "weights of another network" in message
    assert "takes waveforms" in run("pretrain", "wavenet", "--data", "tones", "--init", images, "--out", "x", code=2)


def test_pretrained_images_go_on_at_a_lower_rate(images: Path, tmp_path: Path) -> None:
    """Whatever holds the weights; a run of ours keeps the recipe's rate."""
    weights, model = tmp_path / "w.pth", tmp_path / "vit"
    torch.save(load_encoder(images)[0].network.state_dict(), weights)
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    transformers.ViTModel(transformers.ViTConfig(**sizes, image_size=32, patch_size=16)).save_pretrained(model)
    start = ["pretrain", "simclr", "--data", "digits", "--dry-run", "--batch-size", "64"]
    asked, known = (
        [*start, "--width", "4", "--size", "16"],
        [*start, "--size", "32", "--encoder", f"huggingface:{model}"],
    )
    for own in ([*asked, "--init", weights], known):
        printed = run(*own)
        assert "optimizer adamw" in printed and "lr 0.0001," in printed
        assert "pretrained weights: a learning rate of 0.0001 in place of" in printed
    printed = run(*asked, "--init", weights, "--lr", "0.01")
    assert "optimizer adamw, lr 0.01," in printed and "pretrained weights" not in printed
    assert "optimizer sgd, lr 0.01," in run(*asked, "--init", weights, "--lr", "0.01", "--optimizer", "sgd")
    for own in (asked, [*asked, "--init", images]):
        printed = run(*own)
        assert "optimizer adamw, lr 0.002," in printed and "pretrained weights" not in printed
    np.save(tmp_path / "few.npy", digits().images[:64, 0])
    few: dict[Any, Any] = {"digits": tmp_path / "few.npy"}
    trained, given = tmp_path / "trained", [few.get(one, one) for one in known if one != "--dry-run"]
    run(*given, "--epochs", "1", "--precision", "32-true", "--out", trained)
    assert "lr 0.0001," in run("pretrain", "byol", "--data", "digits", "--init", trained, "--dry-run")
    out = tmp_path / "python"
    pretrain("simclr", digits().subset(range(64)), out=out, encoder=f"huggingface:{model}", size=32)
    assert load_checkpoint(out)[1]["options"]["lr"] == 1e-4


# Texts.

pytest.importorskip("transformers")
SHAPE = ["--width", "16", "--depth", "1", "--heads", "2", "--length", "32"]
FEW = ["--batch-size", "16", "--epochs", "1", "--precision", "32-true"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "corpus.jsonl"
    given = corpus(40)
    import json

    path.write_text("\n".join(json.dumps({"text": given.text(k)}) for k in range(len(given))))
    return path


@pytest.fixture(scope="module")
def bert(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bert") / "run"
    run("pretrain", "bert", "--data", f"text:{texts}", *SHAPE, *FEW, "--vocabulary", "200", "--out", out)
    return out


def test_methods_start_from_the_network_and_the_tokenizer_of_a_run(bert: Path, texts: Path, tmp_path: Path) -> None:
    network, tokenizer = load_language(bert)
    out = tmp_path / "next"
    printed = run("pretrain", "sim-cse", "--data", f"text:{texts}", "--init", bert, *FEW, "--out", out)
    assert f"weights start from {bert}: bert, 1 layer of 16, 32 tokens" in printed
    state = load_checkpoint(out)[1]
    assert state["encoder"]["dropout"] == 0.1 and state["encoder"]["width"] == 16  # SimCSE's dropout, BERT's sizes
    assert load_tokenizer(out).fingerprint == tokenizer.fingerprint
    short, _ = load_language(bert, 16)
    assert short.length == 16 and same(short.network, network.network)
    tokens = torch.randint(5, tokenizer.size, (2, 12))
    assert torch.equal(short.eval().hidden(tokens), network.eval().hidden(tokens))
    for given, match in (
        (["--width", "32"], "width: expected that of the network to start from, 16, got 32"),
        (["--tokenizer", "bytes"], "tokenizer: expected none"),
        (["--vocabulary", "300"], "vocabulary: expected none"),
        (["--length", "64"], "length: expected at most 32, the positions of the network, got 64"),
    ):
        asked = ["--data", f"text:{texts}", "--init", bert, *given, "--out", tmp_path / "x"]
        assert match in run("pretrain", "bert", *asked, code=2)
    wrong = run("pretrain", "gpt", "--data", f"text:{texts}", "--init", bert, "--out", tmp_path / "x", code=2)
    assert "GPT expects a network of gpt2, transformer, llama, " in wrong and ", got one of 'bert'" in wrong
    run("tokenize", f"text:{texts}", tmp_path / "other.tok", "--tokenizer", "bytes")
    wrong = run("pretrain", "bert", "--data", tmp_path / "other.tok", "--init", bert, "--out", tmp_path / "x", code=2)
    assert "was written with another one" in wrong
    with pytest.raises(FileNotFoundError, match="init: expected a run of a language method or huggingface:PATH"):
        load_language(tmp_path)


def test_a_text_run_that_started_from_another_is_resumed_without_it(bert: Path, texts: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    shutil.copytree(bert, first)
    without = ["--data", f"text:{texts}", "--schedule", "constant", "--warmup-epochs", "0", *FEW[:2], *FEW[4:]]
    given = [*without, "--init", first]
    run("pretrain", "bert", *given, "--length", "24", "--epochs", "1", "--out", tmp_path / "a")
    run("pretrain", "bert", *given, "--length", "24", "--epochs", "2", "--out", tmp_path / "b")
    shutil.rmtree(first)
    resumed = ["--length", "24", "--epochs", "2", "--out", tmp_path / "a", "--resume"]
    message = run("pretrain", "bert", *without, "--init", bert, *resumed, code=2)
    assert f"a' was started from '{first}', got '{bert}'" in message
    run("pretrain", "bert", *without, *resumed)
    run("pretrain", "bert", *given, *resumed)
    assert same(load_language(tmp_path / "a")[0], load_language(tmp_path / "b")[0])


DEBERTA = {"relative_attention": True, "pos_att_type": "p2c|c2p", "position_biased_input": False, "type_vocab_size": 0}
DEBERTA |= {"share_att_key": True, "norm_rel_ebd": "layer_norm"}


def _saved(kind: str, folder: Path, vocabulary: int) -> Any:
    """A small model of transformers, as a folder, with ``vocabulary`` tokens."""
    import transformers as t

    sizes = {"vocab_size": vocabulary, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
    models: dict[str, Any] = {
        "bert": lambda: t.BertForMaskedLM(t.BertConfig(**sizes, num_hidden_layers=1, max_position_embeddings=40)),
        **{
            kind: lambda name=name, own=own: getattr(t, f"{name}ForMaskedLM")(
                getattr(t, f"{name}Config")(
                    **sizes, num_hidden_layers=2, max_position_embeddings=42, pad_token_id=1, **own
                )
            )
            for kind, name, own in (
                ("roberta", "Roberta", {}),
                ("xlm-roberta", "XLMRoberta", {}),
                ("mpnet", "MPNet", {}),
                ("modernbert", "ModernBert", {"global_attn_every_n_layers": 2, "local_attention": 8}),
                # v3's, and v2's convolution beside the first layer
                ("deberta-v2", "DebertaV2", {**DEBERTA, "position_buckets": 8}),
                ("deberta-v2-conv", "DebertaV2", {**DEBERTA, "conv_kernel_size": 3, "share_att_key": False}),
            )
        },
        "distilbert": lambda: t.DistilBertForMaskedLM(
            t.DistilBertConfig(
                vocab_size=vocabulary, dim=16, n_heads=2, hidden_dim=24, n_layers=2, max_position_embeddings=42
            )
        ),
        "gpt2": lambda: t.GPT2LMHeadModel(
            t.GPT2Config(vocab_size=vocabulary, n_embd=16, n_layer=1, n_head=2, n_positions=40)
        ),
        **{
            kind: lambda name=name, own=own: getattr(t, f"{name}ForCausalLM")(
                getattr(t, "Gemma3TextConfig" if name == "Gemma3" else f"{name}Config")(
                    **{**sizes, "num_hidden_layers": 2, "num_key_value_heads": 1, "max_position_embeddings": 40, **own}
                )
            )
            for kind, name, own in (
                ("llama", "Llama", {}),
                ("qwen2", "Qwen2", {"use_sliding_window": True, "sliding_window": 36, "max_window_layers": 1}),
                ("qwen3", "Qwen3", {}),
                ("mistral", "Mistral", {"head_dim": 6, "sliding_window": 36}),
                ("gemma", "Gemma", {"head_dim": 6}),
                ("gemma3_text", "Gemma3", {"head_dim": 6, "sliding_window": 36, "sliding_window_pattern": 2}),
                ("phi3", "Phi3", {"pad_token_id": 0}),
                ("smollm3", "SmolLM3", {"no_rope_layers": [1, 0], "pad_token_id": 0}),
                ("olmo2", "Olmo2", {}),
                ("gpt_neox", "GPTNeoX", {"num_key_value_heads": 2}),
            )
        },
        "t5": lambda: t.T5ForConditionalGeneration(
            t.T5Config(vocab_size=vocabulary, d_model=16, d_kv=5, d_ff=20, num_layers=1, num_heads=3,
                       feed_forward_proj="gated-gelu", decoder_start_token_id=0)
        ),
    }  # fmt: skip
    torch.manual_seed(0)
    model = models[kind]().eval()
    model.save_pretrained(folder)
    return model


def slow_but(at_once: tuple[str, ...]) -> list[Any]:
    """Kinds of models with their methods, of which all but some are slow tests."""
    return [
        pytest.param(kind, method, marks=() if kind in at_once else pytest.mark.slow)
        for method, kinds in (("bert", ("bert", *MASKED, "deberta-v2-conv")), ("gpt", CAUSAL), ("t5", ("t5",)))
        for kind in kinds
    ]


def _with_tokenizer(kind: str, method: str, folder: Path) -> tuple[Any, list[str]]:
    """A small model of transformers with a tokenizer, as a folder, and the special tokens of that of a GPT."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    given, special = corpus(40), []
    if method == "gpt":  # without other special tokens than begin and end of texts
        own = Tokenizer(models.BPE())
        own.pre_tokenizer = pre_tokenizers.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        opens = {"llama": ["<|begin_of_text|>", "<|end_of_text|>"], "gemma": ["<bos>", "<s>", "</s>", "<eos>"]}
        opens |= {"olmo2": ["<|endoftext|>", "<|pad|>"], "gpt_neox": ["<|endoftext|>", "<|padding|>"]}
        special = opens.get(kind, ["<|endoftext|>"])
        trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
        own.train_from_iterator([given.text(k) for k in range(40)], trainer)
        model = _saved(kind, folder, own.get_vocab_size())
        own.save(str(folder / "tokenizer.json"))
    else:
        trained: Any = train_tokenizer(given, "wordpiece" if kind == "bert" else "unigram", 200)
        model = _saved(kind, folder, trained.size + 28)
        (folder / "tokenizer.json").write_text(trained.to_json())
    return model, special


# Of each kind of tokenizer, positions and layers.
@pytest.mark.parametrize(
    ("kind", "method"), slow_but(("bert", "roberta", "deberta-v2", "gpt2", "llama", "gemma3_text", "t5"))
)
def test_models_of_transformers(kind: str, method: str, tmp_path: Path) -> None:
    folder = tmp_path / kind
    model, special = _with_tokenizer(kind, method, folder)
    network, tokenizer = load_language(f"huggingface:{folder}")
    if method == "gpt":
        ends = special[0], special[0] if "pad" in special[-1] else special[-1]
        assert [tokenizer.text_of(token) for token in (tokenizer.cls, tokenizer.sep)] == list(ends)
        assert tokenizer.text_of(tokenizer.pad) == next((name for name in special if "pad" in name), "[PAD]")
    other = load_language(f"huggingface:{folder}")[0].state_dict()  # embeddings and heads that it lacks among them
    assert all(torch.equal(value, other[name]) for name, value in network.state_dict().items())
    tokens = torch.randint(5, min(tokenizer.size, network.vocabulary) - 5, (2, 12))
    network.eval()
    with torch.no_grad():
        if kind == "t5":
            hidden = network.decoded(tokens, torch.ones_like(tokens, dtype=torch.bool), tokens)
            expected = model(input_ids=tokens, decoder_input_ids=tokens).logits
        else:
            hidden, expected = network.hidden(tokens), model(input_ids=tokens).logits
        weight, bias = network.head()
        logits = network.transform(hidden) @ weight.T
        logits = logits if bias is None else logits + bias
    torch.testing.assert_close(logits[..., : expected.shape[-1]], expected, rtol=1e-5, atol=1e-5)


# Of each kind of method, and one whose method has an option of its own.
@pytest.mark.parametrize(("kind", "method"), slow_but(("bert", "roberta", "llama", "t5")))
def test_commands_take_models_of_transformers(kind: str, method: str, texts: Path, tmp_path: Path) -> None:
    folder = tmp_path / kind
    _with_tokenizer(kind, method, folder)
    network, tokenizer = load_language(f"huggingface:{folder}")
    out, asked = tmp_path / "run", ["--data", f"text:{texts}", "--init", f"huggingface:{folder}", "--length", "32"]
    if network.kind in MASKED:
        assert "order: expected None (--order none)" in run("pretrain", method, *asked, *FEW, "--out", out, code=2)
        asked += ["--order", "none"]
    printed = run("pretrain", method, *asked, *FEW, "--out", out)
    assert f"{network.kind}, {amount(network.options['depth'], 'layer')} of 16, 32 tokens" in printed
    assert "optimizer adamw, lr 5e-05" in printed  # not that of the recipe, for small networks from random weights
    assert "optimizer adamw, lr 0.001" in run("pretrain", method, *asked, *FEW, "--lr", "1e-3", "--dry-run")
    again, _ = load_language(out)
    assert again.options["config"]["vocab_size"] == network.options["config"]["vocab_size"]
    assert again.vocabulary >= get(method).vocabulary(tokenizer)  # type: ignore[attr-defined]
    run("evaluate", out)
    if method == "gpt":
        run("generate", out, "--tokens", "5")
    run("export", out, "--to", "huggingface")
    known: Any = type(network.network)
    known.from_pretrained(out / "huggingface")
    (tmp_path / "few.csv").write_text("text,label\n" + "".join(f"text {k},{k % 2}\n" for k in range(20)))
    tune = ["--protocol", "finetune", "--data", tmp_path / "few.csv", "--seeds", "1", "--steps", "2"]
    without_a_run = f"huggingface:{folder}"
    assert "from scratch" in run("evaluate", without_a_run, *tune)
    if method == "electra":
        assert "predicts no tokens (ELECTRA)" in run("evaluate", without_a_run, "--data", f"text:{texts}", code=2)
    else:
        printed = run("evaluate", without_a_run, "--data", f"text:{texts}", "--length", "32")
        assert "perplexity" in printed and "unigram" not in printed
    for options, match in (([], "data: expected texts"), (["--size", "32"], "are evaluated on --data alone")):
        assert match in run("evaluate", without_a_run, *options, code=2)
    assert "length: expected a language model without a run" in run("evaluate", out, "--length", "32", code=2)
    run("embed", without_a_run, "--data", f"text:{texts}", "--out", tmp_path / "f.npz")
    assert "data: expected texts" in run("embed", without_a_run, "--out", tmp_path / "g.npz", code=2)
    assert "expected a run, got 'huggingface:" in run("export", without_a_run, code=2)
    made = run("generate", without_a_run, "--tokens", "5", code=0 if method in ("gpt", "t5", "bart") else 2)
    assert method in ("gpt", "t5", "bart") or "expected one of a generative method" in made


def test_documents_open_as_the_tokenizer_opens_texts(texts: Path, tmp_path: Path) -> None:
    """With <s> for Llama, not with the end of the document before, after which it has not been trained."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    given, own = corpus(40), Tokenizer(models.BPE())
    own.pre_tokenizer, own.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    own.train_from_iterator(
        [given.text(k) for k in range(40)],
        trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet),
    )
    own.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    folder = tmp_path / "llama"
    model = _saved("llama", folder, 320)
    own.save(str(folder / "tokenizer.json"))
    network, tokenizer = load_language(f"huggingface:{folder}", 32)
    assert (tokenizer.begin, tokenizer.sep) == (0, 1) and load_tokenizer("bytes").begin == load_tokenizer("bytes").sep
    method = GPT(network, tokenizer).eval()
    documents = [" the state of the union", " people speak about peace"]
    rows = [own.encode(text).ids for text in documents]  # with <s>
    windows = method.prepare(tokenize_corpus(Corpus(documents), tokenizer, tmp_path / "two.tok"))
    batch = method.examples(windows.items([0]), 0)  # the first document opens with it, too
    nats, terms = 0.0, 0
    with torch.no_grad():
        for row in rows:
            ids = torch.tensor([[*row, 1]])
            nats += float(model(input_ids=ids, labels=ids).loss) * len(row)
            terms += len(row)
        assert float(method(batch)) == pytest.approx(nats / terms, abs=1e-5)
        expected = model.generate(torch.tensor([rows[0]]), max_new_tokens=4, do_sample=False, eos_token_id=1)[0]
    made = method.generate(1, prompt=documents[0].strip(), tokens=4, temperature=0).values
    assert made == [own.decode(expected.tolist()).strip()]
    (tmp_path / "two.txt").write_text("\n\n".join(text.strip() for text in documents))
    run("evaluate", f"huggingface:{folder}", "--data", tmp_path / "two.txt", "--out", tmp_path / "table.json")
    table = json.loads((tmp_path / "table.json").read_text())  # both documents in one window, of 40 tokens
    assert table["perplexity"]["pretrained"] == pytest.approx(math.exp(nats / terms), rel=1e-4)
    size = sum(len(text.strip()) + 1 for text in documents)
    assert table["bits per byte"] == {"pretrained": pytest.approx(nats / math.log(2) / size, rel=1e-4)}
    with torch.no_grad():  # embeddings of [PAD], [UNK] and [MASK], which are added, have no share in probabilities
        model, nats = _saved("llama", lacking := tmp_path / "lacking", 300), 0.0
        own.save(str(lacking / "tokenizer.json"))
        for row in rows:
            ids = torch.tensor([[*row, 1]])
            nats += float(model(input_ids=ids, labels=ids).loss) * len(row)
    run("evaluate", f"huggingface:{lacking}", "--data", tmp_path / "two.txt", "--out", tmp_path / "table.json")
    table = json.loads((tmp_path / "table.json").read_text())
    assert table["perplexity"]["pretrained"] == pytest.approx(math.exp(nats / terms), rel=1e-4)
    out = tmp_path / "run"
    run(
        "pretrain",
        "gpt",
        "--data",
        f"text:{texts}",
        "--init",
        f"huggingface:{folder}",
        "--length",
        "32",
        *FEW,
        "--out",
        out,
    )
    run("export", out, "--to", "huggingface")
    exported = transformers.AutoTokenizer.from_pretrained(out / "huggingface")
    assert exported(documents[0].strip())["input_ids"] == rows[0] and exported.bos_token == "<s>"
    assert load_language(f"huggingface:{out / 'huggingface'}")[1].begin == 0


def test_commands_say_what_models_of_texts_are_for(tmp_path: Path) -> None:
    """They asked for the size of images, or took the folder for one of a run."""
    pytest.importorskip("transformers")
    _saved("gpt2", tmp_path / "m", 300)
    named = f"huggingface:{tmp_path / 'm'}"
    train_tokenizer(["a few words"], "bpe", 300).model.save(str(tmp_path / "m" / "tokenizer.json"))
    for command, match in (
        (["evaluate", named, "--data", "digits"], "expected a token file"),
        (["evaluate", named, "--data", "digits", "--size", "8"], "are evaluated on --data alone"),
        (["evaluate", named, "--data", "digits", "--protocol", "layers"], "which no protocol of images evaluates"),
        (["embed", named, "--data", "digits", "--out", tmp_path / "x.npz"], "data: expected a corpus"),
        (["report", named], f"expected a run, got '{named}'"),
    ):
        said = run(*command, code=2)
        assert match in said, said
    for command in (["generate", tmp_path / "m", "a"], ["export", tmp_path / "m"], ["evaluate", tmp_path / "m"]):
        assert f"a model of transformers ({named})" in run(*command, code=2)


def _apart(kind: str) -> Any:
    """A small model of transformers whose head is a table of its own."""
    import transformers as t

    sizes = {"vocab_size": 320, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
    sizes |= {"num_hidden_layers": 1, "max_position_embeddings": 40}
    torch.manual_seed(0)
    if kind.startswith("t5"):
        form = {"d_model": 16, "d_kv": 5, "d_ff": 20, "num_layers": 1, "num_heads": 3, "decoder_start_token_id": 0}
        own = {"tie_word_embeddings": False} if "1.1" in kind else {}  # 1.0's scales what its head takes
        model: Any = t.T5ForConditionalGeneration(t.T5Config(vocab_size=320, **form, **own))
    elif kind == "gpt2":
        model = t.GPT2LMHeadModel(t.GPT2Config(vocab_size=320, n_embd=16, n_layer=1, n_head=2, n_positions=40))
    elif kind == "bert":
        model = t.BertForPreTraining(t.BertConfig(**sizes))
    else:
        model = t.LlamaForCausalLM(t.LlamaConfig(**sizes, tie_word_embeddings=True))
    if kind != "t5 1.0":
        head = model.get_output_embeddings()
        head.weight = torch.nn.Parameter(torch.randn(320, 16))
    return model.eval()


@pytest.mark.parametrize("more", [0, 8])
@pytest.mark.parametrize("kind", ["t5 1.0", "t5 1.1", "gpt2", "bert", "llama"])
def test_heads_that_are_tables_of_their_own_stay_so(kind: str, more: int, texts: Path, tmp_path: Path) -> None:
    """Whatever the configuration says, as that of T5 1.1, whose states are not scaled either."""
    t = pytest.importorskip("transformers")
    model, folder = _apart(kind), tmp_path / "given"
    model.save_pretrained(folder)
    trained: Any = train_tokenizer(corpus(40), "wordpiece", 200)
    own = t.PreTrainedTokenizerFast(tokenizer_object=trained.model, pad_token="[PAD]")
    own.add_tokens([f"<extra_id_{k}>" for k in reversed(range(320 + more - trained.size))])
    own.save_pretrained(folder)
    ids = torch.randint(5, 300, (2, 12), generator=torch.Generator().manual_seed(1))

    def logits(network: Any) -> torch.Tensor:
        given = {"decoder_input_ids": ids} if kind.startswith("t5") else {}
        with torch.no_grad():
            return network.eval()(ids, **given)[0][..., :320]

    def ours(network: Any) -> torch.Tensor:
        keep = torch.ones_like(ids, dtype=torch.bool)
        with torch.no_grad():
            hidden = network.decoded(ids, keep, ids) if kind.startswith("t5") else network.hidden(ids, keep)
            weight, bias = network.head()
            made = network.transform(hidden) @ weight.T
        return (made if bias is None else made + bias)[..., :320]

    network, tokenizer = load_language(f"huggingface:{folder}")
    assert network.vocabulary == tokenizer.size == 320 + more
    torch.testing.assert_close(ours(network.eval()), logits(model))
    name = {"bert": "bert", "t5 1.0": "t5", "t5 1.1": "t5"}.get(kind, "gpt")
    started, _ = build_text_method(name, {}, tokenizer, {}, 0, network)
    torch.testing.assert_close(ours(started.network.eval()), logits(model))
    out = tmp_path / "run"
    asked = ["--init", f"huggingface:{folder}", "--length", "32", *FEW, "--out", out]
    run("pretrain", name, "--data", f"text:{texts}", *asked)
    run("export", out, "--to", "huggingface")
    with quiet_loading():
        exported = type(model).from_pretrained(out / "huggingface")
    apart = exported.get_output_embeddings().weight is not exported.get_input_embeddings().weight
    assert apart == (kind != "t5 1.0")
    torch.testing.assert_close(ours(load_language(out)[0].eval()), logits(exported))


def test_a_t5_goes_on_with_its_own_sentinels(texts: Path, tmp_path: Path) -> None:
    """They were added anew behind its vocabulary, with every export again."""
    transformers = pytest.importorskip("transformers")
    folder, given = tmp_path / "t5", corpus(40)
    trained: Any = train_tokenizer(given, "unigram", 200)
    own = transformers.PreTrainedTokenizerFast(tokenizer_object=trained.model, pad_token="[PAD]")
    own.add_tokens([f"<extra_id_{k}>" for k in reversed(range(100))], special_tokens=True)
    model = _saved("t5", folder, 384)  # padded to a multiple of 64
    own.save_pretrained(folder)
    network, tokenizer = load_language(f"huggingface:{folder}")
    assert tokenizer.sentinels.tolist() == own.convert_tokens_to_ids([f"<extra_id_{k}>" for k in range(100)])
    assert network.vocabulary == 384 and not set(tokenizer.sentinels) & set(tokenizer.ordinary)
    place, asked = folder, ["--data", f"text:{texts}", "--length", "32", *FEW]
    for out in (tmp_path / "first", tmp_path / "second"):
        run("pretrain", "t5", *asked, "--init", f"huggingface:{place}", "--out", out)
        method: Any = load_method(out)
        assert method.network.vocabulary == 384
        items = method.prepare(TokenFile(out / "corpus.tok")).items(range(3))
        batch = method.examples(items, 0)
        first = tokenizer.sentinels[0]
        assert bool((batch.tokens == first).any(1).all()) and bool((batch.targets[:, 0] == first).all())
        texts_made = method.generate(2, prompt="The <extra_id_0>.", tokens=9).values
        assert len(texts_made) == 2
        run("export", out, "--to", "huggingface")
        place = out / "huggingface"
        again = transformers.AutoTokenizer.from_pretrained(place)
        assert len(again) == tokenizer.size == load_language(f"huggingface:{place}")[1].size
        assert again.convert_tokens_to_ids("<extra_id_0>") == first
    assert model.config.vocab_size == 384


def test_as_language_names_what_it_does_not_take() -> None:
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "num_hidden_layers": 1}
    with pytest.raises(TypeError, match="network: expected one of BertForPreTraining, .* got BertModel"):
        as_language(BertModel(BertConfig(vocab_size=30, **sizes)), load_tokenizer("bytes"))


def test_files_that_lack_their_first_tensor_or_are_broken_are_named(tmp_path: Path) -> None:
    encoder = build_encoder(OPTIONS)
    tensors = encoder.network.state_dict(prefix="module.")
    first = next(iter(tensors))
    torch.save({name: value for name, value in tensors.items() if name != first}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=f"1 of {len(tensors)} parameters are not in it"):
        start_encoder(encoder, tmp_path / "w.pth")
    (tmp_path / "w.safetensors").write_text("no")
    with pytest.raises(ValueError, match="cannot be read as a file of weights"):
        start_encoder(encoder, tmp_path / "w.safetensors")


def test_folders_that_are_no_runs_are_named(tmp_path: Path) -> None:
    asked = ["--data", "digits", "--init", tmp_path, "--out", tmp_path / "x"]
    assert "init: expected a run or a file of weights (.pth" in run("pretrain", "vicreg", *asked, code=1)
    with pytest.raises(FileNotFoundError, match="init: expected a run or a file of weights"):
        start_encoder(build_encoder(OPTIONS), tmp_path)


def test_channels_are_not_passed_over(images: Path, tmp_path: Path) -> None:
    asked = ["--data", "digits", "--init", images, "--channels", "1", "--dry-run", "--out", tmp_path / "x"]
    assert "weights of another network" in run("pretrain", "vicreg", *asked, code=1)


def test_models_of_transformers_without_a_tokenizer_or_a_layer_are_named(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    safetensors = pytest.importorskip("safetensors.torch")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    network = transformers.BertModel(transformers.BertConfig(vocab_size=8, **sizes), add_pooling_layer=False)
    network.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="expected a tokenizer in"):
        load_language(f"huggingface:{tmp_path}")
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c"]))
    assert load_language(f"huggingface:{tmp_path}")[1].size == 8
    tensors = safetensors.load_file(tmp_path / "model.safetensors")
    del tensors["encoder.layer.0.attention.self.query.weight"]
    safetensors.save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lacks 1 parameters of BertForPreTraining, such as bert.encoder.layer.0"):
        load_language(f"huggingface:{tmp_path}")


BERT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c"]


@pytest.mark.parametrize(
    "given", ("none", "./none", "/none/at/all", "huggingface:none", "huggingface:./none", "google/x")
)
def test_starts_that_are_not_there_are_named_at_once(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def connect(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", connect)
    expected = (
        "expected the folder of a model of transformers" if ":" in given else "language method or huggingface:PATH"
    )
    with pytest.raises(FileNotFoundError, match=f"init: .*{expected}.*, got '{given.partition(':')[2] or given}'"):
        load_language(given)


def test_folders_of_transformers_are_named_by_how_they_are_given(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    transformers.BertModel(transformers.BertConfig(vocab_size=8, **BERT)).save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"or huggingface:PATH .*, got '{tmp_path}'"):
        load_language(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="cannot be read as a model of transformers"):
        load_language(f"huggingface:{tmp_path}")


def test_parts_that_start_at_random_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    t = pytest.importorskip("transformers")
    cases = {
        "bert": (t.BertModel(t.BertConfig(vocab_size=6, **BERT), add_pooling_layer=False), "cls.predictions"),
        "electra": (t.ElectraForMaskedLM(t.ElectraConfig(vocab_size=8, **BERT)), "discriminator_predictions.dense"),
        "whole": (t.BertForPreTraining(t.BertConfig(vocab_size=8, **BERT)), None),
    }
    for name, (model, part) in cases.items():
        folder = tmp_path / name
        model.save_pretrained(folder)
        (folder / "vocab.txt").write_text("\n".join(WORDS))
        caplog.clear()
        load_language(f"huggingface:{folder}")
        lines = [record.getMessage() for record in caplog.records if record.name == "fastssl"]
        assert len(lines) == (part is not None) + (name == "bert"), lines
        if part is not None:
            assert "lacks parts that start at random" in lines[-1] and part in lines[-1]
        if name == "bert":
            assert "2 embeddings are added to its 6, for the 8 tokens of the tokenizer; they" in lines[0]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("Bert", "cls.predictions"),
        ("Roberta", "lm_head.bias"),
        ("ModernBert", "decoder.bias"),
        ("Llama", "lm_head.weight"),
        ("Qwen3", "lm_head.weight"),
        ("GPT2", None),  # its head is its embeddings
    ],
)
def test_models_without_their_head_are_embedded_and_neither_scored_nor_sampled_from(
    name: str, part: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    t = pytest.importorskip("transformers")
    sizes = {"vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 16, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    sizes |= {"cls_token_id": 2, "sep_token_id": 3} if name == "ModernBert" else {}
    sizes |= {"num_key_value_heads": 2} if name in ("Llama", "Qwen3") else {}
    model = getattr(t, f"{name}Model")(getattr(t, f"{name}Config")(**sizes))
    model.save_pretrained(tmp_path / "m")
    train_tokenizer(["a few words"], "bpe", 300).model.save(str(tmp_path / "m" / "tokenizer.json"))  # type: ignore[attr-defined]
    (tmp_path / "texts.txt").write_text("a few words\n\n" * 20)
    given, data = f"huggingface:{tmp_path / 'm'}", ["--data", tmp_path / "texts.txt"]
    commands: list[list[Any]] = [
        ["evaluate", given, *data],
        *([["generate", given]] if name in ("Llama", "Qwen3", "GPT2") else []),
    ]
    for command in commands:
        said = run(*command, code=2 if part else 0)
        assert part is None or f"saved without its head ({part}" in said, said
    caplog.clear()
    run("embed", given, *data, "--out", tmp_path / "features.npz")
    assert not [record for record in caplog.records if record.name == "fastssl"]


@pytest.mark.parametrize(("name", "token"), [("BertForPreTraining", "[MASK]"), ("GPT2LMHeadModel", "[SEP]")])
def test_models_whose_tokenizer_lacks_a_token_of_the_objective_are_not_scored(
    name: str, token: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    t = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    sizes = {"vocab_size": 7, **BERT} if "Bert" in name else {"vocab_size": 7, "n_embd": 8, "n_layer": 1, "n_head": 2}
    config = getattr(t, name.replace("ForPreTraining", "").replace("LMHeadModel", "") + "Config")
    getattr(t, name)(config(**sizes)).save_pretrained(tmp_path)
    words = [word for word in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "rose") if word != token]
    own = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: k for k, word in enumerate(words)}, "[UNK]"))
    own.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    own.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "texts.txt").write_text("a rose\n\n" * 20)
    given, data = f"huggingface:{tmp_path}", ["--data", tmp_path / "texts.txt"]
    what = "a mask" if token == "[MASK]" else "an end of texts"
    assert f"expected {what} in the tokenizer of {given} ({token}, <" in run("evaluate", given, *data, code=2)
    run("embed", given, *data, "--out", tmp_path / "features.npz")
    load_language(given)
