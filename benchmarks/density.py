"""Early models of binary data: kernels against eager PyTorch, and likelihoods of held-out digits.

python benchmarks/density.py [kernels] [likelihoods] [imax] [--choose MODEL ...] [--page]

``--choose``: scores the candidates of a recipe (:data:`CANDIDATES`) on a fifth of the training split, which it does not
train on; the best are the recipes in fastssl/train/recipes. Held-out digits play no part in it. ``kernels``: alternating pairs in one process, with 2 threads. ``likelihoods``: the recipes of ``fastssl pretrain`` on the
training split of the binary digits, with one thread. ``imax``: correlation with the disparity of unseen stereograms. Adds to
benchmarks/results/density.json; ``--page`` writes the tables of docs/early-works.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as TF
from pages import replace
from torch import Tensor

import fastssl.functional as F
from fastssl.bench.harness import as_dict, compare, machine
from fastssl.bench.run import write_atomically
from fastssl.data import open_splits, stereograms
from fastssl.data.splits import divide
from fastssl.evaluate import evaluate_density
from fastssl.evaluate.stereograms import disparity_correlation
from fastssl.methods import IMAX
from fastssl.models import build_encoder
from fastssl.train import Pretraining, pretrain, recipe

ROOT = Path(__file__).parent.parent
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "density.json", ROOT / "docs" / "early-works.md"
THREADS, SECONDS = 2, 8.0
ROWS, VISIBLE, HIDDEN = 100, 784, 500
DENSITY = 0.19  # of ones, that of binary MNIST

# name -> (method, options of its encoder, arguments of the method)
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "RBM, 16 hidden": ("rbm", {"width": 16}, {}),
    "RBM, 128 hidden": ("rbm", {"width": 128}, {}),
    "RBM, 128 hidden, persistent chains": ("rbm", {"width": 128}, {"persistent": 100}),
    "DBN, 2 x 128 hidden": ("rbm", {"width": 128, "blocks": 2}, {}),
    "NADE, 128 hidden": ("nade", {"width": 128}, {}),
    "NADE, 128 hidden, 8 orders": ("nade", {"width": 128, "orders": 8}, {}),
    "PixelCNN": ("pixelcnn", {}, {}),
}


def _grid(**values: Sequence[Any]) -> list[dict[str, Any]]:
    return [dict(zip(values, point)) for point in itertools.product(*values.values())]


# Model -> what is tried instead of its recipe: fields of Pretraining, others are options of the network.
CANDIDATES: dict[str, list[dict[str, Any]]] = {
    "rbm": _grid(lr=(0.05, 0.1, 0.2), weight_decay=(1e-4, 1e-3), epochs=(60, 120)),
    "nade": _grid(lr=(5e-3, 1e-2, 2e-2), weight_decay=(1e-3, 1e-2, 0.1), epochs=(50, 100)),
    "pixelcnn": [
        {"lr": 1e-2, "weight_decay": 0.05, "blocks": 2},
        *_grid(lr=(3e-3, 5e-3), weight_decay=(0.3, 1.0), blocks=(2,)),
        *_grid(lr=(5e-3,), weight_decay=(0.3,), blocks=(1, 2, 3), width=(48,)),
        *_grid(lr=(5e-3,), weight_decay=(0.3,), blocks=(3, 4)),
        {"lr": 5e-3, "weight_decay": 0.3, "blocks": 2, "dropout": 0.2},
    ],
}
FIELDS = {field.name for field in fields(Pretraining)}


def train(method: str, source: Any, arguments: dict[str, Any], changes: dict[str, Any]) -> Any:
    """A model with its recipe for the digits, but for ``changes``."""
    settings = recipe(method, len(source), embedded="digits")
    own = {key: value for key, value in changes.items() if key in FIELDS}
    network = {key: value for key, value in changes.items() if key not in FIELDS}
    encoder = {"name": method, "size": settings.size, **settings.network, **network}
    options = Pretraining(**{**settings.options, **own})
    with tempfile.TemporaryDirectory() as out:
        return pretrain(method, source, options, out=out, encoder=encoder, method_options=arguments)


def choose(model: str, save: Any) -> None:
    """Nats of every candidate on the validation part."""
    torch.set_num_threads(1)
    parts = divide(open_splits("digits").train, seed=1)
    size = {"width": 128} if model in ("rbm", "nade") else {}
    found = []
    for candidate in CANDIDATES[model]:
        began = time.perf_counter()
        made = train(model, parts.train, {}, {**size, **candidate})
        table = evaluate_density(made, parts.test, parts.train)
        nats = table[next(iter(table))]["pretrained"]
        found.append({**candidate, "nats": nats, "seconds": time.perf_counter() - began})
        print(model, found[-1], flush=True)
        save(model, sorted(found, key=lambda row: row["nats"]))


def eager_nade(v: Tensor, w: Tensor, o: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """A loop over the dimensions, which is faster than a tensor of all activations (157 MB)."""
    a = c.expand(len(v), -1)
    loss = v.new_zeros(len(v))
    for d in range(v.shape[1]):
        logit = torch.sigmoid(a) @ o[d] + b[d]
        loss = loss + TF.binary_cross_entropy_with_logits(logit, v[:, d], reduction="none")
        a = a + v[:, d : d + 1] * w[d]
    return loss.mean()


def eager_gibbs(v: Tensor, w: Tensor, b: Tensor, c: Tensor) -> Tensor:
    h = torch.bernoulli(torch.sigmoid(TF.linear(v, w, c)))
    return torch.bernoulli(torch.sigmoid(torch.addmm(b, h, w)))


def kernels() -> dict[str, Any]:
    g = torch.Generator().manual_seed(0)
    v = (torch.rand(ROWS, VISIBLE, generator=g) < DENSITY).float()
    shapes = ((VISIBLE, HIDDEN), (VISIBLE, HIDDEN), (VISIBLE,), (HIDDEN,))
    own = [(torch.randn(shape, generator=g) * 0.05).requires_grad_() for shape in shapes]
    weight, visible_bias, hidden_bias = own[0].detach().T.contiguous(), own[2].detach(), own[3].detach()
    keys = torch.arange(ROWS)

    def step(loss: Any) -> Any:
        return lambda: torch.autograd.grad(loss(v, *own), own)

    with torch.no_grad():
        error = (F.nade(v, *own) - eager_nade(v, *own)).abs() / eager_nade(v, *own)
    assert float(error) < 1e-5
    pairs = {
        "NADE, forward and backward": (step(F.nade), step(eager_nade)),
        "Gibbs step": (
            lambda: F.gibbs(v, weight, visible_bias, hidden_bias, keys),
            lambda: eager_gibbs(v, weight, visible_bias, hidden_bias),
        ),
    }
    return {name: as_dict(compare(ours, eager, seconds=SECONDS, least=5)) for name, (ours, eager) in pairs.items()}


def likelihoods() -> dict[str, Any]:
    task, found = open_splits("digits"), {}
    torch.set_num_threads(1)  # networks this small gain nothing from several
    for name, (method, network, arguments) in MODELS.items():
        began = time.process_time()
        model = train(method, task.train, arguments, network)
        seconds = time.process_time() - began
        table = evaluate_density(model, task.test, task.train)
        measure = next(iter(table))
        error = table.get(measure + "_std", {}).get("pretrained", 0.0)
        baselines = {row: value for row, value in table[measure].items() if row != "pretrained"}
        nats = table[measure]["pretrained"]
        found[name] = {"nats": nats, "kind": measure[6:-1], "error": error, "seconds": seconds}
        print(name, found[name], flush=True)
    return {"models": found, "baselines": baselines, "held out": len(task.test), "training": len(task.train)}


def imax() -> dict[str, Any]:
    encoder = {"name": "mlp", "size": 8, "width": 32, "channels": 2}
    unseen, found = stereograms(2000, seed=1), {}
    torch.set_num_threads(1)
    settings = recipe("imax", 4000, embedded="stereograms")
    for outputs in (1, 3):
        torch.manual_seed(0)
        model = IMAX(build_encoder(encoder), outputs=outputs)
        before, began = disparity_correlation(model, unseen), time.perf_counter()
        with tempfile.TemporaryDirectory() as out:
            pretrain(model, stereograms(), Pretraining(**settings.options), out=out, encoder_options=encoder)
        seconds = time.perf_counter() - began
        after = disparity_correlation(model, unseen)
        found[str(outputs)] = {"random": before, "trained": after, "seconds": seconds}
        print(outputs, found[str(outputs)], flush=True)
    return found


def page(results: dict[str, Any]) -> str:
    lines = [
        f"{results['machine']}, {THREADS} threads; `python benchmarks/density.py kernels likelihoods imax --page` repeats "
        "it.",
        "",
        f"| {ROWS} rows, {VISIBLE} visible, {HIDDEN} hidden units | eager PyTorch, ms | kernel, ms | times faster |",
        "|---|---|---|---|",
    ]
    for name, row in results["kernels"].items():
        lines.append(
            f"| {name} | {1e3 * row['other_seconds']:.1f} | {1e3 * row['fused_seconds']:.2f} | {row['ratio']:.1f} |"
        )
    found = results["likelihoods"]
    lines += [
        "",
        f"Binary digits, 8 x 8: {found['training']:,} images to train on, {found['held out']} held out; nats per held-out "
        "image, less is better; one thread.",
        "",
        "| model | nats | kind | processor seconds of training |",
        "|---|---|---|---|",
    ]
    for name, row in found["models"].items():
        error = f" ± {row['error']:.2f}" if row["error"] else ""
        lines.append(f"| {name} | {row['nats']:.2f}{error} | {row['kind']} | {row['seconds']:.0f} |")
    lines += [f"| {name} | {nats:.2f} | - | - |" for name, nats in found["baselines"].items()]
    lines += [
        "",
        "| IMAX, unseen stereograms: correlation with the disparity | random network | trained | seconds |",
        "|---|---|---|---|",
    ]
    for outputs, row in results["imax"].items():
        count = "1 output" if outputs == "1" else f"{outputs} outputs (multiple correlation)"
        lines.append(f"| {count} | {row['random']:.2f} | {row['trained']:.2f} | {row['seconds']:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=["kernels", "likelihoods", "imax", []])
    parser.add_argument("--choose", nargs="*", choices=list(CANDIDATES), default=[])
    parser.add_argument("--page", action="store_true", help="write the tables of docs/early-works.md")
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}

    def save(model: str, found: Any) -> None:
        results.setdefault("chosen", {})[model] = found
        write_atomically(RESULTS, json.dumps(results, indent=1))

    for model in arguments.choose:
        choose(model, save)
    for part in arguments.parts:
        results[part] = {"kernels": kernels, "likelihoods": likelihoods, "imax": imax}[part]()
        results["machine"] = machine()["cpu"]
        write_atomically(RESULTS, json.dumps(results, indent=1))
        print(json.dumps(results[part], indent=1))
    if arguments.page:
        replace("density", page(results), PAGE)


if __name__ == "__main__":
    main()
