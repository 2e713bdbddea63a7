"""Exported image-text models: transformers loads both towers, and gives the same embeddings, tokens and logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

from fastssl.cli.main import app
from fastssl.data import emoji
from fastssl.methods import get
from fastssl.models import TextTransformer, build_encoder
from fastssl.models.image_text_export import export_image_text, loading
from fastssl.models.text import tokenize
from tests.support import ROOT

transformers = pytest.importorskip("transformers")
SMALL: dict[str, Any] = {"name": "resnet", "size": 32, "width": 4, "blocks": 1}
TEXTS = ["", "a cat", "Größe, 图 and 🐈", "<pad> [PAD] \t two  spaces ", "x" * 28]


def method_of(name: str, options: dict[str, Any], **more: Any) -> Any:
    """With statistics and a scale of its own."""
    torch.manual_seed(0)
    method: Any = get(name)(build_encoder(options), length=30, outputs=24, **more)
    method.encoder.train()(torch.randn(4, method.encoder.channels, 32, 32))
    with torch.no_grad():
        method.log_scale.fill_(1.7)
    return method.eval()


@pytest.mark.parametrize(
    ("name", "options", "more"),
    [
        ("clip", SMALL, {}),
        ("clip", SMALL | {"channels": 1}, {"spatial": True}),
        ("clip", {"name": "vit", "size": 32, "width": 16}, {"tower": TextTransformer(16, 1, 2, 30)}),
        ("clip", {"name": "igpt", "size": 32}, {}),
        ("align", SMALL, {}),
        ("siglip", SMALL, {}),
    ],
)
def test_the_printed_lines_embed_as_the_method(
    name: str, options: dict[str, Any], more: dict[str, Any], tmp_path: Path
) -> None:
    method = method_of(name, options, **more)
    (tmp_path / "made").mkdir()
    for file in ("config.json", "old.json"):
        (tmp_path / "made" / file).touch()  # of an earlier export, which is replaced
    path = export_image_text(method, options, tmp_path / "made")
    assert [p.name for p in tmp_path.iterdir()] == ["made"] and not (path / "old.json").exists()
    images = torch.randn(3, method.encoder.channels, 32, 32)
    scope: dict[str, Any] = {"images": images, "texts": TEXTS}
    with torch.no_grad():
        exec(loading(path), scope)
        x, y = method.encode_images(images), method.encode_texts(tokenize(TEXTS, 30))
        torch.testing.assert_close(scope["cosines"], x @ y.T, rtol=1e-4, atol=1e-5)
        assert torch.equal(scope["tokens"], tokenize(TEXTS, 30))  # one of the texts fills all places
        given = scope["model"](input_ids=scope["tokens"], pixel_values=images)
        logits = x @ y.T * method.log_scale.exp() + (method.bias if name == "siglip" else 0)
        torch.testing.assert_close(given.logits_per_image, logits, rtol=1e-4, atol=1e-4)
        assert torch.equal(given.logits_per_text, given.logits_per_image.T)
        alone = scope["model"](pixel_values=images)
    assert torch.equal(alone.image_embeds, given.image_embeds) and alone.text_embeds is alone.logits_per_image is None
    processor = transformers.AutoImageProcessor.from_pretrained(path, trust_remote_code=True)
    photograph = Image.fromarray(emoji().images[0, 0])
    assert processor(photograph, return_tensors="pt")["pixel_values"].shape == (1, method.encoder.channels, 32, 32)


def test_long_texts(tmp_path: Path) -> None:
    path = export_image_text(method_of("clip", SMALL), SMALL, tmp_path / "made")
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=True)
    model = transformers.AutoModel.from_pretrained(path, trust_remote_code=True)
    texts = ["a caption that is longer than the text tower", "short"]
    cut = tokenizer(texts, padding=True, truncation=True, return_tensors="pt").input_ids
    assert torch.equal(cut, tokenize(texts, 30, truncate=True))
    with pytest.raises(ValueError, match="input_ids: expected at most 30 tokens per text, got 46; the tokenizer cuts"):
        model.get_text_features(tokenizer(texts, padding=True, return_tensors="pt").input_ids)
    assert tokenizer.decode(cut[1], skip_special_tokens=True) == "short"


def test_towers_that_cannot_be_rebuilt_are_refused(tmp_path: Path) -> None:
    class Own(TextTransformer):
        def forward(self, tokens: Tensor) -> Tensor:
            return -super().forward(tokens)

    with pytest.raises(ValueError, match="method: expected a TextTransformer as text tower, got Own"):
        export_image_text(method_of("clip", SMALL, tower=Own(16, 1, 2, 30)), SMALL, tmp_path / "made")
    method = method_of("clip", SMALL)
    method.encode_images = lambda images: nn.functional.normalize(images.flatten(1)[:, :24], dim=1)
    with pytest.raises(RuntimeError, match="the exported model gives other embeddings of images, by up to "):
        export_image_text(method, SMALL, tmp_path / "made")
    assert not list(tmp_path.iterdir())


def test_the_command(tmp_path: Path) -> None:
    runner, run = CliRunner(), tmp_path / "run"
    for k in range(8):
        Image.fromarray(emoji().images[k, 0]).save(tmp_path / f"{k}.png")
    rows = [f"{k}.png\tpicture {k}" for k in range(8)]
    (tmp_path / "list.csv").write_text("\n".join(["filepath\ttitle", *rows]))
    small = ["--size", "32", "--width", "4", "--epochs", "1", "--batch-size", "8", "--out", str(run)]
    result = runner.invoke(app, ["pretrain", "siglip", "--data", str(tmp_path / "list.csv"), *small])
    assert result.exit_code == 0, result.output
    result = runner.invoke(app, ["export", str(run), "--to", "huggingface"])
    assert result.exit_code == 0 and "both towers written" in result.output, result.output
    lines = loading(run / "huggingface")
    assert lines in result.output
    assert lines.replace(str(run), "runs/clip") in (ROOT / "docs" / "encoders.md").read_text()
    assert json.loads((run / "huggingface" / "config.json").read_text())["biased"] is True
    result = runner.invoke(app, ["export", str(run), "--to", "torch"])
    assert "torch: the image encoder alone; --to huggingface also writes the text tower" in result.output
