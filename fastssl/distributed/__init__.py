"""Losses over the rows of several processes, on torch.distributed: NCCL, gloo, torchrun, DDP, FSDP."""

from fastssl.distributed import gloo_shutdown as gloo_shutdown  # acts at the end of the process
from fastssl.distributed.exchange import all_rows, traffic
from fastssl.distributed.queue import EmbeddingQueue
from fastssl.distributed.shards import Group, Shards, sharded, unsharded

__all__ = ["EmbeddingQueue", "Group", "Shards", "all_rows", "sharded", "traffic", "unsharded"]
