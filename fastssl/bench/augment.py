"""Augmentation against other libraries: images per second, alternating, on the same images.

SimCLR's full policy: crop, flip, jitter 0.8, 0.8, 0.8, 0.2 at p = 0.8, grey 0.2, blur 0.5, to normalised float CHW.
Libraries that are not installed are skipped with a message.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastssl.augment import (
    Augment,
    ColorJitter,
    GaussianBlur,
    Normalize,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomResizedCrop,
    SimCLRAugment,
    from_torchvision,
)
from fastssl.bench.harness import as_dict, compare, fma_rate, machine, threads

Views = Callable[[], Any]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = ((64, 32, 3, 256), (256, 224, 23, 32))  # from, to, taps of the blur, batch size


def photos(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Random images with the spectrum of photographs: uint8 [N, H, W, 3]."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    images = np.empty((count, height, width, 3), np.uint8)
    for image in images:
        planes = []
        for _ in range(4):
            noise = rng.normal(size=(2, height, width // 2 + 1))
            plane = np.fft.irfft2((noise[0] + 1j * noise[1]) / frequency**1.1, s=(height, width))
            planes.append((plane - plane.mean()) / plane.std())
        image[:] = np.clip(128 + 50 * (0.85 * planes[3] + 0.3 * np.stack(planes[:3], 0)).transpose(1, 2, 0), 0, 255)
    return images


def operations(size: int, taps: int) -> list[Any]:
    return [
        RandomResizedCrop(size),
        RandomHorizontalFlip(),
        ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8),
        RandomGrayscale(0.2),
        GaussianBlur(taps, p=0.5),
        Normalize(MEAN, STD),
    ]


def fused(images: np.ndarray, size: int, taps: int) -> Views:
    return repeated(Augment(operations(size, taps)), images)


def repeated(augment: Any, images: np.ndarray) -> Views:
    seed = iter(range(10**9))
    return lambda: augment(images, seed=next(seed))


def one_by_one(transform: Any, images: list[Any]) -> Views:
    return lambda: torch.stack([transform(image) for image in images])


def torchvision_pil(images: np.ndarray, size: int, taps: int) -> Views:
    from PIL import Image
    from torchvision.transforms import v2

    transform = _torchvision(v2, size, taps, first=[], last=[v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    pictures = [Image.fromarray(image) for image in images]
    return one_by_one(transform, pictures)


def torchvision_tensor(images: np.ndarray, size: int, taps: int) -> Views:
    from torchvision.transforms import v2

    transform = _torchvision(v2, size, taps, first=[v2.ToDtype(torch.float32, scale=True)], last=[])
    tensors = list(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous())
    return one_by_one(transform, tensors)


def _torchvision(v2: Any, size: int, taps: int, first: list[Any], last: list[Any]) -> Any:
    return v2.Compose(
        [
            *first,
            v2.RandomResizedCrop(size, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(taps, (0.1, 2.0))], p=0.5),
            *last,
            v2.Normalize(MEAN, STD),
        ]
    )


def albumentations(images: np.ndarray, size: int, taps: int) -> Views:
    import albumentations as A
    import cv2

    cv2.setNumThreads(torch.get_num_threads())
    transform = A.Compose(
        [
            A.RandomResizedCrop(size=(size, size)),
            A.HorizontalFlip(p=0.5),
            A.ColorJitter((0.2, 1.8), (0.2, 1.8), (0.2, 1.8), (-0.2, 0.2), p=0.8),
            A.ToGray(p=0.2),
            A.GaussianBlur(blur_limit=(taps, taps), sigma_limit=(0.1, 2.0), p=0.5),
            A.Normalize(MEAN, STD),
        ]
    )
    rows = list(images)

    def run() -> Tensor:
        made = [torch.from_numpy(transform(image=image)["image"]).permute(2, 0, 1) for image in rows]
        return torch.stack(made)

    return run


def kornia(images: np.ndarray, size: int, taps: int) -> Views:
    import kornia.augmentation as K

    transform = torch.nn.Sequential(
        K.RandomResizedCrop((size, size)),
        K.RandomHorizontalFlip(),
        K.ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8),
        K.RandomGrayscale(p=0.2),
        K.RandomGaussianBlur((taps, taps), (0.1, 2.0), p=0.5),
        K.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
    )
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()

    def run() -> Any:
        with torch.no_grad():
            return transform(batch.float() / 255)

    return run


def pillow(images: np.ndarray, size: int, taps: int) -> Views:
    """Hand-written with Pillow, whose Gaussian blur is approximated by box blurs."""
    from PIL import Image, ImageEnhance, ImageFilter, ImageOps

    rng = np.random.default_rng(0)
    augment = Augment(operations(size, taps))
    pictures = [Image.fromarray(image) for image in images]
    enhance = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)

    def one(picture: Any, p: dict[str, float]) -> np.ndarray:
        top, left, height, width = (p[f"RandomResizedCrop.{c}"] for c in ("top", "left", "height", "width"))
        box = (left, top, left + width, top + height)
        view = picture.resize((size, size), Image.Resampling.BILINEAR, box=box)
        if p["RandomHorizontalFlip.on"]:
            view = ImageOps.mirror(view)
        if p["ColorJitter.on"]:
            for kind, name in zip(enhance, ("brightness", "contrast", "saturation")):
                view = kind(view).enhance(p[f"ColorJitter.{name}"])
            h, s, v = view.convert("HSV").split()
            turned = np.asarray(h) + np.uint8(int(p["ColorJitter.hue"] * 255) % 256)
            view = Image.merge("HSV", (Image.fromarray(turned), s, v)).convert("RGB")
        if p["RandomGrayscale.on"]:
            view = view.convert("L").convert("RGB")
        if p["GaussianBlur.sigma"]:
            view = view.filter(ImageFilter.GaussianBlur(p["GaussianBlur.sigma"]))
        x = (np.asarray(view, dtype=np.float32) / 255 - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
        return np.ascontiguousarray(x.transpose(2, 0, 1))

    def run() -> Tensor:
        params = augment.sample([image.shape[:2] for image in images], seed=int(rng.integers(2**31)))
        return torch.from_numpy(np.stack([one(picture, p) for picture, p in zip(pictures, params)]))

    return run


PEERS: dict[str, Callable[[np.ndarray, int, int], Views]] = {
    "albumentations": albumentations,
    "kornia": kornia,
    "torchvision, Pillow images": torchvision_pil,
    "torchvision, tensors": torchvision_tensor,
    "Pillow": pillow,
}


def with_threads(count: int, function: Views) -> Views:
    def run() -> Any:
        torch.set_num_threads(count)
        return function()

    return run


def _spin(stop: Any) -> None:
    while not stop.is_set():
        sum(range(10_000))


@contextlib.contextmanager
def noisy_neighbour() -> Iterator[None]:
    """Context in which another process occupies a core."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    process = context.Process(target=_spin, args=(stop,), daemon=True)
    process.start()
    time.sleep(1.0)
    try:
        yield
    finally:
        stop.set()
        process.join()


# Minimum instructions per value of the view (three per pixel) on the busier of the multiplication and addition units
# (additions include comparisons, minima and conversions). A resize has about 2.3 taps per axis here; a blur's taps are
# symmetric, and all are counted, including those that a small sigma does not need.
WORK: dict[str, tuple[Callable[[int], float], list[Any]]] = {
    "crop and resize": (lambda taps: 6, [RandomResizedCrop(224)]),
    "brightness": (lambda taps: 2, [ColorJitter(brightness=0.8)]),
    "contrast": (lambda taps: 4, [ColorJitter(contrast=0.8)]),
    "saturation": (lambda taps: 11 / 3, [ColorJitter(saturation=0.8)]),
    "hue": (lambda taps: 15, [ColorJitter(hue=0.2)]),
    "grey": (lambda taps: 1, [RandomGrayscale(1.0)]),
    "blur": (lambda taps: 2 * (taps - 1), [GaussianBlur(23, p=1.0)]),
}


def breakdown(report: Callable[[str], None], seconds: float) -> dict[str, Any]:
    """Time per operation of a 224 pixel view on one thread, against the lower bound of arithmetic and memory."""
    images = photos(32, 256, 256)
    values, taps = 3 * 224 * 224, 23
    rows: list[dict[str, Any]] = []
    with threads(1):
        instructions = max(fma_rate() for _ in range(5)) / 2  # a multiply-add is one instruction and two operations
        memory = np.zeros(64 * values, np.float32)
        best = min(_timed(lambda: memory.fill(1.0)) for _ in range(5))
        write = memory.nbytes / best
        base = Augment([RandomResizedCrop(224), Normalize(MEAN, STD)])
        seed = iter(range(10**9))

        def rate(augment: Augment, besides: Augment | None = None) -> float:
            """Per view; what it takes longer than another one with the same crops, called in turn: a difference of two
            medians of their own is noise where neighbours come and go."""
            augment(images, seed=0)
            end = time.perf_counter() + seconds
            times: list[float] = []
            while time.perf_counter() < end or len(times) < 5:
                drawn = next(seed)
                without = _timed(partial(besides, images, seed=drawn)) if besides else 0.0
                times.append(_timed(partial(augment, images, seed=drawn)) - without)
            return float(np.median(times)) / len(images)

        plain = rate(base)
        limit = values * (WORK["crop and resize"][0](taps) + 1) / instructions + values * 4 / write
        rows.append({"operation": "crop, resize, normalise, write", "microseconds": 1e6 * plain, "limit": 1e6 * limit})
        for name, (work, steps) in WORK.items():
            if name == "crop and resize":
                continue
            taken = rate(Augment([RandomResizedCrop(224), *steps, Normalize(MEAN, STD)]), base)
            rows.append(
                {"operation": name, "microseconds": 1e6 * taken, "limit": 1e6 * values * work(taps) / instructions}
            )
        full = rate(Augment(operations(224, taps)))
        by_name = {r["operation"]: r["limit"] for r in rows}
        limit = by_name["crop, resize, normalise, write"] + 0.2 * by_name["grey"] + 0.5 * by_name["blur"]
        limit += 0.8 * sum(by_name[name] for name in ("brightness", "contrast", "saturation", "hue"))
        rows.append({"operation": "SimCLR's policy", "microseconds": 1e6 * full, "limit": limit})
    for r in rows:
        report(f"  {r['operation']:32} {r['microseconds']:7.1f} us, limit {r['limit']:6.1f}")
    return {"rows": rows, "instructions_per_second": instructions, "write_bytes_per_second": write}


def _transforms() -> dict[str, tuple[str, Any]]:
    """Transforms of Pillow images to 224 pixels, by name: their library and themselves."""
    from torchvision.transforms import InterpolationMode, v2

    bilinear = {"interpolation": InterpolationMode.BILINEAR}
    steps = {
        "`RandomRotation(30)`": v2.RandomRotation(30, **bilinear),
        "`RandomAffine(15, (0.1, 0.1), (0.8, 1.2))`": v2.RandomAffine(15, (0.1, 0.1), (0.8, 1.2), **bilinear),
        "`RandomPerspective()`, always": v2.RandomPerspective(p=1.0),
        "`RandomAdjustSharpness(2)`, always": v2.RandomAdjustSharpness(2, p=1.0),
        "`RandomAutocontrast()`, always": v2.RandomAutocontrast(p=1.0),
        "`RandomInvert()`, always": v2.RandomInvert(p=1.0),
        "`AutoAugment()`": v2.AutoAugment(),
        "`RandAugment()`": v2.RandAugment(),
        "`TrivialAugmentWide()`": v2.TrivialAugmentWide(),
    }
    last = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    made = {name: ("torchvision", v2.Compose([v2.RandomResizedCrop(224), s, *last])) for name, s in steps.items()}
    with contextlib.suppress(ImportError):
        from timm.data import create_transform

        policy = "rand-m7-mstd0.5-inc1"  # from magnitude 10 on, timm asks Pillow for 0 bits, an error
        whole = create_transform(224, is_training=True, auto_augment=policy, re_prob=0.25, interpolation="random")
        made[f'`create_transform(224, True, auto_augment="{policy}", re_prob=0.25, interpolation="random")`'] = (
            "timm",
            whole,
        )
    return made


def converted(report: Callable[[str], None], seconds: float) -> list[dict[str, Any]]:
    """Transforms of Pillow images against what :func:`from_torchvision` makes of them, 256 -> 224, one thread."""
    from PIL import Image

    try:
        transforms = _transforms()
    except ImportError as error:
        report(f"transforms: not possible here ({error})")
        return []
    images, rows = photos(32, 256, 256), []
    pictures = [Image.fromarray(image) for image in images]
    with threads(1):
        for name, (library, transform) in transforms.items():
            ours, theirs = repeated(from_torchvision(transform), images), one_by_one(transform, pictures)
            r = compare(ours, theirs, seconds=seconds, least=3)
            rows.append({"transform": name, "against": library, "images": len(images), **as_dict(r)})
            report(
                f"{name}: {32 / r.fused_seconds:.0f}/s, {library} {32 / r.other_seconds:.0f}/s: "
                f"{r.ratio:.1f} ({r.low:.1f} to {r.high:.1f})"
            )
    return rows


def _timed(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def jpeg_folder(root: Path, count: int) -> Path:
    """Files of 500 x 375 pixels at quality 90, in four classes."""
    from PIL import Image

    for k, image in enumerate(photos(min(count, 64), 375, 500)):
        for copy in range(k, count, 64):
            path = root / str(copy % 4) / f"{copy}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path, quality=90)
    return root


def loading(report: Callable[[str], None], seconds: float, count: int = 512) -> dict[str, Any]:
    """JPEG files to two 224 pixel views: the loader, torchvision's with two workers, and only decoding."""
    from PIL import Image

    from fastssl.data import Loader

    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = jpeg_folder(Path(folder), count)
        files = sorted(root.rglob("*.jpg"))
        loader = Loader(root, SimCLRAugment(224, normalize=Normalize(MEAN, STD)), 64, workers=2)

        def ours() -> None:
            for _ in loader:
                pass

        def drop(path: Path) -> None:
            with Image.open(path) as image:
                image.load()

        def decode() -> None:
            with ThreadPoolExecutor(2) as pool:
                for _ in pool.map(drop, files):
                    pass

        decoding = compare(ours, decode, seconds=seconds, least=3)
        result["decoder"] = {**as_dict(decoding), "images": count, "share": decoding.ratio}
        report(
            f"  loader {count / decoding.fused_seconds:.0f}/s, decoder alone {count / decoding.other_seconds:.0f}/s: "
            f"{100 * decoding.ratio:.0f} %"
        )
        try:
            from torchvision.datasets import ImageFolder
            from torchvision.transforms import v2
        except ImportError:
            report("  torchvision is not installed: no comparison of loaders")
            return result
        one = _torchvision(v2, 224, 23, first=[], last=[v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])

        def epoch(transform: Any) -> Callable[[], None]:
            data = torch.utils.data.DataLoader(
                ImageFolder(root, transform=_Twice(transform)), batch_size=64, num_workers=2, shuffle=True,
                drop_last=True, persistent_workers=True,
            )  # fmt: skip

            def read() -> None:
                for _ in data:
                    pass

            return read

        theirs = epoch(one)
        against = compare(ours, theirs, seconds=seconds, least=3)
        result["torchvision"] = {**as_dict(against), "images": count}
        report(f"  torchvision's ImageFolder {count / against.other_seconds:.0f}/s: {against.ratio:.1f}")
        against = compare(epoch(from_torchvision(one)), theirs, seconds=seconds, least=3)
        result["converted"] = {**as_dict(against), "images": count}
        report(f"  the same with from_torchvision {count / against.fused_seconds:.0f}/s: {against.ratio:.1f}")
    return result


class _Twice:
    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def __call__(self, image: Any) -> tuple[Any, Any]:
        return self.transform(image), self.transform(image)


def run_augment(quick: bool = False, report: Callable[[str], None] = print) -> dict[str, Any]:
    """Runs this part of the suite and returns its results."""
    start, seconds = time.time(), 1.0 if quick else 8.0
    results: dict[str, Any] = {"machine": machine(), "comparisons": [], "threads": [], "neighbour": []}
    for size, to, taps, count in SIZES:
        images = photos(count, size, size)
        for name, build in PEERS.items():
            for number in (1, 2):
                with threads(number):
                    try:
                        other = build(images, to, taps)
                        other()
                    except ImportError as error:
                        report(f"{name}: not possible here ({error})")
                        break
                    r = compare(fused(images, to, taps), other, seconds=seconds, least=3)
                row = {"from": size, "to": to, "taps": taps, "images": count, "against": name, "threads": number}
                results["comparisons"].append({**row, **as_dict(r)})
                report(
                    f"{size} -> {to}, {number} threads: {count / r.fused_seconds:8.0f}/s, {name} "
                    f"{count / r.other_seconds:7.0f}/s: {r.ratio:.1f} ({r.low:.1f} to {r.high:.1f})"
                )
        many = photos(8 * count, size, size)
        before = torch.get_num_threads()
        r = compare(
            with_threads(2, fused(many, to, taps)), with_threads(1, fused(many, to, taps)), seconds=seconds, least=5
        )
        torch.set_num_threads(before)
        results["threads"].append({"from": size, "to": to, **as_dict(r)})
        report(f"{size} -> {to}: 2 threads against 1: {r.ratio:.2f} ({r.low:.2f} to {r.high:.2f})")
    report("where the time goes, 256 -> 224:")
    results["breakdown"] = breakdown(report, seconds / 8)
    report("crop, one transform, normalise, 256 -> 224, one thread:")
    results["converted"] = converted(report, seconds / 2)
    images = photos(32, 256, 256)
    for name, build in {"fastssl": fused, **PEERS}.items():
        try:
            with threads(2):
                views = build(images, 224, 23)
                views()
                alone = 32 / float(np.median([_timed(views) for _ in range(5)]))
                with noisy_neighbour():
                    beside = 32 / float(np.median([_timed(views) for _ in range(5)]))
        except ImportError:
            continue
        results["neighbour"].append({"library": name, "alone": alone, "beside": beside})
        report(f"256 -> 224, 2 threads, beside a busy neighbour: {name} {alone:.0f}/s -> {beside:.0f}/s")
    report("from JPEG files to two 224 views, 2 cores:")
    results["loading"] = loading(report, seconds, 64 if quick else 512)
    results["minutes"] = (time.time() - start) / 60
    return results
