"""The CUDA kernels run as loops on the host, threads in random order: triplets and nearest rows are in test_triton.py's
losses; here the views, the races, and what the arguments may be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import fastssl.functional as F
from fastssl import augment
from fastssl._table import Metric, RowLoss
from fastssl.ops import extension, rows
from fastssl.ops.types import Relation
from tests.support import TRITON_DEVICE as DEVICE
from tests.support import host_kernels
from tests.support.processes import start

pytest.importorskip("triton")
on_gpu = pytest.importorskip("fastssl.ops.triton.losses")
pytestmark = pytest.mark.skipif(extension._C is None, reason="the compiled kernels are not installed")
POLICIES = sorted(
    name
    for name, made in vars(augment).items()
    if name.endswith("Augment") and name != "Augment" and not hasattr(made, "kind")
)
SIZES = [(50, 61), (40, 33), (17, 90)]


def images(planar: bool) -> list[torch.Tensor]:
    made = [torch.randint(0, 256, (h, w, c), dtype=torch.uint8) for (h, w), c in zip(SIZES, (3, 3, 1))]
    return [t.permute(2, 0, 1).contiguous() for t in made] if planar else made


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("planar", [False, True])
def test_policies_have_the_bits_of_the_cpu(name: str, planar: bool) -> None:
    policy = getattr(augment, name)(32)
    for program in getattr(policy, "programs", [policy]):
        given = images(planar)
        params = program.sample(SIZES, seed=3)
        right = program.apply(given, params)
        assert torch.equal(program.apply(given, params, backend="cuda"), right)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("bicubic", [False, True])
def test_every_operation(dtype: torch.dtype, channels_last: bool, bicubic: bool) -> None:
    a = augment
    crop = a.RandomResizedCrop(23, scale=(0.05, 1.0), interpolation="random" if bicubic else "bilinear")
    operations = [
        crop,
        a.RandomHorizontalFlip(),
        a.ColorJitter(0.4, 0.4, 0.4, 0.2, p=0.9),
        a.RandomEqualize(p=0.7),
        a.RandomRotation(30.0),
        a.RandomPosterize(bits=4, p=0.5),
        a.GaussianBlur(9, (0.1, 2.0), p=0.8),
        a.ColorJitter(0.4, 0.4, 0.4, 0.2, p=0.9),
        a.RandomSolarize(p=0.5),
        a.RandomGrayscale(0.3),
        a.RandomErasing(0.7),
        a.RandomAffine(30, (0.2, 0.1), (0.6, 1.5), 20, p=0.8, fill=(0.2, 0.5, 0.9)),
        a.RandomPerspective(1.0, 0.8),
        a.RandomAdjustSharpness(3.0, 0.8),
        a.RandomAutocontrast(0.7),
        a.RandomInvert(0.5),
        a.RandAugment(2, 9),
        a.AutoAugment("svhn", interpolation="bicubic"),
        a.TimmRandAugment(4, prob=0.9),
        a.TrivialAugmentWide(interpolation="bilinear"),
        a.Normalize(),
    ]
    program = a.Augment(operations, dtype=dtype, channels_last=channels_last)
    batch = torch.randint(0, 256, (12, 41, 37, 4), dtype=torch.uint8)
    params = program.sample([(41, 37)] * 12, seed=5)
    assert torch.equal(program.apply(batch, params, backend="cuda"), program.apply(batch, params))


def test_padded_crops_have_the_bits_of_the_cpu() -> None:
    a = augment
    program = a.Augment([a.RandomCrop(40, padding=9), a.RandomHorizontalFlip(), a.GaussianBlur(5), a.Normalize()])
    batch = torch.randint(0, 256, (12, 31, 37, 3), dtype=torch.uint8)
    params = program.sample([(31, 37)] * 12, seed=5)
    assert torch.equal(program.apply(batch, params, backend="cuda"), program.apply(batch, params))


@pytest.mark.parametrize("each", [3, 40])
@pytest.mark.parametrize("broken", ["anchor", "other row"])
@pytest.mark.parametrize(("loss", "smooth"), [(RowLoss.triplet, 0.0), (RowLoss.triplet, 1.0), (RowLoss.semihard, 0.0)])
def test_nan_shows_where_it_does_on_the_cpu(loss: RowLoss, smooth: float, broken: str, each: int) -> None:
    """In an anchor; among the positives of a class and the negatives of the others, of which the last has no positive.
    (On the CPU a positive that is NaN is infinitely far.)"""
    x, y = torch.randn(12, 4), torch.randn(3 * each, 4)
    (x if broken == "anchor" else y)[1] = float("nan")
    ids = torch.arange(12) % 4
    classes = torch.arange(3 * each) % 3
    relation = Relation(ids, classes)
    values: list[float | torch.Tensor] = [1.0, 0.3, smooth, *[0.0] * 9]
    given = (loss, x, y, relation, values, Metric.sqeuclidean, False)
    right = rows.row_loss(*given)[:, 0]
    moved = (loss, x.to(DEVICE), y.to(DEVICE), Relation(ids.to(DEVICE), classes.to(DEVICE)))
    found = on_gpu.row_loss(*moved, *given[4:])[:, 0].cpu()
    finite = right.isfinite()
    assert right.isnan().any() and found[~finite].isnan().all()
    finite &= ids < 3
    torch.testing.assert_close(found[finite], right[finite], rtol=1e-5, atol=1e-5)


def test_threads_in_another_order_give_the_same_bits(tmp_path: Path) -> None:
    """What depends on the order of threads within a phase is a race."""
    seeds = ("0", "1", "2", "77")
    started = [
        start(host_kernels.main, tmp_path / seed, log=tmp_path / f"log.{seed}", environment={"FASTSSL_SHIM_SEED": seed})
        for seed in seeds
    ]
    assert [p.wait() for p in started] == [0] * len(seeds), [p.output for p in started]
    first, *others = (torch.load(tmp_path / seed) for seed in seeds)
    assert len(first) > 5
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other))


def test_a_wrong_call_of_the_operators_is_an_error() -> None:
    s, ids = torch.randn(3, 5), torch.zeros(5, dtype=torch.int64)
    rows, select, views = (getattr(torch.ops.fastssl, n) for n in ("sorted_rows", "select_rows", "make_views"))
    fine = dict(first=0, n=5, self_offset=0, params=torch.tensor([1.0, 0.1, 0.0]), grad=None)
    bits = dict(positive_bits=None, negative_bits=None)
    assert rows(0, s, ids, ids, **bits, **fine).shape == (2, 3)
    wrong = [
        lambda: rows(7, s, ids, ids, **bits, **fine),
        lambda: rows(0, s.double(), ids, ids, **bits, **fine),
        lambda: rows(0, s.T, ids, ids, **bits, **fine),
        lambda: rows(0, s, ids[:2], ids, **bits, **fine),
        lambda: rows(0, s, None, None, **bits, **fine),
        lambda: rows(0, s, ids, ids, **bits, **{**fine, "first": 4}),
        lambda: rows(0, s, ids, ids, **bits, **{**fine, "grad": torch.ones(3)}),
        lambda: rows(0, s, ids, ids, **bits, **{**fine, "params": torch.ones(2)}),
        lambda: select(s, 0, True, -1),
        lambda: select(s, 6, True, -1),
        lambda: select(s, 5, True, 0),
        lambda: views(
            torch.zeros(4, dtype=torch.uint8), torch.zeros(1, 8, dtype=torch.uint8), 4, 4, 0, False, *[1.0] * 6, 1, 1
        ),
    ]
    for call in wrong:
        with pytest.raises(RuntimeError, match="fastssl"):
            call()


def test_parameters_that_do_not_fit_are_errors_on_the_gpu_too() -> None:
    program = augment.SimCLRAugment(16).programs[0]
    batch = torch.zeros(2, 20, 20, 3, dtype=torch.uint8)
    params = program.sample([(40, 40)] * 2, seed=0)
    params.values[:, :4] = np.array([30, 30, 10, 10])
    with pytest.raises(ValueError, match="does not fit"):
        program.apply(batch, params, backend="cuda")


def test_without_the_library_it_says_so() -> None:
    from fastssl.ops.triton import cuda

    if torch.cuda.is_available() and cuda.LIBRARY.exists():
        assert cuda.reason() == ""
    else:
        assert "no GPU" in cuda.reason() or "not built" in cuda.reason()
    assert F.nearest(torch.randn(3, 2), None, 2)[1].shape == (3, 2)
    assert Path(cuda.LIBRARY).parent.name == "fastssl"


def test_a_gpu_before_ampere_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """No machine code is made for it."""
    from fastssl.ops.triton import cuda

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Tesla T4")
    with pytest.raises(RuntimeError, match="backend 'cuda' is not usable: Tesla T4 has compute capability 7.5"):
        cuda.require(torch.device("cuda:0"))
