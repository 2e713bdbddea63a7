"""Columns of texts, pairs, labels and scores: in tables, JSON lines, folders with parts and Hugging Face data sets."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastssl.data
from fastssl.data import (
    Corpus,
    CorpusError,
    ParallelCorpus,
    glue,
    open_splits,
    read_conll,
    read_squad,
    text_corpus,
    text_pairs,
    text_table,
)
from fastssl.data.columns import PAIRS, split_options
from fastssl.data.readable import readable
from fastssl.data.storage import unpacked
from fastssl.data.summary import summary

REVIEWS = [("a joy", 2), ("a bore", 0), ("as they come", 1), ("a gem", 2)]
SCORED = [("one", "two", 4.5), ("three", "four", None), ("five", "six", -1.0)]


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows as a file of the kind that the path names."""
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        mark = {".tsv": "\t", ".csv": ","}[path.suffix]
        lines = [mark.join(rows[0])] + [
            mark.join("" if value is None else str(value) for value in row.values()) for row in rows
        ]
        path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("prefix", ("", "text:"))
@pytest.mark.parametrize("kind", (".csv", ".tsv", ".json", ".jsonl"))
def test_columns_are_named_alike_everywhere(tmp_path: Path, kind: str, prefix: str) -> None:
    path = written(tmp_path / f"reviews{kind}", [{"review": text, "stars": stars} for text, stars in REVIEWS])
    with pytest.raises(
        ValueError, match=rf"expected a column of texts .* got review, stars; .*reviews{kind}#text=NAME"
    ):
        fastssl.data.open(f"{prefix}{path}")
    found = fastssl.data.open(f"{prefix}{path}#text=review:label=stars")
    assert isinstance(found, Corpus) and found.labels is not None
    assert list(found.texts) == [text for text, _ in REVIEWS] and list(found.labels) == [2, 0, 1, 2]
    assert found.where == f"{prefix}{path}#text=review:label=stars"
    assert "text from column 'review', label from column 'stars'" in list(summary(found))
    unlabelled = fastssl.data.open(f"{prefix}{path}#text=review")
    assert unlabelled.labels is None
    with pytest.raises(
        ValueError, match=r"label: expected a column of .*\(review, stars\), got 'star'|key 'star', there are none"
    ):
        fastssl.data.open(f"{prefix}{path}#text=review:label=star")
    with pytest.raises(ValueError, match="expected options .* got .?colour"):
        fastssl.data.open(f"{prefix}{path}#colour=review")


@pytest.mark.parametrize("prefix", ("", "text:"))
@pytest.mark.parametrize("kind", (".csv", ".tsv", ".json", ".jsonl"))
def test_labels_and_scores_are_found_by_their_names(tmp_path: Path, kind: str, prefix: str) -> None:
    labelled = written(tmp_path / f"a{kind}", [{"text": text, "label": f"c{k}"} for text, k in REVIEWS])
    found = fastssl.data.open(f"{prefix}{labelled}")
    assert list(found.classes) == ["c0", "c1", "c2"] and list(found.labels) == [2, 0, 1, 2]  # type: ignore[arg-type]
    rows = [{"sentence1": a, "sentence2": b, "score": score} for a, b, score in SCORED]
    pairs = fastssl.data.open(f"{prefix}{written(tmp_path / f'b{kind}', rows)}")
    assert isinstance(pairs, ParallelCorpus) and [pairs.pair(k) for k in range(3)] == [row[:2] for row in SCORED]
    assert pairs.labels is not None and not pairs.classes
    np.testing.assert_array_equal(pairs.labels, [4.5, np.nan, -1.0])
    chosen = pairs.subset([2, 0])
    np.testing.assert_array_equal(chosen.labels, [-1.0, 4.5])  # type: ignore[arg-type]
    assert chosen.pair(0) == ("five", "six") and "scores of 2 items, from -1 to 4.5" in list(summary(pairs))


@pytest.mark.parametrize("first,second", PAIRS)
def test_pairs_are_found_by_their_names(tmp_path: Path, first: str, second: str) -> None:
    path = written(tmp_path / "pairs.tsv", [{"id": 7, first: "a", second: "b", "label": "yes"}])
    pairs = text_table(path)
    assert isinstance(pairs, ParallelCorpus) and pairs.pair(0) == ("a", "b") and pairs.classes == ["yes"]
    alone = text_table(path, text=second)
    assert not isinstance(alone, ParallelCorpus) and alone.text(0) == "b"
    turned = text_table(path, text=second, text_pair=first)
    assert isinstance(turned, ParallelCorpus) and turned.pair(0) == ("b", "a")


def test_targets_are_classes_where_they_are_no_second_texts(tmp_path: Path) -> None:
    assert text_table(written(tmp_path / "a.csv", [{"text": "a", "target": "yes"}])).classes == ["yes"]
    pairs = text_table(written(tmp_path / "b.csv", [{"source": "a", "target": "b"}]))
    assert isinstance(pairs, ParallelCorpus) and pairs.pair(0) == ("a", "b") and pairs.labels is None


def test_what_is_no_label_or_score_is_named(tmp_path: Path) -> None:
    for kind in (".csv", ".jsonl"):
        path = written(tmp_path / f"x{kind}", [{"text": "a", "label": 1.0}, {"text": "b", "label": 0.5}])
        with pytest.raises(ValueError, match=r"expected classes in column 'label', got '?0\.5'?; .*#score=label"):
            fastssl.data.open(path)
        assert list(fastssl.data.open(f"{path}#score=label").labels) == [1.0, 0.5]  # type: ignore[arg-type]
        path = written(tmp_path / f"y{kind}", [{"text": "a", "score": "high"}])
        with pytest.raises(ValueError, match="expected a finite number as score, got 'high'"):
            fastssl.data.open(path)
        with pytest.raises(ValueError, match="expected a column of labels or of scores"):
            fastssl.data.open(f"{path}#label=text:score=score")
    version = written(tmp_path / "v.csv", [{"text": "a", "label": "1.5"}, {"text": "b", "label": "beta"}])
    assert text_table(version).classes == ["1.5", "beta"]  # names, of which one looks like a number
    (tmp_path / "z.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(ValueError, match="expected labels or scores under the key 'stars', there are none"):
        text_corpus(tmp_path / "z.jsonl", label="stars")
    (tmp_path / "z.jsonl").write_text("[1]\n")
    with pytest.raises(CorpusError, match="expected a JSON object per line, got list"):
        text_corpus(tmp_path / "z.jsonl")
    with pytest.raises(ValueError, match=r"text: expected a key of \.jsonl files"):
        (tmp_path / "z.txt").write_text("a\n")
        fastssl.data.open(f"{tmp_path / 'z.txt'}#text=b")


def test_options_of_names(tmp_path: Path) -> None:
    assert split_options("a.csv#text=b:label=c d") == ("a.csv", {"text": "b", "label": "c d"})
    assert split_options("track #1.wav") == ("track #1.wav", {})
    odd = tmp_path / "a#text=b"
    odd.write_text("A text.\n")
    assert fastssl.data.open(f"text:{odd}").text(0) == "A text."  # type: ignore[attr-defined]
    for wrong in ("a.csv#text=", "a.csv#text=b:label", "a.csv#=b"):
        with pytest.raises(ValueError, match="expected options as a.csv#text=COLUMN:label=COLUMN"):
            split_options(wrong)
    with pytest.raises(ValueError, match="expected one text, got two"):
        split_options("a.csv#text=b:text=c")
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        fastssl.data.open(f"{tmp_path}/none.csv#text=a")
    with pytest.raises(ValueError, match="expected options label, range of a folder of images"):
        fastssl.data.open(f"{tmp_path}#text=a")
    one, two = (written(tmp_path / name, [{"body": name, "n": 1}]) for name in ("one.csv", "two.csv"))
    both = fastssl.data.open(f"{one}#text=body,{two}#text=body")
    assert [both.text(k) for k in range(2)] == ["one.csv", "two.csv"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("encoding", ("latin-1", "cp1252", "shift_jis", "utf-8"))
def test_encodings(tmp_path: Path, encoding: str) -> None:
    text = "日本、表示" if encoding == "shift_jis" else "schön \u00fc"
    (tmp_path / "a.txt").write_bytes(f"{text}\nzwei\n".encode(encoding))
    (tmp_path / "a.csv").write_bytes(f"text,label\n{text},ä\n".encode("utf-8" if encoding == "shift_jis" else encoding))
    (tmp_path / "a.tsv").write_bytes(f"{text}\tb\n".encode(encoding))
    (tmp_path / "a.jsonl").write_bytes(json.dumps({"text": text}, ensure_ascii=False).encode(encoding))
    for name in ("a.txt", "text:a.txt", "text:a.jsonl", "a.jsonl", "pairs:a.tsv"):
        kind, mark, path = name.rpartition(":")
        found = fastssl.data.open(f"{kind}{mark}{tmp_path / path}#encoding={encoding}")
        assert found.text(0) == text, name  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="encoding: expected a name"):
        text_table(tmp_path / "a.csv", encoding="latin-99")


@pytest.mark.parametrize("suffix", (".html", ".txt", ".png", "", ".JPG", ".npy"))
def test_names_of_files_beside_texts(tmp_path: Path, suffix: str) -> None:
    """Texts with the files that they come from are texts; images with captions are images."""
    (tmp_path / f"a{suffix}").touch()
    path = written(tmp_path / "a.csv", [{"filename": f"a{suffix}", "text": "a text", "review": "good"}])
    for options, text in (("", "a text"), ("#text=review", "good")):
        found = fastssl.data.open(f"{path}{options}")
        assert isinstance(found, Corpus) == (suffix in (".html", ".txt"))
        if isinstance(found, Corpus):
            assert found.text(0) == text


def test_files_of_text_are_no_images(tmp_path: Path) -> None:
    path = tmp_path / "notes.md"
    path.write_text("ä" * 600)  # of which 1,024 bytes are read, the last of them half a character
    with pytest.raises(ValueError, match=r"a file of text; texts are opened as text:.*notes\.md"):
        fastssl.data.open(path)
    assert len(fastssl.data.open(f"text:{path}")) == 1
    for name, content, tool in (
        ("corpus", gzip.compress(b"Some text."), "gunzip"),
        ("corpus.txt.zip", b"PK\3\4\x14\0\0\0\x08\0", "unzip"),
        ("corpus.tar.gz", gzip.compress(b"Some text."), "gunzip"),
    ):
        packed = tmp_path / "packed" / name
        packed.parent.mkdir(exist_ok=True)
        packed.write_bytes(content)
        with pytest.raises(ValueError, match=rf"not compressed, '.*{name}' is; unpack it \({tool}\)"):
            fastssl.data.open(packed)
    with pytest.raises(ValueError, match=r"files with \.gz, \.zip are to be unpacked; files with no suffix"):
        fastssl.data.open(f"text:{packed.parent}")


def zstandard(content: bytes) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    packed: bytes = pyarrow.compress(content, codec="zstd", asbytes=True)
    return packed


PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstandard}


@pytest.mark.parametrize("packed", PACKERS)
def test_compressed_texts_and_tables_are_those_that_they_hold(tmp_path: Path, packed: str) -> None:
    def pack(path: Path) -> Path:
        content = path.read_bytes()
        half = len(content) // 2
        path.with_name(path.name + packed).write_bytes(
            PACKERS[packed](content[:half]) + PACKERS[packed](content[half:])
        )
        path.unlink()
        return path.with_name(path.name + packed)

    (tmp_path / "a.txt").write_text("Größe.\n\nTwo.\nSentences.\n")
    rows = [
        {"text": text, "label": stars, "split": split} for (text, stars), split in zip(REVIEWS, ["train", "test"] * 2)
    ]
    places = [tmp_path / "a.txt"] + [
        written(tmp_path / f"a{kind}", rows) for kind in (".csv", ".tsv", ".json", ".jsonl")
    ]
    for place in places:
        for prefix in ("", "text:"):
            plain = fastssl.data.open(f"{prefix}{place}")
            again = pack(place)
            found = fastssl.data.open(f"{prefix}{again}")
            assert isinstance(plain, Corpus) and isinstance(found, Corpus) and found.name == plain.name == "a"
            assert pickle.loads(pickle.dumps(found)).text(1) == found.text(1)
            place.write_bytes(
                gzip.decompress(again.read_bytes()) if packed == ".gz" else b"".join(unpacked(str(again)))
            )
            assert list(found.texts) == list(plain.texts) and str(found.labels) == str(plain.labels)
            assert found.skipped == plain.skipped
            again.unlink()
    pack(tmp_path / "a.csv")
    named = fastssl.data.open(f"{tmp_path}/a.csv{packed}#text=label:split=train")
    assert list(named.texts) == ["2", "1"]  # type: ignore[attr-defined]
    folder = tmp_path / "folder"
    folder.mkdir()
    for part in ("train", "test"):
        pack(written(folder / f"{part}.csv", rows))
    assert len(open_splits(f"text:{folder}").test) == 4
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text("One.")
    (texts / "b.txt").write_text("Two.")
    pack(texts / "b.txt")
    assert list(fastssl.data.open(texts).texts) == ["One.", "Two."]  # type: ignore[attr-defined]
    (texts / "b.txt").write_text("Two.")
    with pytest.raises(ValueError, match="expected each file of .*texts' once, got b.txt also compressed"):
        fastssl.data.open(texts)
    for name in ("cut.txt", "cut.csv"):
        (tmp_path / (name + packed)).write_bytes(PACKERS[packed](b"text\nOne.")[:-6])
        with pytest.raises(ValueError, match=rf"{name}{packed}: cannot be decompressed"):
            fastssl.data.open(tmp_path / (name + packed))


def test_packages_that_unpack_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt.zst").write_bytes(zstandard(b"One."))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"a\.txt\.zst needs the extra: pip install fastssl\[datasets\]"):
        fastssl.data.open(tmp_path / "a.txt.zst")


@pytest.mark.parametrize("kind", [".txt", ".jsonl"])
def test_folders_of_texts_alone_need_no_prefix(tmp_path: Path, kind: str) -> None:
    for part, classes in (("train", "ab"), ("test", "b")):
        for name in classes:
            path = tmp_path / "both" / part / name / f"0{kind}"
            path.parent.mkdir(parents=True)
            path.write_text(f"of {name}\n" if kind == ".txt" else json.dumps({"text": f"of {name}"}) + "\n")
    for part in ("train", "test"):
        given, wanted = (
            fastssl.data.open(f"{prefix}{tmp_path / 'both'}", part=part)  # type: ignore[arg-type]
            for prefix in ("", "text:")
        )
        assert isinstance(given, Corpus) and isinstance(wanted, Corpus) and given.fingerprint == wanted.fingerprint
        assert given.classes == wanted.classes == ["a", "b"] and np.array_equal(given.labels, wanted.labels)
        assert given.name == wanted.name == "both"
    assert len(open_splits(tmp_path / "both").test) == 1
    alone = tmp_path / "both" / "train"
    assert isinstance(fastssl.data.open(f"{alone}#encoding=latin-1"), Corpus)
    (alone / "b" / ".hidden.psd").write_bytes(b"x")
    assert isinstance(fastssl.data.open(alone), Corpus)
    (alone / "b" / "x.psd").write_bytes(b"x")  # what is left out is not for us to choose
    with pytest.raises(ValueError, match="expected images .* found none .*; a folder of texts is text:"):
        fastssl.data.open(alone)


def test_files_of_utf_16(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("text,label\nschön,gut\n".encode("utf-16"))
    with pytest.raises(ValueError, match=r"#encoding=utf-16"):
        fastssl.data.open(tmp_path / "a.csv")
    assert fastssl.data.open(f"{tmp_path / 'a.csv'}#encoding=utf-16").text(0) == "schön"  # type: ignore[attr-defined]
    (tmp_path / "a.txt").write_bytes("schön\n".encode("utf-16"))
    for separator in ("line", "blank-line", None):
        with pytest.raises(CorpusError, match=r"a.txt: expected lines of UTF-8 .* got UTF-16; convert it \(iconv"):
            text_corpus(tmp_path / "a.txt", separator=separator)
    with pytest.raises(CorpusError, match=r"a.txt: byte 0 \(0xff\) is no UTF-8; convert the file \(iconv -f utf-16"):
        text_corpus(tmp_path / "a.txt", separator="file").text(0)
    with pytest.raises(ValueError, match="encoding: expected one with the bytes of ASCII"):
        text_corpus(tmp_path / "a.txt", encoding="utf-16")
    (tmp_path / "b.txt").write_bytes(b"sch\xf6n\n")
    assert fastssl.data.open(f"{tmp_path / 'b.txt'}#errors=replace").text(0) == "sch\ufffdn"  # type: ignore[attr-defined]


def test_files_without_options_of_other_encodings_are_named(tmp_path: Path) -> None:
    (tmp_path / "RTE").mkdir()
    path = tmp_path / "RTE" / "train.tsv"
    path.write_bytes("sentence1\tsentence2\tlabel\ncaf\xe9\ta\t1\n".encode("latin-1"))
    for read in (read_conll, read_squad, lambda file: glue(file.parent)):
        with pytest.raises(
            ValueError, match=r"train.tsv: byte \d+ \(0xe9\) is no UTF-8; convert the file \(iconv -f latin-1"
        ):
            read(path)


@pytest.mark.parametrize("kind", (".csv", ".tsv", ".json", ".jsonl"))
@pytest.mark.parametrize("test", ("test", "dev", "valid"))
def test_folders_with_files_for_both_parts(tmp_path: Path, kind: str, test: str) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    written(folder / f"train{kind}", [{"premise": text, "hypothesis": "h", "label": f"c{k}"} for text, k in REVIEWS])
    written(folder / f"{test}{kind}", [{"premise": "x", "hypothesis": "h", "label": "c1"}])
    task = open_splits(f"text:{folder}")
    assert (len(task.train), len(task.test), task.metric, task.divided) == (4, 1, "top-1", True)
    assert list(task.test.classes) == ["c0", "c1", "c2"] and task.test.labels.tolist() == [1]  # type: ignore[union-attr]
    assert isinstance(task.test, ParallelCorpus) and task.test.subset([0]).labels.tolist() == [1]  # type: ignore[union-attr]
    assert task.train.name == "own" and len(fastssl.data.open(f"text:{folder}", part="test")) == 1
    named = fastssl.data.open(f"text:{folder}#text=hypothesis:label=premise")
    assert named.read(0).text == "h" and len(named.classes) == 4


@pytest.mark.parametrize("kind", (".csv", ".jsonl", ""))
def test_of_several_test_parts_one_with_labels_is_taken(tmp_path: Path, kind: str) -> None:
    """GLUE's "test" has the label -1 throughout."""
    parts = {"train": (0, 1), "validation": (1, 0, 1), "test": (-1, -1)}
    if kind:
        data = f"text:{tmp_path}"
        for name, labels in parts.items():
            written(tmp_path / f"{name}{kind}", [{"text": f"{name} {k}", "label": k} for k in labels])
    else:
        datasets, data = pytest.importorskip("datasets"), f"hf:{tmp_path / 'saved'}"
        features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["no", "yes"]))
        datasets.DatasetDict({
            name: datasets.Dataset.from_dict({"text": [name] * len(labels), "label": labels}, features)
            for name, labels in parts.items()
        }).save_to_disk(tmp_path / "saved")  # fmt: skip
    task = open_splits(data)
    assert (len(task.train), len(task.test)) == (2, 3) and task.test.labels.tolist() == [1, 0, 1]  # type: ignore[union-attr]
    assert len(fastssl.data.open(data, part="test")) == 3


def test_classes_that_training_lacks_are_named(tmp_path: Path) -> None:
    written(tmp_path / "train.csv", [{"text": "a", "label": "good"}, {"text": "b", "label": "bad"}])
    written(tmp_path / "test.csv", [{"text": "a", "label": "godo"}])
    with pytest.raises(ValueError, match="same classes in both parts of .* only the test part has 'godo'"):
        open_splits(f"text:{tmp_path}")


def test_pretraining_says_which_text_of_a_pair_it_reads(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from fastssl.cli import app

    path = written(tmp_path / "p.csv", [{"text1": "one text", "text2": "another"}] * 3)
    for columns, said in (("", True), ("#text=text2", False)):
        out = tmp_path / f"{len(columns)}.tok"
        result = CliRunner().invoke(app, ["tokenize", f"{path}{columns}", str(out), "--tokenizer", "bytes"])
        assert result.exit_code == 0 and ("the second ones are left out" in result.output) == said
        first = fastssl.data.TokenFile(out)
        assert first.tokenizer.decode(first.ids(0, int(first.documents[1]))) == ("one text" if said else "another")


def test_folders_of_classes_for_both_parts(tmp_path: Path) -> None:
    """As reviews of films are unpacked: lists of addresses, features and unlabelled reviews beside the classes."""
    for part, kinds in (("train", ("pos", "neg", "unsup")), ("test", ("pos", "neg"))):
        for kind in kinds:
            (tmp_path / part / kind).mkdir(parents=True)
            (tmp_path / part / kind / "0_9.txt").write_text(f"{part} {kind}")
        (tmp_path / part / "urls_pos.txt").write_text("http://\n")
        (tmp_path / part / "labeledBow.feat").write_text("1")
    (tmp_path / "README").touch()
    task = open_splits(f"text:{tmp_path}")
    assert list(task.train.classes) == ["neg", "pos"] == list(task.test.classes)
    assert task.train.labels.tolist() == [0, 1, -1, -1]  # type: ignore[union-attr]
    assert [task.test.read(k).text for k in range(3)] == ["test neg", "test pos", "http://\n"]
    assert task.test.labels.tolist() == [0, 1, -1]  # type: ignore[union-attr]
    assert task.train.skipped == {"files with .feat": 1}


def test_splits_of_scores_are_judged_by_correlations(tmp_path: Path) -> None:
    rows = [{"text1": f"a{k}", "text2": f"b{k}", "similarity": k / 3} for k in range(10)]
    task = open_splits(str(written(tmp_path / "sim.csv", rows)))
    assert (task.metric, task.others, len(task.train), len(task.test)) == ("Spearman", ("Pearson",), 8, 2)
    assert isinstance(task.train, ParallelCorpus) and task.train.labels is not None
    own = {a: score for a, score in ((row["text1"], row["similarity"]) for row in rows)}
    assert [own[task.train.text(k)] for k in range(8)] == task.train.labels.tolist()


@pytest.mark.parametrize("prefix", ("", "text:"))
def test_parts_of_folders_of_texts_alone_are_not_mixed(tmp_path: Path, prefix: str) -> None:
    rows = [{"sentence1": f"a {k}", "sentence2": f"b {k}", "score": k / 2} for k in range(8)]
    written(tmp_path / "train.jsonl", rows)
    written(tmp_path / "test.jsonl", rows[:3])
    for data in (f"{prefix}{tmp_path}", f"{prefix}{tmp_path}#text=sentence1:text_pair=sentence2:score=score"):
        task = open_splits(data)
        assert (len(task.train), len(task.test), task.metric, task.divided) == (8, 3, "Spearman", True)
        assert [len(fastssl.data.open(data, part=part)) for part in ("train", "test")] == [8, 3]


@pytest.mark.parametrize("prefix", ("", "hf:"))
def test_hugging_face_data_without_a_test_part_is_divided(tmp_path: Path, prefix: str) -> None:
    pytest.importorskip("datasets")
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.table({"a": [f"a {k}" for k in range(10)], "b": ["b"] * 10, "n": list(range(10))})
    (tmp_path / "both").mkdir()
    for name in ("one.parquet", "both/train.parquet", "both/test.parquet"):
        parquet.write_table(table, tmp_path / name)
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "one.parquet").read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"data: hf:.*cut\.parquet cannot be read"):
        fastssl.data.open(f"{prefix}{tmp_path / 'cut.parquet'}")
    options = "#text=a:text_pair=b:score=n"
    task, both = (open_splits(f"{prefix}{tmp_path / name}{options}") for name in ("one.parquet", "both"))
    assert (len(task.train), len(task.test), task.metric, task.divided) == (8, 2, "Spearman", False)
    assert (len(both.train), len(both.test), both.metric, both.divided) == (10, 10, "Spearman", True)
    with pytest.raises(ValueError, match=r"one\.parquet#text=NAME, of pairs #text=NAME:text_pair=NAME"):
        open_splits(f"{prefix}{tmp_path / 'one.parquet'}")


@pytest.mark.parametrize("named", ("", "#text=text"))
def test_columns_of_lists_are_named(named: str, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.table({"text": [["One.", "Two."]] * 3}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"expected a column .*; columns of other types are no texts: text \(\w+\)"):
        fastssl.data.open(f"{tmp_path / 'a.parquet'}{named}")
    parquet.write_table(pa.table({"id": [1], "translation": [{"en": "One", "de": "Eins"}]}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"got id, translation\.en, translation\.de; others are named: "):
        fastssl.data.open(f"{tmp_path / 'b.parquet'}")


TRANSLATED = [{"id": k, "translation": {"en": en, "de": de}} for k, (en, de) in enumerate(zip("abc", "ABC"))]


@pytest.mark.parametrize("name", ("a.jsonl", "a.json", "text:a.jsonl", "pairs:a.jsonl", "a.parquet", "hf:saved"))
def test_texts_in_objects_are_columns(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if "json" in name:
        written(Path(name.rpartition(":")[2]), TRANSLATED)
    else:
        datasets = pytest.importorskip("datasets")
        kinds = {"id": datasets.Value("int64"), "translation": datasets.Translation(languages=["en", "de"])}
        table = datasets.Dataset.from_list(TRANSLATED, features=datasets.Features(kinds))
        table.save_to_disk("saved")
        table.to_parquet("a.parquet")
    first, second = ("source", "target") if "pairs" in name else ("text", "text_pair")
    found = fastssl.data.open(f"{name}#{first}=translation.de:{second}=translation.en")
    assert isinstance(found, ParallelCorpus)
    assert [found.pair(k) for k in range(3)] == [("A", "a"), ("B", "b"), ("C", "c")]
    with pytest.raises(
        ValueError, match=r"id, .*translation\.(en|de)|under the keys translation.fr, .*'translation.en'"
    ):
        fastssl.data.open(f"{name}#{first}=translation.fr:{second}=translation.en")


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "pairs:a.tsv", "text:a"])
@pytest.mark.parametrize("before", [0, 16_000])  # lines: more than a block of the index
def test_a_zero_byte_is_no_text_wherever_it_is(
    name: str, before: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    kind = Path(name).suffix
    head, form = {".csv": ("text\n", "%s\n"), ".tsv": ("", "%s\tb\n"), ".jsonl": ("", '{"text": "%s"}\n')}.get(
        kind, ("", "%s\n")
    )
    place = Path(name.partition(":")[2] or name) if kind else Path("a/b.txt")
    place.parent.mkdir(exist_ok=True)
    place.write_text(head + form % ("a rose " * 40) * before + form % "a\0b" + form % "is a rose")
    line = before + 1 + bool(head)
    with pytest.raises(ValueError, match=f"line {1 if not kind else line}: expected text, got a zero byte"):
        fastssl.data.open(name).read(0 if not kind else before)
    read = fastssl.data.open(f"{name}#errors=replace").read(0 if not kind else before).text
    assert read is not None and read.endswith("a\ufffdb") is bool(kind) and "a\ufffdb" in read


def test_parallel_texts_without_names_are_named_as_pairs(tmp_path: Path) -> None:
    """The error names what reads the file."""
    (tmp_path / "es-en.tsv").write_text("la casa\tthe house\nel pan\tthe bread\n")
    with pytest.raises(ValueError, match="without a first row of names are (pairs:.*)") as caught:
        fastssl.data.open(tmp_path / "es-en.tsv")
    read: Any = fastssl.data.open(str(caught.value).rpartition("are ")[2])
    assert [read.pair(k) for k in range(2)] == [("la casa", "the house"), ("el pan", "the bread")]


def test_texts_of_a_folder_have_any_suffix(tmp_path: Path) -> None:
    """Notes and code: of a folder with others, also compressed."""
    for own in ("a.py", "b/c.py", ".git/d.py", "e.PY", "f.png", "notes.md", "g.txt"):
        (tmp_path / own).parent.mkdir(exist_ok=True)
        (tmp_path / own).write_text(f"of {own}\n\nand more\n")
    (tmp_path / "z.py.gz").write_bytes(gzip.compress(b"packed\n"))
    code: Any = fastssl.data.open(f"text:{tmp_path}#suffix=.py")
    assert list(code.names) == ["a.py", "b/c.py", "e.PY", "z.py.gz"] and code.text(3) == "packed\n"
    assert code.text(0) == "of a.py\n\nand more\n"
    assert code.skipped == {"files with .md": 1, "files with .png": 1, "files with .txt": 1}
    assert len(fastssl.data.open(f"text:{tmp_path}#suffix=.md:separator=line")) == 2
    (tmp_path / "g.txt").unlink()
    with pytest.raises(ValueError, match=r"expected .txt or .jsonl files in .* texts of one kind with #suffix=.md"):
        fastssl.data.open(f"text:{tmp_path}")
    with pytest.raises(ValueError, match=r"expected .rs files in"):
        fastssl.data.open(f"text:{tmp_path}#suffix=.rs")
    for place, wrong in ((tmp_path, "py"), (tmp_path, ".PY"), (tmp_path / "a.py", ".py")):
        with pytest.raises(ValueError, match="suffix: expected that of the files of a folder, in lower case, such as"):
            fastssl.data.open(f"text:{place}#suffix={wrong}")


def test_files_that_are_no_texts_are_not_read_as_texts(tmp_path: Path) -> None:
    for name, content in (("a.parquet", b"PAR1\x15\x04\0\0"), ("b.txt", b"\x89PNG\0\n")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CorpusError, match="line 1: expected text, got a zero byte; a file of another kind"):
            fastssl.data.open(f"text:{tmp_path / name}").read(0)
    pytest.importorskip("datasets")
    written(tmp_path / "a.csv", [{"text": "a"}])
    with pytest.raises(ValueError, match="expected a folder, a Parquet file .* got hf:.*a.csv; tables of other kinds"):
        open_splits(f"hf:{tmp_path / 'a.csv'}")


@pytest.mark.parametrize("kind", (".csv", ".tsv", ".jsonl"))
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_headings_of_pairs_are_no_pairs(tmp_path: Path, kind: str, first: str, second: str) -> None:
    path = written(tmp_path / f"p{kind}", [{second: "b", first: "a", "score": 1}])
    made = text_pairs(path)
    assert [made.pair(k) for k in range(len(made))] == [("a", "b")]


def test_pairs_with_other_names(tmp_path: Path) -> None:
    path = written(tmp_path / "p.csv", [{"a": "eins", "b": "one"}])
    assert fastssl.data.open(f"pairs:{path}#source=b:target=a").pair(0) == ("one", "eins")  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"expected a heading with c and target, got \['a', 'b'\]"):
        text_pairs(path, source="c")


@pytest.mark.parametrize("kind", ("splits", "column", "parquet"))
def test_a_split_of_hugging_face_data_is_named(tmp_path: Path, kind: str) -> None:
    datasets = pytest.importorskip("datasets")
    texts = {"train": ["a", "b"], "validation": ["c"], "test": ["d", "e", "f"], "extra": ["g"]}
    name = f"hf:{tmp_path / 'saved'}"
    if kind == "splits":
        made = {split: datasets.Dataset.from_dict({"text": own}) for split, own in texts.items()}
        datasets.DatasetDict(made).save_to_disk(tmp_path / "saved")
    else:
        rows = [{"text": text, "split": split} for split, own in texts.items() for text in own]
        table = datasets.Dataset.from_list(rows)
        table.save_to_disk(tmp_path / "saved")
        if kind == "parquet":
            name = str(tmp_path / "a.parquet")
            table.to_parquet(name)
    for split, own in texts.items():
        for part in ("train", "test"):
            source = fastssl.data.open(f"{name}#split={split}", part=part)
            assert isinstance(source, Corpus) and list(source.texts) == own and source.part is None
    task = open_splits(f"{name}#split=test")
    assert len(task.train) + len(task.test) == 3
    with pytest.raises(ValueError, match=r"split: expected one of .* \(extra, test, train, validation\), got 'dev'"):
        fastssl.data.open(f"{name}#split=dev")


def test_hugging_face_columns(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"premise": ["a", "b"], "hypothesis": ["c", "d"], "stars": [3, 0], "label": [0.5, 2.0], "tags": [[1], [2]]}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "nli")
    found = fastssl.data.open(f"hf:{tmp_path / 'nli'}")
    assert isinstance(found, ParallelCorpus) and found.pair(1) == ("b", "d")
    assert found.labels is not None and found.labels.tolist() == [0.5, 2.0] and not found.classes
    stars = fastssl.data.open(f"hf:{tmp_path / 'nli'}#text=hypothesis:label=stars")
    assert stars.labels.tolist() == [3, 0] and stars.read(0).text == "c"  # type: ignore[union-attr]
    assert stars.where == f"hf:{tmp_path / 'nli'}#text=hypothesis:label=stars"
    for wrong, match in (("#text=none", "text: expected a column of nli"), ("#image=label", "expected options text")):
        with pytest.raises(ValueError, match=match):
            fastssl.data.open(f"hf:{tmp_path / 'nli'}{wrong}")
    names = datasets.Features({"text": datasets.Value("string"), "topic": datasets.ClassLabel(names=["x", "y"])})
    datasets.Dataset.from_dict({"text": ["a"], "topic": [1]}, features=names).save_to_disk(tmp_path / "topics")
    topics = fastssl.data.open(f"hf:{tmp_path / 'topics'}")
    assert list(topics.classes) == ["x", "y"] and topics.labels.tolist() == [1]  # type: ignore[union-attr]


def test_csv_files_whose_quotation_marks_or_headings_are_wrong_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text,label\n"One, two",0\n"Three,1\nFour,0\nFive,1\n')  # rows were lost in one field
    with pytest.raises(ValueError, match="row 2: a quotation mark opens a field that none closes"):
        text_table(path)
    path.write_text("text,text,label\nOne,Two,0\n")  # the first column was lost
    with pytest.raises(ValueError, match="different names, got 'text', 'text', 'label'"):
        text_table(path)
    path.write_text("text,label,,\nOne,0,,\n\nTwo\n")
    found = text_table(path)
    assert list(found.texts) == ["One", "Two"] and found.labels is not None and found.labels.tolist() == [0, -1]
    path.write_text("")
    with pytest.raises(ValueError, match="expected rows, found none"):
        text_table(path)


@pytest.mark.parametrize("mark", (",", ";", "\t", "|"))
def test_spaces_before_quotation_marks_are_skipped(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f'label{mark} "text"\n"x"{mark}  "One, two; ""three"""\ny{mark}four\n')
    found = fastssl.data.open(path)
    assert list(found.texts) == ['One, two; "three"', "four"]  # type: ignore[attr-defined]
    path.write_text(f"label{mark}text\nx{mark} One\n")  # without quotation marks they are characters as others are
    assert list(fastssl.data.open(path).texts) == ["One" if mark == "|" else " One"]  # type: ignore[attr-defined]
    path.write_text('source, target\n"One, two", "Uno, dos"\n')
    assert text_pairs(path).pair(0) == ("One, two", "Uno, dos")
    path.write_text('text\tlabel\n "One" more\tx\n')
    assert list(fastssl.data.open(path).texts) == [' "One" more']  # type: ignore[attr-defined]


def test_other_options_of_pairs_are_named(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("ad,query\nshoes,red\n")
    with pytest.raises(ValueError, match="expected options source, target, encoding, errors of .*, got 'text'"):
        fastssl.data.open(f"pairs:{path}#text=ad:text_pair=query")


DECOMPOSED = "Gro\u0308ße"  # as macOS writes names


@pytest.mark.parametrize("kind", (".csv", ".tsv", ".json", ".jsonl", "text:.jsonl", "hf:"))
def test_names_of_columns_in_other_cases_and_forms(tmp_path: Path, kind: str) -> None:
    rows: list[dict[str, Any]] = [
        {"Text": "a", DECOMPOSED: "big", "id": 1},
        {"Text": "b", DECOMPOSED: "small", "id": 2},
    ]
    if kind == "hf:":
        pytest.importorskip("datasets").Dataset.from_list(rows).save_to_disk(tmp_path / "a")
        data = f"hf:{tmp_path / 'a'}"
    else:
        prefix, _, suffix = kind.rpartition(":")
        data = f"{prefix}{':' * bool(prefix)}{written(tmp_path / f'a{suffix}', rows)}"
    for asked in ("GRÖSSE", "Größe", DECOMPOSED, DECOMPOSED.upper()):
        found = fastssl.data.open(f"{data}#label={asked}")
        assert list(found.classes) == ["big", "small"] and found.read(1).text == "b"
    with pytest.raises(ValueError, match=r"text: expected a column of .*\(Text, .*, id\), got 'Titel'"):
        fastssl.data.open(f"{data}#text=Titel")


def test_names_of_columns_that_differ_in_case_alone(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", [{"Body": "a", "BODY": "b", "Label": "x", "label": "y"}])
    assert fastssl.data.open(f"{path}#text=BODY").text(0) == "b"  # type: ignore[attr-defined]
    assert fastssl.data.open(f"{path}#text=Body").classes == ["y"]
    with pytest.raises(ValueError, match=r"text: expected a column of .*\(Body, BODY, Label, label\), got 'body'"):
        fastssl.data.open(f"{path}#text=body")
    pairs = written(tmp_path / "p.csv", [{"Source": "uno", "Target": "one"}])
    assert text_pairs(pairs).pair(0) == ("uno", "one")


def test_names_of_columns_with_marks_of_options(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", [{"review: long": "a", "#stars": "x"}])
    found = fastssl.data.open(rf"{path}#text=review\: long:label=\#stars")
    assert found.read(0).text == "a" and found.classes == ["x"]
    again = fastssl.data.open(str(found.where))
    assert again.read(0).text == "a" and again.classes == ["x"]


@pytest.mark.parametrize("kind", (".csv", ".jsonl", "text:.jsonl"))
def test_decimal_commas_are_named(tmp_path: Path, kind: str) -> None:
    prefix, _, suffix = kind.rpartition(":")
    path = tmp_path / f"a{suffix}"
    rows = [{"text": "a", "label": ""}, {"text": "b", "label": "3,5"}, {"text": "c", "label": "4,0"}]
    if suffix == ".csv":
        path.write_text("text;label\n" + "".join(f"{row['text']};{row['label']}\n" for row in rows))
    else:
        written(path, rows)
    data = f"{prefix}{':' * bool(prefix)}{path}"
    with pytest.raises(
        ValueError, match=r"(row|line) 2: expected classes in column 'label', got '3,5'; .*#score=label"
    ):
        fastssl.data.open(data)
    with pytest.raises(
        ValueError, match=r"(row|line) 2: expected a finite number as score, got '3,5'; the decimal mark"
    ):
        fastssl.data.open(f"{data}#score=label")


def test_classes_that_look_like_missing_labels_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labels = ["good", "NA", "nan", "", "NA"]
    path = written(tmp_path / "a.csv", [{"text": "t", "label": label} for label in labels])
    found = fastssl.data.open(path)
    assert "a.csv: row 2 and others: labels 'NA' (2 items), 'nan' (1 item) are classes" in caplog.text
    assert found.classes == ["NA", "good", "nan"]
    assert found.labels is not None and found.labels.tolist() == [1, 0, 2, -1, 0]  # empty: unknown


@pytest.mark.parametrize("value", (None, 3, ["a"]))
def test_texts_of_json_lines_that_are_none_are_unreadable(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "a.jsonl"
    for name, column, error in (
        (f"{path}", "text", r"a\.jsonl: row 2: expected a string in column text, got "),
        (f"{path}", "text_pair", r"a\.jsonl: row 2: expected a string in column text_pair, got "),
        (f"text:{path}", "text", r"a\.jsonl: line 2: expected a string under the key 'text', got "),
        (f"text:{path}", "text_pair", r"a\.jsonl: line 2: expected a string under the key 'text_pair', got "),
        (f"pairs:{path}", "text_pair", r"a\.jsonl: line 2: expected a string as target, got "),
    ):
        rows = [{"text": text, "text_pair": text.upper(), "label": 1} for text in "abc"]
        written(path, [rows[0], {**rows[1], column: value}, rows[2]])
        source = fastssl.data.open(name)
        with pytest.raises(CorpusError, match=error):
            source.read(1)
        left, reasons = readable(source)
        assert [item.text for item in left.items(range(2))] == ["a", "c"] and list(reasons) == [1]
        assert left.pair(1) == ("c", "C")  # type: ignore[attr-defined]
        written(path, [rows[0], {key: text for key, text in rows[1].items() if key != column}, rows[2]])
        assert list(readable(fastssl.data.open(name))[1]) == [1]
    written(path, [{"text": value}] * 2)  # a column that holds no texts
    with pytest.raises(ValueError, match=r"a\.jsonl: row 1: expected a string in column text, got "):
        fastssl.data.open(path)


CHATS = [
    [{"role": "system", "content": ""}, {"role": "user", "content": "Is it?\nReally?"}],
    [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello.", "weight": 1}],
    [{"role": "user", "content": [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}]}],
]
AS_TEXTS = ["system: \nuser: Is it?\nReally?", "human: Hi\ngpt: Hello.", "user: One.\nTwo."]


@pytest.mark.parametrize("name", ("a.jsonl", "text:a.jsonl", "a.json", "a.parquet"))
def test_chats_are_texts(name: str, tmp_path: Path) -> None:
    for key, chats in (("messages", CHATS), ("conversations", CHATS), ("Messages", CHATS), ("turns", CHATS)):
        made: list[Any] = []
        for form, texts in (
            ([*chats[:1], *chats[:1]], [AS_TEXTS[0]] * 2),
            (chats[1:2], AS_TEXTS[1:2]),
            (chats, AS_TEXTS),
        ):
            path = tmp_path / name.removeprefix("text:")
            rows = [{key: chat, "id": k, "label": "good"} for k, chat in enumerate(form)]
            if path.suffix == ".parquet":
                pytest.importorskip("datasets")
                pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
                if form is chats:  # a column has one type
                    continue
                parquet.write_table(pa.Table.from_pylist(rows), path)
            else:
                written(path, rows)
            place = name.replace(path.name, str(path)) + "#text=turns" * (key == "turns")
            made.append(fastssl.data.open(place))
            assert [made[-1].text(k) for k in range(len(form))] == texts
            assert made[-1].classes == ["good"] and made[-1].columns.text == key
            assert pickle.loads(pickle.dumps(made[-1])).text(0) == texts[0]


@pytest.mark.parametrize(
    ("messages", "error"),
    (
        ([{"role": "user"}], "message 1: expected role and content or from and value, got the keys role"),
        ([*CHATS[1], {"role": "a", "content": None}], "message 3: expected a string under 'content', got None"),
        (
            [{"role": "user", "content": [{"type": "image_url"}]}],
            r"message 1: expected a string under 'content', got \[",
        ),
        ([{"from": 3, "value": "x"}], "message 1: expected a string under 'from', got 3"),
        ([], "expected a string"),
    ),
)
def test_chats_that_are_none_are_unreadable(tmp_path: Path, messages: Any, error: str) -> None:
    path = written(tmp_path / "a.jsonl", [{"messages": CHATS[1]}, {"messages": messages}])
    for name, row in ((f"{path}", "row 2"), (f"text:{path}", "line 2")):
        with pytest.raises(CorpusError, match=rf"a\.jsonl: {row}: {error}"):
            fastssl.data.open(name).read(1)


def test_null_texts_of_parquet_files_are_unreadable(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.table({"source": ["a", "b", None], "target": ["A", None, "C"]}), tmp_path / "a.parquet")
    left, reasons = readable(fastssl.data.open(tmp_path / "a.parquet"))
    assert [item.text for item in left.items([0])] == ["a"]
    assert reasons[2] == "row 2: expected a string in column source, got None" and list(reasons) == [1, 2]


def test_columns_without_a_name_are_left_out(tmp_path: Path) -> None:
    for mark, suffix in ((",", ".csv"), ("\t", ".tsv")):
        path = tmp_path / f"a{suffix}"
        lines = (["text", "", " ", "label"], ["One", "x", "y", "good"], ["Two", "", "", "bad"])
        path.write_text("".join(mark.join(line) + "\n" for line in lines))
        found = text_table(path)
        assert list(found.texts) == ["One", "Two"] and found.classes == ["bad", "good"]
        with pytest.raises(ValueError, match=r"text: expected a column of .*\(text, label\), got 'x'"):
            text_table(path, text="x")
    path.write_text("text\t\t\nOne\tx\ty\tz\n")
    with pytest.raises(ValueError, match="row 1: expected 3 fields, got 4"):
        text_table(path)


@pytest.mark.parametrize("data", ("a.csv", "text:a.csv", "a.jsonl", "text:a.jsonl", "pairs:p.tsv", "images.csv"))
def test_bytes_that_are_of_no_encoding_are_replaced(tmp_path: Path, data: str) -> None:
    (tmp_path / "a.csv").write_bytes(b"text,label\nsch\xf6n,gut\n")
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "sch\xf6n"}\n')
    (tmp_path / "p.tsv").write_bytes(b"sch\xf6n\tbeautiful\n")
    (tmp_path / "a.png").touch()
    (tmp_path / "images.csv").write_bytes(b"path,text\na.png,sch\xf6n\n")
    kind, mark, name = data.rpartition(":")
    place = f"{kind}{mark}{tmp_path / name}"
    found: Any = fastssl.data.open(f"{place}#errors=replace")
    assert (found.texts[0] if "images" in data else found.text(0)) == "sch\ufffdn"
    if name.endswith(".jsonl"):  # which may escape what is no text
        escaped = tmp_path / "b.jsonl"
        for code, what in (("\\u0000", "a zero character"), ("\\ud800", "half of a pair of UTF-16")):
            escaped.write_text(f'{{"text": "a", "text_pair": "b"}}\n{{"text": "c{code}", "text_pair": "d{code}"}}\n')
            for prefix in (f"{kind}{mark}", "pairs:"):
                unlike: Any = fastssl.data.open(f"{prefix}{escaped}#errors=replace")
                assert unlike.pair(1) == (
                    f"c{'?' if 'd8' in code else chr(0xFFFD)}",
                    f"d{'?' if 'd8' in code else chr(0xFFFD)}",
                )
                with pytest.raises(CorpusError, match=what):
                    fastssl.data.open(f"{prefix}{escaped}").read(1)
    with pytest.raises(ValueError, match="#errors=replace"):
        found = fastssl.data.open(place)
        found.text(0)
    with pytest.raises(ValueError, match="errors: expected 'strict' or 'replace', got 'ignore'"):
        fastssl.data.open(f"{place}#errors=ignore")
