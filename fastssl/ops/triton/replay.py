"""Replays what an operator did for the same shapes: with few rows a GPU waits for the Python that prepares launches.

An operator on Triton kernels is a list of allocations, launches and a few operations of torch, which follows from
shapes, dtypes, strides and numbers alone. The first call with some of these runs as it is, the second is recorded, and
later ones replay the list with new tensors: the same kernels on the same sizes of tiles, hence the same bits.
"""

from __future__ import annotations

import contextlib
import functools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastssl.ops import extension
from fastssl.ops.gpu import INTERPRETING
from fastssl.ops.triton import launch
from fastssl.ops.triton.plan import Allocation, Launch, Operation, Plan, Slot, view

LONGEST = 96  # steps; longer lists belong to batches whose kernels take longer than Python
KEPT = 128  # lists per operator: batches, last batches, queues
aten = torch.ops.aten
_ALLOCATE = (aten.empty, aten.new_empty, aten.empty_strided, aten.empty_like, aten.new_empty_strided)
_SAME = (aten.detach, aten.alias)  # below autograd: the tensor itself


class Recorder(TorchDispatchMode):
    """Watches a call: ``steps`` repeat it, unless ``unsound`` says why they would not."""

    def __init__(self, inputs: list[Tensor]) -> None:
        super().__init__()
        self.inputs = len(inputs)
        self.seen: list[Tensor] = []  # by slot; kept, so that no two have one id
        self.same: list[Tensor] = []  # others of a slot
        self.by_id: dict[int, int] = {}
        self.by_storage: dict[int, int] = {}
        self.constants: list[int] = []
        self.steps: list[Any] = []
        self.unsound = ""
        self.paused = False  # while a kernel is compiled or interpreted
        storages = [tensor.untyped_storage()._cdata for tensor in inputs]
        self.shared = {storage for storage in storages if storages.count(storage) > 1}
        for tensor in inputs:
            self.slot(tensor)

    def slot(self, tensor: Tensor) -> Slot:
        """A new slot."""
        self.seen.append(tensor)
        self.by_id.setdefault(id(tensor), len(self.seen) - 1)
        self.by_storage.setdefault(tensor.untyped_storage()._cdata, len(self.seen) - 1)
        return Slot(len(self.seen) - 1)

    def resolve(self, value: Any) -> Any:
        """Tensors become slots, also such as only torch has seen: views of others, and numbers on the device."""
        if isinstance(value, Tensor):
            found = self.by_id.get(id(value))
            if found is not None:
                return Slot(found)
            storage = value.untyped_storage()._cdata
            base = self.by_storage.get(storage)
            slot = self.slot(value)
            if base is None:
                self.constants.append(slot)
            else:
                whole = self.seen[base]
                if whole.dtype != value.dtype or storage in self.shared:
                    self.unsound = "a view of another dtype, or of one of several inputs"
                offset = value.storage_offset() - whole.storage_offset()
                self.steps.append(Operation(view, (Slot(base), value.shape, value.stride(), offset), {}, (slot,)))
            return slot
        if type(value) in (list, tuple):
            return type(value)([self.resolve(part) for part in value])
        return value

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.paused or self._gave_up():
            return function(*args, **(kwargs or {}))
        arguments = self.resolve(tuple(args))
        options = {name: self.resolve(value) for name, value in (kwargs or {}).items()}
        result = function(*args, **(kwargs or {}))
        results = result if isinstance(result, (tuple, list)) else (result,)
        if not all(isinstance(r, Tensor) or r is None for r in results):
            self.unsound = f"{function} reads from the device"
        elif function.overloadpacket in _SAME:
            self.by_id[id(result)] = int(arguments[0])
            self.same.append(result)
        elif function.overloadpacket in _ALLOCATE:
            self.steps.append(Allocation(self.slot(result), result))
        else:
            into = tuple(None if r is None else self._result(r) for r in results)
            self.steps.append(Operation(function, arguments, options, into))
        return result

    def _gave_up(self) -> bool:
        """Whether nothing is watched any more, nor kept: strips of scores are as many as there are rows."""
        if len(self.steps) > LONGEST:
            self.unsound = "more steps than are replayed"
        if self.unsound:
            for kept in (self.seen, self.same, self.by_id, self.by_storage, self.constants, self.steps):
                kept.clear()
        return bool(self.unsound)

    def _result(self, tensor: Tensor) -> Slot:
        found = self.by_id.get(id(tensor))  # of an operation in place
        return self.slot(tensor) if found is None else Slot(found)

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        self.paused = True
        try:
            yield
        except BaseException:  # other tiles will be tried
            self.unsound = "a launch failed"
            raise
        finally:
            self.paused = False

    def launched(self, kernel: Any, grid: Any, arguments: Any, constants: dict[str, Any], found: Any) -> None:
        if not self._gave_up():
            self.steps.append(Launch(kernel, launch.whole_grid(grid), self.resolve(tuple(arguments)), constants, found))


SEEN, NEVER = object(), object()


def replayed(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, of tensors and numbers, which replays what it did for others of the same shapes."""
    plans: OrderedDict[Any, Any] = OrderedDict()

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        inputs = [a for a in arguments if isinstance(a, Tensor)]
        device = inputs[0].device
        if launch._observer is not None or (device.type == "cuda" and torch.cuda.is_current_stream_capturing()):
            return function(*arguments)
        key = _key(arguments, inputs)
        plan = plans.get(key)
        if plan is NEVER:
            return function(*arguments)
        if plan is None:
            plans[key] = SEEN
            while len(plans) > KEPT:
                plans.popitem(last=False)
            return function(*arguments)
        if plan is SEEN:
            result, plans[key] = _record(function, arguments, inputs)
            return result
        if INTERPRETING:
            return plan(inputs, 0)
        with launch.current_device(device.index):
            return plan(inputs, torch._C._cuda_getCurrentRawStream(device.index))

    call.plans = plans  # type: ignore[attr-defined]
    return call


def _record(function: Callable[..., Any], arguments: tuple[Any, ...], inputs: list[Tensor]) -> tuple[Any, Any]:
    recorder = Recorder(inputs)
    before = getattr(launch.recording, "recorder", None)
    launch.recording.recorder = recorder
    try:
        with recorder:
            result = function(*arguments)
    finally:
        launch.recording.recorder = before
    if recorder.unsound or len(recorder.steps) > LONGEST:
        return result, NEVER
    slots = recorder.resolve(result)
    return result, Plan(recorder.steps, recorder.seen, len(inputs), recorder.constants, slots)


def _situation() -> tuple[Any, ...]:
    """What else than arguments decides which kernels run."""
    exact = "" if INTERPRETING else torch.backends.cuda.matmul.fp32_precision
    return exact, extension.get_memory_budget(), launch.WIDEST_RESIDENT, torch.is_inference_mode_enabled()


def _key(arguments: tuple[Any, ...], inputs: list[Tensor]) -> tuple[Any, ...]:
    """All that a plan depends on; one function without calls, since it is made for every call of an operator."""
    key: list[Any] = [*_situation()]
    for given in arguments:
        if isinstance(given, Tensor):
            aligned = given.data_ptr() % launch.ALIGNMENT
            key += (given.dtype, given.shape, given.stride(), aligned, given.device.index)
        elif type(given) is list:
            key.append(tuple(given))
        else:
            key += (type(given), given)
    # What is one tensor in one call may be two in another: for every tensor the first that is it.
    places = [*map(id, inputs)]
    if len({*places}) < len(places):
        key += map(places.index, places)
    return tuple(key)
