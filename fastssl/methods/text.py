"""Base class of language methods: a tokenizer, a network, and a head on the rows that count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

import fastssl.functional as F
from fastssl.data.batch import TokenBatch
from fastssl.data.corruption import IGNORED, Draws
from fastssl.data.source import Item, Source
from fastssl.data.tokenizer import FILE, Tokenizer
from fastssl.data.tokens import TokenFile
from fastssl.data.windows import Windows
from fastssl.distributed.shards import unsharded
from fastssl.functional._precision import multiplied
from fastssl.methods.base import Method
from fastssl.models.language import LanguageModel


class TextMethod(Method):
    """Base class of language methods: examples are made of windows of tokens.

    Args:
        network: the network kept after pretraining.
        tokenizer: the tokenizer of its tokens.
    """

    needs: ClassVar[tuple[str, ...]] = ("tokens",)
    unit: ClassVar[str] = "tokens"
    data = "sotu"
    networks: ClassVar[tuple[str, ...]] = ()  # architectures that fit; the first is the command line's default
    tokenizer_kind: ClassVar[str] = "bpe"  # default of the command line
    whole: ClassVar[str] = "sentences"  # what the windows consist of (:class:`fastssl.data.Windows`)
    special: ClassVar[int] = 1  # special tokens that an example adds to a window
    dropout: ClassVar[float] = 0.0  # of the network, by default
    sentinels: ClassVar[bool] = False  # whether its examples have sentinels (:attr:`Tokenizer.sentinels`)
    separable = True

    def __init__(self, network: LanguageModel, tokenizer: Tokenizer) -> None:
        super().__init__()
        name = type(self).__name__
        if not isinstance(network, LanguageModel):
            raise TypeError(f"network: expected one of fastssl.models.build_language, got {type(network).__name__}")
        if not isinstance(tokenizer, Tokenizer):
            raise TypeError(f"tokenizer: expected a fastssl.data.Tokenizer, got {type(tokenizer).__name__}")
        if network.kind not in self.networks:
            raise ValueError(f"network: {name} expects one of {', '.join(self.networks)}, got {network.kind!r}")
        least = self.vocabulary(tokenizer)
        if network.vocabulary < least:
            raise ValueError(
                f"network: expected a vocabulary of at least {least}, that of the tokenizer, got {network.vocabulary}"
            )
        if network.length <= self.special:
            raise ValueError(f"length: expected more than {self.special} tokens, got {network.length}")
        self.network, self.tokenizer = network, tokenizer

    @classmethod
    def vocabulary(cls, tokenizer: Tokenizer) -> int:
        """How many tokens a network has to know: those of the tokenizer, and the sentinels of the examples."""
        return max(tokenizer.size, int(tokenizer.sentinels.max()) + 1 if cls.sentinels else 0)

    @property
    def length(self) -> int:
        """Tokens of a window."""
        return self.network.length - self.special

    @property
    def per_item(self) -> int:
        return self.network.length

    def prepare(self, source: Source, span: tuple[int, int] | None = None) -> Windows:
        """The windows of a token file that the method trains on.

        Raises:
            TypeError: another source.
            ValueError: tokens of another tokenizer, or windows longer than the network takes.
        """
        file = source.file if isinstance(source, Windows) else source
        if not isinstance(file, TokenFile):
            raise TypeError(
                f"data: expected a token file (fastssl.data.tokenize_corpus, fastssl tokenize), got {source!r}"
            )
        if file.tokenizer.fingerprint != self.tokenizer.fingerprint:
            raise ValueError(f"tokenizer: {file.path} was written with another one ({file.tokenizer!r})")
        if not isinstance(source, Windows):
            return Windows(file, self.length, span, self.whole)
        if source.whole != self.whole or source.length > self.length:
            raise ValueError(
                f"data: expected windows of {self.whole} of at most {self.length} tokens, got {source.whole} of "
                f"{source.length}"
            )
        return source

    def check_documents(self, count: int, name: str) -> None:
        """Checks that a corpus of ``count`` documents has as many as an example is made of.

        Raises:
            ValueError: it has fewer.
        """

    def examples(self, items: Sequence[Item], seed: int, epoch: int = 0, ids: np.ndarray | None = None) -> TokenBatch:
        ids = np.arange(len(items)) if ids is None else np.asarray(ids, dtype=np.int64)
        made = self.make([item.tokens for item in items], Draws(seed, epoch, ids))
        return made._replace(ids=torch.from_numpy(ids))

    def make(self, windows: Sequence[Any], draws: Draws) -> TokenBatch:
        """The examples of windows (:class:`fastssl.data.Window`), without ids."""
        raise NotImplementedError

    def inputs(self, batch: TokenBatch) -> list[Tensor]:
        return [batch.tokens, batch.targets]

    def terms(self, batch: TokenBatch) -> int | tuple[int, ...]:
        return int((batch.targets != IGNORED).sum())

    def hidden(self, batch: TokenBatch) -> Tensor:
        """Hidden states [B, U, D] from which ``targets`` [B, U] are predicted."""
        raise NotImplementedError

    def rows(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """What the head takes of the positions that count, [N, D], and their targets [N]."""
        counted = targets != IGNORED
        return self.network.transform(hidden[counted]), targets[counted]

    def head(self) -> tuple[Tensor, Tensor | None]:
        """Weight [V, D] and bias [V] of the head."""
        return self.network.head()

    def entropy(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of the positions that count, which alone reach the head; 0 if there are none."""
        rows, wanted = self.rows(hidden, targets)
        weight, bias = self.head()
        rows, weight = multiplied(rows, weight)
        with unsharded():  # the trainer weights the means of all processes by their terms
            return F.linear_cross_entropy(rows, weight, wanted, bias)

    def forward(self, batch: TokenBatch) -> Tensor:
        return self.entropy(self.hidden(batch), batch.targets)

    @torch.no_grad()
    def pretext_metrics(self, batch: TokenBatch) -> dict[str, float]:
        """Accuracy of the predicted tokens, and that of a uniform guess, in percent."""
        rows, wanted = self.rows(self.hidden(batch), batch.targets)
        weight, bias = self.head()
        scores = rows @ weight.T if bias is None else rows @ weight.T + bias
        right = (scores.argmax(1) == wanted).float().mean() if len(wanted) else torch.zeros(())
        return {"accuracy": 100 * float(right), "chance": 100 / self.tokenizer.size}

    def assets(self) -> dict[str, str]:
        return {FILE: self.tokenizer.to_json()}
