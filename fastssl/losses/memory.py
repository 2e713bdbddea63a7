"""Cross-batch memory (XBM) around any loss on labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastssl.distributed import EmbeddingQueue, unsharded
from fastssl.functional import _check as check
from fastssl.functional._pairs import rows_in_reference


class CrossBatchMemory(nn.Module):
    r"""Cross-batch memory (XBM): any loss on labels against the embeddings of past batches.

    .. math:: L = \ell(X, y;\ X_M, y_M), \quad M \leftarrow M \cup \mathrm{sg}(X) \text{, dropping the oldest rows}

    Each call enqueues the batch in a ring buffer, without gradient, and compares it with all rows of the buffer, except
    each row with its own copy. Within :func:`fastssl.distributed.sharded` every process stores its own rows, and
    batches are compared with the rows of all processes.

    Args:
        loss: a module of a loss of :mod:`fastssl.functional` that takes ``ref_emb`` and ``ref_labels``.
        embedding_size: D, the number of features per row.
        memory_size: M, the number of rows stored, at least those of one batch.
        dtype: dtype of the stored rows; torch.float16 or torch.bfloat16 halve the memory; None: that of the embeddings.

    Inputs:
        embeddings: [N, D], N <= M, float32, float64, bfloat16 or float16.
        labels: [N], integers.

    Returns:
        The value of ``loss``.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: wrong shape, device or length, or a batch of more than ``memory_size`` rows.

    Example:
        >>> import torch
        >>> from fastssl.losses import ContrastiveLoss, CrossBatchMemory
        >>> memory = CrossBatchMemory(ContrastiveLoss(), embedding_size=16, memory_size=64)
        >>> loss = memory(torch.randn(8, 16), torch.arange(8) % 2)

    Source: Wang et al., Cross-Batch Memory for Embedding Learning, 2020, algorithm 1.
    """

    def __init__(
        self, loss: nn.Module, embedding_size: int, memory_size: int = 1024, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.loss, self.dtype = loss, dtype
        check.count("embedding_size", embedding_size)
        check.count("memory_size", memory_size)
        kept = torch.float32 if dtype is None else dtype
        self.queue = EmbeddingQueue(
            memory_size, embedding_size, labelled=True, normalize=False, begin="empty", dtype=kept
        )

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        check.matrix("embeddings", embeddings)
        ids = check.ids("labels", labels, embeddings, "embeddings")
        size, n = len(self.queue.embeddings), embeddings.shape[0]
        if n > size:
            raise ValueError(f"embeddings: expected at most memory_size={size} rows, got {n}")
        self.queue.to(device=embeddings.device, dtype=embeddings.dtype if self.dtype is None else self.dtype)
        with unsharded():  # each process stores its own rows
            first = self.queue.push(embeddings, ids)
        memory, memory_labels = self.queue.filled()
        memory = memory.to(embeddings.dtype)
        with rows_in_reference(first):
            loss: Tensor = self.loss(embeddings, ids, ref_emb=memory, ref_labels=memory_labels)
        return loss
