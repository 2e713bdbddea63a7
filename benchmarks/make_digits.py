"""Makes the embedded spoken digits with espeak-ng, a formant synthesiser (Debian: apt install espeak-ng).

python benchmarks/make_digits.py fastssl/data/audio/spoken_digits.xz
"""

from __future__ import annotations

import argparse
import json
import lzma
import subprocess
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
from scipy.signal import resample_poly

from fastssl.data.signals import mu_law
from fastssl.data.wav import read_wav

RATE = 8000
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
VOICES = (
    *("Alex", "Alicia", "Andrea", "Andy", "Annie", "Denis", "Diogo", "Gene", "Hugo", "Jacky", "Lee", "Marco", "Mario"),
    *("Michael", "Mike", "adam", "anika", "antonio", "belinda", "benjamin", "boris", "caleb", "david", "ed", "edward"),
    *("f1", "f2", "f3", "f4", "f5", "grandma", "grandpa", "m1", "m2", "m3", "m4", "m7", "max", "paul", "steph"),
)
ACCENTS = ("en-us", "en-gb-scotland", "en-gb-x-rp")  # those on which the voices have an effect
QUIET = 0.01  # of the peak: trimmed at both ends


def spoken(word: str, voice: str, accent: str, speed: int, folder: Path) -> np.ndarray:
    """A word at RATE, trimmed, with a peak of 0.9."""
    path = folder / "word.wav"
    subprocess.run(["espeak-ng", "-v", f"{accent}+{voice}", "-s", str(speed), "-w", str(path), word], check=True)
    signal, rate = read_wav(path)
    ratio = Fraction(RATE, rate)
    signal = resample_poly(signal, ratio.numerator, ratio.denominator)
    loud = np.flatnonzero(np.abs(signal) > QUIET * np.abs(signal).max())
    signal = signal[loud[0] : loud[-1] + 1]
    return (0.9 * signal / np.abs(signal).max()).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    codes, labels, voices = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for k, voice in enumerate(VOICES):
            for digit, word in enumerate(WORDS):
                signal = spoken(word, voice, ACCENTS[k % len(ACCENTS)], 150 + 10 * (k % 4), Path(folder))
                codes.append(mu_law(signal))
                labels.append(digit)
                voices.append(k)
    if len({c.tobytes() for c in codes}) < len(codes):
        raise ValueError("VOICES, ACCENTS: some of them are the same")
    header = {"rate": RATE, "lengths": [len(c) for c in codes], "labels": labels, "voices": voices, "names": VOICES}
    content = json.dumps(header).encode() + b"\n" + np.concatenate(codes).astype(np.uint8).tobytes()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))
    print(f"{len(codes)} words, {sum(header['lengths']) / RATE:.0f} s, {out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
