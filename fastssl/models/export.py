"""Export of encoders: torch.export programs, ONNX, weights for torchvision and timm, models for transformers."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastssl._logs import errors_alone
from fastssl.models import transformers_export
from fastssl.models.encoders import RESNETS, Encoder
from fastssl.models.folder import put
from fastssl.models.libraries import (
    HALF,
    LIBRARIES,
    READOUTS,
    Backbone,
    HuggingFaceBackbone,
    TorchvisionBackbone,
    readout_of,
    timm_arguments,
    torchvision_arguments,
)
from fastssl.models.modes import evaluation_mode
from fastssl.models.resnet import ResNet

_Writer = Callable[[Encoder, dict[str, Any], Path, Tensor], Tensor]
FORMATS = ("torch", "onnx", "huggingface", "torchvision", "timm")
FILES = {
    "torch": "encoder.pt2",
    "onnx": "encoder.onnx",
    "huggingface": "huggingface",
    "torchvision": "torchvision.pth",
    "timm": "timm.pth",
}  # default names beside a checkpoint


def export_encoder(encoder: Encoder, options: dict[str, Any], to: str, path: str | Path) -> Path:
    """Exports an encoder, loads it back, and compares its features.

    Args:
        encoder: images [B, channels, S, S] in [-1, 1] to [B, C]; exported in evaluation mode.
        options: options of ``build_encoder`` that built it.
        to: "torch": an exported program, any batch size; "onnx": any batch size (extra: export); "huggingface": a
            folder with a model and an image processor of transformers (extra: vision; which of them need custom code:
            :func:`fastssl.models.transformers_export.save`); "torchvision" and "timm": weights for a network of that
            library, or for a ResNet of 64 channels with the ImageNet stem.
            :func:`loading` returns the code that loads each.
        path: file, or folder for "huggingface"; written atomically.

    Returns:
        The path.

    Raises:
        ImportError: the extra is missing.
        RuntimeError: the loaded encoder gives other features; nothing is left at ``path``.
        ValueError: unknown format, an encoder that the library does not have, or other files at ``path``
            (:func:`fastssl.models.folder.put`).
    """
    if to not in FORMATS:
        raise ValueError(f"to: expected one of {', '.join(FORMATS)}, got {to!r}")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(".tmp-" + path.name)
    _remove(fresh)
    size = (3, encoder.channels, encoder.size, encoder.size)
    example = torch.randn(size, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad(), evaluation_mode(encoder), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporters, about themselves
            expected = encoder(example)
            given = _WRITERS[to](encoder, options, fresh, example)
        if not torch.allclose(given, expected, rtol=1e-4, atol=1e-4 * min(1.0, float(expected.abs().max()))):
            worst = float((given - expected).abs().max())
            raise RuntimeError(f"the exported encoder gives other features than the encoder, by up to {worst:.1g}")
        put(fresh, path)
    finally:
        _remove(fresh)
    return path


def _normalizing(encoder: Encoder) -> str:
    """Code that normalises images in [-1, 1] for a model of transformers with a normalisation of its own."""
    network = encoder.network
    if not isinstance(network, HuggingFaceBackbone) or network.mean == network.std == HALF:
        return ""
    mean, std = (f"torch.tensor({list(values)}).view(3, 1, 1)" for values in (network.mean, network.std))
    return f"import torch; images = (images / 2 + 0.5 - {mean}) / {std}  # as the processor\n"


def loading(encoder: Encoder, options: dict[str, Any], to: str, path: Path) -> str:
    """Python code that loads the result of :func:`export_encoder` and computes features of ``images``
    [B, channels, S, S] in [-1, 1]."""
    where, name = repr(str(path)), str(options["name"]).rpartition(":")[2]
    if to == "torch":
        return f"import torch\nfeatures = torch.export.load({where}).module()(images)"
    if to == "onnx":
        session = f"onnxruntime.InferenceSession({where})"
        return f'import onnxruntime\n(features,) = {session}.run(None, {{"images": images.numpy()}})'
    if to == "huggingface":
        code = ", trust_remote_code=True" if transformers_export.needs_code(path) else ""
        with torch.no_grad():
            image = torch.zeros(1, encoder.channels, encoder.size, encoder.size)
            model = transformers_export.load(path)
            readout = readout_of(model, image, model(pixel_values=image))
        more = ", with trust_remote_code=True" if encoder.channels == 1 else ""
        return _normalizing(encoder) + (
            f"from transformers import AutoImageProcessor, AutoModel  # the processor: for photographs{more}\n"
            f"features = AutoModel.from_pretrained({where}{code}).eval()(images).{readout}"
        )
    own = isinstance(encoder.network, Backbone)
    if to == "timm":
        more = _arguments(timm_arguments(name, encoder.size, encoder.channels)) if own else ""
        made = f"timm.create_model({name!r}, num_classes=0, checkpoint_path={where}{more})"
        return f"import timm\nfeatures = {made}.eval()(images)"
    last = encoder.network.head if isinstance(encoder.network, TorchvisionBackbone) else "fc"
    more = _arguments(torchvision_arguments(name, encoder.size)) if own else ""
    return (
        f"import torch, torchvision; model = torchvision.models.get_model({name!r}{more})\n"
        f"model.load_state_dict(torch.load({where}), strict=False)  # all but its last layer\n"
        f"model.set_submodule({last!r}, torch.nn.Identity()); features = model.eval()(images)"
    )


def _arguments(given: dict[str, Any]) -> str:
    return "".join(f", {key}={value!r}" for key, value in given.items())


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


def _weights_of(library: str) -> _Writer:
    """Writes the weights of a network under the parameter names of ``library``."""

    def write(encoder: Encoder, options: dict[str, Any], path: Path, example: Tensor) -> Tensor:
        name, network = str(options["name"]), encoder.network
        theirs = name.startswith(f"{library}:") and (encoder.channels == 3 or library == "timm")
        resnet = isinstance(network, ResNet) and network.conv1.weight.shape == (64, 3, 7, 7)
        if not theirs and not resnet:
            first = next((list(m.weight.shape) for m in network.modules() if isinstance(m, nn.Conv2d)), [])
            raise ValueError(
                f"to: {library} has its own networks ({library}:NAME) and ResNets of 64 channels with the stem for "
                f"ImageNet ({', '.join(RESNETS)}, --stem imagenet), got {name!r} with a first convolution {first}"
            )
        model = network.model if isinstance(network, Backbone) else network
        with path.open("wb") as file:
            torch.save({key: value.clone().contiguous() for key, value in model.state_dict().items()}, file)
        weights = torch.load(path, weights_only=True)
        if isinstance(network, Backbone):
            fresh = LIBRARIES[library](name.partition(":")[2], encoder.size, encoder.channels)
            fresh.model.load_state_dict(weights)
            return fresh.eval().pooled(example)
        loaded = ResNet(int(name.removeprefix("resnet")))
        loaded.load_state_dict(weights)
        result: Tensor = Encoder(loaded.eval(), encoder.size)(example)
        return result

    return write


def _onnx(encoder: Encoder, options: dict[str, Any], path: Path, example: Tensor) -> Tensor:
    try:
        import onnx
        import onnxscript  # noqa: F401
        from onnx.reference import ReferenceEvaluator
    except ImportError as error:
        raise ImportError("ONNX needs the extra: pip install fastssl[export]") from error
    with errors_alone("torch.onnx._internal.exporter._registration"):  # which operators of torchvision are not there
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
    transformers_export.save(encoder, options, path)
    model = transformers_export.load(path)
    example = encoder.network.normalized(example) if isinstance(encoder.network, HuggingFaceBackbone) else example
    output = model(pixel_values=example)
    return READOUTS[readout_of(model, example, output)](output)


_WRITERS: dict[str, _Writer] = {
    "torch": _torch,
    "onnx": _onnx,
    "huggingface": _huggingface,
    "torchvision": _weights_of("torchvision"),
    "timm": _weights_of("timm"),
}
