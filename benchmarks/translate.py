"""Translation of verses from Spanish to English: T5 pretrained on both languages, beside the same network from scratch.

python benchmarks/translate.py [--epochs E] [--steps N] [--pairs P] [--test T] [--page]

A T5 of width 128 is pretrained for E epochs (default 2) on short verses of both languages without the test verses, with
its spans; then it and a random one are fine-tuned for N steps (default 200) on P pairs (default 4,000) and write T test
verses (default 50), the most probable token at each step. Some minutes on one core. Writes
benchmarks/results/translate.json; ``--page`` writes the table of docs/language.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pages import replace

from fastssl.bench.harness import machine
from fastssl.bench.run import write_atomically
from fastssl.data import Corpus, tokenize_corpus, train_tokenizer, verses
from fastssl.evaluate import TranslationTuning, finetune_translation, text_scores
from fastssl.methods import T5
from fastssl.models import build_language
from fastssl.train import Pretraining, pretrain

ROOT = Path(__file__).parent.parent
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "translate.json", ROOT / "docs" / "language.md"
SHAPE = {"name": "t5", "width": 128, "depth": 1, "heads": 4, "length": 48}
VOCABULARY, LONGEST = 2000, 100  # tokens; characters of a verse


def measure(epochs: int, steps: int, pairs: int, test: int) -> dict[str, Any]:
    both: Any = verses("es-en")
    short = [k for k in range(len(both)) if max(map(len, both.pair(k))) <= LONGEST]
    order = np.random.default_rng(0).permutation(short)
    held, rest = order[:test], order[test:]
    texts = [text for k in np.sort(rest) for text in both.pair(int(k))]
    tokenizer = train_tokenizer(texts, "unigram", VOCABULARY)
    shape = {**SHAPE, "vocabulary": T5.vocabulary(tokenizer), "pad": tokenizer.pad, "end": tokenizer.sep}
    options = TranslationTuning(steps=steps)
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as out:
        file = tokenize_corpus(Corpus(texts, "verses"), tokenizer, Path(out) / "verses.tok")
        for name in ("pretrained", "from scratch"):
            torch.manual_seed(0)
            method = T5(build_language(shape), tokenizer)
            began = time.process_time()
            if name == "pretrained":
                how = Pretraining(epochs=epochs, batch_size=64, lr=2e-3, warmup_epochs=0.2, clip=1.0)
                pretrain(method, method.prepare(file), how, out=Path(out) / "run", encoder_options=shape)
            between = time.process_time()
            found = finetune_translation(method.network, tokenizer, both, rest[:pairs], held, options)
            rows[name] = {
                **found.scores._asdict(),
                "nats": found.nats,
                "cut": found.cut,
                "pretraining seconds": between - began,
                "seconds": time.process_time() - between,
                "examples": found.texts[:3],
            }
            print(name, json.dumps(rows[name], indent=1, ensure_ascii=False), flush=True)
    source, right = zip(*(both.pair(int(k)) for k in held))
    rows["Spanish text"] = text_scores(source, right)._asdict()
    return {"rows": rows, "epochs": epochs, "steps": steps, "pairs": pairs, "test": test, "texts": right[:3]}


def page(results: dict[str, Any]) -> str:
    found, rows = results["found"], results["found"]["rows"]
    command = " ".join(f"--{name} {found[name]:g}" for name in ("epochs", "steps", "pairs", "test"))
    lines = [
        f"{results['machine']}; `python benchmarks/translate.py {command} --page` repeats it; one seed. sacrebleu: "
        f"`{rows['pretrained']['signatures'][0]}`, `{rows['pretrained']['signatures'][1]}`.",
        "",
        f"| {found['test']} short verses, es to en, after {found['steps']:,} steps on {found['pairs']:,} pairs | BLEU | chrF | "
        "ROUGE-L | nats per token |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        nats = f"{row['nats']:.2f}" if "nats" in row else "-"
        about = f", {row['pretraining seconds']:.0f} s of CPU" if name == "pretrained" else ""
        lines.append(f"| {name}{about} | {row['bleu']:.1f} | {row['chrf']:.1f} | {row['rouge_l']:.1f} | {nats} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=4000)
    parser.add_argument("--test", type=int, default=50)
    parser.add_argument("--page", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)  # steps are small: on busy cores two threads wait for each other
    found = measure(given.epochs, given.steps, given.pairs, given.test)
    results = {"found": found, "machine": machine()["cpu"]}
    write_atomically(RESULTS, json.dumps(results, indent=1, ensure_ascii=False))
    if given.page:
        replace("translate", page(results), PAGE)


if __name__ == "__main__":
    main()
