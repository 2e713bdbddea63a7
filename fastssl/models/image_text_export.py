"""Image-text models as Hugging Face folders: both towers, their projections, the logit scale and a tokenizer."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastssl.models import transformers_export
from fastssl.models.folder import put
from fastssl.models.library_export import check_embeddings, compare_of_library, is_of_library, save_of_library
from fastssl.models.modes import evaluation_mode
from fastssl.models.text import BYTES, TextTransformer, tokenize

_SPECIAL = {"pad_token": "<|pad|>", "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}  # in order of ids
_TEXTS = ("A photo of a cat.", "größer 图", "")


def export_image_text(method: Any, options: dict[str, Any], path: str | Path) -> Path:
    """Writes both towers of an image-text method, loads them back, and compares their embeddings and the tokens.

    The names of special tokens in a text, such as "<|pad|>", are tokens of the exported tokenizer, and text for ours. A
    text that it cuts within a character keeps the first bytes of this character, which ours drops.

    Args:
        method: a :class:`fastssl.methods.CLIP`, ALIGN or SigLIP.
        options: options of ``build_encoder`` that built its image encoder.
        path: the folder; that of an earlier export is replaced, another one an error.

    Returns:
        The path: a model for ``AutoModel`` with custom code that imports fastssl, ``AutoTokenizer`` and
        ``AutoImageProcessor``.

    Raises:
        ImportError: the extra is missing: ``pip install fastssl[vision]``.
        RuntimeError: what was loaded back differs; nothing is left at ``path``.
        ValueError: a text tower other than :class:`fastssl.models.TextTransformer`, or than that of the model of
            images and texts whose image tower the encoder is (which is exported as such a model).
    """
    of_library = is_of_library(method)
    if type(method.tower) is not TextTransformer and not of_library:
        both = "; of transformers both towers, and the dimensions of their projections, are of one model"
        raise ValueError(f"method: expected a TextTransformer as text tower, got {type(method.tower).__name__}{both}")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    size = (3, method.encoder.channels, method.encoder.size, method.encoder.size)
    images = torch.randn(size, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad(), evaluation_mode(method):
            transformers_export.check_installed()
            (save_of_library(method, temporary) if of_library else _save(method, options, temporary))
            (compare_of_library if of_library else _compare)(method, images, temporary)
        put(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path


def loading(path: Path) -> str:
    """Python code that loads the result of :func:`export_image_text`, and embeds ``images`` [B, channels, S, S] in
    [-1, 1] (of a model of transformers: as its processor gives them) and ``texts``."""
    where = repr(str(path))
    if not transformers_export.needs_code(path):
        return (
            "from transformers import AutoImageProcessor, AutoModel, AutoTokenizer  # the processor: for photographs\n"
            f"model, tokenizer = AutoModel.from_pretrained({where}).eval(), AutoTokenizer.from_pretrained({where})\n"
            'tokens = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")\n'
            "output = model(**tokens, pixel_values=images)\n"
            "cosines = output.image_embeds @ output.text_embeds.T"
        )
    auto = f"from_pretrained({where}, trust_remote_code=True)"
    return (
        "from transformers import AutoImageProcessor, AutoModel, AutoTokenizer  # the processor: for photographs\n"
        f"model, tokenizer = AutoModel.{auto}.eval(), AutoTokenizer.{auto}\n"
        'tokens = tokenizer(texts, padding=True, truncation=True, return_tensors="pt").input_ids\n'
        "cosines = model.get_image_features(images) @ model.get_text_features(tokens).T"
    )


def _save(method: Any, options: dict[str, Any], path: Path) -> None:
    from fastssl.models import modeling_fastssl_image_text as code

    tower, bias = method.tower, getattr(method, "bias", None)
    sizes = {"dim": tower.dim, "depth": len(tower.blocks), "heads": tower.blocks[0].heads}
    config = code.FastSSLImageTextConfig(
        encoder=options,
        tower={**sizes, "length": tower.length, "causal": tower.causal},
        outputs=method.image_head.out_features,
        spatial=method.spatial,
        biased=bias is not None,
    )
    kinds = {part: f"FastSSLImageText{part[4:]}" for part in ("AutoConfig", "AutoModel")}
    config.auto_map = {part: f"{Path(code.__file__).stem}.{kind}" for part, kind in kinds.items()}
    parts = {name: getattr(method, name) for name in ("encoder", "tower", "image_head", "text_head")}
    state: dict[str, Tensor] = {
        f"{name}.{key}": tensor
        for name, part in parts.items()
        for key, tensor in (part.state_dict() | dict(part.named_buffers())).items()
    }
    state |= {"log_scale": method.log_scale} | ({} if bias is None else {"bias": bias})
    path.mkdir(parents=True)
    transformers_export.write(config, state, path, kinds["AutoModel"])
    shutil.copy(code.__file__, path)  # what trust_remote_code runs
    transformers_export.write_processor(method.encoder, path)
    _tokenizer(tower.length).save_pretrained(path)


def _tokenizer(length: int) -> Any:
    """A tokenizer of transformers with the tokens of :func:`tokenize`: a byte-level BPE without merges."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    names = list(_SPECIAL.values())
    ids = {name: k for k, name in enumerate(names)} | {sign: byte + BYTES for byte, sign in enumerate(_signs())}
    made = Tokenizer(models.BPE(vocab=ids, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    _, first, last = names
    made.post_processor = processors.TemplateProcessing(
        single=[first, "$A", last], special_tokens=[(name, ids[name]) for name in (first, last)]
    )
    kind: Any = transformers.PreTrainedTokenizerFast
    return kind(tokenizer_object=made, model_max_length=length, **_SPECIAL)


def _signs() -> list[str]:
    """The character that stands for each byte in a byte-level BPE: itself if it can be seen, else one above 255."""
    seen = {*range(33, 127), *range(161, 173), *range(174, 256)}
    other = iter(range(256, 512))
    return [chr(byte if byte in seen else next(other)) for byte in range(256)]


def _compare(method: Any, images: Tensor, path: Path) -> None:
    from transformers import AutoTokenizer

    model: Any = transformers_export.load(path)
    length = method.tower.length
    tokens = tokenize(_TEXTS, length, truncate=True)
    tokenizer: Any = AutoTokenizer.from_pretrained(path, trust_remote_code=True)
    given = tokenizer(list(_TEXTS), padding="max_length", truncation=True, return_tensors="pt")
    short = [len(text.encode()) <= length - 2 for text in _TEXTS]
    if not torch.equal(given["input_ids"][short], tokens[short]):
        raise RuntimeError("the exported tokenizer gives other tokens")
    check_embeddings(method, images, tokens, model.get_image_features(images), model.get_text_features(tokens))


__all__ = ["export_image_text", "loading"]
