"""Sampling from a causal language model; every row has draws of its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastssl.augment import uniform
from fastssl.models.language import LanguageModel


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
        model: a causal model ("gpt2" or "transformer"). Beyond its length, the last half of it is the context.
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
    checks: tuple[tuple[str, Any, bool], ...] = (
        ("count", count, count >= 1),
        ("rows", rows, rows >= 1),
        ("temperature", temperature, temperature >= 0),
        ("top_k", top_k, top_k is None or top_k >= 1),
        ("top_p", top_p, 0 < top_p <= 1),
    )
    for name, value, good in checks:
        if not good:
            raise ValueError(f"{name}: out of range, got {value}")
    if model.kind not in ("gpt2", "transformer") or not model.options.get("causal", True):
        raise ValueError(f"network: expected a causal one, got {model.kind!r}")
    training, device = model.training, next(model.parameters()).device
    model.eval()
    ids = torch.from_numpy(prompt).to(device).expand(rows, -1)
    weight, bias = model.head()
    cache: Any = None
    cache_name = "past_key_values"  # its name changed in transformers 5
    if model.kind == "gpt2" and "cache" in inspect.signature(model.network.transformer.forward).parameters:  # type: ignore[union-attr]
        cache_name = "cache"
    seen = 0  # tokens of ``ids`` that the cache holds
    begin = max(0, ids.shape[1] - model.length)
    for step in range(count):
        if ids.shape[1] - begin > model.length:
            begin, cache, seen = ids.shape[1] - max(1, model.length // 2), None, 0
        if model.kind == "gpt2":
            network: Any = model.network
            given = ids[:, begin + seen :]
            made = network.transformer(given, **{cache_name: cache}, use_cache=True)
            cache, seen, last = made[cache_name], ids.shape[1] - begin, made[0][:, -1]
        else:
            last = model.hidden(ids[:, begin:])[:, -1]
        logits = last @ weight.T if bias is None else last @ weight.T + bias
        logits[:, list(never)] = -torch.inf
        shares = filtered(logits, temperature, top_k, top_p).cumsum(1)
        draws = torch.from_numpy(uniform(seed, step, np.arange(rows), count=1)).to(device)
        chosen = torch.searchsorted(shares, draws * shares[:, -1:], right=True).clamp(max=shares.shape[1] - 1)
        ids = torch.cat([ids, chosen], 1)
        if on_token is not None:
            on_token(step + 1)
    model.train(training)
    return ids.cpu().numpy()
