"""The losses as eager PyTorch, written to be read: the oracle of every backend, and the backend of last resort."""

from fastssl.ops.reference.pair_loss import pair_loss

__all__ = ["pair_loss"]
