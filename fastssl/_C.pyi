"""The compiled extension (csrc/bindings)."""

from pathlib import Path

import numpy as np
import torch

def usable_isas() -> list[str]: ...
def multiplies_bf16() -> bool: ...
def isa() -> str: ...
def select_isa(name: str) -> None: ...
def float_modes(threads: int) -> list[bool]: ...
def set_float_modes(flushes: list[bool]) -> None: ...
def take_raised() -> BaseException | None: ...

class Launches:
    def __init__(self, bases: int) -> None: ...
    def add(
        self,
        function: int,
        grid: tuple[int, int, int],
        threads: int,
        shared: int,
        parameters: list[int],
        pointers: list[tuple[int, int, int]],
    ) -> None: ...
    def __call__(self, bases: list[int], stream: int, device: int) -> None: ...

def assume_crowded(seconds: float) -> None: ...
def fma_rate(threads: int, seconds: float = ...) -> float: ...
def set_pool_limit(bytes: int) -> None: ...
def pool_bytes() -> int: ...
def augment_sample(
    program: np.ndarray, sizes: np.ndarray, seed: int, epoch: int, ids: np.ndarray, view: int
) -> np.ndarray: ...
def augment_apply(
    program: np.ndarray,
    images: list[np.ndarray],
    planar: bool,
    params: np.ndarray,
    dtype: str,
    channels_last: bool,
    mean: list[float],
    std: list[float],
    height: int,
    width: int,
    serial: bool,
    out: np.ndarray | None = None,
) -> np.ndarray: ...
def augment_tasks(
    program: np.ndarray, layout: np.ndarray, params: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, int, int]: ...
def uniform(seed: int, epoch: int, ids: np.ndarray, view: int, block: int, count: int) -> np.ndarray: ...
def draw_kept(generator: torch.Generator, probability: float, kept: int, count: int) -> None: ...
def noise_spans(
    seed: int,
    epoch: int,
    ids: np.ndarray,
    view: int,
    block: int,
    other: int,
    lengths: np.ndarray,
    noise: np.ndarray,
    spans: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]: ...
def cut_spans(
    values: np.ndarray, offsets: np.ndarray, starts: np.ndarray, lengths: np.ndarray, first: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]: ...
def new_bytes(bytes: int) -> np.ndarray: ...
def read_file(path: str | Path, limit: int) -> bytes | None: ...

class WaveSampler:
    def __init__(
        self,
        embed: np.ndarray,
        gates: np.ndarray,
        gate_biases: np.ndarray,
        outs: np.ndarray,
        out_biases: np.ndarray,
        middle: np.ndarray,
        middle_bias: np.ndarray,
        last: np.ndarray,
        last_bias: np.ndarray,
        dilations: list[int],
        rows: int,
    ) -> None: ...
    def run(
        self, codes: np.ndarray, given: int, temperature: float, seed: int, logits: np.ndarray | None = None
    ) -> None: ...
    @property
    def position(self) -> int: ...

class GruSampler:
    def __init__(
        self,
        recurrent: np.ndarray,
        recurrent_bias: np.ndarray,
        inputs: np.ndarray,
        inputs_bias: np.ndarray,
        middles: np.ndarray,
        middle_biases: np.ndarray,
        lasts: np.ndarray,
        last_biases: np.ndarray,
        rows: int,
    ) -> None: ...
    def run(
        self, codes: np.ndarray, given: int, temperature: float, seed: int, logits: np.ndarray | None = None
    ) -> None: ...
    @property
    def position(self) -> int: ...

class WordCounter:
    def add_text(self, text: str, letters: bytes) -> np.ndarray: ...
    def add_words(self, words: list[str]) -> np.ndarray: ...
    def words(self) -> list[str]: ...
    def counts(self) -> np.ndarray: ...

class Words:
    def __init__(
        self,
        ids: np.ndarray,
        keep: np.ndarray,
        counts: np.ndarray,
        power: float,
        tree: bool,
        window: int,
        negatives: int,
        cbow: bool,
        shared: bool,
        seed: int,
    ) -> None: ...
    def set_tables(
        self,
        inputs: np.ndarray,
        outputs: np.ndarray,
        epochs: int,
        rate: float,
        least_rate: float,
        reproducible: bool,
        segment_positions: int,
    ) -> None: ...
    def train(self, epoch: int, begin: int, steps: int) -> tuple[int, float, int]: ...
    def windows(self, epoch: int, begin: int, end: int) -> tuple[np.ndarray, ...]: ...
