"""Encoders for others to load: an exported program of torch, ONNX, or a model of Hugging Face transformers."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastssl.models.encoders import RESNETS, Encoder
from fastssl.models.resnet import ResNet

FORMATS = ("torch", "onnx", "huggingface", "torchvision", "timm")


def export_encoder(encoder: Encoder, options: dict[str, Any], to: str, path: str | Path) -> Path:
    """Writes an encoder, loads it back, and compares its features.

    Args:
        encoder: images [B, 3, S, S] in [-1, 1] to [B, C]; written in evaluation mode.
        options: what ``build_encoder`` made it of.
        to: "torch": a program for ``torch.export.load``, any batch; "onnx": any batch (extra: export); "huggingface": a
            folder for ``AutoModel.from_pretrained(folder, trust_remote_code=True)`` (extra: vision); "torchvision" and
            "timm": the weights of a ResNet of 64 channels with the stem for ImageNet, for
            ``torchvision.models.resnet50().load_state_dict(torch.load(path), strict=False)`` (which has ``fc`` besides)
            and ``timm.create_model("resnet50", num_classes=0, checkpoint_path=path)``.
        path: file, or folder for "huggingface"; replaced when it is whole.

    Returns:
        The path.

    Raises:
        ImportError: the extra is missing.
        RuntimeError: what was loaded back gives other features: nothing is left at ``path``.
        ValueError: unknown format, or an encoder that the library does not have.
    """
    writers = {
        "torch": _torch,
        "onnx": _onnx,
        "huggingface": _huggingface,
        "torchvision": _resnet_weights,
        "timm": _resnet_weights,
    }
    if to not in writers:
        raise ValueError(f"to: expected one of {', '.join(FORMATS)}, got {to!r}")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(".tmp-" + path.name)
    _remove(fresh)
    encoder.eval()
    example = torch.randn(3, 3, encoder.size, encoder.size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporters, about themselves
        expected = encoder(example)
        try:
            given = writers[to](encoder, options, fresh, example)
        except BaseException:
            _remove(fresh)
            raise
    if not torch.allclose(given, expected, rtol=1e-4, atol=1e-4):
        _remove(fresh)
        worst = float((given - expected).abs().max())
        raise RuntimeError(f"the exported encoder gives other features than the encoder, by up to {worst:.1g}")
    _remove(path)
    fresh.rename(path)
    return path


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _torch(encoder: Encoder, options: dict[str, Any], path: Path, example: Tensor) -> Tensor:
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    program = torch.export.export(encoder, (example,), dynamic_shapes=shapes)
    with path.open("wb") as file:
        torch.export.save(program, file)
    with path.open("rb") as file:
        result: Tensor = torch.export.load(file).module()(example)
    return result


def _resnet_weights(encoder: Encoder, options: dict[str, Any], path: Path, example: Tensor) -> Tensor:
    """The weights, which torchvision and timm call alike."""
    network = encoder.network
    if not isinstance(network, ResNet) or network.conv1.weight.shape != (64, 3, 7, 7):
        raise ValueError(
            f"to: torchvision and timm have ResNets of 64 channels with the stem for ImageNet ({', '.join(RESNETS)}, "
            f"--stem imagenet), got {options['name']!r} with a first convolution {list(_first(network))}"
        )
    torch.save({key: value.clone().contiguous() for key, value in network.state_dict().items()}, path)
    loaded = ResNet(int(str(options["name"]).removeprefix("resnet")))
    loaded.load_state_dict(torch.load(path, weights_only=True))
    result: Tensor = Encoder(loaded.eval(), encoder.size)(example)
    return result


def _first(network: nn.Module) -> torch.Size:
    return next((m.weight.shape for m in network.modules() if isinstance(m, nn.Conv2d)), torch.Size())


def _onnx(encoder: Encoder, options: dict[str, Any], path: Path, example: Tensor) -> Tensor:
    try:
        import onnx
        import onnxscript  # noqa: F401
        from onnx.reference import ReferenceEvaluator
    except ImportError as error:
        raise ImportError("ONNX needs the extra: pip install fastssl[export]") from error
    program = torch.onnx.export(
        encoder,
        (example,),
        input_names=["images"],
        output_names=["features"],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.save(str(path), external_data=False)
    model = onnx.load(str(path))
    onnx.checker.check_model(model)
    (features,) = ReferenceEvaluator(model).run(None, {"images": example.numpy()})
    return torch.from_numpy(features)


def _huggingface(encoder: Encoder, options: dict[str, Any], path: Path, example: Tensor) -> Tensor:
    try:
        from transformers import AutoModel
    except ImportError as error:
        raise ImportError("models of Hugging Face need the extra: pip install fastssl[vision]") from error
    inner = getattr(encoder.network, "model", None)
    if str(options["name"]).startswith("huggingface:") and isinstance(inner, nn.Module):
        inner.save_pretrained(path)  # type: ignore[operator]
        return Encoder(type(encoder.network)(AutoModel.from_pretrained(path).eval()), encoder.size)(example)
    from fastssl.models import modeling_fastssl as code

    config = code.FastSSLConfig(encoder=options, architectures=["FastSSLModel"])
    config.auto_map = {part: f"modeling_fastssl.FastSSL{part[4:]}" for part in ("AutoConfig", "AutoModel")}
    model = code.FastSSLModel(config)
    model.network.load_state_dict(encoder.network.state_dict())
    model.save_pretrained(path)
    shutil.copy(code.__file__, path / "modeling_fastssl.py")  # what trust_remote_code runs
    loaded = AutoModel.from_pretrained(path, trust_remote_code=True).eval()
    result: Tensor = loaded(example).pooler_output
    return result
