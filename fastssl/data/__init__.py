"""Data: sources of items by number, and the loader that feeds a training loop."""

from fastssl.data.ahead import read_ahead
from fastssl.data.arrays import ArraySource
from fastssl.data.batch import Batch
from fastssl.data.datasets import DatasetSource, HubSource
from fastssl.data.decode import ImageError, read_image
from fastssl.data.disk_cache import CacheError
from fastssl.data.embedded import digits, emoji
from fastssl.data.files import FileSource, folder
from fastssl.data.loader import Loader
from fastssl.data.opening import open
from fastssl.data.packed import PackedError, PackedImages, pack, pack_source
from fastssl.data.shards import ShardError, ShardSource, write_shards
from fastssl.data.signals import Signals, tones
from fastssl.data.source import Item, Joined, Source, Subset
from fastssl.data.splits import Splits, divide, open_splits
from fastssl.data.tables import table

__all__ = [
    "ArraySource",
    "Batch",
    "CacheError",
    "DatasetSource",
    "FileSource",
    "HubSource",
    "ImageError",
    "Item",
    "Joined",
    "Loader",
    "PackedError",
    "PackedImages",
    "ShardError",
    "ShardSource",
    "Signals",
    "Source",
    "Splits",
    "Subset",
    "digits",
    "divide",
    "emoji",
    "folder",
    "open",
    "open_splits",
    "pack",
    "pack_source",
    "read_ahead",
    "read_image",
    "table",
    "tones",
    "write_shards",
]
