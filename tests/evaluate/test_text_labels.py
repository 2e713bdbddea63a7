"""Fine-tuning of texts uses pretrained weights, pairs and scores; the metrics are those of scikit-learn and scipy."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastssl.data import Corpus, ParallelCorpus, Splits, Tokenizer, glue, open_splits, tokenize_corpus
from fastssl.data.glue import GLUE
from fastssl.evaluate import METRICS, TextFineTuning, few_text_labels, finetune_text
from fastssl.evaluate.finetune_text import TextClassifier, TextTask, encode_texts
from fastssl.evaluate.linear import HEAD_DECAYS, linear_head
from fastssl.models import LanguageModel, build_language
from tests.support.language import SUBJECT_NETWORKS, network_of

QUICK = TextFineTuning(epochs=1, least_steps=80, batch_size=16, rates=(1e-2,))


@pytest.mark.parametrize("seed", range(5))
def test_metrics_are_those_of_other_libraries(seed: int) -> None:
    from scipy import stats
    from sklearn import metrics

    rng = np.random.default_rng(seed)
    n = int(rng.integers(5, 60))
    for classes in (2, 4):
        labels = rng.integers(0, classes, n)
        scores = torch.from_numpy(rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[labels])
        predicted, truth = scores.argmax(1).numpy(), torch.from_numpy(labels)
        assert METRICS["Matthews"](scores, truth) == pytest.approx(100 * metrics.matthews_corrcoef(labels, predicted))
        if classes == 2:
            expected = metrics.f1_score(labels, predicted, zero_division=0)
            assert METRICS["F1"](scores, truth) == pytest.approx(100 * expected)
    a, b = rng.integers(0, 6, n).astype(float), rng.normal(size=n)
    given = torch.from_numpy(b)[:, None], torch.from_numpy(a)
    assert METRICS["Pearson"](*given) == pytest.approx(100 * stats.pearsonr(b, a).statistic)
    assert METRICS["Spearman"](*given) == pytest.approx(100 * stats.spearmanr(b, a).statistic)


def test_metrics_of_several_classes_are_their_formulas() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(30, 5)).round(1), rng.integers(-1, 2, (30, 5))
    labels[:, 4] = np.where(labels[:, 4] > 0, -1, labels[:, 4])  # a class that does not occur
    given = torch.from_numpy(scores), torch.from_numpy(labels)
    totals, each, precisions = np.zeros(3), [], []
    for own, truth in zip(scores.T, labels.T, strict=True):
        counts = np.zeros(3)  # right, wrongly found, missed
        for score, label in zip(own, truth, strict=True):
            counts += 0 if label == 0 else np.array([score > 0 < label, score > 0 > label, score <= 0 < label])
        totals += counts
        each.append(2 * counts[0] / (2 * counts[0] + counts[1] + counts[2]))
        precision = recall = area = 0.0
        for bound in sorted(set(own[truth != 0]), reverse=True):
            found = truth[(own >= bound) & (truth != 0)] > 0
            precision, before = found.mean(), recall
            recall = found.sum() / max((truth > 0).sum(), 1)
            area += (recall - before) * precision
        precisions += [area] if (truth > 0).any() else []
    assert METRICS["micro F1"](*given) == pytest.approx(200 * totals[0] / (2 * totals[0] + totals[1] + totals[2]))
    assert METRICS["macro F1"](*given) == pytest.approx(100 * np.mean(each))
    assert METRICS["mean AP"](*given) == pytest.approx(100 * np.mean(precisions))


@pytest.mark.parametrize(
    "kind", ["columns.csv", "lists.json", pytest.param("lists.jsonl", marks=pytest.mark.slow), "text:parts"]
)
def test_texts_have_several_classes(kind: str, tmp_path: Path) -> None:
    rng, words = np.random.default_rng(0), ("sea", "tax", "war")
    signs = [[int(k) for k in rng.integers(0, 2, 3)] for _ in range(96)]
    texts = [" ".join(["we", *(word for word, sign in zip(words, row, strict=True) if sign)]) for row in signs]
    lists = [[word for word, sign in zip(words, row, strict=True) if sign] for row in signs]
    rows = [{"text": text, "label": own} for text, own in zip(texts, lists, strict=True)]
    path = tmp_path / kind.removeprefix("text:")
    if kind == "columns.csv":
        lines = [",".join([text, *map(str, row)]) for text, row in zip(texts, signs, strict=True)]
        path.write_text("\n".join([",".join(["text", *words]), *lines]))
        given = open_splits(f"{path}#labels={{sea,tax,war}}")
    elif kind == "text:parts":
        path.mkdir()
        some = [row for row in rows[72:] if "sea" not in row["label"]]  # the test part lacks a class
        for name, part in (("train", rows[:72]), ("test", [*some, {"text": "we", "label": None}])):
            (path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, part)))
        given = open_splits(f"text:{path}")
        assert (given.test.labels[:, 0] == [-1] * len(some) + [0]).all()  # type: ignore[index]
    else:
        path.write_text(json.dumps(rows) if path.suffix == ".json" else "\n".join(map(json.dumps, rows)))
        given = open_splits(path)
    assert given.train.classes == list(words) and (given.metric, given.others) == ("micro F1", ("macro F1", "mean AP"))
    for k in range(4):
        own: Any = given.train.read(k)
        found = [word for word, sign in zip(words, given.train.labels[k], strict=True) if sign > 0]  # type: ignore[index]
        assert own.text.split()[1:] == found and own.label is None
    if kind == "lists.json":  # the others are the same labels
        return
    counts = (20,) if kind == "columns.csv" else ()
    table = few_text_labels({"from scratch": start}, Tokenizer(), given, counts, seeds=1, options=QUICK)
    name = given.name + ", 20 labels per class" * bool(counts)
    scores = table[f"{name}, micro F1"]
    assert scores["from scratch"] > 70 and scores["TF-IDF"] > 70, scores
    assert set(table) == {f"{name}, {metric}" for metric in ("micro F1", "macro F1", "mean AP")}
    constant = table[f"{name}, mean AP"]["constant"]
    assert constant < min(table[f"{name}, mean AP"][other] for other in ("from scratch", "TF-IDF")) - 20
    with pytest.raises(ValueError, match="labels: expected a column for each of 2 classes, got 3"):
        Corpus(["a"], labels=[[1, 0, 1]], classes=["a", "b"])


@pytest.mark.parametrize(
    ("value", "error"),
    (
        ("sea", "expected a list of classes"),
        ([None], "expected a list of classes"),
        ([-2], "expected a label of 0 and"),
    ),
)
def test_lists_of_classes_that_do_not_fit_are_named(value: Any, error: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"text": "a", "label": [1]}, {"text": "b", "label": value}]))
    with pytest.raises(ValueError, match=rf"a\.json: row 2: {error}"):
        open_splits(tmp_path / "a.json")


def test_metrics_of_constants_are_zero() -> None:
    same = torch.eye(2)[[1, 1, 1]]
    assert METRICS["Matthews"](same, torch.tensor([0, 1, 1])) == 0
    assert METRICS["F1"](torch.eye(2)[[0, 0]], torch.tensor([0, 0])) == 0
    for name in ("Pearson", "Spearman"):
        assert METRICS[name](torch.ones(3, 1), torch.arange(3.0)) == 0


def task(kind: str = "classes") -> Splits:
    """Texts whose class is a word in them; pairs of the same two words or not; the number of times of a word."""
    rng, words = np.random.default_rng(0), ("war", "tax", "sea")
    texts, others, labels = [], [], []
    for _ in range(96):
        k = int(rng.integers(0, 3))
        filler = " ".join(rng.choice(["we", "of", "it", "is"], int(rng.integers(0, 5))))
        if kind == "classes":
            texts.append(f"{filler} {words[k]}")
            labels.append(k)
        elif kind == "pairs":
            same = int(rng.integers(0, 2))
            texts.append(words[k])
            others.append("yes" if same else "no")
            labels.append(same)
        else:
            texts.append(f"{filler} " + "so " * k)
            labels.append(k)
    if kind == "scores":
        data = Corpus(texts, "toy", labels=np.array(labels, float))
        assert data.labels is not None and data.labels.dtype == np.float64 and data.read(0).label is None
        return Splits("toy", data.subset(range(72)), data.subset(range(72, 96)), "Spearman", others=("Pearson",))
    data = Corpus(texts, "toy", labels=labels, classes=["a", "b", "c"][: max(labels) + 1])
    if kind == "pairs":
        data = ParallelCorpus(data, Corpus(others))
    return Splits("toy", data.subset(range(72)), data.subset(range(72, 96)), "top-1")


def test_a_head_is_the_probe_of_its_features() -> None:
    """scikit-learn's of standardised features at one of the penalties; almost 0 where features say nothing."""
    linear = pytest.importorskip("sklearn.linear_model")
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (200,), generator=rng)
    x = torch.randn(200, 6, generator=rng) * torch.tensor([1.0, 30, 1e-3, 1, 1, 0]) + 5
    x[:, :3] += 0.8 * torch.tensor([1.0, 30, 1e-3]) * torch.eye(3)[labels]
    weight, bias = linear_head(x, labels, 3)
    z = ((x - x.mean(0)) / x.std(0).clamp(min=1e-5)).numpy()
    found = (x @ weight.T + bias).log_softmax(1).numpy()
    errors = []
    for decay in HEAD_DECAYS:
        fit = linear.LogisticRegression(C=1 / (2 * decay * x.numel()), tol=1e-8, max_iter=1000).fit(z, labels.numpy())
        errors.append(abs(fit.predict_log_proba(z) - found).max())
    assert min(errors) < 1e-2
    assert linear_head(torch.full((20, 4), torch.nan), labels[:20], 3)[0].isnan().all()  # of a network that diverged
    noise, _ = linear_head(torch.randn(200, 50, generator=rng), labels, 3)
    assert float(noise.norm()) < 0.2 * float((weight * x.std(0)).norm())


@pytest.mark.parametrize("head", ["probe", "zero"])
def test_classifiers_start_from_a_probe_or_from_zero(head: str) -> None:
    data = task().train
    assert isinstance(data, Corpus) and data.labels is not None
    network, labels = start(0), torch.from_numpy(data.labels)
    rows, _ = encode_texts(data, Tokenizer(), network)
    made = TextTask(network, Tokenizer(), rows, labels, replace(QUICK, head=head))
    model, _ = made.start(0.01, np.arange(40))
    right = (made.scores(model, np.arange(40)).argmax(1) == labels[:40]).double().mean()
    assert right > 0.6 if head == "probe" else not model.head.weight.any()  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="head: expected 'probe' or 'zero', got 'one'"):
        replace(QUICK, head="one").check()


def start(seed: int) -> LanguageModel:
    return network_of("bert", "transformer", seed)


@pytest.mark.parametrize("kind", ["classes", "pairs", "scores"])
def test_it_learns_classes_pairs_and_scores(kind: str) -> None:
    given = task(kind)
    labels_per_class = (20,) if kind == "classes" else ()
    table = few_text_labels(
        {"from scratch": start}, Tokenizer(), given, labels_per_class, seeds=2, options=QUICK, note=lambda _: None
    )
    name = "toy, 20 labels per class" if labels_per_class else "toy"
    scores = table[f"{name}, {given.metric}"]
    assert set(scores) == {"from scratch", "TF-IDF", "constant"}
    assert scores["from scratch"] > 85 > 60 > scores["constant"] and scores["TF-IDF"] > 85
    assert set(table) == {f"{name}, {m}{end}" for m in (given.metric, *given.others) for end in ("", "_se")}


def test_pretrained_weights_matter_and_stay() -> None:
    """With a step size of nearly nothing, only the classifier and what the network knows can tell the classes."""
    given, quick = task(), replace(QUICK, least_steps=20)
    network = start(0)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    labels, rows = torch.from_numpy(given.train.labels), np.arange(72)
    tuned = finetune_text(network, Tokenizer(), given.train, labels, rows[:60], rows[60:], quick)  # type: ignore[arg-type]
    assert tuned.outputs.shape == (12, 3) and tuned.steps == 20
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    again = finetune_text(network, Tokenizer(), given.train, labels, rows[:60], rows[60:], quick)  # type: ignore[arg-type]
    assert torch.equal(again.outputs, tuned.outputs)


@pytest.mark.parametrize(("name", "network"), [s for s in SUBJECT_NETWORKS if s[0] in ("bert", "gpt", "t5", "bart")])
@pytest.mark.parametrize("readout", ["mean", "token"])
def test_padding_does_not_count(name: str, network: str, readout: str) -> None:
    """A text has the same scores alone and beside a longer one, on every network."""
    model = TextClassifier(network_of(name, network), Tokenizer().pad, 3, readout).eval()
    torch.nn.init.normal_(model.head.weight)
    rows, cut = encode_texts(Corpus(["We met.", "The union is strong."]), Tokenizer(), model.network)
    assert cut == 0 and (rows[0][0][0] == Tokenizer().cls) == model.network.bidirectional
    short, long = (torch.from_numpy(tokens)[None] for tokens, _ in rows)
    padded = torch.nn.functional.pad(short, (0, long.shape[1] - short.shape[1]), value=Tokenizer().pad)
    both = model(torch.cat([padded, long]), torch.zeros(2, long.shape[1], dtype=torch.int64))
    alone = model(short, torch.zeros_like(short))
    torch.testing.assert_close(both[:1], alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(both[0], both[1])


def test_long_texts_are_cut_and_counted() -> None:
    network = start(0)  # of 32 tokens
    t = Tokenizer()
    rows, cut = encode_texts(Corpus(["a" * 100, "b"]), t, network)
    assert cut == 1 and [len(tokens) for tokens, _ in rows] == [32, 4]
    pairs = ParallelCorpus(Corpus(["a" * 100, "a" * 100, "ab", ""]), Corpus(["b" * 100, "bc", "cd", ""]))
    rows, cut = encode_texts(pairs, t, network)
    assert cut == 2
    for (tokens, segments), (a, b) in zip(rows, ((15, 14), (26, 3), (3, 3), (1, 1))):
        assert tokens[0] == t.cls and np.flatnonzero(tokens == t.sep).tolist() == [a + 1, a + b + 2]
        assert segments.tolist() == [0] * (a + 2) + [1] * (b + 1)


FILES: dict[str, tuple[str, list[str], list[Any]]] = {
    "CoLA": ("train.tsv", ["gj04\t1\t\tIt is.", 'gj04\t0\t*\tIs "it not.'], [1, 0]),
    "MRPC": ("dev.tsv", ["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", "1\t2\t3\tA b.\tB a."], [1]),
    "STS-B": ("train.tsv", ["index\tsentence1\tsentence2\tscore", "0\tA.\tB.\t3.25", "1\tA.\tC.\t0"], [3.25, 0.0]),
    "MNLI": ("dev_matched.tsv", ["index\tsentence1\tsentence2\tgold_label", "0\tA.\tB.\tentailment"], [2]),
    "QQP": ("train.tsv", ["id\tquestion1\tquestion2\tis_duplicate", "0\tA?\tB?\t1", "1\tcut"], [1]),
}


@pytest.mark.parametrize("name", FILES)
def test_glue_is_read(name: str, tmp_path: Path) -> None:
    file, lines, labels = FILES[name]
    (tmp_path / name).mkdir()
    (tmp_path / name / file).write_text("\n".join(lines) + "\n")
    part = "train" if file == "train.tsv" else "test"
    corpus = glue(tmp_path / name, part)
    assert corpus.labels is not None and corpus.labels.tolist() == labels
    assert isinstance(corpus, ParallelCorpus) == (name != "CoLA")
    assert corpus.skipped == ({"lines without all columns": 1} if name == "QQP" else {})
    if name == "CoLA":
        assert corpus.text(1) == 'Is "it not.'
    if name == "MRPC":
        assert corpus.pair(0) == ("A b.", "B a.")  # type: ignore[attr-defined]
    with pytest.raises(FileNotFoundError, match="expected"):
        glue(tmp_path / name, "test" if part == "train" else "train")


def test_glue_tasks_are_splits_with_their_metrics(tmp_path: Path) -> None:
    folder = tmp_path / "RTE"
    folder.mkdir()
    for file, rows in (("train.tsv", 3), ("dev.tsv", 2)):
        lines = [f"{k}\tA.\tB.\tentailment" for k in range(rows)]
        (folder / file).write_text("\n".join(["index\tsentence1\tsentence2\tlabel", *lines]))
    splits = open_splits(f"glue:{folder}")
    assert (splits.name, len(splits.train), len(splits.test), splits.metric) == ("RTE", 3, 2, "top-1")
    assert {metric for one in GLUE.values() for metric in one.metrics} <= set(METRICS)
    (folder / "train.tsv").write_text("index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\tmaybe\n")
    with pytest.raises(ValueError, match=r"line 2: expected a label of not_entailment, entailment, got 'maybe'"):
        glue(folder)
    (folder / "train.tsv").write_text("index\tsentence1\tlabel\n")
    with pytest.raises(ValueError, match="expected columns"):
        glue(folder)
    with pytest.raises(ValueError, match="glue: expected a folder named cola"):
        glue(tmp_path)


def test_what_cannot_be_tuned_is_named() -> None:
    given = task("scores")
    for options, match in (
        ({"labels_per_class": (5,)}, "labels: toy has scores"),
        ({"seeds": 0}, "seeds: expected an integer >= 1, got 0"),
        ({"options": TextFineTuning(readout="last")}, "readout: expected 'mean' or 'token'"),
    ):
        with pytest.raises(ValueError, match=match):
            few_text_labels({"a": start}, Tokenizer(), given, **options)  # type: ignore[arg-type]
    bare = Splits("bare", Corpus(["a", "b"]), Corpus(["a"]))
    with pytest.raises(ValueError, match="data: expected labelled texts.*column label or score"):
        few_text_labels({"a": start}, Tokenizer(), bare)
    with pytest.raises(ValueError, match="labels: expected 2 numbers, got float64 of shape"):
        Corpus(["a", "b"], labels=np.zeros(3))
    short = build_language({"name": "transformer", "vocabulary": 261, "width": 8, "heads": 2, "length": 2})
    with pytest.raises(ValueError, match="network: expected a length of at least"):
        encode_texts(Corpus(["a"]), Tokenizer(), build_language({**short.options, "causal": False}))


@pytest.mark.parametrize("suffix", (".csv", ".json", ".jsonl"))
@pytest.mark.parametrize("column", ("score", "label"))
@pytest.mark.parametrize("pairs", (True, False))
def test_answers_that_are_all_the_same_are_named(tmp_path: Path, suffix: str, column: str, pairs: bool) -> None:
    """Networks cannot be trained on them, and of scores no correlation is defined."""
    rows = [{"text1": f"a {k}", "text2": f"b {k}", column: 3} for k in range(20)]
    if not pairs:
        rows = [{"text": row["text1"], column: row[column]} for row in rows]
    path = tmp_path / f"same{suffix}"

    def write() -> Splits:
        if suffix == ".csv":
            path.write_text("\n".join(",".join(map(str, line)) for line in [[*rows[0]], *(r.values() for r in rows)]))
        else:
            path.write_text(json.dumps(rows) if suffix == ".json" else "\n".join(map(json.dumps, rows)))
        return open_splits(f"text:{path}" if suffix == ".jsonl" else path)

    kind, one = ("scores", "3") if column == "score" else ("classes", "'3'")
    said = rf"expected training texts with {kind} that differ, got {one} for all 16 of same \(column '{column}'\)"
    with pytest.raises(ValueError, match=said):
        few_text_labels({"a": start}, Tokenizer(), write())
    tests = {int(text.split()[-1]) for text in write().test.texts}  # type: ignore[attr-defined]
    rows = [{**row, column: 3 if k in tests else k % 2} for k, row in enumerate(rows)]
    quick = replace(QUICK, least_steps=2)
    if column == "label":  # of which accuracies are defined
        few_text_labels({"a": start}, Tokenizer(), write(), seeds=1, options=quick)
        return
    said = r"expected test texts with scores that differ, got 3 for all 4 of same \(column 'score'\)"
    with pytest.raises(ValueError, match=said):
        few_text_labels({"a": start}, Tokenizer(), write(), options=quick)
    rows = [{**row, column: "" if k in tests else k} for k, row in enumerate(rows)]
    with pytest.raises(ValueError, match=r"expected labelled test texts, the 4 of same \(column 'score'\) have none"):
        few_text_labels({"a": start}, Tokenizer(), write(), options=quick)


def test_scores_that_say_nothing_are_named() -> None:
    data, rows, network = Corpus(list("abcdef")), np.arange(6), start(0)
    for scores, match in (
        ([1.0] * 4 + [2, 3], "labels: expected scores that differ, got 1 for all 4 rows of train"),
        ([1.0, 2, 3, 4, 2, 2], "labels: expected scores that differ, got 2 for all 2 rows of test"),
        ([1.0, np.nan, 3, 4, 2, 2], "labels: expected finite scores in train, got nan for row 1"),
        ([1.0, 2, 3, 4, np.inf, 2], "labels: expected finite scores in test, got inf for row 4"),
    ):
        with pytest.raises(ValueError, match=match):
            finetune_text(network, Tokenizer(), data, torch.tensor(scores), rows[:4], rows[4:], QUICK)


def test_trainings_have_at_most_some_steps() -> None:
    options = TextFineTuning(epochs=10, batch_size=32)
    assert [options.steps(rows) for rows in (64, 32_000)] == [200, 10_000]
    assert [replace(options, most_steps=300).steps(rows) for rows in (64, 32_000)] == [200, 300]
    assert replace(options, most_steps=50).steps(64) == 50
    with pytest.raises(ValueError, match="most_steps: expected an integer >= 1, got 0"):
        replace(options, most_steps=0).check()


def test_scores_are_no_labels_of_token_files(tmp_path: Path) -> None:
    file = tokenize_corpus(Corpus(["a", "b"], labels=np.array([0.5, 1.5])), Tokenizer(), tmp_path / "a.tok")
    assert file.labels is None


@pytest.mark.parametrize("pairs", (False, True))
def test_empty_texts_are_counted(pairs: bool) -> None:
    texts = ["good", "bad"] * 8 + ["", " \n"]
    data = Corpus(texts, labels=[1, 0] * 9, classes=["no", "yes"])
    data = ParallelCorpus(data, Corpus(["a"] * 17 + [""])) if pairs else data
    lines: list[str] = []
    few_text_labels(
        {"a": start, "b": start},
        Tokenizer(),
        Splits("toy", data.subset(range(14)), data.subset(range(10, 18))),
        seeds=2,
        options=replace(QUICK, least_steps=2),
        note=lines.append,
    )
    assert [line for line in lines if "empty" in line] == ["toy: 2 of 22 texts are empty"]
