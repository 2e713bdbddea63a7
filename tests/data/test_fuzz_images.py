"""Mutated files: every one gives an image or an error of ours, soon, and nothing else.

``python -m tests.data.test_fuzz_images COUNT [SEED]`` runs as many as wanted and prints what happened to them.
"""

from __future__ import annotations

import faulthandler
import io
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastssl.augment import SimCLRAugment
from fastssl.data import ImageError, PackedError, PackedImages, pack, read_image

IMAGE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
AUGMENT = SimCLRAugment(8)
LIMIT = 1_000_000  # pixels


def _file(kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(IMAGE).convert("P" if kind == "GIF" else "RGB").save(file, kind, **options)
    return file.getvalue()


SEEDS: dict[str, bytes] = {
    "jpeg": _file("JPEG", quality=80),
    "progressive jpeg": _file("JPEG", progressive=True),
    "png": _file("PNG"),
    "webp": _file("WEBP"),
    "lossless webp": _file("WEBP", lossless=True),
    "gif": _file("GIF"),
    "bmp": _file("BMP"),
    "tiff": _file("TIFF", compression="tiff_lzw"),
    "ppm": _file("PPM"),
}


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """One to eight changes: bytes, runs of bytes, cuts, repeats, numbers at their limits."""
    content = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        if not content:
            break
        # Headers and footers decide more than pixels do.
        size = len(content)
        near = int(rng.integers(min(64, size)))
        place = (int(rng.integers(size)), near, size - 1 - near)[int(rng.integers(3))]
        how = int(rng.integers(6))
        if how == 0:
            content[place] = int(rng.integers(256))
        elif how == 1:
            content[place] ^= 1 << int(rng.integers(8))
        elif how == 2:
            length = int(rng.integers(1, 9))
            content[place : place + length] = bytes([int(rng.choice([0, 0x7F, 0x80, 0xFF]))] * length)
        elif how == 3:
            del content[place : size if rng.random() < 0.3 else place + int(rng.integers(1, 20))]
        elif how == 4:
            content[place:place] = content[place : place + int(rng.integers(1, 40))]
        else:
            content[place:place] = rng.integers(0, 256, int(rng.integers(1, 20)), dtype=np.uint8).tobytes()
    return bytes(content)


def _decode(data: bytes) -> str:
    try:
        image = read_image(data, max_pixels=LIMIT)
    except ImageError:
        return "refused"
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] in (1, 3) and 0 not in image.shape
    if image.shape[0] * image.shape[1] < 10_000:
        assert all(bool(view.isfinite().all()) for view in AUGMENT(image, seed=0))
    return "an image"


def _unpack(data: bytes, path: Path) -> str:
    path.write_bytes(data)
    try:
        images = PackedImages(path)
        for k in range(len(images)):
            images.read(k)
    except PackedError:
        return "refused"
    return "read"


def fuzz(count: int, seed: int, report: Callable[[str], None] = print) -> Counter[str]:
    """Runs ``count`` inputs; a call of more than ten seconds ends the process with a traceback."""
    rng = np.random.default_rng(seed)
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.pack"
        whole = pack([IMAGE, IMAGE[:7, :5], IMAGE[:, :, :1]], Path(folder) / "good.pack", labels=[1, 2, 3]).read_bytes()
        kinds = [*SEEDS, "packed"]
        for k in range(count):
            kind = kinds[k % len(kinds)]
            faulthandler.dump_traceback_later(10, exit=True)
            outcome = _unpack(mutated(whole, rng), path) if kind == "packed" else _decode(mutated(SEEDS[kind], rng))
            outcomes[f"{kind}: {outcome}"] += 1
            if (k + 1) % 10_000 == 0:
                report(f"{k + 1:,} inputs")
        faulthandler.cancel_dump_traceback_later()
    return outcomes


@pytest.mark.parametrize("count", [2_000, pytest.param(100_000, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore")
def test_mutated_files(count: int) -> None:
    outcomes = fuzz(count, seed=0, report=lambda text: None)
    assert sum(outcomes.values()) == count
    assert sum(n for name, n in outcomes.items() if name.endswith("refused")) > count // 10


if __name__ == "__main__":
    import warnings

    warnings.simplefilter("ignore")
    for name, number in sorted(fuzz(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0).items()):
        print(f"{number:8,}  {name}")
