"""Tables of image files with labels and texts, or of texts with labels: CSV, TSV, JSON and JSON lines."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from fastssl._words import amount
from fastssl.data.captions import Captioned, captions_of, coco_rows, images_folder, is_coco, is_karpathy, karpathy_rows
from fastssl.data.columns import (
    CAPTIONS,
    LABELS,
    PATHS,
    SENTENCES,
    URLS,
    NoTextsError,
    check_answers,
    check_options,
    described,
    find_column,
    first_column,
    known_column,
    numbers_in,
    path_column,
    spaced,
    text_columns,
    with_inner,
)
from fastssl.data.corpus import Corpus, GivenTexts, decoded, replaced
from fastssl.data.embedded_text import ParallelCorpus
from fastssl.data.files import FileSource
from fastssl.data.labels import class_labels, fraction_among, labels_of, scores_of, several_labels
from fastssl.data.listing import ARRAY, list_images
from fastssl.data.listing import SUFFIXES as IMAGES
from fastssl.data.storage import ending, entries, is_folder, is_url, join, kind_of, name_of, parent
from fastssl.data.table_splits import SPLITS, of_part
from fastssl.data.wav import SUFFIX as WAV

log = logging.getLogger("fastssl")
_END = "\ue000end of the table"  # a last row, which a quotation mark without another one would take in
PARQUET = ".parquet"
SUFFIXES = (".csv", ".tsv", ".json", ".jsonl")
METADATA = ("metadata.csv", "metadata.jsonl", f"metadata{PARQUET}")  # of Hugging Face's folders of images
FILE_NAME = "file_name"
LISTS = (".txt", ".token")  # tables where they are said to list images (``#images=``)
# Rows of lists without names of columns and quotation marks: of Flickr8k and Flickr30k, of ImageNet and Places365.
_BARE = {
    ("path", "text"): re.compile(r"([^\t]+)#\d+\t(.*)"),
    ("path", "label"): re.compile(r"(.+?)\s+(\S+)"),
}
_SHOWN = 3  # columns of an error
_LINKS = 100  # cells that tell URLs of images from those of pages
IMAGE_OPTIONS = {"path", "images"}  # options that tables of images alone have


def table(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    images: str | Path | None = None,
    part: str | None = None,
    split: str | None = None,
    **options: Any,
) -> FileSource:
    """Returns the images listed in a table.

    Args:
        path: path or URL of a ``.csv``, ``.tsv`` or ``.txt`` file with a header, a ``.json`` file with a list of
            objects, a ``.jsonl`` file with one object per line, or a ``.json`` file of COCO's captions or of Karpathy's
            splits, each caption of which is a row. Fields of ``.csv`` and ``.txt`` files are separated by what their
            header has: a comma, else a semicolon, a tab or a "|". A first row that begins with the name of an image is
            no header: one or two columns without it are the paths and the labels, also with a space between them
            ("a.jpg 3"); with the number of a text behind the path, paths and texts ("a.jpg#0", a tab, "A cat.").
            ``.txt`` files may be in CelebA's form: the number of images, the names of the values, and a line per image.
            A ``.parquet`` file of paths. All but the last may be compressed (``.gz``, ``.bz2``, ``.xz``, ``.zst``).
            Columns: path (or file, file_name, image, filepath, image_name), label (or class, target) and text (or
            caption, title, comment, captions, raw). Names of columns in any case. Labels are integers or names; an
            empty label is unknown. A cell with a list of texts (in ``.csv`` files: in JSON) is a row for each.
        columns: "path", "label" or "text" -> the name of its column, where it is another one; "score" -> the column of
            numbers to predict, in place of labels; "labels" -> the columns of several classes per image, "{cat,dog}",
            with 1 or 0 (or 1 or -1) in each; an empty one is unknown. Paths may lack the suffix that their files have.
        images: the folder that paths are relative to, itself relative to that of the table; None: the folder of the
            table, and for captions of COCO the one that has the images
            (:func:`fastssl.data.captions.images_folder`).
        part: "train" or "test": rows of this part of a table with a column split (or partition, subset) of "train" and
            "test" (or dev, val, ...; Karpathy's "restval" is trained on); None: all rows.
        split: rows with this value in that column alone, such as "val".
        options: options of :class:`FileSource`.

    Raises:
        FileNotFoundError: no such table, or none of its images is there (of a few that are looked for).
        ValueError: no rows, no column of paths, a row without a path, or with more fields than the heading; a text that
            is no string; a score that is no number; bytes that are no UTF-8; no folder ``images``, or COCO's images
            are in none of its folders.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> path = Path(tempfile.mkdtemp()) / 'cat' / '0.png'
        >>> path.parent.mkdir()
        >>> Image.new('RGB', (8, 8)).save(path)
        >>> from fastssl.data import table
        >>> listed = path.parent / 'listed.csv'
        >>> _ = listed.write_text('path,label\\n0.png,cat\\n')
        >>> len(table(listed))
        1
    """
    given = {**(columns or {}), **({} if images is None else {"images": str(images)})}
    given |= {} if split is None else {"split": split}
    rows = _parquet_rows(str(path)) if ending(str(path)) == PARQUET else _rows(str(path))
    return listed_images(str(path), rows, given, part, **options)


def image_folder(
    path: str, *, part: str | None = None, progress: Callable[[int], None] | None = None, **options: Any
) -> FileSource | None:
    """The images that the table of their folder lists, as Hugging Face's ``imagefolder`` reads it: classes and captions
    are those of the table, and images that it does not list are left out.

    Args:
        path: path of the table.
        part: as of :func:`table`.
        progress: called with the number of images found so far.
        options: options of :class:`FileSource`.

    Returns:
        None, with a warning, for a table without a column ``file_name``.
    """
    rows, folder = _parquet_rows(path) if ending(path) == PARQUET else _rows(path), parent(path)
    if FILE_NAME not in _columns(rows):
        log.warning("%s: the table is not read, it has no column %s (%s)", path, FILE_NAME, ", ".join(_columns(rows)))
        return None
    source = listed_images(path, rows, {"path": FILE_NAME}, part, **options)
    source.name = name_of(folder) if is_url(folder) else Path(folder).resolve().name
    there, listed = list_images(folder, progress), {str(row[FILE_NAME]) for row in rows}
    others = sum(own not in listed for own in there.files)
    left = {f"not listed in {os.path.basename(path)}": others} if others else {}
    source.skipped = {**there.skipped, **source.skipped, **left}
    if source.labels is None:
        source.classes_from = f"classes are a column of {path} ({', '.join(LABELS)}), sub-folders beside it are none"
    return source


def listed_images(
    path: str, rows: list[dict[str, Any]], given: Mapping[str, str], part: str | None, **options: Any
) -> FileSource:
    """The images that the rows of a table list (:func:`table`)."""
    if not rows:
        raise ValueError(f"{path}: expected rows, found none")
    folders = rows.folders if isinstance(rows, Captioned) else None
    columns, roles = _columns(rows), {"path": PATHS, "label": LABELS, "text": CAPTIONS, "score": ()}
    check_options(given, path, (*roles, "labels", "images", "split"))
    check_answers(path, given)
    if "score" in given or "labels" in given:
        del roles["label"]
    chosen = {
        role: known_column(columns, path, role, given[role]) if role in given else first_column(columns, names)
        for role, names in roles.items()
    }
    label, score = chosen.get("label"), chosen["score"]
    answer = label or score
    read = [] if answer is None else [row.get(answer) for row in rows]
    measured = None
    if label is not None and "label" not in given and fraction_among(read) is not None:
        measured, label, chosen["label"] = label, None, None
    where, text = chosen["path"], chosen["text"]
    if where is None:
        raise ValueError(
            f"{path}: expected a column of paths ({', '.join(PATHS)}), got {', '.join(columns)}; another one is named: "
            f"#path={path_column(columns)}{_of_flags(path, rows)}"
        )
    for k, row in enumerate(rows):
        if not row.get(where):
            raise ValueError(f"{path}: row {k + 1} has no {where}")
    labels: np.ndarray | None = None
    classes: list[str] = []
    if label is not None:
        labels, classes = class_labels(read, lambda k: f"{path}: row {k + 1}", label)
    elif score is not None:
        labels = scores_of(read, lambda k: f"{path}: row {k + 1}")
    elif "labels" in given:
        labels, classes = _of_columns(path, rows, given["labels"])
    texts: list[str] | None = None
    if text is not None:
        several = captions_of(path, [row.get(text) for row in rows], text)
        each = np.repeat(np.arange(len(rows)), [len(one) for one in several])  # an item with each text of an image
        rows, texts = [rows[k] for k in each], [one for own in several for one in own]
        labels = None if labels is None else labels[each]
    paths = [str(row[where]) for row in rows]
    if all(ending(own) == WAV for own in paths):
        raise ValueError(
            f"{path}: expected images, got WAV files such as {paths[0]}; those are opened as a folder, whose "
            "sub-folders are their classes"
        )
    root = _root(path, folders, paths[0], given.get("images"))
    source = FileSource(
        _below(root, paths, "images" in given),
        labels,
        classes,
        name_of(path),
        root=root,
        texts=texts,
        **options,
    )
    asked = classes if "labels" in given else []
    used = (*chosen.values(), measured, *asked)
    others = [name for name in columns if name not in used and find_column(SPLITS, name) is None]
    source.columns = described({**chosen, "labels": ", ".join(asked) or None}) + (
        f", not read: {', '.join(map(repr, others))}" if others else ""
    )
    source.columns += numbers_in(measured)
    free = [name for name in columns if name not in chosen.values()]
    flags = _flags(rows, columns) if source.labels is None else []
    if flags:
        source.classes_from = f"columns of 0 and 1 are read as several classes per image with {path}{_several(flags)}"
    made = of_part(path, source, rows, first_column(free, SPLITS), part, given.get("split"))
    made.check_there()
    return made


def _of_columns(path: str, rows: list[dict[str, Any]], given: str) -> tuple[np.ndarray, list[str]]:
    """Several classes per row, of the columns that ``{cat,dog}`` names, and their names."""
    names = [name.strip() for name in given.strip("{}").split(",")]
    if len(names) < 2:
        raise ValueError(
            f"labels: expected the columns of several classes in braces, {path}#labels={{cat,dog}}, got {names[0]!r}; "
            f"classes in one column are #label={names[0]}"
        )
    classes = [known_column(_columns(rows), path, "labels", name) for name in names]
    own = {name: [row.get(name) for row in rows] for name in classes}
    return several_labels(own, lambda k: f"{path}: row {k + 1}"), classes


def _flags(rows: list[dict[str, Any]], columns: Iterable[str]) -> list[str]:
    """The columns of 0 and 1, or of 1 and -1, where there are several: one for each class."""
    cells = {name: {str(row.get(name)).strip() for row in rows} for name in columns}
    found = [name for name, own in cells.items() if own - {"", "None"} and own <= {"0", "1", "-1", "", "None"}]
    return found if len(found) > 1 else []


def _several(flags: list[str], *others: str) -> str:
    shown = [*flags[:_SHOWN], *(["..."] if len(flags) > _SHOWN else [])]
    return f"#{':'.join([*others, 'labels={' + ','.join(shown) + '}'])}"


def _of_flags(path: str, rows: list[dict[str, Any]]) -> str:
    """What an error about a table without a known column of paths says of its columns of classes."""
    columns = _columns(rows)
    flags = _flags(rows, columns)
    first = next((name for name in columns if name not in flags), None)
    if not flags or first is None:
        return ""
    return (
        f"; a table of images with a column for each class: {path}{_several(flags, f'path={first}', 'images=FOLDER')}"
    )


def _below(root: str, paths: list[str], named: bool) -> list[str]:
    """The paths of a table below the folder of its images. Where the first is no file, they may begin at a folder that
    is named (``/a/1.png``), and all lack the suffix that its file has (``1`` of ``1.png``)."""
    first = paths[0]
    if is_url(root) or is_url(first) or os.path.isfile(first):
        return paths
    if named and os.path.isabs(first):
        paths = [own.lstrip("/") for own in paths]
    place = join(root, paths[0])
    folder = os.path.dirname(place)
    if ending(first) in (ARRAY, *IMAGES) or os.path.isfile(place) or not is_folder(folder):
        return paths
    there = [
        name[len(os.path.basename(place)) :] for name in entries(folder) if name.startswith(os.path.basename(place))
    ]
    missing = [suffix for suffix in there if suffix.lower() in (ARRAY, *IMAGES)]
    return [own + missing[0] for own in paths] if len(missing) == 1 else paths


def _root(path: str, folders: tuple[str, ...] | None, first: str, images: str | None) -> str:
    """The folder that the paths of a table are relative to."""
    own = parent(path if is_url(path) else os.path.realpath(path))
    if images is not None:
        root = join(own, images if is_url(images) else os.path.expanduser(images))
        if not is_url(root) and not is_folder(root):
            raise ValueError(f"images: expected a folder, got {root!r}")
        return root
    if folders is None:
        return own
    found = images_folder(path, first, folders)
    if found is None:
        remedy = f"another one is named: {path}#images=FOLDER"
        raise ValueError(f"{path}: expected its images, such as {first}, in a folder beside it or above; {remedy}")
    return found


def text_table(
    path: str | Path,
    *,
    text: str | None = None,
    text_pair: str | None = None,
    label: str | None = None,
    labels: str | None = None,
    score: str | None = None,
    encoding: str = "utf-8",
    errors: str = "strict",
    part: str | None = None,
    split: str | None = None,
) -> Corpus:
    """Returns the texts of a table, or its pairs of texts, in memory, with their labels or scores.

    Args:
        path: path or URL of a table as of :func:`table`.
        text: the column of texts, in an object "translation.de"; None: text, caption, sentence, content or document,
            else the chats under messages or conversations: lists of objects with a role and a content.
        text_pair: the column of the second texts of pairs; None: that of a pair known by its names (sentence1 and
            sentence2, premise and hypothesis, question1 and question2, question and sentence, text and text_pair,
            text1 and text2, source and target), unless ``text`` is given.
        label: the column of classes: integers or names, or in JSON lists of them; an empty label is unknown. None:
            label, class, gold_label or target.
        labels: the columns of several classes per text, "{cat,dog}", as of :func:`table`.
        score: the column of numbers, which are predicted (Spearman's correlation); an empty one is unknown. None: score
            or similarity, without a column of classes.
        encoding: that of the file.
        errors: "strict": bytes that are not of the encoding are an error; "replace": they become U+FFFD.
        part: "train" or "test", as of :func:`table`; None: all rows.
        split: as of :func:`table`.

    Returns:
        A corpus, of pairs a :class:`ParallelCorpus`. A column is found by its name, else by the only one of this name
        in another case. Reading a row without a text, or with something else in place of it, raises
        :class:`CorpusError`.

    Raises:
        FileNotFoundError: no such table.
        ValueError: no rows, no column of texts, none of which is a string, a label that is a fraction, or a score
            that is no number.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from fastssl.data import text_table
        >>> path = Path(tempfile.mkdtemp()) / 'reviews.csv'
        >>> _ = path.write_text('review,stars\\nA joy.,good\\nA bore.,bad\\n')
        >>> text_table(path, text="review", label="stars").classes
        ['bad', 'good']
    """
    given = {"text": text, "text_pair": text_pair, "label": label, "labels": labels, "score": score, "split": split}
    given = {role: name for role, name in given.items() if name}
    return _texts(str(path), _rows(str(path), encoding, errors), given, part)


def _texts(path: str, rows: list[dict[str, Any]], given: Mapping[str, str | None], part: str | None) -> Corpus:
    check_options(given, path, ("text", "text_pair", "label", "labels", "score", "split"))
    check_answers(path, given)
    known = {role: name for role, name in given.items() if role not in ("labels", "split")}
    chosen = text_columns(_columns(rows), path, known)

    def place(k: int) -> str:
        return f"{path}: row {k + 1}"

    def given_in(column: str) -> GivenTexts:
        return GivenTexts([row.get(column) for row in rows], place, f"in column {column}")

    several = given.get("labels")
    if several is None:
        labels, classes = labels_of(chosen, rows, place)
    else:
        labels, classes = _of_columns(path, rows, several)
        chosen = replace(chosen, label=", ".join(classes), score=None)
    corpus = Corpus(given_in(chosen.text), name_of(path), labels=labels, classes=classes)
    if chosen.text_pair is not None:
        corpus = ParallelCorpus(corpus, Corpus(given_in(chosen.text_pair), corpus.name))
    corpus.columns = chosen
    free = [name for name in _columns(rows) if name not in (chosen.text, chosen.text_pair, chosen.label, chosen.score)]
    return of_part(path, corpus, rows, first_column(free, SPLITS), part, given.get("split"))


def open_table(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    encoding: str = "utf-8",
    errors: str = "strict",
    part: str | None = None,
    **options: Any,
) -> FileSource | Corpus:
    """The images that a table lists, or the texts of one without a column of their paths: where there are texts, files
    with the suffix of something else (``page.html``) are not taken for images."""
    rows, given = _rows(str(path), encoding, errors), columns or {}
    if lists_images(str(path), _columns(rows), given, lambda where: (row.get(where) for row in rows)):
        return listed_images(str(path), rows, given, part, **options)
    try:
        return _texts(str(path), rows, given, part)
    except NoTextsError as error:
        raise NoTextsError(f"{error}{_of_flags(str(path), rows)}") from error


def _parquet_rows(path: str) -> list[dict[str, Any]]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(f"{path} needs the extra: pip install fastssl[datasets]") from error
    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    return rows


def lists_images(
    path: str, columns: Iterable[str], given: Mapping[str, str], cells: Callable[[str], Iterable[Any]]
) -> bool:
    """Whether a table lists images.

    Args:
        path: path or name of the table, for errors.
        columns: its columns of strings.
        given: the columns that are named.
        cells: the cells of a column.

    Raises:
        ValueError: its images are at URLs, and nothing says whether they or the texts beside them are meant.
    """
    if IMAGE_OPTIONS & set(given):
        return True
    columns = list(columns)
    where, text, linked = (first_column(columns, names) for names in (PATHS, SENTENCES, URLS))
    if where is None and linked is not None and "text" not in given:
        links = [str(link) for link in islice(cells(linked), _LINKS) if link]
        if sum(is_url(link) and ending(link) in IMAGES for link in links) > len(links) / 2:
            raise ValueError(
                f"{path}: column {linked!r} has the URLs of images; they are read with #path={linked}"
                + ("" if text is None else f", the texts alone with #text={text}")
            )
    if where is None or "text_pair" in given or {"text", "score"} <= set(given):
        return False
    return given.get("text", text) is None or any(map(_may_be_image, cells(where)))


def _may_be_image(place: Any) -> bool:
    return bool(place) and (is_url(place) or ending(str(place)) in {"", ARRAY, *IMAGES})


def _columns(rows: list[dict[str, Any]]) -> dict[str, None]:
    """The columns of a table, in the order in which rows name them."""
    return {name: None for row in rows for name in row}


def _rows(path: str, encoding: str = "utf-8", errors: str = "strict") -> list[dict[str, Any]]:
    """The rows of a table, at least one."""
    kind = kind_of(path)
    text, of_fields = decoded(path, encoding, errors), kind in (".csv", ".tsv", *LISTS)
    try:
        if of_fields:
            rows: Any = _fields(path, text, kind)
        elif kind == ".jsonl":
            rows = [json.loads(line) for line in text.split("\n") if line.strip()]
        else:
            rows = json.loads(text)
    except csv.Error as error:
        raise ValueError(f"{path}: {error}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: no JSON ({error})") from error
    if is_karpathy(rows):
        return karpathy_rows(path, rows)
    if is_coco(rows):
        return coco_rows(path, rows)
    others = [row for row in rows if not isinstance(row, dict)] if isinstance(rows, list) else [rows]
    if others:
        got = f"a list with {reprlib.repr(others[0])}" if isinstance(rows, list) else type(rows).__name__
        raise ValueError(f'{path}: expected a list of objects such as {{"path": "0.png", "label": 1}}, got {got}')
    if not rows:
        raise ValueError(f"{path}: expected rows, found none")
    read = str if errors == "strict" else replaced  # of bytes this is done, of escapes in JSON not
    made = [
        {str(name).strip(): read(value) if isinstance(value, str) else value for name, value in row.items()}
        for row in rows
    ]
    twice = next((row for row, bare in zip(rows, made) if len(bare) < len(row)), None)
    if twice is not None:
        raise ValueError(f"{path}: expected columns of different names, got {', '.join(map(repr, twice))}")
    return made if of_fields else [with_inner(row) for row in made]


def _counted_rows(path: str, text: str) -> list[dict[str, Any]] | None:
    """Rows of a list of several values for each image, as CelebA's: their count, the names of the values, and lines of
    the name of an image and its values; None: it is another table."""
    lines = [own for line in io.StringIO(text) if (own := line.split())]
    if len(lines) < 3 or len(lines[0]) > 1 or not lines[0][0].isdigit() or ending(lines[2][0]) not in IMAGES:
        return None
    (count,), names, *rows = lines
    for k, row in enumerate(rows):
        if len(row) != len(names) + 1:
            raise ValueError(
                f"{path}: row {k + 1}: expected an image and {amount(len(names), 'value')}, got {' '.join(row)!r}"
            )
    if len(rows) != int(count):
        raise ValueError(f"{path}: expected {count} images, as its first line says, got {len(rows)}")
    return [dict(zip(["path", *names], row)) for row in rows]


def _bare_rows(path: str, text: str) -> list[dict[str, Any]] | None:
    """Rows of a list that has neither names nor separators of fields; None: it is another table."""
    for names, pattern in _BARE.items():
        rows: list[dict[str, Any]] = []
        for k, line in enumerate(bare for own in io.StringIO(text) if (bare := own.strip())):
            fields = pattern.fullmatch(line)
            if fields is not None and ending(fields[1]) in IMAGES:
                rows.append(dict(zip(names, fields.groups())))
            elif rows:
                wanted = " and ".join(names)
                raise ValueError(f"{path}: row {k + 1}: expected {wanted} as in the first row, got {line!r}")
            else:
                break
        if rows:
            return rows
    return None


def _check_no_captions(path: str, second: list[str]) -> None:
    """Checks the second column of a table without names: of labels, most are there again."""
    if len(set(second)) > len(second) / 2 and sum(len(one.split()) > 2 for one in second) > len(second) / 2:
        raise ValueError(
            f"{path}: expected labels in the second column of a table without a first row of names, got texts such as "
            f"{second[0]!r}; write the names in its first row: path,text (or path,label)"
        )


def _fields(path: str, text: str, kind: str) -> list[dict[str, Any]]:
    """Rows of a file with a heading, whose fields may contain line breaks in quotation marks. Where those between
    tabs or "|" do not enclose whole fields they are characters like others."""
    csv.field_size_limit(2**31 - 1)  # 128 KiB by default

    def read(**how: Any) -> list[dict[str, Any]]:
        *records, last = csv.reader([*io.StringIO(text, newline=""), _END], **how)
        if last != [_END]:
            raise ValueError(f"{path}: row {max(len(records), 1)}: a quotation mark opens a field that none closes")
        names = [name.strip() for name in records[0]] if records else []
        if any(ending(word) in (ARRAY, *IMAGES) for name in names for word in (name, *name.split(" "))):
            if ending(names[0]) not in (ARRAY, *IMAGES) or len(names) > 2:
                raise ValueError(
                    f"{path}: expected a first row with the names of the columns, such as path,label, got "
                    f"{', '.join(map(repr, names))}; without names one or two columns, of paths and labels, are read"
                )
            names, records = ["path", "label"][: len(names)], [[], *records]
            _check_no_captions(path, [one[1] for one in records if len(one) == 2])
        twice = next((name for name in names if name and names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{path}: expected columns of different names, got {', '.join(map(repr, names))}")
        rows: list[dict[str, Any]] = []
        kept = [one for one in records[1:] if any(one) or len(one) == 1]  # spreadsheets save empty rows as ",,"
        for k, record in enumerate(kept):
            if len(record) > len(names):
                raise ValueError(
                    f"{path}: row {k + 1}: expected {amount(len(names), 'field')}, got {len(record)}; a field "
                    "that contains the separator stands in quotation marks"
                )
            fields = zip_longest(names, record)  # None where a row ends early
            rows.append({name: value for name, value in fields if name})  # columns without a name cannot be asked for
        return rows

    if kind in LISTS and (counted := _counted_rows(path, text)) is not None:
        return counted
    if (bare := _bare_rows(path, text)) is not None:
        return bare
    heading = text.partition("\n")[0]  # semicolons: of spreadsheets whose decimal mark is a comma
    mark = "\t" if kind == ".tsv" else next((mark for mark in ",;\t|" if mark in heading), ",")
    if mark in ",;":
        rows = read(delimiter=mark, skipinitialspace=spaced(text, mark))
    else:
        try:
            rows = read(delimiter=mark, skipinitialspace=mark == "|" or spaced(text, mark), strict=True)
        except csv.Error:
            rows = read(delimiter=mark, skipinitialspace=mark == "|", quoting=csv.QUOTE_NONE)
    for k, row in enumerate(rows):
        if mark == "\t" and any(isinstance(value, str) and "\t" in value for value in row.values()):
            raise ValueError(
                f"{path}: row {k + 1}: a field in quotation marks contains a tab; save the table with commas (.csv)"
            )
    return rows
