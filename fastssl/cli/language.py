"""Commands of language methods: what they need between the options and the library."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fastssl._options import integer
from fastssl._words import amount
from fastssl.cli.show import echo, item_progress
from fastssl.data import Corpus, ParallelCorpus, Source, TokenFile, Tokenizer, Windows
from fastssl.data.embedded_text import FIRST_OF_PAIRS
from fastssl.methods import SentenceMethod, TextMethod, get, kind_of
from fastssl.train import load_language
from fastssl.train.language import (
    HELD_OUT,
    asked_vocabulary,
    build_text_method,
    check_text_method,
    open_tokens,
    start_embeddings,
    trained_kind,
    training_span,
)
from fastssl.train.starting import read_language


def prepare(
    name: str,
    source: Source,
    out: Path,
    settings: dict[str, Any],
    method_options: dict[str, Any],
    *,
    tokenizer: str | Tokenizer | None,
    held_out: float | None,
    init: str | None,
    seed: int,
    resumed: dict[str, Any] | None = None,
) -> tuple[TextMethod, Windows, dict[str, Any]]:
    """The method, the windows that it trains on, and the options of its network.

    Args:
        name: name of the method.
        source: a corpus or a token file.
        out: folder of the run.
        settings: options of the network, and the ``vocabulary`` of a tokenizer to train; with a network to start from,
            its own take their place, and these must be the same, but for a ``length``.
        method_options: arguments of the method.
        tokenizer: a kind, or a path.
        held_out: share of the corpus, its end, that is left out; None: a twentieth, or that of the resumed run.
        init: see :func:`fastssl.train.language.start_embeddings`; or a network that the run starts from
            (:func:`fastssl.train.load_language`); None: random weights.
        seed: seed of the weights.
        resumed: state of the checkpoint in ``out``, if it is resumed, which has the weights and the tokenizer.
    """
    vocabulary, start = settings.pop("vocabulary", None), None
    if init is not None and names_network(init):
        start, own = load_language(init, settings.get("length"))
        tokenizer = _tokenizer_of(own, source, init, tokenizer)
    if resumed is None and isinstance(source, Corpus):
        tokenizer = _chosen(tokenizer, settings.get("name"))
    if resumed is None:
        check_text_method(name, settings, source, tokenizer, method_options, start)
    say_which(source)
    with item_progress(f"{source.name}: documents tokenized") as show:
        share, again = HELD_OUT if held_out is None else held_out, resumed is not None
        tokens = open_tokens(source, out, get(name), tokenizer, vocabulary, held_out=share, resume=again, progress=show)
    counted = isinstance(source, Corpus)  # of a token file it was said when it was written
    echo(f"{tokens.path}: {described(tokens, counted)}")
    method, options = build_text_method(name, settings, tokens.tokenizer, method_options, seed, start)
    method.asked_vocabulary = asked_vocabulary(source, get(name), tokenizer, vocabulary, resumed)
    windows = method.prepare(tokens, training_span(tokens, held_out, resumed))
    if windows.cut:
        echo(f"{amount(windows.cut, 'sentence')} of more than {amount(windows.length, 'token')}: the rest is left out")
    if start is not None:
        sizes = f"{amount(options['depth'], 'layer')} of {options['width']}, {amount(options['length'], 'token')}"
        echo(f"weights start from {init}: {options['name']}, {sizes}")
    elif init is not None:
        count = start_embeddings(method.network, tokens.tokenizer, init, windows, seed)
        echo(f"{amount(count, 'embedding')} of tokens started from {init}")
    return method, windows, options


def check_vocabulary(
    vocabulary: int | None, source: Source, name: str, network: str | None, tokenizer: str | None
) -> None:
    """Checks that a vocabulary is given for a tokenizer that is trained.

    Raises:
        ValueError: a tokenizer that is as it is.
    """
    if vocabulary is None:
        return
    if isinstance(source, TokenFile):
        raise ValueError(f"vocabulary: {source.path} was written with its own tokenizer; tokenize the corpus again")
    chosen = _chosen(tokenizer, network)
    if trained_kind(get(name), chosen) is None:
        raise ValueError(f"vocabulary: expected none, the tokenizer {chosen!r} is not trained, got {vocabulary}")


def _chosen(given: str | Tokenizer | None, network: str | None) -> str | Tokenizer | None:
    """The tokenizer for a corpus: bytes, if none is given for "transformer", which then needs no extra; None: that of
    the method."""
    return "bytes" if given is None and network == "transformer" else given


def names_network(init: str) -> bool:
    """Whether ``--init`` names a whole network to start from, not word vectors."""
    return init.partition(":")[0] != "word2vec"


def _tokenizer_of(own: Tokenizer, source: Source, init: str, given: str | Tokenizer | None) -> Tokenizer | None:
    """The tokenizer of a network to start from; None for a token file, which has it.

    Raises:
        ValueError: a token file that another one has written, or another one that is asked for.
    """
    if given is not None:
        raise ValueError(f"tokenizer: expected none, {init} has its own")
    if not isinstance(source, TokenFile):
        return own
    if source.tokenizer.fingerprint != own.fingerprint:
        raise ValueError(f"init: {init} has {own!r}, {source.path} was written with another one, {source.tokenizer!r}")
    return None


def say_which(source: Source) -> None:
    """Says that the second texts of pairs are not trained on."""
    if isinstance(source, ParallelCorpus):
        echo(f"{source.name}: {FIRST_OF_PAIRS}")


def described(tokens: TokenFile, counted: bool = True) -> str:
    """What a token file holds; ``counted``: and how much of its text the tokenizer does not know, for which the whole
    file is read."""
    unknown = tokens.unknown() if counted else 0
    share = f", {100 * unknown / tokens.total:.2g} % of them unknown" if unknown else ""
    return f"{amount(tokens.total, 'token')}{share}, {amount(len(tokens), 'document')}; {tokens.tokenizer!r}"


def tokenize(data: str, out: Path, kind: str, vocabulary: int, *, overwrite: bool = False) -> TokenFile:
    """Trains or loads a tokenizer, and writes the tokens of a corpus.

    Raises:
        FileExistsError: ``out`` exists, and is not to be replaced.
        TypeError: data that is no corpus.
        ValueError: a name by which no command would know the file.
    """
    from fastssl.cli.show import open_data
    from fastssl.data import load_tokenizer, tokenize_corpus, train_tokenizer
    from fastssl.data.tokenizer import KINDS

    if out.suffix != ".tok":  # by which every command knows it
        raise ValueError(f"out: expected a name that ends in .tok, got {str(out)!r}")
    if out.exists() and not overwrite:
        raise FileExistsError(f"out: {str(out)!r} exists; replace it with --overwrite")
    corpus = open_data(data)
    if not isinstance(corpus, Corpus):
        raise TypeError(f"data: expected a corpus, got {corpus!r}; texts in a file or folder: text:{data}")
    say_which(corpus)
    if kind in KINDS:
        texts = (sentence for document in corpus.documents() for sentence in document)
        tokenizer = train_tokenizer(texts, kind, vocabulary)
    else:
        tokenizer = load_tokenizer(kind)
    with item_progress(f"{out}: documents tokenized") as show:
        return tokenize_corpus(corpus, tokenizer, out, show)


def load(run: Path) -> tuple[TextMethod, dict[str, Any]]:
    """The method of a run and the state of its checkpoint.

    Raises:
        ValueError: no checkpoint, or one of another kind of method.
    """
    from fastssl.models.folder import load_state
    from fastssl.train import load_method

    state = load_state(run)
    if "tokens" not in kind_of(state).needs:
        raise ValueError(f"checkpoint: expected one of a language method, got {state['method']}")
    method = load_method(run)
    assert isinstance(method, TextMethod)
    return method, state


def tokens_of(run: Path, state: dict[str, Any]) -> Path:
    """The token file that a run was trained on, also if it was moved or copied with it.

    Raises:
        ValueError: it is gone.
    """
    where = Path(state["source"]["where"])
    places = [folder / where.name for folder in (run, run.parent)] if where.name.startswith("corpus") else []
    found = next((place for place in (*places, where) if place.exists()), None)
    if found is None:
        raise ValueError(f"data: the token file of the run, {where}, is gone")
    return found


def evaluate(run: Path, data: str | None, length: int | None = None) -> dict[str, Any]:
    """The scores of a run on held-out text: the rest of its token file, or ``data``; or those of a model of
    transformers ("huggingface:PATH") on ``data``, in windows of ``length`` tokens.

    Raises:
        ValueError: nothing was held out, the token file of the run is gone, a model without data, or one without a
            distribution of tokens (ELECTRA, whose generator is another model).
    """
    from fastssl.cli.evaluation import is_named
    from fastssl.data import open as open_source
    from fastssl.data import tokenize_corpus
    from fastssl.evaluate import evaluate_language, next_sentence
    from fastssl.evaluate.features import progress_bars
    from fastssl.methods import ELECTRA
    from fastssl.train import load_method

    with TemporaryDirectory() as folder:

        def tokenized(data: str) -> Windows:
            other = open_source(data)
            return method.prepare(
                tokenize_corpus(other, method.tokenizer, Path(folder, "evaluation.tok"))
                if isinstance(other, Corpus)
                else other
            )

        training: Windows | None = None
        if is_named(run):
            if data is None:
                raise ValueError("data: expected texts (--data FILE.txt, text:FOLDER, ...)")
            method: Any = load_method(run, length=length)
            if isinstance(method, ELECTRA):
                raise ValueError(
                    f"checkpoint: {run} predicts no tokens (ELECTRA); --protocol finetune, tags, answers or translation"
                )
            held_out = tokenized(data)
        else:
            method, state = load(run)
            found, span = tokens_of(run, state), state["source"]["span"]
            file = TokenFile(found)
            training = method.prepare(file, (span[0], span[1]))
            if state["source"]["fingerprint"] not in (training.fingerprint, training.earlier_fingerprint):
                raise ValueError(f"data: {found} is not the token file that {run} was trained on")
            if data is None and span[1] >= file.total - 1:
                raise ValueError("data: the run held nothing out; give --data")
            held_out = method.prepare(file, (span[1], file.total)) if data is None else tokenized(data)
        with progress_bars(item_progress):
            if isinstance(method, SentenceMethod):
                return dict(next_sentence(method, held_out))
            return dict(evaluate_language(method, held_out, training))


PROTOCOLS = ("finetune", "tags", "answers", "translation")


def evaluate_finetuned(
    run: Path,
    data: str,
    protocol: str = "finetune",
    *,
    labels: str | None,
    seeds: int | None,
    init: str | None,
    readout: str | None,
    steps: int | None = None,
) -> dict[str, Any]:
    """The scores of a run's network, fine-tuned on labelled texts, tagged words, questions or pairs of texts, and of
    the same network from scratch.

    Args:
        run: the run.
        data: names of tasks, separated by commas: of :func:`fastssl.data.open_splits`, for "tags" of
            :func:`fastssl.data.open_tagged`, for "answers" of :func:`fastssl.data.open_questions`.
        protocol: a name of :data:`PROTOCOLS`.
        labels: numbers of labels per class, of sentences ("tags"), questions ("answers") or pairs ("translation"),
            separated by commas; None: all.
        seeds: draws of the labels; None: 3.
        init: "word2vec:RUN": also the network whose embeddings alone start from word vectors.
        readout: see :class:`fastssl.evaluate.TextFineTuning`; None: "mean".
        steps: steps of each training of "translation"; None: 1,000. Of the others: at most; None: as of
            :class:`fastssl.evaluate.TextFineTuning`.

    Raises:
        ValueError: labels that are no numbers, or data that is no task of texts.
    """
    from fastssl.data import open_questions, open_splits, open_tagged
    from fastssl.data.opening import names_of
    from fastssl.evaluate import (
        TextFineTuning,
        TranslationTuning,
        compare_answers,
        compare_tags,
        compare_translation,
        few_text_labels,
    )

    starts, tokenizer = _starts(run, init, protocol)
    if steps is not None:
        integer("steps", steps, 1)
    given = [] if labels is None else labels.split(",")
    if not all(count.isdecimal() and int(count) for count in given):
        raise ValueError(f"labels: expected numbers of labels per class, such as 10,50, got {labels!r}")
    counts, more = [int(count) for count in given], {"seeds": 3 if seeds is None else seeds, "note": echo}
    tuning = TextFineTuning(readout="mean" if readout is None else readout, most_steps=steps)
    table: dict[str, Any] = {}
    for name in names_of(data):
        if protocol == "tags":
            table |= compare_tags(starts, tokenizer, open_tagged(name), counts, options=tuning, **more)  # type: ignore[arg-type]
        elif protocol == "answers":
            table |= compare_answers(starts, tokenizer, open_questions(name), counts, options=tuning, **more)  # type: ignore[arg-type]
        elif protocol == "translation":
            options = TranslationTuning() if steps is None else TranslationTuning(steps=steps)
            table |= compare_translation(starts, tokenizer, open_splits(name), counts, options=options, **more)  # type: ignore[arg-type]
        else:
            table |= few_text_labels(starts, tokenizer, open_splits(name), counts, options=tuning, **more)  # type: ignore[arg-type]
    return table


def _starts(run: Path, init: str | None, protocol: str) -> tuple[dict[str, Any], Tokenizer]:
    """The networks that the fine-tuning of a run starts from, of a seed, and their tokenizer; translation alone goes
    on with their head."""
    import torch

    from fastssl.models import LanguageModel, build_language

    pretrained, tokenizer = read_language(run) if protocol != "translation" else load_language(run)

    def scratch(seed: int) -> LanguageModel:
        torch.manual_seed(seed)
        return build_language(pretrained.options)

    def vectors(seed: int) -> LanguageModel:
        network = scratch(seed)
        start_embeddings(network, tokenizer, str(init))
        return network

    starts = {"pretrained": lambda seed: pretrained, "from scratch": scratch}
    return starts if init is None else {**starts, "from word vectors": vectors}, tokenizer
