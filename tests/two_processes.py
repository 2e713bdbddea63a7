"""Run by torchrun with two processes: every method takes two epochs under DDP and says what came of it.

torchrun --nproc-per-node 2 tests/two_processes.py OUT METHOD[:CHUNK][@STRATEGY]...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from fastssl.cli.recipes import build_method, encoder_for
from fastssl.data import emoji
from fastssl.train import Pretraining, pretrain


def main() -> None:
    torch.set_num_threads(1)
    out, names = Path(sys.argv[1]), sys.argv[2:]
    data = emoji().subset(np.arange(64), "emoji")
    data.labels = np.arange(64) % 6
    results = {}
    for run in names:
        name, _, strategy = run.partition("@")
        name, _, chunk = name.partition(":")
        options = encoder_for(name, None, 32, 4)
        method = build_method(name, options, data, 0)
        if method.studies:
            method.clusters = 6
        before = [p.detach().clone() for p in method.encoder.parameters()]
        settings = Pretraining(epochs=2, batch_size=32, warmup_epochs=1, devices=2)
        settings.chunk, settings.strategy = int(chunk) if chunk else None, strategy or "ddp"
        pretrain(method, data, settings, out=out / run, encoder_options=options)
        weights = torch.cat([p.detach().flatten() for p in method.parameters()])
        other = [torch.empty_like(weights) for _ in range(2)]
        dist.all_gather(other, weights)
        moved = any(not torch.equal(a, b) for a, b in zip(before, method.encoder.parameters()))
        results[run] = {"same": bool(torch.equal(other[0], other[1])), "moved": moved}
    if dist.get_rank() == 0:
        (out / "results.json").write_text(json.dumps(results))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
