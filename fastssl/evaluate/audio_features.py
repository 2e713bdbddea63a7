"""Features of waveforms, and ``embed_audio``, which writes them to a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastssl.data import Item
from fastssl.data import open as open_source
from fastssl.evaluate.feature_files import about_features, check_format, encoder_digest, write_features
from fastssl.methods import AudioMethod
from fastssl.models.modes import evaluation_mode


def audio_features(
    method: AudioMethod, items: Iterable[Item], total: int, progress: Callable[[int, int], None] | None = None
) -> Iterator[Tensor]:
    """The features [D] of each of ``total`` signals, float32 on the CPU.

    Raises:
        ValueError: a signal that the method cannot process.
    """
    with evaluation_mode(method), torch.no_grad():
        for done, item in enumerate(items, 1):
            method.check(item)
            yield method.features(item.signal).float().cpu()  # type: ignore[arg-type]
            if progress is not None:
                progress(done, total)


def embed_audio(
    method: AudioMethod,
    data: Any,
    out: str | Path,
    *,
    part: str = "train",
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Writes the features [N, D] of signals, each as a whole, with names and labels.

    Args:
        method: a method of waveforms, on its current device.
        data: signals, or what :func:`fastssl.data.open` takes for them.
        out: file with suffix ``.npz``, ``.safetensors`` or ``.parquet`` (extra: datasets).
        part: split, "train" or "test", of data that has both.
        progress: called with the number of finished signals and the total.

    Returns:
        The number of rows.

    Raises:
        ValueError: unknown suffix, or a signal that the method cannot process.

    Example:
        >>> import tempfile
        >>> from fastssl.data import tones
        >>> from fastssl.evaluate import embed_audio, read_features
        >>> from fastssl.methods import CPCSignal
        >>> from fastssl.models import SignalEncoder
        >>> out = tempfile.mkdtemp() + "/features.npz"
        >>> embed_audio(CPCSignal(SignalEncoder(8)), tones(4), out)
        4
        >>> read_features(out).features.shape
        torch.Size([4, 8])
    """
    out = Path(out)
    check_format(out)
    source = method.prepare(open_source(data, part=part))
    items = (source.read(index) for index in range(len(source)))
    blocks = (features.numpy()[None] for features in audio_features(method, items, len(source), progress))
    names = [source.name_of(index) for index in range(len(source))]
    about = about_features(source, part, encoder_digest(method.network))
    labels = None if source.labels is None else np.asarray(source.labels)
    write_features(out, blocks, len(source), method.network.dim, names, labels, about)
    return len(source)
