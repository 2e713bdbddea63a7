"""Sampling from causal language models and from decoders; every row has draws of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastssl.augment import uniform
from fastssl.data.tokenizer import Tokenizer
from fastssl.models.architectures import CAUSAL
from fastssl.models.language import LanguageModel, cache_name
from fastssl.models.modes import evaluation_mode


def filtered(logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0) -> Tensor:
    """Probabilities [B, V] of logits [B, V]: 0 but for the ``top_k`` tokens and the smallest set of tokens whose
    probabilities add up to ``top_p`` (Holtzman et al. 2020); temperature 0: but for the most probable token."""
    logits = logits.double()
    if temperature == 0:
        return torch.zeros_like(logits).scatter(1, logits.argmax(1, keepdim=True), 1.0)
    logits = logits / temperature
    if top_k is not None and top_k < logits.shape[1]:
        bound = logits.topk(top_k, 1).values[:, -1:]
        logits = logits.masked_fill(logits < bound, -torch.inf)
    p = logits.softmax(1)
    if top_p < 1:
        ordered, places = p.sort(1, descending=True)
        outside = ordered.cumsum(1) - ordered >= top_p
        p = p.masked_fill(outside.scatter(1, places, outside), 0)
    result: Tensor = p / p.sum(1, keepdim=True)
    return result


@torch.no_grad()
def generate(
    model: LanguageModel,
    prompt: np.ndarray,
    count: int,
    *,
    rows: int = 1,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    seed: int = 0,
    never: tuple[int, ...] = (),
    on_token: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Continues a prompt: int64 [rows, T + count].

    Args:
        model: a causal model ("gpt2", "llama", "transformer", ...). Beyond its length, its last half is the context.
        prompt: ids [T], at least one.
        count: number of tokens to add.
        rows: number of continuations. Row r depends on (seed, r) alone, not on the other rows.
        temperature: 0: the most probable token.
        top_k: sample among the most probable tokens; None: all.
        top_p: sample among the most probable tokens that make up this probability.
        seed: seed of all draws.
        never: ids that are not sampled.
        on_token: called with the number of tokens so far.

    Raises:
        ValueError: an empty prompt, an option out of range, or a network that is not causal.

    Example:
        >>> import numpy as np
        >>> from fastssl.models import build_language, generate
        >>> model = build_language({"name": "transformer", "vocabulary": 300, "width": 16, "length": 8})
        >>> generate(model, np.array([7]), 12, rows=2).shape
        (2, 13)
    """
    prompt = np.asarray(prompt, dtype=np.int64).reshape(-1)
    if not len(prompt):
        raise ValueError("prompt: expected at least one token")
    _check(count, rows, temperature, top_k, top_p)
    if not model.continues:
        raise ValueError(f"network: expected a causal one, got {model.kind!r}")
    device = next(model.parameters()).device
    with evaluation_mode(model):
        ids = torch.from_numpy(prompt).to(device).expand(rows, -1)
        cache: Any = None
        seen = 0  # tokens of ``ids`` that the cache holds
        begin = max(0, ids.shape[1] - model.length)
        for step in range(count):
            if ids.shape[1] - begin > model.length:
                begin, cache, seen = ids.shape[1] - max(1, model.length // 2), None, 0
            if model.kind in CAUSAL:
                network: Any = model.network.base_model
                given = ids[:, begin + seen :]
                name = cache_name(network)
                made = network(given, **{name: cache}, use_cache=True)
                cache, seen, last = made[name], ids.shape[1] - begin, made[0][:, -1]
            else:
                last = model.hidden(ids[:, begin:])[:, -1]
            chosen = _sample(last, model, (temperature, top_k, top_p), never, seed, step)
            ids = torch.cat([ids, chosen], 1)
            if on_token is not None:
                on_token(step + 1)
    return ids.cpu().numpy()


@torch.no_grad()
def generate_target(
    model: LanguageModel,
    source: np.ndarray,
    count: int,
    *,
    end: int,
    rows: int = 1,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    seed: int = 0,
    never: tuple[int, ...] = (),
) -> list[np.ndarray]:
    """What a decoder writes for an input: ``rows`` arrays of at most ``count`` ids, without the end.

    Args:
        model: "t5" or "bart".
        source: ids [S] of the encoder's input, with its end.
        count: number of tokens at most; the length of the model is a further bound.
        end: id of the end.
        rows: number of targets. Row r depends on (seed, r) alone, not on the other rows.
        temperature: 0: the most probable token.
        top_k: sample among the most probable tokens; None: all.
        top_p: sample among the most probable tokens that make up this probability.
        seed: seed of all draws.
        never: ids that are not sampled.

    Raises:
        ValueError: an input that is empty or longer than the model, an option out of range, or a network without a
            decoder.

    Example:
        >>> import numpy as np
        >>> from fastssl.models import build_language, generate_target
        >>> model = build_language({"name": "t5", "vocabulary": 300, "width": 16, "length": 8})
        >>> len(generate_target(model, np.array([7, 3]), 5, end=3, rows=2))
        2
    """
    source = np.asarray(source, dtype=np.int64).reshape(-1)
    if not 1 <= len(source) <= model.length:
        raise ValueError(f"source: expected 1 to {model.length} tokens, got {len(source)}")
    _check(count, rows, temperature, top_k, top_p)
    if model.kind not in ("t5", "bart"):
        raise ValueError(f"network: expected one with a decoder, got {model.kind!r}")
    device = next(model.parameters()).device
    with evaluation_mode(model):
        memory = model.encoded(torch.from_numpy(source).to(device)[None]).expand(rows, -1, -1)
        ids = torch.full((rows, 1), model.options["pad"] if model.kind == "t5" else model.options["end"], device=device)
        ended, cache = torch.zeros(rows, 1, dtype=torch.bool, device=device), None
        for step in range(min(count, model.length)):
            last, cache = model.decode_next(ids[:, -1:], memory, cache)
            chosen = _sample(last, model, (temperature, top_k, top_p), never, seed, step)
            ids = torch.cat([ids, chosen.masked_fill(ended, end)], 1)
            ended |= chosen == end
            if bool(ended.all()):
                break
    made = ids[:, 1:].cpu().numpy()
    return [row[: int(np.argmax(row == end)) if bool((row == end).any()) else None] for row in made]


def check_samples(count: int, tokens: int) -> None:
    """Checks the options of a method's ``generate``.

    Raises:
        ValueError: one of them is below 1.
    """
    for name, value in (("count", count), ("tokens", tokens)):
        if value < 1:
            raise ValueError(f"{name}: expected an integer >= 1, got {value}")


def unwritten(model: LanguageModel, tokenizer: Tokenizer, besides: Iterable[int] = ()) -> tuple[int, ...]:
    """The ids that no text is continued with: special tokens but the end, sentinels, and embeddings without a token
    (vocabularies are padded to multiples of 64), but those ``besides``."""
    t = tokenizer
    behind = range(t.size, model.vocabulary)
    ids = {t.pad, t.unk, t.cls, t.mask, *t.sentinels.tolist(), *behind} - {t.sep, *(int(token) for token in besides)}
    return tuple(token for token in ids if token < model.vocabulary)


def _check(count: int, rows: int, temperature: float, top_k: int | None, top_p: float) -> None:
    checks: tuple[tuple[str, Any, bool], ...] = (
        ("count", count, count >= 1),
        ("rows", rows, rows >= 1),
        ("temperature", temperature, temperature >= 0),
        ("top_k", top_k, top_k is None or top_k >= 1),
        ("top_p", top_p, 0 < top_p <= 1),
    )
    for name, value, good in checks:
        if not good:
            wanted = {"temperature": "a number >= 0", "top_p": "a number in (0, 1]"}.get(name, "an integer >= 1")
            raise ValueError(f"{name}: expected {wanted}, got {value}")


def _sample(
    last: Tensor,
    model: LanguageModel,
    how: tuple[float, int | None, float],
    never: tuple[int, ...],
    seed: int,
    step: int,
) -> Tensor:
    """The next tokens [B, 1] of the last states [B, D]."""
    weight, bias = model.head()
    logits = last @ weight.T if bias is None else last @ weight.T + bias
    logits[:, list(never)] = -torch.inf
    shares = filtered(logits, *how).cumsum(1)
    draws = torch.from_numpy(uniform(seed, step, np.arange(len(last)), count=1)).to(last.device)
    return torch.searchsorted(shares, draws * shares[:, -1:], right=True).clamp(max=shares.shape[1] - 1)
