"""Telling data from noise: noise-contrastive estimation and the negative sampling of Word2Vec."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastssl.distributed.shards import Group, shardable
from fastssl.functional import _check as check
from fastssl.functional._pairs import reduce_rows
from fastssl.ops import Backend, dispatch, gather
from fastssl.ops.reference import noise as reference
from fastssl.ops.reference.common import softplus

GATHER_DOT = Backend(reference.gather_dot, gather.gather_dot, "gather_dot")


@shardable
def nce(
    model_logits_data: Tensor,
    model_logits_noise: Tensor,
    *,
    noise_log_prob_data: Tensor | None = None,
    noise_log_prob_noise: Tensor | None = None,
    reduction: str = "mean",
    group: Group = None,
    schedule: str = "auto",
) -> Tensor:
    r"""Noise-contrastive estimation: logistic regression of each sample of the data against K samples of noise.

    .. math:: L_i = -\log \sigma(G(x_i)) - \sum_{k=1}^{K} \log(1 - \sigma(G(y_{ik}))), \quad
              G(u) = \log p_m(u) - \log K p_n(u)

    Without the noise's log-probabilities the logits are taken as G itself, the log-ratio. With them, the logits are
    the model's log-densities, which need not be normalised: the model is self-normalizing.

    Args:
        model_logits_data: [N], float32, float64, bfloat16 or float16 (computed in fp32).
        model_logits_noise: [N] or [N, K].
        noise_log_prob_data: [N], log p_n of the data, or None.
        noise_log_prob_noise: the shape of ``model_logits_noise``, log p_n of the noise; with the former.
        reduction: "mean" | "active": over those above 0 | "sum" | "none" over data.

    Example:
        >>> import torch, fastssl.functional as F
        >>> loss = F.nce(torch.randn(8, requires_grad=True), torch.randn(8, 5))

    Source: Gutmann and Hyvarinen, Noise-contrastive estimation, 2010, eq. 3-5 (twice it, and K noise samples).
    """
    data, noise = _vectors(model_logits_data, model_logits_noise)
    if (noise_log_prob_data is None) != (noise_log_prob_noise is None):
        raise TypeError("noise_log_prob_data, noise_log_prob_noise: both or none, got one")
    if noise_log_prob_data is not None and noise_log_prob_noise is not None:
        for name, given, like in (
            ("noise_log_prob_data", noise_log_prob_data, model_logits_data),
            ("noise_log_prob_noise", noise_log_prob_noise, model_logits_noise),
        ):
            if check.tensor(name, given).shape != like.shape:
                raise ValueError(f"{name}: expected shape {tuple(like.shape)}, got {tuple(given.shape)}")
        offset = math.log(max(noise.shape[1], 1))
        data = data - noise_log_prob_data - offset
        noise = noise - noise_log_prob_noise.reshape(noise.shape) - offset
    rows = softplus(-data) + softplus(noise).sum(1)
    return reduce_rows(rows, None, check.reduction(reduction))


def _vectors(data: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    for name, t in (("model_logits_data", data), ("model_logits_noise", noise)):
        if check.tensor(name, t).dtype not in check.FLOATS:
            raise TypeError(f"{name}: expected float32, float64, bfloat16 or float16, got {t.dtype}")
    if data.dim() != 1:
        raise ValueError(f"model_logits_data: expected 1 dimension, got shape {tuple(data.shape)}")
    if noise.dim() not in (1, 2) or noise.shape[0] != data.shape[0]:
        raise ValueError(
            f"model_logits_noise: expected shape ({data.shape[0]},) or ({data.shape[0]}, K), got {tuple(noise.shape)}"
        )
    if data.dtype in (torch.float16, torch.bfloat16):
        data, noise = data.float(), noise.float()
    return data, noise.reshape(noise.shape[0], noise.shape[1] if noise.dim() == 2 else 1)


@shardable
def negative_sampling(
    center: Tensor,
    table: Tensor,
    positives: Tensor,
    negatives: Tensor,
    *,
    reduction: str = "mean",
    backend: str | None = None,
    group: Group = None,
    schedule: str = "auto",
) -> Tensor:
    r"""Skip-gram with negative sampling: classifies each centre's context word against K sampled words.

    .. math:: L_i = -\log \sigma(c_i \cdot t_{p_i}) - \sum_{k=1}^{K} \log \sigma(-c_i \cdot t_{n_{ik}})

    The [N, K, D] tensor of gathered rows is not formed: rows of the table are read in place.

    Args:
        center: [N, D], float32, float64, bfloat16 or float16 (computed in fp32), any strides.
        table: [V, D], the context vectors; receives a dense gradient.
        positives: [N] integers in [0, V).
        negatives: [N, K] integers in [0, V).

    Example:
        >>> import torch, fastssl.functional as F
        >>> table = torch.randn(100, 16, requires_grad=True)
        >>> F.negative_sampling(torch.randn(8, 16), table, torch.arange(8), torch.randint(0, 100, (8, 5))).backward()

    Source: Mikolov et al., Distributed Representations of Words and Phrases, 2013, eq. 4.
    """
    check.matrices(center=center, table=table)
    p = check.ids("positives", positives, center, "center")
    n = check.tensor("negatives", negatives)
    if n.dtype not in check.INTEGERS:
        raise TypeError(f"negatives: expected integers, got {n.dtype}")
    if n.dim() != 2 or n.shape[0] != center.shape[0]:
        raise ValueError(f"negatives: expected shape ({center.shape[0]}, K), got {tuple(n.shape)}")
    p, center = check.in_range("positives", p, table.shape[0], center)
    n, center = check.in_range("negatives", n.to(device=p.device, dtype=torch.int64), table.shape[0], center)
    indices = torch.cat([p[:, None], n], 1).contiguous()
    scores = dispatch(GATHER_DOT, backend, center.device, center, table, indices)
    rows = softplus(-scores[:, 0]) + softplus(scores[:, 1:]).sum(1)
    return reduce_rows(rows, None, check.reduction(reduction))
