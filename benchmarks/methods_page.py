"""Writes docs/methods.md from the methods' docstrings, signatures and examples.

python benchmarks/methods_page.py
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

from fastssl.bench.run import write_atomically
from fastssl.methods import METHODS, AudioDistribution, AudioMethod, DensityMethod, TextMethod

PAGE = Path(__file__).parent.parent / "docs" / "methods.md"

HEAD = """# The methods

Written by `python benchmarks/methods_page.py` from the source: what each method predicts, deviations from its paper, settings with
defaults, and a complete example. Results on a small budget: [zoo.md](zoo.md). Evaluation of encoders:
[evaluate.md](evaluate.md). How a method works: [how-a-method-works.md](how-a-method-works.md); how to add one: [CONTRIBUTING.md](../CONTRIBUTING.md).

A method consists of examples, networks and a loss. Methods of images: `augment=` takes any `fastssl.augment.Views`; the encoder is any
network, `Encoder(module, size)`, or one of `build_encoder` (`resnet`, `resnet18`, `resnet50`, `vit`, `patch-cnn`, `efficientnet`, `lab:NAME`,
`huggingface:NAME`). Distributions of images have networks that are encoders too ([early-works.md](early-works.md), [generation.md](generation.md)). Methods of
texts ([language.md](language.md)) take a network of `build_language` and a tokenizer, methods of waveforms a network of `build_audio`. From the command line:
`fastssl pretrain NAME --data FOLDER`.

| method | family | predicts | loss | paper |
|---|---|---|---|---|
"""

EXAMPLE = """from fastssl.data import emoji
from fastssl.evaluate import evaluate
from fastssl.methods import {kind}
from fastssl.models import build_encoder
from fastssl.train import Pretraining, pretrain

encoder = {{"name": "{encoder}", "size": 32, "width": 32}}
images = emoji("train")  # or "photos": a folder, or whatever fastssl.data.open takes
method = {kind}(build_encoder(encoder){arguments})
options = Pretraining(epochs=20, batch_size=32, lr=1e-3)
pretrain(method, images, options, out="runs/{name}", encoder_options=encoder)
print(evaluate(method.encoder, encoder, emoji(), readout="pooled")["linear"])
"""

LANGUAGE = """from fastssl.data import sotu, tokenize_corpus, train_tokenizer
from fastssl.evaluate import evaluate_language
from fastssl.methods import {kind}
from fastssl.models import build_language
from fastssl.train import Pretraining, pretrain

corpus = sotu()  # or a fastssl.data.Corpus, or fastssl.data.open("text:FOLDER")
texts = (sentence for document in corpus.documents() for sentence in document)
tokenizer = train_tokenizer(texts, "{tokenizer}", 4000)
tokens = tokenize_corpus(corpus, tokenizer, "runs/sotu.tok")
network = {{"name": "{network}", "vocabulary": {vocabulary}, "width": 128, "depth": 3}}
method = {kind}(build_language(network), tokenizer)
training, held_out = (method.prepare(tokens, span) for span in tokens.divide(0.05))
options = Pretraining(epochs=20, batch_size=32, lr=1e-3, clip=1.0)
pretrain(method, training, options, out="runs/{name}", encoder_options=network)
print(evaluate_language(method, held_out, training)["perplexity"])
"""

DENSITY = """from fastssl.data import open_splits
from fastssl.evaluate import evaluate_density
from fastssl.methods import {kind}
from fastssl.models import build_encoder
from fastssl.train import Pretraining, pretrain

encoder = {{"name": "{encoder}", "size": 8, "width": 32{more}}}
task = open_splits("digits")  # or a folder with train/ and test/ in it
method = {kind}(build_encoder(encoder){arguments})
options = Pretraining({options})
pretrain(method, task.train, options, out="runs/{name}", encoder_options=encoder)
print(evaluate_density(method, task.test, task.train)["bits per value"])
method.generate(64).save("runs/{name}/samples")  # a contact sheet
"""

AUDIO = """from fastssl.data import open_splits
from fastssl.evaluate import evaluate_audio
from fastssl.methods import {kind}
from fastssl.models import build_audio
from fastssl.train import Pretraining, pretrain

task = open_splits("spoken-digits")  # or a folder with train/ and test/ in it, of WAV files
network = {network}
method = {kind}(build_audio(network){arguments})
options = Pretraining(epochs=20, batch_size=16, lr=3e-3, clip=1.0)
pretrain(method, task.train, options, out="runs/{name}", encoder_options=network)
print(evaluate_audio(method, task.test, task.train)["{measure}"])
"""
SAMPLES = """method.generate(4, seconds=0.5).save("runs/{name}/samples")  # WAV files
"""

STEREOGRAMS = """from fastssl.data import stereograms
from fastssl.evaluate import disparity_correlation
from fastssl.methods import IMAX
from fastssl.models import build_encoder
from fastssl.train import Pretraining, pretrain

encoder = {"name": "mlp", "size": 8, "width": 32, "channels": 2}
method = IMAX(build_encoder(encoder))
options = Pretraining(epochs=20, batch_size=500, lr=3e-3)
pretrain(method, stereograms(), options, out="runs/imax", encoder_options=encoder)
print(disparity_correlation(method, stereograms(1000, seed=1)))
"""

# Words of 0.2 to 0.8 s at 8 kHz, a code each 10 ms.
CPC_SIGNAL = {
    "network": '{"name": "cpc", "kernels": [10, 8, 4, 4], "strides": [5, 4, 2, 2]}',
    "arguments": ", window=2560, steps=8",
    "measure": "linear",
}
OPTIONS = {
    "rbm": 'epochs=20, batch_size=32, lr=0.05, optimizer="sgd"',
    **dict.fromkeys(("igpt", "pixelcnn", "pixelrnn"), "epochs=20, batch_size=32, lr=1e-3"),
}
# Arguments of the examples besides the encoder, for methods that need them on small images.
ARGUMENTS = {
    "byol": ", momentum=0.96",
    "swav": ", prototypes=32",
    "deep-cluster": ", clusters=50, every=5",
    "inter-clr": ", clusters=50",
    "context-encoder": ', region="random"',
    "simclr": ", temperature=0.1, layers=2",
    "moco": ", queue=1024",
}


# Options of the networks of distributions, besides size and width.
DENSITIES = {"igpt": ', "colors": 16, "channels": 3', **dict.fromkeys(("pixelcnn", "pixelrnn"), ', "dropout": 0.3')}


def _settings(kind: Any) -> list[str]:
    """The lines of the docstring's Args."""
    text = inspect.getdoc(kind) or ""
    if "Args:" not in text:
        return []
    lines: list[str] = []
    for line in text.split("Args:")[1].splitlines()[1:]:
        if not line.strip():
            break
        if line.startswith("    ") and not line.startswith("     "):
            lines.append(line.strip())
        elif lines:
            lines[-1] += " " + line.strip()
    defaults = {n: p.default for n, p in inspect.signature(kind).parameters.items()}
    shown = []
    for line in lines:
        name, _, what = line.partition(": ")
        default = defaults.get(name)
        given = f" (`{default!r}`)" if name in defaults and default not in (None, inspect.Parameter.empty) else ""
        shown.append(f"- `{name}`{given}: {what}")
    return shown


def _section(name: str, kind: Any, example: str) -> list[str]:
    module = inspect.getdoc(sys.modules[kind.__module__]) or ""
    first, _, rest = module.partition("\n")
    return [
        f"## {name}",
        "",
        f"**{first}**",
        "",
        " ".join(rest.split()),
        "",
        (inspect.getdoc(kind) or "").split("\n\n")[0],
        "",
        *_settings(kind),
        "",
        "```python",
        example.rstrip(),
        "```",
        "",
    ]


def _example(name: str, kind: Any) -> str:
    options: Any
    if issubclass(kind, TextMethod):
        size = "tokenizer.size + 100" if kind.sentinels else "tokenizer.size"
        options = {"tokenizer": kind.tokenizer_kind, "network": kind.networks[0], "vocabulary": size}
        return LANGUAGE.format(kind=kind.__name__, name=name, **options)
    if issubclass(kind, AudioMethod):
        options = {"name": name, "kind": kind.__name__}
        if issubclass(kind, AudioDistribution):
            network = f'{{"name": "{kind.networks[0]}", "width": 32}}'
            return (AUDIO + SAMPLES).format(network=network, arguments="", measure="bits per sample", **options)
        return AUDIO.format(**CPC_SIGNAL, **options)
    arguments = ARGUMENTS.get(name, "")
    if name == "imax":
        return STEREOGRAMS
    if issubclass(kind, DensityMethod):
        options = OPTIONS.get(name, "epochs=20, batch_size=64, lr=1e-2")
        return DENSITY.format(
            kind=kind.__name__,
            encoder=kind.encoder_name,
            name=name,
            more=DENSITIES.get(name, ""),
            arguments=arguments,
            options=options,
        )
    return EXAMPLE.format(kind=kind.__name__, encoder=kind.encoder_name, name=name, arguments=arguments)


def page() -> str:
    lines = [HEAD.rstrip()]
    for name, kind in METHODS.items():
        about = kind.about()
        anchor = name
        lines.append(
            f"| [{name}](#{anchor}) | {about['family']} | {about['predicts']} | {about['loss']} | {about['paper']} |"
        )
    lines.append("")
    for name, kind in METHODS.items():
        lines += _section(name, kind, _example(name, kind))
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    write_atomically(PAGE, page())
