"""Networks of transformers as they are given: masks of documents, windows of attention, and what does not fit."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastssl.data import Tokenizer, Window
from fastssl.data.corruption import IGNORED
from fastssl.methods import BERT, GPT, SimCSE
from fastssl.models import as_language, build_language
from fastssl.models.architectures import CAUSAL, TRANSFORMERS
from fastssl.train import load_language
from tests.support.language import tokens
from tests.support.training import gradients, relative

t = pytest.importorskip("transformers")
SIZES = {"vocab_size": 261, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
SIZES |= {"num_hidden_layers": 2, "max_position_embeddings": 40, "pad_token_id": 0}


def causal(name: str, **own: Any) -> Any:
    torch.manual_seed(0)
    attention = own.pop("attn_implementation", None)
    if name == "GPT2":
        sizes = {"vocab_size": 261, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40}
        config = t.GPT2Config(**sizes, attn_implementation=attention, **own)
        return t.GPT2LMHeadModel(config).eval()
    kind = getattr(t, "Gemma3TextConfig" if name == "Gemma3" else f"{name}Config")
    config = kind(**{**SIZES, "num_key_value_heads": 2, **own}, attn_implementation=attention)
    return getattr(t, f"{name}ForCausalLM")(config).eval()


def two_documents(method: Any) -> tuple[Any, list[torch.Tensor]]:
    row = torch.randint(5, 261, (32,), generator=torch.Generator().manual_seed(1))
    row[10] = method.tokenizer.sep
    batch = method.make([Window(torch.cat([row, row[:1]]).numpy(), np.zeros(1, np.int64))], None)
    return batch, [row[:10], row[10:]]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    "name", [TRANSFORMERS[name].config.removesuffix("Config").removesuffix("Text") for name in CAUSAL]
)
def test_packed_documents_are_apart_whatever_the_attention(name: str, attention: str) -> None:
    method = GPT(as_language(causal(name, attn_implementation=attention), Tokenizer(), 32), Tokenizer())
    batch, documents = two_documents(method)
    with torch.no_grad():
        alone = torch.cat([method.network.hidden(document[None])[0] for document in documents])
        torch.testing.assert_close(method.hidden(batch)[0], alone, rtol=1e-4, atol=1e-5)


def test_attention_without_a_mask_of_documents_is_an_error() -> None:
    network = causal("Llama")
    network.config._attn_implementation = "flex_attention"
    with pytest.raises(ValueError, match="attn_implementation='sdpa' or 'eager'.*got 'flex_attention'"):
        as_language(network, Tokenizer())


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("Mistral", {"sliding_window": 8}),
        ("Qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
        ("Gemma3", {"sliding_window": 8, "sliding_window_pattern": 2, "head_dim": 8}),
        ("Phi3", {"sliding_window": 8}),
    ],
)
def test_windows_shorter_than_a_text_are_for_documents_that_are_not_packed(name: str, own: dict[str, Any]) -> None:
    given = causal(name, **own)
    with pytest.raises(ValueError, match="length: expected at most 8, the window of .* packed=True, got 32"):
        GPT(as_language(copy.deepcopy(given), Tokenizer(), 32), Tokenizer())
    assert GPT(as_language(copy.deepcopy(given), Tokenizer(), 8), Tokenizer()).length == 8
    method = GPT(as_language(given, Tokenizer(), 32), Tokenizer(), packed=False)
    batch, _ = two_documents(method)
    with torch.no_grad():
        torch.testing.assert_close(method.hidden(batch), given.base_model(batch.tokens)[0])
    unused = causal("SmolLM3", sliding_window=8)  # without use_sliding_window
    assert as_language(unused, Tokenizer(), 32).window is None


ROTARY = ["llama", "qwen2", "qwen3", "mistral", "gemma", "gemma3_text", "phi3", "smollm3", "olmo2", "modernbert"]


@pytest.mark.parametrize(
    ("name", "width", "heads", "least"),
    [
        *((name, width, heads, 2) for name in ROTARY for width, heads in ((12, 4), (10, 2), (8, 8))),
        ("gpt_neox", 16, 4, 8),
    ],
)
def test_heads_whose_numbers_are_no_pairs_to_rotate_are_an_error(name: str, width: int, heads: int, least: int) -> None:
    options = {"name": name, "vocabulary": 300, "width": width, "depth": 1, "heads": heads}
    with pytest.raises(
        ValueError, match=f"heads: expected width / heads to be a multiple of {least}, .*{width} / {heads}"
    ):
        build_language(options)
    model = build_language({**options, "width": least * heads})
    assert model.hidden(torch.zeros(1, 4, dtype=torch.int64)).shape == (1, 4, least * heads)


REFUSED = [
    ("Gemma2", {"head_dim": 8}, "bounded.*final_logit_softcapping=30.0"),
    ("Gemma3", {"head_dim": 8, "final_logit_softcapping": 5.0}, "bounded.*final_logit_softcapping=5.0"),
    ("Gemma", {"head_dim": 8, "use_bidirectional_attention": True}, "see those after them"),
    ("Mixtral", {"num_local_experts": 2}, "mixture of experts.*num_local_experts=2"),
    ("Qwen3Moe", {"num_experts": 2, "moe_intermediate_size": 8}, "mixture of experts"),
]


@pytest.mark.parametrize(("name", "own", "why"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_what_does_not_fit_says_why(name: str, own: dict[str, Any], why: str, tmp_path: Path) -> None:
    network = causal(name, **own)
    with pytest.raises((TypeError, ValueError), match=f"network: expected one of .*{name}ForCausalLM: .*{why}"):
        as_language(network, Tokenizer())
    network.config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"init: expected a model of .*: .*{why}"):
        load_language(f"huggingface:{tmp_path}")


def test_other_heads_and_paddings_say_why() -> None:
    deberta = t.DebertaV2ForMaskedLM(t.DebertaV2Config(**SIZES, legacy=False))
    with pytest.raises(ValueError, match="legacy=False"):
        as_language(deberta, Tokenizer())
    with pytest.raises(ValueError, match="'mpnet' takes token 1 for padding, which is token 0 of the tokenizer"):
        build_language({"name": "mpnet", "vocabulary": 261, "width": 16})


def test_mpnet_has_the_loss_of_transformers() -> None:
    """Its padding is always token 1."""
    tokenizer = Tokenizer()
    tokenizer.pad, tokenizer.unk = 1, 0
    torch.manual_seed(0)
    given = t.MPNetForMaskedLM(t.MPNetConfig(**{**SIZES, "pad_token_id": 1})).eval()
    method, other = BERT(as_language(given, tokenizer), tokenizer, order=None), copy.deepcopy(given)
    assert method.network.length == 38
    batch = method.examples(method.prepare(tokens(tokenizer=tokenizer)).items(range(9)), 0)
    assert bool((batch.tokens == 1).any())
    theirs = other(input_ids=batch.tokens, attention_mask=batch.tokens != 1, labels=batch.targets).loss
    ours = method(batch)
    theirs.backward()
    ours.backward()
    assert abs(float((ours - theirs).detach())) < 1e-5
    assert relative(gradients(given), gradients(other)) < 1e-5
    assert bool((batch.targets != IGNORED).any())


@pytest.mark.parametrize("name", ["MPNet", "ModernBert", "DebertaV2"])
def test_sentences_are_the_mean_of_their_states(name: str) -> None:
    tokenizer, own = Tokenizer(), {"global_attn_every_n_layers": 2, "local_attention": 4}
    tokenizer.pad, tokenizer.unk = 1, 0
    config = getattr(t, f"{name}Config")(**{**SIZES, "pad_token_id": 1}, **(own if name == "ModernBert" else {}))
    network = as_language(getattr(t, f"{name}ForMaskedLM")(config), tokenizer)
    network.options["dropout"] = 0.1
    method = SimCSE(network, tokenizer).eval()
    body: Any = network.network.base_model
    texts = [np.arange(5, 20), np.arange(30, 37)]
    with torch.no_grad():
        made = method.embed(method.sentences(texts))
        for row, text in zip(made, texts):
            ids = torch.tensor([[tokenizer.cls, *text, tokenizer.sep]])
            torch.testing.assert_close(row, body(ids)[0][0].mean(0), rtol=1e-4, atol=1e-5)
