"""BERT: masked tokens are predicted from both sides, and whether two texts belong together.

Devlin et al., BERT: Pre-training of Deep Bidirectional Transformers, 2019. ``order="swapped"`` is ALBERT's sentence
order (Lan et al. 2020), ``order=None`` RoBERTa's training on whole sentences of one document (Liu et al. 2019); masks
are drawn anew in every epoch, as there. Deviation: each token is masked independently, so that their number varies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as TF
from torch import Tensor

from fastssl.data.batch import TokenBatch
from fastssl.data.corruption import Draws, Ragged, mask
from fastssl.data.source import Source
from fastssl.data.tokenizer import Tokenizer
from fastssl.data.windows import Windows, passage
from fastssl.methods.text import TextMethod
from fastssl.models.architectures import MASKED
from fastssl.models.language import LanguageModel

ORDERS = ("next", "swapped", None)


class BERT(TextMethod):
    """Two texts with masked tokens + transformer + cross-entropy of the masked tokens and of the order.

    Args:
        network: "bert" or a "transformer" that is not causal, of :func:`fastssl.models.build_language`; without order
            also "roberta", "xlm-roberta", "mpnet", "modernbert", "distilbert" or "deberta-v2".
        tokenizer: the tokenizer of its tokens.
        share: share of the tokens that are predicted; 0.15 in the paper.
        whole_words: mask all pieces of a word, or none.
        order: "next": half of the second texts follow the first, the others are of another document; "swapped": half of
            them stand before it; None: one text, masked tokens alone.
    """

    family = "masked tokens"
    paper = "Devlin et al. 2019"
    predicts = "masked tokens, and whether a text follows another"
    loss = "cross-entropy on the masked, and of two classes"
    networks = ("bert", "transformer", *MASKED)
    tokenizer_kind = "wordpiece"
    special = 3

    def __init__(
        self,
        network: LanguageModel,
        tokenizer: Tokenizer,
        *,
        share: float = 0.15,
        whole_words: bool = False,
        order: str | None = "next",
    ) -> None:
        super().__init__(network, tokenizer)
        if not 0 < share < 1:
            raise ValueError(f"share: expected a share in (0, 1), got {share}")
        if order not in ORDERS:
            raise ValueError(f"order: expected 'next', 'swapped' or None, got {order!r}")
        if network.kind in MASKED and order is not None:
            raise ValueError(f"order: expected None (--order none), {network.kind!r} has no head on it, got {order!r}")
        if network.kind == "transformer" and network.options.get("causal", True):
            raise ValueError("network: BERT expects a transformer with causal=False")
        self.share, self.order = share, order
        self.continues = tokenizer.continues() if whole_words else None
        self.has_unused_parameters = order is None and network.kind not in MASKED

    def prepare(self, source: Source, span: tuple[int, int] | None = None) -> Windows:
        windows = super().prepare(source, span)
        self.check_documents(len(np.unique(windows.documents)), windows.name)
        return windows

    def check_documents(self, count: int, name: str) -> None:
        if self.order == "next" and count == 1:
            raise ValueError(f"order: 'next' needs several documents, {name} has one; 'swapped' does not")

    def _texts(self, window: Any, cut: float, other: float, swap: bool) -> tuple[np.ndarray, np.ndarray, int]:
        """Two texts, and 0 if the second follows the first."""
        ids, starts = window.ids, window.sentences[1:]
        if self.order is None:
            return ids, ids[:0], 0
        place = int(starts[int(cut * len(starts))]) if len(starts) else len(ids) // 2
        first, second = ids[:place], ids[place:]
        if not swap:
            return first, second, 0
        if self.order == "swapped":
            return second, first, 1
        strange: Windows = window.source
        found = strange.elsewhere(window.place, other)
        assert found is not None
        return first, passage(strange.read(found).tokens, len(second), self.length - len(first)), 1

    def make(self, windows: Sequence[Any], draws: Draws) -> TokenBatch:
        """[CLS] first [SEP] second [SEP], masked; targets, segments and whether the second text follows (0) or not."""
        t, drawn = self.tokenizer, draws(7, 4)
        pairs = [self._texts(window, u[0], u[1], bool(u[2] < 0.5)) for window, u in zip(windows, drawn)]
        ends = ([t.sep], [t.sep] if self.order is not None else [])
        text = Ragged.of([np.concatenate([[t.cls], a, ends[0], b, ends[1]]) for a, b, _ in pairs])
        column, width = text.columns, self.network.length
        second = column > np.repeat([len(a) + 1 for a, _, _ in pairs], text.lengths)
        special = (text.values == t.cls) | (text.values == t.sep)
        inputs, targets = mask(text, draws, t, self.share, frozen=special, continues=self.continues)
        parts = (inputs, t.pad), (targets, -100), (second.astype(np.int64), 0)
        tokens, wanted, segments = (
            torch.from_numpy(Ragged(values, text.offsets).padded(width, fill)) for values, fill in parts
        )
        labels = None if self.order is None else torch.tensor([label for _, _, label in pairs])
        return TokenBatch(tokens, wanted, segments, labels)

    def hidden(self, batch: TokenBatch) -> Tensor:
        return self.network.hidden(batch.tokens, batch.tokens != self.tokenizer.pad, batch.segments)

    def terms(self, batch: TokenBatch) -> int | tuple[int, ...]:
        masked = super().terms(batch)
        return masked if batch.labels is None else (masked, len(batch.labels))  # type: ignore[return-value]

    def means(self, batch: TokenBatch) -> tuple[Tensor, ...]:
        hidden = self.hidden(batch)
        masked = self.entropy(hidden, batch.targets)
        return (
            (masked,) if batch.labels is None else (masked, TF.cross_entropy(self.network.order(hidden), batch.labels))
        )

    def forward(self, batch: TokenBatch) -> Tensor:
        return torch.stack(self.means(batch)).sum()
