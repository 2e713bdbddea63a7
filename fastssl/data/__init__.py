"""Data: sources of indexed items, and the loader that feeds a training loop."""

from fastssl.data.arrays import ArraySource
from fastssl.data.batch import Batch, TokenBatch
from fastssl.data.corpus import Corpus, CorpusError
from fastssl.data.datasets import DatasetSource, HubSource
from fastssl.data.decode import ImageError, read_image
from fastssl.data.disk_cache import CacheError
from fastssl.data.embedded import digits, emoji
from fastssl.data.embedded_text import ParallelCorpus, glosses, sotu, verses
from fastssl.data.files import FileSource, folder
from fastssl.data.glue import glue
from fastssl.data.loader import Loader
from fastssl.data.opening import open
from fastssl.data.packed import PackedError, PackedImages, pack, pack_source
from fastssl.data.prefetch import prefetch_items
from fastssl.data.sentences import sentences
from fastssl.data.shards import ShardError, ShardSource, write_shards
from fastssl.data.signals import Signals, tones
from fastssl.data.source import ConcatSource, Item, Source, Subset
from fastssl.data.splits import Splits, divide, open_splits
from fastssl.data.tables import table
from fastssl.data.text_files import text8, text_corpus, wikitext
from fastssl.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from fastssl.data.tokens import TokenError, TokenFile, tokenize_corpus
from fastssl.data.windows import Window, Windows

__all__ = [
    "ArraySource",
    "Batch",
    "CacheError",
    "ConcatSource",
    "Corpus",
    "CorpusError",
    "DatasetSource",
    "FileSource",
    "HubSource",
    "ImageError",
    "Item",
    "Loader",
    "PackedError",
    "PackedImages",
    "ParallelCorpus",
    "ShardError",
    "ShardSource",
    "Signals",
    "Source",
    "Splits",
    "Subset",
    "TokenBatch",
    "TokenError",
    "TokenFile",
    "Tokenizer",
    "Window",
    "Windows",
    "digits",
    "divide",
    "emoji",
    "folder",
    "glosses",
    "glue",
    "load_tokenizer",
    "open",
    "open_splits",
    "pack",
    "pack_source",
    "prefetch_items",
    "read_image",
    "sentences",
    "sotu",
    "table",
    "text8",
    "text_corpus",
    "tokenize_corpus",
    "tones",
    "train_tokenizer",
    "verses",
    "wikitext",
    "write_shards",
]
