"""Sampling from causal language models and from decoders; every row has draws of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from fastssl.augment import uniform
from fastssl.data.tokenizer import Tokenizer
from fastssl.models.language import LanguageModel, select_rows
from fastssl.models.modes import evaluation_mode

Prompt = TypeVar("Prompt", np.ndarray, list[np.ndarray])
ROWS = 64  # continued at once, unless one prompt has more


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
    prompt: Prompt,
    count: int,
    *,
    rows: int = 1,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    seed: int = 0,
    never: tuple[int, ...] = (),
    end: int | None = None,
    on_token: Callable[[int], None] | None = None,
) -> Prompt:
    """Continues a prompt: int64 [rows, T + count]; of several a list of such arrays, made in batches.

    Args:
        model: a causal model ("gpt2", "llama", "transformer", ...). Beyond its length, its last half is the context.
        prompt: ids [T], at least one; or a list of such arrays, of any lengths.
        count: number of tokens to add.
        rows: number of continuations of each prompt. Row r depends on its prompt and on (seed, r) alone, not on the
            other rows and prompts.
        temperature: 0: the most probable token.
        top_k: sample among the most probable tokens; None: all.
        top_p: sample among the most probable tokens that make up this probability.
        seed: seed of all draws.
        never: ids that are not sampled.
        end: id that ends a row, which has nothing but ends behind it; None: rows go on.
        on_token: called with the number of tokens so far, of every batch.

    Raises:
        ValueError: an empty prompt, an option out of range, or a network that is not causal.

    Example:
        >>> import numpy as np
        >>> from fastssl.models import build_language, generate
        >>> model = build_language({"name": "transformer", "vocabulary": 300, "width": 16, "length": 8})
        >>> generate(model, np.array([7]), 12, rows=2).shape
        (2, 13)
        >>> [made.shape for made in generate(model, [np.array([7]), np.array([3, 5])], 12)]
        [(1, 13), (1, 14)]
    """
    prompts = _several(prompt)
    if any(not len(ids) for ids in prompts):
        raise ValueError("prompt: expected at least one token")
    _check(count, rows, temperature, top_k, top_p)
    if not model.continues:
        raise ValueError(f"network: expected a causal one, got {model.kind!r}")
    draws = _Draws((temperature, top_k, top_p), never, seed, rows)
    made: dict[int, np.ndarray] = {}
    # Contexts of one batch are cut at the same tokens: none are, or all have one length.
    length = model.length
    cuts = [0 if len(ids) + count - 1 <= length else min(len(ids), length) for ids in prompts]
    with evaluation_mode(model):
        for batch in _batches(prompts, rows, cuts):
            added = _continued(model, [prompts[k][-length:] for k in batch], count, draws, end, on_token)
            for k, tokens in zip(batch, np.split(added, len(batch)), strict=True):
                made[k] = np.concatenate([np.broadcast_to(prompts[k], (rows, len(prompts[k]))), tokens], 1)
    whole = [made[k] for k in range(len(prompts))]
    return cast(Prompt, whole if _is_several(prompt) else whole[0])


def _continued(
    model: LanguageModel,
    contexts: list[np.ndarray],
    count: int,
    draws: _Draws,
    end: int | None,
    on_token: Callable[[int], None] | None,
) -> np.ndarray:
    """The tokens that follow each context, int64 [contexts * rows, count]. Shorter contexts are padded on the left, so
    that all are continued at one place; they are then never cut. Rows that have ended are no longer computed."""
    device = next(model.parameters()).device
    longest = max(len(ids) for ids in contexts)
    padding = np.repeat([longest - len(ids) for ids in contexts], draws.rows)
    padded = np.stack([np.pad(ids, (longest - len(ids), 0)) for ids in contexts]).repeat(draws.rows, 0)
    ids, before = torch.from_numpy(padded).to(device), torch.from_numpy(padding)[:, None].to(device)
    added = np.full((len(padded), count), end or 0, np.int64)
    rows = np.arange(len(padded))  # that have not ended: those of ``ids``
    cache: Any = None
    begin = seen = 0  # the first token of ``ids`` in the context; how many of it the cache holds
    for step in range(count):
        if ids.shape[1] - begin > model.length:
            begin, cache, seen = ids.shape[1] - max(1, model.length // 2), None, 0
        keep = torch.arange(begin, ids.shape[1], device=device) >= before if padding.any() else None
        last, cache = model.hidden_next(ids[:, begin + seen :], keep, cache)
        seen = ids.shape[1] - begin
        chosen = draws.sample(last, model, step, rows)
        added[rows, step] = chosen[:, 0].cpu().numpy()
        ids = torch.cat([ids, chosen], 1)
        if on_token is not None:
            on_token(step + 1)
        going = np.flatnonzero(added[rows, step] != end)
        if not len(going):
            break
        if len(going) < len(rows):
            at = torch.from_numpy(going).to(device)
            rows, ids, before, cache = rows[going], ids[at], before[at], select_rows(cache, at)
    return added


@torch.no_grad()
def generate_target(
    model: LanguageModel,
    source: np.ndarray | list[np.ndarray],
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
        source: ids [S] of the encoder's input, with its end; or a list of such arrays, of any lengths, whose targets
            follow one another.
        count: number of tokens at most; the length of the model is a further bound.
        end: id of the end.
        rows: number of targets of each input. Row r depends on its input and on (seed, r) alone, not on the other rows
            and inputs.
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
    sources = _several(source)
    wrong = next((ids for ids in sources if not 1 <= len(ids) <= model.length), None)
    if wrong is not None:
        raise ValueError(f"source: expected 1 to {model.length} tokens, got {len(wrong)}")
    _check(count, rows, temperature, top_k, top_p)
    if model.kind not in ("t5", "bart"):
        raise ValueError(f"network: expected one with a decoder, got {model.kind!r}")
    draws = _Draws((temperature, top_k, top_p), never, seed, rows)
    made: dict[int, np.ndarray] = {}
    with evaluation_mode(model):
        for batch in _batches(sources, rows):
            written = _written(model, [sources[k] for k in batch], min(count, model.length), end, draws)
            made |= dict(zip(batch, np.split(written, len(batch)), strict=True))
    every = [row for k in range(len(sources)) for row in made[k]]
    return [row[: int(np.argmax(row == end)) if bool((row == end).any()) else None] for row in every]


def _written(model: LanguageModel, sources: list[np.ndarray], count: int, end: int, draws: _Draws) -> np.ndarray:
    """What the decoder writes for each source, int64 [sources * rows, ``count``]; behind an end there are ends alone.
    Shorter sources are padded on the right, and rows that have ended are no longer computed."""
    device = next(model.parameters()).device
    lengths = np.array([len(ids) for ids in sources])
    padded = np.stack([np.pad(ids, (0, lengths.max() - len(ids))) for ids in sources])
    keep = torch.from_numpy(np.arange(lengths.max()) < lengths[:, None]).to(device)
    memory = model.encoded(torch.from_numpy(padded).to(device), keep).repeat_interleave(draws.rows, 0)
    keep = keep.repeat_interleave(draws.rows, 0)
    first = model.options["pad"] if model.kind == "t5" else model.options["end"]
    chosen = torch.full((len(memory), 1), first, device=device)
    added = np.full((len(memory), count), end, np.int64)
    rows, cache = np.arange(len(memory)), None  # the rows that have not ended
    for step in range(count):
        last, cache = model.decode_next(chosen, memory, keep, cache)
        chosen = draws.sample(last, model, step, rows)
        added[rows, step] = chosen[:, 0].cpu().numpy()
        going = np.flatnonzero(added[rows, step] != end)
        if not len(going):
            break
        if len(going) < len(rows):
            at = torch.from_numpy(going).to(device)
            rows, chosen, memory, keep, cache = rows[going], chosen[at], memory[at], keep[at], select_rows(cache, at)
    return added


def _is_several(given: np.ndarray | list[Any]) -> bool:
    return isinstance(given, list) and any(np.ndim(ids) for ids in given)


def _several(given: np.ndarray | list[np.ndarray]) -> list[np.ndarray]:
    """The arrays of ids that are given as one, or as a list of several."""
    several: Any = given if _is_several(given) else [given]
    return [np.asarray(ids, dtype=np.int64).reshape(-1) for ids in several]


def _batches(given: list[np.ndarray], rows: int, keys: list[int] | None = None) -> Iterator[list[int]]:
    """Which arrays of ids are read together: those of one key and of similar lengths, which need little padding."""
    keys = keys or [0] * len(given)
    order = sorted(range(len(given)), key=lambda k: (keys[k], len(given[k])))
    for _, same in groupby(order, key=lambda k: keys[k]):
        alike = list(same)
        most = max(1, ROWS // rows)
        yield from (alike[k : k + most] for k in range(0, len(alike), most))


def texts_of(prompt: str | Sequence[str]) -> list[str]:
    """The texts that are given as one, or as several.

    Raises:
        TypeError: something else.
        ValueError: none.
    """
    texts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"prompt: expected a text or a list of texts, got {prompt!r}")
    if not texts:
        raise ValueError("prompt: expected at least one text, got none")
    return list(texts)


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


class _Draws(NamedTuple):
    """How tokens are drawn: row r of each of several prompts with the draws (seed, r).

    Args:
        how: temperature, ``top_k`` and ``top_p``.
        never: ids that are not drawn.
        seed: seed of all draws.
        rows: rows of each prompt, one after the other.
    """

    how: tuple[float, int | None, float]
    never: tuple[int, ...]
    seed: int
    rows: int

    def sample(self, last: Tensor, model: LanguageModel, step: int, rows: np.ndarray) -> Tensor:
        """The next tokens [B, 1] of the last states [B, D]: those of ``rows`` of all prompts."""
        weight, bias = model.head()
        logits = last @ weight.T if bias is None else last @ weight.T + bias
        logits[:, list(self.never)] = -torch.inf
        shares = filtered(logits, *self.how).cumsum(1)
        own = uniform(self.seed, step, rows % self.rows, count=1)
        draws = torch.from_numpy(own).to(last.device)
        return torch.searchsorted(shares, draws * shares[:, -1:], right=True).clamp(max=shares.shape[1] - 1)
