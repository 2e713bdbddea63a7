"""What patches gain where people train: losses under bf16 autocast, and training steps of language models.

    python benchmarks/drop_in.py losses [--rows 2048 4096 8192] [--pairs 5] [--clock cpu] [--device cuda]
    python benchmarks/drop_in.py others [--pairs 5] [--clock cpu] [--device cuda]
    python benchmarks/drop_in.py language [--pairs 3] [--clock cpu] [--device cuda]

The library and the patched library run in turn in one process: median ratio of the pairs, and the middle half. Peak
memory of the head and its loss is that of a fresh process each, above what it holds before.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import multiprocessing
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import fastssl
from fastssl.bench.harness import seconds_of_products
from fastssl.bench.memory import status

D = 128
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
CLOCK = "wall"
DEVICE = "cpu"
STEPS = {"cpu": 1, "cuda": 10}  # that are timed together


def pairs(peer: str, step: Callable[[], Any], count: int) -> tuple[list[float], list[float]]:
    """Seconds without and with the patch, in turn."""
    clock = CLOCKS[CLOCK]
    times: tuple[list[float], list[float]] = [], []
    for turn in range(count + 1):  # the first warms up
        for patched in (False, True):
            if patched:
                fastssl.patch(peer, min_rows=0)
            step()  # the first after a patch is not what a training consists of
            if DEVICE == "cuda":
                torch.cuda.synchronize()
            begin = clock()
            for _ in range(STEPS[DEVICE]):
                step()
            if DEVICE == "cuda":
                torch.cuda.synchronize()
            took = (clock() - begin) / STEPS[DEVICE]
            if patched:
                fused = sum(calls.fused for calls in fastssl.patched()[peer].values())
                assert fused, fastssl.patched()
                fastssl.unpatch()
            if turn:
                times[patched].append(took)
    return times


def row(title: str, times: tuple[list[float], list[float]]) -> str:
    ratios = sorted(a / b for a, b in zip(*times))
    quarter = len(ratios) // 4
    middle = f"{ratios[quarter]:.1f} to {ratios[-1 - quarter]:.1f}"
    before, after = (statistics.median(t) * 1e3 for t in times)
    return f"| {title} | {before:,.1f} ms | {after:,.1f} ms | **{statistics.median(ratios):.1f}** ({middle}) |"


def where() -> str:
    return f"{torch.get_num_threads()} threads" if DEVICE == "cpu" else torch.cuda.get_device_name()


def without_extras(name: str) -> None:
    """``import name.module`` without what ``name/__init__.py`` imports besides."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.submodule_search_locations is None:
        raise SystemExit(f"{name} is not installed")
    module = types.ModuleType(name)
    module.__path__, module.__spec__ = list(spec.submodule_search_locations), spec
    sys.modules.setdefault(name, module)


# Up to how many rows a loss of pytorch-metric-learning runs in reasonable time and memory.
LARGEST = {
    "cpu": (("SupConLoss", 8192), ("NTXentLoss", 512), ("TripletMarginLoss", 2048)),
    "cuda": (("SupConLoss", 16384), ("NTXentLoss", 512), ("TripletMarginLoss", 2048), ("MultiSimilarityLoss", 8192)),
}


def losses(rows: list[int], count: int) -> None:
    from fastssl.bench.cases import _stand_in_for_torchvision

    without_extras("open_clip")
    without_extras("lightly")
    _stand_in_for_torchvision()
    from lightly.loss.ntx_ent_loss import NTXentLoss
    from open_clip.loss import ClipLoss
    from pytorch_metric_learning import losses as pml

    print(f"{where()}, bf16 autocast, {D} features, forward + backward")
    print("| | the library | patched | ratio |\n|---|---|---|---|")
    for n in rows:
        x, z = (torch.randn(n, D, requires_grad=True) for _ in range(2))
        y = torch.arange(n) % (n // 4)
        # Leaves: the loss is timed, not the normalisation before it.
        u, v = (torch.nn.functional.normalize(t.detach()).requires_grad_() for t in (x, z))
        cases: dict[str, tuple[str, Callable[[], Any], int]] = {
            f"`{name}`": ("pytorch_metric_learning", functools.partial(getattr(pml, name)(), x, y), largest)
            for name, largest in LARGEST[DEVICE]
        }
        most = 8192 if DEVICE == "cpu" else 32768
        cases["`ClipLoss` of open_clip"] = "open_clip", functools.partial(ClipLoss(), u, v, 20.0), most
        cases["`NTXentLoss` of lightly"] = "lightly", functools.partial(NTXentLoss(0.1), x, z), most
        for title, (peer, call, largest) in cases.items():
            if n > largest:
                continue

            def step(call: Callable[[], Any] = call) -> None:
                with torch.autocast(DEVICE, torch.bfloat16):
                    loss = call()
                loss.backward(retain_graph=True)

            print(row(f"{title}, {n:,} rows", pairs(peer, step, count)), flush=True)


class Features(torch.nn.Sequential):
    """Stands for a sentence-transformers model whose features are its embeddings."""

    max_seq_length = 8

    def __init__(self) -> None:
        from transformers import PreTrainedTokenizerBase

        super().__init__(torch.nn.Identity())
        self.tokenizer = type("Tokenizer", (PreTrainedTokenizerBase,), {"get_vocab": lambda self: {}})()


def others(count: int) -> None:
    """Losses of sentence-transformers, those of lightly that compare no views, and losses and miners of
    pytorch-metric-learning that compare triplets or features, in fp32."""
    import sentence_transformers.sentence_transformer.losses as sentence

    from fastssl.bench.cases import _stand_in_for_torchvision

    without_extras("lightly")
    _stand_in_for_torchvision()
    from lightly.loss.hypersphere_loss import HypersphereLoss
    from lightly.loss.koleo_loss import KoLeoLoss
    from lightly.loss.lejepa_loss import SIGReg
    from lightly.loss.vicreg_loss import VICRegLoss
    from pytorch_metric_learning import losses as pml
    from pytorch_metric_learning import miners

    def backward(loss: Any, columns: int, rows: int, size: int, labels: Any = None) -> Callable[[], Any]:
        given = [{"sentence_embedding": torch.randn(rows, size, requires_grad=True)} for _ in range(columns)]
        return lambda: loss(given, labels).backward()

    def vicreg(rows: int, size: int) -> Callable[[], Any]:
        x, z = (torch.randn(rows, size, requires_grad=True) for _ in range(2))
        return lambda: VICRegLoss()(x, z).backward()

    def sigreg(views: int, rows: int, size: int) -> Callable[[], Any]:
        regularizer, x = SIGReg(), torch.randn(views, rows, size, requires_grad=True)
        return lambda: regularizer(x).backward()

    def spread(loss: Any, views: int, rows: int, size: int) -> Callable[[], Any]:
        given = [torch.randn(rows, size, requires_grad=True) for _ in range(views)]
        return lambda: loss(*given).backward()

    def labelled(loss: Any) -> tuple[str, Callable[[], Any]]:  # 512 rows, 8 per class
        x, ids = torch.randn(512, 128, requires_grad=True), torch.arange(512) // 8
        return "pytorch_metric_learning", lambda: loss(x, ids).backward()

    def views(rows: int, size: int) -> Callable[[], Any]:
        x, z = (torch.randn(rows, size, requires_grad=True) for _ in range(2))
        return lambda: pml.VICRegLoss()(x, ref_emb=z).backward()

    def mined(miner: Any) -> tuple[str, Callable[[], Any]]:
        return "pytorch_metric_learning", functools.partial(miner, torch.randn(512, 128), y)

    model, y = Features(), torch.arange(512) // 4
    cached = sentence.CachedMultipleNegativesRankingLoss(model, mini_batch_size=64)
    cases = {
        "`CachedMultipleNegativesRankingLoss`, 1,024 x 384": ("sentence_transformers", backward(cached, 2, 1024, 384)),
        "`GISTEmbedLoss`, 128 x 384": (
            "sentence_transformers",
            backward(sentence.GISTEmbedLoss(model, model), 2, 128, 384),
        ),
        "`BatchAllTripletLoss`, 512 x 384": (
            "sentence_transformers",
            backward(sentence.BatchAllTripletLoss(model), 1, 512, 384, y),
        ),
        "`VICRegLoss` of lightly, 256 x 2,048": ("lightly", vicreg(256, 2048)),
        "`KoLeoLoss` of lightly, 2,048 x 384": ("lightly", spread(KoLeoLoss(), 1, 2048, 384)),
        "`HypersphereLoss` of lightly, 512 x 128": ("lightly", spread(HypersphereLoss(), 2, 512, 128)),
        "`SIGReg` of lightly, 4 views x 256 x 64": ("lightly", sigreg(4, 256, 64)),
        "`SIGReg` of lightly, 8 views x 1,024 x 64": ("lightly", sigreg(8, 1024, 64)),
        "`TripletMarginMiner`, 512 x 128 (forward)": mined(miners.TripletMarginMiner()),
        "`AngularMiner`, 512 x 128 (forward)": mined(miners.AngularMiner()),
        "`BatchHardMiner`, 512 x 128 (forward)": mined(miners.BatchHardMiner()),
        "`PairMarginMiner`, 512 x 128 (forward)": mined(miners.PairMarginMiner()),
        "`VICRegLoss` of pytorch-metric-learning, 256 x 2,048": ("pytorch_metric_learning", views(256, 2048)),
        "`PNPLoss`, 512 x 128": labelled(pml.PNPLoss()),
        "`SmoothAPLoss`, 512 x 128": labelled(pml.SmoothAPLoss()),
        "`HistogramLoss`, 512 x 128": labelled(pml.HistogramLoss()),
        "`ThresholdConsistentMarginLoss`, 512 x 128": labelled(pml.ThresholdConsistentMarginLoss()),
    }
    print(f"{where()}, fp32, forward + backward")
    print("| | the library | patched | ratio |\n|---|---|---|---|")
    for title, (peer, step) in cases.items():
        print(row(title, pairs(peer, step, count)), flush=True)


def model_of(name: str) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    import transformers

    torch.manual_seed(0)
    # On a CPU a small network; on a GPU the sizes of the papers.
    d, layers, heads, rows, length = (256, 4, 4, 32, 128) if DEVICE == "cpu" else (768, 12, 12, 32, 512)
    if name == "GPT2LMHeadModel":
        config = transformers.GPT2Config(n_embd=d, n_layer=layers, n_head=heads, n_positions=length)
        ids = torch.randint(0, config.vocab_size, (rows // 2, length))
        return transformers.GPT2LMHeadModel(config), {"input_ids": ids, "labels": ids}
    config = transformers.BertConfig(
        hidden_size=d, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=4 * d
    )
    ids = torch.randint(0, config.vocab_size, (rows, length))
    batch = {"input_ids": ids, "labels": torch.where(torch.rand(ids.shape) < 0.15, ids, -100)}
    if name == "BertForPreTraining":
        batch["next_sentence_label"] = torch.randint(0, 2, (rows,))
    return getattr(transformers, name)(config), batch


MODELS = ("BertForMaskedLM", "BertForPreTraining", "GPT2LMHeadModel")


def language(count: int) -> None:
    print(f"{where()}, {'fp32' if DEVICE == 'cpu' else 'bf16 autocast'}, forward + backward + AdamW")
    print("| | the library | patched | ratio | products of the patched step |\n|---|---|---|---|---|")
    for name in MODELS:
        model, batch = model_of(name)
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)  # as the Trainer of transformers

        def step(model: Any = model, batch: Any = batch, optimizer: Any = optimizer) -> None:
            optimizer.zero_grad()
            with torch.autocast(DEVICE, torch.bfloat16, enabled=DEVICE == "cuda"):
                loss = model(**batch).loss
            loss.backward()
            optimizer.step()

        times, products = row(f"`{name}`", pairs("transformers", step, count)), "-"
        if DEVICE == "cpu":
            with fastssl.patched("transformers", min_rows=0):
                products = f"{1e3 * seconds_of_products(step):,.1f} ms"
        print(f"{times} {products} |", flush=True)
    if DEVICE == "cuda":
        print("\n| peak memory of a step | the library | patched | share |\n|---|---|---|---|")
        for name in MODELS:
            peaks = [_peak_of_step(name, patched) for patched in (False, True)]
            print(f"| `{name}` | {peaks[0]:,.0f} MiB | {peaks[1]:,.0f} MiB | {peaks[1] / peaks[0]:.2f} |", flush=True)
        return
    print("\n| memory of head and loss | the library | patched | share |\n|---|---|---|---|")
    context = multiprocessing.get_context("spawn")
    for name in MODELS:
        found = []
        for patched in (False, True):
            ours, theirs = context.Pipe()
            process = context.Process(target=_peak, args=(name, patched, theirs))
            process.start()
            found.append(ours.recv())
            process.join()
        print(f"| `{name}` | {found[0]:,.0f} MiB | {found[1]:,.0f} MiB | {found[1] / found[0]:.2f} |", flush=True)


def _peak_of_step(name: str, patched: bool) -> float:
    """MiB on the GPU above the weights."""
    model, batch = model_of(name)
    if patched:
        fastssl.patch("transformers")
    for _ in range(2):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(**batch).loss
        loss.backward()
    fastssl.unpatch()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def _peak(name: str, patched: bool, to: Any) -> None:
    """MiB that the head and its loss add to a process whose encoder's states are given."""
    model, batch = model_of(name)
    if patched:
        fastssl.patch("transformers")
    body = model.base_model
    with torch.no_grad():
        states = body(batch["input_ids"])
    states[0].requires_grad_()
    body.forward = functools.partial(lambda given, *args, **kwargs: given, states)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    model(**batch).loss.backward()
    to.send(status("VmHWM") - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["losses", "others", "language"])
    parser.add_argument("--rows", type=int, nargs="+", default=[512, 2048, 4096, 8192])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument(
        "--clock", choices=list(CLOCKS), default="wall", help="cpu: seconds of all threads, for a busy machine"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    given = parser.parse_args()
    global CLOCK, DEVICE
    CLOCK, DEVICE = given.clock, given.device
    torch.set_default_device(DEVICE)
    print(json.dumps({"torch": torch.__version__, "instructions": fastssl.instruction_set(), "clock": CLOCK}))
    if given.what == "losses":
        losses(given.rows, given.pairs)
    elif given.what == "others":
        others(given.pairs)
    else:
        language(given.pairs)


if __name__ == "__main__":
    main()
