"""Where operations of torch can be replaced."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode


def plain(*arguments: Any) -> bool:
    """Whether tensors on the CPU are computed with: none of subclasses (DTensor, fake or nested tensors), no
    transformation of torch.func, no forward-mode derivatives, no tracing, no mode that watches functions."""
    return (
        not torch.compiler.is_compiling()
        and not torch._C._is_torch_function_mode_enabled()
        and torch._C._functorch.peek_interpreter_stack() is None
        and forward_ad._current_level < 0
        and not torch.jit.is_tracing()
        and _get_current_dispatch_mode() is None
        and all(
            type(t) in (Tensor, nn.Parameter)
            and t.layout == torch.strided
            and t.device.type == "cpu"
            and not torch._C._functorch.is_legacy_batchedtensor(t)  # of torch.autograd.grad(is_grads_batched=True)
            for t in arguments
            if isinstance(t, Tensor)
        )
    )
