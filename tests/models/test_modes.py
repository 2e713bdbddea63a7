"""Attention in float32 within autocast on CPUs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as TF
from torch import Tensor

from fastssl.models.modes import SHORT, ShortAttentionInFloat32


def _attend(inputs: list[Tensor], weight: Tensor, **options: Any) -> list[Tensor]:
    """The output and all gradients."""
    leaves = [t.clone().requires_grad_() for t in inputs]
    seen = TF.scaled_dot_product_attention(*leaves, **options)
    (seen.float() * weight).sum().backward()
    return [seen.detach(), *(t.grad for t in leaves if t.grad is not None)]


@pytest.mark.parametrize("masked", ["no", "bool", "float", "causal"])
def test_errs_less_than_bf16(masked: str) -> None:
    torch.manual_seed(0)
    inputs, weight = [torch.randn(3, 2, 20, 8) for _ in range(3)], torch.randn(3, 2, 20, 8)
    mask = torch.rand(3, 1, 20, 20) > 0.3
    mask[..., 0] = True
    options: dict[str, Any] = {}
    if masked == "causal":
        options = {"is_causal": True}
    elif masked != "no":
        options = {"attn_mask": mask if masked == "bool" else torch.zeros(mask.shape).masked_fill(~mask, -1e4)}
    half = [t.bfloat16() for t in inputs]
    in_double = {k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in options.items()}
    right = _attend([t.double() for t in half], weight, **in_double)
    halves = {k: v.bfloat16() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in options.items()}
    errors = []
    for mode in (False, True):
        with torch.autocast("cpu", torch.bfloat16):
            if mode:
                with ShortAttentionInFloat32():
                    found = _attend(half, weight, **halves)
            else:
                found = _attend(half, weight, **halves)
        assert all(t.dtype == torch.bfloat16 for t in found)
        errors.append([float((a.double() - b).norm() / b.norm()) for a, b in zip(found, right)])
    assert all(new <= old * 1.01 for old, new in zip(*errors))
    assert sum(errors[1]) < sum(errors[0])
    assert max(errors[1]) < 4e-3  # the rounding of the result


@pytest.mark.parametrize("case", ["no autocast", "no gradients", "long", "dropout", "float64"])
def test_other_attention_is_torchs(case: str) -> None:
    torch.manual_seed(0)
    tokens = SHORT // 8 + 1 if case == "long" else 20
    inputs = [torch.randn(1, 1, tokens, 8).bfloat16() for _ in range(3)]
    inputs = [t.double() for t in inputs] if case == "float64" else inputs
    weight = torch.ones(())
    with torch.autocast("cpu", torch.bfloat16, enabled=case != "no autocast"):
        if case == "no gradients":
            with torch.no_grad():
                expected = [TF.scaled_dot_product_attention(*inputs)]
                with ShortAttentionInFloat32():
                    found = [TF.scaled_dot_product_attention(*inputs)]
        else:
            options = {"dropout_p": 0.5} if case == "dropout" else {}
            torch.manual_seed(1)
            expected = _attend(inputs, weight, **options)
            torch.manual_seed(1)
            with ShortAttentionInFloat32():
                found = _attend(inputs, weight, **options)
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(expected, found))
