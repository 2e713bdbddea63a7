"""Augmentation programs: lists of operations, fused into one pass over each image."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastssl._options import integer
from fastssl.augment.images import ImageBatch, read_images
from fastssl.augment.ops import ColorJitter, Normalize, Operation, RandomErasing
from fastssl.ops import augment as kernels
from fastssl.ops import extension
from fastssl.ops.backend import resolve
from fastssl.ops.reference.augment import philox
from fastssl.ops.reference.auto_augment import CHOICES

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass
class Params:
    """Random parameters of the views of a batch.

    Args:
        values: float64 [B, columns].
        columns: names of the columns, such as ``"RandomResizedCrop.top"``.

    ``params["RandomResizedCrop.top"]`` is one column, ``params[3]`` a dictionary of the parameters of one image.

    Raises:
        KeyError: unknown column.

    Example:
        >>> import torch
        >>> from fastssl.augment import Augment, RandomCrop
        >>> images = torch.zeros(2, 48, 48, 3, dtype=torch.uint8)
        >>> views, params = Augment([RandomCrop(32)])(images, seed=0, return_params=True)
        >>> len(params['RandomCrop.top'])
        2
    """

    values: np.ndarray
    columns: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, key: str | int) -> Any:
        if isinstance(key, str):
            if key not in self.columns:
                raise KeyError(f"{key!r}: expected one of {self.columns}")
            return self.values[:, self.columns.index(key)]
        return dict(zip(self.columns, self.values[key].tolist()))

    def __iter__(self) -> Iterator[dict[str, float]]:
        return (self[k] for k in range(len(self)))


class Augment(nn.Module):
    """One view of every image, by a program of operations that is fused into one pass.

    Args:
        operations: the operations, in order: a crop, flips, then rotations and operations on colours in any
            order, and optionally :class:`Normalize`.
        dtype: dtype of the views: float32, bfloat16 or float16.
        channels_last: views in channels_last memory format.
        channels: number of channels. With 3, grey images are repeated, and alpha is dropped. With 1, RGB images are
            converted to grey. With 1 or any other number, every channel is augmented as a grey image with the same
            draws: contrast is relative to the mean of the channel, and hue, saturation, :class:`RandomGrayscale` and
            :class:`ColorProjection`, which are defined for three channels only, have no effect.

    Calls:

    - ``augment(images, seed=0)`` with uint8 images [B, H, W, C], [B, C, H, W] or a list of images of different sizes
      (arrays, tensors, Pillow images) returns a tensor [B, 3, height, width]. Where height or width could be channels
      (1, 3 or 4 pixels), tensors are [B, C, H, W] and arrays [B, H, W, C];
    - ``augment(image)`` with a single image returns [3, height, width], as a ``transform`` of a data set;
    - ``augment(images, return_params=True)`` returns ``(views, params)``; ``augment.apply(images, params)`` reproduces
      the views.

    Random parameters are keyed by (seed, epoch, sample id, view), by the counter-based generator Philox: they do not
    depend on the batch, its order, or the number of threads, workers or processes. Without ``seed``, a seed is drawn
    from torch's generator.

    Raises:
        TypeError: images of another dtype than uint8, or an invalid operation.
        ValueError: wrong shapes, images smaller than a crop without ``resize``, or operations in an invalid order.

    Example:
        >>> import torch
        >>> from fastssl.augment import Augment, ColorJitter, RandomHorizontalFlip, RandomResizedCrop
        >>> augment = Augment([RandomResizedCrop(32), RandomHorizontalFlip(), ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8)])
        >>> images = torch.randint(0, 256, (8, 64, 64, 3), dtype=torch.uint8)
        >>> views, params = augment(images, seed=0, return_params=True)
        >>> views.shape, params[0]["RandomResizedCrop.height"] <= 64
        (torch.Size([8, 3, 32, 32]), True)
        >>> bool((augment.apply(images, params) == views).all())
        True
    """

    def __init__(
        self,
        operations: Sequence[Operation | Normalize],
        *,
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
        channels: int = 3,
    ) -> None:
        super().__init__()
        channels = integer("channels", channels, 1)
        given = list(operations)
        normalize = given[-1] if given and isinstance(given[-1], Normalize) else None
        steps: list[Operation] = []
        size: tuple[int, int] | None = None
        for k, op in enumerate(given[:-1] if normalize else given):
            if isinstance(op, Normalize):
                raise ValueError(f"operations[{k}]: Normalize comes last, {given[k + 1]!r} follows it")
            if not isinstance(op, Operation):
                raise TypeError(f"operations[{k}]: expected an operation of fastssl.augment, got {op!r}")
            if op.geometric and not all(earlier.geometric for earlier in steps):
                raise ValueError(f"operations[{k}]: crops and flips come before the operations on colours, got {op!r}")
            if op.crops and steps:
                raise ValueError(f"operations[{k}]: expected one crop, as the first operation, got {op!r}")
            size = op.window(size)
            steps.append(op)
        if size is None:
            raise ValueError("operations: expected a crop, which determines the size of the views")
        rows = [(op, *row) for op in steps for row in op.rows()]
        if len(rows) > 32:
            raise ValueError(f"operations: expected at most 32, got {len(rows)}")
        if dtype not in DTYPES:
            raise ValueError(f"dtype: expected one of {DTYPES}, got {dtype}")
        self.operations = tuple(steps)
        self.normalize = normalize
        for op in steps:
            if channels != 3 and len({*op.color()}) > 1:
                name = "value" if isinstance(op, RandomErasing) else "fill"
                raise ValueError(f"{name}: expected one number for {channels} channels, got {op}")
        self.dtype, self.channels_last, self.channels = dtype, channels_last, channels
        self.size = size
        mean, std = [0.0] * channels, [1.0] * channels
        if normalize is not None:
            mean, std = normalize.means(channels), normalize.stds(channels)
        self._least = steps[0].least()
        self._output = kernels.Output(*size, dtype, channels_last, tuple(mean), tuple(std))
        self._program = np.zeros((len(rows), kernels.ROW))
        names: list[str] = []
        for k, (op, kind, arguments, columns) in enumerate(rows):
            self._program[k, :2] = kind, op.shared
            self._program[k, 2 : 2 + len(arguments)] = arguments
            name = type(op).__name__
            count = sum(type(other) is type(op) and which == kind for other, which, *_ in rows[:k])
            names += [f"{name}{count + 1 if count else ''}.{column}" for column in columns]
        self.columns = tuple(names)

    @property
    def steps(self) -> list[Operation | Normalize]:
        """The operations and, last, the normalisation if there is one."""
        return [*self.operations, *([self.normalize] if self.normalize else [])]

    def extra_repr(self) -> str:
        memory = ", channels_last" if self.channels_last else ""
        return "\n".join(
            [
                *map(repr, self.steps),
                f"-> {str(self.dtype)[6:]} [B, {self.channels}, {self.size[0]}, {self.size[1]}]{memory}",
            ]
        )

    def with_channels(self, channels: int) -> Augment:
        """The same program for views of another number of channels."""
        if channels == self.channels:
            return self
        return Augment(self.steps, dtype=self.dtype, channels_last=self.channels_last, channels=channels)

    def sample(
        self, sizes: Any, *, seed: int, epoch: int = 0, ids: Any = None, view: int = 0, backend: str | None = None
    ) -> Params:
        """Draws the random parameters for images of ``sizes`` [B, 2] (height, width)."""
        sizes = np.ascontiguousarray(np.asarray(sizes, dtype=np.int64).reshape(-1, 2))
        small = (sizes < self._least).any(1)
        if small.any():
            if (sizes < 1).any():
                raise ValueError("sizes: expected at least one pixel")
            crop: Any = self.operations[0]
            k, (height, width) = int(small.argmax()), self._least
            raise ValueError(
                f"images[{k}]: the crop does not fit the image of {sizes[k, 0]} x {sizes[k, 1]} pixels; expected "
                f"at least {height} x {width}, or a resize before the crop ({type(crop).__name__}({crop.size}, "
                f"resize={max(height, width)}))"
            )
        rows = np.arange(len(sizes)) if ids is None else np.asarray(ids).reshape(-1)
        if rows.shape != (len(sizes),) or (len(rows) and rows.dtype.kind not in "iu"):
            raise ValueError(f"ids: expected {len(sizes)} integers, got {rows.dtype} of shape {rows.shape}")
        for name, value in (("seed", seed), ("epoch", epoch), ("view", view)):
            integer(name, value, 0)
        seed, epoch, view = int(seed) & (2**64 - 1), int(epoch) & 0xFFFFFFFF, int(view)
        if view >= 0xFFFF:
            raise ValueError(f"view: expected less than 65535, got {view}")
        return Params(kernels.sample(self._program, sizes, seed, epoch, rows, view, backend), self.columns)

    def apply(
        self, images: Any, params: Params | None = None, *, backend: str | None = None, serial: bool = False
    ) -> Any:
        """Makes the views with given parameters.

        Args:
            images: as for a call.
            params: parameters, from :meth:`sample` or a previous call, or custom ones.
            backend: "reference", "cpu" or "cuda"; None: automatic.
            serial: use only the calling thread, for callers that are multi-threaded themselves.

        Raises:
            ValueError: parameters that are invalid for their image.
        """
        if params is None:
            return super().apply(images)  # nn.Module.apply(fn), called by parent modules
        return self._make(read_images(images, self.channels), params, backend, serial)

    def _make(self, batch: ImageBatch, params: Params, backend: str | None, serial: bool) -> Tensor:
        if params.columns != self.columns or params.values.shape != (len(batch), len(self.columns)):
            raise ValueError(
                f"params: expected {len(batch)} draws of {self.columns}, got {params.values.shape} of {params.columns}"
            )
        batch.require(self.channels)
        fused = batch.on_device is None and backend != "cuda" and resolve(torch.device("cpu"), backend) != "reference"
        if self.channels == 3 or fused:
            views: Tensor = kernels.apply(
                self._program, batch.images, batch.planar, params.values, self._output, backend, serial
            )
        else:
            views = self._one_by_one(batch, params, backend, serial)
        return views[0] if batch.single else views

    def _one_by_one(self, batch: ImageBatch, params: Params, backend: str | None, serial: bool) -> Tensor:
        """Views of other channels than three by backends that make views of three: each channel as a grey image."""
        program, values = self._program.copy(), params.values.copy()
        program[program[:, 0] == ColorJitter.kind, 7:11] = 1, 1, 0, 0  # neither saturation nor hue is asked for
        for part, nothing in (("saturation", 1), ("hue", 0), ("RandomGrayscale", 0), ("ColorProjection", 0)):
            values[:, [part in name for name in self.columns]] = nothing
        for k in [k for k, name in enumerate(self.columns) if name.endswith(".operation")]:
            values[values[:, k] == CHOICES.index("saturation"), k] = CHOICES.index("identity")
        planes = []
        for k, plane in enumerate(batch.planes(self.channels)):
            mean, std = ((numbers[k],) * 3 for numbers in (self._output.mean, self._output.std))
            output = replace(self._output, mean=mean, std=std)
            made = kernels.apply(program, plane.images, plane.planar, values, output, backend, serial)
            planes.append(made[:, :1])
        memory = torch.channels_last if self.channels_last else torch.contiguous_format
        return torch.cat(planes, 1).contiguous(memory_format=memory)

    def forward(
        self,
        images: Any,
        *,
        seed: int | None = None,
        epoch: int = 0,
        ids: Any = None,
        view: int = 0,
        return_params: bool = False,
        backend: str | None = None,
    ) -> Any:
        batch = read_images(images, self.channels)
        if seed is None:
            seed = fresh_seed()
        params = self.sample(batch.sizes, seed=seed, epoch=epoch, ids=ids, view=view, backend=backend)
        views = self._make(batch, params, backend, False)
        return (views, params) if return_params else views


def fresh_seed() -> int:
    """Draws a seed from torch's generator, which ``torch.manual_seed`` and DataLoader workers control."""
    return int(torch.randint(0, 2**62, (), dtype=torch.int64))


def uniform(seed: int, epoch: int, ids: Any, *, view: int = 0, block: int = 0, count: int = 4) -> np.ndarray:
    """Uniform draws in (0, 1), keyed by (seed, epoch, id, view, block): float64 [B, count].

    Args:
        seed: seed of the run.
        epoch: epoch of the run.
        ids: [B] integers, indices of the items.
        view: index of the view.
        block: first block of the counter; each block yields four numbers.
        count: numbers per id.

    Raises:
        ValueError: ``count`` exceeds the remaining blocks.

    Example:
        >>> from fastssl.augment import uniform
        >>> uniform(0, 1, [3, 5]).shape
        (2, 4)
    """
    ids = np.asarray(ids, dtype=np.int64).reshape(-1)
    if block + -(-count // 4) > 0x10000:
        raise ValueError(f"count: expected at most {4 * (0x10000 - block)} numbers, got {count}")
    if extension._C is not None:
        low, view = epoch & 0xFFFFFFFF, view & 0xFFFF
        drawn: np.ndarray = extension._C.uniform(int(seed) & (2**64 - 1), int(low), ids, view, block, count)
        return drawn
    return _uniform(seed, epoch, ids, view, block, count)


def _uniform(seed: int, epoch: int, ids: np.ndarray, view: int, block: int, count: int) -> np.ndarray:
    """:func:`uniform` by NumPy: without the extension, and the oracle of tests."""
    blocks = np.arange(block, block + -(-count // 4))
    counter = np.zeros((len(ids), len(blocks), 4), dtype=np.uint32)
    counter[..., 0] = blocks | (view & 0xFFFF) << 16
    counter[..., 1] = epoch & 0xFFFFFFFF
    counter[..., 2] = ids[:, None] & 0xFFFFFFFF
    counter[..., 3] = ids[:, None] >> 32
    bits = philox(counter.reshape(-1, 4), (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF))
    return (bits.reshape(len(ids), 4 * len(blocks))[:, :count] + 0.5) / 2**32


class Views(nn.Module):
    """Several views of every image, each by its own program.

    Args:
        programs: one :class:`Augment` per view, or (count, program) pairs: ``[(2, large), (6, small)]``.

    ``views(images, seed=0)`` returns a list of one tensor per view; see :class:`Augment` for ``images``, ``seed``,
    ``epoch``, ``ids`` and ``return_params``. ``views.collate`` is a ``collate_fn`` for (image, label) pairs.

    Example:
        >>> import torch
        >>> from fastssl.augment import Augment, RandomResizedCrop, Views
        >>> large, small = Augment([RandomResizedCrop(32)]), Augment([RandomResizedCrop(16, scale=(0.05, 0.4))])
        >>> views = Views([(2, large), (3, small)])
        >>> images = torch.randint(0, 256, (8, 64, 64, 3), dtype=torch.uint8)
        >>> [v.shape[-1] for v in views(images, seed=0)]
        [32, 32, 16, 16, 16]
    """

    def __init__(self, programs: Sequence[Augment | tuple[int, Augment]]) -> None:
        super().__init__()
        if not programs:
            raise ValueError("programs: expected at least one")
        self.counts: list[int] = []
        distinct = []
        for item in programs:
            count, program = item if isinstance(item, tuple) else (1, item)
            if not isinstance(program, Augment):
                raise TypeError(f"programs: expected Augment objects, got {program!r}")
            self.counts.append(integer("programs", count, 1))
            distinct.append(program)
        if len({program.channels for program in distinct}) > 1:
            raise ValueError(f"programs: expected views of one number of channels, got {distinct}")
        self.distinct = nn.ModuleList(distinct)

    @property
    def channels(self) -> int:
        """Number of channels of the views."""
        return self.programs[0].channels

    def with_channels(self, channels: int) -> Views:
        """The same views with another number of channels; see :class:`Augment`."""
        if channels == self.channels:
            return self
        made = copy.copy(self)
        made._modules = {"distinct": nn.ModuleList(p.with_channels(channels) for p in self.distinct)}  # type: ignore[operator]
        return made

    @property
    def counted(self) -> list[tuple[int, Augment]]:
        """The distinct programs, with the number of views of each."""
        return list(zip(self.counts, self.distinct))  # type: ignore[arg-type]

    @property
    def programs(self) -> list[Augment]:
        """The programs, one per view."""
        return [program for count, program in self.counted for _ in range(count)]

    def extra_repr(self) -> str:
        return f"views={len(self.programs)}, counts={self.counts}"

    def view(self, k: int, images: Any, **options: Any) -> Any:
        """Computes only view ``k``."""
        return self.programs[k](images, view=k, **options)

    def sample(self, sizes: Any, **options: Any) -> list[Params]:
        """Draws the random parameters of all views."""
        return [program.sample(sizes, view=k, **options) for k, program in enumerate(self.programs)]

    def apply(
        self,
        images: Any,
        params: Sequence[Params] | None = None,
        *,
        backend: str | None = None,
        serial: bool = False,
    ) -> Any:
        """Makes the views with given parameters, one :class:`Params` per view."""
        if params is None:
            return super().apply(images)  # nn.Module's
        if len(params) != len(self.programs):
            raise ValueError(f"params: expected one for each of {len(self.programs)} views, got {len(params)}")
        batch = read_images(images, self.channels)
        return [p._make(batch, drawn, backend, serial) for p, drawn in zip(self.programs, params)]

    def forward(
        self,
        images: Any,
        *,
        seed: int | None = None,
        epoch: int = 0,
        ids: Any = None,
        return_params: bool = False,
        backend: str | None = None,
    ) -> Any:
        batch = read_images(images, self.channels)
        if seed is None:
            seed = fresh_seed()
        params = self.sample(batch.sizes, seed=seed, epoch=epoch, ids=ids, backend=backend)
        made = [p._make(batch, drawn, backend, False) for p, drawn in zip(self.programs, params)]
        return (made, params) if return_params else made

    def collate(self, samples: Sequence[tuple[Any, Any]]) -> tuple[list[Tensor], Tensor]:
        """``DataLoader(dataset, collate_fn=views.collate)`` for a data set of (image, label) without transform.

        Raises:
            TypeError: samples without a label, or labels that are no numbers.
        """
        for k, sample in enumerate(samples):
            if not isinstance(sample, (tuple, list)) or len(sample) != 2:
                got = f"{len(sample)} values" if isinstance(sample, (tuple, list)) else type(sample).__name__
                raise TypeError(
                    f"samples[{k}]: expected (image, label), got {got}; without labels: "
                    "collate_fn=lambda images: views(images)"
                )
        images, labels = [image for image, _ in samples], [label for _, label in samples]
        try:
            numbers = torch.stack([torch.as_tensor(label) for label in labels]) if labels else torch.zeros(0).long()
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(
                f"samples: expected numbers or tensors of one shape as labels, got {labels[0]!r}, ...: number the "
                f"classes ({error})"
            ) from error
        made: list[Tensor] = self(images)
        return made, numbers
