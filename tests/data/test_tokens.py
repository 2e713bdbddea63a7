"""Tokenizers, token files and their windows."""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastssl.data
from fastssl.data import (
    Corpus,
    TokenError,
    TokenFile,
    Tokenizer,
    Windows,
    load_tokenizer,
    tokenize_corpus,
    train_tokenizer,
)
from fastssl.data import tokens as tokens_module
from fastssl.data.tokenizer import tokenizer_of
from fastssl.models import tokenize
from tests.support.language import corpus, tokens

TEXTS = [sentence for document in corpus().documents() for sentence in document]


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=40))
def test_bytes_restore_any_text(text: str) -> None:
    text = text.encode("utf-8", "replace").decode().strip()
    tokenizer = Tokenizer()
    ids = tokenizer.encode([text])[0]
    assert tokenizer.decode(np.concatenate([[tokenizer.cls], ids, [tokenizer.sep]])) == text
    assert len(ids) == len(text.encode()) + 1 and bool((ids >= 5).all())


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_trained_tokenizers(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    tokenizer = train_tokenizer(TEXTS, kind, 300)
    assert tokenizer.kind == kind and tokenizer.size <= 300
    special = {tokenizer.pad, tokenizer.unk, tokenizer.cls, tokenizer.sep, tokenizer.mask}
    assert special == ({0, *range(tokenizer.size - 4, tokenizer.size)} if kind == "unigram" else set(range(5)))
    text = "The people speak about peace."
    ids = tokenizer.encode([text, "[MASK] [SEP]"])
    assert tokenizer.decode(ids[0]) == (text.lower() if kind == "wordpiece" else text)
    assert not set(ids[1].tolist()) & {tokenizer.mask, tokenizer.sep}  # names of special tokens in a text are text
    assert len(tokenizer.ordinary) == tokenizer.size - 5
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_json())
    for again in (load_tokenizer(tmp_path), pickle.loads(pickle.dumps(tokenizer))):
        assert again.fingerprint == tokenizer.fingerprint and np.array_equal(again.encode([text])[0], ids[0])
    words = ~tokenizer.continues()[ids[0]]
    assert words[0] and words.sum() == (6 if kind == "wordpiece" else 5)  # its full stop is a word
    with pytest.raises(ValueError, match=r"texts: expected at least one text"):
        train_tokenizer(["", " "], kind, 300)
    with pytest.raises(ValueError, match="vocabulary: expected an integer >= "):
        train_tokenizer(TEXTS, kind, 3)


@pytest.mark.parametrize(
    "call",
    [
        lambda text, path: Tokenizer().encode(text),
        lambda text, path: train_tokenizer(text, "bytes"),
        lambda text, path: tokenize(text),
        lambda text, path: Corpus(text),
        lambda text, path: tokenize_corpus(text, Tokenizer(), path),
    ],
)
def test_one_string_is_not_a_list_of_characters(call: Callable[[str, Path], object], tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="expected a sequence of strings, got one str"):
        call("a text", tmp_path / "a.tok")


def test_what_is_no_text_is_named(tmp_path: Path) -> None:
    made = [Tokenizer()]
    if importlib.util.find_spec("tokenizers"):
        made.append(train_tokenizer(TEXTS, "bpe", 300))
    for tokenizer in made:
        with pytest.raises(TypeError, match="texts: expected strings, got NoneType at 1"):
            tokenizer.encode(["a", None])  # type: ignore[list-item]
        for half in ("\ud83d", b"caf\xc3".decode(errors="surrogateescape")):  # of JSON, of a command's argument
            with pytest.raises(ValueError, match=r"texts: .* in text 1 '\\ud.*' is half of a pair of UTF-16"):
                tokenizer.encode(["a", half])
    with pytest.raises(TypeError, match="texts: expected strings, got NoneType at 1"):
        Corpus(["a", None])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="texts: expected a sequence of strings, got generator"):
        tokenize_corpus((text for text in TEXTS), Tokenizer(), tmp_path / "a.tok")
    file = tokens()
    for span in ((0, file.total + 1), (-1, 5), (5, 3)):
        with pytest.raises(ValueError, match=f"span: expected tokens from 0 to {file.total}, got "):
            Windows(file, 8, span)
    with pytest.raises(ValueError, match="length: expected an integer >= 1, got 1.5"):
        Windows(file, 1.5)  # type: ignore[arg-type]


def test_several_classes_per_text_are_not_held(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    corpus = Corpus(["a", "b"], "two", labels=[[1, -1], [1, 1]], classes=["x", "y"])
    assert tokenize_corpus(corpus, Tokenizer(), tmp_path / "a.tok").labels is None
    assert caplog.messages == ["two has several classes per text, which a token file does not hold"]


def test_lists_and_corpora_are_both_taken(tmp_path: Path) -> None:
    texts = ["A rose is a rose.", "Is it?"]
    made = [
        tokenize_corpus(given, Tokenizer(), tmp_path / f"{k}.tok") for k, given in enumerate((texts, Corpus(texts)))
    ]
    assert [len(file) for file in made] == [2, 2]
    assert np.array_equal(*(file.ids(0, 27) for file in made))
    pytest.importorskip("tokenizers")
    assert train_tokenizer(Corpus(texts), "bpe", 270).to_json() == train_tokenizer(texts, "bpe", 270).to_json()


def test_tokenizers_of_others(tmp_path: Path) -> None:
    library = pytest.importorskip("tokenizers")
    model = library.Tokenizer(library.models.WordLevel({"<unk>": 0, "the": 1, "</s>": 2}, unk_token="<unk>"))
    model.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json")
    assert (tokenizer.unk, tokenizer.sep) == (0, 2) and {tokenizer.pad, tokenizer.cls, tokenizer.mask} == {3, 4, 5}
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer: cannot be read"):
        load_tokenizer(tmp_path / "bad.json")
    with pytest.raises(FileNotFoundError, match="tokenizer: expected 'bytes'.*bpe and unigram are trained"):
        load_tokenizer(tmp_path / "none")
    with pytest.raises(ValueError, match="kind: expected one of wordpiece"):
        train_tokenizer([], "words")


def test_token_files_hold_the_corpus(tmp_path: Path) -> None:
    texts = ["One. Two three.", "", "Four.", "   "]
    given = Corpus(texts, "few", labels=[1, 0, 1, -1], classes=["a", "b"])
    file = tokenize_corpus(given, Tokenizer(), tmp_path / "few.tok")
    assert len(file) == 2 and [item.text for item in map(file.read, range(2))] == ["One. Two three.", "Four."]
    assert file.total == int(file.documents[-1]) == int(file.sentences[-1]) and len(file.sentences) == 4
    assert file.labels is not None and file.labels.tolist() == [1, 1] and file.classes == ["a", "b"]
    assert file.ids(0, file.total)[file.documents[1:] - 1].tolist() == [file.tokenizer.sep] * 2
    assert file.bytes_of(0, file.total) == sum(len(s) + 1 for s in ("One.", "Two three.", "Four."))
    assert list(file.texts(0, int(file.documents[1]))) == ["One. Two three."]
    for again in (pickle.loads(pickle.dumps(file)), fastssl.data.open(str(tmp_path / "few.tok"))):
        assert isinstance(again, TokenFile) and again.fingerprint == file.fingerprint
    assert not list(tmp_path.glob("*.tmp"))
    with pytest.raises(ValueError, match="data: expected at least one token, none is empty"):
        tokenize_corpus(Corpus(["", " "], "none"), Tokenizer(), tmp_path / "none.tok")
    assert not list(tmp_path.glob("none*"))


def test_cut_and_damaged_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens_module, "BLOCK", 64)
    path = tmp_path / "a.tok"
    file = tokenize_corpus(corpus(), Tokenizer(), path)
    content, start = path.read_bytes(), 8 + 2 * file.total
    assert np.array_equal(file.ids(0, file.total), np.frombuffer(content[8:start], "<u2"))
    for k, (cut, match) in enumerate(
        (
            (content[:-30], "cut"),
            (content[: len(content) // 2], "cut"),
            (content[:4], "not a token file"),
            (content[:start] + content[start + 8 :], "cut or damaged"),
            (content[: start + 9] + b"\xff" + content[start + 10 :], "checksum of the table"),
            (content[:-60] + b"\xff" + content[-59:], "checksum of the header"),
        )
    ):
        bad = tmp_path / f"{k}.tok"
        bad.write_bytes(cut)
        with pytest.raises(TokenError, match=rf"{k}.tok: .*{match}"):
            TokenFile(bad)
    path.write_bytes(content[:200] + b"\x07" + content[201:])
    damaged = TokenFile(path)
    damaged.ids(0, 64)
    with pytest.raises(TokenError, match=r"damaged \(checksum of the tokens from 96 on\)"):
        damaged.ids(64, 128)


@pytest.mark.parametrize("length", [5, 64, 1000])
def test_windows_cover_the_stream_once(length: int) -> None:
    file = tokens()
    for start in (0, int(file.documents[1]), int(file.documents[1]) + 3):
        windows = Windows(file, length, (start, file.total))
        read = [item.tokens for item in windows.items(range(len(windows)))]
        assert all(len(w.ids) <= length + 1 for w in read)
        wanted = file.ids(start, file.total)  # each is predicted once, the first from what is before it: of a document
        assert np.array_equal(np.concatenate([w.ids[1:] for w in read]), wanted)  # an end, also of the first
        assert read[0].ids[0] == (file.tokenizer.sep if start in file.documents else file.ids(start - 1, start)[0])
    windows = Windows(file, length)
    read = [item.tokens for item in windows.items(range(len(windows)))]
    for k, window in enumerate(read):
        begins = file.sentences[(file.sentences > windows.starts[k]) & (file.sentences < windows.stops[k])]
        assert window.sentences.tolist() == [0, *(begins - windows.starts[k]).tolist()]


@pytest.mark.parametrize("length", [7, 60, 1000])
def test_windows_of_sentences(length: int) -> None:
    file = tokens()
    windows = Windows(file, length, whole="sentences")
    read = [item.tokens.ids for item in windows.items(range(len(windows)))]
    assert all(1 <= len(ids) <= length and file.tokenizer.sep not in ids for ids in read)
    everything = file.ids(0, file.total)
    assert np.array_equal(np.concatenate(read), everything[everything != file.tokenizer.sep])
    ends = {*file.sentences.tolist(), *(file.documents - 1).tolist()}
    if length > 50:  # longer than each sentence: none is cut
        assert all(int(stop) in ends for stop in windows.stops)
    for k in range(len(windows)):
        for draw in (0.0, 0.5, 0.999):
            other = windows.elsewhere(k, draw)
            assert other is not None and windows.documents[other] != windows.documents[k]
    assert windows.fingerprint != Windows(file, length + 1, whole="sentences").fingerprint
    one = Windows(file, 50, (0, int(file.documents[1])), whole="sentences")
    assert one.elsewhere(0, 0.5) is None


def test_parts_are_cut_between_documents() -> None:
    many, few = tokens(40), tokens(3)
    (start, cut), (again, stop) = many.divide(0.1)
    assert (start, stop) == (0, many.total) and cut == again == many.documents[36]
    assert few.divide(0.1)[0][1] in few.sentences and few.divide(0.0) == ((0, few.total), (few.total, few.total))
    for share, match in ((1.0, "held_out: expected a share"), (0.99, "leaves nothing to train on")):
        with pytest.raises(ValueError, match=match):
            few.divide(share)
    with pytest.raises(ValueError, match="data: expected at least two tokens"):
        Windows(few, 8, (5, 6))
    for wrong in ({"whole": "words"}, {"length": 0}):
        with pytest.raises(ValueError, match="whole|length"):
            Windows(few, **{"length": 8, **wrong})  # type: ignore[arg-type]


def test_tokenizers_that_cut_and_pad_are_read_without_that(tmp_path: Path) -> None:
    library = pytest.importorskip("tokenizers")
    made = train_tokenizer(["a rose is a rose is a rose"] * 3, "wordpiece", 60)
    wanted = made.encode(["a rose is a rose", "a"])
    other = library.Tokenizer.from_str(made.to_json())
    other.enable_truncation(2)
    other.enable_padding(length=12)
    other.save(str(tmp_path / "tokenizer.json"))
    found = load_tokenizer(tmp_path)
    assert [ids.tolist() for ids in found.encode(["a rose is a rose", "a"])] == [ids.tolist() for ids in wanted]


@pytest.mark.parametrize("split", ("GPT-2", "Qwen"))
def test_sentences_have_a_space_between_them(split: str, tmp_path: Path) -> None:
    """Tokenizers of published models tell the first word of a text from the others."""
    library = pytest.importorskip("tokenizers")
    steps, trainers = library.pre_tokenizers, library.trainers
    own = library.Tokenizer(library.models.BPE())
    own.pre_tokenizer = steps.ByteLevel(add_prefix_space=False)
    if split == "Qwen":
        words = steps.Split(library.Regex(r" ?\w+|[^\w ]+"), "isolated")
        own.pre_tokenizer = steps.Sequence([words, steps.ByteLevel(add_prefix_space=False, use_regex=False)])
    own.decoder = library.decoders.ByteLevel()
    alphabet = steps.ByteLevel.alphabet()
    own.train_from_iterator(
        ["A rose is a rose. It is."] * 9,
        trainers.BpeTrainer(vocab_size=290, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet),
    )
    own.save(str(tmp_path / "tokenizer.json"))
    made = load_tokenizer(tmp_path)
    file = tokenize_corpus(["A rose is. It is.\nA rose."], made, tmp_path / "a.tok")
    assert file.read(0).text == "A rose is. It is. A rose."
    assert made.encode(["It"])[0].tolist() == own.encode("a It").ids[1:]
    assert made.continues()[made.encode(["rose"])[0]].tolist() == [False]
    again = tokenizer_of(made.to_json())
    assert again.fingerprint == made.fingerprint == file.tokenizer.fingerprint


def test_the_tokenizer_of_a_token_file(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    made = train_tokenizer(["a rose is a rose is a rose"] * 3, "bpe", 280)
    tokenize_corpus(["a rose"], made, tmp_path / "a.tok")
    assert load_tokenizer(tmp_path / "a.tok").fingerprint == made.fingerprint
    (tmp_path / "b.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="tokenizer: .*b.json"):
        load_tokenizer(tmp_path / "b.json")


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_the_same_texts_give_the_same_tokenizer(kind: str) -> None:
    """Words with many pairs of equal counts: the library numbers letters within words in an order of chance."""
    pytest.importorskip("tokenizers")
    letters = np.random.default_rng(0).integers(97, 123, (400, 6)).astype(np.uint8)
    texts = ["[MASK] ##a Ärger", *(row.tobytes().decode() for row in letters)]
    made = [train_tokenizer(iter(texts), kind, 400) for _ in range(3)]
    assert len({tokenizer.fingerprint for tokenizer in made}) == 1
    made += [train_tokenizer(["rare: Ü ☃ Z Q %", *(["the rain in Spain"] * 30)], kind, 300) for _ in range(3)]
    assert len({tokenizer.fingerprint for tokenizer in made}) == 2
    assert made[0].encode(["[MASK] ##a"])[0].max() < 400
    assert made[0].mask not in made[0].encode(["[MASK] ##a"])[0]
    assert made[0].size == 400
    if kind == "wordpiece":  # tokens of letters within words are no special ones, which a text could name
        assert "##a" not in [made[0].text_of(k) for k in made[0].encode(["##a"])[0]]
        assert len(made[0].ordinary) == 395
