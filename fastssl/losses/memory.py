"""Cross-batch memory (XBM) around any loss on labels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fastssl.distributed import EmbeddingQueue, unsharded
from fastssl.functional import _check as check
from fastssl.functional._pairs import IndicesTuple, rows_in_reference


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
        miner: ``miner(embeddings, labels, ref_emb, ref_labels)`` chooses pairs or triplets of the batch and the memory,
            like those of pytorch-metric-learning; a row's pairs with its own copy are dropped. None: all pairs.

    Inputs:
        embeddings: [N, D], N <= M, float32, float64, bfloat16 or float16.
        labels: [N], integers.
        enqueue_mask: [N] booleans: rows that are only stored; the loss is that of the others against the memory, such
            as queries against the keys of a momentum encoder. None: all rows are stored and in the loss.

    Returns:
        The value of ``loss``.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: wrong shape, device or length, or a batch of more than ``memory_size`` rows.
        RuntimeError: a backward pass repeats the call (activation checkpointing): the memory would be another.

    Example:
        >>> import torch
        >>> from fastssl.losses import ContrastiveLoss, CrossBatchMemory
        >>> memory = CrossBatchMemory(ContrastiveLoss(), embedding_size=16, memory_size=64)
        >>> loss = memory(torch.randn(8, 16), torch.arange(8) % 2)

    Source: Wang et al., Cross-Batch Memory for Embedding Learning, 2020, algorithm 1.
    """

    def __init__(
        self,
        loss: nn.Module,
        embedding_size: int,
        memory_size: int = 1024,
        dtype: torch.dtype | None = None,
        miner: Callable[..., IndicesTuple] | None = None,
    ) -> None:
        super().__init__()
        self.loss, self.dtype, self.miner = loss, dtype, miner
        if dtype is not None and not isinstance(dtype, torch.dtype):
            raise TypeError(f"dtype: expected a torch.dtype or None, got {type(dtype).__name__}")
        embedding_size = check.count("embedding_size", embedding_size)
        memory_size = check.count("memory_size", memory_size)
        kept = torch.float32 if dtype is None else dtype
        self.queue = EmbeddingQueue(
            memory_size, embedding_size, labelled=True, normalize=False, begin="empty", dtype=kept
        )

    def forward(self, embeddings: Tensor, labels: Tensor, enqueue_mask: Tensor | None = None) -> Tensor:
        check.matrix("embeddings", embeddings)
        ids = check.ids("labels", labels, embeddings, "embeddings")
        stored, stored_ids = embeddings, ids
        if enqueue_mask is not None:
            mask = _mask(enqueue_mask, embeddings)
            stored, stored_ids = embeddings[mask], ids[mask]
            embeddings, ids = embeddings[~mask], ids[~mask]
        size, n = len(self.queue.embeddings), stored.shape[0]
        if n > size:
            raise ValueError(f"embeddings: expected at most memory_size={size} rows to store, got {n}")
        if stored.shape[1] != self.queue.embeddings.shape[1]:
            wanted = self.queue.embeddings.shape[1]
            raise ValueError(f"embeddings: expected {wanted} features, embedding_size, got {stored.shape[1]}")
        with torch.inference_mode(False):  # what the memory becomes in a validation is trained with afterwards
            self.queue.to(device=stored.device, dtype=stored.dtype if self.dtype is None else self.dtype)
        with unsharded():  # each process stores its own rows
            first = self.queue.push(stored, stored_ids)
        memory, memory_labels = self.queue.filled()
        memory = memory.to(stored.dtype)
        own = first if enqueue_mask is None else -1
        if self.miner is not None:
            with torch.no_grad():
                pairs = self.miner(embeddings, ids, memory, memory_labels)
            if own >= 0:
                pairs = _without_own_copies(pairs, own, len(memory))
            return self.loss(embeddings, ids, indices_tuple=pairs, ref_emb=memory, ref_labels=memory_labels)
        with rows_in_reference(own):
            loss: Tensor = self.loss(embeddings, ids, ref_emb=memory, ref_labels=memory_labels)
        return loss


def _mask(mask: object, embeddings: Tensor) -> Tensor:
    t = check.tensor("enqueue_mask", mask)
    if t.dtype != torch.bool or t.shape != embeddings.shape[:1]:
        raise ValueError(f"enqueue_mask: expected {len(embeddings)} booleans, got {t.dtype} of shape {tuple(t.shape)}")
    return t.to(embeddings.device)


def _without_own_copies(pairs: IndicesTuple, first: int, size: int) -> IndicesTuple:
    """Pairs, or triplets, in which no row meets its own copy: row i is row (first + i) % size of the memory."""
    if len(pairs) == 3:
        a, p, n = pairs
        other = ((first + a) % size != p) & ((first + a) % size != n)
        return a[other], p[other], n[other]
    a, p, b, n = pairs
    positive, negative = (first + a) % size != p, (first + b) % size != n
    return a[positive], p[positive], b[negative], n[negative]
