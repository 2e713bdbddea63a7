"""Pairs of texts and tagged words in files: what users have, what is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastssl.data
from fastssl.data import Corpus, CorpusError, ParallelCorpus, open_splits, open_tagged, text_pairs
from fastssl.data.opening import gone

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


MEMORY = """<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE tmx SYSTEM "tmx14.dtd">
<tmx version="1.4"{namespace}><header srclang="{srclang}" segtype="sentence"/><body>
<tu><tuv xml:lang="de-AT">
<seg>Gr\u00fcn <bpt i="1">&lt;b&gt;</bpt>ist<ept i="1">&lt;/b&gt;</ept> <hi>sie</hi>.</seg></tuv>
<tuv xml:lang="EN"><prop type="x">y</prop><seg>It is &amp; was.</seg></tuv></tu>
<tu><tuv xml:lang="en"><seg>Alone.</seg></tuv></tu>
<tu><tuv lang="EN"><seg>Hi.</seg></tuv><tuv lang="EN"><seg>Hello.</seg></tuv>
<tuv lang="de-AT"><seg>Tag.</seg></tuv></tu>
</body></tmx>"""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1"])
@pytest.mark.parametrize("srclang", ["de", "*all*"])
def test_translation_memories_are_pairs(encoding: str, srclang: str, tmp_path: Path) -> None:
    namespace = ' xmlns="http://www.lisa.org/tmx14"' * (encoding == "utf-16")
    data = MEMORY.format(encoding=encoding, srclang=srclang, namespace=namespace).encode(encoding)
    (tmp_path / "train.tmx").write_bytes(data)
    (tmp_path / "x.tmx.gz").write_bytes(gzip.compress(data))
    german, english = ["Gr\u00fcn ist sie.", "Tag.", "Tag."], ["It is & was.", "Hi.", "Hello."]
    for name in ("train.tmx", "x.tmx.gz", "x.tmx.gz#source=de:target=en", "x.tmx.gz#target=en", "#source=de-AT"):
        made: Any = fastssl.data.open(f"pairs:{tmp_path}/{name}")
        assert [made.pair(k) for k in range(len(made))] == list(zip(german, english, strict=True)), name
        assert len(made.skipped) == 1 and 1 in made.skipped.values() and "units without de" in str(made.skipped)
    for name in ("#source=en", "#target=de", "#source=EN:target=de_AT"):
        made = fastssl.data.open(f"pairs:{tmp_path}/{name}")
        assert [made.pair(k) for k in range(len(made))] == list(zip(english, german, strict=True)), name


def test_memories_that_do_not_fit_are_named(tmp_path: Path) -> None:
    whole = MEMORY.format(encoding="utf-8", srclang="fr", namespace="")
    french = '<tu><tuv xml:lang="fr"><seg>Oui.</seg></tuv></tu></body>'
    for text, options, match in (
        (whole, "#source=es", r"source: expected a language of .*x\.tmx \(de-at, en\), got 'es'"),
        (
            whole.replace("</body>", french),
            "#source=de",
            r"target: expected the name of a language .* en, fr to choose",
        ),
        (whole, "#encoding=latin-1", r"encoding, errors: expected none, .*x\.tmx' is XML"),
        (whole[:300], "", r"x\.tmx: no XML \("),
        ("<html/>", "", r"x\.tmx: expected a translation memory \(tmx\), got XML of 'html'"),
        ("<tmx><body/></tmx>", "", r"x\.tmx: expected units of translations \(tu, tuv, seg\), found none"),
    ):
        (tmp_path / "x.tmx").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=match):
            fastssl.data.open(f"pairs:{tmp_path}/x.tmx{options}")
    with pytest.raises(ValueError, match="translation memories as pairs:x.tmx"):
        fastssl.data.open(tmp_path / "x.tmx")


def test_columns_have_names(tmp_path: Path) -> None:
    file = tmp_path / "news.jsonl"
    file.write_text('{"article": "long", "summary": "short"}\n')
    assert text_pairs(file, source="article", target="summary").pair(0) == ("long", "short")
    with pytest.raises(
        ValueError, match=r"line 1: expected texts under the keys source, target, got \{'article': 'str'"
    ):
        text_pairs(file)


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl", "parallel"])
def test_pairs_with_an_empty_text_are_left_out(kind: str, tmp_path: Path) -> None:
    pairs = [("uno", "one"), ("dos", " "), ("", "three"), ("", ""), ("cuatro", "four")]
    if kind == "parallel":
        for k, side in enumerate(("es", "en")):
            (tmp_path / f"x.{side}").write_text("".join(f"{pair[k]}\n" for pair in pairs))
    elif kind == "jsonl":
        lines = (json.dumps({"source": s, "target": t}) for s, t in pairs if s or t)
        (tmp_path / "x.jsonl").write_text("\n".join(lines))
    else:
        mark = {"tsv": "\t", "csv": ","}[kind]
        (tmp_path / f"x.{kind}").write_text("".join(f"{s}{mark}{t}\n" for s, t in pairs))
    made = fastssl.data.open(f"pairs:{tmp_path}/x." + ("{es,en}" if kind == "parallel" else kind))
    assert [made.pair(k) for k in range(len(made))] == [pairs[0], pairs[4]]  # type: ignore[attr-defined]
    assert made.skipped == {"with an empty text": 2}
    (tmp_path / "none.csv").write_text(",a\n")
    with pytest.raises(ValueError, match="expected pairs of texts in .*, there are none but 1 with an empty text"):
        text_pairs(tmp_path / "none.csv")


def test_the_source_of_parallel_files_stands_first_in_braces(tmp_path: Path) -> None:
    for side, text in (("de", "eins"), ("en", "one")):
        (tmp_path / f"x.{side}").write_text(f"{text}\n")
    for name, pair in (("x.{de,en}", ("eins", "one")), ("x.{en,de}", ("one", "eins")), ("*.{en,de}", ("one", "eins"))):
        assert text_pairs(tmp_path / name).pair(0) == pair
    for name in ("x.*", "x.{d,e}*e", "x.{de,en,fr}", "y*.{de,en}"):
        with pytest.raises(ValueError, match=r"the source first in braces \(pairs:x.{de,en}\), got .*, which matches "):
            text_pairs(tmp_path / name)
    for name in ("x.{de,en}", "x.*"):
        with pytest.raises(ValueError, match=r"expected an image, got .*x.de', .*parallel lines as 'pairs:x.{de,en}'"):
            fastssl.data.open(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no file .*y.de'"):
        fastssl.data.open(tmp_path / "y.{de,en}")


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
        ("a.xml", "<a/>", r"expected a file with .tsv, .csv, .jsonl, .tmx \(also compressed\), got"),
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


def parallel(folder: Path, stem: str, endings: tuple[str, str], zipped: bool = False) -> None:
    """Parallel lines as OPUS has them: an empty pair, other characters that end lines elsewhere, CRLF."""
    for k, ending in enumerate(endings):
        lines = "\r\n".join([*(f"{pair[k]}\u2028 and\x85 more" for pair in PAIRS), "", "last"]) + "\n"
        path = folder / f"{stem}.{ending}"
        if zipped:
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(lines.encode()))
        else:
            path.write_bytes(b"\xef\xbb\xbf" + lines.encode())


@pytest.mark.parametrize("zipped", (False, True))
def test_files_of_parallel_lines(zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [*((f"{s}\u2028 and\x85 more", f"{t}\u2028 and\x85 more") for s, t in PAIRS), ("last", "last")]
    parallel(tmp_path, "Books.en-es", ("en", "es"), zipped)
    end = ".gz" if zipped else ""
    monkeypatch.chdir(tmp_path)
    for place in (f"Books.en-es.{{en,es}}{end}", f"Books.e?-es.{{en,es}}{end}"):
        made = fastssl.data.open(f"pairs:{place}")
        assert isinstance(made, ParallelCorpus) and [made.pair(k) for k in range(len(made))] == expected
        assert made.where == f"pairs:{tmp_path / place}" and gone(made.where) is None
    turned = text_pairs(f"Books.en-es.{{es,en}}{end}")
    assert turned.pair(0) == expected[0][::-1]
    assert [len(part) for part in (open_splits(made.where).train, open_splits(made.where).test)] == [3, 1]
    (tmp_path / f"Books.en-es.en{end}").unlink()
    assert gone(f"pairs:{tmp_path}/none.{{en,es}}") == f"{tmp_path}/none.{{en,es}}"
    with pytest.raises(FileNotFoundError, match="Books.en-es.en"):
        text_pairs(f"Books.en-es.{{en,es}}{end}")


def test_folders_of_parallel_lines_have_parts(tmp_path: Path) -> None:
    parallel(tmp_path, "train.tok", ("source", "target"), zipped=True)
    (tmp_path / "README").write_text("no pairs")
    with pytest.raises(FileNotFoundError, match="expected test.source in"):
        open_splits(f"pairs:{tmp_path}")
    parallel(tmp_path, "test", ("source", "target"))
    task = open_splits(f"pairs:{tmp_path}")
    assert len(task.train) == len(task.test) == 4 and task.divided
    for stem in ("train", "dev"):
        parallel(tmp_path, stem, ("de", "DE-AT"))
    named = open_splits(f"pairs:{tmp_path}#source=DE-AT:target=de")
    assert named.train.pair(1) == task.train.pair(1)[::-1]  # type: ignore[attr-defined]


def test_parallel_lines_that_do_not_match_are_named(tmp_path: Path) -> None:
    for name, text in (("a.de", "eins\nzwei\n"), ("a.en", "one\n"), ("a.fr", "un\ndeux\n")):
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match="as many lines in both files, got 2 in '.*a.de' and 1 in '.*a.en'"):
        text_pairs(tmp_path / "a.{de,en}")
    with pytest.raises(ValueError, match=r"got '.*a.de'; two files of parallel lines are 'pairs:x.\{de,en\}'"):
        text_pairs(tmp_path / "a.de")
    (tmp_path / "b.tsv.gz").write_bytes(b"no gzip")
    with pytest.raises(ValueError, match=r"b.tsv.gz: cannot be decompressed"):
        text_pairs(tmp_path / "b.tsv.gz")
    (tmp_path / "b.tsv.gz").write_bytes(gzip.compress(b"uno\tone\n"))
    assert text_pairs(tmp_path / "b.tsv.gz").pair(0) == ("uno", "one")


def test_errors_count_the_lines_of_the_file(tmp_path: Path) -> None:
    """Whatever lines are empty, left out, or within quotation marks."""
    path = tmp_path / "a.jsonl"
    rows = [{"source": "", "target": "b"}, {"source": "a", "target": "b"}, {"source": "c", "target": None}]
    path.write_text("\n" + "\n\n".join(map(json.dumps, rows)))
    pairs = fastssl.data.open(f"pairs:{path}")
    with pytest.raises(CorpusError, match=r"a.jsonl: line 6: expected a string as target, got None"):
        pairs.pair(1)  # type: ignore[attr-defined]
    path = tmp_path / "a.csv"
    path.write_text('source,target\n"one\ntwo",b\n\nthree\n')
    with pytest.raises(ValueError, match="a.csv: line 5: expected two columns of text, got 1"):
        text_pairs(path)
