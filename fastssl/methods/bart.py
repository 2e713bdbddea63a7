"""BART: sentences are permuted and spans filled in; the decoder writes the whole text.

Lewis et al., BART: Denoising Sequence-to-Sequence Pre-training, 2019. Deviation: windows of whole
sentences of one document.
"""

from __future__ import annotations

from fastssl.data.tokenizer import Tokenizer
from fastssl.methods.t5 import T5
from fastssl.models.language import LanguageModel


class BART(T5):
    """A corrupted text and the text + encoder and decoder + cross-entropy of the text's tokens.

    Args:
        network: "bart" of :func:`fastssl.models.build_language`.
        tokenizer: the tokenizer of its tokens.
        objective: as for :class:`T5`; "bart" is the paper's: text infilling and sentence permutation.
    """

    paper = "Lewis et al. 2019"
    predicts = "the text whose sentences were permuted and spans masked"
    networks = ("bart",)
    tokenizer_kind = "bpe"

    def __init__(self, network: LanguageModel, tokenizer: Tokenizer, *, objective: str = "bart") -> None:
        super().__init__(network, tokenizer, objective=objective)
