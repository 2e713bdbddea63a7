"""Autograd: the nodes of graphs, and calls within backward passes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves


def nodes(tensors: Any) -> set[Any]:
    """All nodes of the autograd graphs of tensors, in whatever structure they come."""
    left = [t.grad_fn for t in tree_leaves(tensors) if isinstance(t, Tensor)]
    found: set[Any] = set()
    while left:
        node = left.pop()
        if node is not None and node not in found:
            found.add(node)
            left += [following for following, _ in node.next_functions]
    return found


def changes_once(name: str) -> None:
    """To be called by what is about to change its state, of the name ``name`` in errors.

    Raises:
        RuntimeError: within a backward pass, where activation checkpointing repeats a forward pass: it would see the
            state that the first one left, have another gradient, and change the state again.
    """
    if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:
        raise RuntimeError(
            f"{name}: expected a call outside of activation checkpointing, whose backward pass repeats it: its "
            "gradient would be that of the state that the first call left, which would change twice"
        )
