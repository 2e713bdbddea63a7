"""Data: images that come with the package, folders, packed files, and the loader that feeds a training loop."""

from fastssl.data.decode import ImageError, read_image
from fastssl.data.embedded import digits, emoji
from fastssl.data.folder import FolderImages, folder
from fastssl.data.images import Images
from fastssl.data.load import load
from fastssl.data.loader import Batch, Loader
from fastssl.data.packed import PackedError, PackedImages, pack
from fastssl.data.signals import Signals, tones
from fastssl.data.splits import Splits, divide, load_splits

__all__ = [
    "Batch",
    "FolderImages",
    "ImageError",
    "Images",
    "Loader",
    "PackedError",
    "PackedImages",
    "Signals",
    "Splits",
    "digits",
    "divide",
    "emoji",
    "folder",
    "load",
    "load_splits",
    "pack",
    "read_image",
    "tones",
]
