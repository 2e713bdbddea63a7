"""``open``: a source from a name, path, URL, array or data set, as for every command."""

from __future__ import annotations

import codecs
import contextlib
import difflib
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from fastssl.data import benchmarks, tables, text_files
from fastssl.data.annotated import ANNOTATED, open_annotated
from fastssl.data.array_files import archive, labelled, scored, stack
from fastssl.data.arrays import ArraySource
from fastssl.data.columns import check_options, split_options
from fastssl.data.corpus import Corpus
from fastssl.data.corpus import join as join_corpora
from fastssl.data.datasets import SAVED, DatasetSource, hub
from fastssl.data.decode import MAX_PIXELS
from fastssl.data.embedded import digits, emoji
from fastssl.data.embedded_text import glosses, sotu, verses
from fastssl.data.files import FileSource, NoImagesError, folder
from fastssl.data.frames import KIND as FRAMES
from fastssl.data.frames import open_frames
from fastssl.data.glue import glue
from fastssl.data.listing import CONVERTED, REMEDY, SUFFIXES
from fastssl.data.packed import MAGIC, PackedImages
from fastssl.data.pairs import text_pairs
from fastssl.data.parts import OF_IMAGES, PARTS, find_labelled, find_part
from fastssl.data.readable import current as leaving_out
from fastssl.data.scenes import scenes
from fastssl.data.shards import ShardSource
from fastssl.data.signals import spoken_digits, tones
from fastssl.data.source import Source
from fastssl.data.stereograms import stereograms
from fastssl.data.storage import (
    check_unpacked,
    ending,
    entries,
    is_file,
    is_folder,
    is_url,
    join,
    kind_of,
    matching,
    name_of,
    open_file,
    parent,
)
from fastssl.data.tables import PARQUET
from fastssl.data.text_parts import number_alike, texts
from fastssl.data.tokens import TokenFile
from fastssl.data.value_range import ValueRange, checked_range, described_range, take_range, trained
from fastssl.data.wav import SUFFIX as WAV
from fastssl.data.wav import WavSource, wav_folder

log = logging.getLogger("fastssl")
_OF_PAIRS = ("source", "target", "encoding", "errors")
EMBEDDED: dict[str, Callable[[], Source]] = {
    "emoji": lambda: emoji("train"),
    "emoji-all": emoji,
    "emoji-heldout": lambda: emoji("heldout"),
    "digits": digits,
    "stereograms": stereograms,
    "scenes": scenes,
    "tones": tones,
    "spoken-digits": spoken_digits,
    "sotu": sotu,
    "verses-en": verses,
    "verses-es": lambda: verses("es"),
    "verses-en-es": lambda: verses("en-es"),
    "verses-es-en": lambda: verses("es-en"),
    "glosses": glosses,
    "glosses-train": lambda: glosses("train"),
}
# Readers of corpora by the word before the colon: of a place, a part, and options behind the place.
TEXTS: dict[str, Callable[..., Corpus]] = {
    "text": texts,
    "glue": glue,
    "pairs": text_pairs,
    "text8": lambda place, part: text_files.text8(place),
    "wikitext": lambda place, part: text_files.wikitext(place, part),
}
WITH_OPTIONS = ("text", "pairs")
NPZ = ".npz"
_START = 4096  # bytes by which a file is known
_TEXTS = {*tables.SUFFIXES, *text_files.SUFFIXES}
_FILES = {PARQUET, ".tar", ".pack", ".tok", ".npy", WAV, *SUFFIXES, *_TEXTS}
# Data by themselves.
_WHOLE = {".pack", ".tok", ".tar", WAV, PARQUET, ".gz", ".tgz", *_TEXTS}


def open(
    data: Any,
    *,
    labels: Any = None,
    scores: Any = None,
    part: str = "train",
    max_pixels: int = MAX_PIXELS,
    orientation: bool = True,
    value_range: ValueRange | None = None,
    progress: Callable[[int], None] | None = None,
) -> Source:
    """Opens ``data`` as a source of items.

    Args:
        data: one of

            - a name: "emoji" (the 1,497 training items), "emoji-heldout" (374 items for retrieval), "emoji-all",
              "digits", "stereograms", "scenes" (of emoji, with boxes and masks); of signals: "tones", "spoken-digits";
              of texts: "sotu", "verses-en", "verses-es", "verses-en-es", "verses-es-en", "glosses", "glosses-train"
              (without the 4,000 to classify);
            - "NAME:FOLDER" with a name of :data:`fastssl.data.benchmarks.READERS`, such as "cifar-10:/data/cifar";
              "frames:FOLDER", clips of frames of videos (:func:`fastssl.data.frames`), "frames:FOLDER#gap=15:step=5";
              "voc:FOLDER" and "coco:FOLDER", images with boxes;
              "hf:PATH", a Hugging Face data set of images or of texts (extra: datasets), also as Parquet files;
            - a token file (``.tok``, written by ``fastssl tokenize``);
            - a corpus: a ``.txt`` file, a table of texts or of pairs of them (:func:`text_table`), or "text:PATH" for a
              ``.txt`` or ``.jsonl`` file or a folder of them (see :func:`text_corpus`), with parts where it has
              ``train`` and ``test`` files or folders, "text8:FILE", "wikitext:FOLDER",
              "glue:FOLDER" (of one of its tasks),
              "pairs:FILE", "pairs:x.{de,en}" (see :func:`text_pairs`); several, separated by commas: "sotu,glosses";
            - a folder of images, of WAV files, or of ``.txt`` or ``.jsonl`` files alone, with one sub-folder per class,
              of images also with classes in their names, "photos/#label=^(.+)[._][0-9]+" (:func:`folder`);
              with ``train`` and ``val`` (or ``test``) in it, the split ``part``; a folder of tar shards;
            - a file: an image, a WAV file, an array of images (``.npy``), a packed file, a tar shard (or a pattern:
              ``shards/*.tar``), arrays (``.npz``, also ``d.npz#images=x:labels=y``:
              :func:`fastssl.data.array_files.archive`), a list (``.csv``, ``.tsv``, ``.json``,
              ``.jsonl`` with columns path, label, text, and split where it has both parts: :func:`table`), captions of
              COCO (``captions_val2017.json``), Karpathy's splits (``dataset_coco.json``);
            - the URL of such a folder or file (``s3://``, ``gs://``, ``https://``, any protocol of fsspec; extra:
              remote), also with a pattern: ``https://host/train-{000..127}.tar``. Remote data is cached on disk
              (``FASTSSL_CACHE``), up to ``FASTSSL_CACHE_GIB``;
            - a list of files, or of images; an array or tensor [N, H, W, C], [N, C, H, W], [N, H, W] or
              [N, K, H, W, C];
            - a map-style data set of images, (image, label) pairs or mappings, or a ``DataLoader`` of one, of which
              only the data set is used;
            - a source, which is returned unchanged.

            Columns that are not known by their names, and other options, stand behind tables, "text:PATH", "pairs:PATH"
            and "hf:PATH": ``reviews.csv#text=review:label=stars``, ``pairs.tsv#text=a:text_pair=b:score=rating``,
            ``text:old/#encoding=latin-1``. Behind images ``#range=0,4095`` is their ``value_range``. A path that begins
            with ``./`` or ``/`` is never interpreted as a name.
        labels: one integer per item, -1 for unknown classes, or one name per item, if ``data`` has no labels.
        scores: one number to predict per item, NaN for unknown ones, in place of ``labels``.
        part: split, "train" or "test", of data that has both.
        max_pixels: larger images raise an error before they are decoded.
        orientation: apply the EXIF orientation. torchvision's ``ImageFolder`` does not.
        value_range: the values of pixels that are read as 0 and 255 in all images, those outside are clipped and NaN is
            0; None: 0 and 65,535 of integers of 16 bits, 0 and 1 of floats, and 8 bits unchanged.
        progress: called with the number of files found so far.

    Raises:
        FileNotFoundError: no such file or folder.
        TypeError: ``data`` is of an unsupported type.
        ValueError: no images, ``labels`` or ``scores`` for data that has its own, or both; ``value_range`` for data of
            8 bits, such as packed files, or of no images.

    Example:
        >>> import numpy as np, fastssl.data
        >>> fastssl.data.open("digits")
        ArraySource('digits', 1,797 items, 10 classes)
        >>> fastssl.data.open(np.zeros((4, 32, 32, 3), np.uint8), labels=[0, 1, 1, 0])
        ArraySource('images', 4 items, 0 classes)
    """
    if part not in ("train", "test"):
        raise ValueError(f"part: expected 'train' or 'test', got {part!r}")
    options: dict[str, Any] = {"max_pixels": max_pixels, "orientation": orientation}
    asked = checked_range(value_range)
    if isinstance(data, (str, Path)):
        data, named = without_range(str(data))
        if asked is not None and named is not None:
            raise ValueError(f"value_range: expected one, got {asked} and #range={named[0]:g},{named[1]:g}")
        asked = asked or named
    options["value_range"] = asked or trained.get()
    source = _open(data, part, options, progress)
    check_range(source, asked)
    if isinstance(data, str):
        source.where = _with_range(_absolute(data), source.value_range)
        source = without_unreadable(source, data, part)
    if labels is None and scores is None:
        return source
    if labels is not None and scores is not None:
        raise ValueError("labels, scores: expected one of them, got both")
    if source.labels is not None:
        name = "labels" if scores is None else "scores"
        raise ValueError(f"{name}: expected None, {source.name} has its own labels")
    return labelled(source, labels) if scores is None else scored(source, scores)


def without_range(name: str) -> tuple[str, ValueRange | None]:
    """A name of data without the range behind it, and that range."""
    place, given = split_options(name)
    value_range = take_range(given)
    if value_range is None:
        return name, None
    kept = [option for option in re.split(r"(?<!\\):", name[len(place) + 1 :]) if not option.startswith("range=")]
    return "#".join([place, *([":".join(kept)] if kept else [])]), value_range


def check_range(source: Source, asked: ValueRange | None) -> None:
    """Checks that a source has the range that is asked for.

    Raises:
        ValueError: it is none of images, or one of 8 bits alone.
    """
    if asked is not None and source.value_range not in (None, asked):  # of a packed file
        raise ValueError(
            f"value_range: expected None or that of {source!r}, {described_range(source.value_range)}, got {asked}"
        )
    if asked is not None and source.value_range is None:
        raise ValueError(f"value_range: expected None, {source!r} has no pixels of more than 8 bits")


def _with_range(name: str, value_range: ValueRange | None) -> str:
    """A name of data with a range behind it."""
    if value_range is None:
        return name
    low, high = (f"{value:.17g}" for value in value_range)
    return f"{name}{':' if split_options(name)[1] else '#'}range={low},{high}"


def without_unreadable(source: Source, name: str, part: str) -> Source:
    """What was opened as ``name``, where unreadable items are left out without them."""
    leave_out = leaving_out.get()
    if leave_out is None or name in EMBEDDED or isinstance(source, TokenFile):
        return source
    left = leave_out(source, _absolute(name), part)
    left.part = source.part
    return left


def _absolute(name: str) -> str:
    """Names unchanged, paths absolute."""
    place, given = split_options(name)
    if given:
        return f"{_absolute(place)}#{name[len(place) + 1 :]}"
    if name in EMBEDDED or is_url(name):
        return name
    if len(listed := names_of(name)) > 1:
        return ",".join(map(_absolute, listed))
    kind, root = _kind_and_root(name)
    if kind:
        there = any(map(os.path.exists, matching(root)))
        return f"{kind}:{os.path.abspath(root)}" if there else name
    return os.path.abspath(os.path.expanduser(name))


def _kind_and_root(name: str) -> tuple[str, str]:
    """What stands before and behind the colon of a name such as "cifar-10:FOLDER"; of others "" and the whole."""
    kind, colon, root = name.partition(":")
    known = kind in ("hf", FRAMES, *benchmarks.READERS, *TEXTS, *ANNOTATED)
    return (kind, root) if colon and known else ("", name)


def gone(name: str) -> str | None:
    """The path of recorded data that is no longer there; None: it is, or it is known by a name or a URL."""
    place, given = split_options(name)
    if given:
        return gone(place)
    if len(listed := names_of(name)) > 1:
        return next(filter(None, map(gone, listed)), None)
    place = _kind_and_root(name)[1]
    return place if os.path.isabs(place) and not any(map(os.path.exists, matching(place))) else None


def names_of(data: str) -> list[str]:
    """The names of data that commas separate. Commas in the names of files and folders that are there, of URLs, within
    braces, and of classes behind "voc:" and "coco:" separate none.

    Example:
        >>> from fastssl.data.opening import names_of
        >>> names_of("emoji,digits"), names_of("shards-{a,b}.tar")
        (['emoji', 'digits'], ['shards-{a,b}.tar'])
    """
    if _kind_and_root(data)[0] in ANNOTATED:
        return [data]
    names: list[str] = []
    parts = re.split(r",(?![^{}]*\})", data)
    for k in range(len(parts) - 1, 0, -1):
        if re.search(r"[#:]range=[^:,]*$", parts[k - 1]):  # two numbers, which are no names
            parts[k - 1 : k + 1] = [",".join(parts[k - 1 : k + 1])]
    while parts:
        most = len(parts)
        if is_url(parts[0]):  # up to what can be no rest of it
            count = next((k for k in range(1, most) if is_url(parts[k]) or _is_known(parts[k])), most)
        else:
            count = next((k for k in range(most, 1, -1) if _is_place(",".join(parts[:k]), k)), 1)
        names.append(",".join(parts[:count]))
        parts = parts[count:]
    return names if any(name in EMBEDDED or ":" in name or _is_place(name) for name in names) else [data]


def _is_known(name: str) -> bool:
    return name in EMBEDDED or bool(_kind_and_root(name)[0])


def _is_place(name: str, parts: int = 1) -> bool:
    """Whether a name, without its kind and options, is that of a file or folder, which has ``parts`` between commas."""
    place = split_options(name)[0]
    kind, _, root = place.partition(":")
    roots = [one for one in (place, "" if "," in kind else root) if one and not is_url(one)]
    found = (there for root in roots for there in matching(os.path.expanduser(root)))
    return place.count(",") >= parts - 1 and any(map(os.path.exists, found))


def _open(data: Any, part: str, options: dict[str, Any], progress: Callable[[int], None] | None) -> Source:
    if isinstance(data, Source):
        return data
    if isinstance(data, (str, Path)):
        return _named(str(data), part, options, progress)
    value_range = options["value_range"]
    if isinstance(data, (np.ndarray, Tensor)):
        return ArraySource(data, value_range=value_range)
    if isinstance(data, DataLoader):
        return _open(data.dataset, part, options, progress)
    if isinstance(getattr(data, "source", None), Source):  # a Loader
        return data.source
    if isinstance(data, Mapping):
        raise TypeError(
            f"data: expected images or a data set of items, got a mapping with {', '.join(map(repr, list(data)[:4]))}; "
            "give the images, and labels="
        )
    if isinstance(data, tuple) and len(data) == 2 and _are_labels(data[1]):
        raise TypeError("data: expected images, got a pair of images and labels; give the images, and labels=")
    if isinstance(data, Sequence):
        if len(data) and all(isinstance(item, (str, Path)) for item in data):
            return _files([str(p) for p in data], None, part, options, progress)
        if not len(data) or not isinstance(data[0], (tuple, dict)):
            return ArraySource(data, value_range=value_range)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, IterableDataset):
        return DatasetSource(data, value_range=value_range)
    raise TypeError(
        "data: expected a name, a path, images, a data set of (image, label) or a source, got " + type(data).__name__
    )


def _kind(place: str) -> str:
    """The suffix of a path or URL; of compressed texts and tables the one before."""
    return kind_of(place) if kind_of(place) in _TEXTS else ending(place)


def _are_labels(given: Any) -> bool:
    return isinstance(given, (list, np.ndarray, Tensor)) and np.ndim(given) <= 1


def _named(name: str, part: str, options: dict[str, Any], progress: Callable[[int], None] | None) -> Source:
    if name in EMBEDDED:
        return EMBEDDED[name]()
    if len(listed := names_of(name)) > 1:
        corpora = [_named(one, part, options, progress) for one in listed]
        other = next((source for source in corpora if not isinstance(source, Corpus)), None)
        if other is not None:
            raise ValueError(f"data: expected one data set, or corpora between the commas of {name!r}, got {other!r}")
        return join_corpora(corpora)  # type: ignore[arg-type]
    name, given = split_options(name)
    if given:
        return _with_options(name, given, part, options, progress)
    kind, _, root = name.partition(":")
    if root and kind in TEXTS:
        return TEXTS[kind](root, part)
    if root and kind in ANNOTATED:
        return open_annotated(kind, root, {}, part, value_range=options["value_range"])
    if root and kind == FRAMES:
        return _frames(root, {}, part, options, progress)
    if root and kind in benchmarks.READERS:
        return _part_of(benchmarks.read(kind, root)[0 if part == "train" else 1], part)
    if kind == "hf" and root:
        return _hub(root, part, {}, options)
    place = name if is_url(name) else os.path.expanduser(name)
    found = matching(place)
    if len(found) > 1 or (found and found != [place]):
        return _files(found, name_of(parent(found[0])), part, options, progress)
    # Over some protocols only the suffix distinguishes a file from a folder.
    if (_kind(place) in _FILES or not is_folder(place)) and is_file(place):
        return _file(place, part, options)
    if is_folder(place):
        return _folder(place, part, options, progress)
    if is_url(place):
        raise FileNotFoundError(f"data: no file or folder {name!r}")
    if os.sep in name and ":" not in name:  # a path, which no name of a data set is
        where = "" if os.path.isabs(place) else f" in {os.getcwd()!r}"
        raise FileNotFoundError(f"data: no file or folder {name!r}{where}")
    known = [
        *EMBEDDED,
        "hf:PATH",
        *(f"{kind}:PATH" for kind in TEXTS),
        *(f"{kind}:FOLDER" for kind in (FRAMES, *ANNOTATED)),
        *(f"{reader}:FOLDER" for reader in benchmarks.READERS),
    ]
    near = difflib.get_close_matches(name.partition(":")[0], [one.partition(":")[0] for one in known], 1)
    raise FileNotFoundError(
        f"data: no file or folder {name!r}, and no name of a data set ({', '.join(known)})"
        + (f"; did you mean {near[0]!r}?" if near else "")
    )


def _with_options(
    name: str,
    given: dict[str, str],
    part: str,
    options: dict[str, Any],
    progress: Callable[[int], None] | None = None,
) -> Source:
    """A table, texts, pairs or a Hugging Face data set, some of whose columns are named."""
    kind, _, root = name.partition(":")
    if root and kind in WITH_OPTIONS:
        if kind == "pairs":
            check_options(given, name, _OF_PAIRS)
        return TEXTS[kind](root, part, **given)
    if root and kind in ANNOTATED:
        return open_annotated(kind, root, given, part, value_range=options["value_range"])
    if root and kind == FRAMES:
        return _frames(root, given, part, options, progress)
    place = name if is_url(name) else os.path.expanduser(name)
    if kind == "hf" or ending(place) == PARQUET:
        return _hub(root if kind == "hf" else place, part, given, options)
    of_images = bool(tables.IMAGE_OPTIONS & set(given))
    if _kind(place) == ".txt" and not of_images:
        return texts(place, part, **given)
    if (whole := prefixed(place)) != place:
        return _with_options(whole, given, part, options)
    if is_folder(place):
        check_options(given, f"a folder of images, {place}", ("label", "range"))
        return _part(
            place, part, lambda own, show: folder(own, label=given["label"], progress=show, **options), progress
        )
    if ending(place) == NPZ and is_file(place):
        return archive(place, part, given, options["value_range"])
    if (_kind(place) in tables.SUFFIXES or (kind_of(place) in tables.LISTS and of_images)) and is_file(place):
        how = {key: given.pop(key) for key in ("encoding", "errors") if key in given}
        return tables.open_table(place, columns=given, part=part, **how, **options)
    if not is_url(place) and not os.path.exists(place) and not (root and kind in {*TEXTS, *benchmarks.READERS}):
        raise FileNotFoundError(f"data: no file or folder {name!r}")
    raise ValueError(
        f"data: expected a table ({', '.join(tables.SUFFIXES)}), {NPZ}, text:PATH, pairs:PATH or hf:PATH with options "
        f"({', '.join(given)}), got {name!r}"
    )


def _frames(
    root: str, given: dict[str, str], part: str, options: dict[str, Any], progress: Callable[[int], None] | None
) -> Source:
    """Clips, of which some may be those of a test part."""
    place = root if is_url(root) else os.path.expanduser(root)
    if not is_folder(place):
        raise FileNotFoundError(f"data: expected a folder of clips, there is none called {root!r}")
    return _part(place, part, lambda own, show: open_frames(own, given, {**options, "progress": show}), progress)


def _hub(root: str, part: str, given: dict[str, str], options: dict[str, Any]) -> Source:
    """A Hugging Face data set, whose columns may also be paths of images."""
    parts = hub(root, options, **given)
    alone = len(parts) == 1 and (ending(root) == PARQUET or "split" in given)
    chosen = next(iter(parts)) if alone else find_labelled(parts, part, parts.__getitem__, OF_IMAGES)
    if chosen is None:
        raise ValueError(f"data: expected a part for {part} in {root!r}, got {sorted(parts)}")
    both = all(find_part(parts, one, OF_IMAGES) for one in PARTS)
    return _part_of(parts[chosen], part) if both else parts[chosen]


def _part_of(source: Source, part: str) -> Source:
    source.part = part
    return source


def _files(
    places: list[str],
    name: str | None,
    part: str,
    options: dict[str, Any],
    progress: Callable[[int], None] | None,
) -> Source:
    """Tar shards, or images."""
    if len(places) == 1 and _kind(places[0]) in _FILES & _WHOLE:
        return _file(places[0], part, options)
    if all(ending(place) == ".tar" for place in places):
        return ShardSource(places, name, progress=progress, **options)
    if all(ending(place) == WAV for place in places):
        return WavSource(places, name=name or "files")
    other = next((place for place in places if _kind(place) in _WHOLE), None)
    if other is not None:
        raise ValueError(f"data: expected images or .tar shards, got {other!r} among several files; give it alone")
    if not is_url(places[0]):  # of others reading says what they are
        if not is_file(places[0]):
            raise FileNotFoundError(f"data: no file {places[0]!r}")
        _check_no_text(places[0], open_file(places[0]).read(0, _START))
    return FileSource(places, name=name or "files", **options)


def _folder(place: str, part: str, options: dict[str, Any], progress: Callable[[int], None] | None) -> Source:
    there = entries(place)
    shards = _shards(place, there, options, progress)
    if shards is not None:
        return shards
    if (name := prefixed(place)) != place:
        return _named(name, part, options, progress)

    def items(own: str, show: Callable[[int], None] | None) -> Source:
        return _items(own, options, show, part if own == place else None)

    table = next((name for name in tables.METADATA if name in there), None)
    if table is not None and parts_of(place) is not None:
        log.warning("%s: the table %s is not read: that of a part is in its folder; or open it by itself", place, table)

    known = benchmarks.recognised(there)
    if known is None:
        return _part(place, part, items, progress)
    remedy = f"the labels and parts of this data set are read as {known}:{place}"
    try:
        found = _part(place, part, items, progress)
    except NoImagesError as error:
        raise NoImagesError(f"{error}; {remedy}") from error
    log.warning("%s: %s", place, remedy)
    found.classes_from = remedy
    return found


def _part(
    place: str,
    part: str,
    read: Callable[[str, Callable[[int], None] | None], Source],
    progress: Callable[[int], None] | None,
) -> Source:
    """A part of a folder that has both, or all that it holds; ``read``: the source of a folder."""
    parts = parts_of(place)
    if parts is not None:
        chosen = read(parts[0 if part == "train" else 1], progress)
        chosen.name = _called(place)
        if part != "train" and chosen.labels is not None:
            number_alike(chosen, read(parts[0], None).classes)
        return _part_of(chosen, part)
    return read(place, progress)


def prefixed(name: str) -> str:
    """The name of a folder of a Hugging Face data set, or of texts alone, with its prefix; other names unchanged.

    Raises:
        ValueError: such a data set beside images.
    """
    place = split_options(name)[0]
    place = place if is_url(place) else os.path.expanduser(place)
    if not is_folder(place):
        return name
    there = entries(place)
    held = [own for own in there if ending(own) == PARQUET]
    of_images = all(own in tables.METADATA for own in held) and any(
        is_a_folder or ending(own) in SUFFIXES for own, is_a_folder in there.items()
    )
    if any(own in there for own in SAVED) or (held and not of_images):
        _alone(place, there, PARQUET)
        return f"hf:{name}"
    return f"text:{name}" if text_files.holds_texts(place) else name


def _shards(
    place: str, there: dict[str, bool], options: dict[str, Any], progress: Callable[[int], None] | None
) -> Source | None:
    names = sorted(name for name, is_a_folder in there.items() if ending(name) == ".tar" and not is_a_folder)
    if not names:
        return None
    _alone(place, there, ".tar")
    return ShardSource([join(place, name) for name in names], _called(place), progress=progress, **options)


def _alone(place: str, there: dict[str, bool], kind: str) -> None:
    """A folder whose other files would be passed over is not guessed at."""

    def images_of(names: dict[str, bool]) -> list[str]:
        return [n for n, is_a_folder in names.items() if ending(n) in SUFFIXES and not is_a_folder and n[0] != "."]

    found = images_of(there)
    inner = sorted(name for name, is_a_folder in there.items() if is_a_folder and not name.startswith("."))
    if inner and not found and not is_url(place):
        if parts_of(place) is not None:
            found = [f"those in {inner[0]}/"]
        with contextlib.suppress(OSError):  # of a folder that may not be read
            found = found or [f"{inner[0]}/{name}" for name in images_of(entries(join(place, inner[0])))]
    if found:
        raise ValueError(
            f"data: {place!r} holds {kind} files beside images such as {found[0]}; move one kind"
            + (f", or name the files ({place}/*{kind})" if kind == ".tar" else "")
        )


def _items(
    place: str,
    options: dict[str, Any],
    progress: Callable[[int], None] | None,
    part: str | None = None,
) -> Source:
    """A folder of tar shards, of WAV files, recognised by itself and its first sub-folder, of images, also by a table
    in it, or of texts alone."""
    there = entries(place)
    shards = _shards(place, there, options, progress)
    if shards is not None:
        return shards
    listed = next((name for name in tables.METADATA if name in there), None)
    first = min((name for name, is_a_folder in there.items() if is_a_folder), default=None)
    if any(ending(name) == WAV for name in [*there, *(entries(join(place, first)) if first else ())]):
        found = wav_folder(place)
        if found is not None:
            _alone(place, there, WAV)
            if listed is not None:
                log.warning("%s: the table %s is not read: classes of WAV files are sub-folders", place, listed)
            return found
    if listed is not None:
        of_table = tables.image_folder(join(place, listed), part=part, progress=progress, **options)
        if of_table is not None:
            return of_table
    try:
        return folder(place, progress=progress, **options)
    except NoImagesError:
        if not text_files.holds_texts(place):
            raise
    return text_files.text_corpus(place)


def _called(place: str) -> str:
    return name_of(place) if is_url(place) else Path(place).resolve().name


def _file(place: str, part: str, options: dict[str, Any]) -> Source:
    kind = _kind(place)
    if kind == PARQUET:
        return _hub(place, part, {}, options)
    if kind == ".tar":
        return ShardSource([place], **options)
    if kind == ".npy":
        return stack(place, **options)
    if kind == NPZ:
        return archive(place, part, {}, options["value_range"])
    if kind == ".tok":
        return TokenFile(place)
    if kind == WAV:
        return WavSource([os.path.basename(place)], name=name_of(place), root=parent(place))
    if kind == ".txt":
        corpus: Any = text_files.text_corpus(place)
        _check_lists_no_images(place, corpus.texts.files[0].read(0, _START))
        return corpus
    if kind in tables.SUFFIXES:
        return tables.open_table(place, part=part, **options)
    if kind_of(place) in CONVERTED:  # also compressed
        raise ValueError(f"data: expected an image, got {place!r}; {REMEDY}")
    start = open_file(place).read(0, _START)
    if kind == ".pack" or start[: len(MAGIC)] == MAGIC:
        return PackedImages(place)
    check_unpacked(place, start)
    if kind in tables.LISTS:
        _check_lists_no_images(place, start)
    _check_no_text(place, start)
    one = FileSource([os.path.basename(place)], name=name_of(place), root=parent(place), **options)
    if kind not in SUFFIXES:  # it may be no image
        one.read(0)
    return one


def _check_no_text(place: str, start: bytes) -> None:
    """Checks the first bytes of a file that has no suffix of images."""
    if ending(place) not in SUFFIXES and start and not any(byte < 9 for byte in start) and _is_text(start):
        raise ValueError(
            f"data: expected an image, got {place!r}, a file of text; texts are opened as text:{place}, two files of "
            "parallel lines as 'pairs:x.{de,en}', translation memories as pairs:x.tmx"
        )


def _check_lists_no_images(place: str, start: bytes) -> None:
    """A list of images is no corpus, although its lines are text: of images that are there, or of several lines, but
    for a heading of up to two (CelebA's), each of which begins with the name of one."""
    complete = start if len(start) < _START else start[: start.rfind(b"\n") + 1]
    lines = [line for own in complete.decode("utf-8", "replace").split("\n") if (line := own.strip())]
    named = list(map(_image_in, lines))
    first = next((k for k, name in enumerate(named[:3]) if name is not None), None)
    if first is None or not all(named[first:]):
        return
    there = is_file(join(parent(place), str(named[first])))
    if not there and len(named) - first < 2 and len(lines[first].split()) > 1:  # a sentence on a file
        return
    known = benchmarks.recognised([os.path.basename(place)])
    how = f"{place}#images={'.' if there else 'FOLDER'}" if known is None else f"{known}:FOLDER"
    raise ValueError(
        f"data: expected texts, {place!r} lists images such as {named[first]!r}"
        f"{'' if there else ', which is not beside it'}; those are read as {how}, and the lines of the file themselves "
        f"as text:{place}"
    )


def _image_in(line: str) -> str | None:
    """The name of an image that a line is or begins with, without the number of its text (Flickr8k's)."""
    fields = (line, re.split(r"[,;\t|]", line)[0], line.partition(" ")[0])
    names = (re.sub(r"#\d+$", "", field.strip()) for field in fields)
    return next((name for name in names if ending(name) in SUFFIXES), None)


def _is_text(start: bytes) -> bool:
    """Whether the first bytes of a file are UTF-8, but for a character that they cut."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        decoder.decode(start)
    except UnicodeDecodeError:
        return False
    return True


def parts_of(place: str | Path) -> tuple[str, str] | None:
    """The folders of the training and the test split, if a folder has both."""
    place = str(place)
    if not is_folder(place):
        return None
    folders = [name for name, is_a_folder in entries(place).items() if is_a_folder and not name.startswith(".")]
    alone = len(folders) == 2  # beside others, "Train" is a class
    train, test = (find_part(folders, part, OF_IMAGES, any_case=alone) for part in PARTS)
    return (join(place, train), join(place, test)) if train and test else None
