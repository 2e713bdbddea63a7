"""Makes the masks of the embedded emoji from the alpha planes of npm's emoji-datasource-google and -twitter 16.0.0.

python benchmarks/make_masks.py FOLDER

where FOLDER has the unpacked packages as ``google`` and ``twitter`` (``npm pack``, ``tar xzf``). The images that are there
already are checked to be these, composited on grey.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from fastssl.data.embedded import VENDORS

FOLDER = Path(__file__).parents[1] / "fastssl" / "data" / "emoji"
GREY = 236


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder, masks = parser.parse_args().folder, {}
    with np.load(FOLDER / "emoji64.npz") as packed:
        for vendor in VENDORS:
            rows = []
            for code, stored in zip(packed["unicode"], packed[vendor]):
                path = folder / vendor / "package" / "img" / vendor / "64" / f"{code.lower()}.png"
                drawing = np.asarray(Image.open(path).convert("RGBA")).astype(float)
                alpha = drawing[..., 3:] / 255
                assert np.abs(drawing[..., :3] * alpha + GREY * (1 - alpha) - stored).max() < 1, path
                rows.append(alpha[..., 0] >= 0.5)
            masks[vendor] = np.packbits(np.stack(rows))
    np.savez_compressed(FOLDER / "masks64.npz", **masks)


if __name__ == "__main__":
    main()
