"""Options of a pretraining run, and the launcher that started its processes."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from fastssl._options import integer, plain_fields
from fastssl.models.folder import holds_run
from fastssl.models.precision import faster_precision
from fastssl.train.optim import OPTIMIZERS, SCHEDULES

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true")
ACCELERATORS = ("auto", "cpu", "cuda", "gpu")
STRATEGIES = ("ddp", "fsdp")


@dataclass
class Pretraining:
    """Options of a run; all of them are stored in its checkpoint.

    Args:
        epochs: passes over the data; with ``minutes`` it is derived from the measured speed.
        batch_size: items per step, over all processes.
        lr: learning rate at the end of the warm-up.
        warmup_epochs: epochs of linear warm-up; at most half of the run.
        weight_decay: weight decay of the optimiser.
        optimizer: "adamw", "sgd", "lars" or "muon".
        schedule: of the learning rate after the warm-up: "cosine" or "linear" to 0, or "constant".
        betas: of "adamw" and "muon".
        clip: largest norm of the gradient, to which it is scaled down; None: any.
        minutes: duration of the run, to which it is cut at a step if it is less than ten epochs, else at the nearest
            epoch; the number of epochs is estimated from the first steps, and anew after every eighth of the run (the
            schedule of the learning rate is then that of the new number). None: ``epochs`` decides.
        seed: seed of all random draws.
        precision: precision of Lightning Fabric: "32-true", "bf16-mixed", ...; "auto": "bf16-mixed" on a GPU that
            supports it, or a CPU that multiplies it faster than fp32 (AMX; AMD from Zen 4 on), else
            "32-true". On CPUs :class:`fastssl.models.FasterCpuOperations` and :func:`fastssl.models.faster_dropout` are
            used.
        accelerator: "cpu", "cuda", or "auto": a GPU if available.
        devices: processes on this machine. They share a batch: pair losses cover all of it, batch norm sees the local
            part (:func:`fastssl.distributed.sharded`). Under torchrun and SLURM the launcher decides; else each further
            process runs the script again from its first line: put what is to happen once behind :func:`is_rank_zero`.
        nodes: machines, each with ``devices`` processes.
        strategy: with several processes: "ddp" replicates the network, "fsdp" shards parameters and optimiser state
            (FSDP2).
        chunk: rows that the encoder processes at a time, while the loss covers the whole batch (:func:`cached_step`);
            "auto": as many as keep their activations within the memory budget; None: all.
        accumulate: micro-batches per step; the gradient is that of the whole batch. Losses that are means over rows
            are summed, contrastive ones cover the embeddings of all micro-batches (as with ``chunk``); methods that
            allow neither raise. Batch norm normalises within a micro-batch.
        compile: compile the encoder with ``torch.compile``; may change on resuming.
        deterministic: on a GPU, algorithms that give the same bits for the same inputs, with which a run is repeated
            and resumed bit for bit (on a CPU it always is); False: the fastest.
        workers: loader threads per process; None: as many as torch uses.
        on_error: "raise", or "skip" and count unreadable items.
        views_on: "cpu", or "gpu": it makes the views of methods that take the views of their augmentation alone
            (SimCLR, MoCo, BYOL, ...) from images of three channels, with the same bits, and is sent the images only, so
            that the CPU has to decode them only; other views are made on the CPU. Needs the CUDA kernels (``fastssl
            info``).
        draft: let JPEG decoders decode at reduced size if a view needs no more; see :class:`fastssl.data.Loader`.
        probe_every: epochs between two evaluations of the features by k-NN and a linear probe, on the labels of the
            data; None: never. The training is bitwise unaffected.
        checkpoint_minutes: time between checkpoints.
        timeout_minutes: how long processes wait for each other before one is considered lost.

    Raises:
        ValueError: from :meth:`check`: an option out of range, unknown, or incompatible with another.

    Example:
        >>> from fastssl.train import Pretraining
        >>> Pretraining(epochs=10, batch_size=256).check()
    """

    epochs: int = 100
    batch_size: int = 512
    lr: float = 2e-3
    warmup_epochs: float = 2
    weight_decay: float = 1e-4
    optimizer: str = "adamw"
    schedule: str = "cosine"
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float | None = None
    minutes: float | None = None
    seed: int = 0
    precision: str = "auto"
    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: str = "ddp"
    chunk: int | str | None = None
    accumulate: int = 1
    compile: bool = False
    deterministic: bool = True
    workers: int | None = None
    on_error: str = "raise"
    views_on: str = "cpu"
    draft: bool = True
    probe_every: int | None = None
    checkpoint_minutes: float = 2
    timeout_minutes: float = 10

    def check(self) -> None:
        """Raises ValueError for invalid options."""
        plain_fields(self)
        for name, least in (
            ("epochs", 1),
            ("batch_size", 1),
            ("devices", 1),
            ("nodes", 1),
            ("accumulate", 1),
            ("workers", 1),
            ("probe_every", 1),
            ("seed", 0),
        ):
            given = getattr(self, name)
            if name in ("workers", "probe_every") and given is None:
                continue
            integer(name, given, least)
        if self.seed >= 2**64:
            raise ValueError(f"seed: expected an integer below 2^64, got {self.seed}")
        for name, choices in (
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("precision", ("auto", *PRECISIONS)),
            ("accelerator", ACCELERATORS),
            ("strategy", STRATEGIES),
            ("on_error", ("raise", "skip")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {getattr(self, name)!r}")
        for name, rule in (
            ("lr", "> 0"),
            ("minutes", "> 0"),
            ("clip", "> 0"),
            ("warmup_epochs", ">= 0"),
            ("weight_decay", ">= 0"),
            ("checkpoint_minutes", ">= 0"),
            ("timeout_minutes", "> 0"),
        ):
            given = getattr(self, name)
            if name in ("minutes", "clip") and given is None:
                continue
            if not math.isfinite(given) or given < 0 or (rule == "> 0" and given == 0):
                raise ValueError(f"{name}: expected a number {rule}, got {given}")
        self.betas = tuple(self.betas)  # type: ignore[assignment]  # of a checkpoint: a list
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas: expected two numbers in [0, 1), got {self.betas}")
        if self.chunk not in (None, "auto"):
            integer("chunk", self.chunk, 1, also=", 'auto' or None")
        if self.chunk is not None and self.precision.startswith("16"):
            raise ValueError(f"chunk: expected a precision without loss scaling, got {self.precision!r}")
        if self.chunk is not None and self.accumulate > 1:
            raise ValueError("accumulate: give chunk or accumulate, not both")
        if self.compile and self.strategy == "fsdp":
            raise ValueError("compile: expected strategy 'ddp', got 'fsdp'")
        if self.precision.startswith("16") and self.device_type == "cpu":
            raise ValueError(
                f"precision: expected 'bf16-mixed', '32-true' or 'auto' on the CPU, got {self.precision!r}"
            )
        if self.views_on not in ("cpu", "gpu"):
            raise ValueError(f"views_on: expected 'cpu' or 'gpu', got {self.views_on!r}")
        if self.views_on == "gpu" and (why := self._no_views_on_gpu()):
            raise ValueError(f"views_on: 'gpu' is not usable: {why}")
        if self.accelerator in ("cuda", "gpu") and not torch.cuda.is_available():
            raise ValueError(f"accelerator: {self.accelerator!r} needs a GPU that this torch can use, there is none")

    @property
    def device_type(self) -> str:
        """The device type of the run: "cuda" or "cpu"."""
        automatic = "cuda" if torch.cuda.is_available() else "cpu"
        return {"auto": automatic, "gpu": "cuda"}.get(self.accelerator, self.accelerator)

    def _no_views_on_gpu(self) -> str:
        from fastssl.ops.triton import cuda

        return cuda.reason() or ("" if self.device_type == "cuda" else "the run is on the CPU")

    @property
    def resolved_precision(self) -> str:
        """The precision, with "auto" resolved."""
        if self.precision != "auto":
            return self.precision
        return faster_precision(self.device_type)

    @property
    def processes(self) -> tuple[int, int]:
        """Processes per machine, and machines: those started by a launcher, else ``devices`` and ``nodes``.

        Raises:
            ValueError: a launcher has started another number.
        """
        launch = detect_launcher()
        if launch is None:
            return self.devices, self.nodes
        for name, given, there in (("devices", self.devices, launch.devices), ("nodes", self.nodes, launch.nodes)):
            if given not in (1, there):
                what = "processes on this machine" if name == "devices" else "machines"
                raise ValueError(f"{name}: {launch.by} has started {there} {what}, got {given}")
        return launch.devices, launch.nodes


class Launch(NamedTuple):
    """A launched group of processes: launcher, processes on this machine, machines, and the rank of this process."""

    by: str
    devices: int
    nodes: int
    rank: int


def started_by_torchrun() -> int:
    """The number of processes of torchrun; 0 without it. (SLURM's variables are there in a batch script, too.)"""
    return int(os.environ.get("WORLD_SIZE", 1)) if "TORCHELASTIC_RUN_ID" in os.environ else 0


def detect_launcher() -> Launch | None:
    """The processes started by torchrun or SLURM's ``srun``; None: this process was started by neither.

    As in Lightning Fabric, a SLURM job named "bash" or "interactive" counts as a shell.

    Raises:
        ValueError: SLURM tasks are distributed unevenly over machines.
    """
    env = os.environ
    if world := started_by_torchrun():
        local = int(env["LOCAL_WORLD_SIZE"])
        return Launch("torchrun", local, world // local, int(env["RANK"]))
    if "SLURM_NTASKS" not in env or env.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        return None
    tasks, nodes = int(env["SLURM_NTASKS"]), int(env.get("SLURM_NNODES", 1))
    local = int(env.get("SLURM_NTASKS_PER_NODE", 1))
    if local * nodes != tasks:
        raise ValueError(
            f"devices: SLURM has started {tasks} tasks on {nodes} machines; set --ntasks-per-node to spread them evenly"
        )
    return Launch("SLURM", local, nodes, int(env.get("SLURM_PROCID", 0)))


def is_rank_zero() -> bool:
    """Whether this process has rank 0, among the processes of a launcher or of a run.

    Example:
        >>> from fastssl.train import is_rank_zero
        >>> is_rank_zero()
        True
    """
    launch = detect_launcher()
    started = any(int(os.environ.get(key, 0)) for key in ("LOCAL_RANK", "NODE_RANK"))
    return not started if launch is None else launch.rank == 0


def check_out(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Checks that a run can be written to a folder.

    Args:
        out: folder of the run.
        resume: whether an existing run is resumed.
        overwrite: whether an existing run may be replaced.

    Raises:
        ValueError: ``out`` is a file, or holds a run that is neither resumed nor replaced.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from fastssl.train import check_out
        >>> check_out(Path(tempfile.mkdtemp()), resume=False, overwrite=False)
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"out: expected a folder, {str(out)!r} is a file")
    if holds_run(out) and not resume and not overwrite:
        raise ValueError(
            f"out: {str(out)!r} holds a run already; resume it, overwrite it, or choose another folder "
            "(--resume, --overwrite, --out)"
        )
