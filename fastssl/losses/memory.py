"""A memory of past batches around any loss on labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastssl.distributed import EmbeddingQueue, unsharded
from fastssl.functional import _check as check
from fastssl.functional._pairs import rows_in_reference


class CrossBatchMemory(nn.Module):
    """Cross-batch memory (XBM): any loss on labels against the embeddings of past batches.

    Every call puts the batch into a ring buffer, without gradient, and compares the batch with all that is in it;
    a row is no partner of its own copy. The losses are those of :mod:`fastssl.functional` on labels. Where losses are
    shared (:func:`fastssl.distributed.sharded`) every process remembers its own rows, and meets those of all.

    Args:
        loss: a module that takes ``ref_emb`` and ``ref_labels``.
        embedding_size: D.
        memory_size: rows that are kept, at least one batch.
        dtype: of what is kept: torch.float16 or torch.bfloat16 takes half the memory; None: that of the embeddings.

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
        with unsharded():  # each process remembers its own rows
            first = self.queue.push(embeddings, ids)
        memory, memory_labels = self.queue.filled()
        memory = memory.to(embeddings.dtype)
        with rows_in_reference(first):
            loss: Tensor = self.loss(embeddings, ids, ref_emb=memory, ref_labels=memory_labels)
        return loss
