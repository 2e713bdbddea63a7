"""Bidirectional language model: each token is predicted from those before it, and from those behind it.

Peters et al., Deep contextualized word representations (ELMo), 2018. As there, both directions share the embeddings and
the softmax. Deviations: pieces of words instead of characters, embeddings tied with the softmax, no residual connection
between the layers and no projections of their states.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastssl.data.batch import TokenBatch
from fastssl.data.corruption import IGNORED, Draws, Ragged
from fastssl.methods.text import TextMethod


class BiLM(TextMethod):
    """[CLS] text [SEP] + an LSTM in each direction + cross-entropy of the next and of the previous token.

    .. math:: -\\frac{1}{2 (n - 1)} \\Big( \\sum_{t=2}^n \\log \\overrightarrow{p}(x_t \\mid x_1, \\ldots, x_{t-1})
              + \\sum_{t=1}^{n-1} \\log \\overleftarrow{p}(x_t \\mid x_{t+1}, \\ldots, x_n) \\Big)

    Args:
        network: "lstm" of :func:`fastssl.models.build_language`, kept after pretraining.
        tokenizer: the tokenizer of its tokens.
    """

    family = "autoregression"
    paper = "Peters et al. 2018"
    predicts = "the next and the previous token"
    loss = "cross-entropy"
    networks = ("lstm",)
    tokenizer_kind = "wordpiece"
    special = 2

    def make(self, windows: Sequence[Any], draws: Draws) -> TokenBatch:
        """[CLS] text [SEP], [B, T], and targets [B, 2 T]: the next token of each, then the previous one."""
        t, width = self.tokenizer, self.network.length
        text = Ragged.of([np.concatenate([[t.cls], window.ids, [t.sep]]) for window in windows])
        known = text.padded(width, IGNORED)
        targets = np.full((len(known), 2 * width), IGNORED, dtype=np.int64)
        targets[:, : width - 1] = known[:, 1:]
        targets[:, width + 1 :] = np.where(known[:, 1:] == IGNORED, IGNORED, known[:, :-1])
        tokens = np.where(known == IGNORED, t.pad, known)
        return TokenBatch(torch.from_numpy(tokens), torch.from_numpy(targets))

    def hidden(self, batch: TokenBatch) -> Tensor:
        return torch.cat(self.network.hidden(batch.tokens, batch.tokens != self.tokenizer.pad).chunk(2, 2), 1)
