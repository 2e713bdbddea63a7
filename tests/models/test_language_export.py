"""Exported language models: ``AutoTokenizer`` and ``AutoModel`` give the ids and the states of the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fastssl.data import Tokenizer, train_tokenizer
from fastssl.data.tokenizer import tokenizer_of
from fastssl.models import build_language
from fastssl.models.architectures import TRANSFORMERS
from fastssl.models.language_export import export_language, loading

t = pytest.importorskip("transformers")
ODD = [
    *(
        "",
        " ",
        "a",
        "  two  spaces ",
        "a line\nbreak\r\n\tand a tab",
        "é e\u0301 日本語 🙂\u200d",
        "1790, 12345",
        "don't I'LL",
    ),
    *("[MASK] [SEP] <s> <extra_id_0> ##a", "\u00a0\u200b", "x" * 300, "Ġ ▁a"),
]


def trained(kind: str) -> Tokenizer:
    """Its padding is token 1, as "mpnet" has it."""
    texts = [
        "the state of the union, 1790 12 don't",
        "é 日本語 🙂",
        "a b c d e f g h i j k l m n o p q r s t u v w x y z",
    ]
    made = train_tokenizer(texts * 3, kind, {"bpe": 290, "wordpiece": 120}[kind])
    swapped, content = {"[PAD]": 1, "[UNK]": 0}, json.loads(made.to_json())
    content["model"]["vocab"] |= swapped
    for token in content["added_tokens"]:
        token["id"] = swapped.get(token["content"], token["id"])
    return tokenizer_of(json.dumps(content))


BOTH = ("bert", "gpt2", "t5")  # with both kinds of tokenizers, one of each kind of network; the others: slow tests


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "bpe") for name in TRANSFORMERS),
        *(pytest.param(name, "wordpiece", marks=() if name in BOTH else pytest.mark.slow) for name in TRANSFORMERS),
    ],
)
def test_transformers_gives_the_same_ids_and_states(name: str, kind: str, tmp_path: Path) -> None:
    made = trained(kind)
    options = {"name": name, "vocabulary": made.size, "width": 16, "heads": 2, "depth": 1, "length": 24}
    torch.manual_seed(0)
    model = build_language({**options, "pad": made.pad, "start": made.cls, "end": made.sep}).eval()
    path = export_language(model, made, tmp_path / "made")
    scope: dict[str, Any] = {kind: getattr(t, kind) for kind in ("AutoModel", "AutoTokenizer")}
    loaded, tokenizer = eval(loading(path), scope)
    names = ("pad", "unk", "cls", "sep", "mask")
    assert [getattr(tokenizer, f"{name}_token_id") for name in names] == [getattr(made, name) for name in names]
    assert len(tokenizer) == made.size
    first, last = model.opening(made), model.closing(made)
    as_text = [
        t.AutoTokenizer.from_pretrained(path, split_special_tokens=True, **more)
        for more in ({}, {"trust_remote_code": True})
    ]
    for text in ODD:
        ids = made.encode([text])[0].tolist()
        for own in as_text:
            assert own(text)["input_ids"] == [*first, *ids, *last], text
            assert own.decode(ids, skip_special_tokens=True).strip() == made.decode(ids)
    inputs = torch.tensor([[*first, *made.encode(["the state of the union"])[0], *last][:24]])
    if name in ("t5", "bart"):
        memory = loaded.encoder(inputs)[0]
        torch.testing.assert_close(memory, model.encoded(inputs, torch.ones_like(inputs).bool()))
    else:
        torch.testing.assert_close(loaded.eval()(inputs)[0], model.states(inputs, torch.ones_like(inputs).bool()))
