"""Methods of users: what their examples, losses and fields lack is named; compiled networks; kinds of methods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fastssl.augment import SimCLRAugment
from fastssl.cli.main import app
from fastssl.data import Batch, digits, tones
from fastssl.methods import BERT, ImageMethod, Method, SimCLR, WaveNet, kind_of
from fastssl.models import Encoder, build_audio
from fastssl.train import Pretraining, cached_step, load_checkpoint, load_encoder, load_method, pretrain
from tests.support.language import method_of, tokens

DATA = digits().subset(range(64))
ONCE = Pretraining(epochs=1, batch_size=32, workers=1, precision="32-true")


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU())


class Own(ImageMethod):
    def __init__(self) -> None:
        super().__init__(Encoder(network(), 16), SimCLRAugment(16))

    def rows(self, batch: Batch) -> Tensor:
        return self.encoder(batch.views[0]).square().mean(1)  # type: ignore[no-any-return]

    def forward(self, batch: Batch) -> Tensor:
        return self.rows(batch).mean()


def _with(**members: Any) -> Method:
    made: Method = type("Own", (Own,), members)()
    return made


LOSS = "forward of Own: expected a scalar tensor that requires a gradient, got "


@pytest.mark.parametrize(
    "members, kind, message",
    [
        ({"forward": lambda self, batch: self.rows(batch)}, ValueError, LOSS + r"one of shape \(2,\); take its mean"),
        ({"forward": lambda self, batch: {"loss": self.rows(batch).mean()}}, TypeError, LOSS + "dict of loss"),
        ({"forward": lambda self, batch: self.rows(batch).mean().detach()}, ValueError, LOSS + "one without: it was"),
        ({"forward": lambda *_: 1.0}, TypeError, LOSS + "float"),
        ({"needs": ("image",)}, ValueError, "needs: Own expects fields of an Item, images, tokens,.*got 'image'"),
        (
            {"examples": lambda self, items, *_: {"views": torch.zeros(len(items), 3, 16, 16)}},
            TypeError,
            r"examples of Own: expected a named tuple of tensors with a field ids, such as fastssl.*got dict",
        ),
    ],
)
def test_what_a_method_lacks_is_named(
    members: dict[str, Any], kind: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=message):
        pretrain(_with(**members), DATA, ONCE, out=tmp_path)


@pytest.mark.parametrize(
    "loss, kind, got",
    [
        (lambda z: (z.sum(), z), TypeError, "tuple"),
        (lambda z: z.sum(1), ValueError, r"one of shape \(6,\)"),
        (lambda z: z.sum().detach(), ValueError, "one without"),
    ],
)
def test_losses_of_cached_step(loss: Callable[..., Any], kind: type[Exception], got: str) -> None:
    with pytest.raises(kind, match=f"loss: expected a scalar tensor that requires a gradient, got {got}"):
        cached_step(nn.Linear(8, 4), torch.randn(6, 8), loss, chunk=2)


def test_cached_step_in_inference_mode_says_so() -> None:
    with torch.inference_mode(), pytest.raises(ValueError, match="got one without: inference_mode is on"):
        cached_step(nn.Linear(8, 4), torch.randn(6, 8), lambda z: z.sum(), chunk=2)


def test_checkpoints_of_compiled_networks(tmp_path: Path) -> None:
    """Their keys are those of the original module; earlier checkpoints with ``_orig_mod.`` are read."""

    def compiled() -> Any:
        return torch.compile(network(), backend="eager")

    method = SimCLR(Encoder(compiled(), 16))
    pretrain(method, DATA, ONCE, out=tmp_path)
    tensors = load_checkpoint(tmp_path)[0]
    assert "model.encoder.network.0.weight" in tensors and not any("_orig_mod" in name for name in tensors)
    for made in (network(), compiled()):
        encoder = load_encoder(tmp_path, Encoder(made, 16))[0]
        weight = next(encoder.network.parameters())
        assert torch.equal(weight, tensors["model.encoder.network.0.weight"])
    longer = Pretraining(epochs=2, batch_size=32, workers=1, precision="32-true")
    pretrain(SimCLR(Encoder(compiled(), 16)), DATA, longer, out=tmp_path, resume=True)
    pretrain(SimCLR(Encoder(network(), 16)), DATA, longer, out=tmp_path, resume=True)


@pytest.mark.parametrize("place", ["model.", "model.encoder.", "model.encoder.network."])
def test_earlier_checkpoints_of_compiled_modules(place: str, tmp_path: Path) -> None:
    """A wholly compiled method, its encoder or its network: tensors are stored under the names of ``torch.compile``."""
    options = {"name": "resnet", "size": 16, "width": 4}
    pretrain("simclr", DATA, ONCE, out=tmp_path, encoder=options)
    wanted = load_encoder(tmp_path)[0].state_dict()
    file = next(tmp_path.rglob("tensors.safetensors"))
    tensors = load_file(file)
    save_file({k.replace(place, f"{place}_orig_mod."): v for k, v in tensors.items()}, file)
    found = load_encoder(tmp_path)[0].state_dict()
    assert found.keys() == wanted.keys() and all(torch.equal(found[k], wanted[k]) for k in wanted)
    assert type(load_method(tmp_path)) is SimCLR
    assert load_checkpoint(tmp_path)[0].keys() == tensors.keys()
    pretrain("simclr", DATA, replace(ONCE, epochs=2), out=tmp_path, encoder=options, resume=True)


class OwnText(BERT):
    """A language method of a user's."""


class OwnAudio(WaveNet):
    """A method of waveforms of a user's."""


def _text(out: Path) -> str:
    data, network = tokens(), method_of("bert").network
    pretrain(OwnText(network, data.tokenizer), data, ONCE, out=out / "run")
    return "TextMethod"


def _audio(out: Path) -> str:
    pretrain(OwnAudio(build_audio({"name": "wavenet"}), window=256), tones(60), ONCE, out=out / "run")
    return "AudioMethod"


@pytest.mark.parametrize("train", [_text, _audio])
def test_kinds_of_own_methods(train: Callable[[Path], str], tmp_path: Path) -> None:
    from typer.testing import CliRunner

    base = train(tmp_path)
    state = load_checkpoint(tmp_path / "run")[1]
    assert kind_of(state).__name__ == base
    for command in ("evaluate", "export"):
        result = CliRunner().invoke(app, [command, str(tmp_path / "run")])
        assert result.exit_code != 0 and isinstance(result.exception, ValueError)
        assert "is a method of your own" in str(result.exception) or base in str(result.exception)
    if base == "TextMethod":  # its network is fine-tuned, and others start from it
        from fastssl.train import load_language

        network, _ = load_language(tmp_path / "run")
        assert state["encoder"] == network.options
    with pytest.raises(ValueError, match=f"expected one of a method of images, {state['method']} derives from {base}"):
        load_encoder(tmp_path / "run")
