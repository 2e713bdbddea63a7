"""WAV files of all sample formats against the standard library and by hand; folders of them; what cannot be read."""

from __future__ import annotations

import pickle
import re
import struct
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastssl.data
from fastssl.data import AudioError, open_splits, read_wav, spoken_digits, wav_folder
from fastssl.data.summary import summary
from fastssl.methods import WaveNet
from fastssl.models import Samples, build_audio
from fastssl.train import Pretraining, pretrain


def content(code: int, bits: int, samples: bytes, channels: int = 1, rate: int = 8000, extra: bytes = b"") -> bytes:
    """A WAV file written by hand."""
    frame = channels * bits // 8
    form = struct.pack("<HHIIHH", code, channels, rate, rate * frame, frame, bits) + extra
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + b"LIST" + struct.pack("<I", 3) + b"abc\0"
    chunks += b"data" + struct.pack("<I", len(samples)) + samples
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


SIGNAL = np.array([0.0, 0.5, -0.5, 0.25, -1.0, 0.9921875])
EXTENSIBLE = struct.pack("<HHI", 22, 16, 4) + struct.pack("<H", 1) + bytes(14)


@pytest.mark.parametrize(
    ("code", "bits", "samples", "extra"),
    [
        (1, 8, (SIGNAL * 128 + 128).astype("u1").tobytes(), b""),
        (1, 16, (SIGNAL * 2**15).astype("<i2").tobytes(), b""),
        (1, 24, b"".join(int(v * 2**23).to_bytes(3, "little", signed=True) for v in SIGNAL), b""),
        (1, 32, (SIGNAL * 2**31).astype("<i4").tobytes(), b""),
        (3, 32, SIGNAL.astype("<f4").tobytes(), b""),
        (3, 64, SIGNAL.astype("<f8").tobytes(), b""),
        (0xFFFE, 16, (SIGNAL * 2**15).astype("<i2").tobytes(), EXTENSIBLE),
    ],
)
def test_all_formats_give_the_same_samples(code: int, bits: int, samples: bytes, extra: bytes) -> None:
    found, rate = read_wav(content(code, bits, samples, extra=extra))
    assert rate == 8000 and found.dtype == np.float32
    np.testing.assert_array_equal(found, SIGNAL.astype(np.float32))


def test_channels_are_averaged_and_the_standard_library_agrees(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(-(2**15), 2**15, (50, 2)).astype("<i2")
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(2), file.setsampwidth(2), file.setframerate(44_100)
        file.writeframes(values.tobytes())
    found, rate = read_wav(tmp_path / "a.wav")
    np.testing.assert_allclose(found, values.mean(1) / 2**15, atol=1e-7)
    assert rate == 44_100
    made = np.linspace(-1, 1, 100)
    (path,) = Samples("audio", made[None], 8000).save(tmp_path / "b")
    np.testing.assert_allclose(read_wav(path)[0], made, atol=1e-4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (b"", "x.wav: expected a WAV file .*got 0 bytes"),
        (b"fLaC" + bytes(40), "x.wav: expected a WAV file"),
        (content(1, 16, b""), "x.wav: expected samples, it has none"),
        (content(1, 16, b"ab" * 9)[:-4], "x.wav: truncated, expected 18 bytes of samples, got 14"),
        (content(1, 12, b"ab" * 9), "x.wav: expected PCM of 8, 16, 24 or 32 bits .*format 1 with 12 bits"),
        (content(7, 8, b"ab" * 9), "x.wav: expected PCM .*got format 7 with 8 bits"),
        (content(3, 32, struct.pack("<f", float("nan")) * 3), "x.wav: expected finite samples"),
        (content(1, 16, b"ab" * 9)[:30], "x.wav: a WAV file without a format or without samples"),
    ],
)
def test_what_cannot_be_read_is_named(given: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(given)
    with pytest.raises(AudioError, match=message):
        read_wav(tmp_path / "x.wav")


def test_samples_of_a_pipe_end_with_the_file(tmp_path: Path) -> None:
    streamed = content(1, 16, b"ab" * 9).replace(
        struct.pack("<4sI", b"data", 18), struct.pack("<4sI", b"data", 2**32 - 1)
    )
    (tmp_path / "x.wav").write_bytes(streamed)
    np.testing.assert_array_equal(read_wav(tmp_path / "x.wav")[0], np.full(9, struct.unpack("<h", b"ab")[0] / 2**15))


def _folder(root: Path, classes: tuple[str, ...] = ("no", "yes"), rate: int = 8000) -> Path:
    rng = np.random.default_rng(1)
    for name in classes:
        Samples("audio", rng.uniform(-0.5, 0.5, (4, 90)), rate).save(root / name / "take")
    return root


def test_folders_are_sources(tmp_path: Path) -> None:
    source = fastssl.data.open(_folder(tmp_path / "words"))
    assert len(source) == 8 and list(source.classes) == ["no", "yes"] and source.labels is not None
    item = pickle.loads(pickle.dumps(source)).read(5)
    assert item.label == 1 and item.rate == 8000 and item.signal is not None and item.signal.shape == (90,)
    assert item.name == "yes/take-2.wav" and source.fingerprint != source.subset(range(7)).fingerprint
    flat = fastssl.data.open(tmp_path / "words" / "no")
    assert len(flat) == 4 and flat.labels is None
    assert len(fastssl.data.open(tmp_path / "words" / "no" / "take-1.wav")) == 1
    for part in ("train", "test"):
        _folder(tmp_path / "parts" / part)
    task = open_splits(tmp_path / "parts")
    assert (len(task.train), len(task.test)) == (8, 8)
    (tmp_path / "words" / "a.wav").write_bytes(b"x")
    with pytest.raises(ValueError, match="WAV files in .* or in a sub-folder per class, got both"):
        fastssl.data.open(tmp_path / "words")


def test_a_run_on_a_folder_names_other_rates_and_skips_what_cannot_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = _folder(tmp_path / "words")
    method: Any = WaveNet(build_audio({"name": "wavenet", "width": 4, "skip": 4, "depth": 2}), window=32)
    (root / "yes" / "take-4.wav").write_bytes(b"RIFF")
    options = Pretraining(epochs=1, batch_size=4, on_error="skip")
    with pytest.raises(AudioError, match=r"take-4.wav: expected a WAV file"):
        pretrain(method, root, Pretraining(epochs=1, batch_size=4), out=tmp_path / "raise")
    pretrain(method, root, options, out=tmp_path / "skip")
    assert method.rate == 8000
    Samples("audio", np.zeros((1, 90)), 16_000).save(root / "yes" / "take-4")
    for k, (samples, rate, message) in enumerate(
        (
            (np.zeros(90), 16_000, r"rate: expected 8000 samples per second, yes/take-4.wav has 16000"),
            (np.zeros(1), 8000, "signal: expected at least 2 samples, yes/take-4.wav has 1"),
            (np.full(90, 1.5), 8000, r"signal: expected samples in \[-1, 1\], yes/take-4.wav has one of magnitude 1.5"),
        )
    ):
        (root / "yes" / "take-4.wav").write_bytes(content(3, 32, samples.astype("<f4").tobytes(), rate=rate))
        with pytest.raises(AudioError, match=message):
            pretrain(method, root, Pretraining(epochs=1, batch_size=4), out=tmp_path / f"raise {k}")
        caplog.clear()
        pretrain(method, root, options, out=tmp_path / f"skip {k}")
        assert re.search(f"skipped: {message}", caplog.text)


def test_the_summary_counts_rates(tmp_path: Path) -> None:
    root = _folder(tmp_path / "words")
    assert list(summary(fastssl.data.open(root)))[-1] == "samples per second: 8000 (8 items)"
    Samples("audio", np.zeros((1, 90)), 16_000).save(root / "yes" / "more")
    lines = list(summary(fastssl.data.open(root)))
    assert lines[-2] == "samples per second: 8000 (8 items), 16000 (1 item)" and "--set rate=NUMBER" in lines[-1]


def test_the_spoken_digits_are_split_by_voices() -> None:
    train, test = spoken_digits("train"), spoken_digits("test")
    assert (len(train), len(test)) == (320, 80) and np.bincount(test.labels).tolist() == [8] * 10
    assert max(np.abs(signal).max() for signal in train.signals) < 0.92
    assert 1000 < np.mean([len(signal) for signal in test.signals]) < 6000
    found = {signal.tobytes() for signal in train.signals}
    assert not any(signal.tobytes() in found for signal in test.signals)
    assert open_splits("spoken-digits").test.fingerprint == test.fingerprint
    with pytest.raises(ValueError, match="split: expected 'all', 'train' or 'test', got 'val'"):
        spoken_digits("val")


def test_folders_of_a_class_may_have_folders(tmp_path: Path) -> None:
    for name in ("a/0", "b/deep/1", "b/deep/deeper/2"):
        Samples("audio", np.zeros((1, 80)), 8000).save(tmp_path / name)
    (tmp_path / "b" / "deep" / "notes.txt").write_text("x")
    found = wav_folder(tmp_path)
    assert found is not None and found.classes == ["a", "b"] and found.labels.tolist() == [0, 1, 1]
    assert sorted(found.paths) == ["a/0.wav", "b/deep/1.wav", "b/deep/deeper/2.wav"]
    assert found.skipped == {"no WAV file": 1} and found.read(2).signal.shape == (80,)
