"""Views as JSON values, and as names, files and transforms say them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastssl.augment import (
    POLICIES,
    Augment,
    ColorJitter,
    Normalize,
    RandAugment,
    RandomAffine,
    RandomCrop,
    RandomResizedCrop,
    Views,
    as_views,
    from_torchvision,
    policy,
)
from fastssl.augment.saved import from_json, to_json

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 50, 40, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", POLICIES)
def test_json_keeps_every_policy(name: str) -> None:
    views = policy(name, 16) if name != "jigsaw" else policy(name, 8, cell=10, resize=32)
    again = from_json(json.loads(json.dumps(to_json(views))))
    assert (again.counts, again.programs[0].channels) == (views.counts, views.programs[0].channels)
    for one, other in zip(views(IMAGES, seed=3), again(IMAGES, seed=3), strict=True):
        assert torch.equal(one, other) and one.stride() == other.stride()


def test_json_keeps_dtype_layout_and_channels() -> None:
    moved = [RandomAffine(10, (0.1, 0.2), shear=(1, 2, 3, 4), fill=None), RandAugment(3, fill=0.5)]
    program = Augment(
        [RandomCrop(20, resize=30, padding=2), *moved, Normalize(0.5, 0.2)], dtype=torch.bfloat16, channels=1
    )
    again = from_json(json.loads(json.dumps(to_json(Views([(2, program)])))))
    assert repr(again) == repr(Views([(2, program)]))
    listed: Any = [RandomResizedCrop([8, 9], scale=[0.5, 1.0]), ColorJitter(hue=[0.1, 0.2]), Normalize([0.5] * 3)]
    again = from_json(json.loads(json.dumps(to_json(Views([Augment(listed)])))))
    assert again.programs[0].steps == listed and repr(again.programs[0]) == repr(Augment(listed))

    class Own(Views):
        def forward(self, images: Any, **options: Any) -> Any:
            return [view.flip(0) for view in super().forward(images, **options)]

    assert to_json(Own([program])) is None

    class Crop(RandomCrop):
        pass

    assert to_json(Views([Augment([Crop(20)])])) is None
    assert to_json(program) is None


def test_views_are_named_in_many_ways(tmp_path: Path) -> None:
    program = Augment([RandomResizedCrop(16)])
    views = Views([(2, program)])
    assert as_views(views) is views
    assert as_views(program).counts == [1]
    assert as_views([program, program]).counts == [1, 1]
    grey = Augment([RandomResizedCrop(16)], dtype=torch.bfloat16, channels_last=True, channels=1)
    for kept in (from_torchvision([grey, grey]).programs[1], as_views(grey).programs[0], from_torchvision(grey)):
        assert repr(kept) == repr(grey)
    assert repr(from_torchvision(grey, channels=3)) == repr(grey.with_channels(3))
    assert len(as_views("byol", 16).programs) == 2
    file = tmp_path / "views.py"
    file.write_text(
        "from torch import nn\nfrom fastssl.augment import Augment, RandomResizedCrop, Normalize\n"
        "class Crop(nn.Module):\n    size = 16\n"
        "rules = {Crop: lambda t: [RandomResizedCrop(t.size), Normalize()]}\n"
        "transform = [nn.Sequential(Crop())] * 3\none = Augment([RandomResizedCrop(8)])\n"
    )
    assert [p.size for p in as_views(str(file)).programs] == [(16, 16)] * 3
    assert [p.size for p in as_views(f"{file}:one").programs] == [(8, 8)]
    with pytest.raises(
        ValueError, match=r"views.py defines no two \(rules, transform, one\); give the name as .*:NAME"
    ):
        as_views(f"{file}:two")
    with pytest.raises(FileNotFoundError, match="augment: no file .*other.py"):
        as_views(tmp_path / "other.py")
    with pytest.raises(ValueError, match="augment: expected FILE.py or one of .*byol.*, got 'unknown'"):
        as_views("unknown")
