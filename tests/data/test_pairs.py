"""Pairs of texts and tagged words in files: what users have, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import fastssl.data
from fastssl.data import Corpus, ParallelCorpus, open_splits, open_tagged, text_pairs

PAIRS = [('say "yes"', "di «sí»"), ("a, b", "a y b"), ("tab", "tabla")]


@pytest.mark.parametrize("kind", ["tsv", "tsv with a heading", "csv", "csv with a heading", "jsonl"])
def test_pairs_are_read(kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"pairs.{kind.split()[0]}"
    heading = "heading" in kind
    if kind == "jsonl":
        rows = [json.dumps({"target": t, "more": 1, "source": s}, ensure_ascii=False) for s, t in PAIRS]
    elif kind.startswith("csv"):

        def quoted(text: str) -> str:
            return '"' + text.replace('"', '""') + '"'

        rows = ["id,target,source"] if heading else []
        rows += [",".join(["7"] * heading + [quoted(x) for x in ((t, s) if heading else (s, t))]) for s, t in PAIRS]
    else:
        rows = ["target\tid\tsource"] if heading else []
        rows += [f"{t}\t7\t{s}" if heading else f"{s}\t{t}" for s, t in PAIRS]
    file.write_text("\ufeff" + "\r\n".join(rows) + "\n\n", encoding="utf-8")
    made = text_pairs(file)
    assert isinstance(made, ParallelCorpus) and [made.pair(k) for k in range(len(made))] == PAIRS
    assert made.name == "pairs"
    opened = fastssl.data.open(f"pairs:{file}")
    assert opened.fingerprint == made.fingerprint and opened.where == f"pairs:{file}"


def test_columns_have_names(tmp_path: Path) -> None:
    file = tmp_path / "news.jsonl"
    file.write_text('{"article": "long", "summary": "short"}\n')
    assert text_pairs(file, source="article", target="summary").pair(0) == ("long", "short")
    with pytest.raises(
        ValueError, match=r"line 1: expected texts under the keys source, target, got \{'article': 'str'"
    ):
        text_pairs(file)


def test_folders_have_parts(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("a\tb\n" * 3)
    with pytest.raises(FileNotFoundError, match=r"data: expected test.tsv or .* in"):
        open_splits(f"pairs:{tmp_path}")
    (tmp_path / "dev.tsv").write_text("c\td\n")
    task = open_splits(f"pairs:{tmp_path}")
    assert len(task.train) == 3 and task.test.pair(0) == ("c", "d") and task.divided  # type: ignore[attr-defined]
    assert len(open_splits(f"pairs:{tmp_path / 'train.tsv'}").train) == 2


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("a.tsv", "a\tb\nc\n", "line 2: expected two columns of text, or a heading with source and target, got 1"),
        ("a.tsv", "a\tb\tc\n", "line 1: expected two columns"),
        ("a.tsv", "source\ttarget\nc\n", "line 2: expected two columns of text, got 1"),
        ("a.tsv", "\n\n", "expected pairs of texts in .*, there are none"),
        ("a.jsonl", "{", "line 1: no JSON"),
        ("a.jsonl", "[1]", "line 1: expected texts under the keys source, target, got list"),
        ("a.xml", "<a/>", r"expected a file with .tsv, .csv, .jsonl, got"),
    ],
)
def test_bad_files_are_named(name: str, text: str, match: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=match):
        text_pairs(tmp_path / name)


def test_tagged_words_have_parts(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("".join(f"w{k} B-N\nv O\n\n" for k in range(10)))
    splits = open_tagged(f"conll:{file}")
    assert splits.name == "names" and len(splits.train) == 8
    assert sorted([*splits.train, *splits.test]) == list(range(10))
    folder = tmp_path / "both"
    folder.mkdir()
    (folder / "train.txt").write_text("a X\n\nb Y\n")
    (folder / "test.txt").write_text("c Z\n")
    splits = open_tagged(f"conll:{folder}")
    assert (
        splits.data.words == [["a"], ["b"], ["c"]] and splits.train.tolist() == [0, 1] and splits.test.tolist() == [2]
    )
    assert splits.data.subset([2, 0]).classes == ["X", "Z"]
    text = tmp_path / "corpus.txt"
    text.write_text("\n\n".join(f"We met Mr Lee{k}. He left." for k in range(5)))
    splits = open_tagged(f"capitals:{text}")
    assert len(splits.train) == 8 and len(splits.test) == 2 and splits.data.spans
    documents = [{splits.data.words[k][-1] for k in some} for some in (splits.train, splits.test)]
    assert documents[0] & documents[1] == {"left"}  # no name is in both
    for name in ("names", "glue:x", "conll:"):
        with pytest.raises(ValueError, match="data: expected conll:FILE"):
            open_tagged(name)
    assert isinstance(fastssl.data.open(str(text)), Corpus) and np.all(splits.data.labels[:, 0] == -100)
