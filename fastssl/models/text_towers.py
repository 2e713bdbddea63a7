"""Text towers of image-text methods: bytes, or a model of Hugging Face transformers with its tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastssl._options import integer
from fastssl.data.source import several_texts
from fastssl.models.encoders import Encoder
from fastssl.models.libraries import place_of, quiet_loading, without_random_pooler
from fastssl.models.modes import evaluation_mode
from fastssl.models.text import TextTransformer, byte_tokens

LEFT_OUT = -1  # in place of tokens that the attention mask leaves out
PREFIX = "huggingface:"


class HuggingFaceText(nn.Module):
    """Tokens [B, L] to text embeddings [B, dim], by a model of transformers with its weights: of a model of images and
    texts (CLIP, SigLIP, ...) as its text tower pools them, of others (BERT, sentence encoders) the mean over tokens.

    Args:
        name: "huggingface:NAME" or "huggingface:FOLDER", with a fast tokenizer.
        length: maximum number of tokens; None: what the model takes.

    Attributes:
        projections: of a model of images and texts: "image" and "text" -> weights of the projections to the joint
            space, None where it has none; "log_scale" and "bias" of the logits, where it has them. Else empty.

    Raises:
        FileNotFoundError: no such folder.
        ImportError: the extra is missing: ``pip install fastssl[vision]``.
        ValueError: a name of another kind, a tokenizer in Python alone or without padding, or a length that the model
            does not take.

    Example:
        >>> from fastssl.models import HuggingFaceText
        >>> HuggingFaceText("sentence-encoder")  # of the hub: "huggingface:sentence-transformers/all-MiniLM-L6-v2"
        Traceback (most recent call last):
        ...
        ValueError: text: expected huggingface:NAME or huggingface:FOLDER, got 'sentence-encoder'
    """

    def __init__(self, name: str, length: int | None = None) -> None:
        super().__init__()
        if not name.startswith(PREFIX):
            raise ValueError(f"text: expected huggingface:NAME or huggingface:FOLDER, got {name!r}")
        place = place_of(name[len(PREFIX) :], "text")
        try:
            from transformers import AutoModel, AutoTokenizer
        except ImportError as error:
            raise ImportError("text towers of Hugging Face need the extra: pip install fastssl[vision]") from error
        with quiet_loading():
            whole, report = AutoModel.from_pretrained(place, output_loading_info=True)
        whole.float()  # some are stored in 16 bits
        self.name, self.of_images = name, hasattr(whole.config, "text_config")
        self.projections = _projections(whole) if self.of_images else {}
        self.model: Any = _tower(whole, name)
        if not self.of_images:
            without_random_pooler(self.model, report["missing_keys"])
            if getattr(self.model, "pooler", None) is not None:
                self.model.pooler = None  # would have parameters without a gradient
        self.tokenizer: Any = AutoTokenizer.from_pretrained(place)
        self.length = _length(self.tokenizer, self.model.config, length)
        self._set_up(name)
        with torch.no_grad(), evaluation_mode(self):
            tokens, _ = self.tokens_of(["a"])
            self.trims = False
            whole = self(tokens)
            self.trims = True  # unless the pooling looks at the padding, as SigLIP's does
            self.trims = torch.allclose(self(tokens), whole, rtol=1e-3, atol=1e-4 * float(whole.abs().max()))
        self.dim = int(whole.shape[1])

    def _set_up(self, name: str) -> None:
        """The tokenizer in Rust is set once, since calls that set it may not run in several threads."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None or self.tokenizer.pad_token_id is None:
            raise ValueError(f"text: expected a fast tokenizer with a padding token, {name} has another")
        backend.no_padding()
        backend.enable_truncation(self.length)
        self.masks = "attention_mask" in self.tokenizer.model_input_names

    def tokens_of(self, texts: Sequence[str]) -> tuple[Tensor, tuple[int, str] | None]:
        """Tokens [B, length] of texts, -1 where attention leaves them out; and the index of the first text that was
        cut with what to say of it, None if all fit."""
        found = self.tokenizer.backend_tokenizer.encode_batch(list(several_texts(texts)))
        tokens = torch.full((len(found), self.length), LEFT_OUT if self.masks else self.tokenizer.pad_token_id)
        for row, one in enumerate(found):
            tokens[row, : len(one.ids)] = torch.tensor(one.ids)
        cut = next((row for row, one in enumerate(found) if one.overflowing), None)
        return tokens, None if cut is None else (cut, f"more than {self.length} tokens, after which texts are cut")

    def forward(self, tokens: Tensor) -> Tensor:
        seen = tokens != LEFT_OUT
        if self.trims:
            longest = max(1, int(seen.sum(1).max())) if len(tokens) else 1
            tokens, seen = tokens[:, :longest], seen[:, :longest]
        ids = tokens.masked_fill(~seen, self.tokenizer.pad_token_id)
        output = self.model(input_ids=ids, attention_mask=seen.long())
        if self.of_images:
            pooled = getattr(output, "pooler_output", None)
            result: Tensor = output.last_hidden_state[:, 0] if pooled is None else pooled
            return result
        weight = seen[..., None].to(output.last_hidden_state.dtype)
        return (output.last_hidden_state * weight).sum(1) / weight.sum(1).clamp_min(1)


def has_texts(name: str) -> bool:
    """Whether "huggingface:NAME" is a model of images and texts."""
    if not name.startswith(PREFIX):
        return False
    from transformers import AutoConfig

    return hasattr(AutoConfig.from_pretrained(place_of(name[len(PREFIX) :])), "text_config")


def text_tower(tower: Any, text: str | None, length: int | None, causal: bool) -> Any:
    """The text tower of an image-text method: ``tower``, or the model ``text``, or else a new one of bytes."""
    if tower is not None and text is not None:
        raise ValueError(f"text: expected None with tower=, which is the text tower, got {text!r}")
    length = None if length is None else integer("length", length, 3)
    if tower is None and text is None:
        return TextTransformer(length=length or 64, causal=causal)
    return tower if text is None else HuggingFaceText(text, length)


def tower_tokens(tower: Any, texts: Sequence[str]) -> tuple[Tensor, tuple[int, str] | None]:
    """Tokens [B, L] of texts as a tower takes them; and the index of the first that was cut with what to say of it."""
    return tower.tokens_of(texts) if isinstance(tower, HuggingFaceText) else byte_tokens(texts, tower.length)


def joint_heads(
    encoder: Encoder, features: int, tower: Any, outputs: int | None
) -> tuple[nn.Module, nn.Module, dict[str, Tensor]]:
    """The projections of an image and a text tower to the joint space, and "log_scale" and "bias" of the logits.

    Those of the model whose text tower is taken (:class:`HuggingFaceText`), as far as both towers are its own; linear
    layers of random weights else.

    Args:
        encoder: the image tower.
        features: dimensions of its features.
        tower: the text tower, with ``dim``.
        outputs: dimensions of the joint space; None: those of the model, or 128.

    Raises:
        ValueError: spatial features of a model that projects pooled ones.
    """
    given = tower.projections if isinstance(tower, HuggingFaceText) else {}
    same = bool(given) and (encoder.options or {}).get("name") == tower.name
    weight = given.get("text")
    outputs = outputs or (128 if not given else tower.dim if weight is None else len(weight))

    def head(side: str, inputs: int, known: bool) -> nn.Module:
        weight = given.get(side)
        if known and weight is not None and weight.shape[1] != inputs:
            raise ValueError(f"spatial: expected False, {tower.name} projects {weight.shape[1]} pooled features")
        if known and weight is None and inputs == outputs:
            return nn.Identity()
        made = nn.Linear(inputs, outputs, bias=False)
        if known and weight is not None and weight.shape == made.weight.shape:
            made.weight = nn.Parameter(weight.float())
        return made

    heads = head("image", features, same), head("text", tower.dim, bool(given))
    scalars = {key: given.get(key) for key in ("log_scale", "bias") if same}
    return *heads, {key: value.float() for key, value in scalars.items() if value is not None}


def _tower(whole: Any, name: str) -> Any:
    if hasattr(whole.config, "text_config"):
        if not isinstance(getattr(whole, "text_model", None), nn.Module):
            raise ValueError(f"text: expected a model with a text tower, {name} is {type(whole).__name__}")
        return whole.text_model
    return whole.get_encoder() if getattr(whole.config, "is_encoder_decoder", False) else whole


def _projections(whole: Any) -> dict[str, Tensor | None]:
    """What is between the towers of a model of images and texts and its logits."""
    found: dict[str, Tensor | None] = {}
    for side, part in (("image", "visual_projection"), ("text", "text_projection")):
        layer = getattr(whole, part, None)
        found[side] = layer.weight.detach().clone() if isinstance(layer, nn.Linear) else None
    for name, part in (("log_scale", "logit_scale"), ("bias", "logit_bias")):
        value = getattr(whole, part, None)
        if isinstance(value, Tensor):
            found[name] = value.detach().clone().reshape(())
    return found


def _length(tokenizer: Any, config: Any, length: int | None) -> int:
    """Number of tokens: the smaller of what the tokenizer and the model take, or as given."""
    places = getattr(config, "max_position_embeddings", None) or 512
    if getattr(config, "model_type", "") in ("roberta", "xlm-roberta", "camembert"):  # positions begin behind padding
        places -= int(config.pad_token_id or 0) + 1
    most = min(int(places), int(tokenizer.model_max_length))
    if length is not None and not 2 <= length <= most:
        raise ValueError(f"length: expected 2 to {most}, the tokens that the text tower takes, got {length}")
    return length or most
