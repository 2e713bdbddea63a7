"""Programs: a list of operations, compiled into one pass over each image."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastssl.augment.images import ImageBatch, read_images
from fastssl.augment.ops import Normalize, Operation
from fastssl.ops import augment as kernels
from fastssl.ops.reference.augment import philox

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass
class Params:
    """What was drawn for the views of a batch.

    Args:
        values: float64 [B, columns].
        columns: their names, ``"RandomResizedCrop.top"`` for example.

    ``params["RandomResizedCrop.top"]`` is one column, ``params[3]`` the draw of one sample as a dictionary.

    Raises:
        KeyError: a column that was not drawn.

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
    """One view of every image, by a program of operations that is compiled into one pass.

    Args:
        operations: the steps, in order. The first that gives a size (a crop) comes before all that change colours;
            a :class:`Normalize` may come last.
        dtype: of the views: float32, bfloat16 or float16.
        channels_last: views in channels_last memory format.
        channels: of the views. With 3, grey images get three equal channels, and alpha is left out. With 1, colours
            become lightness first. With another number, images have as many, and each channel is augmented as a grey
            image with the same draws: brightness, contrast, blur and solarize by channel, while hue, saturation,
            :class:`RandomGrayscale` and :class:`ColorProjection` change nothing.

    Calling it:

    - ``augment(images, seed=0)`` with uint8 images [B, H, W, C], [B, C, H, W] or a list of images of different sizes
      (arrays, tensors, Pillow images) gives a tensor [B, 3, height, width];
    - ``augment(image)`` with one image gives [3, height, width]: a ``transform`` of a data set;
    - ``augment(images, return_params=True)`` gives ``(views, params)``, and ``augment.apply(images, params)`` the same
      views again.

    What is drawn depends on (seed, epoch, sample id, view) alone (Philox, a counter-based generator): not on the
    batch, its order, the number of threads, workers or processes. Without ``seed`` one is drawn from torch's generator.

    Raises:
        TypeError: images that are not uint8, or what is no operation.
        ValueError: wrong shapes, images smaller than a crop without ``resize``, operations in an order that has no
            meaning.

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
        if isinstance(channels, bool) or not isinstance(channels, int) or channels < 1:
            raise ValueError(f"channels: expected an integer >= 1, got {channels!r}")
        given = list(operations)
        normalize = given[-1] if given and isinstance(given[-1], Normalize) else None
        steps: list[Operation] = []
        size: tuple[int, int] | None = None
        for k, op in enumerate(given[:-1] if normalize else given):
            if not isinstance(op, Operation):
                raise TypeError(f"operations[{k}]: expected an operation of fastssl.augment, got {op!r}")
            if op.geometric and not all(earlier.geometric for earlier in steps):
                raise ValueError(f"operations[{k}]: crops and flips come before the operations on colours, got {op!r}")
            if op.crops and steps:
                raise ValueError(f"operations[{k}]: expected one crop, as the first operation, got {op!r}")
            size = op.window(size)
            steps.append(op)
        if size is None:
            raise ValueError("operations: expected a crop that says how large the views are")
        if len(steps) > 32:
            raise ValueError(f"operations: expected at most 32, got {len(steps)}")
        if dtype not in DTYPES:
            raise ValueError(f"dtype: expected one of {DTYPES}, got {dtype}")
        self.operations = tuple(steps)
        self.normalize = normalize
        if channels != 3 and normalize is not None and len({*normalize.means()}) + len({*normalize.stds()}) > 2:
            raise ValueError(f"normalize: expected one mean and one deviation for {channels} channels, got {normalize}")
        self.dtype, self.channels_last, self.channels = dtype, channels_last, channels
        self.size = size
        mean, std = ([0.0] * 3, [1.0] * 3) if normalize is None else (normalize.means(), normalize.stds())
        self._output = kernels.Output(*size, dtype, channels_last, tuple(mean), tuple(std))
        self._program = np.zeros((len(steps), kernels.ROW))
        names: list[str] = []
        for k, op in enumerate(steps):
            arguments = op.arguments()
            self._program[k, :2] = op.kind, op.shared
            self._program[k, 2 : 2 + len(arguments)] = arguments
            name = type(op).__name__
            count = sum(type(other) is type(op) for other in steps[:k])
            names += [f"{name}{count + 1 if count else ''}.{column}" for column in op.columns]
        self.columns = tuple(names)

    def extra_repr(self) -> str:
        steps = [*self.operations, *([self.normalize] if self.normalize else [])]
        memory = ", channels_last" if self.channels_last else ""
        return "\n".join(
            [
                *map(repr, steps),
                f"-> {str(self.dtype)[6:]} [B, {self.channels}, {self.size[0]}, {self.size[1]}]{memory}",
            ]
        )

    def with_channels(self, channels: int) -> Augment:
        """The same program for views of another number of channels."""
        if channels == self.channels:
            return self
        steps: list[Operation | Normalize] = [*self.operations, *([self.normalize] if self.normalize else [])]
        return Augment(steps, dtype=self.dtype, channels_last=self.channels_last, channels=channels)

    def sample(
        self, sizes: Any, *, seed: int, epoch: int = 0, ids: Any = None, view: int = 0, backend: str | None = None
    ) -> Params:
        """Draws the parameters for images of ``sizes`` [B, 2] (height, width) without making the views."""
        sizes = np.ascontiguousarray(np.asarray(sizes, dtype=np.int64).reshape(-1, 2))
        if (sizes < 1).any():
            raise ValueError("sizes: expected at least one pixel")
        rows = np.arange(len(sizes)) if ids is None else np.asarray(ids).reshape(-1)
        if rows.shape != (len(sizes),) or (len(rows) and rows.dtype.kind not in "iu"):
            raise ValueError(f"ids: expected {len(sizes)} integers, got {rows.dtype} of shape {rows.shape}")
        for name, value in (("seed", seed), ("epoch", epoch), ("view", view)):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
                raise ValueError(f"{name}: expected an integer >= 0, got {value!r}")
        seed, epoch, view = int(seed) & (2**64 - 1), int(epoch) & 0xFFFFFFFF, int(view)
        if view >= 0xFFFF:
            raise ValueError(f"view: expected less than 65535, got {view}")
        return Params(kernels.sample(self._program, sizes, seed, epoch, rows, view, backend), self.columns)

    def apply(
        self, images: Any, params: Params | None = None, *, backend: str | None = None, serial: bool = False
    ) -> Any:
        """Makes the views that ``params`` describe.

        Args:
            images: as for a call.
            params: of the same images, or made by hand.
            backend: "reference", "cpu" or "cuda"; None chooses.
            serial: on the calling thread alone, for callers that are many threads themselves.

        Raises:
            ValueError: parameters that do not fit their image.
        """
        if params is None:
            return super().apply(images)  # nn.Module's, which every module above calls: images is a function
        return self._make(read_images(images, self.channels), params, backend, serial)

    def _make(self, batch: ImageBatch, params: Params, backend: str | None, serial: bool) -> Tensor:
        if params.columns != self.columns or params.values.shape != (len(batch), len(self.columns)):
            raise ValueError(
                f"params: expected {len(batch)} draws of {self.columns}, got {params.values.shape} of {params.columns}"
            )
        if self.channels == 3:
            views = self._views(batch, params, backend, serial)
        else:
            planes = [self._views(plane, params, backend, serial)[:, :1] for plane in batch.planes(self.channels)]
            memory = torch.channels_last if self.channels_last else torch.contiguous_format
            views = torch.cat(planes, 1).contiguous(memory_format=memory)
        return views[0] if batch.single else views

    def _views(self, batch: ImageBatch, params: Params, backend: str | None, serial: bool) -> Tensor:
        return kernels.apply(self._program, batch.images, batch.planar, params.values, self._output, backend, serial)

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
    """A seed from torch's generator: ``torch.manual_seed`` and a DataLoader's workers decide it."""
    return int(torch.randint(0, 2**62, (), dtype=torch.int64))


def uniform(seed: int, epoch: int, ids: Any, *, view: int = 0, block: int = 0, count: int = 4) -> np.ndarray:
    """Numbers in (0, 1) for every id, keyed by (seed, epoch, id, view, block) alone: float64 [B, count].

    A block is four numbers: ``count`` of them take as many blocks as they need, from ``block`` on.

    Args:
        seed: of the run.
        epoch: of the run.
        ids: [B] integers, the numbers of the items.
        view: the number of the view.
        block: the first block.
        count: numbers per id.

    Raises:
        ValueError: more numbers than blocks are left.

    Example:
        >>> from fastssl.augment import uniform
        >>> uniform(0, 1, [3, 5]).shape
        (2, 4)
    """
    ids = np.asarray(ids, dtype=np.int64).reshape(-1, 1)
    blocks = np.arange(block, block + -(-count // 4))
    if len(blocks) and blocks[-1] > 0xFFFF:
        raise ValueError(f"count: expected at most {4 * (0x10000 - block)} numbers, got {count}")
    counter = np.zeros((len(ids), len(blocks), 4), dtype=np.uint32)
    counter[..., 0] = blocks | (view & 0xFFFF) << 16
    counter[..., 1] = epoch & 0xFFFFFFFF
    counter[..., 2] = ids & 0xFFFFFFFF
    counter[..., 3] = ids >> 32
    drawn = philox(counter.reshape(-1, 4), (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF))
    return (drawn.reshape(len(ids), -1)[:, :count] + 0.5) / 2**32


class Views(nn.Module):
    """The views that a method needs of every image, each by its own program.

    Args:
        programs: one :class:`Augment` a view; a number repeats it: ``[(2, large), (6, small)]``.

    ``views(images, seed=0)`` gives a list of tensors, one a view; see :class:`Augment` for the images, ``seed``,
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
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ValueError(f"programs: expected a number of views >= 1, got {count!r}")
            self.counts.append(count)
            distinct.append(program)
        if len({program.channels for program in distinct}) > 1:
            raise ValueError(f"programs: expected views of one number of channels, got {distinct}")
        self.distinct = nn.ModuleList(distinct)

    @property
    def channels(self) -> int:
        """Of the views."""
        return self.programs[0].channels

    def with_channels(self, channels: int) -> Views:
        """The same views with another number of channels; see :class:`Augment`."""
        if channels == self.channels:
            return self
        made = copy.copy(self)
        made._modules = {"distinct": nn.ModuleList(p.with_channels(channels) for p in self.distinct)}  # type: ignore[operator]
        return made

    @property
    def programs(self) -> list[Augment]:
        """The program of every view."""
        return [program for count, program in zip(self.counts, self.distinct) for _ in range(count)]  # type: ignore[misc]

    def extra_repr(self) -> str:
        return f"views={len(self.programs)}, counts={self.counts}"

    def view(self, k: int, images: Any, **options: Any) -> Any:
        """View k alone, as a call of its program."""
        return self.programs[k](images, view=k, **options)

    def sample(self, sizes: Any, **options: Any) -> list[Params]:
        """The parameters of all views, without making them."""
        return [program.sample(sizes, view=k, **options) for k, program in enumerate(self.programs)]

    def apply(
        self,
        images: Any,
        params: Sequence[Params] | None = None,
        *,
        backend: str | None = None,
        serial: bool = False,
    ) -> Any:
        """Makes the views that ``params``, one a view, describe."""
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

    def collate(self, samples: Sequence[tuple[Any, int]]) -> tuple[list[Tensor], Tensor]:
        """``DataLoader(dataset, collate_fn=views.collate)`` for a data set of (image, label) without transform."""
        images, labels = zip(*samples)
        made: list[Tensor] = self(list(images))
        return made, torch.tensor(labels)
