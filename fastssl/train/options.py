"""What a run of pretraining is."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from fastssl.train.optim import OPTIMIZERS

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true")
ACCELERATORS = ("auto", "cpu", "cuda", "gpu")
STRATEGIES = ("ddp", "fsdp")


@dataclass
class Pretraining:
    """What a run is: all of it is written into its checkpoint.

    Args:
        epochs: passes over the data; with ``minutes`` it is chosen from the measured speed.
        batch_size: items a step, over all processes.
        lr: learning rate at the end of the warm-up.
        warmup_epochs: linear warm-up.
        weight_decay: of the optimiser.
        optimizer: "adamw", "sgd" or "lars".
        minutes: wanted duration; None: ``epochs`` counts.
        seed: of everything random.
        precision: of Lightning Fabric: "32-true", "bf16-mixed", ...; "auto": "bf16-mixed" on a GPU that has it.
        accelerator: "cpu", "cuda", or "auto": a GPU where there is one.
        devices: processes on this machine, which share a batch: pair losses see all of it, batch norm a process's share
            (:func:`fastssl.distributed.sharded`). Under torchrun and SLURM those that they started.
        nodes: machines, each with so many processes.
        strategy: of several processes: "ddp": each has the whole network; "fsdp": each has a part of every parameter
            and of the optimiser's state (FSDP2).
        chunk: rows that the encoder sees at a time, while the loss sees the whole batch (:func:`cached_step`); "auto":
            as many as keep their activations in the memory budget; None: all.
        accumulate: parts that a batch is cut into, of which the encoder sees one at a time; the gradient of the step is
            that of the whole batch. Losses that are means over rows are summed up, contrastive ones see the embeddings
            of all parts (as with ``chunk``), methods that can do neither are refused. Batch norm normalises within a
            part.
        compile: run the encoder as ``torch.compile`` makes it; a run may be resumed with and without.
        workers: threads that read and augment, of each process; None: as many as torch uses.
        on_error: "raise", or "skip" items that cannot be read, which are counted.
        draft: let JPEG decoders make fewer pixels where a view needs no more; see :class:`fastssl.data.Loader`.
        probe_every: epochs between two looks at the features by k-NN and a linear probe, on the labels of the data;
            None: never. The training stays as it is, bit for bit.
        checkpoint_minutes: time between checkpoints.
        timeout_minutes: how long processes wait for each other before they take one for lost.

    Raises:
        ValueError: at :meth:`check`: an option out of range, unknown, or not to be combined with another.

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
    minutes: float | None = None
    seed: int = 0
    precision: str = "32-true"
    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: str = "ddp"
    chunk: int | str | None = None
    accumulate: int = 1
    compile: bool = False
    workers: int | None = None
    on_error: str = "raise"
    draft: bool = True
    probe_every: int | None = None
    checkpoint_minutes: float = 2
    timeout_minutes: float = 10

    def check(self) -> None:
        """Raises ValueError for what no run can be, before anything begins."""
        for name, least in (
            ("epochs", 1),
            ("batch_size", 1),
            ("devices", 1),
            ("nodes", 1),
            ("accumulate", 1),
            ("workers", 1),
            ("seed", 0),
        ):
            given = getattr(self, name)
            if name == "workers" and given is None:
                continue
            if isinstance(given, bool) or not isinstance(given, int) or given < least:
                raise ValueError(f"{name}: expected an integer >= {least}, got {given!r}")
        for name, choices in (
            ("optimizer", OPTIMIZERS),
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
            ("warmup_epochs", ">= 0"),
            ("weight_decay", ">= 0"),
            ("checkpoint_minutes", ">= 0"),
            ("timeout_minutes", "> 0"),
        ):
            given = getattr(self, name)
            if name == "minutes" and given is None:
                continue
            if not math.isfinite(given) or given < 0 or (rule == "> 0" and given == 0):
                raise ValueError(f"{name}: expected a number {rule}, got {given}")
        if self.chunk not in (None, "auto") and (
            isinstance(self.chunk, bool) or not isinstance(self.chunk, int) or self.chunk < 1
        ):
            raise ValueError(f"chunk: expected an integer >= 1, 'auto' or None, got {self.chunk!r}")
        if self.chunk is not None and self.precision.startswith("16"):
            raise ValueError(f"chunk: expected a precision without loss scaling, got {self.precision!r}")
        if self.chunk is not None and self.accumulate > 1:
            raise ValueError("accumulate: give chunk or accumulate, not both")
        if self.compile and self.strategy == "fsdp":
            raise ValueError("compile: expected strategy 'ddp', got 'fsdp'")
        if self.accelerator in ("cuda", "gpu") and not torch.cuda.is_available():
            raise ValueError(f"accelerator: {self.accelerator!r} needs a GPU that this torch can use, there is none")

    @property
    def device_type(self) -> str:
        """Where the run computes: "cuda" or "cpu"."""
        automatic = "cuda" if torch.cuda.is_available() else "cpu"
        return {"auto": automatic, "gpu": "cuda"}.get(self.accelerator, self.accelerator)

    @property
    def numbers(self) -> str:
        """The precision, with "auto" decided."""
        if self.precision != "auto":
            return self.precision
        return "bf16-mixed" if self.device_type == "cuda" and torch.cuda.is_bf16_supported() else "32-true"

    @property
    def processes(self) -> tuple[int, int]:
        """Processes on this machine, and machines: those that a launcher has started, else those that are asked for.

        Raises:
            ValueError: a launcher has started others.
        """
        launch = launched()
        if launch is None:
            return self.devices, self.nodes
        for name, given, there in (("devices", self.devices, launch.devices), ("nodes", self.nodes, launch.nodes)):
            if given not in (1, there):
                what = "processes on this machine" if name == "devices" else "machines"
                raise ValueError(f"{name}: {launch.by} has started {there} {what}, got {given}")
        return launch.devices, launch.nodes


class Launch(NamedTuple):
    """Processes that were started together: by whom, how many on this machine, on how many machines; which is this."""

    by: str
    devices: int
    nodes: int
    rank: int


def launched() -> Launch | None:
    """What torchrun or SLURM's ``srun`` have started; None: neither of them has started this process.

    As Lightning Fabric does, a job of SLURM that is called "bash" or "interactive" is taken for a shell.

    Raises:
        ValueError: tasks of SLURM that are not as many on each machine.
    """
    env = os.environ
    if "TORCHELASTIC_RUN_ID" in env:
        world, local = int(env["WORLD_SIZE"]), int(env["LOCAL_WORLD_SIZE"])
        return Launch("torchrun", local, world // local, int(env["RANK"]))
    if "SLURM_NTASKS" not in env or env.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        return None
    tasks, nodes = int(env["SLURM_NTASKS"]), int(env.get("SLURM_NNODES", 1))
    local = int(env.get("SLURM_NTASKS_PER_NODE", 1))
    if local * nodes != tasks:
        raise ValueError(
            f"devices: SLURM has started {tasks} tasks on {nodes} machines; ask for as many on each, --ntasks-per-node"
        )
    return Launch("SLURM", local, nodes, int(env.get("SLURM_PROCID", 0)))


def is_first() -> bool:
    """Whether this process is the one that speaks: rank 0 of a launcher's, and of those that a run has started.

    Example:
        >>> from fastssl.train import is_first
        >>> is_first()
        True
    """
    launch = launched()
    started = any(int(os.environ.get(key, 0)) for key in ("LOCAL_RANK", "NODE_RANK"))
    return not started if launch is None else launch.rank == 0


def check_out(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Raises ValueError for a folder that a run cannot be written into.

    Args:
        out: the folder of the run.
        resume: whether the run goes on.
        overwrite: whether a run that is there may be replaced.

    Raises:
        ValueError: a file, or a folder with a run that is neither resumed nor replaced.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from fastssl.train import check_out
        >>> check_out(Path(tempfile.mkdtemp()), resume=False, overwrite=False)
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"out: expected a folder, {str(out)!r} is a file")
    if (out / "checkpoint").exists() and not resume and not overwrite:
        raise ValueError(
            f"out: {str(out)!r} holds a run already; resume it, overwrite it, or choose another folder "
            "(--resume, --overwrite, --out)"
        )
