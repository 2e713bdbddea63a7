"""Losses over the rows of several processes, on torch.distributed: NCCL, gloo, torchrun, DDP, FSDP."""

from fastssl.distributed.exchange import traffic
from fastssl.distributed.shards import Group, Shards, sharded, unsharded

__all__ = ["Group", "Shards", "sharded", "traffic", "unsharded"]
