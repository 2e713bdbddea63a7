"""Heads, targets and protocols of detection and segmentation."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from fastssl.cli import app
from fastssl.data import Detections, Item, Splits, open_splits, scenes
from fastssl.data.objects import objects_of
from fastssl.evaluate import (
    CocoResults,
    DenseTuning,
    Detection,
    Segmentation,
    Start,
    coco_ap,
    compare_dense,
    starts_of,
)
from fastssl.evaluate.dense import DenseExamples, DenseModel, FrozenFeatures, View, evaluate_dense, train_dense
from fastssl.evaluate.dense_protocol import Results, labelled
from fastssl.evaluate.detection import view_of_boxes
from fastssl.evaluate.resuming import Resumption
from fastssl.models import Encoder, HypercolumnHead, build_encoder, feature_maps
from fastssl.models.detector import FCOSHead, assign, sigmoid_focal
from fastssl.train import Pretraining, pretrain
from tests.data.test_annotated import own_folder, voc_folder

SMALL = {"name": "resnet", "size": 16, "width": 4}


def network(seed: int = 0, **options: Any) -> Encoder:
    torch.manual_seed(seed)
    return build_encoder({**SMALL, **options}).eval()


@pytest.mark.parametrize(
    "options", [{"name": "resnet", "size": 32}, {"name": "vit", "size": 16, "patch": 4}, {"name": "patch-cnn"}]
)
def test_the_last_map_is_the_networks(options: dict[str, Any]) -> None:
    encoder = network(**options)
    images = torch.rand(2, 3, 48, 48)
    with torch.no_grad():
        maps = feature_maps(encoder, images)
        assert torch.equal(maps[-1], encoder.network(images))
    sides = [m.shape[-1] for m in maps]
    assert sides == sorted(set(sides), reverse=True)


def test_any_network_with_a_map_will_do_and_vectors_will_not() -> None:
    assert [m.shape[1] for m in feature_maps(Encoder(torch.nn.Conv2d(3, 5, 4, 4), 16), torch.zeros(1, 3, 32, 32))] == [
        5
    ]
    flat = Encoder(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 4)), 16)
    with pytest.raises(ValueError, match="expected a network that gives a feature map"):
        feature_maps(flat, torch.zeros(1, 3, 16, 16))


def test_hypercolumns_are_classified_linearly() -> None:
    """As if all maps were enlarged and stacked."""
    torch.manual_seed(0)
    head = HypercolumnHead([3, 5], 4).eval()
    fine, coarse = torch.rand(2, 3, 8, 8), torch.rand(2, 5, 4, 4)
    norms, linear = zip(*((c[0], c[1]) for c in head.classifiers))  # type: ignore[index]
    larger = TF.interpolate(norms[1](coarse), size=(8, 8), mode="bilinear", align_corners=False)
    weight = torch.cat([conv.weight for conv in linear], 1)
    wanted = TF.conv2d(torch.cat([norms[0](fine), larger], 1), weight, linear[0].bias + linear[1].bias)
    torch.testing.assert_close(head([fine, coarse]), wanted)


def test_boxes_of_a_view_are_those_of_its_mask() -> None:
    """Random crops and flips: the box of an object is the box of its mask, as far as nothing hides it."""
    source = scenes(24, objects=(1, 1), size=64)
    examples = {
        task.name: DenseExamples(task, 64, 3, DenseTuning(crop=(0.3, 1.0)))
        for task in (Segmentation(source.classes), Detection(source.classes))
    }
    ids, items = np.arange(24), source.items(range(24))
    images, masks = examples["segmentation"].examples(items, 5, 1, ids).views
    again, boxes = examples["detection"].examples(items, 5, 1, ids).views
    assert torch.equal(images, again) and masks.shape == (24, 32, 32)
    for mask, (box, *_) in zip(masks, boxes):
        ys, xs = mask.nonzero(as_tuple=True)
        if len(ys) > 8:
            around = 2 * torch.tensor([int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1])
            assert (around - box[:4]).abs().max() <= 3  # the mask has half of the view's resolution


def test_a_flipped_view_has_flipped_boxes() -> None:
    boxes = np.array([[10.0, 20, 30, 60]])
    plain, shares = view_of_boxes(boxes, View(0, 0, 80, 100, False, 50))
    flipped, _ = view_of_boxes(boxes, View(0, 0, 80, 100, True, 50))
    assert plain.tolist() == [[5, 12.5, 15, 37.5]] and flipped.tolist() == [[35, 12.5, 45, 37.5]]
    assert shares.tolist() == [1.0]
    cut, shares = view_of_boxes(boxes, View(40, 20, 40, 40, False, 40))
    assert cut.tolist() == [[0, 0, 10, 20]] and shares.tolist() == [0.25]


def test_positions_are_assigned_as_by_loops() -> None:
    head = FCOSHead([4], [8], classes=2, width=8)
    out = head([torch.zeros(1, 4, 8, 8)])
    r = np.random.default_rng(0)
    corner = r.uniform(0, 40, (6, 5, 2))
    boxes = torch.from_numpy(np.concatenate([corner, np.minimum(corner + r.uniform(2, 50, (6, 5, 2)), 64)], 2)).float()
    ignore = torch.from_numpy(r.random((6, 5)) < 0.2)
    boxes[0] = 0  # padding
    owner, counted = assign(out.points, out.strides, boxes, ignore)
    levels = sorted(set(out.strides.tolist()))
    for image in range(6):
        for p, ((x, y), stride) in enumerate(zip(out.points.tolist(), out.strides.tolist())):
            best, chosen, away = float("inf"), -1, False
            for k, (x0, y0, x1, y1) in enumerate(boxes[image].tolist()):
                sides = (x - x0, y - y0, x1 - x, y1 - y)
                if min(sides) <= 0:
                    continue
                away |= bool(ignore[image, k])
                low = 0 if stride == levels[0] else 2 * stride
                high = float("inf") if stride == levels[-1] else 4 * stride
                near = abs(x - (x0 + x1) / 2) < 1.5 * stride and abs(y - (y0 + y1) / 2) < 1.5 * stride
                area = float((boxes[image, k, 2] - boxes[image, k, 0]) * (boxes[image, k, 3] - boxes[image, k, 1]))
                if near and low < max(sides) <= high and not ignore[image, k] and area < best:
                    best, chosen = area, k
            assert int(owner[image, p]) == chosen and bool(counted[image, p]) == (chosen >= 0 or not away)


def test_focal_loss_is_its_formula() -> None:
    logits, targets = torch.randn(50, dtype=torch.float64), (torch.rand(50) < 0.5).double()
    p = torch.where(targets == 1, logits.sigmoid(), 1 - logits.sigmoid())
    alpha = torch.where(targets == 1, 0.25, 0.75)
    torch.testing.assert_close(sigmoid_focal(logits, targets), -alpha * (1 - p) ** 2 * p.log())


def test_the_detector_learns_four_scenes_by_heart() -> None:
    four = scenes(4, size=64, objects=(1, 2))
    task, how = Detection(four.classes, width=16), DenseTuning(steps=60, batch_size=4, crop=(1, 1), flip=0, rate=4e-3)
    torch.manual_seed(0)
    model = DenseModel(network(width=8, size=32), task, 64, frozen=False)
    train_dense(model, task, four, np.arange(4), how)
    found = evaluate_dense(model, task, four)
    assert found["VOC AP50"] > 90 and found["COCO AP50"] > 90


def test_void_pixels_and_ignored_objects_are_not_learned() -> None:
    task = Segmentation(["a", "b"])
    scores = torch.randn(1, 3, 4, 4, requires_grad=True)
    targets = torch.full((1, 4, 4), 255, dtype=torch.uint8)
    targets[0, 1, 2] = 1
    task.loss(scores, targets).backward()
    assert scores.grad is not None
    assert (scores.grad != 0).any(1).nonzero().tolist() == [[0, 1, 2]]
    loss = task.loss(torch.randn(1, 3, 4, 4), torch.full((1, 4, 4), 255, dtype=torch.uint8))
    assert float(loss) == 0


def test_frozen_encoders_do_not_change_and_trained_ones_are_copies() -> None:
    source = scenes(6, size=32)
    for frozen in (True, False):
        encoder = network()
        before = {k: v.clone() for k, v in encoder.state_dict().items()}
        task = Segmentation(source.classes)
        model = DenseModel(encoder, task, 32, frozen)
        train_dense(model, task, source, np.arange(6), DenseTuning(steps=3, batch_size=4), FrozenFeatures())
        assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())
        changed = any(not torch.equal(v, before[k]) for k, v in model.encoder.state_dict().items())
        assert changed != frozen


def test_an_interrupted_comparison_goes_on(tmp_path: Path) -> None:
    data = Splits("scenes", scenes(6, size=32), scenes(3, "test", size=32))
    task, how = Segmentation(data.train.classes), DenseTuning(steps=2, batch_size=2)
    begun: list[int] = []

    def encoder(seed: int) -> Encoder:
        begun.append(seed)
        if len(begun) == 3:
            raise KeyboardInterrupt
        return network(seed)

    starts = {"random": Start(encoder, True), "scratch": Start(encoder, False)}
    path = tmp_path / "results.json"
    whole = compare_dense({k: Start(network, v.frozen) for k, v in starts.items()}, task, data, how, seeds=2)
    with pytest.raises(KeyboardInterrupt):
        compare_dense(starts, task, data, how, seeds=2, results=Results(path, {"a": 1}))
    assert compare_dense(starts, task, data, how, seeds=2, results=Results(path, {"a": 1})) == whole
    assert begun == [0, 1, 0, 0, 1]
    assert Results(path, {"a": 2}).values == {}  # other settings: nothing is taken over


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("last", [1, 4])  # of the first epoch of three batches, and of the second
def test_an_interrupted_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frozen: bool, last: int
) -> None:
    data = Splits("scenes", scenes(6, size=32), scenes(3, "test", size=32))
    task, how, path = Segmentation(data.train.classes), DenseTuning(steps=7, batch_size=2), tmp_path / "results.json"
    starts = {"a": Start(network, frozen)}
    whole = compare_dense(starts, task, data, how, seeds=2)
    steps: list[int] = []
    step = Resumption.step

    def interrupted(self: Resumption, model: nn.Module, optimizer: torch.optim.Optimizer, done: int) -> None:
        self.interval = 0.0
        step(self, model, optimizer, done)
        steps.append(done)
        if len(steps) == last:
            raise KeyboardInterrupt

    monkeypatch.setattr(Resumption, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compare_dense(starts, task, data, how, seeds=2, results=Results(path, {"a": 1}))
    assert compare_dense(starts, task, data, how, seeds=2, results=Results(path, {"a": 1})) == whole
    assert steps == [*range(1, 8), *range(1, 8)]  # of two seeds: none twice
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def test_bad_comparisons() -> None:
    data = Splits("scenes", scenes(4, size=32), scenes(2, "test", size=32))
    starts = {"random": Start(network, True)}
    task = Segmentation(data.train.classes)
    with pytest.raises(ValueError, match="labels: expected a share of the training images above 0 and up to 1, got 2"):
        compare_dense(starts, task, data, labels=2)
    with pytest.raises(ValueError, match="head: expected one of linear, fcn, hypercolumn, got 'mlp'"):
        Segmentation(data.train.classes, "mlp")
    with pytest.raises(ValueError, match="train: expected one of head, all, got 'some'"):
        starts_of(network(), network, "some")
    with pytest.raises(ValueError, match="steps: expected an integer >= 1, got 0"):
        DenseTuning(steps=0)
    with pytest.raises(ValueError, match="data: expected boxes or a segmentation of every image, cat has none"):
        task.target(Item(name="cat"), View(0, 0, 8, 8, False, 8))
    with pytest.raises(ValueError, match="data: expected a segmentation of every image, cat has none"):
        task.target(Item(name="cat", objects=objects_of((8, 8))), View(0, 0, 8, 8, False, 8))
    with pytest.raises(ValueError, match="encoder: it cannot take images of 12 pixels"):
        DenseModel(network(name="mlp", width=8).train(), task, 12, True)
    assert len(labelled(100, 0.1, 0)) == 10 and len(labelled(100, 1e-6, 0)) == 2


def test_the_commands(tmp_path: Path) -> None:
    """Both protocols on a folder of Pascal VOC, as a user types them."""
    run, folder = tmp_path / "run", voc_folder(tmp_path / "VOC2012")
    images = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    how = Pretraining(epochs=1, batch_size=16)
    pretrain("simclr", str(tmp_path / "images.npy"), how, out=run, encoder=SMALL)
    runner, table = CliRunner(), tmp_path / "table.json"
    base = ["evaluate", str(run), "--data", f"voc:{folder}", "--steps", "2", "--seeds", "1", "--out", str(table)]
    for given, measure in (
        (["--protocol", "segmentation", "--head", "hypercolumn"], "mIoU"),
        (["--protocol", "detection", "--train", "all", "--labels", "50%"], "VOC AP50, 11 points"),
    ):
        result = runner.invoke(app, [*base, *given])
        assert result.exit_code == 0, (result.output, result.exception)
        assert set(json.loads(table.read_text())[measure]) == {"pretrained", "random", "scratch"}
        assert "page: " in result.output or "fastssl[report]" in result.output
    result = runner.invoke(app, [*base, "--protocol", "segmentation", "--head", "hypercolumn"])
    assert "3 results in" in result.output
    for wrong, message in (
        (["--protocol", "detection", "--head", "fcn"], "head: detection has one head"),
        (["--protocol", "segmentation", "--labels", "10"], "labels: expected a share"),
        (["--protocol", "structure", "--train", "all"], "train: expected the protocol 'segmentation' or 'detection'"),
    ):
        plain = ["evaluate", str(run), "--data", f"voc:{folder}", *wrong]
        result = runner.invoke(app, plain)
        assert result.exit_code != 0 and message in result.output + str(result.exception), result.output


def test_detections_are_written_as_results_of_coco(tmp_path: Path) -> None:
    """On a folder like COCO with ids of its own, and on one like VOC with classes of its own."""
    run, root = tmp_path / "run", tmp_path / "coco"
    images = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    pretrain("simclr", tmp_path / "images.npy", Pretraining(epochs=1, batch_size=16), out=run, encoder=SMALL)
    categories = [{"id": 7, "name": "weed"}, {"id": 3, "name": "crop"}]
    for part, first in (("train", 10), ("val", 50)):
        listed, boxes = [], []
        for k in range(4):
            name = f"{part}-{k}.png"
            (root / f"{part}2017").mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[k].repeat(2, 0).repeat(3, 1)).save(root / f"{part}2017" / name)
            listed.append({"id": first + 3 * k, "file_name": name, "height": 32, "width": 48})
            own = {"image_id": first + 3 * k, "category_id": (7, 3)[k % 2], "bbox": [4, 6, 20, 14], "area": 280}
            boxes.append({"id": k + 1, **own, "iscrowd": 0})
        (root / "annotations").mkdir(exist_ok=True)
        whole = {"images": listed, "annotations": boxes, "categories": categories}
        (root / "annotations" / f"instances_{part}2017.json").write_text(json.dumps(whole))
    runner, file, table = CliRunner(), tmp_path / "made" / "found.json", tmp_path / "table.json"
    base = ["evaluate", str(run), "--protocol", "detection", "--steps", "30", "--seeds", "1", "--only"]

    def call(*more: object) -> str:
        result = runner.invoke(app, [*base, *map(str, more)])
        return result.output if result.exit_code == 0 else str(result.exception)

    given = ["--data", f"coco:{root}", "--out", table]
    assert "detections: " not in call(*given)
    assert f"detections: {file}" in call(*given, "--predictions", file)  # results that were there without detections
    found = json.loads(file.read_text())
    assert list(found[0]) == ["image_id", "category_id", "bbox", "score"] and list(file.parent.iterdir()) == [file]
    assert {one["image_id"] for one in found} <= {50, 53, 56, 59} and {one["category_id"] for one in found} <= {3, 7}
    boxes = np.array([one["bbox"] for one in found])
    assert (boxes[:, :2] >= -1e-3).all() and (boxes[:, :2] + boxes[:, 2:] <= [48 + 1e-3, 32 + 1e-3]).all()
    # The oracle: the measures of the boxes in the file are those of the table.
    wanted = json.loads(table.read_text())["COCO AP"]["pretrained"]
    truth = open_splits(f"coco:{root}").test
    read = []
    for k in range(4):
        mine = [one for one in found if one["image_id"] == 50 + 3 * k]
        corners = np.array([one["bbox"] for one in mine], np.float64).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        labels = np.array([[3, 7].index(one["category_id"]) for one in mine], np.int64)  # in the order of ids
        read.append(Detections(corners, np.array([one["score"] for one in mine]), labels))
    objects = [item.objects for item in truth.items(range(4))]
    assert coco_ap(read, objects, 2)["AP"] == pytest.approx(wanted, abs=1e-3)  # type: ignore[arg-type]
    before, again = file.read_text(), tmp_path / "again.json"
    assert "1 result in" in call(*given, "--predictions", again) and again.read_text() == before

    folder, file = own_folder(tmp_path / "fields"), tmp_path / "fields.json"
    assert "3 classes (crop: old, dog, weed)" in call("--data", f"voc:{folder}", "--predictions", file)
    assert {one["image_id"] for one in json.loads(file.read_text())} == {1}
    assert {one["category_id"] for one in json.loads(file.read_text())} <= {1, 2, 3}
    assert "is a folder" in call(*given, "--predictions", tmp_path)
    wrong = runner.invoke(app, [*base[:2], "--predictions", str(file), "--data", "digits"]).exception
    assert str(wrong) == "predictions: expected the protocol 'detection', got 'frozen'"


def test_results_of_coco_are_read_by_its_tools(tmp_path: Path) -> None:
    tools = next(
        (t for t in ("pycocotools.coco", "faster_coco_eval") if importlib.util.find_spec(t.split(".")[0])), None
    )
    if tools is None:
        pytest.skip("neither pycocotools nor faster-coco-eval is installed")
    test, path = scenes(3, "test", size=32), tmp_path / "found.json"
    write = CocoResults(path, test, len(test.classes))
    names = [test.name_of(k) for k in range(3)]
    for k in range(3):
        assert not path.exists()
        write(test.read(k), Detections(np.array([[1, 2, 11, 7.5]]), np.array([0.5]), np.array([k])))
    whole = {
        "images": [{"id": k + 1, "file_name": names[k]} for k in range(3)],
        "annotations": [],
        "info": {},
        "licenses": [],
    }
    whole["categories"] = [{"id": k + 1, "name": name} for k, name in enumerate(test.classes)]
    (tmp_path / "truth.json").write_text(json.dumps(whole))
    read = importlib.import_module(tools).COCO(str(tmp_path / "truth.json")).loadRes(str(path))
    own = [read.anns[k + 1] for k in range(3)]
    assert [(a["image_id"], a["category_id"], a["area"]) for a in own] == [(k + 1, k + 1, 55.0) for k in range(3)]
