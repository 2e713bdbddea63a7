"""Skip-thoughts: the sentences before and behind a sentence are written from its embedding.

Kiros et al., Skip-Thought Vectors, 2015. Deviations: pieces of words instead of words, embeddings tied with the
softmax, the sentence's embedding beside every token of the decoders' input instead of biases of their gates, and in the
first state. ``quick-thoughts`` predicts the same by a classification, which is faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from fastssl.data.batch import TokenBatch
from fastssl.data.corruption import IGNORED, Draws, Ragged
from fastssl.data.tokenizer import Tokenizer
from fastssl.methods.text import TextMethod
from fastssl.models.language import LanguageModel


class SkipThoughts(TextMethod):
    """Three consecutive sentences + GRU that embeds the second + a GRU that writes each other + cross-entropy.

    .. math:: -\\frac{1}{|x| + |z|} \\Big( \\sum_t \\log p(x_t \\mid x_{<t}, h(y)) + \\sum_t \\log p(z_t \\mid z_{<t},
              h(y)) \\Big), \\quad x, y, z: \\text{consecutive sentences}

    Args:
        network: "gru" of :func:`fastssl.models.build_language`, kept after pretraining; h is its last state.
        tokenizer: the tokenizer of its tokens.
    """

    family = "sentences"
    paper = "Kiros et al. 2015"
    predicts = "the tokens of the previous and of the next sentence"
    loss = "cross-entropy"
    networks = ("gru",)
    tokenizer_kind = "wordpiece"
    whole: ClassVar[str] = "triple"

    def __init__(self, network: LanguageModel, tokenizer: Tokenizer) -> None:
        super().__init__(network, tokenizer)
        self.decoders = nn.ModuleList(nn.GRU(2 * network.dim, network.dim, batch_first=True) for _ in range(2))

    def make(self, windows: Sequence[Any], draws: Draws) -> TokenBatch:
        """The second sentence [B, T], and as targets the first and the third, [B, 2 T]; each ends with [SEP]."""
        t, width = self.tokenizer, self.network.length
        parts = zip(*(np.split(window.ids, window.sentences[1:]) for window in windows))
        before, tokens, behind = (
            Ragged.of([np.append(ids, t.sep) for ids in side]).padded(width, fill)
            for side, fill in zip(parts, (IGNORED, t.pad, IGNORED))
        )
        return TokenBatch(torch.from_numpy(tokens), torch.from_numpy(np.concatenate([before, behind], 1)))

    def embed(self, tokens: Tensor) -> Tensor:
        """The last state of each sentence: [B, D]."""
        keep = tokens != self.tokenizer.pad
        longest = max(1, int(keep.sum(1).max()))  # without common padding
        states = self.network.states(tokens[:, :longest], keep[:, :longest])
        last = (keep.sum(1) - 1).clamp(min=0)
        return states[torch.arange(len(states), device=tokens.device), last]

    def hidden(self, batch: TokenBatch) -> Tensor:
        about, embeddings = self.embed(batch.tokens), self.network.embeddings()
        states = []
        for decoder, targets in zip(self.decoders, batch.targets.chunk(2, 1)):
            longest = max(1, int((targets != IGNORED).sum(1).max()))
            known = targets[:, : longest - 1]
            begin = known.new_full((len(known), 1), self.tokenizer.sep)  # a sentence begins where another one ends
            before = embeddings(torch.cat([begin, known.masked_fill(known == IGNORED, self.tokenizer.pad)], 1))
            beside = about.to(before.dtype)
            inputs = torch.cat([before, beside[:, None].expand(-1, longest, -1)], 2)
            made = decoder(inputs, beside[None])[0]
            states.append(nn.functional.pad(made, (0, 0, 0, targets.shape[1] - longest)))
        return torch.cat(states, 1)
