"""GPT: every token is predicted from those before it.

Radford et al., Improving Language Understanding by Generative Pre-Training, 2018, and Language Models are Unsupervised
Multitask Learners, 2019. Every document follows a [SEP], which ends the one before it; as an input it is the token with
which the tokenizer opens a text, where it has one (<s> of Llama's). Deviation: with ``packed`` a token attends to its
own document and that [SEP] alone, and positions start again with it; False: documents are concatenated, as there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastssl.data.batch import TokenBatch
from fastssl.data.corruption import IGNORED, Draws, Ragged
from fastssl.data.tokenizer import Tokenizer
from fastssl.methods.text import TextMethod
from fastssl.models.architectures import CAUSAL
from fastssl.models.generation import check_samples, generate, texts_of, unwritten
from fastssl.models.language import LanguageModel
from fastssl.models.samples import Samples


class GPT(TextMethod):
    """Windows of a stream of documents + causal transformer + cross-entropy of the next token.

    Args:
        network: "gpt2", "llama", "qwen2", "qwen3", "mistral", "gemma", "gemma3_text", "phi3", "smollm3", "olmo2",
            "gpt_neox" (Pythia) or a causal "transformer" of :func:`fastssl.models.build_language`, kept after
            pretraining.
        tokenizer: the tokenizer of its tokens.
        packed: attention within documents (block-diagonal) and positions from their starts. Layers of sliding attention
            (Mistral, Gemma 3) then have all of it within their window, which bounds the length of the network.
    """

    family = "autoregression"
    paper = "Radford et al. 2018, 2019"
    predicts = "the next token"
    loss = "cross-entropy"
    networks = ("gpt2", "transformer", *CAUSAL[1:])
    whole = "stream"
    special = 0
    generates = "texts"

    def __init__(self, network: LanguageModel, tokenizer: Tokenizer, *, packed: bool = True) -> None:
        super().__init__(network, tokenizer)
        if not network.options.get("causal", True):
            raise ValueError("network: GPT expects a causal transformer")
        if packed and (network.window or network.length) < network.length:  # a mask of documents replaces the window's
            raise ValueError(
                f"length: expected at most {network.window}, the window of the network's sliding attention, with "
                f"packed=True, got {network.length}"
            )
        self.packed = packed

    def make(self, windows: Sequence[Any], draws: Draws) -> TokenBatch:
        """Inputs, next tokens, and the number of the document in its window, [B, T] each."""
        width = self.length + 1
        stream = Ragged.of([window.ids for window in windows]).padded(width, IGNORED)
        tokens, targets = stream[:, :-1], stream[:, 1:]
        t, opens = self.tokenizer, tokens == self.tokenizer.sep  # as in ``generate``
        documents = np.cumsum(opens, 1)
        tokens = np.where(tokens == IGNORED, t.pad, np.where(opens, t.begin, tokens))
        return TokenBatch(*(torch.from_numpy(np.ascontiguousarray(a)) for a in (tokens, targets, documents)))

    def hidden(self, batch: TokenBatch) -> Tensor:
        documents = batch.segments
        if not self.packed or documents is None or torch.equal(documents[:, 0], documents[:, -1]):
            return self.network.hidden(batch.tokens)
        place = torch.arange(documents.shape[1], device=documents.device).expand_as(documents)
        begins = torch.ones_like(documents, dtype=torch.bool)
        begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
        positions = place - torch.where(begins, place, 0).cummax(1).values
        return self.network.hidden(batch.tokens, documents[:, :, None] == documents[:, None], positions=positions)

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
        """Continuations of a prompt; without one, of the start of a document. They end with the document.

        Args:
            count: number of continuations of each prompt.
            seed: seed of all draws.
            prompt: the text to continue; or several, whose continuations follow one another. They are made in batches,
                and those of a prompt do not depend on the others.
            tokens: tokens to add, at most.
            temperature, top_k, top_p: see :func:`fastssl.models.generate`.
        """
        check_samples(count, tokens)
        t = self.tokenizer
        prompts = [text if text.strip() else "" for text in texts_of(prompt)]
        starts = [np.array([t.begin, *(t.encode([text])[0] if text else ())]) for text in prompts]
        never = unwritten(self.network, t)
        options: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        made = generate(self.network, starts, tokens, rows=count, seed=seed, never=never, end=t.sep, **options)
        texts = []
        for start, rows in zip(starts, made, strict=True):
            for row in rows:
                ends = np.flatnonzero(row[len(start) :] == t.sep)  # the end of the document
                texts.append(t.decode(row[1 : len(start) + ends[0] if len(ends) else None]))
        return Samples("texts", texts)
