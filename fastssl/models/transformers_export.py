"""Export of encoders as folders that ``AutoModel`` and ``AutoImageProcessor`` of transformers load."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from fastssl.models.encoders import Encoder
from fastssl.models.libraries import (
    HALF,
    Backbone,
    HuggingFaceBackbone,
    quiet_loading,
    timm_arguments,
    without_random_pooler,
)
from fastssl.models.resnet import BLOCKS
from fastssl.models.vit import ViT

# Parameter names of a ViT block in transformers; queries, keys and values are a single layer here.
_BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "out": "attention.output.dense",
    "mlp.0": "intermediate.dense",
    "mlp.2": "output.dense",
}
_GREY = ("image_processing_fastssl", "GreyImageProcessor")  # the module and the class of its custom code


def save(encoder: Encoder, options: dict[str, Any], path: Path) -> None:
    """Writes an encoder as a folder.

    ResNets with the ImageNet stem become a ``ResNetModel``, :class:`ViT` an ``IJepaModel`` (transformers' ViT without a
    class token), networks of timm a ``TimmWrapperModel``; Hugging Face models are saved unchanged. Other networks are
    saved with custom code that imports fastssl. A ``preprocessor_config.json`` is always written; for encoders of grey
    images with custom code, which converts photographs to grey.

    Raises:
        ImportError: the extra is missing: ``pip install fastssl[vision]``.
    """
    check_installed()
    path.mkdir(parents=True)
    network = encoder.network
    library, _, name = str(options["name"]).partition(":")
    model = network.model if isinstance(network, Backbone) else network
    if library == "huggingface":
        model.save_pretrained(path)  # type: ignore[operator]
    elif library == "timm":
        _save_timm(encoder, name, model, path)
    elif (depth := _depth(options, model)) is not None:
        _save_resnet(encoder, depth, model, path)
    elif isinstance(network, ViT):
        _save_vit(encoder, network, path)
    else:
        _save_with_code(encoder, options, path)
    about = {}
    if isinstance(network, HuggingFaceBackbone) and encoder.channels == len(HALF):
        about = {"image_mean": list(network.mean), "image_std": list(network.std)}
    write_processor(encoder, path, **about)


def check_installed() -> None:
    """Raises an error that names the extra, if transformers is missing.

    Raises:
        ImportError: it is.
    """
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise ImportError("models of Hugging Face need the extra: pip install fastssl[vision]") from error


def write_processor(encoder: Encoder, path: Path, **about: Any) -> None:
    """Writes the configuration of ``AutoImageProcessor``, and for grey images its custom code, into a folder."""
    known = processor(encoder.size, encoder.channels) | about
    (path / "preprocessor_config.json").write_text(json.dumps(known, indent=2))
    if encoder.channels == 1:
        shutil.copy(Path(__file__).with_name(f"{_GREY[0]}.py"), path)


def load(path: Path) -> nn.Module:
    """Loads the model of a folder with transformers.

    Raises:
        RuntimeError: missing or unexpected weights.
    """
    from transformers import AutoModel

    with quiet_loading():
        model, about = AutoModel.from_pretrained(path, trust_remote_code=needs_code(path), output_loading_info=True)
    missing = without_random_pooler(model, about["missing_keys"])  # which the encoder did not have
    wrong = [*missing, *about["unexpected_keys"], *about["mismatched_keys"]]
    if wrong:
        raise RuntimeError(f"transformers reports missing or unexpected weights: {wrong[:4]}")
    return model.eval()


def needs_code(path: Path) -> bool:
    """Whether loading a folder needs ``trust_remote_code=True``."""
    return "auto_map" in json.loads((path / "config.json").read_text())


def processor(size: int, channels: int = 3) -> dict[str, Any]:
    """The configuration of ``AutoImageProcessor`` for the preprocessing of evaluation.

    It has no rounding of margins: where a resized side is 3, 7, 11, ... pixels longer than the crop, transformers crops
    one pixel before torchvision, and before us, who round half a pixel to the even number of pixels.
    """
    from fastssl.data.views import resize_of

    kind: dict[str, Any] = {"image_processor_type": "CLIPImageProcessor"}
    if channels == 1:  # a type that transformers lacks: without trust_remote_code it raises an error
        kind = {"image_processor_type": _GREY[1], "auto_map": {"AutoImageProcessor": ".".join(_GREY)}}
    return kind | {
        "do_convert_rgb": channels == 3,
        "do_resize": True,
        "size": {"shortest_edge": resize_of(size)},
        "resample": 2,  # bilinear
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5] * channels,
        "image_std": [0.5] * channels,
    }


def write(config: Any, state: dict[str, Tensor], path: Path, architecture: str) -> None:
    """Writes a configuration and the weights of a model into a folder."""
    config.architectures = [architecture]
    config.save_pretrained(path)
    tensors = {key: value.detach().cpu().clone().contiguous() for key, value in state.items()}
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


def _depth(options: dict[str, Any], model: nn.Module) -> int | None:
    """The depth of a ResNet that transformers has, else None."""
    name = str(options["name"]).removeprefix("torchvision:")
    depth = int(name[6:]) if re.fullmatch(r"resnet\d+", name) else 0
    known = depth in (*BLOCKS, 152) and getattr(model, "conv1", None) is not None
    return depth if known and model.conv1.kernel_size == (7, 7) else None  # type: ignore[union-attr]


def _save_resnet(encoder: Encoder, depth: int, model: nn.Module, path: Path) -> None:
    from transformers import ResNetConfig

    state = model.state_dict()
    width = state["conv1.weight"].shape[0]
    bottleneck = depth >= 50
    config = ResNetConfig(
        num_channels=encoder.channels,
        embedding_size=width,
        hidden_sizes=[width * 2**stage * (4 if bottleneck else 1) for stage in range(4)],
        depths=[len(getattr(model, f"layer{stage}")) for stage in range(1, 5)],
        layer_type="bottleneck" if bottleneck else "basic",
    )
    write(config, {_resnet_name(key): value for key, value in state.items()}, path, "ResNetModel")


def _resnet_name(key: str) -> str:
    """Maps a parameter name of torchvision's ResNet to that of transformers."""
    *place, module, parameter = key.split(".")
    if not place:
        return f"embedder.embedder.{'convolution' if module == 'conv1' else 'normalization'}.{parameter}"
    layer = f"encoder.stages.{int(place[0][5:]) - 1}.layers.{place[1]}"
    if place[-1] == "downsample":
        return f"{layer}.shortcut.{'convolution' if module == '0' else 'normalization'}.{parameter}"
    kind = "convolution" if module.startswith("conv") else "normalization"
    return f"{layer}.layer.{int(module[-1]) - 1}.{kind}.{parameter}"


def _save_vit(encoder: Encoder, vit: ViT, path: Path) -> None:
    from transformers import IJepaConfig

    from fastssl.models.vit import sine_positions

    side = encoder.size // vit.patch
    block: Any = vit.blocks[0].block
    config = IJepaConfig(
        num_channels=encoder.channels,
        image_size=encoder.size,
        patch_size=vit.patch,
        hidden_size=vit.dim,
        num_hidden_layers=len(vit.blocks),
        num_attention_heads=block.heads,
        intermediate_size=block.mlp[0].out_features,
        hidden_act="gelu",
        layer_norm_eps=block.norm1.eps,
        qkv_bias=True,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    own = vit.state_dict()
    state = {
        "embeddings.position_embeddings": sine_positions(side, side, vit.dim)[None],
        "embeddings.patch_embeddings.projection.weight": own["patches.project.weight"],
        "embeddings.patch_embeddings.projection.bias": own["patches.project.bias"],
        "layernorm.weight": own["last.norm.weight"],
        "layernorm.bias": own["last.norm.bias"],
    }
    for k in range(len(vit.blocks)):
        for kind in ("weight", "bias"):
            theirs = f"encoder.layer.{k}"
            parts = own[f"blocks.{k}.block.qkv.{kind}"].chunk(3)
            for name, part in zip(("query", "key", "value"), parts):
                state[f"{theirs}.attention.attention.{name}.{kind}"] = part
            for ours, name in _BLOCK.items():
                state[f"{theirs}.{name}.{kind}"] = own[f"blocks.{k}.block.{ours}.{kind}"]
    write(config, state, path, "IJepaModel")


def _save_timm(encoder: Encoder, name: str, model: nn.Module, path: Path) -> None:
    import transformers

    arguments = timm_arguments(name, encoder.size, encoder.channels)
    kind: Any = transformers.TimmWrapperConfig
    config = kind(architecture=name, num_classes=0, model_args=arguments or None)
    write(config, {f"timm_model.{k}": v for k, v in model.state_dict().items()}, path, "TimmWrapperModel")


def _save_with_code(encoder: Encoder, options: dict[str, Any], path: Path) -> None:
    from fastssl.models import modeling_fastssl as code

    config = code.FastSSLConfig(encoder=options)
    config.auto_map = {part: f"modeling_fastssl.FastSSL{part[4:]}" for part in ("AutoConfig", "AutoModel")}
    state = {f"encoder.{k}": v for k, v in (encoder.state_dict() | dict(encoder.named_buffers())).items()}
    write(config, state, path, "FastSSLModel")
    shutil.copy(code.__file__, path / "modeling_fastssl.py")  # what trust_remote_code runs


__all__ = ["check_installed", "load", "needs_code", "processor", "save", "write", "write_processor"]
