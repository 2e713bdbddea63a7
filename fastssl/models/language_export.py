"""Language models as Hugging Face folders, which ``AutoModel`` and ``AutoTokenizer`` load."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from fastssl.data.corruption import SENTINELS
from fastssl.data.tokenizer import Tokenizer, TrainedTokenizer
from fastssl.models.folder import put
from fastssl.models.language import OWN, LanguageModel
from fastssl.models.libraries import quiet_loading

log = logging.getLogger("fastssl")
TEXT = "The state of the union, 1790."  # which what is loaded back is compared on


def _around(tokenizer: Tokenizer, model: LanguageModel) -> tuple[list[int], list[int]]:
    """The special tokens before and after a text that a network reads whole; none after one that may be continued."""
    return model.opening(tokenizer), model.closing(tokenizer)


def _as_trained(tokenizer: TrainedTokenizer, model: LanguageModel) -> Any:
    """A tokenizer of the library that adds those tokens: ``[CLS] A [SEP] B [SEP]``, for causal networks
    ``[SEP] A [SEP] B``."""
    from tokenizers import processors

    made = TrainedTokenizer(tokenizer.to_json()).model
    first, last = ([tokenizer.text_of(number) for number in side] for side in _around(tokenizer, model))
    if first or last:
        single = [*first, "$A:0", *last]
        pair = [*single, *(() if last else first), "$B:1", *(f"{name}:1" for name in last)]
        known = [(name, made.token_to_id(name)) for name in {*first, *last}]
        made.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=known)
    return made


def _reads(kind: Any, model: LanguageModel, tokenizer: Tokenizer, path: Path) -> bool:
    """Whether a class of transformers loads the tokenizer of a folder as one that gives the same ids."""
    loaded, ids = kind.from_pretrained(path), tokenizer.encode([TEXT])[0].tolist()
    first, last = _around(tokenizer, model)
    return [loaded(TEXT, add_special_tokens=add)["input_ids"] for add in (False, True)] == [ids, [*first, *ids, *last]]


def loading(model: LanguageModel, tokenizer: Tokenizer, path: Path) -> str:
    """The code that loads what :func:`export_language` has written."""
    import transformers

    auto = _reads(transformers.AutoTokenizer, model, tokenizer, path)
    kind = "AutoTokenizer" if auto else "PreTrainedTokenizerFast"
    return f"AutoModel.from_pretrained({str(path)!r}), {kind}.from_pretrained({str(path)!r})"


def export_language(model: LanguageModel, tokenizer: Tokenizer, path: str | Path) -> Path:
    """Writes a network and its tokenizer, loads both back, and compares hidden states and ids.

    Where ``AutoTokenizer`` has rules of its own for an architecture (Qwen2), a warning says how to load the tokenizer.

    The names of special tokens in a text, "[MASK]", are tokens of the exported tokenizer, as its users expect, and text
    for ours, and with ``AutoTokenizer.from_pretrained(path, split_special_tokens=True)``.

    Args:
        model: the network.
        tokenizer: its tokenizer.
        path: the folder; that of an earlier export is replaced, another one an error.

    Raises:
        ValueError: a network or tokenizer that transformers does not have ("transformer", "gru", "lstm"; "bytes").
        RuntimeError: what was loaded back differs.
    """
    if model.kind in OWN or not isinstance(tokenizer, TrainedTokenizer):
        raise ValueError(
            f"to: huggingface has no {model.kind!r} with {tokenizer!r}; it takes the networks of transformers"
        )
    import transformers

    path = Path(path)
    network: Any = model.network
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    names = {f"{key}_token": tokenizer.text_of(getattr(tokenizer, key)) for key in ("pad", "unk", "cls", "sep", "mask")}
    opens = [tokenizer.text_of(number) for number in model.opening(tokenizer)]
    names |= {"bos_token": opens[0] if opens else names["cls_token"], "eos_token": names["sep_token"]}
    kind: Any = transformers.PreTrainedTokenizerFast
    made = kind(tokenizer_object=_as_trained(tokenizer, model), model_max_length=model.length, **names)
    if model.vocabulary == tokenizer.size + SENTINELS:
        made.add_tokens([f"<extra_id_{k}>" for k in reversed(range(SENTINELS))], special_tokens=True)
    training = network.training
    # What it says of heads that are not loaded, and of positions, is checked here.
    try:
        with quiet_loading():
            network.eval().save_pretrained(temporary)
            made.save_pretrained(temporary)
            loaded: Any = type(network).from_pretrained(temporary).eval()
            transformers.AutoModel.from_pretrained(temporary)
            if not _reads(transformers.AutoTokenizer, model, tokenizer, temporary):
                if not _reads(kind, model, tokenizer, temporary):
                    raise RuntimeError("export: the tokenizer that was loaded back gives other ids")
                log.warning(
                    "export: AutoTokenizer reads texts of %s models by rules of its own; load the tokenizer of %s with "
                    "transformers.PreTrainedTokenizerFast.from_pretrained",
                    *(model.kind, path),
                )
            tokens = torch.from_numpy(tokenizer.encode([TEXT])[0][: model.length])[None]
            inputs: dict[str, Any] = {"input_ids": tokens}
            if model.kind in ("t5", "bart"):
                inputs["decoder_input_ids"] = tokens
            with torch.no_grad():
                before, after = network(**inputs)[0], loaded(**inputs)[0]
            if not torch.allclose(before, after, rtol=1e-4, atol=1e-4):
                raise RuntimeError("export: the network that was loaded back gives other scores")
        put(temporary, path)
    finally:
        network.train(training)
        shutil.rmtree(temporary, ignore_errors=True)
    return path
