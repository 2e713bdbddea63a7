"""Run by test_parity with two processes: losses and gradients of a library, before and after the patch."""

from __future__ import annotations

import copy
import functools
import importlib.util
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import fastssl
from fastssl.distributed import sharded
from tests.support import peers

N, D = 9, 6
Call = Callable[..., Tensor]  # takes two matrices, a scale and a bias


def open_clip() -> Iterator[tuple[str, Call]]:
    peers.package("open_clip")
    from open_clip.loss import ClipLoss, SigLipLoss

    rank = dist.get_rank()
    cases: list[tuple[Any, dict[str, Any]]] = [
        (ClipLoss, {"local_loss": local, "gather_with_grad": grad}) for local in (True, False) for grad in (True, False)
    ]
    cases += [(SigLipLoss, {"dist_impl": impl}) for impl in ("bidir", "shift", "reduce", "gather")]
    for kind, options in cases:
        loss = kind(rank=rank, world_size=2, **options)
        yield f"{kind.__name__} {options}", lambda x, y, s, b, loss=loss: loss(unit(x), unit(y), s, b)


def lightly() -> Iterator[tuple[str, Call]]:
    peers.lightly()
    from lightly.loss.dcl_loss import DCLLoss, DCLWLoss
    from lightly.loss.directclr_loss import DirectCLRLoss
    from lightly.loss.ntx_ent_loss import NTXentLoss
    from lightly.loss.vicreg_loss import VICRegLoss

    for kind in (NTXentLoss, DCLLoss, DCLWLoss, functools.partial(DirectCLRLoss, 4)):
        loss = kind(0.3, gather_distributed=True)

        def call(x: Tensor, y: Tensor, s: Tensor, b: Tensor, loss: Any = loss) -> Tensor:
            loss.temperature = 1 / s
            return loss(x, y) + 0 * b

        yield type(loss).__name__, call
    decorrelated = VICRegLoss(gather_distributed=True)
    yield "VICRegLoss", lambda x, y, s, b: decorrelated(x, y) + 0 * (s + b)
    if importlib.util.find_spec("lightly.loss.lejepa_loss"):
        from lightly.loss.lejepa_loss import SIGReg

        regularizer = SIGReg(gather_distributed=True, num_vectors=50)

        def pulled(x: Tensor, y: Tensor, s: Tensor, b: Tensor) -> Tensor:
            torch.manual_seed(0)
            return regularizer(torch.stack([x, y])) + 0 * (s + b)

        yield "SIGReg", pulled


def sentence_transformers() -> Iterator[tuple[str, Call]]:
    from sentence_transformers import losses

    from fastssl.compat.sentence_transformers import CACHED, RANKING

    for name in (*RANKING, *CACHED):
        options = {"mini_batch_size": 4} if name in CACHED else {}
        loss: Any = getattr(losses, name)(_Model(torch.nn.Identity()), 5.0, gather_across_devices=True, **options)
        for columns in (1, 3) if "Symmetric" not in name else (1,):

            def call(x: Tensor, y: Tensor, s: Tensor, b: Tensor, loss: Any = loss, columns: int = columns) -> Tensor:
                loss.scale = s
                rows = [x, *(y.roll(k, 0) * (k + 1) for k in range(columns))]
                if hasattr(loss, "mini_batch_size"):
                    return loss.calculate_loss([list(t.split(4)) for t in rows]) + 0 * b
                return loss.compute_loss_from_embeddings(rows, None) + 0 * b

            yield f"{name}, {columns}", call
        if name in CACHED:
            yield f"{name}, backward within", functools.partial(_backward_within, loss)


class _Model(torch.nn.Sequential):
    """Stands for a model of sentences."""

    max_seq_length, tokenizer = 8, None


def _backward_within(loss: Any, x: Tensor, y: Tensor, s: Tensor, b: Tensor) -> Tensor:
    """Gradients that the method itself leaves at the parts, handed on to the rows."""
    loss.scale = 5.0
    parts = [[t.detach().requires_grad_() for t in rows.split(4)] for rows in (x, y)]
    value = loss.calculate_loss(parts, with_backward=True)
    total = sum((t * part.grad).sum() for rows, of in zip((x, y), parts) for t, part in zip(rows.split(4), of))
    return value + total - total.detach() + 0 * (s + b)


def pytorch_metric_learning() -> Iterator[tuple[str, Call]]:
    from pytorch_metric_learning import losses
    from pytorch_metric_learning.utils.distributed import DistributedLossWrapper

    labels = torch.arange(N) % 3
    for name in ("NTXentLoss", "ContrastiveLoss", "SupConLoss", "TripletMarginLoss", "MultiSimilarityLoss"):
        for efficient in (False, True):
            wrapper = DistributedLossWrapper(getattr(losses, name)(), efficient=efficient)
            call = lambda x, y, s, b, w=wrapper: w(x, labels) + 0 * (s + b + y.sum())  # noqa: E731
            yield f"{name}, efficient={efficient}", call


def unit(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x, dim=1)


def run(call: Call, rank: int) -> list[Tensor]:
    """The loss, gradients of own features, and the average over processes of the scale's and the bias's gradients."""
    g = torch.Generator().manual_seed(rank)
    x, y = (torch.randn(N, D, generator=g, dtype=torch.float64).requires_grad_() for _ in range(2))
    scale, bias = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (5.0, -2.0))
    loss = call(x, y, scale, bias)
    loss.backward()
    shared = torch.stack([scale.grad, bias.grad])  # type: ignore[list-item]
    dist.all_reduce(shared)
    return [loss.detach(), x.grad, y.grad, shared / 2]  # type: ignore[list-item]


def worker(rank: int, library: str) -> None:
    dist.init_process_group("gloo")
    for title, call in globals()[library]():
        before = run(call, rank)
        fastssl.patch(library)
        after = run(call, rank)
        calls = fastssl.patched()[library]
        fastssl.unpatch()
        assert sum(c.fused for c in calls.values()) == 1, (title, calls)
        for a, b in zip(before, after):
            torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-10, msg=f"{title}: {a} and {b}")
    dist.barrier()
    dist.destroy_process_group()


COUNTS = (7, 11)


def metric_losses() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Losses of pytorch-metric-learning by name: fused ones, others, with learned values, and what wraps them."""
    from pytorch_metric_learning import losses, regularizers
    from pytorch_metric_learning.distances import SNRDistance

    names = ("NTXentLoss", "ContrastiveLoss", "SupConLoss", "TripletMarginLoss", "MultiSimilarityLoss", "FastAPLoss")
    yield from ((name, getattr(losses, name)) for name in names)
    yield "original", functools.partial(losses.ContrastiveLoss, distance=SNRDistance(), pos_margin=0, neg_margin=1)
    regular = {"embedding_regularizer": regularizers.LpRegularizer(), "embedding_reg_weight": 0.3}
    yield "regularised", functools.partial(losses.NTXentLoss, **regular)
    yield "proxies", functools.partial(losses.ProxyAnchorLoss, 3, D)
    yield "boundaries", functools.partial(losses.MarginLoss, num_classes=3, learn_beta=True)
    yield "memory", lambda: losses.CrossBatchMemory(losses.ContrastiveLoss(), D, 32)
    yield "views", lambda: losses.SelfSupervisedLoss(losses.NTXentLoss())
    yield "views, one way", lambda: losses.SelfSupervisedLoss(losses.SupConLoss(), symmetric=False)


def sharded_worker(rank: int) -> None:
    """Patched losses within ``sharded``: those of all rows in one process, or an error."""
    from pytorch_metric_learning import losses
    from pytorch_metric_learning.utils.distributed import DistributedLossWrapper

    dist.init_process_group("gloo")
    g = torch.Generator().manual_seed(0)
    x, z = torch.randn(2, sum(COUNTS), D, generator=g, dtype=torch.float64)
    labels = torch.arange(len(x)) % 3
    own = slice(sum(COUNTS[:rank]), sum(COUNTS[: rank + 1]))
    for title, make in metric_losses():
        torch.manual_seed(0)
        loss = make().double()
        twin, views = copy.deepcopy(loss), title.startswith("views")
        whole = x.clone().requires_grad_()
        expected = twin(whole, z if views else labels)
        expected.backward()
        fastssl.patch("pytorch_metric_learning")
        for averaged in (False, True):
            loss.zero_grad()
            state = copy.deepcopy(loss)
            mine = x[own].clone().requires_grad_()
            with sharded("world", averaged=averaged):
                value = state(mine, z[own] if views else labels[own])
            value.backward()
            factor = 2 if averaged else 1
            torch.testing.assert_close(value.detach(), expected.detach(), rtol=1e-9, atol=1e-10, msg=title)
            torch.testing.assert_close(mine.grad, factor * whole.grad[own], rtol=1e-8, atol=1e-10, msg=title)
            for p, q in zip(state.parameters(), twin.parameters()):
                dist.all_reduce(p.grad)
                torch.testing.assert_close(p.grad, factor * q.grad, rtol=1e-8, atol=1e-10, msg=title)
            for (name, b), c in zip(state.named_buffers(), twin.buffers()):
                torch.testing.assert_close(b, c, msg=f"{title}, {name}")
        fastssl.unpatch()
    fastssl.patch("pytorch_metric_learning")
    mine, pairs = x[own], (torch.tensor([0]), torch.tensor([3]), torch.tensor([0]), torch.tensor([1]))
    wrapper = DistributedLossWrapper(losses.NTXentLoss())
    alike = x[own][: min(COUNTS)]
    outside = wrapper(alike, labels[own][: min(COUNTS)])
    with sharded("world"):
        torch.testing.assert_close(wrapper(alike, labels[own][: min(COUNTS)]), outside, rtol=0, atol=0)
        with pytest.raises(ValueError, match="indices_tuple: expected None"):
            losses.NTXentLoss()(mine, labels[own], pairs)
        with pytest.raises(
            ValueError, match=r"NTXentLoss.temperature: expected the same on every process, got 0\.[12] on"
        ):
            losses.NTXentLoss(temperature=0.1 + 0.1 * rank)(mine, labels[own])
        with pytest.raises(ValueError, match="labels: expected .* rows as embeddings"):
            losses.NTXentLoss()(mine, labels[own][1:])
    fastssl.unpatch()
    dist.barrier()
    dist.destroy_process_group()


def originals_worker(rank: int, library: str) -> None:
    """Within ``sharded`` a loss that would run its original code, of its own rows, is an error."""
    dist.init_process_group("gloo")
    if library == "lightly":
        peers.lightly()
    fastssl.patch(library)
    x, y = torch.randn(2, N, D).unbind()
    call: Callable[[], Any]
    if library == "lightly":
        from lightly.loss.dcl_loss import DCLLoss

        name, call = "DCLLoss", lambda: DCLLoss(0.3, weight_fn=lambda a, b: a.sum(1) + b.sum(1))(x, y)
    else:
        from sentence_transformers import losses

        name = "BatchAllTripletLoss"
        loss = losses.BatchAllTripletLoss(_Model(torch.nn.Identity()))
        call = lambda: loss.batch_all_triplet_loss(torch.arange(N) % 3, x)  # noqa: E731
    call()
    with sharded("world"):
        with pytest.raises(RuntimeError, match=f"sharded: expected a loss that runs fused, got {name}"):
            call()
        if library == "lightly":
            value = DCLLoss(0.3)(x.requires_grad_(), y)
            with pytest.raises(RuntimeError, match="no second derivative of a loss over several processes"):
                torch.autograd.grad(value, x, create_graph=True)
    fastssl.unpatch()
    dist.barrier()
    dist.destroy_process_group()


def language_worker(rank: int) -> None:
    """A training step of a language model within ``sharded``: the mean over this process's tokens, as in the library;
    in one process the logits are read, so that its next step runs the original."""
    from transformers import GPT2Config, GPT2LMHeadModel

    dist.init_process_group("gloo", timeout=timedelta(seconds=20))
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=16)).eval()
    tokens = torch.randint(0, 50, (2, 8), generator=torch.Generator().manual_seed(rank))
    expected = model(input_ids=tokens, labels=tokens).loss
    fastssl.patch("transformers")
    for _ in range(2):
        with sharded("world"):
            out = model(input_ids=tokens, labels=tokens)
        torch.testing.assert_close(out.loss, expected)
        if rank:
            out.logits.sum().item()
    fastssl.unpatch()
    dist.barrier()
    dist.destroy_process_group()


class Trained(torch.nn.Module):
    """A network and its loss."""

    def __init__(self, loss: Any) -> None:
        super().__init__()
        self.net, self.loss = torch.nn.Linear(D, D), loss

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        result: Tensor = self.loss(self.net(x), labels)
        return result


def fully_sharded_worker(rank: int) -> None:
    """Patched losses whose parameters are sharded (FSDP2), alone or with the network before them: fused."""
    from pytorch_metric_learning import losses
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo")
    mesh, classes = init_device_mesh("cpu", (2,)), 12
    x, labels = torch.randn(2, N, D, generator=torch.Generator().manual_seed(0)), torch.arange(N) % 3
    makers: dict[str, Callable[[], Any]] = {
        "ArcFaceLoss": lambda: losses.ArcFaceLoss(classes, D),
        "NormalizedSoftmaxLoss": lambda: losses.NormalizedSoftmaxLoss(classes, D),
        "ProxyAnchorLoss": lambda: losses.ProxyAnchorLoss(classes, D),
        "SupConLoss": losses.SupConLoss,
        "MarginLoss": lambda: losses.MarginLoss(learn_beta=True, num_classes=3),
    }
    for name, make in makers.items():
        for alone in (True, False):
            results = []
            for patched in (False, True):
                torch.manual_seed(1)
                model = Trained(make())
                if alone:
                    fully_shard(model.loss, mesh=mesh)
                fully_shard(model, mesh=mesh)
                if patched:
                    fastssl.patch("pytorch_metric_learning", min_rows=0)
                loss = model(x[rank], labels)
                loss.backward()
                results.append([loss.detach(), *(p.grad.full_tensor() for p in model.parameters())])
            calls = fastssl.patched()["pytorch_metric_learning"][name]
            assert calls.fused == 1, (name, alone, calls)
            fastssl.unpatch()
            torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5, msg=f"{name}, {alone}")
    dist.destroy_process_group()
