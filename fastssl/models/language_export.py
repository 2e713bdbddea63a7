"""Language models as Hugging Face folders, which ``AutoModel`` and ``AutoTokenizer`` load."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from fastssl.data.tokenizer import Tokenizer, TrainedTokenizer
from fastssl.models.folder import put
from fastssl.models.language import OWN, LanguageModel
from fastssl.models.libraries import quiet_loading

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


def _save_tokenizer(made: Any, path: Path) -> None:
    """Writes a tokenizer of transformers so that ``AutoTokenizer`` loads it as it stands.

    For some architectures (Qwen2) it takes a class that keeps the vocabulary alone, whatever the folder says, but of
    folders that name a class by custom code.
    """
    from transformers import AutoTokenizer

    from fastssl.models import tokenization_fastssl as code

    made.save_pretrained(path)
    if type(AutoTokenizer.from_pretrained(path)) is not type(made):
        about = path / "tokenizer_config.json"
        auto = {"AutoTokenizer": [None, "tokenization_fastssl.FastSSLTokenizer"]}
        about.write_text(json.dumps({**json.loads(about.read_text()), "auto_map": auto}, indent=2))
        shutil.copy(code.__file__, path)


def loading(path: Path) -> str:
    """The code that loads what :func:`export_language` has written."""
    return f"AutoModel.from_pretrained({str(path)!r}), AutoTokenizer.from_pretrained({str(path)!r})"


def export_language(model: LanguageModel, tokenizer: Tokenizer, path: str | Path) -> Path:
    """Writes a network and its tokenizer, loads both back, and compares hidden states and ids.

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
    sentinels = tokenizer.sentinels
    if model.kind in ("t5", "bart") and tokenizer.size <= sentinels.min() and sentinels.max() < model.vocabulary:
        made.add_tokens([f"<extra_id_{k}>" for k in reversed(range(len(sentinels)))], special_tokens=True)
    training = network.training
    # What it says of heads that are not loaded, and of positions, is checked here.
    try:
        with quiet_loading():
            network.eval().save_pretrained(temporary)
            _save_tokenizer(made, temporary)
            loaded: Any = type(network).from_pretrained(temporary).eval()
            transformers.AutoModel.from_pretrained(temporary)
            auto: Any = transformers.AutoTokenizer.from_pretrained(temporary)
            ids, (first, last) = tokenizer.encode([TEXT])[0].tolist(), _around(tokenizer, model)
            given = [auto(TEXT, add_special_tokens=add)["input_ids"] for add in (False, True)]
            if given != [ids, [*first, *ids, *last]]:
                raise RuntimeError("export: the tokenizer that was loaded back gives other ids")
            tokens = torch.tensor([ids[: model.length]])
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
