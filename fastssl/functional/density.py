"""Early models of binary data: Gibbs sampling of restricted Boltzmann machines, NADE's likelihood and samples."""

from __future__ import annotations

import torch
from torch import Tensor

from fastssl.functional import _check as check
from fastssl.functional._pairs import reduce_rows
from fastssl.ops import density


def gibbs(
    visible: Tensor,
    weight: Tensor,
    visible_bias: Tensor,
    hidden_bias: Tensor,
    keys: Tensor,
    *,
    steps: int = 1,
    first: int = 0,
    gaussian: bool = False,
    backend: str | None = None,
) -> Tensor:
    r"""Block Gibbs sampling of a restricted Boltzmann machine: the visible units after some steps, without gradients.

    .. math:: h_j \sim \sigma(c_j + \sum_i W_{ji} v_i), \qquad v_i \sim \sigma(b_i + \sum_j W_{ji} h_j)
              \quad\text{or}\quad v_i \sim N(b_i + \sum_j W_{ji} h_j, 1)

    A step is one pass of products, sigmoids and draws. Row r depends on its key, not on the other rows, the number of
    threads or how the steps are divided into calls.

    Args:
        visible: [N, D], values in [0, 1]; with ``gaussian`` any.
        weight: [H, D], in float32, float64, bfloat16 or float16 (computed in float32), as all tensors.
        visible_bias: [D].
        hidden_bias: [H].
        keys: int64 [N], keys of the draws of each row: :func:`fastssl.models.row_keys`.
        steps: number of steps, at least 1.
        first: number of the first step, for chains that go on.
        gaussian: visible units are normal with variance 1, instead of binary.

    Returns:
        [N, D], in the dtype of ``weight``.

    Example:
        >>> import torch, fastssl.functional as F
        >>> v = torch.zeros(4, 6)
        >>> F.gibbs(v, torch.randn(3, 6), torch.zeros(6), torch.zeros(3), torch.arange(4), steps=10).shape
        torch.Size([4, 6])

    Source: Hinton, Training Products of Experts by Minimizing Contrastive Divergence, 2002.
    """
    visible, weight = (t.detach() for t in check.matrices(visible=visible, weight=weight))
    steps, first = check.count("steps", steps), check.count("first", first, low=0)
    hidden, dimensions = weight.shape
    biases = [
        _bias(name, t, size, weight)
        for name, t, size in (("visible_bias", visible_bias, dimensions), ("hidden_bias", hidden_bias, hidden))
    ]
    keys = check.ids("keys", keys, visible, "visible")
    binary = not check.flag("gaussian", gaussian)
    full = torch.promote_types(weight.dtype, torch.float32)
    tensors = (t.detach().to(full) for t in (visible, weight, *biases))
    function = density.choose("gibbs", weight.device, backend)
    if binary and function is not density.gibbs:  # which looks at all values itself
        check_units("visible", visible)
    try:
        made: Tensor = function(*tensors, keys, steps, first, gaussian)
    except RuntimeError:
        if binary:
            check_units("visible", visible)
        raise
    return made.to(weight.dtype)


def nade(
    visible: Tensor,
    weight: Tensor,
    output: Tensor,
    bias: Tensor,
    hidden_bias: Tensor,
    *,
    reduction: str = "mean",
    backend: str | None = None,
) -> Tensor:
    r"""Negative log-likelihood of binary rows under a neural autoregressive distribution estimator (NADE).

    .. math:: -\log p(v) = -\sum_d v_d \log p_d + (1 - v_d) \log(1 - p_d), \quad
              p_d = \sigma(b_d + V_d \cdot h_d), \quad h_d = \sigma\Big(c + \sum_{i < d} v_i W_i\Big)

    Each dimension is predicted from those before it, so that the likelihood is exact. Time is O(D H) per row, memory
    O(D + H): activations are updated, in the backward pass downwards, where a value is not 0.

    Args:
        visible: [N, D], values in [0, 1]; they have no gradient.
        weight: W, [D, H], in float32, float64, bfloat16 or float16 (computed in float32), as all tensors.
        output: V, [D, H].
        bias: b, [D].
        hidden_bias: c, [H].
        reduction: "mean" | "sum" | "none" over rows, in nats.

    Example:
        >>> import torch, fastssl.functional as F
        >>> every = torch.tensor([[a, b] for a in (0.0, 1.0) for b in (0.0, 1.0)])
        >>> W, V, b, c = torch.randn(2, 5), torch.randn(2, 5), torch.randn(2), torch.randn(5)
        >>> round(float((-F.nade(every, W, V, b, c, reduction="none")).exp().sum()), 5)
        1.0

    Source: Larochelle and Murray, The Neural Autoregressive Distribution Estimator, 2011.
    """
    visible, *tensors = _nade_tensors(visible, weight, output, bias, hidden_bias)
    rows: Tensor = density.choose("nade", visible.device, backend)(visible, *tensors)
    return reduce_rows(rows, None, check.reduction(reduction, active=False))


def nade_sample(
    weight: Tensor,
    output: Tensor,
    bias: Tensor,
    hidden_bias: Tensor,
    keys: Tensor,
    *,
    backend: str | None = None,
) -> Tensor:
    r"""Samples of a neural autoregressive distribution estimator, dimension after dimension, in O(D H) per row.

    .. math:: v_d \sim p_d(v_1, \ldots, v_{d - 1}) \quad \text{as in } \texttt{nade}

    Args:
        weight: [D, H], in float32, float64, bfloat16 or float16 (computed in float32), as all tensors.
        output: [D, H].
        bias: [D].
        hidden_bias: [H].
        keys: int64 [N], keys of the draws of each row: :func:`fastssl.models.row_keys`.

    Returns:
        [N, D], in the dtype of ``weight``; row r depends on its key alone.

    Example:
        >>> import torch, fastssl.functional as F
        >>> W, V, b, c = torch.randn(3, 5), torch.randn(3, 5), torch.randn(3), torch.randn(5)
        >>> F.nade_sample(W, V, b, c, torch.arange(7)).shape
        torch.Size([7, 3])

    Source: Larochelle and Murray, The Neural Autoregressive Distribution Estimator, 2011.
    """
    rows = weight.new_zeros(0, len(bias)) if isinstance(weight, Tensor) and isinstance(bias, Tensor) else weight
    _, *tensors = _nade_tensors(rows, weight, output, bias, hidden_bias)
    keys = check.ids("keys", keys, keys, "keys")
    made: Tensor = density.choose("nade_sample", weight.device, backend)(*(t.detach() for t in tensors), keys)
    return made.to(weight.dtype)


def _nade_tensors(visible: Tensor, weight: Tensor, output: Tensor, bias: Tensor, hidden_bias: Tensor) -> list[Tensor]:
    """The tensors in the dtype of the computation.

    Raises:
        TypeError, ValueError: other shapes, dtypes or devices.
    """
    weight, output = check.matrices(weight=weight, output=output)
    if output.shape != weight.shape:
        raise ValueError(f"output: expected shape {tuple(weight.shape)} as weight, got {tuple(output.shape)}")
    visible = check.matrix("visible", visible).detach()
    if visible.shape[1] != len(weight):
        raise ValueError(f"visible: expected {len(weight)} columns, one per row of weight, got {visible.shape[1]}")
    if visible.device != weight.device:
        raise ValueError(f"visible: expected a tensor on {weight.device} as weight, got one on {visible.device}")
    check_units("visible", visible)
    biases = [
        _bias("bias", bias, weight.shape[0], weight),
        _bias("hidden_bias", hidden_bias, weight.shape[1], weight),
    ]
    full = torch.promote_types(weight.dtype, torch.float32)
    return [t.to(full) for t in (visible, weight, output, *biases)]


def _bias(name: str, bias: Tensor, size: int, like: Tensor) -> Tensor:
    check.tensor(name, bias)
    if bias.shape != (size,):
        raise ValueError(f"{name}: expected shape ({size},), got {tuple(bias.shape)}")
    if bias.dtype != like.dtype:
        raise TypeError(f"{name}: expected {like.dtype} as weight, got {bias.dtype}")
    if bias.device != like.device:
        raise ValueError(f"{name}: expected a tensor on {like.device} as weight, got one on {bias.device}")
    return bias


def check_units(name: str, values: Tensor) -> None:
    """Raises ValueError for values outside [0, 1], NaN included, where that costs no tracing."""
    if not values.numel() or not check.readable(values):
        return
    low, high = (float(v) for v in torch.aminmax(values))
    if not (low >= 0 and high <= 1):
        wrong = values[~((values >= 0) & (values <= 1))]
        raise ValueError(f"{name}: expected values in [0, 1], got {float(wrong[0])}")
