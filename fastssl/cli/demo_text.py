"""``fastssl demo --text``: word vectors, BERT and GPT on embedded texts in one command, and a report."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from fastssl.bench.harness import machine
from fastssl.bench.run import write_atomically
from fastssl.cli.language import prepare
from fastssl.cli.show import console, echo, item_progress, print_measures, run_pretraining
from fastssl.cli.words import word_progress
from fastssl.data import sotu
from fastssl.evaluate import evaluate_language, gloss_classes
from fastssl.evaluate.features import progress_bars
from fastssl.methods import Word2Vec
from fastssl.models.folder import load_state
from fastssl.report.text import masked_words, nearest_words, write_text_report
from fastssl.train import Pretraining, recipe

WORDS = "sotu,verses-en,glosses-train"
SHARES = {"words": 0.15, "bert": 0.4, "gpt": 0.45}  # of the minutes
# A network that predicts more than frequencies after two minutes: many small steps, embeddings from the word vectors.
BERT = {"vocabulary": 4000, "depth": 2, "length": 32}
PROMPTS = ("My fellow", "The economy")


def run_text_demo(out: Path, minutes: float, seed: int) -> dict[str, Any]:
    """Runs the demo and returns the content of ``report.json``.

    Raises:
        ImportError: without the extras ``text`` and ``report``.
    """
    started = time.time()
    report: dict[str, Any] = {"seed": seed, "machine": machine(), "training": {}}

    console.rule("Word2Vec on addresses, verses and glosses")
    words = Word2Vec(128, seed=seed)
    with word_progress(WORDS) as show:
        vectors = words.fit(WORDS, minutes=minutes * SHARES["words"], out=out / "words", overwrite=True, on_step=show)
    report["words"] = {
        "count": len(vectors),
        "epochs": words.epochs,
        "nearest": nearest_words(vectors),
        "classes": gloss_classes(vectors, (10,), seeds=1, note=echo),
    }
    print_measures(report["words"]["classes"])

    for name, shape, options, init in (
        ("bert", BERT, {"order": None}, f"word2vec:{out / 'words'}"),
        ("gpt", {}, {}, None),
    ):
        console.rule(f"{name.upper()} on State of the Union addresses")
        settings = recipe(name, 0)
        arguments = {**settings.method, **options}
        method, windows, network = prepare(
            name,
            sotu(),
            out / name,
            {**settings.network, **shape},
            arguments,
            tokenizer=None,
            held_out=None,
            init=init,
            seed=seed,
        )
        limits = Pretraining(**{**settings.options, "minutes": minutes * SHARES[name], "seed": seed})
        made = {"encoder_options": network, "method_options": arguments}
        run_pretraining(method, windows, limits, out / name, overwrite=True, **made)
        state = load_state(out / name)
        held_out = method.prepare(windows.file, (windows.stop, windows.file.total))
        with progress_bars(item_progress):
            report[name] = {"scores": evaluate_language(method, held_out, windows)}
        print_measures(report[name]["scores"])
        report["training"][name] = {"history": state["history"], "epochs": state["epochs"], "seconds": state["seconds"]}
        if name == "bert":
            report[name]["masked"] = masked_words(method, held_out)
        else:
            report[name]["texts"] = [
                {"prompt": prompt, "text": text}
                for prompt in PROMPTS
                for text in method.generate(2, seed, prompt=prompt, tokens=60, temperature=0.8, top_k=40).values  # type: ignore[call-arg]
            ]
    report["minutes"] = (time.time() - started) / 60
    write_atomically(out / "report.json", json.dumps(report, indent=1))
    page = write_text_report(out, report)
    echo(f"report: {page.resolve()}\nfigures: {(out / 'report.json').resolve()}")
    return report
