"""What an operator does for tensors of known shapes, as a list that needs no Python between its kernels.

Tensors that only kernels touch are places in one piece of memory, views are offsets, and kernels that follow each other
are launched by one call of the extension, which hands numbers and pointers to CUDA's driver as Triton's launcher does.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastssl.ops import extension
from fastssl.ops.gpu import INTERPRETING
from fastssl.ops.triton import launch

PIECE = 512  # bytes that places are multiples of, as those of torch's allocator
WORKSPACE = -1  # the last of the values of a call
LARGEST_SHARED = 228 * 1024  # bytes of shared memory, above which Triton's launcher sets an attribute


class Slot(int):
    """The place of a tensor among those that a plan has at hand."""


def slots_in(template: Any) -> list[Slot]:
    if type(template) is Slot:
        return [template]
    if type(template) in (list, tuple):
        return [slot for part in template for slot in slots_in(part)]
    return []


def _fill(template: Any, values: list[Any]) -> Any:
    if type(template) is Slot:
        return values[template]
    if type(template) in (list, tuple):
        return type(template)([_fill(part, values) for part in template])
    return template


def view(base: Tensor, size: tuple[int, ...], stride: tuple[int, ...], offset: int) -> Tensor:
    """Elements of another tensor's memory, ``offset`` elements behind its first."""
    return base.as_strided(size, stride, base.storage_offset() + offset)


class Allocation:
    """An empty tensor."""

    def __init__(self, into: Slot, like: Tensor) -> None:
        self.into, self.size, self.stride, self.dtype, self.device = (
            into,
            like.shape,
            like.stride(),
            like.dtype,
            like.device,
        )
        self.free: list[int] = []

    def slots(self) -> list[Slot]:
        return [self.into]

    def __call__(self, values: list[Any], stream: int) -> None:
        values[self.into] = torch.empty_strided(self.size, self.stride, dtype=self.dtype, device=self.device)


class Operation:
    """An operation of torch; ``into``: the slots of its results, in their order."""

    def __init__(
        self, function: Any, arguments: tuple[Any, ...], options: dict[str, Any], into: tuple[Slot | None, ...]
    ) -> None:
        self.function, self.arguments, self.options, self.into = function, arguments, options, into
        self.call = function if function is view else function._op  # without a frame of Python
        self.varying = [(k, part) for k, part in enumerate(arguments) if slots_in(part)]
        self.free: list[int] = []
        returns = [] if function is view else function._schema.returns
        self.writes = function is not view and bool(function._schema.is_mutable)
        aliases = len(returns) == 1 == len(into) and returns[0].alias_info is not None and not self.writes
        self.views = function is view or aliases

    def results(self) -> list[Slot]:
        return [slot for slot in self.into if slot is not None]

    def slots(self) -> list[Slot]:
        return [*slots_in(self.arguments), *slots_in(list(self.options.values())), *self.results()]

    def __call__(self, values: list[Any], stream: int) -> None:
        arguments = [*self.arguments]
        for k, part in self.varying:
            arguments[k] = values[part] if type(part) is Slot else _fill(part, values)
        options = {name: _fill(value, values) for name, value in self.options.items()} if self.options else {}
        result = self.call(*arguments, **options)
        if len(self.into) == 1 and self.into[0] is not None and isinstance(result, Tensor):
            values[self.into[0]] = result
            return
        for slot, value in zip(self.into, result if isinstance(result, (tuple, list)) else (result,)):
            if slot is not None:
                values[slot] = value


@dataclass(frozen=True)
class Launch:
    """A kernel; ``found``: the compiled kernel and its last arguments, None where kernels are interpreted."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    constants: dict[str, Any]
    found: Any

    def slots(self) -> list[Slot]:
        return slots_in(self.arguments)

    @property
    def scratch(self) -> int:
        """Bytes that its descriptors take."""
        programs = self.grid[0] * self.grid[1] * self.grid[2]
        return 0 if self.found is None else int(self.found[0].metadata.global_scratch_size) * programs


@dataclass(frozen=True)
class Place:
    """Bytes behind the first element of the tensor in a slot, or in the workspace."""

    base: int
    offset: int


class Plan:
    """Steps that make the results of an operator anew.

    Args:
        steps: as they were recorded.
        seen: the tensors of the slots then.
        given: the slots that a call fills, and those of constants.
        result: what the operator returns, of slots.
    """

    def __init__(self, steps: list[Any], seen: list[Tensor], given: int, constants: list[int], result: Any) -> None:
        self.result, self.seen = result, seen
        self.tensors = {*range(given), *constants, *slots_in(result)}  # those that Python or torch take
        self.pointers: set[int] = set()  # those that kernels take
        self.views: dict[int, int] = {}  # a view that only kernels take, of which tensor
        kept = [step for step in reversed(steps) if self._is_needed(step)][::-1]
        # Results first, so that nothing stands between kernels.
        first = [s for s in kept if isinstance(s, Allocation) and s.into in slots_in(result)]
        kept = [*first, *(s for s in kept if s not in first)]
        self.places, self.scratch, size = self._place(kept)
        self.steps = self._group([s for s in kept if not isinstance(s, Allocation) or s.into in self.tensors])
        free = {*range(len(seen))} - {*range(given), *constants, *slots_in(result)}
        for step in reversed(self.steps):  # what is not needed again makes room
            step.free = sorted(free.intersection(step.slots()))
            free.difference_update(step.free)
        self.values: list[Any] = [None] * (len(seen) + 1)
        for slot in constants:
            self.values[slot] = seen[slot]
        self.device = next(iter(seen)).device
        self.workspace = size
        del self.seen, self.pointers, self.views, self.tensors

    def __call__(self, inputs: list[Tensor], stream: int) -> Any:
        values = self.values.copy()
        values[: len(inputs)] = inputs
        if self.workspace:
            values[WORKSPACE] = torch.empty((self.workspace,), dtype=torch.uint8, device=self.device)
        for step in self.steps:
            step(values, stream)
            for slot in step.free:
                values[slot] = None
        return _fill(self.result, values)

    def _is_needed(self, step: Any) -> bool:
        """Whether a step stays, of whose results all uses are known."""
        if isinstance(step, Launch):
            self.pointers.update(step.slots())
            return True
        if isinstance(step, Allocation):
            return step.into in self.tensors or step.into in self.pointers
        results = step.results()
        if not step.writes and self.tensors.isdisjoint(results) and self.pointers.isdisjoint(results):
            return False
        if step.views and self.tensors.isdisjoint(results):
            base = slots_in(step.arguments)[0]
            if self.seen[base].dtype == self.seen[results[0]].dtype:
                self.views[results[0]] = base
                self.pointers.add(base)
                return False
        self.tensors.update(step.slots())
        return True

    def _root(self, slot: int) -> int:
        while slot in self.views and slot not in self.tensors:
            slot = self.views[slot]
        return slot

    def _place(self, steps: list[Any]) -> tuple[dict[int, Place], dict[int, Place], int]:
        """Of what kernels point to, by slot; of their descriptors, by ``id`` of the launch; the workspace's bytes."""
        lives: dict[Any, list[int]] = {}  # first and last step
        sizes: dict[Any, int] = {}
        for at, step in enumerate(steps):
            if not isinstance(step, Launch):
                continue
            if step.scratch:
                lives[id(step)], sizes[id(step)] = [at, at], step.scratch
            for slot in map(self._root, step.slots()):
                if slot not in self.tensors:
                    key = Slot(slot)
                    lives[key] = [lives.get(key, [at])[0], at]
                    sizes[key] = _bytes(self.seen[slot])
        offsets, size = _packed([(key, sizes[key], *lives[key]) for key in lives])
        places = {}
        for slot in self.pointers:
            root = self._root(slot)
            apart = self.seen[slot].data_ptr() - self.seen[root].data_ptr() if self.seen[slot].numel() else 0
            base = Place(root, 0) if root in self.tensors else Place(WORKSPACE, offsets.get(Slot(root), 0))
            places[int(slot)] = Place(base.base, base.offset + apart)
        scratch = {key: Place(WORKSPACE, at) for key, at in offsets.items() if type(key) is not Slot}
        return places, scratch, size

    def _group(self, steps: list[Any]) -> list[Any]:
        """With kernels that follow each other as one step."""
        grouped: list[Any] = []
        for step in steps:
            if not isinstance(step, Launch):
                grouped.append(step)
            elif grouped and isinstance(grouped[-1], Kernels):
                grouped[-1].launches.append(step)
            else:
                grouped.append(Kernels([step]))
        for group in grouped:
            if isinstance(group, Kernels):
                group.prepare(self.places, self.scratch, self.seen)
        return grouped


class Kernels:
    """Kernels that are launched one after the other."""

    def __init__(self, launches: list[Launch]) -> None:
        self.launches = launches
        self.free: list[int] = []

    def slots(self) -> list[int]:
        return [slot for slot in self.bases if slot != WORKSPACE]

    def prepare(self, places: dict[int, Place], scratch: dict[int, Place], seen: list[Tensor]) -> None:
        """Once all of them are known."""
        used = [places[slot] for each in self.launches for slot in each.slots()]
        used += [scratch[id(each)] for each in self.launches if id(each) in scratch]
        self.bases = sorted({place.base for place in used})
        self.compiled = self._for_driver(places, scratch)
        self.device = seen[0].device.index or 0
        if self.compiled is None:
            slots = {slot for each in self.launches for slot in each.slots()}
            self.shapes = {s: (places[s], seen[s].dtype, seen[s].shape, seen[s].stride()) for s in slots}

    def _for_driver(self, places: dict[int, Place], scratch: dict[int, Place]) -> Any:
        """The list as the extension launches it; None where some kernel asks for more than CUDA's oldest launch."""
        described = [None if each.found is None else parameters(each.found, each.arguments) for each in self.launches]
        if any(found is None for found in described) or extension._C is None:
            return None
        made = extension._C.Launches(len(self.bases))
        for each, found in zip(self.launches, described):
            assert found is not None
            numbers, pointers = found
            placed = [(at, places[slot]) for at, slot in pointers]
            if id(each) in scratch:
                placed.append((len(numbers), scratch[id(each)]))
            compiled = each.found[0]
            made.add(
                compiled.function,
                each.grid,
                32 * compiled.metadata.num_warps,
                compiled.metadata.shared,
                [*numbers, 0, 0],  # memory for descriptors, and for a profiler
                [(at, self.bases.index(place.base), place.offset) for at, place in placed],
            )
        return made

    def __call__(self, values: list[Any], stream: int) -> None:
        if self.compiled is not None:
            self.compiled([values[slot].data_ptr() for slot in self.bases], stream, self.device)
            return
        if not INTERPRETING:
            launch.use_scratch()
        for each in self.launches:
            arguments = [self._tensor(a, values) if type(a) is Slot else a for a in each.arguments]
            if each.found is None:
                each.kernel[each.grid](*arguments, **each.constants)
            else:
                launch.launch_compiled(each.found, each.grid, stream, arguments)

    def _tensor(self, slot: Slot, values: list[Any]) -> Tensor:
        place, dtype, shape, stride = self.shapes[slot]
        base = values[WORKSPACE].view(dtype) if place.base == WORKSPACE else values[place.base]
        return view(base, shape, stride, place.offset // dtype.itemsize)


def _bytes(tensor: Tensor) -> int:
    last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride()))
    return (last + 1) * tensor.element_size() if tensor.numel() else 0


def _packed(wanted: Iterable[tuple[Any, int, int, int]]) -> tuple[dict[Any, int], int]:
    """Offsets of pieces of memory (key, bytes, first step, last step), of which two that live at once do not overlap;
    and the bytes of all. Largest first, each at the first place that is free as long as it lives."""
    placed: list[tuple[int, int, int, int]] = []
    offsets: dict[Any, int] = {}
    for key, size, first, last in sorted(wanted, key=lambda piece: -piece[1]):
        length = -(-size // PIECE) * PIECE
        at = 0
        for begin, end, born, died in sorted(placed):
            if born <= last and first <= died and begin < at + length and at < end:
                at = end
        placed.append((at, at + length, first, last))
        offsets[key] = at
    return offsets, max((end for _, end, _, _ in placed), default=0)


_FORMATS = {"fp32": "<f", "f32": "<f", "fp64": "<d", "f64": "<d"}


def parameters(found: Any, arguments: tuple[Any, ...]) -> tuple[list[int], list[tuple[int, Slot]]] | None:
    """What a driver is given for a compiled kernel: numbers in the low bits of 64, and which of them are pointers to
    which slots. None where the kernel needs another launch than the plain one."""
    compiled = found[0]
    metadata = compiled.metadata
    if metadata.num_ctas != 1 or metadata.shared > LARGEST_SHARED:
        return None
    asked = ("launch_cooperative_grid", "launch_pdl", "profile_scratch_size", "tensordesc_meta")
    if any(getattr(metadata, name, None) for name in asked):
        return None
    kinds = list(compiled.src.signature.values())[: len(arguments)]
    numbers: list[int] = []
    pointers: list[tuple[int, Slot]] = []
    for kind, value in zip(kinds, arguments):
        if kind == "constexpr":
            continue
        if type(value) is Slot and kind.startswith("*"):
            pointers.append((len(numbers), value))
            numbers.append(0)
        elif kind in _FORMATS and isinstance(value, (int, float)):
            numbers.append(int.from_bytes(struct.pack(_FORMATS[kind], value), "little"))
        elif kind[:1] in ("i", "u") and kind[1:].isdigit() and isinstance(value, int) and type(value) is not Slot:
            numbers.append(int(value) & (2**64 - 1))
        else:
            return None
    return numbers, pointers
