"""What makes a fused kernel behave like one of torch's own operators: autograd, tracing, autocast, torch.func."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastssl.ops import extension

_NO_FORWARD_MODE = "fastssl: the fused losses have no forward-mode derivative; use the reference backend"


class Operator:
    """``fastssl::name(*arguments) -> result, *others`` with the gradient operator

    ``fastssl::name_backward(grad, *others[, result], *arguments, needs) -> gradients``, or the one that there is; bit k
    of ``needs`` stands for the k-th differentiable argument.

    Args:
        name: of the operator.
        tensors: how many of its arguments are tensors; they come first.
        differentiable: the positions of those that can have a gradient.
        fake: the shapes of its results, for tracing.
        save_result: whether the gradient needs the result itself.
        functions: the operator and its gradient in Python, for a GPU; those of the CPU are in the extension, if it is
            there. Where nobody watches them they are called as they are, which saves torch's dispatcher.
    """

    def __init__(
        self,
        name: str,
        tensors: int,
        differentiable: tuple[int, ...],
        fake: Callable[..., Any] | None,
        save_result: bool = False,
        functions: tuple[Callable[..., Any], Callable[..., Any]] | None = None,
    ) -> None:
        self.name, self.tensors, self.differentiable, self.save_result = name, tensors, differentiable, save_result
        self.functions = functions
        self._eager, self._transformable, self._transformable_backward = _functions(self)
        # What Function.apply does first, looking for what torch.func has wrapped, is done in __call__.
        self._apply = super(torch.autograd.Function, self._eager).apply  # type: ignore[misc]
        if functions is not None or extension._C is not None:
            self._operators = tuple(getattr(torch.ops.fastssl, name + end).default for end in ("", "_backward"))
            self._calls = tuple(operator._op for operator in self._operators)  # without a frame of Python
            self._register(fake)

    def __call__(self, *arguments: Any) -> Tensor:
        """Calls the operator by the cheapest way that the situation allows, and returns its first result."""
        if torch.compiler.is_compiling():
            return _first(self._operators[0](*arguments))
        given = arguments[: self.tensors]
        if transforms():  # also of other tensors than these: torch.func refuses functions as _Eager within its own
            return _first(self._transformable.apply(*self.without_kept(arguments)))
        if forward_ad._current_level >= 0 and any(
            t is not None and forward_ad.unpack_dual(t).tangent is not None for t in given
        ):
            raise RuntimeError(_NO_FORWARD_MODE)
        try:
            if self.functions is None and torch._C._is_any_autocast_enabled() and not _of_one_dtype(given):
                return _first(self._operators[0](*arguments))
            result: Tensor = self._apply(arguments[self.tensors :], *given)
            return result
        except RuntimeError as error:
            _reraise(error)
            raise

    def without_kept(self, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """Under a transform nothing is kept between forward and backward; ``keep`` is the last argument."""
        return arguments

    def saved(self, tensors: tuple[Any, ...], outputs: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
        result = outputs[:1] if self.save_result else ()
        return (*outputs[1:], *result, *tensors)

    def setup(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        outputs = output if isinstance(output, tuple) else (output,)
        ctx.save_for_backward(*self.saved(inputs[: self.tensors], outputs))
        ctx.constants = inputs[self.tensors :]
        ctx.mark_non_differentiable(*outputs[1:])
        ctx.set_materialize_grads(False)

    def backward(self, ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        """The gradients of the tensors, and None for every constant."""
        return (*self.gradients(ctx, grad, ctx.needs_input_grad), *(None,) * len(ctx.constants))

    def gradients(self, ctx: Any, grad: Tensor | None, needed: tuple[bool, ...]) -> list[Tensor | None]:
        """``needed``: which of the tensors need a gradient."""
        result: list[Tensor | None] = [None] * self.tensors
        if grad is None:
            return result
        needs = 0
        for bit, i in enumerate(self.differentiable):
            if needed[i]:
                needs |= 1 << bit
        everything = (grad, *ctx.saved_tensors, *ctx.constants, needs)
        try:
            if torch.compiler.is_compiling():
                grads = self._operators[1](*everything)
            elif transforms():
                grads = self._transformable_backward.apply(*everything)
            elif torch.is_grad_enabled():  # create_graph: the registered autograd says: no second derivative
                grads = self._operators[1](*everything)
            else:
                grads = self.directly(1, everything)
        except RuntimeError as error:
            _reraise(error)
            raise
        if isinstance(grads, Tensor):
            grads = (grads,)
        for bit, i in enumerate(self.differentiable):
            if needs >> bit & 1:
                result[i] = grads[bit]
        return result

    def directly(self, which: int, arguments: tuple[Any, ...]) -> Any:
        """Calls the operator (0) or its gradient (1) without the autograd that is registered for it: that costs 60 us
        more than all the rest."""
        if self.functions is not None and not is_watched(arguments):
            return self.functions[which](*arguments)
        with torch._C._AutoDispatchBelowAutograd():
            if not torch._C._is_any_autocast_enabled():
                return self._calls[which](*arguments)
            with torch._C._DisableAutocast():  # which would cast rows of 16 bits
                return self._calls[which](*arguments)

    def _fake_backward(self, *everything: Any) -> tuple[Tensor, ...] | Tensor:
        *rest, needs = everything
        arguments = rest[len(rest) - len(self._operators[0]._schema.arguments) :]
        like = next(a for a in arguments[: self.tensors] if a is not None)

        def gradient(bit: int, i: int) -> Tensor:
            if arguments[i] is None or not needs >> bit & 1:
                return like.new_empty((0,))
            return torch.empty_like(arguments[i], memory_format=torch.contiguous_format)

        made = tuple(gradient(bit, i) for bit, i in enumerate(self.differentiable))
        return made if len(made) > 1 else made[0]

    def _register(self, fake: Callable[..., Any] | None) -> None:
        forward, backward = f"fastssl::{self.name}", f"fastssl::{self.name}_backward"
        if fake is not None:
            torch.library.register_fake(forward, fake)
            torch.library.register_fake(backward, self._fake_backward)
        torch.library.register_autograd(forward, self.backward, setup_context=self.setup)
        torch.library.register_autograd(backward, no_second_derivative)
        # As torch's cross_entropy: computed in fp32 under autocast. Kernels do so with rows of one 16-bit dtype too,
        # GPU kernels with any.
        if self.functions is None:
            torch.library.register_autocast(forward, "cpu", torch.float32)


class KeepingOperator(Operator):
    """An operator whose last argument says what forward keeps for backward."""

    def without_kept(self, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return (*arguments[:-1], 0)


def _strided(t: Tensor) -> bool:
    """Whether these are rows whose features do not lie side by side."""
    return t.dim() == 2 and t.stride(1) != 1


def _of_one_dtype(tensors: tuple[Any, ...]) -> bool:
    """Whether these matrices need no cast for autocast: kernels sum 16-bit rows in fp32."""
    return len({t.dtype for t in tensors if t is not None and t.is_floating_point() and t.dim() == 2}) < 2


def differentiable_once(backward: Callable[..., tuple[Tensor | None, ...]]) -> Callable[..., Any]:
    """The backward pass of a loss that has no second derivative: what asks for one gets an error that says so."""

    @functools.wraps(backward)
    def call(ctx: Any, *grads: Tensor) -> Any:
        with torch.no_grad():
            found = backward(ctx, *grads)
        if not torch.is_grad_enabled():
            return found
        # What the gradients depend on, whose own gradients are refused.
        inputs = [t for t in (*grads, *ctx.saved_tensors) if t is not None and t.requires_grad]
        return tuple(None if g is None else _Refusal.apply(g, *inputs) for g in found)

    return call


class _Refusal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *inputs: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError(
            "fastssl: losses that several processes share, and pair_loss and pairwise_reduce with fused kernels, have "
            "no second derivative; the reference backend has, without group= (with fastssl.backend('reference'): ...)"
        )


def no_second_derivative(ctx: Any, *grads: Any) -> Any:
    raise RuntimeError(
        "fastssl: the fused losses have no second derivative; use the reference backend "
        "(with fastssl.backend('reference'): ...) where one is needed"
    )


def _functions(op: Operator) -> tuple[Any, Any, Any]:
    class _Eager(torch.autograd.Function):
        """The operator in eager mode: what ``setup`` and ``backward`` do, with the least overhead."""

        @staticmethod
        def forward(ctx: Any, constants: tuple[Any, ...], *tensors: Any) -> Tensor:
            for i, t in enumerate(tensors):
                if t is not None and not t.is_contiguous() and _strided(t):  # copied once, for the gradient too
                    tensors = (*tensors[:i], t.contiguous(), *tensors[i + 1 :])
            output = op.directly(0, (*tensors, *constants))
            outputs = output if isinstance(output, tuple) else (output,)
            if any(ctx.needs_input_grad):
                ctx.save_for_backward(*op.saved(tensors, outputs))
                ctx.constants = constants
                ctx.set_materialize_grads(False)
            return outputs[0]

        @staticmethod
        def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
            return (None, *op.gradients(ctx, grad, ctx.needs_input_grad[1:]))

    class Transformable(torch.autograd.Function):
        """The operator for torch.func: grad, vjp, jacrev and vmap work; forward mode says that it does not."""

        generate_vmap_rule = True

        @staticmethod
        def forward(*arguments: Any) -> Any:
            return op._operators[0](*arguments)

        setup_context = staticmethod(op.setup)
        backward = staticmethod(op.backward)

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Any:
            raise RuntimeError(_NO_FORWARD_MODE)

    class TransformableBackward(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*arguments: Any) -> Any:
            return op._operators[1](*arguments)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
            pass

        backward = staticmethod(no_second_derivative)

    return _Eager, Transformable, TransformableBackward


def _first(output: Any) -> Tensor:
    result: Tensor = output[0] if isinstance(output, (tuple, list)) else output
    return result


transforms = torch._C._are_functorch_transforms_active  # whether one of torch.func is at work


def is_transformed(arguments: Any) -> bool:
    """Whether torch.func has wrapped any of the tensors."""
    if not transforms():
        return False
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    return any(isinstance(t, Tensor) and wrapped(t) for t in arguments)


def is_watched(arguments: tuple[Any, ...]) -> bool:
    """Whether a mode or a kind of tensor wants to see the operator: fake tensors, counters of flops, DTensor."""
    if torch._C._len_torch_dispatch_stack() > 0:
        return True
    for given in arguments:
        if isinstance(given, Tensor) and type(given) is not Tensor and type(given) is not torch.nn.Parameter:
            return True
    return False


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Context of an operator that is called without :class:`Operator`."""
    try:
        yield
    except RuntimeError as error:
        _reraise(error)
        raise


def _reraise(error: RuntimeError) -> None:
    """Raises what a signal handler raised while a kernel ran, KeyboardInterrupt or a time limit's error."""
    if "fastssl: interrupted" in str(error):
        raised = None if extension._C is None else extension._C.take_raised()
        raise (raised or KeyboardInterrupt()) from None


def result_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32
