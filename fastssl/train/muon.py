"""Muon: momentum with orthogonal updates of matrices."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from fastssl.distributed.parameters import full_tensor, shard_like
from fastssl.train.parameterwise import ParameterwiseOptimizer

# Jordan et al. 2024: after five steps singular values from 1e-3 to 1 lie between 0.7 and 1.2.
COEFFICIENTS, STEPS = (3.4445, -4.7750, 2.0315), 5


def orthogonalized(matrix: Tensor) -> Tensor:
    """U V^T of the singular value decomposition U S V^T of a matrix, approximately: Newton-Schulz iterations, in bf16
    on GPUs."""
    a, b, c = COEFFICIENTS
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = wide / wide.abs().amax().clamp(min=torch.finfo(wide.dtype).tiny)
    x = x / x.norm().clamp(min=1)  # 0 if all are 0
    x = x.bfloat16() if x.is_cuda else x
    for _ in range(STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if wide is not matrix else x).to(matrix.dtype)


def is_matrix(parameter: Tensor) -> bool:
    """Whether a parameter maps vectors to vectors, as the kernels of convolutions do with their patches: not biases,
    norms, class tokens or positions of shape [1, N, D]."""
    return parameter.ndim > 1 and parameter.shape[0] > 1 and parameter.shape[1:].numel() > 1


def is_orthogonal(parameter: Tensor, group: dict[str, Any]) -> bool:
    """Whether a parameter of a group has orthogonal updates, one state per element; those of AdamW have two."""
    return bool(group.get("orthogonal")) and is_matrix(parameter)


class Muon(ParameterwiseOptimizer):
    """Orthogonal momentum for matrices, AdamW for all other parameters.

    With the momentum :math:`m \\leftarrow \\mu m + (1 - \\mu) g` of a gradient :math:`g`, a matrix [A, B] moves by an
    orthogonal factor whose root mean square is 0.2, about that of AdamW's updates, so that learning rates and weight
    decays of AdamW carry over (Liu et al. 2025). Convolutions are matrices [A, C H W].

    .. math:: w \\leftarrow (1 - \\gamma \\lambda) w
              - 0.2 \\gamma \\sqrt{\\max(A, B)} \\, \\mathrm{orth}(\\mu m + (1 - \\mu) g)

    Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024; Liu et al., Muon is Scalable for LLM
    Training, 2025.

    Args:
        params: parameters, or groups of them. Those of fewer than two dimensions, and those of groups with
            ``orthogonal=False`` (embeddings and the output layers of classifiers, as there), are AdamW's.
        lr: gamma, of matrices and of AdamW.
        momentum: mu.
        weight_decay: lambda, of matrices and of AdamW.
        betas: of AdamW.
        eps: of AdamW.

    Raises:
        ValueError: an option out of range.

    Example:
        >>> import torch
        >>> from fastssl.train import Muon, build_optimizer
        >>> table, layer = torch.nn.Embedding(9, 4), torch.nn.Linear(4, 2)
        >>> groups = [{"params": layer.parameters()}, {"params": table.parameters(), "orthogonal": False}]
        >>> optimizer = Muon(groups, lr=1e-3)
        >>> optimizer = build_optimizer(torch.nn.Sequential(table, layer), "muon", 1e-3, 0.1)  # the same groups
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
    ) -> None:
        for name, value in (("lr", lr), ("weight_decay", weight_decay)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name}: expected a finite number >= 0, got {value}")
        for name, value in (("momentum", momentum), *(("betas", beta) for beta in betas)):
            if not 0 <= value < 1:
                raise ValueError(f"{name}: expected a number in [0, 1), got {value}")
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "betas": betas, "eps": eps}
        super().__init__(params, {**defaults, "orthogonal": True})

    def _update(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        p.mul_(1 - group["lr"] * group["weight_decay"])
        if is_orthogonal(p, group):
            self._orthogonal_step(p, grad, group)
        else:
            self._adamw_step(p, grad, group)

    def _orthogonal_step(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state, mu = self.state[p], group["momentum"]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(p)
        momentum = state["momentum_buffer"].lerp_(grad, 1 - mu)
        matrix = full_tensor(grad.lerp(momentum, mu)).flatten(1)
        update = orthogonalized(matrix).reshape(p.shape)
        p.add_(shard_like(update, p), alpha=-0.2 * group["lr"] * max(matrix.shape) ** 0.5)

    def _adamw_step(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2) = self.state[p], group["betas"]
        if not state:
            state.update(step=0, exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
        state["step"] += 1
        mean = state["exp_avg"].lerp_(grad, 1 - beta1)
        square = state["exp_avg_sq"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        scale = (square / (1 - beta2 ** state["step"])).sqrt_().add_(group["eps"])
        p.addcdiv_(mean, scale, value=-group["lr"] / (1 - beta1 ** state["step"]))
