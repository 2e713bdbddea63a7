"""Embeddings of past batches: the queue of MoCo, the support set of NNCLR, cross-batch memory."""

from __future__ import annotations

import torch
import torch.nn.functional as TF
from torch import Tensor, nn

from fastssl._graph import changes_once
from fastssl.distributed.exchange import all_rows


class EmbeddingQueue(nn.Module):
    """The last ``size`` embeddings in a ring, with labels where they are wanted; all of it is in the state dict.

    Within :func:`fastssl.distributed.sharded` every process pushes the rows of all, in the order of ranks: the queue
    is the same everywhere (``replicated_negatives=True`` of :func:`fastssl.functional.info_nce`), and one process's
    checkpoint has all of it, for any number of processes.

    Args:
        size: how many.
        dim: of each.
        labelled: keep an integer with each.
        normalize: keep unit vectors.
        begin: "random": full of random unit vectors, as MoCo's; "empty".
        dtype: of what is kept: torch.float16 or torch.bfloat16 takes half the memory.

    Raises:
        ValueError: a size or a dimension < 1, or another beginning.

    Example:
        >>> import torch
        >>> from fastssl.distributed import EmbeddingQueue
        >>> queue = EmbeddingQueue(1024, 16, labelled=True, begin="empty", dtype=torch.bfloat16)
        >>> first = queue.push(torch.randn(8, 16), torch.arange(8))
        >>> [t.shape[0] for t in queue.filled()]
        [8, 8]

    Source: He et al., Momentum Contrast, 2020, section 3.2; Wang et al., Cross-Batch Memory, 2020.
    """

    embeddings: Tensor
    labels: Tensor
    position: Tensor

    def __init__(
        self,
        size: int,
        dim: int,
        *,
        labelled: bool = False,
        normalize: bool = True,
        begin: str = "random",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if size < 1 or dim < 1:
            raise ValueError(f"size, dim: expected integers >= 1, got {size} and {dim}")
        if begin not in ("random", "empty") or (labelled and begin == "random"):
            raise ValueError(f"begin: expected 'random' (without labels) or 'empty', got {begin!r}")
        self.normalize, self.labelled = normalize, labelled
        full = begin == "random"
        rows = TF.normalize(torch.randn(size, dim), dim=1) if full else torch.zeros(size, dim)
        self.register_buffer("embeddings", rows.to(dtype))
        self.register_buffer("labels", torch.zeros(size if labelled else 0, dtype=torch.int64))
        self.register_buffer("position", torch.tensor([0, size if full else 0]))  # next place, places filled

    def __len__(self) -> int:
        return int(self.position[1])

    @torch.no_grad()
    def push(self, embeddings: Tensor, labels: Tensor | None = None) -> int:
        """Puts rows (of all processes) in the place of the oldest; returns where this process's first one is.

        Raises:
            ValueError: labels that are missing or not wanted.
            RuntimeError: a backward pass repeats the call (activation checkpointing).
        """
        changes_once("EmbeddingQueue")
        if (labels is not None) != self.labelled:
            raise ValueError(f"labels: expected {'labels' if self.labelled else 'None'}, got {type(labels).__name__}")
        size = len(self.embeddings)
        (rows, *ids), before = all_rows(embeddings, *(() if labels is None else (labels,)))
        if self.normalize:
            rows = TF.normalize(rows.float(), dim=1)
        first, filled = self.position.tolist()
        kept = min(len(rows), size)
        places = (first + len(rows) - kept + torch.arange(kept, device=rows.device)) % size
        self.embeddings[places] = rows[-kept:].to(self.embeddings.dtype) if kept else rows.to(self.embeddings.dtype)
        if ids:
            self.labels[places] = ids[0][len(rows) - kept :]
        now = [(first + len(rows)) % size, min(filled + len(rows), size)]
        self.position.copy_(torch.tensor(now, device=self.position.device))
        return int((first + before) % size)

    def filled(self) -> tuple[Tensor, Tensor]:
        """Copies of what there is, embeddings and labels: gradients may be taken when the next rows are in."""
        count = len(self)
        return self.embeddings[:count].clone(), self.labels[:count].clone()
