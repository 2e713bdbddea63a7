"""T5: text to text, with any of the denoising objectives of its paper, of BART and of PEGASUS.

Raffel et al., Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer, 2020, sections 3.1 and
3.3; one method, as only the examples of the objectives differ. Deviation: windows of whole sentences of one document
instead of packed ones.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from fastssl.data.batch import TokenBatch
from fastssl.data.corruption import IGNORED, OBJECTIVES, Draws, corrupt
from fastssl.data.tokenizer import Tokenizer
from fastssl.methods.text import TextMethod
from fastssl.models.generation import check_samples, generate_target, texts_of, unwritten
from fastssl.models.language import LanguageModel
from fastssl.models.samples import Samples

MASK = "[MASK]"
_SPECIAL = rf"\s*(<extra_id_\d\d?>|{re.escape(MASK)})"


class T5(TextMethod):
    """A corrupted text and its target + encoder and decoder + cross-entropy of the target's tokens.

    Args:
        network: "t5" or "bart" of :func:`fastssl.models.build_language`.
        tokenizer: the tokenizer of its tokens; the network knows 100 sentinels besides, unless it has its own.
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
    sentinels = True
    generates = "texts"

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

    def generate(
        self,
        count: int = 1,
        seed: int = 0,
        *,
        prompt: str | Sequence[str] = "",
        tokens: int = 100,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
    ) -> Samples:
        """What the decoder writes for a text, in which ``<extra_id_0>`` to ``<extra_id_99>`` are sentinels and
        ``[MASK]`` is a mask.

        Args:
            count: number of targets of each prompt.
            seed: seed of all draws.
            prompt: the encoder's input; or several, whose targets follow one another, each as if it were alone.
            tokens: tokens to write, at most.
            temperature, top_k, top_p: see :func:`fastssl.models.generate_target`.
        """
        check_samples(count, tokens)
        t = self.tokenizer
        sources = [self._source(text) for text in texts_of(prompt)]
        never = unwritten(self.network, t, t.sentinels)
        how: dict[str, Any] = {"rows": count, "temperature": temperature, "top_k": top_k, "top_p": top_p}
        made = generate_target(self.network, sources, tokens, end=t.sep, seed=seed, never=never, **how)
        return Samples("texts", [self._text(row) for row in made])

    def _source(self, prompt: str) -> np.ndarray:
        t, cut = self.tokenizer, re.split(_SPECIAL, prompt)  # every second part is a special token
        parts = [self._special(part) if k % 2 else t.encode([part])[0] for k, part in enumerate(cut)]
        source = np.concatenate([*parts, [t.sep]]).astype(np.int64)
        if len(source) > self.network.length:
            raise ValueError(f"prompt: expected at most {self.network.length - 1} tokens, got {len(source) - 1}")
        return source

    def _special(self, name: str) -> np.ndarray:
        t, number = self.tokenizer, 0 if name == MASK else int(name[len("<extra_id_") : -1])
        if number >= len(t.sentinels):
            raise ValueError(f"prompt: expected sentinels up to <extra_id_{len(t.sentinels) - 1}>, got {name}")
        return np.array([t.mask if name == MASK else t.sentinels[number]])

    def _text(self, ids: np.ndarray) -> str:
        """The text of ids among which there are sentinels."""
        number = {int(token): k for k, token in enumerate(self.tokenizer.sentinels)}
        texts, start = [], 0
        for place in [*np.flatnonzero(np.isin(ids, self.tokenizer.sentinels)), len(ids)]:
            texts.append(self.tokenizer.decode(ids[start:place]))
            texts += [f"<extra_id_{number[int(ids[place])]}>"] if place < len(ids) else []
            start = place + 1
        return " ".join(text for text in texts if text)

    def hidden(self, batch: TokenBatch) -> Tensor:
        start = self.tokenizer.sep if self.network.kind == "bart" else self.tokenizer.pad
        before = torch.full_like(batch.targets, start)
        before[:, 1:] = batch.targets[:, :-1]
        before = before.masked_fill(before == IGNORED, self.tokenizer.pad)
        longest = max(1, int((batch.targets != IGNORED).sum(1).max()))
        states = self.network.decoded(batch.tokens, batch.tokens != self.tokenizer.pad, before[:, :longest])
        return torch.nn.functional.pad(states, (0, 0, 0, batch.targets.shape[1] - longest))
