"""ELECTRA: a small network replaces masked tokens, and the network finds out which ones.

Clark et al., ELECTRA: Pre-training Text Encoders as Discriminators Rather Than Generators, 2020. As there, the
generator is a masked language model, both share the embeddings of tokens and positions, and no gradient goes through
the tokens that are drawn. Deviations: one text per example; tokens are masked independently, in varying number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as TF
from torch import Tensor

from fastssl.data.batch import TokenBatch
from fastssl.data.corruption import IGNORED, Draws, Ragged, mask
from fastssl.data.tokenizer import Tokenizer
from fastssl.methods.text import TextMethod
from fastssl.models.architectures import build_generator
from fastssl.models.language import LanguageModel


class ELECTRA(TextMethod):
    """A text with masked tokens + generator + discriminator + cross-entropy, and of each token whether it was replaced.

    .. math:: -\\frac{1}{|M|} \\sum_{i \\in M} \\log p_G(x_i \\mid x^{masked})
              - \\frac{\\lambda}{n} \\sum_{i=1}^n \\log p_D([\\hat x_i = x_i] \\mid \\hat x),
              \\quad \\hat x_i \\sim p_G \\text{ for } i \\in M, \\text{ else } \\hat x_i = x_i

    Args:
        network: "electra" of :func:`fastssl.models.build_language`: the discriminator, kept after pretraining.
        tokenizer: the tokenizer of its tokens.
        share: share of the tokens that are masked.
        size: width and heads of the generator, as a share of the discriminator's; a quarter to a half in the paper.
        weight: weight of the discriminator's loss.
    """

    family = "replaced tokens"
    paper = "Clark et al. 2020"
    predicts = "which tokens another network has replaced"
    loss = "cross-entropy on the masked, and of two classes"
    networks = ("electra",)
    tokenizer_kind = "wordpiece"
    special = 2
    generator: Any

    def __init__(
        self,
        network: LanguageModel,
        tokenizer: Tokenizer,
        *,
        share: float = 0.15,
        size: float = 0.25,
        weight: float = 50.0,
    ) -> None:
        super().__init__(network, tokenizer)
        if not 0 < share < 1:
            raise ValueError(f"share: expected a share in (0, 1), got {share}")
        if not 0 < size <= 1:
            raise ValueError(f"size: expected a share in (0, 1], got {size}")
        if not weight >= 0:
            raise ValueError(f"weight: expected a number >= 0, got {weight}")
        self.share, self.weight = share, weight
        options = network.options
        heads = max(1, round(options["heads"] * size))
        width = max(heads, round(options["width"] * size) // heads * heads)
        generator: Any = build_generator(options, width, heads)
        generator.electra.embeddings = network.network.electra.embeddings  # type: ignore[union-attr]
        generator.generator_lm_head.weight = network.embeddings().weight
        self.generator = generator

    def make(self, windows: Sequence[Any], draws: Draws) -> TokenBatch:
        """[CLS] text [SEP], of which the tokens with a target are masked; and draws that replace them."""
        t, width = self.tokenizer, self.network.length
        text = Ragged.of([np.concatenate([[t.cls], window.ids, [t.sep]]) for window in windows])
        special = (text.values == t.cls) | (text.values == t.sep)
        targets = mask(text, draws, t, self.share, frozen=special)[1]
        inputs = np.where(targets == IGNORED, text.values, t.mask)
        tokens, wanted = (
            torch.from_numpy(Ragged(values, text.offsets).padded(width, fill))
            for values, fill in ((inputs, t.pad), (targets, IGNORED))
        )
        return TokenBatch(tokens, wanted, draws=torch.from_numpy(draws(6, width).astype(np.float32)))

    def hidden(self, batch: TokenBatch) -> Tensor:
        """Hidden states of the generator."""
        states: Tensor = self.generator.electra(batch.tokens, attention_mask=batch.tokens != self.tokenizer.pad)[0]
        return states

    def rows(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        counted = targets != IGNORED
        return self.generator.generator_predictions(hidden[counted]), targets[counted]

    def head(self) -> tuple[Tensor, Tensor | None]:
        return self.generator.generator_lm_head.weight, self.generator.generator_lm_head.bias

    @torch.no_grad()
    def replaced(self, batch: TokenBatch, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """The text with tokens drawn from the generator, and float [B, T], 1 where they differ from the text's."""
        masked, (rows, wanted), (weight, bias) = batch.targets != IGNORED, self.rows(hidden, batch.targets), self.head()
        assert batch.draws is not None
        sums = TF.linear(rows, weight, bias).float().softmax(1).cumsum(1)
        drawn = torch.searchsorted(sums, batch.draws[masked][:, None].to(sums) * sums[:, -1:], right=True)[:, 0]
        tokens, changed = batch.tokens.clone(), torch.zeros_like(batch.tokens, dtype=torch.float32)
        tokens[masked] = drawn = drawn.clamp(max=len(weight) - 1)
        changed[masked] = (drawn != wanted).float()
        return tokens, changed

    def terms(self, batch: TokenBatch) -> int | tuple[int, ...]:
        return int((batch.targets != IGNORED).sum()), int((batch.tokens != self.tokenizer.pad).sum())

    def means(self, batch: TokenBatch) -> tuple[Tensor, ...]:
        hidden = self.hidden(batch)
        tokens, changed = self.replaced(batch, hidden)
        keep = batch.tokens != self.tokenizer.pad
        scores = self.scores(tokens, keep)
        found = TF.binary_cross_entropy_with_logits(scores[keep].float(), changed[keep])
        return self.entropy(hidden, batch.targets), self.weight * found

    def scores(self, tokens: Tensor, keep: Tensor) -> Tensor:
        """Logits [B, T] of whether tokens were replaced; those with ``keep`` False are padding."""
        own: Any = self.network.network
        scores: Tensor = own.discriminator_predictions(self.network.hidden(tokens, keep))
        return scores

    def forward(self, batch: TokenBatch) -> Tensor:
        return torch.stack(self.means(batch)).sum()
