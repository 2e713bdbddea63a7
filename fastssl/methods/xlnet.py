"""XLNet: tokens are predicted one after the other, in random order, from what is known on both sides.

Yang et al., XLNet: Generalized Autoregressive Pretraining for Language Understanding, 2019. As there, a sixth of the
tokens is predicted, in spans of one to five, and a second stream of states knows the position that it predicts, not its
token. Deviations: [CLS] stands in front, and there is neither a second text nor a memory of earlier segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastssl.data.batch import TokenBatch
from fastssl.data.corruption import IGNORED, Draws, Ragged, permuted_spans
from fastssl.data.tokenizer import Tokenizer
from fastssl.methods.text import TextMethod
from fastssl.models.language import LanguageModel

EVERY, LONGEST = 6, 5  # tokens per predicted one; tokens of a span


class XLNet(TextMethod):
    """A text + two-stream transformer + cross-entropy of a sixth of the tokens, each given those before it in an order.

    .. math:: -\\frac{1}{|M|} \\sum_{i \\in M} \\log p(x_i \\mid x_{\\{j : z_j < z_i\\}}),
              \\quad z_j = -1 \\text{ for the context } j \\notin M

    Args:
        network: "xlnet" of :func:`fastssl.models.build_language`.
        tokenizer: the tokenizer of its tokens.
    """

    family = "autoregression"
    paper = "Yang et al. 2019"
    predicts = "the next token in a random order"
    loss = "cross-entropy"
    networks = ("xlnet",)
    tokenizer_kind = "unigram"
    special = 2
    has_unused_parameters = True  # those of segments

    def __init__(self, network: LanguageModel, tokenizer: Tokenizer) -> None:
        super().__init__(network, tokenizer)
        self.most = min(self.length, self.length // EVERY + LONGEST)  # targets of an example

    def make(self, windows: Sequence[Any], draws: Draws) -> TokenBatch:
        """[CLS] text [SEP], targets [B, P] in the order of the text, and the rank of every token, -1: context."""
        t, width = self.tokenizer, self.network.length
        text = Ragged.of([np.concatenate([[t.cls], window.ids, [t.sep]]) for window in windows])
        tokens = text.padded(width, t.pad)
        found = permuted_spans(text.lengths - self.special, draws, EVERY, LONGEST)
        ranks = np.full_like(tokens, -1)
        ranks[:, 1 : 1 + found.shape[1]] = found
        row, place = np.nonzero(ranks >= 0)
        count = np.bincount(row, minlength=len(tokens))
        targets = np.full((len(tokens), self.most), IGNORED, dtype=np.int64)
        targets[row, np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)] = tokens[row, place]
        return TokenBatch(*(torch.from_numpy(made) for made in (tokens, targets, ranks)))

    def hidden(self, batch: TokenBatch) -> Tensor:
        assert batch.segments is not None
        ranks, predicted = batch.segments, batch.segments >= 0
        unseen = predicted[:, None] & (ranks[:, None] >= ranks[:, :, None])
        places = torch.argsort((~predicted).to(torch.uint8), dim=1, stable=True)[:, : self.most]
        return self.network.permuted(batch.tokens, batch.tokens != self.tokenizer.pad, unseen, places)
