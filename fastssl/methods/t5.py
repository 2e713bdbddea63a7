"""T5: text to text, with any of the denoising objectives of its paper, of BART and of PEGASUS.

Raffel et al., Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer, 2020, sections 3.1 and
3.3; one method, as only the examples of the objectives differ. Deviation: windows of whole sentences of one document
instead of packed ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastssl.data.batch import TokenBatch
from fastssl.data.corruption import IGNORED, OBJECTIVES, SENTINELS, Draws, corrupt
from fastssl.data.tokenizer import Tokenizer
from fastssl.methods.text import TextMethod
from fastssl.models.language import LanguageModel


class T5(TextMethod):
    """A corrupted text and its target + encoder and decoder + cross-entropy of the target's tokens.

    Args:
        network: "t5" or "bart" of :func:`fastssl.models.build_language`.
        tokenizer: the tokenizer of its tokens; the network knows 100 sentinels besides.
        objective: "spans" (sentinels for spans, the paper's choice), "prefix", "bert", "deshuffle", "drop"; BART's
            "infill", "delete", "rotate", "permute-sentences", and "bart" (both of the paper's final model); PEGASUS's
            "sentences".
    """

    family = "text to text"
    paper = "Raffel et al. 2020"
    predicts = "the spans that sentinels replace, or what another objective took away"
    loss = "cross-entropy of the target"
    networks: ClassVar[tuple[str, ...]] = ("t5", "bart")
    tokenizer_kind = "unigram"
    special = 1
    extra = SENTINELS

    def __init__(self, network: LanguageModel, tokenizer: Tokenizer, *, objective: str = "spans") -> None:
        if objective not in OBJECTIVES:
            raise ValueError(f"objective: expected one of {', '.join(OBJECTIVES)}, got {objective!r}")
        super().__init__(network, tokenizer)
        self.corruption = objective

    @property
    def length(self) -> int:
        # Empty spans of "infill" may make the input longer than the text: one in 20 of those of three tokens.
        inserted = self.corruption in ("infill", "bart")
        return self.network.length - self.special - (16 if inserted else 0)

    def make(self, windows: Sequence[Any], draws: Draws) -> TokenBatch:
        """The encoder's inputs [B, T] and the targets [B, T]."""
        pair = corrupt(self.corruption, windows, draws, self.tokenizer)
        width = self.network.length
        inputs, targets = pair.inputs.padded(width, self.tokenizer.pad), pair.targets.padded(width, IGNORED)
        return TokenBatch(torch.from_numpy(inputs), torch.from_numpy(targets))

    def hidden(self, batch: TokenBatch) -> Tensor:
        start = self.tokenizer.sep if self.network.kind == "bart" else self.tokenizer.pad
        before = torch.full_like(batch.targets, start)
        before[:, 1:] = batch.targets[:, :-1]
        before = before.masked_fill(before == IGNORED, self.tokenizer.pad)
        longest = max(1, int((batch.targets != IGNORED).sum(1).max()))
        states = self.network.decoded(batch.tokens, batch.tokens != self.tokenizer.pad, before[:, :longest])
        return torch.nn.functional.pad(states, (0, 0, 0, batch.targets.shape[1] - longest))
