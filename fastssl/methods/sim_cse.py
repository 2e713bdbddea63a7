"""SimCSE: a sentence embedded twice, with other dropout masks, is a positive pair.

Gao, Yao and Chen, SimCSE: Simple Contrastive Learning of Sentence Embeddings, 2021. Deviations: the network starts from
random weights unless the embeddings are given (``--init word2vec``); the mean of the states instead of [CLS].
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastssl.methods.sentence import SentenceMethod
from fastssl.models.architectures import MASKED


class SimCSE(SentenceMethod):
    """The same sentence twice + transformer with dropout + symmetric InfoNCE over the batch.

    Args:
        network: "bert", "roberta", "xlm-roberta", "mpnet", "modernbert", "distilbert", "deberta-v2", of
            :func:`fastssl.models.build_language`, with ``dropout`` above 0.
        tokenizer: the tokenizer of its tokens.
        temperature: temperature of the loss.
        outputs: dimensions of the embeddings that the loss compares.
        backend: backend of the loss, as for :mod:`fastssl.functional`.
    """

    family = "sentences"
    paper = "Gao et al. 2021"
    predicts = "which sentence is the same, under another dropout mask"
    loss = "symmetric InfoNCE"
    networks = ("bert", *MASKED)
    dropout = 0.1

    def pair(self, window: Any) -> tuple[np.ndarray, np.ndarray]:
        return window.ids, window.ids
