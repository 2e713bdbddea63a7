"""Options given as numbers of NumPy, values that are no integers, and what "auto" stands for."""

from __future__ import annotations

import json
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fastssl.evaluate import DenseTuning
from fastssl.methods import Word2Vec
from fastssl.models.precision import faster_precision
from fastssl.train import Pretraining

NO_INTEGERS = [True, np.True_, 3.0, np.float32(3), "3", -1, np.int64(-1), torch.tensor(3.0), torch.tensor([3])]


def test_options_of_numpy_are_those_of_python() -> None:
    given = Pretraining(
        epochs=np.int64(3), batch_size=np.uint16(32), seed=np.int8(1), lr=np.float64(0.5), chunk=np.int32(8)
    )
    given.check()
    plain = Pretraining(epochs=3, batch_size=32, seed=1, lr=0.5, chunk=8)
    assert given == plain
    assert json.dumps(asdict(given)) == json.dumps(asdict(plain))  # as checkpoints record them


def test_options_of_torch_are_those_of_python() -> None:
    given = Pretraining(epochs=torch.tensor(3), batch_size=np.array(32), lr=torch.tensor(0.5, dtype=torch.float64))
    given.check()
    assert given == (plain := Pretraining(epochs=3, batch_size=32, lr=0.5))
    assert json.dumps(asdict(given)) == json.dumps(asdict(plain))


def test_options_of_word_vectors() -> None:
    given = Word2Vec(
        np.int64(8), window=np.int32(3), max_words=np.uint8(9), subsample=np.float32(0.5), seed=np.int64(2)
    )
    assert json.dumps(given.options) == json.dumps(Word2Vec(8, window=3, max_words=9, subsample=0.5, seed=2).options)


def test_options_of_a_dense_protocol() -> None:
    assert repr(DenseTuning(steps=np.int64(5), size=np.int64(32))) == repr(DenseTuning(steps=5, size=32))


@pytest.mark.parametrize("value", NO_INTEGERS, ids=repr)
@pytest.mark.parametrize("name", ["epochs", "batch_size", "devices", "workers", "seed", "chunk"])
def test_options_that_are_no_integers(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected an integer"):
        Pretraining(**{name: value}).check()


@pytest.mark.parametrize("value", NO_INTEGERS, ids=repr)
def test_options_of_others_that_are_no_integers(value: Any) -> None:
    for make in (lambda: Word2Vec(dim=value), lambda: DenseTuning(steps=value), lambda: DenseTuning(size=value)):
        with pytest.raises(ValueError, match=": expected an integer"):
            make()


@pytest.mark.parametrize(("major", "precision"), [(7, "32-true"), (8, "bf16-mixed")])
def test_bf16_that_a_gpu_emulates_is_not_chosen(major: int, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(major=major))
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda _: True)
    assert faster_precision("cuda") == precision
