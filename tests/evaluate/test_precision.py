"""Networks that are trained for their evaluation are trained in the precision that was asked for, or that is faster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fastssl.data import Corpus, ParallelCorpus, Splits, Tokenizer, digits, scenes
from fastssl.evaluate import (
    DenseTuning,
    Detection,
    FineTuning,
    Segmentation,
    Start,
    TextFineTuning,
    TranslationTuning,
    compare_dense,
    finetune,
    finetune_text,
    finetune_translation,
)
from fastssl.models import build_encoder, build_language
from fastssl.models.precision import automatic_precision, in_float32

CONVOLUTIONAL = {"name": "resnet", "size": 16, "width": 4}


def _images(precision: str) -> None:
    data, rows = digits().subset(range(40)), np.arange(40)
    options = FineTuning(epochs=1, least_steps=1, batch_size=16, rates=(0.01,), precision=precision)
    finetune(build_encoder(CONVOLUTIONAL), data, torch.from_numpy(data.labels), rows[:30], rows[30:], options)


def _dense(task: Callable[[Any], Any], frozen: bool) -> Callable[[str], None]:
    def run(precision: str) -> None:
        data = Splits("scenes", scenes(4, size=32), scenes(2, "test", size=32))
        encoder = build_encoder(CONVOLUTIONAL)
        options = DenseTuning(steps=2, batch_size=2, precision=precision)
        compare_dense({"it": Start(lambda seed: encoder, frozen)}, task(data.train.classes), data, options, seeds=1)

    return run


def _texts(precision: str) -> None:
    data, labels = Corpus(["good", "bad"] * 20), torch.arange(40) % 2
    network = build_language({"name": "transformer", "vocabulary": 261, "width": 16, "depth": 1, "length": 8})
    options = TextFineTuning(least_steps=2, epochs=1, rates=(1e-2,), precision=precision)
    finetune_text(network, Tokenizer(), data, labels, np.arange(30), np.arange(30, 40), options)


def _pairs(precision: str) -> None:
    pairs = ParallelCorpus(Corpus(["uno", "dos"] * 8), Corpus(["one", "two"] * 8))
    network = build_language({"name": "bart", "vocabulary": 361, "width": 32, "depth": 1, "heads": 2, "length": 8})
    options = TranslationTuning(steps=2, batch_size=8, precision=precision)
    finetune_translation(network, Tokenizer(), pairs, range(14), range(14, 16), options)


RUNS: dict[str, Callable[[str], None]] = {
    "images": _images,
    "segmentation": _dense(Segmentation, False),
    "detection": _dense(Detection, False),
    "head": _dense(lambda classes: Segmentation(classes, "fcn"), True),
    "texts": _texts,
    "pairs": _pairs,
}


@pytest.mark.parametrize("automatic", ["auto", "32-true"])
@pytest.mark.parametrize("precision", ["auto", "bf16-mixed", "32-true"])
@pytest.mark.parametrize("run", RUNS)
def test_precision_of_training(run: str, precision: str, automatic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastssl.models.precision.multiplies_bf16_faster", lambda: True)
    seen: set[torch.dtype] = set()

    def look(module: nn.Module, inputs: Any, output: Tensor) -> None:
        if torch.is_grad_enabled():
            seen.add(output.dtype)

    kept: list[Any] = []
    for kind in (nn.Conv2d, nn.Linear):
        plain = kind.forward

        def forward(self: nn.Module, x: Tensor, plain: Callable[..., Tensor] = plain) -> Tensor:
            found = plain(self, x)
            look(self, x, found)
            return found

        kept.append(plain)
        monkeypatch.setattr(kind, "forward", forward)
    with automatic_precision(automatic):
        RUNS[run](precision)
    half = precision == "bf16-mixed" or (precision == "auto" and automatic == "auto")
    assert seen == {torch.bfloat16 if half else torch.float32}


@pytest.mark.parametrize("run", RUNS)
def test_unknown_precision(run: str) -> None:
    with pytest.raises(ValueError, match="precision: expected one of 'auto', 'bf16-mixed', '32-true', got 'bf16'"):
        RUNS[run]("bf16")


def test_outputs_in_float32() -> None:
    class Outputs(NamedTuple):
        scores: Tensor
        points: list[Tensor]

    found = in_float32(Outputs(torch.ones(2, dtype=torch.bfloat16), [torch.ones(2, dtype=torch.int64)]))
    assert isinstance(found, Outputs)
    assert found.scores.dtype == torch.float32 and found.points[0].dtype == torch.int64
