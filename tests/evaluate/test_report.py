"""The page that compares runs, on data of one's own."""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastssl.report.compare import compare_runs, short_paths, shown_name
from fastssl.train import Pretraining, pretrain

pytest.importorskip("matplotlib"), pytest.importorskip("jinja2")


def _photos(folder: Path, names: list[str]) -> Path:
    rng = np.random.default_rng(0)
    for k, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 200, (20, 24, 3), dtype=np.uint8) + np.uint8(50 * (k % 2))).save(path)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two settings of one method, in folders of one name."""
    root = tmp_path_factory.mktemp("runs")
    made = [root / "small" / "run", root / "large" / "run"]
    data = np.random.default_rng(0).integers(0, 256, (8, 20, 24, 3), dtype=np.uint8)
    for width, out in zip((4, 8), made):
        encoder = {"name": "resnet", "size": 16, "width": width}
        pretrain("simclr", data, Pretraining(epochs=1, batch_size=4), out=out, encoder=encoder)
    return made


def _page(runs: list[Path], data: Path, out: Path) -> tuple[str, list[str]]:
    notes: list[str] = []
    text = compare_runs(runs, out, str(data), notes.append).read_text()
    return re.sub(r"data:image[^\"]*", "", text), notes


CLASSES = [f"{c}/img_{k}_x.png" for k in range(6) for c in ("red_ants", "blue [1]")]


def test_a_page_on_a_folder(runs: list[Path], tmp_path: Path) -> None:
    page, notes = _page(runs, _photos(tmp_path / "my_photos", CLASSES), tmp_path / "report.html")
    assert "<h1>simclr, 2 settings on my_photos</h1>" in page  # not two methods
    assert "<td>simclr (small/run)</td>" in page and "<td>simclr (large/run)</td>" in page
    under = re.findall(r"><span>([^<]*)</span>", page)
    assert 'alt=""' not in page and set(re.findall(r'title="([^"]*)"', page)) <= set(CLASSES)
    assert len(under) == 6 and set(under) <= set(CLASSES)  # no place of this machine, "_" as it is
    assert "Twemoji" not in page and "Emoji" not in page
    assert "{{" not in page and "--soft:" in page  # with the common style
    assert "k-NN" in page and notes == [f"simclr ({n}/run): 1 run" for n in ("small", "large")]


def test_numbers_are_judged_by_regression(runs: list[Path], tmp_path: Path) -> None:
    rng, rows = np.random.default_rng(0), ["path,age"]
    for k in range(40):
        Image.fromarray(rng.integers(0, 6 * k + 9, (16, 16, 3), dtype=np.uint8)).save(tmp_path / f"{k}.png")
        rows.append(f"{k}.png,{k}")
    (tmp_path / "list.csv").write_text("\n".join(rows))
    text, notes = _page(runs, Path(f"{tmp_path / 'list.csv'}#score=age"), tmp_path / "report.html")
    assert "ridge regression, R^2" in text and "k-NN, R^2" in text and "NMI" not in text
    assert not any("no evaluation" in note for note in notes)


def test_classes_of_any_name(runs: list[Path], tmp_path: Path) -> None:
    classes = [os.fsdecode(b"c\xff"), r"$\frac x$ & <b>"]
    page, _ = _page(
        runs, _photos(tmp_path / "photos", [f"{c}/{k}.png" for k in range(6) for c in classes]), tmp_path / "r"
    )
    assert "c\\udcff/" in page and "&lt;b&gt;" in page and "<b>/" not in page


def test_names_that_the_font_lacks_are_drawn_by_the_browser(
    runs: list[Path], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    files = [f"{c}/{k}.png" for k in range(6) for c in ("苹果", "香蕉")]
    page = compare_runs(runs, tmp_path / "r", str(_photos(tmp_path / "水果", files)), print).read_text()
    figures = [base64.b64decode(one).decode() for one in re.findall(r"svg\+xml;base64,([^\"]*)", page)]
    assert [">苹果</text>" in figure for figure in figures] == [False] + [True] * (len(figures) - 1)
    assert "<text" not in figures[0] and not recwarn


def test_the_data_of_the_runs_is_the_default(tmp_path: Path) -> None:
    from fastssl.cli.evaluation import common_data

    places = [_photos(tmp_path / name, CLASSES) for name in ("first", "second")]
    encoder = {"name": "resnet", "size": 16, "width": 4}
    for k, place in enumerate([*places, places[0]]):
        pretrain("simclr", place, Pretraining(epochs=1, batch_size=4), out=tmp_path / f"{k}", encoder=encoder)
    assert common_data([tmp_path / "0", tmp_path / "2"]) == str(places[0])
    with pytest.raises(ValueError, match=rf"trained on {places[0]} and {places[1]}; .*--data"):
        common_data([tmp_path / f"{k}" for k in range(3)])
    places[0].rename(tmp_path / "moved")
    with pytest.raises(
        FileNotFoundError, match=rf"data: the run was trained on '{places[0]}', which is .*; give --data"
    ):
        common_data([tmp_path / "0", tmp_path / "2"])


@pytest.mark.parametrize(
    "name",
    (
        *(f"{kind}:{{}}" for kind in ("text", "voc", "coco", "cifar-10", "glue", "pairs", "hf", "wikitext")),
        *("{}", "{}#text=a:label=b", "text:{}#errors=replace", "{}/*.tar", "{}/{{0..3}}.tar", "sotu,text:{}"),
    ),
)
def test_data_that_has_moved_is_named_alike(tmp_path: Path, name: str) -> None:
    from fastssl.cli.evaluation import data_of

    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "0.tar").touch()
    for folder in ("there", "gone"):
        where = name.format(tmp_path / folder)
        state = {"source": {"where": where, "embedded": None}, "data": folder}
        if folder == "there":
            assert data_of(state) == where
        else:
            with pytest.raises(FileNotFoundError, match=rf"trained on '{tmp_path}/gone.*', which is no longer there"):
                data_of(state)


@pytest.mark.parametrize("name", ("sotu", "https://host/photos", "hf:user/name", "s3://bucket/{0..3}.tar", "emoji"))
def test_data_that_is_not_on_this_machine_has_not_moved(name: str) -> None:
    from fastssl.cli.evaluation import data_of

    assert data_of({"source": {"where": name, "embedded": None}, "data": name}) == name


def test_the_images_of_the_package_are_credited(runs: list[Path], tmp_path: Path) -> None:
    from fastssl.report import compare

    template = (Path(compare.__file__).parent / "compare.html").read_text()
    assert re.search(r"{% if emoji %}[^%]*Twemoji, Copyright[^%]*{% endif %}", template)


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ([f"{k}.png" for k in range(12)], "has none"),
        ([f"one/{k}.png" for k in range(12)], "two classes"),
        ([*CLASSES, "alone/0.png"], "class 'alone' of photos has one"),
    ],
)
def test_images_that_cannot_be_judged_are_still_shown(
    names: list[str], why: str, runs: list[Path], tmp_path: Path
) -> None:
    page, notes = _page(runs[:1], _photos(tmp_path / "photos", names), tmp_path / "report.html")
    assert "RankMe" in page and "k-NN" not in page and "Nearest first" in page and 'class="right"' not in page
    assert sum(why in note for note in notes) == 1


def test_parts_are_judged_by_each_other(runs: list[Path], tmp_path: Path) -> None:
    """A class with a single image in val is no obstacle."""
    names = [f"train/{n}" for n in CLASSES] + ["val/red_ants/0.png", *(f"val/blue [1]/{k}.png" for k in range(11))]
    page, notes = _page(runs[:1], _photos(tmp_path / "photos", names), tmp_path / "report.html")
    assert "linear probe" in page and "on 12 images" in page and len(notes) == 1


def test_names_and_places() -> None:
    assert shown_name("/home/me/photos/cats/1_a.png") == "cats/1_a.png" and shown_name("cats/1_a.png") == "cats/1_a.png"
    assert short_paths([Path("/a/x"), Path("/a/y")]) == ["x", "y"]
    assert short_paths([Path("/a/1/run"), Path("/a/2/run")]) == ["1/run", "2/run"]
