"""Classes of glosses from few labels: networks fine-tuned from word vectors, from BERT and from scratch.

python benchmarks/finetune.py vectors pretrain tune --page [--epochs 1] [--labels 10 50] [--seeds 3]

writes benchmarks/results/finetune.json and the table of docs/language.md. "vectors" trains skip-gram vectors, "pretrain"
BERT twice, from random embeddings and from the vectors; the runs are kept in runs/finetune. All see the embedded texts
without the glosses that are tested on.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from readme import replace

from fastssl.bench.harness import machine
from fastssl.bench.run import write_atomically
from fastssl.data import TokenFile, open_splits, tokenize_corpus, train_tokenizer
from fastssl.data import open as open_source
from fastssl.evaluate import few_text_labels
from fastssl.methods import TextMethod, Word2Vec
from fastssl.models import LanguageModel
from fastssl.train import Pretraining, load_method, pretrain, recipe
from fastssl.train.language import build_text_method, start_embeddings

ROOT = Path(__file__).parent
RESULTS, PAGE, RUNS = ROOT / "results" / "finetune.json", ROOT.parent / "docs" / "language.md", Path("runs/finetune")
CORPUS = "sotu,verses-en,glosses-train"
SHAPE = {"name": "bert", "width": 128, "depth": 2, "heads": 4, "length": 48}
VECTORS_EPOCHS = 6
ROWS = ("from scratch", "from word vectors", "BERT", "BERT from word vectors")


def tokens() -> TokenFile:
    path = RUNS / "corpus.tok"
    if path.exists():
        return TokenFile(path)
    corpus: Any = open_source(CORPUS)
    sentences = (sentence for document in corpus.documents() for sentence in document)
    return tokenize_corpus(corpus, train_tokenizer(sentences, "wordpiece", 8000), path)


def vectors() -> dict[str, float]:
    began = time.process_time()
    Word2Vec(SHAPE["width"], epochs=VECTORS_EPOCHS).fit(CORPUS, out=RUNS / "words", overwrite=True)  # type: ignore[arg-type]
    return {"word vectors": time.process_time() - began}


def bert(init: str | None, epochs: int) -> dict[str, float]:
    file, settings = tokens(), recipe("bert", 0, "small")
    method, network = build_text_method("bert", SHAPE, file.tokenizer, {"order": None}, 0)
    if init is not None:
        start_embeddings(method.network, file.tokenizer, init)
    name = "BERT" if init is None else "BERT from word vectors"
    began = time.process_time()
    options = Pretraining(**{**settings.options, "epochs": epochs})
    pretrain(
        method, file, options, out=RUNS / name, encoder_options=network, method_options={"order": None}, overwrite=True
    )
    return {name: time.process_time() - began}


def tune(labels: list[int], seeds: int, rows: list[str]) -> dict[str, Any]:
    """The table of some rows; runs that are not there are left out."""
    tokenizer, init = tokens().tokenizer, f"word2vec:{RUNS / 'words'}"

    def scratch(seed: int) -> LanguageModel:
        return build_text_method("bert", SHAPE, tokenizer, {"order": None}, seed)[0].network

    def from_vectors(seed: int) -> LanguageModel:
        network = scratch(seed)
        start_embeddings(network, tokenizer, init)
        return network

    starts: dict[str, Any] = {"from scratch": scratch, "from word vectors": from_vectors}
    for name in ROWS[2:]:
        if (RUNS / name).exists():
            method = load_method(RUNS / name)
            assert isinstance(method, TextMethod)
            starts[name] = lambda seed, network=method.network: network
    chosen = {name: start for name, start in starts.items() if name in rows}
    return dict(few_text_labels(chosen, tokenizer, open_splits("glosses"), labels, seeds=seeds, note=_note))


def _note(text: str) -> None:
    print(text, flush=True)


def page(results: dict[str, Any]) -> str:
    table, seconds = results["table"], results["seconds"]
    measures = [name for name in table if not name.endswith("_se")]
    rows = [row for row in (*ROWS, "TF-IDF", "constant") if row in table[measures[0]]]
    lines = [
        f"{results['machine']}; {results['seeds']} draws of the labels, mean ± standard error. `python benchmarks/finetune.py "
        f"vectors pretrain tune --page --epochs {results['epochs']}` repeats it.",
        "",
        "| | pretraining, seconds of CPU | " + " | ".join(name.removeprefix("glosses, ") for name in measures) + " |",
        "|---|---|" + "---|" * len(measures),
    ]
    words = seconds["word vectors"]
    spent = {**seconds, "from word vectors": words}
    spent["BERT from word vectors"] = words + seconds["BERT from word vectors"]
    for row in rows:
        cells = []
        for name in measures:
            best = max(table[name].values()) == table[name][row]
            value = f"**{table[name][row]:.1f}**" if best else f"{table[name][row]:.1f}"
            cells.append(value + (f" ± {table[name + '_se'][row]:.1f}" if name + "_se" in table else ""))
        lines.append(f"| {row} | {round(spent[row]) if row in spent else '-'} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=["vectors", "pretrain", "tune", []])
    parser.add_argument("--epochs", type=int, default=1, help="of BERT")
    parser.add_argument("--labels", type=int, nargs="+", default=[10, 50])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", nargs="+", default=[*ROWS], help="of the table; others keep their figures")
    parser.add_argument("--page", action="store_true", help="write the table of docs/language.md")
    arguments = parser.parse_args()
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"seconds": {}}
    if "vectors" in arguments.parts:
        results["seconds"] |= vectors()
    if "pretrain" in arguments.parts:
        for init in (None, f"word2vec:{RUNS / 'words'}"):
            results["seconds"] |= bert(init, arguments.epochs)
        results["epochs"] = arguments.epochs
    if "tune" in arguments.parts:
        for measure, row in tune(arguments.labels, arguments.seeds, arguments.rows).items():
            results.setdefault("table", {}).setdefault(measure, {}).update(row)
        results |= {"seeds": arguments.seeds, "machine": machine()["cpu"]}
    if arguments.parts:
        write_atomically(RESULTS, json.dumps(results, indent=1))
    if arguments.page:
        replace("finetune", page(results), PAGE)


if __name__ == "__main__":
    main()
