"""Pretrained text towers: tokens, embeddings and losses of transformers' own models, trained further and kept."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

from fastssl.cli.main import app
from fastssl.data import emoji
from fastssl.evaluate import image_text_retrieval, zero_shot
from fastssl.methods import CLIP, SigLIP, get
from fastssl.models import HuggingFaceText, TextTransformer, build_encoder
from fastssl.models.image_text_export import export_image_text, loading
from fastssl.train import Pretraining, load_method, pretrain

transformers: Any = pytest.importorskip("transformers")
TEXTS = ["a cat", "", "größer 图 and a few more words", "a dog"]
LONG = " ".join(["words"] * 40)


def tokenizer(path: Path, length: int, masks: bool) -> None:
    """A byte-level BPE without merges, whose padding token is its last, as of OpenAI's CLIP."""
    from fastssl.models.image_text_export import _tokenizer

    made = _tokenizer(length)
    made.pad_token = made.eos_token
    made.save_pretrained(path)
    about = json.loads((path / "tokenizer_config.json").read_text())
    if not masks:  # SigLIP pads all texts and attends to the padding
        about["model_input_names"] = ["input_ids"]
    (path / "tokenizer_config.json").write_text(json.dumps(about))


def model_of(kind: str, path: Path) -> Any:
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**small, "vocab_size": 259, "max_position_embeddings": 24}
    if kind in ("clip", "siglip"):
        of_texts = {**text, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
        sizes = {"vision_config": {**small, "image_size": 32, "patch_size": 8}, "text_config": of_texts}
        if kind == "clip":
            model = transformers.CLIPModel(transformers.CLIPConfig(**sizes, projection_dim=12))
        else:
            model = transformers.SiglipModel(transformers.SiglipConfig(**sizes))
            nn.init.constant_(model.logit_bias, -3.0)
            nn.init.constant_(model.logit_scale, 1.5)
    else:
        model = transformers.BertModel(transformers.BertConfig(**text))
    model.eval().save_pretrained(path)
    tokenizer(path, 24, kind != "siglip")
    return model


def pixels(count: int) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def method_of(kind: str, path: Path, **options: Any) -> Any:
    name = f"huggingface:{path}"
    made = {"clip": CLIP, "siglip": SigLIP}[kind](build_encoder({"name": name, "size": 32}), text=name, **options)
    return made.eval()


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_model_of_images_and_texts_goes_on_where_it_was(kind: str, tmp_path: Path) -> None:
    model, method = model_of(kind, tmp_path), method_of(kind, tmp_path)
    own = transformers.AutoTokenizer.from_pretrained(tmp_path)
    padding: Any = True if kind == "clip" else "max_length"
    given = own(TEXTS, padding=padding, truncation=True, max_length=24, return_tensors="pt")
    assert ("attention_mask" in given) == (kind == "clip") == bool((method.tokens(TEXTS, TEXTS) < 0).any())
    images = pixels(4)
    with torch.no_grad():
        expected = model(**given, pixel_values=images, return_loss=True)
        embedded = method.encode_images(images), method.encode_texts(method.tokens(TEXTS, TEXTS))
        loss = method.objective(*embedded)
    torch.testing.assert_close(embedded[0], expected.image_embeds, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(embedded[1], expected.text_embeds, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loss, expected.loss, rtol=1e-5, atol=1e-5)


def test_other_models_are_averaged_over_tokens(tmp_path: Path) -> None:
    model = model_of("bert", tmp_path)
    tower = HuggingFaceText(f"huggingface:{tmp_path}")
    assert (tower.length, tower.dim, tower.projections) == (24, 16, {})
    given = transformers.AutoTokenizer.from_pretrained(tmp_path)(
        TEXTS, padding=True, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        states = model(**given).last_hidden_state
        found = tower.eval()(tower.tokens_of(TEXTS)[0])
    for row, (state, mask) in enumerate(zip(states, given["attention_mask"])):
        torch.testing.assert_close(found[row], state[: int(mask.sum())].mean(0), rtol=1e-5, atol=1e-6)
    method = CLIP(build_encoder({"name": "resnet", "size": 32, "width": 4}), text=f"huggingface:{tmp_path}")
    assert method.text_head.in_features == 16 and method.image_head.out_features == 128  # type: ignore[union-attr]
    unused = [name for name, p in tower.named_parameters() if "pooler" in name]
    assert not unused  # without a gradient, which processes would wait for


def test_the_text_tower_of_another_model_keeps_its_projection(tmp_path: Path) -> None:
    model = model_of("clip", tmp_path)
    method = CLIP(build_encoder({"name": "resnet", "size": 32, "width": 4}), text=f"huggingface:{tmp_path}", scale=5.0)
    torch.testing.assert_close(method.text_head.weight, model.text_projection.weight)
    assert method.image_head.out_features == 12  # type: ignore[union-attr]
    assert float(method.log_scale.exp()) == pytest.approx(5.0)


def test_longer_texts_are_cut_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model_of("clip", tmp_path)
    method = method_of("clip", tmp_path, length=10)
    tokens = method.tokens(["a cat", LONG], ["one", "two"])
    assert tokens.shape == (2, 10) and tokens[0].tolist() == [1, *(b + 3 for b in b"a cat"), 2, -1, -1, -1]
    assert tokens[1, -1] == 2  # the end is kept
    assert "two: its text has more than 10 tokens, after which texts are cut" in caplog.text
    with pytest.raises(ValueError, match="spatial: expected False, .* projects 16 pooled features"):
        method_of("clip", tmp_path, spatial=True)
    with pytest.raises(ValueError, match="length: expected 2 to 24, the tokens that the text tower takes, got 25"):
        method_of("clip", tmp_path, length=25)


def test_what_is_no_text_tower_is_named(tmp_path: Path) -> None:
    encoder = build_encoder({"name": "resnet", "size": 32, "width": 4})
    with pytest.raises(ValueError, match="text: expected huggingface:NAME .*, got 'bert'"):
        CLIP(encoder, text="bert")
    with pytest.raises(FileNotFoundError, match="text: expected a folder or the name of a model .*nowhere"):
        CLIP(encoder, text=f"huggingface:{tmp_path / 'nowhere'}")
    with pytest.raises(ValueError, match="text: expected None with tower="):
        CLIP(encoder, tower=TextTransformer(length=8), text=f"huggingface:{tmp_path}")


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_run_trains_and_is_loaded_and_resumed(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "model"
    model_of(kind, place)
    name, data = f"huggingface:{place}", emoji().subset(np.arange(48), "emoji")
    how = Pretraining(epochs=2, batch_size=16, lr=1e-3, warmup_epochs=0)

    def run(out: Path, **more: Any) -> Any:
        return pretrain(
            method_of(kind, place),
            data,
            how,
            out=out,
            encoder_options={"name": name, "size": 32},
            method_options={"text": name},
            **more,
        )

    run(tmp_path / "whole")
    loaded: Any = load_method(tmp_path / "whole")
    assert not torch.equal(
        loaded.tower.model.embeddings.token_embedding.weight,
        method_of(kind, place).tower.model.embeddings.token_embedding.weight,
    )
    scores = image_text_retrieval(loaded, data, k=(1,))
    before = image_text_retrieval(method_of(kind, place), data, k=(1,))
    assert scores["text to image, recall@1"]["pretrained"] >= before["text to image, recall@1"]["pretrained"]
    assert 0 <= zero_shot(loaded, data, torch.zeros(48, dtype=torch.int64), ["cat", "dog"], ["a {}"]) <= 100
    state = json.loads(next((tmp_path / "whole" / "checkpoint").glob("*.json")).read_text())
    assert state["method_options"] == {"text": name}


def test_loaders_read_in_several_threads(tmp_path: Path) -> None:
    """A tokenizer in Rust whose settings change while another thread uses it is an error."""
    from concurrent.futures import ThreadPoolExecutor

    model_of("clip", tmp_path)
    tower = HuggingFaceText(f"huggingface:{tmp_path}")
    texts = [[f"text {k} {j} " * (1 + j % 5) for j in range(50)] for k in range(16)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda some: tower.tokens_of(some)[0], texts))
    for some, tokens in zip(texts, found):
        assert torch.equal(tokens, tower.tokens_of(some)[0])


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_trained_models_are_exported_as_what_they_were(kind: str, tmp_path: Path) -> None:
    model, method = model_of(kind, tmp_path / "model"), method_of(kind, tmp_path / "model")
    with torch.no_grad():
        for p in method.parameters():
            p.add_(torch.randn(p.shape) * 0.05)
    path = export_image_text(method, {"name": f"huggingface:{tmp_path / 'model'}", "size": 32}, tmp_path / "out")
    again = transformers.AutoModel.from_pretrained(path)
    assert type(again) is type(model) and float(again.logit_scale.detach()) == float(method.log_scale.detach())
    scope: dict[str, Any] = {"images": pixels(2), "texts": ["a cat", LONG]}
    with torch.no_grad():
        exec(loading(path), scope)
        normal = method.encoder.network.normalized
        assert normal(scope["images"]) is scope["images"]  # of a folder without a processor
        expected = method.encode_images(scope["images"]) @ method.encode_texts(method.tokens(scope["texts"], "ab")).T
    torch.testing.assert_close(scope["cosines"], expected, rtol=1e-4, atol=1e-5)
    further = method_of(kind, path)  # goes on from there
    torch.testing.assert_close(further.encode_images(pixels(2)), method.encode_images(pixels(2)), rtol=1e-4, atol=1e-5)


def test_towers_of_two_models_are_not_exported(tmp_path: Path) -> None:
    model_of("clip", tmp_path / "model")
    name = f"huggingface:{tmp_path / 'model'}"
    options = {"name": "resnet", "size": 32, "width": 4}
    for method, given in (
        (CLIP(build_encoder(options), text=name), options),
        (method_of("clip", tmp_path / "model", outputs=5), {"name": name, "size": 32}),
    ):
        with pytest.raises(ValueError, match="both towers, and the dimensions of their projections, are of one model"):
            export_image_text(method, given, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_commands_evaluate_train_and_export_pretrained_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "model"
    model_of("clip", place)
    name = f"huggingface:{place}"
    rows = ["path,text,label,split"]
    for k in range(40):
        item = emoji().read(k)
        assert item.images is not None
        Image.fromarray(item.images[0][..., :3]).save(tmp_path / f"{k}.png")
        rows.append(f"{k}.png,{item.text},{'ab'[k % 2]},{'test' if k % 4 == 0 else 'train'}")
    (tmp_path / "list.csv").write_text("\n".join(rows))

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, list(arguments))
        assert result.exit_code == 0, result.output
        return result.output

    data, size = ("--data", str(tmp_path / "list.csv")), ("--size", "32")
    said = run("evaluate", name, *size, *data, "--protocol", "image-text-retrieval")
    assert "image to text, recall@1" in said and "text to image, recall@10" in said
    assert "zero-shot" in run("evaluate", name, *size, *data, "--protocol", "zero-shot")
    out = str(tmp_path / "run")
    small = ("--epochs", "1", "--batch-size", "10", "--lr", "1e-4")
    monkeypatch.chdir(tmp_path)
    near = "huggingface:model"  # which the run finds from everywhere
    run("pretrain", "clip", *data, *size, *small, "--encoder", near, "--set", f"text={near}", "--out", out)
    monkeypatch.chdir("/")
    run("evaluate", out, *data, "--protocol", "image-text-retrieval")
    run("pretrain", "clip", "--out", out, "--resume")
    run("export", out, "--to", "huggingface")
    assert type(transformers.AutoModel.from_pretrained(f"{out}/huggingface")).__name__ == "CLIPModel"
    result = CliRunner().invoke(app, ["evaluate", "timm:resnet18", *size, *data, "--protocol", "zero-shot"])
    assert result.exit_code and "timm" in str(result.exception or result.output)


@pytest.mark.parametrize("name", ["clip", "siglip", "align"])
def test_a_locked_image_tower_is_not_trained(name: str, tmp_path: Path) -> None:
    options = {"name": "resnet", "size": 32, "width": 4}
    data = emoji().subset(np.arange(32), "emoji")
    method: Any = get(name)(build_encoder(options), locked=True)
    before, text = copy.deepcopy(method.encoder.state_dict()), method.text_head.weight.detach().clone()
    how = Pretraining(epochs=1, batch_size=16, chunk=8)
    pretrain(method, data, how, out=tmp_path / name, encoder_options=options, method_options={"locked": True})
    for key, value in method.encoder.state_dict().items():  # statistics of batch norms too
        assert torch.equal(value, before[key]), key
    assert not torch.equal(method.text_head.weight, text)
    assert load_method(tmp_path / name).locked
