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

from pages import replace

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
SHAPE = {"width": 128, "depth": 2, "heads": 4, "length": 48}
VECTORS_EPOCHS = 9
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


def bert(network_name: str, init: str | None, epochs: int) -> dict[str, float]:
    file, settings = tokens(), recipe("bert", 0, "small")
    method, network = build_text_method("bert", {**SHAPE, "name": network_name}, file.tokenizer, {"order": None}, 0)
    if init is not None:
        start_embeddings(method.network, file.tokenizer, init)
    name = "BERT" if init is None else "BERT from word vectors"
    began = time.process_time()
    options = Pretraining(**{**settings.options, "epochs": epochs})
    pretrain(
        method,
        file,
        options,
        out=RUNS / network_name / name,
        encoder_options=network,
        method_options={"order": None},
        overwrite=True,
    )
    return {name: time.process_time() - began}


def tune(network_name: str, labels: list[int], seeds: int, rows: list[str]) -> dict[str, Any]:
    """The table of some rows; runs that are not there are left out."""
    tokenizer, init = tokens().tokenizer, f"word2vec:{RUNS / 'words'}"

    def scratch(seed: int) -> LanguageModel:
        return build_text_method("bert", {**SHAPE, "name": network_name}, tokenizer, {"order": None}, seed)[0].network

    def from_vectors(seed: int) -> LanguageModel:
        network = scratch(seed)
        start_embeddings(network, tokenizer, init)
        return network

    starts: dict[str, Any] = {"from scratch": scratch, "from word vectors": from_vectors}
    for name in ROWS[2:]:
        if (RUNS / network_name / name).exists():
            method = load_method(RUNS / network_name / name)
            assert isinstance(method, TextMethod)
            starts[name] = lambda seed, network=method.network: network
    chosen = {name: start for name, start in starts.items() if name in rows}
    return dict(few_text_labels(chosen, tokenizer, open_splits("glosses"), labels, seeds=seeds, note=_note))


def _note(text: str) -> None:
    print(text, flush=True)


def page(results: dict[str, Any]) -> str:
    first = next(iter(results["networks"].values()))["table"]
    measures = [name for name in first if not name.endswith("_se")]
    labels, (network, *others) = " ".join(map(str, results["labels"])), results["networks"]
    again = "".join(f", with `--network {other}` the others" for other in others)
    lines = [
        f"{results['machine']}; {results['seeds']} draws of the labels, mean ± standard error; `python benchmarks/finetune.py "
        f'vectors tune --network {network} --labels {labels} --rows "from scratch" "from word vectors" --page` repeats it'
        f"{again} (more labels and rows: its help).",
        "",
        "| network | start | pretraining, seconds of CPU | "
        + " | ".join(name.removeprefix("glosses, ") for name in measures)
        + " |",
        "|---|---|---|" + "---|" * len(measures),
    ]
    words = results["seconds"]["word vectors"]
    for network, part in results["networks"].items():
        table, seconds = part["table"], part.get("seconds", {})
        spent = {**seconds, "from word vectors": words}
        if "BERT from word vectors" in seconds:
            spent["BERT from word vectors"] = words + seconds["BERT from word vectors"]
        for row in (row for row in ROWS if row in table[measures[0]]):
            cells = [_cell(table, name, row) for name in measures]
            lines.append(
                f"| `{network}` | {row} | {round(spent[row]) if row in spent else '-'} | " + " | ".join(cells) + " |"
            )
    for row in (row for row in ("TF-IDF", "constant") if row in first[measures[0]]):
        lines.append(f"| - | {row} | - | " + " | ".join(_cell(first, name, row) for name in measures) + " |")
    return "\n".join(lines) + "\n"


def _cell(table: dict[str, Any], name: str, row: str) -> str:
    return f"{table[name][row]:.1f} ± {table[name + '_se'][row]:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=["vectors", "pretrain", "tune", []])
    parser.add_argument("--network", default="transformer", choices=["transformer", "bert"])
    parser.add_argument("--epochs", type=int, default=1, help="of BERT")
    parser.add_argument("--labels", type=int, nargs="+", default=[10, 50])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", nargs="+", default=[*ROWS], help="of the table; others keep their figures")
    parser.add_argument("--page", action="store_true", help="write the table of docs/language.md")
    arguments = parser.parse_args()
    network = arguments.network
    if "vectors" in arguments.parts:
        _keep(lambda results: results["seconds"].update(vectors()))
    if "pretrain" in arguments.parts:
        for init in (None, f"word2vec:{RUNS / 'words'}"):
            seconds = bert(network, init, arguments.epochs)
            _keep(lambda results, made=seconds: _of(results, network).setdefault("seconds", {}).update(made))
    if "tune" in arguments.parts:
        table = tune(network, arguments.labels, arguments.seeds, arguments.rows)

        def put(results: dict[str, Any]) -> None:
            for measure, row in table.items():
                _of(results, network).setdefault("table", {}).setdefault(measure, {}).update(row)
            labels = sorted({*results.get("labels", ()), *arguments.labels})
            results.update({"seeds": arguments.seeds, "labels": labels, "machine": machine()["cpu"]})

        _keep(put)
    if arguments.page:
        replace("finetune", page(json.loads(RESULTS.read_text())), PAGE)


def _of(results: dict[str, Any], network: str) -> dict[str, Any]:
    found: dict[str, Any] = results["networks"].setdefault(network, {})
    return found


def _keep(change: Any) -> None:
    """Changes the stored results, which runs on other networks may have changed meanwhile."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"seconds": {}, "networks": {}}
    change(results)
    write_atomically(RESULTS, json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
