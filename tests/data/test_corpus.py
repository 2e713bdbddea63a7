"""Corpora: the same documents, whatever they are kept in; sentences by rules; the embedded texts."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import pickle
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastssl.data
from fastssl.data import (
    Corpus,
    CorpusError,
    ParallelCorpus,
    Tokenizer,
    Windows,
    sentences,
    storage,
    text_corpus,
    text_files,
    tokenize_corpus,
    wikitext,
)
from fastssl.data import open as open_source
from fastssl.data.corpus import join
from fastssl.data.storage import LocalFile
from fastssl.data.text_files import text8

DOCUMENTS = ["One sentence. Another one.", "Größe, naïve, 日本語。", "Mr. Polk spoke.\nA second line."]


def line_file(folder: Path) -> Corpus:
    path = folder / "lines.txt"
    path.write_bytes("\n\n".join(d.replace("\n", " ") for d in DOCUMENTS).encode() + b"\r\n")
    return text_corpus(path, separator="line")


def blank_line_file(folder: Path) -> Corpus:
    path = folder / "blank.txt"
    path.write_bytes(b"\xef\xbb\xbf\n" + "\n \t\n\n".join(DOCUMENTS).encode())
    return fastssl.data.open(path)


def json_lines(folder: Path) -> Corpus:
    path = folder / "all.jsonl"
    path.write_text("".join(json.dumps({"text": d, "id": 1}) + "\n" for d in DOCUMENTS))
    return fastssl.data.open(f"text:{path}")


def text_folder(folder: Path) -> Corpus:
    for k, document in enumerate(DOCUMENTS):
        (folder / "ab"[k // 2]).mkdir(exist_ok=True)
        (folder / "ab"[k // 2] / f"{k}.txt").write_text(document)
    return fastssl.data.open(f"text:{folder}")


def huggingface(folder: Path) -> Corpus:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"text": DOCUMENTS}).save_to_disk(str(folder / "saved"))
    return fastssl.data.open(f"hf:{folder / 'saved'}")


KINDS: list[Callable[[Path], Corpus]] = [
    lambda folder: Corpus(DOCUMENTS), line_file, blank_line_file, json_lines, text_folder, huggingface
]  # fmt: skip


@pytest.mark.parametrize("make", KINDS)
def test_the_same_documents_from_everywhere(make: Callable[[Path], Corpus], tmp_path: Path) -> None:
    corpus = make(tmp_path)
    wanted = [d.replace("\n", " ") if make is line_file else d for d in DOCUMENTS]
    assert [text.strip() for text in corpus.texts] == wanted
    assert list(corpus.documents()) == [sentences(d) for d in wanted]
    assert len(corpus.names) == len(corpus) == 3 and len(set(corpus.names)) == 3
    copy = pickle.loads(pickle.dumps(corpus))
    assert copy.fingerprint == corpus.fingerprint and copy.document(2) == corpus.document(2)
    part = corpus.subset([2, 0])
    assert [part.text(0), part.text(1)] == [corpus.text(2), corpus.text(0)] and part.names[1] == corpus.names[0]
    assert part.fingerprint != corpus.fingerprint != corpus.subset([0, 1]).fingerprint
    item = corpus.read(1)
    assert item.text == corpus.text(1) and item.name == corpus.names[1]
    both = join([corpus, part])
    assert [both.text(k) for k in range(5)] == [*corpus.texts, *part.texts]
    with pytest.raises(IndexError):
        corpus.text(3)


def test_sub_folders_are_classes(tmp_path: Path) -> None:
    corpus = text_folder(tmp_path)
    assert corpus.classes == ["a", "b"] and corpus.labels is not None and corpus.labels.tolist() == [0, 0, 1]
    assert list(corpus.names) == ["a/0.txt", "a/1.txt", "b/2.txt"]


def test_halves_of_pairs_of_utf_16_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "One."}\n{"text": "half \\ud83d here"}\n')
    for made in (fastssl.data.open(str(tmp_path / "a.jsonl")), Corpus(["One.", "half \ud83d here"], "a")):
        with pytest.raises(CorpusError, match=r"a, document 1: '\\ud83d' is half of a pair of UTF-16"):
            tokenize_corpus(made, Tokenizer(), tmp_path / "a.tok")
        with pytest.raises(CorpusError, match=r"a, document 1: '\\ud83d' is half"):
            made.read(1)
    assert fastssl.data.open(f"{tmp_path}/a.jsonl#errors=replace").read(1).text == "half ? here"


def test_an_index_of_blocks_is_that_of_one_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "some.txt"
    rng = np.random.default_rng(0)
    path.write_bytes(bytes(rng.choice(list(b"ab \r\n"), 2000).astype(np.uint8)))
    whole = [list(text_corpus(path, separator=s).texts) for s in text_files.SEPARATORS]
    monkeypatch.setattr(text_files, "_BLOCK", 7)
    assert [list(text_corpus(path, separator=s).texts) for s in text_files.SEPARATORS] == whole
    lines = path.read_bytes().decode().split("\n")
    assert whole[1] == [line for line in lines if line.strip()]
    grouped = itertools.groupby(lines, lambda line: bool(line.strip()))
    assert whole[0] == ["\n".join(block) for inked, block in grouped if inked]


def test_text8_keeps_every_word(tmp_path: Path) -> None:
    words = [f"w{k}" for k in range(60_000)]
    (tmp_path / "text8").write_text(" ".join(words))
    corpus = fastssl.data.open(f"text8:{tmp_path / 'text8'}")
    assert len(corpus) > 3 and [w for d in corpus.documents() for s in d for w in s.split()] == words
    (tmp_path / "solid").write_bytes(b"a" * 200_000)
    with pytest.raises(CorpusError, match="no space"):
        text8(tmp_path / "solid")


def test_articles_of_wikitext(tmp_path: Path) -> None:
    (tmp_path / "wiki.train.tokens").write_text(
        " \n = One = \n \n Text . \n = = Part = = \n More . \n = Two = \n End . \n"
    )
    corpus = wikitext(tmp_path)
    assert list(corpus.names) == ["One", "Two"] and corpus.document(0) == [
        "= One =",
        "Text .",
        "= = Part = =",
        "More .",
    ]
    with (tmp_path / "wiki.valid.tokens").open("w") as file:  # an excerpt
        file.write(" The end of One . \n = Two = \n End . \n")
    assert list(wikitext(tmp_path, "valid").documents()) == [["The end of One ."], ["= Two =", "End ."]]
    (tmp_path / "wiki.test.raw.gz").write_bytes(gzip.compress((tmp_path / "wiki.train.tokens").read_bytes()))
    packed = wikitext(tmp_path, "test")
    assert packed.names == corpus.names and list(packed.documents()) == list(corpus.documents())
    (tmp_path / "wiki.test.raw.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"wiki\.test\.tokens or wiki\.test\.raw \(also compressed\) in"):
        wikitext(tmp_path, "test")


def test_compressed_corpora_are_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked = []

    class Counted(storage.UnpackedFile):
        def __init__(self, place: str) -> None:
            unpacked.append(place)
            super().__init__(place)

    monkeypatch.setattr(storage, "UnpackedFile", Counted)
    (tmp_path / "folder").mkdir()
    contents = {
        "a.txt": "One.\n\nTwo.\n",
        "a.jsonl": '{"text": "One.", "text_pair": "Uno.", "label": 3}\n',
        "text8": "word " * 30_000,
        "wiki.train.tokens": " = One = \n Text . \n",
        "folder/a.txt": "One.",
    }
    for name, text in contents.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    names = ("a.txt.gz", "text:{}/a.jsonl.gz", "text8:{}/text8.gz", "wikitext:{}", "folder")
    for name, place in zip(names, contents):
        corpus: Any = fastssl.data.open(name.format(tmp_path) if "{" in name else tmp_path / name)
        pairs = [corpus, corpus.target] if isinstance(corpus, ParallelCorpus) else [corpus]
        assert all(list(one.documents()) for one in pairs)
        assert unpacked == [str(tmp_path / f"{place}.gz")]
        unpacked.clear()


def test_folders_of_more_files_than_a_process_may_open(tmp_path: Path) -> None:
    """As IMDB's reviews: 25,000 files, of which a system allows 1,024 to be open."""
    for k in range(200):
        (tmp_path / f"{k:03}.txt").write_text(f"Text {k}.")
    (tmp_path / "200.txt.gz").write_bytes(gzip.compress(b"Text 200."))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    corpus: Any = fastssl.data.open(tmp_path)
    corpus.text(0)  # what is opened for all
    there = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 128
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (there + 30, limits[1]))
        assert [corpus.text(k) for k in [*range(201), 0, 200]] == [f"Text {k}." for k in [*range(201), 0, 200]]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", []),
        (" \n\t\n", []),
        ("No end", ["No end"]),
        ("It cost $3.50. Why? No! Yes… Well.", ["It cost $3.50.", "Why?", "No!", "Yes…", "Well."]),
        ("He met Mr. Smith of the U.S. Army.", ["He met Mr. Smith of the U.S. Army."]),
        ("John F. Kennedy spoke. So did I. Then we left.", ["John F. Kennedy spoke.", "So did I.", "Then we left."]),
        ("He said “Stop.” (Applause.) They did.", ["He said “Stop.”", "(Applause.)", "They did."]),
        ("a. lower case goes on. like this", ["a. lower case goes on. like this"]),
        ("¿Por qué? Él lo sabe. Éste no.", ["¿Por qué?", "Él lo sabe.", "Éste no."]),
        ("See e.g. Figure 3. Or No. 4.", ["See e.g. Figure 3.", "Or No. 4."]),
    ],
)
def test_sentences(text: str, wanted: list[str]) -> None:
    assert sentences(text) == wanted
    assert "".join("".join(wanted).split()) == "".join(text.split())  # nothing is lost


def test_what_is_damaged_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"fine\n\nbroken \xff here\n")
    corpus = text_corpus(tmp_path / "bad.txt")
    assert corpus.document(0) == ["fine"]
    with pytest.raises(CorpusError, match=r"bad\.txt: byte 13 \(0xff\) is no UTF-8"):
        corpus.document(1)
    assert text_corpus(tmp_path / "bad.txt", errors="replace").document(1) == ["broken \ufffd here"]
    (tmp_path / "bad.jsonl").write_text('{"text": "fine"}\n{"body": "none"}\n{"text"\n{"text": 3}\n')
    corpus = text_corpus(tmp_path / "bad.jsonl")
    for k, why in (
        (1, r"line 2: expected a string under the key 'text', got the keys body"),
        (2, "JSON"),
        (3, "string"),
    ):
        with pytest.raises(CorpusError, match=why):
            corpus.text(k)
    with pytest.raises(ValueError, match=r"text: expected a column of .*bad\.jsonl \(text\), got 'body'"):
        text_corpus(tmp_path / "bad.jsonl", text="body")
    (tmp_path / "cut.txt").write_text("one\ntwo\n")
    corpus = text_corpus(tmp_path / "cut.txt")
    (tmp_path / "cut.txt").write_text("one\n")
    with pytest.raises(CorpusError, match="the file has changed"):
        corpus.text(1)


def test_documents_that_are_too_long_are_named_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fastssl.data.corpus, "LONGEST", 100)
    asked: list[int] = []
    read = LocalFile.read

    def recorded(file: Any, begin: int, size: int) -> bytes:
        asked.append(size)
        return read(file, begin, size)

    one, lines = tmp_path / "one.txt", tmp_path / "lines.jsonl"
    one.write_text("a few words " * 12_000)
    short, longest, long = ('{"text": "%s"}\n' % ("ab" * size) for size in (3, 44, 45))
    lines.write_text(short + long + longest)
    corpora = open_source(one), open_source(f"text:{lines}")
    monkeypatch.setattr(LocalFile, "read", recorded)
    with pytest.raises(CorpusError, match=rf"line 1: .* at most 100 bytes, got one of 144,000; .* text8:{one}$"):
        corpora[0].text(0)
    with pytest.raises(CorpusError, match="lines.jsonl: line 2: .* at most 100 bytes, got one of 102; divide its text"):
        corpora[1].text(1)
    assert [corpora[1].text(k) for k in (0, 2)] == ["ab" * 3, "ab" * 44]
    assert max(asked) <= 100 or all(size == text_files._BLOCK for size in asked if size > 100)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_text("A line of words.\n" * 20)
    with pytest.raises(CorpusError, match="got one of 340; say what separates them"):
        text_corpus(folder).text(0)
    assert list(text_corpus(folder, separator="line").documents()) == [["A line of words."]] * 20
    with pytest.raises(CorpusError, match="corpus, document 1: .* got one of 101; divide its text"):
        Corpus(["a" * 100, "a" * 101]).document(1)
    monkeypatch.setattr(fastssl.data.corpus, "LONGEST", 100_000)
    assert "".join(map(text8(one).text, range(len(text8(one))))) == "a few words " * 12_000


def test_what_is_empty_or_wrong(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    assert len(text_corpus(tmp_path / "empty.txt")) == 0
    assert len(Corpus([])) == 0 and Corpus([""]).document(0) == []
    for wrong, error, why in (
        (lambda: Corpus("text"), TypeError, "got one str"),  # type: ignore[arg-type]
        (lambda: Corpus(["a", 1]), TypeError, "got int"),  # type: ignore[list-item]
        (lambda: Corpus(["a"], labels=[1], classes=["x"]), ValueError, "labels"),
        (lambda: Corpus(["a"], names=[]), ValueError, "names: expected 1, got 0"),
        (lambda: Corpus(["a"]).subset([1]), IndexError, "ids"),
        (lambda: text_corpus(tmp_path / "none"), FileNotFoundError, "none"),
        (lambda: text_corpus(tmp_path, separator="page"), ValueError, "separator"),
        (lambda: join([]), ValueError, "corpora"),
        (lambda: ParallelCorpus(Corpus(["a"]), Corpus([])), ValueError, "target: expected 1"),
        (lambda: fastssl.data.open("sotu,digits"), ValueError, "corpora between the commas"),
        (lambda: fastssl.data.sotu("year"), ValueError, "labels"),
        (lambda: fastssl.data.verses("fr"), ValueError, "language"),
    ):
        with pytest.raises(error, match=why):  # type: ignore[arg-type]
            wrong()
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=r"\.txt or \.jsonl"):
        text_corpus(tmp_path / "folder")


def test_embedded_texts() -> None:
    sotu, verses, glosses = (fastssl.data.open(name) for name in ("sotu", "verses-en-es", "glosses"))
    assert (len(sotu), len(verses), len(glosses)) == (233, 31_044, 117_659)
    assert sotu.names[0].startswith("1790") and sotu.classes[sotu.labels[0]] == "George Washington"
    assert fastssl.data.sotu("party").classes[1] == "Federalist"
    assert all(len(pair) == 2 and min(map(len, pair)) > 1 for pair in map(verses.pair, range(0, len(verses), 500)))
    assert len(verses.classes) == 66 and verses.subset([5]).pair(0) == verses.pair(5)
    assert len(glosses.classes) == 26 and (glosses.labels >= 0).sum() == 82_115
    dog = next(k for k in range(len(glosses)) if "domestic dog" in glosses.words(k))
    assert glosses.classes[glosses.labels[dog]] == "noun.animal"
    number = {name: k for k, name in enumerate(glosses.names)}
    assert "canine" in {word for name in glosses.hypernyms(dog) for word in glosses.words(number[name])}
    nouns = fastssl.data.glosses("nouns")
    assert nouns.labels is not None and nouns.labels.min() == 0 and nouns.hypernyms(0) == glosses.hypernyms(0) == []
    assert nouns.subset([4]).words(0) == ["object", "physical object"]
    both = fastssl.data.open("verses-es,glosses")
    assert len(both) == 31_044 + 117_659 and both.where == "verses-es,glosses"


def test_sentences_end_at_full_width_marks() -> None:
    assert sentences("كيف حالك؟ بخير. نعم") == ["كيف حالك؟", "بخير.", "نعم"]
    assert sentences("नमस्ते। आप कैसे हैं? ठीक।") == ["नमस्ते।", "आप कैसे हैं?", "ठीक।"]
    assert sentences("猫がいる。「犬も？」鳥！") == ["猫がいる。", "「犬も？」", "鳥！"]  # noqa: RUF001


def test_documents_without_enough_sentences_are_named(tmp_path: Path) -> None:
    file = tokenize_corpus(["One sentence only.", "Another one."], Tokenizer(), tmp_path / "a.tok")
    assert len(Windows(file, 64, whole="sentence")) == 2
    with pytest.raises(ValueError, match="data: expected a document of at least 2 sentences, corpus has none here"):
        Windows(file, 64, whole="pair")
