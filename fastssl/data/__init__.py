"""Data: sources of indexed items, and the loader that feeds a training loop."""

from fastssl.data.annotated import AnnotatedFiles, coco, voc
from fastssl.data.arrays import ArraySource
from fastssl.data.batch import Batch, TokenBatch
from fastssl.data.captions import CaptionError
from fastssl.data.corpus import Corpus, CorpusError
from fastssl.data.datasets import DatasetSource, HubSource
from fastssl.data.decode import ImageError, read_image
from fastssl.data.disk_cache import CacheError
from fastssl.data.embedded import digits, emoji
from fastssl.data.embedded_text import ParallelCorpus, glosses, sotu, verses
from fastssl.data.files import FileSource, folder
from fastssl.data.frames import FrameSource, frames
from fastssl.data.glue import glue
from fastssl.data.index_splits import IndexSplits, open_questions, open_tagged
from fastssl.data.loader import Loader
from fastssl.data.objects import Detections, Objects, objects_of
from fastssl.data.opening import open
from fastssl.data.packed import PackedError, PackedImages, pack, pack_source
from fastssl.data.pairs import text_pairs
from fastssl.data.prefetch import prefetch_items
from fastssl.data.questions import Questions, read_squad
from fastssl.data.scenes import Scenes, scenes
from fastssl.data.sentences import sentences
from fastssl.data.shards import ShardError, ShardSource, write_shards
from fastssl.data.signals import Signals, inverse_mu_law, mu_law, spoken_digits, tones
from fastssl.data.source import ConcatSource, Item, Source, Subset
from fastssl.data.splits import Splits, divide, open_splits
from fastssl.data.stereograms import Stereograms, stereograms
from fastssl.data.tables import table, text_table
from fastssl.data.tagged import Tagged, capitals, read_conll
from fastssl.data.text_files import text8, text_corpus, wikitext
from fastssl.data.tokenizer import Tokenizer, train_tokenizer
from fastssl.data.tokens import TokenError, TokenFile, load_tokenizer, tokenize_corpus
from fastssl.data.wav import AudioError, WavSource, read_wav, wav_folder
from fastssl.data.windows import Window, Windows

__all__ = [
    "AnnotatedFiles",
    "ArraySource",
    "AudioError",
    "Batch",
    "CacheError",
    "CaptionError",
    "ConcatSource",
    "Corpus",
    "CorpusError",
    "DatasetSource",
    "Detections",
    "FileSource",
    "FrameSource",
    "HubSource",
    "ImageError",
    "IndexSplits",
    "Item",
    "Loader",
    "Objects",
    "PackedError",
    "PackedImages",
    "ParallelCorpus",
    "Questions",
    "Scenes",
    "ShardError",
    "ShardSource",
    "Signals",
    "Source",
    "Splits",
    "Stereograms",
    "Subset",
    "Tagged",
    "TokenBatch",
    "TokenError",
    "TokenFile",
    "Tokenizer",
    "WavSource",
    "Window",
    "Windows",
    "capitals",
    "coco",
    "digits",
    "divide",
    "emoji",
    "folder",
    "frames",
    "glosses",
    "glue",
    "inverse_mu_law",
    "load_tokenizer",
    "mu_law",
    "objects_of",
    "open",
    "open_questions",
    "open_splits",
    "open_tagged",
    "pack",
    "pack_source",
    "prefetch_items",
    "read_conll",
    "read_image",
    "read_squad",
    "read_wav",
    "scenes",
    "sentences",
    "sotu",
    "spoken_digits",
    "stereograms",
    "table",
    "text8",
    "text_corpus",
    "text_pairs",
    "text_table",
    "tokenize_corpus",
    "tones",
    "train_tokenizer",
    "verses",
    "voc",
    "wav_folder",
    "wikitext",
    "write_shards",
]
