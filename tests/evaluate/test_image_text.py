"""Retrieval of captions by images, and of images by captions, against a double loop."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

import fastssl.data
from fastssl.augment import to_float
from fastssl.cli.main import app
from fastssl.data import ArraySource, Source, emoji
from fastssl.evaluate import image_text_retrieval, retrieval
from fastssl.methods import get
from fastssl.models import build_encoder, tokenize

ENCODER = {"name": "resnet", "size": 32, "width": 4, "blocks": 1}
KS = (1, 2, 5, 10)
CAPTIONS = np.random.default_rng(1).integers(0, 9, 23)  # whose image each is of: images have 1 to 5, in any order


def captions(folder: Path, owners: np.ndarray = CAPTIONS) -> Path:
    """A table of images of emoji with captions, some of which several images share."""
    folder.mkdir(parents=True, exist_ok=True)
    images = emoji()
    for k in set(owners.tolist()):
        Image.fromarray(images.images[k, 0]).save(folder / f"{k}.png")
    rows = [f'{"./" * (n % 2)}{k}.png,"{images.texts[k]}, {n % 3}"' for n, k in enumerate(owners)]  # type: ignore[index]
    (folder / "list.csv").write_text("\n".join(["filepath,title", *rows]))
    return folder / "list.csv"


def by_loops(images: Tensor, texts: Tensor, owners: list[int], k: int) -> tuple[float, float]:
    """Hits among the first k, per image and per text; equal cosines in the order of the rows."""
    found_texts, found_images = [], []
    for i in range(len(images)):
        order = sorted(range(len(texts)), key=lambda j: (-float(images[i] @ texts[j]), j))
        found_texts.append(any(owners[j] == i for j in order[:k]))
    for j in range(len(texts)):
        order = sorted(range(len(images)), key=lambda i: (-float(images[i] @ texts[j]), i))
        found_images.append(owners[j] in order[:k])
    return 100 * float(np.mean(found_texts)), 100 * float(np.mean(found_images))


@pytest.mark.parametrize("name", ["clip", "siglip"])
@pytest.mark.parametrize("strip", [7, 2**22])
def test_retrieval_is_what_a_double_loop_finds(
    name: str, strip: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval, "STRIP", strip)
    torch.manual_seed(2)
    method: Any = get(name)(build_encoder(ENCODER)).eval()
    source = fastssl.data.open(captions(tmp_path))
    listed = list(dict.fromkeys(CAPTIONS.tolist()))  # images in the order of their first rows
    owners = [listed.index(k) for k in CAPTIONS.tolist()]
    assert len(listed) < len(owners)
    pixels = torch.from_numpy(emoji().images[listed, 0])
    with torch.no_grad():
        images = method.encode_images(to_float(pixels, 32)).double()
        texts = method.encode_texts(tokenize([source.read(k).text or "" for k in range(len(source))], 64)).double()
    table = image_text_retrieval(method, source, KS, batch=5)
    assert list(table) == [f"{way}, recall@{k}" for way in ("image to text", "text to image") for k in KS]
    for k in KS:
        to_text, to_image = by_loops(images, texts, owners, k)
        assert table[f"image to text, recall@{k}"]["pretrained"] == pytest.approx(to_text)
        assert table[f"text to image, recall@{k}"]["pretrained"] == pytest.approx(to_image)
        missed = [math.comb(23 - owners.count(i), k) / math.comb(23, k) for i in range(len(listed))]
        assert table[f"image to text, recall@{k}"]["chance"] == pytest.approx(100 * (1 - np.mean(missed)))
        assert table[f"text to image, recall@{k}"]["chance"] == pytest.approx(100 * min(1, k / len(listed)))
    assert image_text_retrieval(method, source) == image_text_retrieval(method, str(tmp_path / "list.csv"), (1, 5, 10))


class _Known(torch.nn.Module):
    """Embeddings that are given: unit vectors of images by their brightness, of texts by their number."""

    def __init__(self, images: Tensor, texts: Tensor) -> None:
        super().__init__()
        self.images, self.texts = images, texts
        self.encoder, self.log_scale = build_encoder(ENCODER), torch.zeros(())

    def tokens(self, texts: list[str], names: list[str]) -> Tensor:
        return torch.tensor([int(text) for text in texts])

    def encode_texts(self, tokens: Tensor) -> Tensor:
        return self.texts[tokens]

    def encode_images(self, images: Tensor) -> Tensor:
        return self.images[((images[:, 0, 0, 0] + 1) * 127.5).round().long()]


def _pairs(count: int) -> Source:
    images = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2).repeat(3, 3)
    return ArraySource(images, texts=[str(k) for k in range(count)])


def test_a_model_that_knows_all_finds_all() -> None:
    eye = torch.eye(12)
    found = image_text_retrieval(_Known(eye, eye), _pairs(12), (1, 3, 12))
    assert {row["pretrained"] for row in found.values()} == {100}
    assert found["text to image, recall@3"]["chance"] == found["image to text, recall@3"]["chance"] == pytest.approx(25)
    swapped = image_text_retrieval(_Known(eye, eye[[1, 0, *range(2, 12)]]), _pairs(12), (1,))
    assert [row["pretrained"] for row in swapped.values()] == pytest.approx([1000 / 12] * 2)
    few = image_text_retrieval(_Known(eye, eye), _pairs(3))  # recall@5 of three images
    assert few["text to image, recall@10"] == {"pretrained": 100, "chance": 100}


def test_texts_that_are_missing_are_named(tmp_path: Path) -> None:
    method = get("clip")(build_encoder(ENCODER))
    path = captions(tmp_path)
    path.write_text(path.read_text().replace("title", "alt"))
    columns = r"path from column 'filepath', not read: 'alt'"
    text = rf"data: expected a text \(caption\) of every image, .*\.png of list has none \({columns}\); a column of "
    with pytest.raises(ValueError, match=text + "captions of another name: #text=NAME"):
        image_text_retrieval(method, path)
    assert image_text_retrieval(method, f"{path}#text=alt")
    with pytest.raises(ValueError, match="expected a text .* of every image, 0 of digits has none$"):
        image_text_retrieval(method, "digits")
    with pytest.raises(ValueError, match=r"k: expected integers of at least 1, got \[1, 0\]"):
        image_text_retrieval(method, path, (1, 0))


def test_the_command(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    runner, run, data = CliRunner(), str(tmp_path / "run"), str(captions(tmp_path / "train"))
    other, out = str(captions(tmp_path / "test", CAPTIONS[:9] + 20)), tmp_path / "table.json"
    small = ["--size", "32", "--width", "4", "--epochs", "1", "--batch-size", "8"]
    result = runner.invoke(app, ["pretrain", "clip", "--data", data, *small, "--out", run])
    assert result.exit_code == 0, result.output
    evaluate = ["evaluate", run, "--protocol", "image-text-retrieval"]
    own = runner.invoke(app, evaluate)
    assert own.exit_code == 0 and "list: the run was trained on these images and texts" in own.output, own.output
    result = runner.invoke(app, [*evaluate, "--data", other, "--out", str(out)])
    assert result.exit_code == 0 and "trained on these" not in result.output, result.output
    table = json.loads(out.read_text())
    assert len(table) == 6 and all(set(row) == {"pretrained", "chance"} for row in table.values())
    assert "text to image, recall@10" in result.output
    assert "again" not in caplog.text  # every row is evaluated
    for command, match in (
        ([*evaluate, "--data", "digits"], "data: expected a text (caption) of every image, 0 of digits has none"),
        (
            [*evaluate, "--readout", "pooled"],
            "readout: expected none, image-text-retrieval compares the joint embeddings",
        ),
        ([*evaluate, "--whiten", "4"], "whiten: expected the protocol 'frozen', got 'image-text-retrieval'"),
        ([*evaluate, "--prompt", "a {}"], "prompt: expected the protocol 'zero-shot', got 'image-text-retrieval'"),
    ):
        assert match in str(runner.invoke(app, command).exception)
    for image in (tmp_path / "train").rglob("*.png"):  # other images of the same names
        image.write_bytes(image.read_bytes() + b"0")
    changed = runner.invoke(app, evaluate)
    assert changed.exit_code == 0 and "trained on these" not in changed.output, changed.output
    assert runner.invoke(app, ["pretrain", "clip", "--resume", "--out", run]).exit_code == 0
    assert "files of list have other sizes than before" in caplog.text
    result = runner.invoke(app, ["pretrain", "simclr", "--data", data, *small, "--out", str(tmp_path / "simclr")])
    assert result.exit_code == 0, result.output
    result = runner.invoke(app, ["evaluate", str(tmp_path / "simclr"), "--protocol", "image-text-retrieval"])
    assert "image-text-retrieval needs a method with a text tower, this one is simclr" in str(result.exception)
