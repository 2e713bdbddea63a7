"""Samples of generative models: texts, images or audio, and the files that show them."""

from __future__ import annotations

import math
import wave
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastssl._files import replacing
from fastssl.augment.images import to_show

SHEET, MARGIN, ENLARGED = 1024, 2, 32  # pixels of a contact sheet's side, between images, of an enlarged image's side


class Samples(NamedTuple):
    """What a generative model made.

    Args:
        kind: "texts", "images" or "audio".
        values: a list of N strings; uint8 images [N, H, W, C]; or waveforms in [-1, 1], float [N, T].
        rate: samples per second of audio.

    Example:
        >>> import numpy as np, tempfile
        >>> from fastssl.models import Samples
        >>> made = Samples("images", np.zeros((10, 8, 8, 1), np.uint8))
        >>> made.save(tempfile.mkdtemp() + "/samples")[0].name
        'samples.png'
    """

    kind: str
    values: Any
    rate: int | None = None

    def save(self, path: str | Path) -> list[Path]:
        """Writes images as a contact sheet (PNG, or the format of the suffix), waveforms as ``path``-1.wav, ..., or
        texts as ``path`` with a blank line between them, and returns the files."""
        path = Path(path)
        if self.kind == "texts":
            with replacing(path) as file:
                file.write_text("".join(f"{text}\n\n" for text in self.values), encoding="utf-8")
            return [path]
        if self.kind == "images":
            from PIL import Image

            sheet = contact_sheet(self.values)
            kind = Image.registered_extensions().get(path.suffix.lower())
            target = path if kind in Image.SAVE else path.with_name(path.name + ".png")
            with replacing(target) as file:
                sheet.save(file, kind if kind in Image.SAVE else "PNG")
            return [target]
        files, stem = [], path.name.removesuffix(".wav")
        for k, waveform in enumerate(self.values, 1):
            target = path.with_name(f"{stem}.wav" if len(self.values) == 1 else f"{stem}-{k}.wav")
            with replacing(target) as fresh, wave.open(str(fresh), "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(2)
                file.setframerate(int(self.rate or 16_000))
                file.writeframes((np.clip(waveform, -1, 1) * 32767).round().astype("<i2").tobytes())
            files.append(target)
        return files


def contact_sheet(images: np.ndarray) -> Any:
    """A Pillow image of uint8 images [N, H, W, C] in a grid; small ones are enlarged by a whole factor."""
    from PIL import Image

    count, height, width = images.shape[:3]
    columns = max(1, math.ceil(math.sqrt(count)))
    largest = max(1, (SHEET // columns - MARGIN) // max(height, width))
    factor = min(largest, max(1, ENLARGED // max(height, width)))
    cell = (height * factor + MARGIN, width * factor + MARGIN)
    sheet = np.full((math.ceil(count / columns) * cell[0] + MARGIN, columns * cell[1] + MARGIN, 3), 255, np.uint8)
    for k, image in enumerate(images):
        shown = to_show(image).repeat(factor, 0).repeat(factor, 1)
        y, x = MARGIN + k // columns * cell[0], MARGIN + k % columns * cell[1]
        sheet[y : y + shown.shape[0], x : x + shown.shape[1]] = shown
    return Image.fromarray(sheet)
