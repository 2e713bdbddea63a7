"""Steps and examples of language methods against transformers: benchmarks/results/language.json.

python benchmarks/language.py [examples] [steps] [--pairs 5]

Each pair is one run of transformers and one of ours, alternating in one process; ratios are medians over pairs.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastssl.bench.harness import machine, seconds_of_products
from fastssl.bench.run import write_atomically
from fastssl.data import TokenBatch, Tokenizer
from fastssl.data.corruption import Draws, Ragged, mask, spans
from fastssl.methods import BERT, GPT
from fastssl.models import build_language
from fastssl.models.precision import autocast, training_arithmetic

CPU = torch.device("cpu")
OUT = Path(__file__).parent / "results" / "language.json"


def vocabulary_of(size: int) -> Tokenizer:
    """A tokenizer of ``size`` tokens that is only asked for their ids."""
    tokenizer = Tokenizer()
    tokenizer.size, tokenizer.ordinary = size, np.arange(5, size)
    return tokenizer


def pairs(
    theirs: Callable[[], Any], ours: Callable[[], Any], count: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Medians in milliseconds, and of the ratios of alternating pairs."""
    seconds: list[tuple[float, float]] = []
    for _ in range(count + 1):
        times = []
        for run in (theirs, ours):
            start = clock()
            run()
            times.append(clock() - start)
        seconds.append((times[0], times[1]))
    seconds = seconds[1:]  # the first warms up
    ratio = statistics.median(a / b for a, b in seconds)
    medians = [1e3 * statistics.median(column) for column in zip(*seconds)]
    return {"transformers_ms": medians[0], "fastssl_ms": medians[1], "ratio": ratio}


def timed_steps(
    theirs: Callable[[], Tensor], ours: Callable[[], Tensor], precision: str, count: int
) -> dict[str, float]:
    """Of forward and backward passes, ours within the context of `fastssl pretrain`."""

    def step(loss: Callable[[], Tensor], context: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
        with context():
            with autocast(precision, CPU):
                value = loss()
            value.backward()

    with torch.no_grad(), autocast(precision, CPU):
        gap = abs(float(theirs() - ours()))
    own = functools.partial(step, ours, functools.partial(training_arithmetic, CPU))
    found = pairs(lambda: step(theirs, contextlib.nullcontext), own, count)
    return {**found, "difference of losses": gap, "products_ms": 1e3 * seconds_of_products(own)}


def bert_step(vocabulary: int, width: int, rows: int, length: int, precision: str, count: int) -> dict[str, float]:
    tokenizer = vocabulary_of(vocabulary)
    torch.manual_seed(0)
    shape = {"name": "bert", "vocabulary": vocabulary, "width": width, "depth": 4, "heads": 4, "length": length}
    method = BERT(build_language(shape), tokenizer)
    values = np.random.default_rng(0).integers(5, vocabulary, rows * length)
    inputs, targets = mask(
        Ragged(values, np.arange(0, rows * length + 1, length)), Draws(0, 0, np.arange(rows)), tokenizer
    )
    tokens, wanted = (torch.from_numpy(part).reshape(rows, length) for part in (inputs, targets))
    batch = TokenBatch(tokens, wanted, torch.zeros_like(tokens), torch.arange(rows) % 2, torch.arange(rows))
    network: Any = method.network.network
    given = {"attention_mask": tokens != 0, "token_type_ids": batch.segments, "next_sentence_label": batch.labels}

    def theirs() -> Tensor:
        loss: Tensor = network(input_ids=tokens, labels=wanted, **given).loss
        return loss

    return timed_steps(theirs, lambda: method(batch), precision, count)


def gpt_step(vocabulary: int, width: int, rows: int, length: int, precision: str, count: int) -> dict[str, float]:
    tokenizer = vocabulary_of(vocabulary)
    torch.manual_seed(0)
    shape = {"name": "gpt2", "vocabulary": vocabulary, "width": width, "depth": 4, "heads": 4, "length": length}
    method = GPT(build_language(shape), tokenizer, packed=False)
    tokens = torch.from_numpy(np.random.default_rng(0).integers(5, vocabulary, (rows, length)))
    wanted = torch.cat([tokens[:, 1:], torch.full((rows, 1), -100)], 1)
    batch = TokenBatch(tokens, wanted, ids=torch.arange(rows))
    network: Any = method.network.network
    return timed_steps(lambda: network(input_ids=tokens, labels=tokens).loss, lambda: method(batch), precision, count)


class SpanCollator:
    """Span corruption as transformers' example of T5 does it (run_t5_mlm_flax.py), for rows of equal lengths: a mask per
    row, made of two random partitions, then sentinels and filtering for the whole batch."""

    def __init__(self, size: int, end: int, share: float = 0.15, mean: float = 3.0) -> None:
        self.size, self.end, self.share, self.mean = size, end, share, mean

    @staticmethod
    def partition(total: int, parts: int) -> np.ndarray:
        cuts = np.arange(total - 1) < parts - 1
        np.random.shuffle(cuts)
        return np.unique(np.cumsum(np.pad(cuts, (1, 0))), return_counts=True)[1]

    def noise(self, length: int) -> np.ndarray:
        noise = min(max(round(length * self.share), 1), length - 1)
        spans = max(round(noise / self.mean), 1)
        inside, between = self.partition(noise, spans), self.partition(length - noise, spans)
        begins = np.zeros(length, dtype=np.int8)
        begins[np.cumsum(np.stack([between, inside], 1).reshape(-1))[:-1]] = 1
        return np.cumsum(begins) % 2 == 1

    def filtered(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        first = mask & ~np.roll(mask, 1, 1)
        first[:, 0] = mask[:, 0]
        sentinels = np.where(first, np.cumsum(first, 1), 0)
        sentinels = np.where(sentinels != 0, self.size - sentinels, 0) - (mask & ~first)
        full = np.where(sentinels != 0, sentinels, ids)
        kept = full[full >= 0].reshape(len(ids), -1)
        return np.concatenate([kept, np.full((len(ids), 1), self.end)], 1)

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, np.ndarray]:
        ids = np.array([feature["input_ids"] for feature in features])
        mask = np.stack([self.noise(ids.shape[1]) for _ in ids])
        return {"input_ids": self.filtered(ids, mask), "labels": self.filtered(ids, ~mask)}


def examples(count: int) -> dict[str, dict[str, float]]:
    """Masking and span corruption of 64 x 512 tokens, each against the collator of transformers, in seconds of the CPU
    of one thread."""
    from tokenizers import Tokenizer as Words
    from tokenizers.models import WordLevel
    from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

    rows, length, size = 64, 512, 30_522
    tokenizer = vocabulary_of(size)
    names = {f"w{k}": k for k in range(5, size)} | {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}
    words = PreTrainedTokenizerFast(
        tokenizer_object=Words(WordLevel(names, unk_token="[UNK]")), pad_token="[PAD]", mask_token="[MASK]"
    )
    collate = DataCollatorForLanguageModeling(words, mlm_probability=0.15)
    values = np.random.default_rng(0).integers(5, size, (rows, length))
    values[:, -1] = tokenizer.sep
    text = Ragged(values.reshape(-1), np.arange(0, rows * length + 1, length))
    features = [{"input_ids": row, "special_tokens_mask": (row == tokenizer.sep).astype(int)} for row in values]
    bare = [{"input_ids": row[:-1]} for row in values]  # the example adds the end itself
    frozen = text.values == tokenizer.sep
    ids = np.arange(rows)
    collate_spans = SpanCollator(size + 100, tokenizer.sep)
    ours, theirs = spans(text, Draws(0, 0, ids), tokenizer), collate_spans(bare)
    assert ours.inputs.values.size == theirs["input_ids"].size
    made = {}
    for name, peer, run in (
        ("masking", lambda: collate(features), lambda: mask(text, Draws(0, 0, ids), tokenizer, frozen=frozen)),
        ("span corruption", lambda: collate_spans(bare), lambda: spans(text, Draws(0, 0, ids), tokenizer)),
    ):
        found = pairs(peer, run, count, time.process_time)
        rates = {key: rows * length / found[f"{key}_ms"] / 1e3 for key in ("transformers", "fastssl")}
        made[name] = {**found, **{f"{key} Mtokens/s": rate for key, rate in rates.items()}}
    return made


STEPS: dict[str, Callable[..., dict[str, float]]] = {
    "BERT step, V 30,522, d 256, 32 x 128": functools.partial(bert_step, 30_522, 256, 32, 128),
    "BERT step, V 8,000, d 128, 128 x 32": functools.partial(bert_step, 8_000, 128, 128, 32),
    "GPT-2 step, V 50,257, d 256, 16 x 128": functools.partial(gpt_step, 50_257, 256, 16, 128),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=["examples", "steps", []])
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    options.parts = options.parts or ["examples", "steps"]
    known: dict[str, Any] = json.loads(OUT.read_text()) if OUT.exists() else {}
    results = {**known, "machine": machine()["cpu"], "threads": torch.get_num_threads(), "torch": torch.__version__}
    if "examples" in options.parts:
        results |= examples(5 * options.pairs)
        for name in ("masking", "span corruption"):
            print(name, {key: round(value, 2) for key, value in results[name].items()}, flush=True)
    for name, step in STEPS.items() if "steps" in options.parts else ():
        for precision in ("32-true", "bf16-mixed"):
            results[f"{name}, {precision}"] = found = step(precision=precision, count=options.pairs)
            print(name, precision, {key: round(value, 7) for key, value in found.items()}, flush=True)
    write_atomically(OUT, json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
