"""``fastssl evaluate``: a checkpoint, a protocol and data sets to a table of measures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fastssl.cli.show import echo, item_progress

DENSE_PROTOCOLS = ("segmentation", "detection")
IMAGE_TEXT_PROTOCOLS = ("zero-shot", "image-text-retrieval")


def data_of(state: dict[str, Any]) -> str:
    """The data set that a run was trained on, as :func:`fastssl.data.open` takes it.

    Raises:
        FileNotFoundError: the file or folder is no longer there.
        ValueError: the checkpoint does not record it.
    """
    from fastssl.data.opening import gone

    if "source" not in state:  # an older checkpoint, which names embedded data sets only
        return str(state["data"]).removesuffix("-train")
    where = state["source"]["where"]
    if where is None:
        where = state["source"]["embedded"]
    if where is None:
        raise ValueError(f"data: the checkpoint does not record where {state['data']} is; give --data")
    place = gone(str(where))
    if place is not None:
        raise FileNotFoundError(f"data: the run was trained on {place!r}, which is no longer there; give --data")
    return str(where)


def note_changes(state: Mapping[str, Any]) -> None:
    """Warns if the data that a run was trained on has other items, names or labels now; texts are not compared."""
    from fastssl.data import open as open_source
    from fastssl.data.opening import gone
    from fastssl.data.readable import current
    from fastssl.methods import kind_of
    from fastssl.train.run import training_split

    trained, kind = state.get("source", {}), kind_of(dict(state))
    where = trained.get("where")
    if where is None or gone(where) or trained["embedded"] is not None or "tokens" in kind.needs:
        return
    whole = current.set(None)  # as it was opened to train on it, where items were left out one by one
    try:
        found = [open_source(where, orientation=trained.get("orientation", True))]
        if kind.held_out and found[0].fingerprint != trained["fingerprint"]:
            found.append(training_split(where, orientation=trained.get("orientation", True)))
    finally:
        current.reset(whole)
    if trained["fingerprint"] not in {source.fingerprint for source in found}:
        now, before = len(found[-1]), trained["items"]
        counts = f"{before:,} items then, {now:,} now" if now != before else f"of {now:,} items names or labels differ"
        echo(f"data: {where} has changed since the run was trained: {counts}", "yellow")


@contextmanager
def ranges_as_trained(states: Iterable[Mapping[str, Any]]) -> Iterator[None]:
    """Context in which images are read with the range of values of the runs, where none is named behind the data.

    Raises:
        ValueError: several runs of different ranges.
    """
    from fastssl.data.value_range import trained

    found = {tuple(state.get("source", {}).get("value_range") or ()) for state in states} or {()}
    if len(found) > 1:
        raise ValueError(f"runs: expected one range of values, they were trained with {found}")
    before = trained.set(found.pop() or None)
    try:
        yield
    finally:
        trained.reset(before)


def common_data(runs: Sequence[Path]) -> str:
    """The data set that all runs were trained on.

    Raises:
        ValueError: they were trained on different ones.
    """
    from fastssl.models.folder import load_state

    states = {data_of(state): state for state in map(load_state, runs)}
    trained = list(states)
    if len(trained) > 1:
        raise ValueError(
            f"data: the runs were trained on {' and '.join(trained)}; say on which to compare them (--data)"
        )
    note_changes(states[trained[0]])
    return trained[0]


def evaluate_waveforms(checkpoint: Path, data: str | None) -> dict[str, Any]:
    """The scores of a run of a method of waveforms on the test split of its data, or of ``data``."""
    from fastssl.data import open_splits
    from fastssl.evaluate import evaluate_audio
    from fastssl.evaluate.features import progress_bars
    from fastssl.methods import AudioMethod
    from fastssl.models.folder import load_state
    from fastssl.train import load_method

    method, state = load_method(checkpoint), load_state(checkpoint)
    assert isinstance(method, AudioMethod)
    trained = open_splits(data_of(state))
    held_out = trained.test if data is None else open_splits(data).test
    parts = ((trained.train, "train"), (held_out, "test"))
    training, held_out = (prepared(method, source, checkpoint, part) for source, part in parts)
    with progress_bars(item_progress):
        return dict(evaluate_audio(method, held_out, training))


def prepared(method: Any, source: Any, checkpoint: str | Path, part: str) -> Any:
    """Items as a method reads them; in the context of :func:`leaving_out` without those that it cannot process."""
    from fastssl.data.readable import current

    source, leave_out = method.prepare(source), current.get()
    return source if leave_out is None else leave_out(source, str(checkpoint), part)


@contextmanager
def leaving_out(on_error: str | None, runs: Sequence[Path] = ()) -> Iterator[None]:
    """Context in which data is opened without the items that cannot be read, with ``on_error="skip"``; None: as the
    runs were trained; and images with their range of values (:func:`ranges_as_trained`).

    Raises:
        ValueError: neither "raise" nor "skip".
    """
    from fastssl.data.readable import unreadable_left_out
    from fastssl.models.folder import load_state

    if on_error not in (None, "raise", "skip"):
        raise ValueError(f"on_error: expected 'raise' or 'skip', got {on_error!r}")
    states = list(map(load_state, runs))
    if on_error is None:
        # word2vec has no such option, and records how its data was opened.
        stored = [state.get(part, {}) for state in states for part in ("options", "source")]
        on_error = "skip" if any(given.get("on_error") == "skip" for given in stored) else "raise"
    left_out = (
        unreadable_left_out(partial(echo, style="yellow"), item_progress) if on_error == "skip" else nullcontext()
    )
    with left_out, ranges_as_trained(states):
        yield


def is_named(model: str | Path) -> bool:
    """Whether a model is called by the name of a library (huggingface:NAME), and no run."""
    from fastssl.models import LIBRARIES

    return str(model).partition(":")[0] in LIBRARIES and not Path(model).exists()


def check_model(model: str | Path) -> None:
    """Checks that a model is called by the name of a library, or is there.

    Raises:
        FileNotFoundError: it is neither.
    """
    from fastssl.models import LIBRARIES
    from fastssl.models.encoders import DENSITIES, ENCODERS

    if str(model).partition(":")[0] in LIBRARIES or Path(model).exists():
        return
    bare = ", an architecture without weights" if str(model) in {*ENCODERS, *DENSITIES} else ""
    raise FileNotFoundError(
        f"checkpoint: expected a run (the folder that fastssl pretrain has written, such as runs/simclr) or "
        f"huggingface:NAME, got {str(model)!r}{bare}"
    )


def model_of(name: str, size: int | None = None) -> tuple[Any, dict[str, Any] | None]:
    """Loads the encoder and state of a checkpoint, or builds an encoder by name ("huggingface:NAME"), without a state;
    of images of ``size``, by default those of training.

    Raises:
        ValueError: neither a checkpoint nor a known name, a name without a size, or a model of texts.
    """
    from fastssl.models import build_encoder
    from fastssl.train import load_encoder
    from fastssl.train.starting import language_kind

    if not is_named(name):
        encoder, state = load_encoder(name)
        return (encoder if size is None else encoder.at(size)), state
    if (kind := language_kind(name)) is not None:
        raise ValueError(
            f"checkpoint: {name} is a model of texts ({kind}), which no protocol of images evaluates; of texts are "
            "finetune, tags, answers and translation, and without one it is scored as a language model"
        )
    if size is None:
        raise ValueError(
            f"size: expected the size in pixels of the images that {name} takes (--size); it is no model of texts that "
            "is there"
        )
    return build_encoder({"name": name, "size": size}), None


def run_evaluation(
    checkpoint: Path,
    data: str | None,
    protocol: str,
    readout: str | None,
    only: bool = False,
    whiten: int | None = None,
    size: int | None = None,
    tuning: Mapping[str, int | None] = MappingProxyType({}),
    prompts: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Runs a protocol and returns its table. Of "frozen": ``only`` evaluates the pretrained encoder without baselines,
    ``whiten`` whitens the features of all rows, ``size`` is that of their images. Of "zero-shot": ``prompts``, texts
    with ``{}`` for the class; None: those of :mod:`fastssl.evaluate.zero_shot`. Of others: ``tuning``, the steps and
    seeds of :func:`fastssl.evaluate.evaluate_with`.

    Raises:
        ValueError: unknown protocol or data, or a method that the protocol does not support.
    """
    from fastssl.evaluate.features import progress_bars

    with progress_bars(item_progress):
        return _evaluate(checkpoint, data, protocol, readout, only, whiten, size, tuning, prompts)


def _evaluate(
    checkpoint: Path,
    data: str | None,
    protocol: str,
    readout: str | None,
    only: bool,
    whiten: int | None,
    size: int | None,
    tuning: Mapping[str, int | None],
    prompts: Sequence[str] | None,
) -> dict[str, Any]:
    import torch

    from fastssl.data import Stereograms
    from fastssl.data import open as open_source
    from fastssl.data.opening import names_of
    from fastssl.data.splits import open_tasks
    from fastssl.evaluate import PROTOCOLS, evaluate, evaluate_with
    from fastssl.evaluate.report import ROWS
    from fastssl.methods import IMAX, DensityMethod, ImageMethod, kind_of
    from fastssl.models.text_towers import has_texts

    encoder, state = model_of(str(checkpoint), size if is_named(checkpoint) else None)
    if state is None and data is None:
        raise ValueError("data: expected a data set (--data)")
    name, kind = data or data_of(state or {}), kind_of(state) if state else ImageMethod
    options: Any = state["encoder"] if state else encoder.options
    for option, given in (("only", only), ("whiten", whiten)):
        if given and protocol != "frozen":
            raise ValueError(f"{option}: expected the protocol 'frozen', got {protocol!r}")
    if len(listed := names_of(name)) > 1 and protocol not in PROTOCOLS:
        tables = {
            one: _evaluate(checkpoint, one, protocol, readout, only, whiten, size, tuning, prompts) for one in listed
        }
        return {f"{one}: {measure}": values for one, table in tables.items() for measure, values in table.items()}
    if protocol in IMAGE_TEXT_PROTOCOLS:
        if not (hasattr(kind, "encode_texts") if state else has_texts(str(checkpoint))):
            one = state["method"] if state else checkpoint
            raise ValueError(f"protocol: {protocol} needs a method with a text tower, this one is {one}")
        if readout is not None:
            raise ValueError(f"readout: expected none, {protocol} compares the joint embeddings, got {readout!r}")
        return _image_text(checkpoint, encoder, state, name, protocol, prompts)
    if protocol != "frozen":
        if protocol not in PROTOCOLS:
            known = ", ".join(["frozen", *PROTOCOLS, *IMAGE_TEXT_PROTOCOLS, *DENSE_PROTOCOLS])
            tuned = "; images are fine-tuned by simclr-transfer and few-labels" if protocol == "finetune" else ""
            raise ValueError(f"protocol: expected one of {known}, got {protocol!r}{tuned}")
        return evaluate_with(protocol, encoder, options, open_tasks(name), readout or "spatial", echo, **tuning)
    if name in ("emoji", "emoji-all") and state and state["data"] == "emoji":
        echo("trained on all emoji: the held-out ones of the retrieval were seen", "yellow")
    if torch.cuda.is_available():
        encoder.to("cuda")
    if issubclass(kind, IMAX) and isinstance(open_source(name), Stereograms):
        if only or {readout, whiten, size} != {None}:
            raise ValueError("readout, whiten, size, only: expected none, stereograms are judged by their disparity")
        return _disparity(checkpoint)
    encoder = encoder if size is None else encoder.at(size)
    rows: tuple[str, ...] = ("pretrained",) if only else ROWS
    likelihoods: dict[str, Any] = {}
    if state and issubclass(kind, DensityMethod):
        likelihoods, rows = _likelihoods(checkpoint, state, name), tuple(row for row in rows if row != "histogram")
        if open_source(name).labels is None:
            return likelihoods
    return likelihoods | evaluate(encoder, options, name, readout, rows, echo, whiten)


def _image_text(
    checkpoint: Path,
    encoder: Any,
    state: dict[str, Any] | None,
    name: str,
    protocol: str,
    prompts: Sequence[str] | None,
) -> dict[str, Any]:
    """Zero-shot classification of, or retrieval in, the test part of ``name``, or all of it if it has no parts; by a
    run, or by a model of transformers without one."""
    import torch

    from fastssl.data import open as open_source
    from fastssl.data.files import each_once
    from fastssl.data.readable import current
    from fastssl.data.source import sizes_key
    from fastssl.evaluate import image_text_retrieval, zero_shot
    from fastssl.evaluate.features import labels_of
    from fastssl.methods import CLIP
    from fastssl.train import load_method

    method: Any = load_method(checkpoint) if state else CLIP(encoder, text=str(checkpoint)).eval()
    if torch.cuda.is_available():
        method.to("cuda")
    if protocol == "zero-shot":
        images = each_once(open_source("emoji-all" if name == "emoji" else name, part="test"))
        classes = list(images.classes)
        score = zero_shot(method, images, labels_of(images), classes, prompts or None)
        return {"zero-shot": {"pretrained": score, "chance": 100 / len(classes)}}
    pairs = open_source("emoji-heldout" if name == "emoji" else name, part="test")
    trained, sizes = (state or {}).get("source", {}), sizes_key(pairs)
    if pairs.fingerprint == trained.get("fingerprint") and trained.get("sizes", sizes) == sizes:
        echo(f"{pairs.name}: the run was trained on these images and texts; others are given by --data", "yellow")
    if current.get() is not None:  # items without a text are left out, too
        pairs = prepared(method, pairs, checkpoint, "test")
    return image_text_retrieval(method, pairs)


def _likelihoods(checkpoint: Path, state: dict[str, Any], name: str) -> dict[str, Any]:
    """The likelihoods of the test split of ``name``; other data than the run's is scored as a whole."""
    from fastssl.data import open as open_source
    from fastssl.data import open_splits
    from fastssl.evaluate import evaluate_density
    from fastssl.methods import DensityMethod
    from fastssl.train import load_method

    method = load_method(checkpoint)
    assert isinstance(method, DensityMethod)
    own = data_of(state)
    task = open_splits(own)
    same = name == own or os.path.abspath(os.path.expanduser(name)) == own  # whose path the run records whole
    return evaluate_density(method, task.test if same else open_source(name), task.train)


def _disparity(checkpoint: Path) -> dict[str, Any]:
    """The correlation of the output with the disparity of stereograms of another seed, beside a random network's."""
    import torch

    from fastssl.data import stereograms
    from fastssl.evaluate import disparity_correlation
    from fastssl.methods import IMAX
    from fastssl.models import build_encoder
    from fastssl.models.folder import load_state
    from fastssl.train import load_method

    method, state = load_method(checkpoint), load_state(checkpoint)
    assert isinstance(method, IMAX)
    unseen = stereograms(2000, seed=1)
    torch.manual_seed(0)
    random = IMAX(build_encoder(state["encoder"]), **state["method_options"])
    found = {"pretrained": disparity_correlation(method, unseen), "random": disparity_correlation(random, unseen)}
    return {"correlation with disparity": found}
