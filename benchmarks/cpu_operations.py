"""Operations that are trained on a CPU, torch's against those of `fastssl.models.FasterCpuOperations` and `faster_dropout`; writes tables of
docs/decisions/0021-operations-on-cpus.md.

python benchmarks/cpu_operations.py [attention] [convolutions] [elements] [steps] --page

Ratios are medians over alternating pairs in one process, of forward and backward passes; above 1, torch's takes longer. Steps are those of whole
methods, with their recipes' networks and batches.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as TF
from pages import replace
from torch import Tensor

from fastssl.bench.harness import alternate, machine
from fastssl.bench.run import write_atomically
from fastssl.cli.recipes import build_method, encoder_for
from fastssl.data import emoji, sotu, tokenize_corpus, train_tokenizer
from fastssl.methods import get
from fastssl.models import FasterCpuOperations, build_encoder, faster_dropout
from fastssl.train import recipe
from fastssl.train.language import build_text_method

ROOT = Path(__file__).parent
RESULTS = ROOT / "results" / "cpu_operations.json"
PAGE = ROOT.parent / "docs" / "decisions" / "0021-operations-on-cpus.md"
TOKENS, DIMS = (16, 64, 128, 256, 512, 1024), (32, 64, 128)
KINDS = ("bf16", "fp32", "fp32, dropout")
# (images, input channels, output channels, columns of the input, kernel, stride)
CONVOLUTIONS = (
    (256, 32, 64, 16, 3, 2),
    (256, 64, 64, 8, 3, 1),
    (256, 64, 128, 8, 3, 2),
    (256, 64, 128, 8, 1, 2),
    (256, 128, 128, 4, 3, 1),
    (64, 512, 512, 3, 3, 1),
    (128, 512, 512, 4, 3, 1),
    (64, 256, 256, 6, 3, 1),
    (32, 512, 512, 7, 3, 1),
    (32, 256, 512, 14, 3, 2),
    (32, 256, 64, 56, 1, 1),
    (32, 1024, 256, 14, 1, 1),
    (32, 512, 2048, 7, 1, 1),
    (32, 1024, 2048, 14, 1, 2),
)
ELEMENTS = (1 << 16, 1 << 19, 1 << 22)
ENCODERS = (("resnet18", 32, 128), ("resnet50", 32, 64), ("resnet50", 224, 8))
STEPS = ("simclr", "byol", "swav", "mae", "clip", "gpt", "bert", "xlnet", "sim-cse")


def ratio_of(run: Callable[[], Any], seconds: float) -> float:
    """Time with torch's operations over that with the faster ones."""

    def faster() -> None:
        with FasterCpuOperations(), faster_dropout():
            run()

    return statistics.median(a / b for a, b in zip(*alternate([run, faster], seconds)))


def passes(function: Callable[..., Tensor], inputs: list[Tensor], seconds: float, *, half: bool = True) -> float:
    """Of the forward and the backward pass in bf16, or fp32."""
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        weight = torch.randn_like(function(*inputs))

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            found = function(*inputs)
        found.backward(weight)

    return ratio_of(run, seconds)


def attention(tokens: int, dims: int, kind: str, seconds: float) -> float:
    shape, half = (max(2, min(64, 2**19 // tokens**2)), 4, tokens, dims), kind == "bf16"
    dtype, dropped = torch.bfloat16 if half else torch.float32, 0.1 if "dropout" in kind else 0.0
    inputs = [torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3)]
    return passes(lambda *x: TF.scaled_dot_product_attention(*x, dropout_p=dropped), inputs, seconds, half=half)


def convolution(images: int, of: int, to: int, columns: int, kernel: int, stride: int, seconds: float) -> float:
    pixels = torch.randn(images, of, columns, columns, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    weight = torch.randn(to, of, kernel, kernel, requires_grad=True)
    inputs = [pixels.requires_grad_(), weight]
    return passes(lambda x, w: TF.conv2d(x, w, None, stride, kernel // 2), inputs, seconds)


def elementwise(name: str, elements: int, dtype: torch.dtype, seconds: float) -> float:
    inputs = [torch.randn(elements, dtype=dtype, requires_grad=True)]
    if name == "dropout":
        return passes(lambda x: TF.dropout(x, 0.1), inputs, seconds)
    return passes(lambda x: TF.gelu(x, approximate="tanh"), inputs, seconds)


def encoder(name: str, pixels: int, images: int, seconds: float) -> float:
    network = build_encoder({"name": name, "size": pixels}).to(memory_format=torch.channels_last)
    inputs = [torch.randn(images, 3, pixels, pixels).to(memory_format=torch.channels_last)]
    return passes(network, inputs, seconds)


def step(name: str, seconds: float) -> float:
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

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = method(batch)
        loss.backward()
        method.zero_grad()

    return ratio_of(run, seconds)


def page(results: dict[str, Any]) -> str:
    lines = [f"{results['machine']}, {results['threads']} threads, torch {results['torch']}.", ""]
    lines += ["| attention | " + " | ".join(f"{dims} dimensions" for dims in DIMS) + " |", "|---|" + "---|" * len(DIMS)]
    for kind in KINDS:
        for tokens in TOKENS:
            cells = [f"{results['attention'][f'{tokens} {dims} {kind}']:.2f}" for dims in DIMS]
            lines.append(f"| {tokens} tokens, {kind} | {' | '.join(cells)} |")
    lines += ["", "| images | channels | columns | kernel | stride | ratio |", "|---|---|---|---|---|---|"]
    for shape, ratio in results["convolutions"].items():
        images, of, to, columns, kernel, stride = shape.split()
        lines.append(f"| {images} | {of} to {to} | {columns} | {kernel} | {stride} | {ratio:.2f} |")
    lines += ["", "| operation | elements | fp32 | bf16 |", "|---|---|---|---|"]
    for name in ("dropout", "GELU by a tanh"):
        for elements in ELEMENTS:
            cells = [f"{results['elements'][f'{name} {elements} {dtype}']:.2f}" for dtype in ("float32", "bfloat16")]
            lines.append(f"| {name} | {elements} | {' | '.join(cells)} |")
    lines += ["", "| encoder or step of a method | ratio |", "|---|---|"]
    lines += [f"| {name} | {ratio:.2f} |" for name, ratio in results["steps"].items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=["attention", "convolutions", "elements", "steps", []])
    parser.add_argument("--seconds", type=float, default=3.0, help="of each comparison, at least five rounds")
    parser.add_argument("--page", action="store_true", help="write the tables")
    arguments = parser.parse_args()
    parts, seconds = arguments.parts or ["attention", "convolutions", "elements", "steps"], arguments.seconds
    about = machine()
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results |= {"machine": about["cpu"], "threads": about["threads"], "torch": about["torch"]}
    if "attention" in parts:
        results["attention"] = {
            f"{t} {d} {k}": attention(t, d, k, seconds) for t in TOKENS for d in DIMS for k in KINDS
        }
    if "convolutions" in parts:
        results["convolutions"] = {" ".join(map(str, shape)): convolution(*shape, seconds) for shape in CONVOLUTIONS}
    if "elements" in parts:
        results["elements"] = {
            f"{name} {n} {str(kind)[6:]}": elementwise(name, n, kind, seconds)
            for name in ("dropout", "GELU by a tanh")
            for n in ELEMENTS
            for kind in (torch.float32, torch.bfloat16)
        }
    if "steps" in parts:
        results["steps"] = {
            f"`{name}` of {images} images of {pixels} pixels": encoder(name, pixels, images, seconds)
            for name, pixels, images in ENCODERS
        } | {f"step of `{name}`": step(name, seconds) for name in STEPS}
    write_atomically(RESULTS, json.dumps(results, indent=1))
    if arguments.page:
        replace("operations", page(results), PAGE)


if __name__ == "__main__":
    main()
