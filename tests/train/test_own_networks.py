"""Networks of users: frozen parts and teachers keep their mode, parameters of 16 bits are evaluated but not trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastssl.augment import SimCLRAugment
from fastssl.data import Batch, Splits, digits
from fastssl.evaluate import FineTuning, encode, evaluate, layer_features, supervised_encoder
from fastssl.methods import BYOL, ImageMethod, SimCLR
from fastssl.models import Encoder
from fastssl.models.export import export_encoder
from fastssl.models.frozen import training_mode
from fastssl.train import Pretraining, load_encoder, pretrain

DATA = digits().subset(range(64))
ONCE = Pretraining(epochs=1, batch_size=32, workers=1, precision="32-true", probe_every=1)


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.BatchNorm2d(16)
    )


def frozen() -> Encoder:
    made = network()
    made[1].eval().requires_grad_(False)
    return Encoder(made, 16)


def modes(module: nn.Module) -> list[bool]:
    return [part.training for part in module.modules()]


class Distilled(ImageMethod):
    """Learns the features of a frozen teacher."""

    def __init__(self, encoder: Encoder, teacher: Encoder) -> None:
        super().__init__(encoder, SimCLRAugment(16))
        self.teacher = teacher.eval().requires_grad_(False)

    def forward(self, batch: Batch) -> Tensor:
        return (self.encoder(batch.views[0]) - self.teacher(batch.views[0]).float()).square().mean()


@pytest.mark.parametrize("kind", [SimCLR, BYOL])
def test_frozen_batch_norm_stays(kind: Callable[[Encoder], Any], tmp_path: Path) -> None:
    method = kind(frozen())
    networks = [method.encoder.network] + ([method.target.network[0].network] if kind is BYOL else [])
    before = [modes(one) for one in networks]
    assert before[0] == [True, True, False, True, True, True]
    pretrain(method, DATA, ONCE, out=tmp_path)
    assert [modes(one) for one in networks] == before
    for one in networks:
        assert int(one[1].num_batches_tracked) == 0 and int(one[4].num_batches_tracked) > 0
        assert bool((one[1].running_mean == 0).all())


def test_teachers_stay_in_evaluation_mode_and_may_have_16_bits(tmp_path: Path) -> None:
    method = Distilled(Encoder(network(), 16), Encoder(network(), 16).bfloat16())
    pretrain(method, DATA, ONCE, out=tmp_path)
    assert not any(modes(method.teacher)) and all(modes(method.encoder))


def test_loaded_networks_are_trained(tmp_path: Path) -> None:
    pretrain(SimCLR(Encoder(network(), 16)), DATA, ONCE, out=tmp_path)
    loaded = load_encoder(tmp_path, Encoder(network(), 16))[0]
    assert not any(modes(loaded))
    for method in (SimCLR(loaded), BYOL(loaded), BYOL(loaded).eval()):
        training_mode(method)
        assert all(modes(method))
    towers = nn.Module()
    towers.towers = nn.ModuleDict({"first": network().eval(), "second": frozen()})
    training_mode(towers)
    assert all(modes(towers.towers["first"])) and not all(modes(towers.towers["second"]))  # type: ignore[index]


def _finetune(encoder: Encoder) -> Tensor:
    """The statistics of the first batch norm afterwards, which stay 0 where it is frozen."""
    how = FineTuning(epochs=1, least_steps=1, batch_size=16)
    found: Any = supervised_encoder(encoder, DATA, how).network
    mean: Tensor = found[1].running_mean
    return mean


CALLS: dict[str, Callable[[Encoder, Path], Any]] = {
    "encode": lambda encoder, _: encode(encoder, DATA),
    "evaluate": lambda encoder, _: evaluate(encoder, None, DATA, rows=("pretrained",)),
    "layers": lambda encoder, _: layer_features(encoder, DATA),
    "finetune": lambda encoder, _: _finetune(encoder),
    "at": lambda encoder, _: encoder.at(32),
    "map_shape": lambda encoder, _: encoder.map_shape(),
    "export": lambda encoder, out: export_encoder(encoder, {"name": "own"}, "torch", out / "made.pt2"),
}


@pytest.mark.parametrize("call", CALLS)
def test_modes_after_a_call(call: str, tmp_path: Path) -> None:
    encoder = frozen()
    before = modes(encoder)
    CALLS[call](encoder, tmp_path)
    assert modes(encoder) == before and False in before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_encoders_of_other_dtypes_are_evaluated(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    reference = Encoder(network(), 16).eval()
    encoder = Encoder(network(), 16).eval()
    encoder.load_state_dict(reference.state_dict())
    encoder.to(dtype)
    for readout in ("pooled", "spatial"):
        made = encode(encoder, DATA, readout)
        assert made.dtype == torch.float32
        assert torch.allclose(made, encode(reference, DATA, readout), atol=0.05)
    assert Encoder(network().to(dtype), 16).map_shape() == reference.map_shape()
    assert {f.dtype for f in layer_features(encoder, DATA)} == {torch.float32}
    assert evaluate(encoder, None, Splits("own", DATA, DATA), rows=("pretrained",))["linear"]["pretrained"] > 50
    assert _finetune(encoder).any() and not _finetune(frozen().to(dtype)).any()
    assert encoder.network[0].weight.dtype == dtype  # type: ignore[index]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_parameters_of_16_bits_are_not_trained(dtype: torch.dtype, tmp_path: Path) -> None:
    known = r"method: expected parameters of float32, got b?float16 in encoder.network.0.weight.*precision='bf16-mixed'"
    with pytest.raises(ValueError, match=known):
        pretrain(SimCLR(Encoder(network().to(dtype), 16)), DATA, ONCE, out=tmp_path / "method")
    with pytest.raises(ValueError, match=known):
        pretrain("simclr", DATA, ONCE, out=tmp_path / "name", encoder=network().to(dtype), size=16)
