"""Language methods on the command line: from a corpus to scores, texts and a Hugging Face model."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from fastssl.cli import app
from fastssl.data import TokenFile
from fastssl.data.source import digest
from fastssl.methods import SentenceMethod, get, methods_of
from fastssl.models.language import OWN
from fastssl.train import load_checkpoint, load_method, pretrain
from tests.support.language import corpus

runner = CliRunner()
SHAPE = ["--width", "16", "--depth", "1", "--heads", "2", "--length", "32", "--batch-size", "16", "--epochs", "1"]


def run(*arguments: object, code: int = 0) -> str:
    result = runner.invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code or (code and result.exception), result.output + str(result.exception)
    return result.output if code == 0 else str(result.exception)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of .txt, one per document."""
    folder = tmp_path_factory.mktemp("texts")
    given = corpus(30)
    for k in range(len(given)):
        (folder / f"{k:02}.txt").write_text(given.text(k))
    return folder


def test_bytes_need_no_extra(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Methods on our own networks, also where neither tokenizers nor transformers can be imported."""
    import sys

    for name in ("transformers", "tokenizers"):
        monkeypatch.setitem(sys.modules, name, None)
    file = tmp_path / "texts.tok"
    assert "30 documents" in run("tokenize", f"text:{texts}", file, "--tokenizer", "bytes")
    assert TokenFile(file).tokenizer.size == 261
    networks = {"gpt": "transformer", "bert": "transformer", "bilm": "lstm", "skip-thoughts": "gru"}
    for name, network in networks.items():
        out = tmp_path / name
        given = ["--data", file, "--network", network, *SHAPE, "--out", out]
        assert "261 tokens" in run("pretrain", name, *given)
        span = load_checkpoint(out)[1]["source"]["span"]
        assert span == [0, TokenFile(file).documents[28]]  # the last twentieth is held out
        scores = tmp_path / "scores.json"
        run("evaluate", out, "--out", scores)
        table = json.loads(scores.read_text())
        assert table["accuracy"].keys() == {"pretrained", "unigram"}
        assert ("bits per byte" in table) == (name == "gpt") and ("order" in table) == (name == "bert")
    made = run("generate", tmp_path / "gpt", "The state", "--tokens", "20", "--count", "2", "--seed", "3")
    assert made.count("The state") == 2
    assert made == run("generate", tmp_path / "gpt", "The state", "--tokens", "20", "--count", "2", "--seed", "3")
    assert "expected one of a generative method" in run("generate", tmp_path / "bert", code=2)
    assert "top: gpt has no such option" in run("generate", tmp_path / "gpt", "--set", "top=3", code=2)
    assert "huggingface has no 'transformer'" in run("export", tmp_path / "gpt", "--to", "huggingface", code=2)
    assert "extra: pip install fastssl[text]" in run("pretrain", "gpt", "--data", file, "--out", tmp_path / "x", code=2)
    assert "extra: pip install fastssl[text]" in run("tokenize", f"text:{texts}", file, "--overwrite", code=2)


def test_fine_tuning_stands_beside_scratch(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fastssl.evaluate as module
    from fastssl.evaluate import TextFineTuning
    from fastssl.models import WordVectors

    def quick(**options: Any) -> TextFineTuning:
        return TextFineTuning(epochs=1, least_steps=3, rates=(0.01,), **options)

    monkeypatch.setattr(module, "TextFineTuning", quick)
    out, file, labelled = tmp_path / "bert", tmp_path / "texts.tok", tmp_path / "labelled"
    run("tokenize", f"text:{texts}", file, "--tokenizer", "bytes")
    run("pretrain", "bert", "--data", file, "--network", "transformer", *SHAPE, "--out", out)
    for name in ("war", "sea"):
        (labelled / name).mkdir(parents=True)
        for k in range(12):
            (labelled / name / f"{k}.txt").write_text(f"{name} {k}")
    WordVectors(["a", "e"], torch.randn(2, 16)).save(tmp_path / "words.txt")
    given = ["--protocol", "finetune", "--data", f"text:{labelled}"]
    more = ["--labels", "4,8", "--seeds", "2", "--init", f"word2vec:{tmp_path / 'words.txt'}"]
    run("evaluate", out, *given, *more, "--out", tmp_path / "a.json")
    table = json.loads((tmp_path / "a.json").read_text())
    assert list(table) == [f"labelled, {n} labels per class, top-1{end}" for n in (4, 8) for end in ("", "_se")]
    rows = {"pretrained", "from scratch", "from word vectors", "TF-IDF", "constant"}
    assert all(set(row) == rows for row in table.values())
    assert "steps: expected an integer >= 1, got 0" in run("evaluate", out, *given, "--steps", "0", code=2)
    assert "seeds: expected an integer >= 1, got 0" in run("evaluate", out, *given, "--seeds", "0", code=2)
    assert "labels: expected numbers" in run("evaluate", out, *given, "--labels", "few", code=2)
    assert "labels: expected the protocol 'finetune' or 'tags'" in run("evaluate", out, "--labels", "4", code=2)
    assert "protocol: expected one of 'frozen', 'finetune'" in run("evaluate", out, "--protocol", "layers", code=2)


NAMES = "mr B-PER\nlee I-PER\nspoke O\n\nso O\nms B-PER\nday I-PER\n\n"
SPEECH = "1\tthey\t_\tPRON\t_\t_\t2\t_\t_\t_\n2\tspoke\t_\tVERB\t_\t_\t0\t_\t_\t_\n\n"


def test_tags_and_translations_of_own_files(texts: Path, tmp_path: Path) -> None:
    """From files of the user's own to tables beside scratch."""
    pytest.importorskip("transformers")
    file = tmp_path / "texts.tok"
    run("tokenize", f"text:{texts}", file, "--tokenizer", "bytes")
    for name, network in (("bert", "transformer"), ("t5", "t5")):
        run("pretrain", name, "--data", file, "--network", network, *SHAPE, "--out", tmp_path / name)

    def scores(name: str, protocol: str, data: str, *more: str) -> dict[str, dict[str, float]]:
        few = ["--steps", "2", "--out", tmp_path / "a.json"]
        run("evaluate", tmp_path / name, "--protocol", protocol, "--data", data, *more, *few)
        found: dict[str, dict[str, float]] = json.loads((tmp_path / "a.json").read_text())
        return found

    (tmp_path / "names.conll").write_text(NAMES * 10)
    folder = tmp_path / "speech"
    folder.mkdir()
    for part in ("train", "dev"):
        (folder / f"{part}.conllu").write_text(SPEECH * 6)
    rows = {"pretrained", "from scratch", "most frequent tag"}
    table = scores("bert", "tags", f"conll:{tmp_path / 'names.conll'}", "--labels", "6,12", "--seeds", "2")
    assert list(table)[:3] == [
        "names, 6 sentences, span F1",
        "names, 6 sentences, span F1_se",
        "names, 6 sentences, word accuracy",
    ]
    assert len(table) == 8 and all(set(values) == rows for values in table.values())
    table = scores("bert", "tags", f"conll:{folder}", "--seeds", "1")
    assert table["speech, word accuracy"]["most frequent tag"] == 100 and list(table) == ["speech, word accuracy"]
    asked = [{"question": "Who?", "answers": [{"text": "lee", "answer_start": 3}]}] * 8
    squad = {"data": [{"paragraphs": [{"context": "mr lee spoke", "qas": asked}]}]}
    (tmp_path / "squad.json").write_text(json.dumps(squad))
    table = scores("bert", "answers", f"squad:{tmp_path / 'squad.json'}", "--labels", "4", "--seeds", "1")
    assert list(table) == ["squad, 4 questions, exact", "squad, 4 questions, F1"]
    assert all(set(values) == {"pretrained", "from scratch"} for values in table.values())
    assert "data: expected squad:FILE" in run("evaluate", tmp_path / "bert", "--protocol", "answers", code=2)
    assert "expected conll:FILE" in run("evaluate", tmp_path / "bert", "--protocol", "tags", "--data", "names", code=2)

    (tmp_path / "pairs.tsv").write_text("uno\tone\ndos\ttwo\ntres\tthree\n" * 5)
    table = scores("t5", "translation", f"pairs:{tmp_path / 'pairs.tsv'}", "--labels", "4", "--seeds", "1")
    names = [f"pairs, 4 pairs, {name}" for name in ("BLEU", "chrF", "ROUGE-L", "nats per token")]
    assert list(table) == names and set(table[names[3]]) == {"pretrained", "from scratch"}
    assert all(set(table[name]) == {"pretrained", "from scratch", "source text"} for name in names[:3])
    translate = ["evaluate", tmp_path / "bert", "--protocol", "translation"]
    assert "with a decoder" in run(*translate, "--data", f"pairs:{tmp_path / 'pairs.tsv'}", code=2)
    assert "expected pairs of texts" in run(*translate, "--data", f"text:{texts}", code=2)
    assert "readout: expected none" in run(*translate, "--readout", "token", code=2)
    assert "steps: expected the protocol" in run(*translate[:2], "--steps", "3", code=2)


@pytest.mark.parametrize("name", methods_of("tokens"))
def test_from_a_folder_to_a_hugging_face_model(name: str, texts: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    out = tmp_path / "run"
    given = ["pretrain", name, "--data", f"text:{texts}", "--vocabulary", "300", *SHAPE, "--out", out]
    assert "evaluate" in run(*given)
    resumed = run(*given[:-1], out, "--resume")  # a finished run: nothing is left to do
    assert "checkpoint:" in resumed
    sentences = issubclass(get(name), SentenceMethod)  # whose held-out part is too small here
    run("evaluate", out, *(["--data", f"text:{texts}"] if sentences else []))
    if get(name).generates:
        made = run("generate", out, "The state", "--tokens", "5", "--count", "2")
        assert made == run("generate", out, "The state", "--tokens", "5", "--count", "2")
    if get(name).networks[0] in OWN:  # type: ignore[attr-defined]
        assert "huggingface has no" in run("export", out, "--to", "huggingface", code=2)
        return
    run("export", out, "--to", "huggingface")
    model = transformers.AutoModel.from_pretrained(out / "huggingface").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(out / "huggingface")
    ids = tokenizer("The people speak about peace.", add_special_tokens=False, return_tensors="pt").input_ids
    file = TokenFile(out / "corpus.tok")
    assert ids[0].tolist() == file.tokenizer.encode(["The people speak about peace."])[0].tolist()
    more = {"decoder_input_ids": ids} if name in ("t5", "bart") else {}
    with torch.no_grad():
        assert bool(torch.isfinite(model(ids, **more)[0]).all())
    if name == "t5":
        assert tokenizer.convert_tokens_to_ids("<extra_id_0>") == file.tokenizer.size + 99
    assert not list(out.glob("*.tmp"))


def test_options_of_the_other_kind_are_refused(texts: Path, tmp_path: Path) -> None:
    base = ["--data", f"text:{texts}", "--out", tmp_path / "run"]
    assert "size: gpt takes texts, it has no such option" in run("pretrain", "gpt", *base, "--size", "32", code=2)
    assert "tokenizer: simclr takes images" in run("pretrain", "simclr", "--tokenizer", "bytes", code=2)
    wrong = run("pretrain", "gpt", "--data", "digits", "--out", tmp_path / "x", code=2)
    assert "data: expected a corpus or a token file" in wrong
    assert "held_out: expected a share" in run(
        "pretrain", "gpt", *base, "--network", "transformer", "--held-out", "1.5", code=2
    )
    for share in ("-0.1", "nan"):
        wrong = run("pretrain", "gpt", *base, "--held-out", share, code=2)
        assert f"held_out: expected a share in [0, 1), got {share}" in wrong
    for name, value in (("order", "next"), ("objective", "spans")):
        assert f"{name}: gpt has no such option" in run("pretrain", "gpt", *base, f"--{name}", value, code=2)
    twice = run("pretrain", "t5", *base, "--objective", "prefix", "--set", "objective=spans", code=2)
    assert "objective: expected one value, got prefix and --set objective=spans" in twice
    for name, given, message in (
        ("bert", ["--network", "roberta"], "order: expected None (--order none), 'roberta' has no head on it"),
        ("bert", ["--network", "llama"], "network: BERT expects one of bert, "),
        ("bert", ["--set", "share=2"], "share: expected a share in (0, 1), got 2"),
        ("gpt", ["--width", "20", "--heads", "3"], "heads: expected a divisor of width 20, got 3"),
        ("gpt", ["--network", "mistral", "--length", "5000"], "length: expected at most 4096, the window of"),
        ("t5", ["--objective", "none-such"], "objective: expected one of"),
    ):
        assert message in run("pretrain", name, *base, *given, code=2)
    with pytest.raises(ValueError, match="network: BERT expects one of bert"):
        pretrain("bert", f"text:{texts}", out=tmp_path / "run", encoder="llama")
    assert not (tmp_path / "run").exists()  # all of it before texts are tokenized
    (tmp_path / "a.md").write_text("A note.")
    assert "out: expected a name that ends in .tok" in run("tokenize", f"text:{texts}", tmp_path / "a", code=2)
    assert f"text:{tmp_path}/a.md" in run("tokenize", tmp_path / "a.md", tmp_path / "a.tok", code=2)
    file = tmp_path / "a.tok"
    run("tokenize", f"text:{texts}", file, "--tokenizer", "bytes")
    again = ["--data", file, "--tokenizer", "bytes", "--out", tmp_path / "y"]
    assert "was written with its own" in run("pretrain", "gpt", *again, code=2)
    again[2:4] = ["--vocabulary", "300"]
    assert "vocabulary: " in run("pretrain", "gpt", *again, code=2)
    for given, kind in ((["--tokenizer", "bytes"], "bytes"), (["--network", "transformer"], "bytes")):
        wrong = run("pretrain", "gpt", *base, *given, "--vocabulary", "300", code=2)
        assert f"vocabulary: expected none, the tokenizer '{kind}' is not trained, got 300" in wrong
    plan = run(
        "pretrain", "gpt", "--data", file, "--network", "transformer", *SHAPE, "--dry-run", "--out", tmp_path / "z"
    )
    assert "a batch: [16, 32] int64" in plan and "parameters:" in plan and not (tmp_path / "z" / "checkpoint").exists()


def test_processes_share_a_token_file(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastssl.data import Corpus
    from fastssl.data import open as open_source
    from fastssl.train.language import open_tokens

    given = open_source(f"text:{texts}")
    assert isinstance(given, Corpus)
    first = open_tokens(given, tmp_path, get("gpt"), "bytes")
    monkeypatch.setenv("LOCAL_RANK", "1")  # as Lightning Fabric starts it
    written = (tmp_path / "corpus.tok").stat().st_mtime_ns
    assert open_tokens(given, tmp_path, get("gpt"), "bytes").fingerprint == first.fingerprint
    assert (tmp_path / "corpus.tok").stat().st_mtime_ns == written
    for key, value in (("TORCHELASTIC_RUN_ID", "a"), ("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2"), ("RANK", "1")):
        monkeypatch.setenv(key, value)
    with pytest.raises(ValueError, match=r"data: processes of torchrun share a token file: fastssl tokenize"):
        open_tokens(given, tmp_path, get("gpt"), "bytes")


def test_a_held_out_part_is_needed(texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run("pretrain", "gpt", "--data", f"text:{texts}", "--network", "transformer", *SHAPE, "--held-out", 0, "--out", out)
    assert "data: the run held nothing out; give --data" in run("evaluate", out, code=2)
    (tmp_path / "new.txt").write_text("The union is strong and people have met. " * 20)
    assert "bits per byte" in run("evaluate", out, "--data", tmp_path / "new.txt")
    assert [p.name for p in out.glob("*.tok")] == ["corpus.tok"]  # evaluation writes nothing into the run
    (out / "corpus.tok").unlink()
    assert "the token file of the run" in run("evaluate", out, code=2)


NETWORK = ["--network", "transformer", *SHAPE]


def test_only_a_run_that_starts_replaces_the_tokens_of_another(texts: Path, tmp_path: Path) -> None:
    out, other, short = tmp_path / "run", tmp_path / "other.txt", tmp_path / "short.txt"
    other.write_text("Another text, which nobody has trained on. " * 60)
    short.write_text("Too short.")
    first = ["pretrain", "gpt", "--data", f"text:{texts}", *NETWORK, "--out", out]
    run(*first)
    scores = run("evaluate", out)
    for name, more, code in ((other, ["--dry-run"], 0), (other, ["--resume"], 2), (short, ["--overwrite"], 2)):
        said = run("pretrain", "gpt", "--data", f"text:{name}", *NETWORK, "--out", out, *more, code=code)
        assert code == 0 or "data: " in said
        assert run("evaluate", out) == scores
    assert "tokenizer: " in run(*first, "--resume", "--tokenizer", "wordpiece", code=2)
    run(*first, "--resume", "--tokenizer", "bytes")
    run("pretrain", "gpt", "--data", f"text:{other}", *NETWORK, "--out", out, "--overwrite")
    assert len(list(out.glob("*.tok"))) == 1 and run("evaluate", out) != scores
    run("pretrain", "gpt", "--data", f"text:{other}", *NETWORK, "--out", tmp_path / "none", "--dry-run")
    assert not (tmp_path / "none").exists()


def test_a_checkpoint_whose_replacement_was_cut_short_is_that_of_the_run(texts: Path, tmp_path: Path) -> None:
    """A process that was killed between two renames has left its checkpoint as checkpoint.old."""
    first = ["pretrain", "gpt", "--data", f"text:{texts}", *NETWORK, "--out", tmp_path / "run"]
    run(*first)
    scores = run("evaluate", tmp_path / "run")
    (tmp_path / "run" / "checkpoint").rename(tmp_path / "run" / "checkpoint.old")
    assert run("evaluate", tmp_path / "run") == scores
    assert "holds a run already" in run(*first, code=2)
    run(*first, "--resume")
    more = ["--init", tmp_path / "run", "--epochs", "1", "--batch-size", "16"]
    run("pretrain", "gpt", "--data", f"text:{texts}", *more, "--out", tmp_path / "next")
    run(*first, "--overwrite")
    assert not (tmp_path / "run" / "checkpoint.old").exists()


@pytest.mark.parametrize("method", ["gpt", "bert"])
def test_a_run_on_windows_of_an_earlier_version_is_not_resumed_on_others(
    method: str, texts: Path, tmp_path: Path
) -> None:
    """Those of a stream began one token later, in as many windows or one more or fewer; sentences are as they were."""
    out = tmp_path / "run"
    more = ["pretrain", method, "--data", f"text:{texts}", "--network", "transformer", *SHAPE, "--out", out]
    run(*more)
    path = out / "checkpoint" / "state.json"
    state = json.loads(path.read_text())
    file, (start, stop) = TokenFile(out / "corpus.tok"), state["source"]["span"]
    length = load_method(out).length
    kind = {"gpt": "stream", "bert": "sentences"}[method]
    state["source"]["fingerprint"] = digest(file.fingerprint, kind, str((length, start, stop)))
    path.write_text(json.dumps(state))
    said = run(*more[:-4], "--epochs", 2, *more[-2:], "--resume", code=2 if method == "gpt" else 0)
    assert ("windows of tokens began one token later" in said) is (method == "gpt")
    assert "perplexity" in run("evaluate", out)  # the tokens are the same


def test_a_run_that_was_moved_finds_its_tokens(texts: Path, tmp_path: Path) -> None:
    run("pretrain", "gpt", "--data", f"text:{texts}", *NETWORK, "--out", tmp_path / "run")
    scores = run("evaluate", tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "moved")
    assert run("evaluate", tmp_path / "moved") == scores
    token_file = next((tmp_path / "moved").glob("*.tok"))
    other = tmp_path / "other.txt"
    other.write_text("Another text. " * 3000)
    token_file.unlink()
    run("tokenize", f"text:{other}", token_file, "--tokenizer", "bytes")
    assert "is not the token file that" in run("evaluate", tmp_path / "moved", code=2)


def test_tables_of_texts_with_labels(tmp_path: Path) -> None:
    rows = [
        (f"It was a {word} film, number {k},\nwith\u2028two lines.", word)
        for k in range(20)
        for word in ("good", "bad")
    ]
    (tmp_path / "reviews.csv").write_text("text,label\n" + "".join(f'"{text}",{word}\n' for text, word in rows))
    (tmp_path / "reviews.jsonl").write_text(
        "".join(json.dumps({"text": t, "label": w}, ensure_ascii=False) + "\n" for t, w in rows)
    )
    for name in ("reviews.csv", "text:" + str(tmp_path / "reviews.csv"), "reviews.jsonl"):
        place = name if name.startswith("text:") else tmp_path / name
        said = run("data", place)
        assert "40" in said and "2 classes" in said
    run("pretrain", "bert", "--data", tmp_path / "reviews.jsonl", *NETWORK, "--out", tmp_path / "run")
    tune = ["evaluate", tmp_path / "run", "--protocol", "finetune", "--data", tmp_path / "reviews.csv", "--seeds", 1]
    tune += ["--steps", 2]
    assert "4 labels per class" in run(*tune, "--labels", "4")
    assert "labels: expected at most" in run(*tune, "--labels", "500", code=2)


def test_features_of_texts(texts: Path, tmp_path: Path) -> None:
    from fastssl.evaluate import read_features
    from fastssl.train import load_method

    run("pretrain", "sim-cse", "--data", f"text:{texts}", "--vocabulary", 300, *SHAPE, "--out", tmp_path / "run")
    given = tmp_path / "new.txt"
    given.write_text("The people speak.\nThe state of the union is strong, and people have met.\n")
    assert "2 rows of features" in run("embed", tmp_path / "run", "--data", given, "--out", tmp_path / "new.npz")
    method = load_method(tmp_path / "run").eval()
    ids = method.tokenizer.encode(["The people speak."])
    with torch.no_grad():
        wanted = method.embed(method.sentences(ids))
    torch.testing.assert_close(read_features(tmp_path / "new.npz").features[:1], wanted)
    shown = run("neighbors", tmp_path / "new.npz", "--out", tmp_path / "sheet.png", code=2)
    assert "features: expected those of images, new has none" in shown
    assert "data: expected texts" in run("embed", tmp_path / "run", "--out", tmp_path / "x.npz", code=2)
    (tmp_path / "empty.txt").write_text("\n\n")
    failed = run("embed", tmp_path / "run", "--data", tmp_path / "empty.txt", "--out", tmp_path / "x.npz", code=2)
    assert "data: expected at least one text, " in failed
    pairs, alone = tmp_path / "pairs.csv", tmp_path / "alone.csv"
    pairs.write_text("text1,text2\nA rose.,Una rosa.\n,Nada.\nA tulip.,Un tulipán.\n")
    printed = run("embed", tmp_path / "run", "--data", pairs, "--out", tmp_path / "pairs.npz")
    assert "the first text of each pair" in printed and "#text=NAME" in printed
    assert "1 of 3 texts are empty" in printed
    alone.write_text('text\nA rose.\n""\nA tulip.\n')
    run("embed", tmp_path / "run", "--data", alone, "--out", tmp_path / "alone.npz")
    assert torch.equal(*(read_features(tmp_path / f"{name}.npz").features for name in ("pairs", "alone")))
    second = run("embed", tmp_path / "run", "--data", f"{pairs}#text=text2", "--out", tmp_path / "second.npz")
    assert "first text" not in second and "empty" not in second
    assert "data: expected a corpus" in run(
        "embed", tmp_path / "run", "--data", "digits", "--out", tmp_path / "x.npz", code=2
    )


@pytest.fixture(scope="module")
def trained(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of GPT that no test changes."""
    out = tmp_path_factory.mktemp("trained") / "run"
    run("pretrain", "gpt", "--data", f"text:{texts}", *NETWORK, "--out", out)
    return out


def test_options_of_generate_are_named(trained: Path, tmp_path: Path) -> None:
    for option in ("tokens", "count"):
        assert f"{option}: expected an integer >= 1, got 0" in run("generate", trained, f"--{option}", 0, code=2)
    made = run("generate", trained, "The", "--tokens", 3, "--out", tmp_path / "made.txt")
    assert (tmp_path / "made.txt").read_text().strip() in made and "1 text:" in made


def test_texts_of_several_prompts_are_those_of_each(trained: Path, tmp_path: Path) -> None:
    prompts, how = ["The", "My fellow citizens", "The"], ["--tokens", 5, "--count", 2, "--seed", 4]
    alone = [run("generate", trained, prompt, *how) for prompt in prompts]
    assert run("generate", trained, *prompts, *how) == "".join(alone)
    (tmp_path / "p.txt").write_bytes("\ufeff".encode() + "\r\n".join(prompts).encode())
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"prompt": p, "id": 1}) + "\n" for p in prompts))
    for name in ("p.txt", "p.jsonl"):
        out = tmp_path / "made.jsonl"
        printed = run("generate", trained, "--prompts", tmp_path / name, *how, "--out", out)
        assert printed.startswith("".join(alone)) and "6 texts:" in printed
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        assert [row["prompt"] for row in rows] == [prompt for prompt in prompts for _ in range(2)]
        assert "".join(row["text"] + "\n" for row in rows) == "".join(alone)
    for content, match in (
        ('{"text": "a"}', "line 1: expected an object .* under 'prompt'"),
        ("{", "line 1: Expecting"),
    ):
        (tmp_path / "p.jsonl").write_text(content)
        refused = run("generate", trained, "--prompts", tmp_path / "p.jsonl", code=2)
        assert re.search(match, refused), refused
    (tmp_path / "p.txt").write_text("a\n\nb\n")
    assert "line 2: expected a prompt, got ''" in run("generate", trained, "--prompts", tmp_path / "p.txt", code=2)
    assert "expected one of them, got both" in run("generate", trained, "a", "--prompts", tmp_path / "p.txt", code=2)
    assert "no file" in run("generate", trained, "--prompts", tmp_path / "none", code=2)


def test_methods_that_are_options_of_others_are_named() -> None:
    for name, other in (("roberta", "bert with order=None"), ("albert", "order='swapped'"), ("pegasus", "t5 with")):
        with pytest.raises(ValueError, match=f"got '{name}'; it is .*{other}"):
            get(name)
