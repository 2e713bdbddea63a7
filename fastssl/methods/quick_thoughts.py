"""Quick-thoughts: which sentence of the batch follows this one.

Logeswaran and Lee, An efficient framework for learning sentence representations, 2018. The pretext task of
Skip-Thoughts (Kiros et al., 2015), the neighbours of a sentence, as a classification instead of a generation.
Deviations: one transformer with two heads instead of two GRUs; cosines with a temperature instead of inner products;
the negatives are sentences of the whole corpus, as batches are shuffled pairs, in both directions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastssl.methods.sentence import SentenceMethod


class QuickThoughts(SentenceMethod):
    """Two consecutive sentences + transformer with a head for each + symmetric InfoNCE over the batch.

    Args:
        network: "bert", "roberta", "xlm-roberta", "mpnet", "modernbert", "distilbert", "deberta-v2" or a
            "transformer" that is not causal, of :func:`fastssl.models.build_language`.
        tokenizer: the tokenizer of its tokens.
        temperature: temperature of the loss.
        outputs: dimensions of the embeddings that the loss compares.
        backend: backend of the loss, as for :mod:`fastssl.functional`.
    """

    family = "sentences"
    paper = "Logeswaran & Lee 2018"
    predicts = "which sentence follows"
    loss = "symmetric InfoNCE"
    whole = "pair"
    heads = 2

    def pair(self, window: Any) -> tuple[np.ndarray, np.ndarray]:
        place = int(window.sentences[1])
        return window.ids[:place], window.ids[place:]
