"""Contrastive losses on embeddings: InfoNCE, NT-Xent, supervised contrastive."""

from __future__ import annotations

from torch import Tensor

from fastssl.functional import _check as check
from fastssl.ops import Backend, dispatch, reference
from fastssl.ops.pair_loss import Loss, pair_loss


def _info_nce_cpu(
    query: Tensor,
    key: Tensor,
    negatives: Tensor | None,
    scale: Tensor | float,
    symmetric: bool,
    normalize: bool,
    reduction: str,
) -> Tensor:
    return pair_loss(
        Loss.info_nce, query, key, negatives, scale=scale, symmetric=symmetric, normalize=normalize, reduction=reduction
    )


def _nt_xent_cpu(z0: Tensor, z1: Tensor, scale: Tensor | float, normalize: bool, reduction: str) -> Tensor:
    return pair_loss(Loss.nt_xent, z0, z1, scale=scale, normalize=normalize, reduction=reduction)


def _sup_con_cpu(embeddings: Tensor, labels: Tensor, scale: Tensor | float, normalize: bool, reduction: str) -> Tensor:
    return pair_loss(Loss.sup_con, embeddings, ids=labels, scale=scale, normalize=normalize, reduction=reduction)


INFO_NCE = Backend(reference.info_nce, _info_nce_cpu)
NT_XENT = Backend(reference.nt_xent, _nt_xent_cpu)
SUP_CON = Backend(reference.sup_con, _sup_con_cpu)


def info_nce(
    query: Tensor,
    key: Tensor,
    negatives: Tensor | None = None,
    *,
    temperature: Tensor | float = 0.1,
    symmetric: bool = False,
    normalize: bool = True,
    reduction: str = "mean",
    backend: str | None = None,
) -> Tensor:
    r"""InfoNCE: each query against all keys of the batch and, where given, a queue of negatives.

    .. math:: L_i = -\log \frac{\exp(q_i \cdot k_i / \tau)}{\sum_j \exp(q_i \cdot k_j / \tau)
              + \sum_m \exp(q_i \cdot n_m / \tau)}

    With ``symmetric`` the loss of row i is the mean of this and of the same with queries and keys exchanged.
    No [N, N] matrix is stored: memory is O((N + K) D) plus what the memory budget allows to keep.

    Args:
        query: [N, D], float32, float64, bfloat16 or float16 (computed in fp32), any strides.
        key: [N, D]; row i is the positive of query i.
        negatives: [K, D] or None, shared by all queries (a MoCo queue); K may be 0.
        temperature: > 0; a number or a tensor of one element, which receives a gradient.
        symmetric: also contrast each key with all queries; not together with ``negatives``.
        normalize: divide rows by their Euclidean length first.
        reduction: "mean" | "sum" | "none".
        backend: "reference" | "cpu"; None chooses.

    Returns:
        A scalar, or [N] for "none"; float64 for float64 inputs, else float32. 0 for N = 0.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: wrong shape, device, temperature or reduction, or ``negatives`` with ``symmetric``.

    Example:
        >>> import torch, fastssl.functional as F
        >>> query, key, queue = torch.randn(8, 16), torch.randn(8, 16), torch.randn(32, 16)
        >>> loss = F.info_nce(query.requires_grad_(), key, queue, temperature=0.07)
        >>> loss.backward()

    Source: van den Oord et al., Representation Learning with Contrastive Predictive Coding, 2018, eq. 4;
    the queue: He et al., Momentum Contrast, 2020, eq. 1.
    """
    tensors = {"query": query, "key": key}
    if negatives is not None:
        tensors["negatives"] = negatives
    check.matrices(**tensors)
    check.same_rows("key", key, "query", query)
    if check.flag("symmetric", symmetric) and negatives is not None:
        raise ValueError("negatives: expected None with symmetric=True (a queue has no queries of its own)")
    scale = check.inverse(check.value("temperature", temperature, query.device, positive=True))
    return dispatch(
        INFO_NCE,
        backend,
        query.device,
        query,
        key,
        negatives,
        scale,
        symmetric,
        check.flag("normalize", normalize),
        check.reduction(reduction),
    )


def nt_xent(
    z0: Tensor,
    z1: Tensor,
    *,
    temperature: Tensor | float = 0.5,
    normalize: bool = True,
    reduction: str = "mean",
    backend: str | None = None,
) -> Tensor:
    r"""NT-Xent, the loss of SimCLR: every view against all other 2n - 1 views of the batch.

    .. math:: L_i = -\log \frac{\exp(z_i \cdot z_{p(i)} / \tau)}{\sum_{j \neq i} \exp(z_i \cdot z_j / \tau)}

    with z the 2n rows of ``z0`` and ``z1`` in that order and p(i) the other view of the same image.
    No [2n, 2n] matrix is stored; only its upper triangle is ever computed.

    Args:
        z0: [n, D], first views: float32, float64, bfloat16 or float16 (computed in fp32), any strides.
        z1: [n, D], second views.
        temperature: > 0; a number or a tensor of one element, which receives a gradient.
        normalize: divide rows by their Euclidean length first.
        reduction: "mean" | "sum" | "none".
        backend: "reference" | "cpu"; None chooses.

    Returns:
        A scalar, or [2n] for "none" (first views, then second); float64 for float64 inputs, else float32.
        0 for n = 0; for n = 1 there are no negatives and the loss is 0.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: wrong shape, device, temperature or reduction.

    Example:
        >>> import torch, fastssl.functional as F
        >>> z0, z1 = torch.randn(256, 128, requires_grad=True), torch.randn(256, 128, requires_grad=True)
        >>> F.nt_xent(z0, z1, temperature=0.1).backward()

    Source: Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, 2020, eq. 1.
    """
    check.matrices(z0=z0, z1=z1)
    check.same_rows("z1", z1, "z0", z0)
    scale = check.inverse(check.value("temperature", temperature, z0.device, positive=True))
    return dispatch(
        NT_XENT, backend, z0.device, z0, z1, scale, check.flag("normalize", normalize), check.reduction(reduction)
    )


def sup_con(
    embeddings: Tensor,
    labels: Tensor,
    *,
    temperature: Tensor | float = 0.1,
    normalize: bool = True,
    reduction: str = "mean",
    backend: str | None = None,
) -> Tensor:
    r"""Supervised contrastive loss (the form with the sum outside the logarithm).

    .. math:: L_i = -\frac{1}{|P(i)|} \sum_{p \in P(i)} \log
              \frac{\exp(z_i \cdot z_p / \tau)}{\sum_{j \neq i} \exp(z_i \cdot z_j / \tau)}

    P(i): the other rows with the label of row i. A row without any contributes 0 and counts in the mean.

    Args:
        embeddings: [N, D], float32, float64, bfloat16 or float16 (computed in fp32), any strides.
        labels: [N], integers, any values.
        temperature: > 0; a number or a tensor of one element, which receives a gradient.
        normalize: divide rows by their Euclidean length first.
        reduction: "mean" | "sum" | "none".
        backend: "reference" | "cpu"; None chooses.

    Returns:
        A scalar, or [N] for "none"; float64 for float64 inputs, else float32.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: wrong shape, device, length, temperature or reduction.

    Example:
        >>> import torch, fastssl.functional as F
        >>> embeddings, labels = torch.randn(32, 16, requires_grad=True), torch.arange(32) % 4
        >>> F.sup_con(embeddings, labels).backward()

    Source: Khosla et al., Supervised Contrastive Learning, 2020, eq. 2 (L_out).
    """
    check.matrix("embeddings", embeddings)
    labels = check.ids("labels", labels, embeddings, "embeddings")
    scale = check.inverse(check.value("temperature", temperature, embeddings.device, positive=True))
    return dispatch(
        SUP_CON,
        backend,
        embeddings.device,
        embeddings,
        labels,
        scale,
        check.flag("normalize", normalize),
        check.reduction(reduction),
    )
