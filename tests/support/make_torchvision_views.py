"""Writes torchvision_views.npz: what torchvision's v2 transforms make of images and parameters.

    pip install torchvision    # needs the torch that belongs to it
    python tests/support/make_torchvision_views.py

The tests read the file, so that torchvision is needed only where it is made anew.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import torch
import torchvision
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TV

from fastssl.augment import Augment
from tests.support.torchvision_programs import PROGRAMS, images_of

JITTER = (
    lambda x, f: TV.adjust_brightness(x, f),
    lambda x, f: TV.adjust_contrast(x, f),
    lambda x, f: TV.adjust_saturation(x, f),
    lambda x, f: TV.adjust_hue(x, f),
)


def view(program: Augment, image: np.ndarray, drawn: dict[str, float]) -> torch.Tensor:
    x = torch.from_numpy(image).permute(2, 0, 1)
    if x.shape[0] == 4:
        x = x[:3]
    x = TV.to_dtype(x.expand(3, -1, -1) if x.shape[0] == 1 else x, torch.float32, scale=True)
    for op in program.operations:
        name = type(op).__name__
        p = {c: drawn[f"{name}.{c}"] for c in op.columns}
        on = p.get("on", 1)
        if name == "RandomResizedCrop":
            mode = InterpolationMode.BICUBIC if op.interpolation == "bicubic" else InterpolationMode.BILINEAR
            box = [int(p[c]) for c in ("top", "left", "height", "width")]
            size = [op.size, op.size] if isinstance(op.size, int) else list(op.size)
            x = TV.resized_crop(x, *box, size, mode, antialias=True)
        elif name == "CenterCrop":
            x = TV.center_crop(TV.resize(x, [op.resize], antialias=True) if op.resize else x, [op.size])
        elif name == "RandomHorizontalFlip":
            x = TV.horizontal_flip(x) if on else x
        elif name == "RandomVerticalFlip":
            x = TV.vertical_flip(x) if on else x
        elif name == "ColorJitter":
            left, order = [0, 1, 2, 3], int(p["order"])
            for size in (6, 2, 1, 1):
                which = left.pop(order // size if len(left) > 1 else 0)
                order %= size
                if on and (op.brightness, op.contrast, op.saturation, op.hue)[which]:
                    x = JITTER[which](x, p[("brightness", "contrast", "saturation", "hue")[which]])
        elif name == "RandomGrayscale":
            x = TV.rgb_to_grayscale(x, 3) if on else x
        elif name == "GaussianBlur":
            x = TV.gaussian_blur(x, [op.kernel_size] * 2, [p["sigma"]] * 2) if p["sigma"] else x
        elif name == "RandomSolarize":
            x = TV.solarize(x, op.threshold) if on else x
        elif name == "RandomPosterize":
            x = TV.posterize(x, op.bits) if on else x
        elif name == "RandomEqualize":
            x = TV.equalize(x) if on else x
        elif name == "RandomErasing":
            top, left_, height, width = (int(p[c]) for c in ("top", "left", "height", "width"))
            if height:
                value = torch.tensor([op.value] * 3 if isinstance(op.value, (int, float)) else op.value)
                x = TV.erase(x, top, left_, height, width, value[:, None, None])
        else:
            raise NotImplementedError(name)
    if program.normalize is not None:
        x = TV.normalize(x, program.normalize.means(), program.normalize.stds())
    return x


def main() -> None:
    arrays = {}
    for seed, (name, (program, count)) in enumerate(PROGRAMS.items()):
        images = images_of(name, count)
        sizes = [image.shape[:2] for image in images]
        params = program.sample(sizes, seed=seed)
        made = torch.stack([view(program, image, drawn) for image, drawn in zip(images, params)])
        arrays[f"{name}/params"], arrays[f"{name}/views"] = params.values, made.half().numpy()
    arrays["about"] = np.array(json.dumps({"torchvision": torchvision.__version__, "torch": torch.__version__}))
    out = Path(__file__).with_name("torchvision_views.npz")
    with zipfile.ZipFile(out.with_suffix(".tmp"), "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        for key, value in arrays.items():
            memory = io.BytesIO()
            np.save(memory, value)
            file.writestr(f"{key}.npy", memory.getvalue())
    out.with_suffix(".tmp").rename(out)
    print(f"{sum(count for _, count in PROGRAMS.values())} views, {out.stat().st_size / 1024:.0f} KiB, {out}")


if __name__ == "__main__":
    main()
