"""Attention that is trained in bf16 on a CPU: torch's kernel against float32; writes tables of docs/decisions/0021-attention.md.

python benchmarks/attention.py [kernels] [steps] --page

Ratios are medians over alternating pairs in one process, of forward and backward passes; above 1, float32 is faster. Steps are those of whole methods,
with their recipes' networks and batches, with and without `ShortAttentionInFloat32`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as TF
from pages import replace

from fastssl.bench.harness import machine
from fastssl.bench.run import write_atomically
from fastssl.cli.recipes import build_method, encoder_for
from fastssl.data import emoji, sotu, tokenize_corpus, train_tokenizer
from fastssl.methods import get
from fastssl.models.modes import ShortAttentionInFloat32
from fastssl.train import recipe
from fastssl.train.language import build_text_method

ROOT = Path(__file__).parent
RESULTS, PAGE = ROOT / "results" / "attention.json", ROOT.parent / "docs" / "decisions" / "0021-attention.md"
TOKENS, DIMS = (16, 64, 128, 256, 512, 1024), (32, 64, 128)
STEPS = ("mae", "clip", "gpt", "bert")


def ratio_of(first: Callable[[], Any], second: Callable[[], Any], pairs: int) -> float:
    """Time of the first over that of the second."""
    ratios = []
    for _ in range(pairs + 1):
        seconds = []
        for run in (first, second):
            began = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - began)
        ratios.append(seconds[0] / seconds[1])
    return statistics.median(ratios[1:])  # the first warms up


def kernel(tokens: int, dims: int, pairs: int) -> float:
    shape = (max(2, min(64, 2**19 // tokens**2)), 4, tokens, dims)
    q, k, v = (torch.randn(shape, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    weight = torch.randn(shape, dtype=torch.bfloat16)

    def run(wide: bool) -> None:
        inputs = [t.float() for t in (q, k, v)] if wide else [q, k, v]
        TF.scaled_dot_product_attention(*inputs).bfloat16().backward(weight)

    return ratio_of(lambda: run(False), lambda: run(True), pairs)


def step(name: str, pairs: int) -> float:
    """Of a method on embedded data."""
    chosen = recipe(name, 0)
    method: Any
    if "tokens" in get(name).needs:
        corpus = sotu()
        with tempfile.TemporaryDirectory() as folder:
            sizes = dict(chosen.network)
            tokenizer = train_tokenizer(corpus, get(name).tokenizer_kind, sizes.pop("vocabulary"))
            source = tokenize_corpus(corpus, tokenizer, Path(folder) / "corpus.tok")
            method, _ = build_text_method(name, sizes, tokenizer, {}, 0)
            batch = method.examples(method.prepare(source).items(range(chosen.options["batch_size"])), 0)
    else:
        data = emoji("train")
        method = build_method(name, encoder_for(name, None, chosen.size), data, 0)
        batch = method.examples(data.items(range(128)), 0)

    def run(context: contextlib.AbstractContextManager[Any]) -> None:
        with context, torch.autocast("cpu", torch.bfloat16):
            loss = method(batch)
        loss.backward()
        method.zero_grad()

    return ratio_of(lambda: run(contextlib.nullcontext()), lambda: run(ShortAttentionInFloat32()), pairs)


def page(results: dict[str, Any]) -> str:
    lines = [f"{results['machine']}, {results['threads']} threads, torch {results['torch']}."]
    if "kernels" in results:
        lines += [
            "",
            "| tokens | " + " | ".join(f"{dims} dimensions" for dims in DIMS) + " |",
            "|---|" + "---|" * len(DIMS),
        ]
        for tokens in TOKENS:
            cells = [f"{results['kernels'][f'{tokens} {dims}']:.2f}" for dims in DIMS]
            lines.append(f"| {tokens} | {' | '.join(cells)} |")
    if "steps" in results:
        lines += ["", "| method | forward and backward pass, bf16 over float32 attention |", "|---|---|"]
        lines += [f"| `{name}` | {ratio:.2f} |" for name, ratio in results["steps"].items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=["kernels", "steps", []])
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--page", action="store_true", help="write the tables")
    arguments = parser.parse_args()
    arguments.parts = arguments.parts or ["kernels", "steps"]
    about = machine()
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results |= {"machine": about["cpu"], "threads": about["threads"], "torch": about["torch"]}
    if "kernels" in arguments.parts:
        results["kernels"] = {f"{t} {d}": kernel(t, d, arguments.pairs) for t in TOKENS for d in DIMS}
    if "steps" in arguments.parts:
        results["steps"] = {name: step(name, arguments.pairs) for name in STEPS}
    write_atomically(RESULTS, json.dumps(results, indent=1))
    if arguments.page:
        replace("attention", page(results), PAGE)


if __name__ == "__main__":
    main()
