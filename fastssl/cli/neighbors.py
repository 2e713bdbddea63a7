"""``fastssl neighbors``: a contact sheet of queries and their nearest neighbours."""

from __future__ import annotations

import html
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from fastssl.data import Source
    from fastssl.evaluate import FeatureFile

CELL, MARGIN, LINE = 112, 8, 11


@dataclass
class Shown:
    """An image of the sheet."""

    picture: Any  # a Pillow image
    name: str
    note: str


def draw_neighbors(
    features: Path, queries: list[str], k: int, count: int, data: str | None, out: Path, seed: int
) -> tuple[int, int]:
    """Writes the sheet and returns the number of queries, and of neighbours of each: at most all other rows.

    Raises:
        ValueError: no such query, no images, or an unknown suffix.
    """
    import torch

    import fastssl.functional as F
    from fastssl._files import replacing
    from fastssl.evaluate import read_features
    from fastssl.evaluate.feature_files import READABLE
    from fastssl.evaluate.features import centred

    if out.suffix not in (".png", ".html"):
        raise ValueError(f"out: expected a file with suffix .png or .html, got {str(out)!r}")
    for name, value in (("k", k), ("count", count)):
        if value < 1:
            raise ValueError(f"{name}: expected at least one, got {value}")
    gallery = read_features(features)
    if len(gallery.features) < 2:
        raise ValueError(f"features: expected at least two rows, {str(features)!r} has {len(gallery.features)}")
    other = len(queries) == 1 and Path(queries[0]).suffix in READABLE and Path(queries[0]).is_file()
    asked = read_features(queries[0]) if other else gallery
    if asked.features.shape[1] != gallery.features.shape[1]:
        raise ValueError(
            f"query: expected features of length {gallery.features.shape[1]}, got {asked.features.shape[1]}: use the "
            "same encoder and readout"
        )
    if asked.encoder is not None and gallery.encoder is not None and asked.encoder != gallery.encoder:
        raise ValueError(
            f"query: expected features of the same encoder and readout, {queries[0]!r} has those of another one: write "
            f"it again with the encoder of {str(features)!r}"
        )
    named = [] if other else queries
    source = _source_of(gallery, data, f"{str(features)!r} does not record where its images are (--data)")
    rows = _rows(asked, named, source, min(count, len(asked.features)), seed)
    mean = gallery.features.mean(0)
    keys, wanted = centred(gallery.features, mean), centred(asked.features[torch.from_numpy(rows)], mean)
    more = 0 if other else 1  # the nearest neighbour of a query is itself
    cosine, nearest = F.nearest(wanted, keys, min(k + more, len(keys)), metric="dot")
    from_source = source
    if other:
        from_source = _source_of(
            asked, None, f"{queries[0]!r} does not record where its images are (fastssl embed does)"
        )
    lines = []
    for row, values, order in zip(rows.tolist(), cosine.tolist(), nearest.tolist()):
        line = [Shown(_picture(asked, row, from_source), asked.names[row], _class(asked, row, from_source))]
        ranked = [(j, v) for j, v in zip(order, values) if other or j != row][:k]
        for j, value in ranked:
            note = f"{value:.3f} {_class(gallery, j, source)}".rstrip()
            line.append(Shown(_picture(gallery, j, source), gallery.names[j], note))
        lines.append(line)
    with replacing(out) as file:
        if out.suffix == ".png":
            _sheet(lines).save(file, "PNG")
        else:
            file.write_text(_page(lines), encoding="utf-8", errors="backslashreplace")  # names of files
    return len(lines), min(k, len(keys) - more)


def _rows(features: FeatureFile, queries: list[str], source: Source, count: int, seed: int) -> np.ndarray:
    if not queries:
        return np.sort(np.random.default_rng(seed).permutation(len(features.features))[:count])
    found = []
    for query in queries:
        exact = [k for k, name in enumerate(features.names) if name == query]
        some = exact or [k for k, name in enumerate(features.names) if query in name]
        if not some and Path(query).is_file():
            # Names are relative to the root, of a table to the folder of its images.
            root, own = getattr(source, "root", None) or "", os.path.abspath(query)
            some = [k for k, name in enumerate(features.names) if os.path.abspath(os.path.join(root, name)) == own]
            if not some:
                raise ValueError(
                    f"query: the file {query!r} is no image of the features; write its own (fastssl embed RUN "
                    "--data FILE --out new.npz) and give them (--query new.npz)"
                )
        if not some:
            raise ValueError(
                f"query: no image whose name contains {query!r}, and no such file; an example is {features.names[0]!r}"
            )
        found.append(some[0])
    return np.array(found)


def _source_of(features: FeatureFile, data: str | None, unknown: str) -> Source:
    from fastssl.data import open as open_source

    where = data or features.source
    if where is None:
        raise ValueError(f"data: {unknown}")
    source = open_source(where, part=features.part)
    if not features.named and len(source) != len(features.features):
        raise ValueError(
            f"data: expected as many images as there are features without names, {len(features.features)}, "
            f"{source.name} has {len(source)}"
        )
    return source


def _picture(features: FeatureFile, row: int, source: Source) -> Any:
    from PIL import Image

    from fastssl.augment.images import to_show

    name = features.names[row]
    index = row if not features.named or (row < len(source) and source.name_of(row) == name) else None
    if index is None:  # rows of images that could not be read are missing
        index = next((k for k in range(len(source)) if source.name_of(k) == name), None)
    if index is None:
        raise ValueError(f"data: {source.name} has no image {name!r}: the features are of other data (--data)")
    images = source.read(index).images
    if not images:
        raise ValueError(f"features: expected those of images, {source.name} has none")
    picture = Image.fromarray(to_show(images[0]))
    scale = CELL / max(picture.size)
    return picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))


def _class(features: FeatureFile, row: int, source: Source) -> str:
    """The class of a row, or its number to predict; "" where there is none, or several."""
    from fastssl.data.source import are_scores

    if features.labels is None or features.labels.ndim > 1:
        return ""
    if are_scores(features.labels):
        return "" if np.isnan(features.labels[row]) else f"{features.labels[row]:g}"
    label = int(features.labels[row])
    return str(source.classes[label]) if 0 <= label < len(source.classes) else ""


def _sheet(lines: list[list[Shown]]) -> Any:
    from PIL import Image, ImageDraw, ImageFont

    step, height = CELL + MARGIN, CELL + 2 * LINE + MARGIN
    sheet = Image.new("RGB", (MARGIN + step * max(map(len, lines)) + MARGIN, MARGIN + height * len(lines)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(9)
    for row, line in enumerate(lines):
        for column, shown in enumerate(line):
            x, y = MARGIN + column * step + (MARGIN if column else 0), MARGIN + row * height
            sheet.paste(shown.picture, (x, y))
            for k, text in enumerate((_short(shown.name), shown.note)):
                draw.text((x, y + CELL + k * LINE), text, "black", font=font)
    return sheet


def _short(name: str, longest: int = 20) -> str:
    name = name.rsplit("/", 1)[-1]
    return name if len(name) <= longest else "…" + name[1 - longest :]


def _page(lines: list[list[Shown]]) -> str:
    from fastssl.report.figures import png

    def cell(s: Shown) -> str:
        texts = "<br>".join(map(html.escape, (s.name, s.note)))
        return f'<td><img src="{png(np.asarray(s.picture))}" alt=""><br>{texts}</td>'

    cells = "\n".join(f"<tr>{''.join(map(cell, line))}</tr>" for line in lines)
    style = "body{font:11px sans-serif}td{vertical-align:top;padding:4px;max-width:130px;overflow-wrap:anywhere}"
    style += "td:first-child{border-right:2px solid #d9480f}"
    return f'<!doctype html><meta charset="utf-8"><title>Neighbours</title><style>{style}</style><table>{cells}</table>'
