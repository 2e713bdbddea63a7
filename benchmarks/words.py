"""Word2Vec against gensim: words per second and the quality of the vectors.

python benchmarks/words.py [speed] [quality] [minute] [--page]      (extra: bench)

All on the embedded corpus (addresses, verses and glosses), with 2 threads. ``speed``: alternating passes; ``quality``: the
same number of epochs; ``minute``: what one minute gives. Adds to benchmarks/results/words.json; ``--page`` writes the table
of docs/words.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from pages import replace

import fastssl.data
from fastssl.bench.harness import machine
from fastssl.bench.run import write_atomically
from fastssl.data.words import number_words
from fastssl.evaluate import word_analogies, word_similarity
from fastssl.methods import Word2Vec
from fastssl.models import WordVectors

ROOT = Path(__file__).parent.parent
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "words.json", ROOT / "docs" / "words.md"
CORPUS = "sotu,verses-en,glosses"
THREADS, PAIRS, EPOCHS = 2, 5, 4
SAME = {"dim": 100, "window": 5, "negatives": 5, "subsample": 1e-3, "min_count": 5, "lr": 0.025}
IDLE = 1.5  # load of a machine of two cores on which words per second mean something


def sentences() -> list[list[str]]:
    """The corpus as lists of words, with the same vocabulary for both."""
    text = number_words(fastssl.data.open(CORPUS), SAME["min_count"])  # type: ignore[arg-type]
    found: list[list[str]] = [[]]
    for k in text.ids.tolist():
        if k < 0:
            found.append([])
        else:
            found[-1].append(text.words[k])
    return [s for s in found if s]


class _Timer:
    """Seconds of training alone: from the first step that is reported to the last."""

    def __init__(self) -> None:
        self.reports: list[tuple[float, int]] = []

    def __call__(self, p: Any) -> None:
        self.reports.append((time.perf_counter(), p.words))

    def rate(self) -> float:
        (t0, w0), (t1, w1) = self.reports[0], self.reports[-1]
        return (w1 - w0) / (t1 - t0)


def ours(corpus: list[list[str]], epochs: int, **options: Any) -> tuple[float, WordVectors]:
    """Words per second, and the vectors."""
    timer = _Timer()
    vectors = Word2Vec(**{**SAME, "epochs": epochs, **options}).fit(corpus, on_step=timer)
    return timer.rate(), vectors


def gensim(corpus: list[list[str]], epochs: int, seed: int = 0) -> tuple[float, WordVectors]:
    from gensim.models import Word2Vec as Peer

    model = Peer(
        vector_size=SAME["dim"], window=SAME["window"], negative=SAME["negatives"], sample=SAME["subsample"],
        min_count=SAME["min_count"], alpha=SAME["lr"], sg=1, workers=THREADS, seed=seed,
    )  # fmt: skip
    model.build_vocab(corpus)
    count = sum(map(len, corpus))
    began = time.perf_counter()
    model.train(corpus, total_examples=len(corpus), epochs=epochs)
    rate = count * epochs / (time.perf_counter() - began)
    return rate, WordVectors(model.wv.index_to_key, model.wv.vectors)


def speed(corpus: list[list[str]]) -> dict[str, Any]:
    rows: dict[str, list[float]] = {"reproducible": [], "lock-free": [], "gensim": []}
    for _ in range(PAIRS):
        rows["gensim"].append(gensim(corpus, 1)[0])
        rows["reproducible"].append(ours(corpus, 1)[0])
        rows["lock-free"].append(ours(corpus, 1, reproducible=False)[0])
    return {
        "words_per_second": {name: statistics.median(rates) for name, rates in rows.items()},
        "ratio": {
            name: statistics.median(a / b for a, b in zip(rates, rows["gensim"])) for name, rates in rows.items()
        },
        "load": os.getloadavg()[0],
    }


def scores(vectors: WordVectors) -> dict[str, float]:
    from gensim.test.utils import datapath

    return {
        "wordsim": word_similarity(vectors, datapath("wordsim353.tsv"))["rho"],
        "simlex": word_similarity(vectors, datapath("simlex999.txt"))["rho"],
        "analogies": word_analogies(vectors, datapath("questions-words.txt"))["all"],
    }


def quality(corpus: list[list[str]]) -> dict[str, Any]:
    return {
        "reproducible": scores(ours(corpus, EPOCHS)[1]),
        "lock-free": scores(ours(corpus, EPOCHS, reproducible=False)[1]),
        "gensim": scores(gensim(corpus, EPOCHS)[1]),
    }


def minute(corpus: list[list[str]]) -> dict[str, Any]:
    method = Word2Vec(**SAME)  # type: ignore[arg-type]
    began = time.perf_counter()
    vectors = method.fit(CORPUS, minutes=0.9)  # counting takes a few seconds
    return scores(vectors) | {"epochs": method.epochs, "seconds": time.perf_counter() - began}


def page(results: dict[str, Any]) -> str:
    names = ("gensim", "reproducible", "lock-free")
    rates, ratios, same = results["speed"]["words_per_second"], results["speed"]["ratio"], results["quality"]
    lines = [
        f"{results['machine']}, {THREADS} threads, 4.0 million words ({CORPUS}), skip-gram, 5 negatives, 100 dimensions; "
        "`python benchmarks/words.py speed quality minute --page` (extra: bench) repeats it.",
        "",
        "| | gensim | `Word2Vec` | `Word2Vec(reproducible=False)` |",
        "|---|---|---|---|",
        "| thousand words per second | " + " | ".join(f"{rates[n] / 1e3:,.0f}" for n in names) + " |",
        "| ratio, median of alternating passes | "
        + " | ".join("1" if n == "gensim" else f"**{ratios[n]:.1f}**" for n in names)
        + " |",
    ]
    for key, label in (("wordsim", "WordSim-353, rho"), ("simlex", "SimLex-999, rho"), ("analogies", "analogies, %")):
        lines.append(f"| {label}, {EPOCHS} epochs | " + " | ".join(f"{same[n][key]:.1f}" for n in names) + " |")
    m = results["minute"]
    lines += [
        "",
        f"In {m['seconds']:.0f} seconds from the texts to the vectors ({m['epochs']} epochs): WordSim-353 {m['wordsim']:.1f}, "
        f"SimLex-999 {m['simlex']:.1f}, analogies {m['analogies']:.1f} %.",
    ]
    if results["speed"]["load"] > IDLE:
        lines += ["", f"The machine had other load ({results['speed']['load']:.1f}): read the ratios."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=["speed", "quality", "minute", []])
    parser.add_argument("--page", action="store_true", help="write the table of docs/words.md")
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    corpus = sentences() if arguments.parts else []
    for part in arguments.parts:
        results[part] = {"speed": speed, "quality": quality, "minute": minute}[part](corpus)
        results["machine"] = machine()["cpu"]
        print(part, json.dumps(results[part], indent=1), flush=True)
        write_atomically(RESULTS, json.dumps(results, indent=1))
    if arguments.page:
        replace("words", page(results), PAGE)


if __name__ == "__main__":
    main()
