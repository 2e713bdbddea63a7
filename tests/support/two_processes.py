"""Two processes: every method takes two epochs under DDP and says what came of it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

import fastssl.functional as F
from fastssl.cli.recipes import build_method, encoder_for
from fastssl.data import ArraySource, ImageError, Source, emoji, tones
from fastssl.data.batch import map_tensors
from fastssl.distributed import sharded
from fastssl.methods import CLIP, ContextEncoder, Method, get
from fastssl.models import MemoryBank, build_encoder
from fastssl.train import Pretraining, cached_step, load_checkpoint, pretrain
from fastssl.train.audio import build_audio_method
from fastssl.train.gradients import Gradients
from fastssl.train.optim import OPTIMIZERS
from fastssl.train.trainer import _fabric
from tests.support.language import method_of, tokens


def uneven(rank: int) -> float:
    """How far the gradient of two processes with other numbers of terms is from that of all rows in one."""
    torch.manual_seed(0)
    method = ContextEncoder(build_encoder({"name": "resnet", "size": 32, "width": 4}), lambda_gan=0).eval()
    batch = method.examples(emoji().items(range(12)), 0)
    batch.views[1][:6] = False
    batch.views[1][:6, :, :3] = True  # the first process's images lose a tenth of their pixels
    return _error(method, batch, rank)


def uneven_text(rank: int) -> float:
    """The same for BERT, whose loss is the sum of two means."""
    method = method_of("bert", "transformer").eval()
    batch = method.examples(method.prepare(tokens()).items(range(12)), 0)
    batch.targets[:6, 5:] = -100
    return _error(method, batch, rank)


def uneven_chunks(rank: int) -> float:
    """The same for a model whose parameters are sharded, cut into 5 and 2 chunks of rows: both processes run it
    together, and as often."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4))
    whole, x = copy.deepcopy(model), torch.randn(2, 7, 6)
    F.nt_xent(*(whole(view) for view in x), temperature=0.3).backward()
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    own = torch.cat([view[:5] if rank == 0 else view[5:] for view in x])

    def loss(z: torch.Tensor) -> torch.Tensor:
        return 2 * F.nt_xent(*z.chunk(2), temperature=0.3, group="world")

    errors = []
    for chunk in (2, "auto"):
        model.zero_grad()
        cached_step(model, own, loss, chunk=chunk)
        given = torch.cat([p.grad.full_tensor().flatten() for p in model.parameters()])
        right = torch.cat([p.grad.flatten() for p in whole.parameters() if p.grad is not None])
        errors.append(float((given - right).norm() / right.norm()))
    return max(errors)


def captions(rank: int) -> float:
    """The same for CLIP, where captions of one image, and images of one caption, are on both processes."""
    torch.manual_seed(0)
    items = [emoji().read(k)._replace(text=text) for k, text in zip((0, 1, 2, 0, 3, 4, 5, 0), "abbccdef")]
    method: Any = CLIP(build_encoder({"name": "resnet", "size": 32, "width": 4})).eval()
    batch = method.examples(items, 0)
    method.image_ids = torch.tensor([0, 1, 2, 0, 4, 5, 6, 0])
    whole = copy.deepcopy(method)
    whole(batch).backward()
    with sharded("world", averaged=True):
        method(map_tensors(lambda t: t[4 * rank : 4 * rank + 4], batch)).backward()
    pairs = [(p.grad, q.grad) for p, q in zip(method.parameters(), whole.parameters()) if q.grad is not None]
    for grad, _ in pairs:
        dist.all_reduce(grad)
    given, right = (torch.cat([grad.flatten() for grad in side]) for side in zip(*pairs))
    return float((given / 2 - right).norm() / right.norm())


def _error(method: Method, batch: Any, rank: int) -> float:
    own, whole = map_tensors(lambda t: t[6 * rank : 6 * rank + 6], batch), copy.deepcopy(method)
    whole(batch).backward()
    settings = Pretraining(devices=2, accumulate=2, precision="32-true")
    fabric = _fabric(method, settings)
    Gradients(fabric, fabric.setup_module(method), method, settings)(own)
    given, right = (
        torch.cat([p.grad.flatten() for p in m.parameters() if p.grad is not None]) for m in (method, whole)
    )
    return float((given - right).norm() / right.norm())


class _Unreadable(ArraySource):
    def read(self, index: int, reduce: Any = None) -> Any:
        if index % 7 == 0:
            raise ImageError(f"{index} is broken")
        return super().read(index, reduce)


def unreadable(out: Path) -> dict[str, Any]:
    """What is said of a run on 40 items of which 6 cannot be read, by either process: the count of its last step, and
    the items in its checkpoint."""
    source, counts = _Unreadable(emoji().images[:40, 0]), [0]
    method = build_method("simclr", encoder_for("simclr", None, 32, 4), source, 0)
    settings = Pretraining(epochs=1, batch_size=20, devices=2, on_error="skip")
    pretrain(method, source, settings, out=out / "skip", on_step=lambda progress: counts.append(progress.skipped))
    if dist.get_rank() == 0:
        return {"counted": counts[-1], "listed": load_checkpoint(out / "skip")[1]["unreadable"]}
    return {}


def main(rank: int, out: Path, names: list[str]) -> None:
    """``names``: METHOD[:CHUNK][@STRATEGY[+PRECISION or OPTIMIZER]]."""
    data = emoji().subset(np.arange(64), "emoji")
    data.labels = np.arange(64) % 6
    results = {}
    for run in names:
        name, _, strategy = run.partition("@")
        name, _, chunk = name.partition(":")
        method: Any
        source: Source = data
        if "tokens" in get(name).needs:
            method, source = method_of(name), tokens(4)
            options, network = method.network.options, method.network
        elif "signal" in get(name).needs:
            wave = {"wavenet": {"width": 6, "skip": 6, "depth": 3}, "wavernn": {"width": 6}, "cpc-signal": {"dim": 6}}
            window = {"window": 64} if name != "cpc-signal" else {"window": 1600, "steps": 3}
            method, options = build_audio_method(name, wave[name], window, 0)
            source, network = tones(32, 2000), method.network
        else:
            options = encoder_for(name, None, 32, 4)
            method = build_method(name, options, data, 0)
            network = method.encoder
        if method.needs_dataset_features:
            method.clusters = 6
            method.pca = 4  # whitened to 64 dimensions, as many items are equally far from each other
            method.every = 2  # whose statistics of batch norm are those of the initial network
        before = [p.detach().clone() for p in network.parameters()]
        size = 32 if source is data else 8
        strategy, _, option = strategy.partition("+")
        chosen = {"optimizer": option} if option in OPTIMIZERS else {"precision": option} if option else {}
        settings = Pretraining(
            **{"epochs": 2, "batch_size": size, "warmup_epochs": 1, "devices": 2, "precision": "32-true", **chosen}
        )
        settings.chunk, settings.strategy = int(chunk) if chunk else None, strategy or "ddp"
        if run == "simclr@fsdp":  # checkpoints gather parameters: all processes write them when one does
            settings.checkpoint_minutes = 1000.0 if rank else 1e-6
        pretrain(method, source, settings, out=out / run, encoder_options=options)
        banks = [bank.rows.float() for bank in method.modules() if isinstance(bank, MemoryBank)]
        weights = torch.cat([p.detach().flatten() for p in [*method.parameters(), *banks]])
        other = [torch.empty_like(weights) for _ in range(2)]
        dist.all_gather(other, weights)
        moved = any(not torch.equal(a, b) for a, b in zip(before, network.parameters()))
        results[run] = {"same": bool(torch.equal(other[0], other[1])), "moved": moved}
    results["uneven"], results["uneven text"] = uneven(rank), uneven_text(rank)
    results["uneven chunks"], results["captions"] = uneven_chunks(rank), captions(rank)
    results["unreadable"] = unreadable(out)
    if rank == 0:
        (out / "results.json").write_text(json.dumps(results))
    dist.barrier()
    dist.destroy_process_group()
