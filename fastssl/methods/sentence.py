"""Base class of methods that embed sentences: two texts per item, and a loss that compares their embeddings."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

import fastssl.functional as F
from fastssl._options import integer
from fastssl.data.batch import TokenBatch
from fastssl.data.corruption import Draws, Ragged
from fastssl.data.tokenizer import Tokenizer
from fastssl.methods.base import Method
from fastssl.methods.text import TextMethod
from fastssl.models.architectures import MASKED
from fastssl.models.language import LanguageModel


class SentenceMethod(TextMethod):
    """Base class of sentence encoders: the mean of a network's states over the tokens, and InfoNCE between two texts.

    Args:
        network: "bert", "roberta", "xlm-roberta", "mpnet", "modernbert", "distilbert", "deberta-v2" or a
            "transformer" that is not causal, of :func:`fastssl.models.build_language`.
        tokenizer: the tokenizer of its tokens.
        temperature: temperature of the loss.
        outputs: dimensions of the embeddings that the loss compares.
        backend: backend of the loss, as for :mod:`fastssl.functional`.
    """

    networks: ClassVar[tuple[str, ...]] = ("bert", "transformer", *MASKED)
    tokenizer_kind: ClassVar[str] = "wordpiece"
    whole: ClassVar[str] = "sentence"
    special: ClassVar[int] = 2
    min_rows: ClassVar[int] = 2
    separable = False
    heads: ClassVar[int] = 1  # 2: one for each of the two texts

    def __init__(
        self,
        network: LanguageModel,
        tokenizer: Tokenizer,
        *,
        temperature: float = 0.05,
        outputs: int = 128,
        backend: str | None = None,
    ) -> None:
        super().__init__(network, tokenizer)
        if not network.bidirectional:
            raise ValueError(f"network: {type(self).__name__} expects a transformer with causal=False")
        if self.dropout and not network.options["dropout"]:
            raise ValueError(
                f"network: {type(self).__name__} compares two dropout masks, and expects dropout > 0, got 0"
            )
        outputs = integer("outputs", outputs, 1)
        self.temperature, self.backend = temperature, backend
        self.projections = nn.ModuleList(nn.Linear(network.dim, outputs) for _ in range(self.heads))
        self.has_unused_parameters = True  # heads of the network that predict tokens

    def sentences(self, texts: Sequence[np.ndarray]) -> Tensor:
        """[CLS] text [SEP] of ids, padded: int64 [B, T]."""
        t = self.tokenizer
        rows = Ragged.of([np.concatenate([[t.cls], ids, [t.sep]]) for ids in texts])
        return torch.from_numpy(rows.padded(self.network.length, t.pad))

    def pair(self, window: Any) -> tuple[np.ndarray, np.ndarray]:
        """The two texts of a window, as ids."""
        raise NotImplementedError

    def make(self, windows: Sequence[Any], draws: Draws) -> TokenBatch:
        """Two texts per row: ``tokens`` and ``targets``, [B, T] each."""
        first, second = zip(*(self.pair(window) for window in windows))
        return TokenBatch(self.sentences(first), self.sentences(second))

    def embed(self, tokens: Tensor) -> Tensor:
        """The mean of the network's states over the tokens: [B, D]."""
        keep = tokens != self.tokenizer.pad
        longest = max(1, int(keep.sum(1).max())) if len(tokens) else 1  # without common padding
        tokens, keep = tokens[:, :longest], keep[:, :longest]
        states = self.network.states(tokens, keep, torch.zeros_like(tokens))
        weights = keep.to(states.dtype)[:, :, None]
        return (states * weights).sum(1) / weights.sum(1)

    def represent(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Embeddings of both texts, [B, outputs] each."""
        return tuple(head(self.embed(tokens)) for head, tokens in zip(itertools.cycle(self.projections), inputs))

    def objective(self, *representations: Tensor, labels: Tensor | None = None) -> Tensor:
        first, second = representations
        return F.info_nce(first, second, temperature=self.temperature, symmetric=True, backend=self.backend)

    def forward(self, batch: TokenBatch) -> Tensor:
        return Method.forward(self, batch)

    def terms(self, batch: TokenBatch) -> int:
        return Method.terms(self, batch)  # type: ignore[return-value]

    @torch.no_grad()
    def pretext_metrics(self, batch: TokenBatch) -> dict[str, float]:
        """How often the right second text of a batch is nearest, and a uniform guess, in percent."""
        first, second = (nn.functional.normalize(rows, dim=1) for rows in self.represent(*self.inputs(batch)))
        nearest = (first @ second.T).argmax(1)
        right = nearest == torch.arange(len(first), device=first.device)
        return {"accuracy": 100 * float(right.float().mean()), "chance": 100 / max(1, len(first))}
