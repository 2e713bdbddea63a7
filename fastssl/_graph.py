"""Nodes of autograd graphs."""

from __future__ import annotations

from typing import Any

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
