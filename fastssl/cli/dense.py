"""``fastssl evaluate --protocol segmentation | detection``: a checkpoint and annotated images to a table and a page."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from fastssl._words import amount
from fastssl.cli.evaluation import data_of
from fastssl.cli.show import echo, item_progress


def share_of(labels: str | None) -> float:
    """A share such as "10%".

    Raises:
        ValueError: anything else.
    """
    if labels is None:
        return 1.0
    number = labels.removesuffix("%")
    try:
        share = float(number) / 100
    except ValueError:
        share = 0.0
    if not labels.endswith("%") or not 0 < share <= 1:
        raise ValueError(f"labels: expected a share of the training images, such as 10%, got {labels!r}")
    return share


def evaluate_dense(
    run: Path,
    data: str,
    protocol: str,
    *,
    only: bool,
    labels: str | None,
    seeds: int | None,
    train: str | None,
    head: str | None,
    steps: int | None,
    size: int | None,
    predictions: Path | None = None,
) -> dict[str, Any]:
    """The table of a protocol; results and pictures are kept in the run's folder, from where an interrupted
    evaluation goes on. Detections of the pretrained encoder and the first seed are written to ``predictions``.

    Raises:
        ValueError: options of another protocol, unknown data, or a network without feature maps.
    """
    import torch

    from fastssl.bench.run import write_atomically
    from fastssl.data import open_splits
    from fastssl.evaluate import (
        CocoResults,
        DenseTuning,
        Detection,
        Segmentation,
        compare_dense,
        starts_of,
        supervised_encoder,
    )
    from fastssl.evaluate.dense_protocol import Results, key_of, settings_of
    from fastssl.evaluate.features import progress_bars
    from fastssl.evaluate.report import random_encoder
    from fastssl.report.dense import Pictures, write_dense_report
    from fastssl.train import load_encoder

    encoder, state = load_encoder(run)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder.to(device)
    splits = open_splits(data, task=protocol)
    if protocol == "detection" and head is not None:
        raise ValueError(f"head: detection has one head, FCOS, got {head!r}")
    head = head or ("fcos" if protocol == "detection" else "linear")
    classes = splits.train.classes
    named = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
    echo(f"{splits.name}: {amount(len(classes), 'class')} ({named})")
    task: Any = Detection(classes) if protocol == "detection" else Segmentation(classes, head)
    tuning = {"steps": steps, "size": size}
    options = DenseTuning(**{name: value for name, value in tuning.items() if value is not None})  # type: ignore[arg-type]

    def scratch(seed: int) -> Any:
        return random_encoder(state["encoder"], seed).to(device)

    @functools.cache
    def supervised(seed: int) -> Any:
        return supervised_encoder(random_encoder(state["encoder"], seed), data_of(state)).to(device)

    train = train or "head"
    starts = starts_of(encoder, scratch, train, supervised if _has_labels(state) else None)
    if only:
        starts = {"pretrained": starts["pretrained"]}
    if seeds is not None and seeds < 1:
        raise ValueError(f"seeds: expected an integer >= 1, got {seeds}")
    share, weights = share_of(labels), _weights(encoder)
    name = "-".join([protocol, head, train, splits.name, f"{100 * share:g}"])
    settings = settings_of(splits, options, device, head=head, labels=share, train_layers=train, weights=weights)
    stored = f"{name}-{key_of(settings)[:8]}"  # beside those of other settings, and of data of the same name
    results = Results(run / "dense" / f"{stored}.json", settings)
    found = run / "dense" / f"{stored}.predictions.json"
    if predictions is not None and not found.exists():
        results.values.pop("pretrained, 0", None)  # computed again, with its detections
    if results.values:
        echo(f"{amount(len(results.values), 'result')} in {results.path}")
    pictures = Pictures(run / "dense" / f"{stored}.pictures.json", protocol, classes)
    keep: list[Any] = [pictures]
    if predictions is not None:
        keep.append(CocoResults(found, splits.test, len(classes)))

    def kept(item: Any, predicted: Any) -> None:
        for one in keep:
            one(item, predicted)

    with progress_bars(item_progress):
        table = compare_dense(
            starts,
            task,
            splits,
            options,
            labels=share,
            seeds=3 if seeds is None else seeds,
            results=results,
            keep={"pretrained": kept},
            note=echo,
        )
    if predictions is not None:
        write_atomically(predictions, found.read_text(encoding="utf-8"))
        echo(f"detections: {predictions}")
    trained = "frozen encoder" if train == "head" else "all layers trained"
    about = (
        f"{state['method']}, {head} head, {trained}, {100 * share:g} % of {len(splits.train):,} training images, "
        f"{amount(options.steps, 'step')} in {settings['precision']}, {amount(len(splits.test), 'test image')}."
    )
    title = f"{protocol.capitalize()}: {splits.name}"
    try:
        page = write_dense_report(run / f"{stored}.html", table, pictures, title, about)
        echo(f"page: {page}")
    except ImportError as error:
        echo(str(error), "yellow")
    return dict(table)


def _has_labels(state: dict[str, Any]) -> bool:
    """Whether the images that a run was trained on have classes."""
    from fastssl.data import open as open_source

    try:
        return open_source(data_of(state)).labels is not None
    except (OSError, ValueError):  # not recorded, or no longer there
        return False


def _weights(encoder: Any) -> str:
    """A hash of an encoder's tensors."""
    from fastssl.data.source import digest

    return digest(*(tensor.detach().cpu().numpy() for tensor in encoder.state_dict().values()))
