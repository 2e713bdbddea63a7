"""Transforms of torchvision, timm and lightly as fused programs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import nn

from fastssl.augment.automatic import AutoAugment, RandAugment, TimmRandAugment, TrivialAugmentWide
from fastssl.augment.ops import (
    CenterCrop,
    ColorJitter,
    GaussianBlur,
    Normalize,
    Operation,
    RandomAdjustSharpness,
    RandomAutocontrast,
    RandomCrop,
    RandomEqualize,
    RandomErasing,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomInvert,
    RandomPosterize,
    RandomResizedCrop,
    RandomSolarize,
    RandomVerticalFlip,
    Resize,
)
from fastssl.augment.program import DTYPES, Augment, Views
from fastssl.augment.warps import INTERPOLATIONS, RandomAffine, RandomPerspective, RandomRotation, Warp

Step = Operation | Normalize
Rules = Mapping[type, Callable[[Any], Any]]
SIGMAS = 4  # standard deviations that the taps of a blur reach whose library names none


class _Unknown(ValueError):
    """A transform that no program computes; what it says follows the transform's place."""


class _ToFloat:
    """The conversion of uint8 to floats in [0, 1], and their dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


class _OneChannel:
    """The conversion to one channel of grey."""


class _Shorter:
    """A resize of the shorter side, which a crop follows."""

    def __init__(self, size: int, interpolation: str) -> None:
        self.size, self.interpolation = size, interpolation


def from_torchvision(
    transform: Any,
    *,
    rules: Rules | None = None,
    dtype: torch.dtype | None = None,
    channels_last: bool = False,
    channels: int | None = None,
) -> Augment | Views:
    """Makes the program of a transform of torchvision (``transforms`` or ``transforms.v2``), timm or lightly.

    The program draws from the same distributions and computes the same views to within 2/255 (see "Semantics" of the
    guide), but from other random numbers. It takes the place of the transform: of one image it makes one view, and of
    several transforms a list of views.

    Args:
        transform: a ``Compose`` or another transform, such as timm's ``create_transform(...)`` or lightly's
            ``SimCLRTransform()``, an :class:`Augment`, or a list of these, one per view.
        rules: for classes of your own, by class: a function of the transform that returns an operation, a list of
            operations, a transform that is known, or None where it has no effect; of the class of a transform that
            makes several views, the list of their transforms.
        dtype: dtype of the views; None: that to which the transform converts, float32 of ``ToTensor``.
        channels_last: views in channels_last memory format.
        channels: number of channels, as for :class:`Augment`; None: as many as the means of its ``Normalize``, 3 for
            one mean, which is that of all channels. An :class:`Augment` keeps what is not given.

    Returns:
        Augment | Views: an :class:`Augment`, or :class:`Views` of a transform that makes several views.

    Raises:
        ValueError: a transform without a fused equivalent, by its place, or operations in an order that a program
            does not have.

    Example:
        >>> from torch import nn
        >>> from fastssl.augment import GaussianBlur, Normalize, RandomResizedCrop, from_torchvision
        >>> class Blur(nn.Module):  # as training scripts define one
        ...     sigma = (0.1, 2.0)
        >>> # beside it, transforms of torchvision: transforms.RandomResizedCrop(32), transforms.ToTensor(), ...
        >>> transform = nn.Sequential(Blur())
        >>> rules = {Blur: lambda t: [RandomResizedCrop(32), GaussianBlur(9, t.sigma, p=0.5), Normalize()]}
        >>> [program.size for program in from_torchvision([transform, transform], rules=rules).programs]
        [(32, 32), (32, 32)]
    """
    rules = rules or {}
    parts = _views(transform, rules)
    if parts is None:
        return _program(transform, rules, dtype, channels_last, channels, "transform")
    distinct: list[tuple[int, Any]] = []
    for k, part in enumerate(parts):
        if distinct and part is parts[k - 1]:
            distinct[-1] = (distinct[-1][0] + 1, distinct[-1][1])
        else:
            distinct.append((1, _program(part, rules, dtype, channels_last, channels, f"transforms[{k}]")))
    return Views(distinct)


def _views(transform: Any, rules: Rules) -> Sequence[Any] | None:
    """The transforms of several views."""
    if isinstance(transform, (list, tuple)):
        return transform
    rule = _rule(transform, rules)
    if rule is not None:
        found = rule(transform)
        several = isinstance(found, (list, tuple)) and len(found) > 0
        return (
            found
            if several and all(_is_whole(part, rules, f"transform[{k}]") for k, part in enumerate(found))
            else None
        )
    if _library(transform) == "lightly":
        names = {kind.__name__ for kind in type(transform).__mro__}
        if names & {"MultiViewTransform", "MultiViewTransformV2"}:
            return list(transform.transforms)
        if names & {"MAETransform", "CAPITransform"}:  # a list of one view
            return [transform.transform]
    return None


def _is_whole(part: Any, rules: Rules, place: str) -> bool:
    """Whether it makes views by itself, and is no step of a transform that does."""
    if isinstance(part, (Operation, Normalize)):
        return False
    steps = list(_steps(part, rules, place))
    crops = any(isinstance(step, _Shorter) or (isinstance(step, Operation) and step.crops) for step in steps)
    return crops and any(isinstance(step, (_ToFloat, Normalize)) for step in steps)


def _program(
    transform: Any,
    rules: Rules,
    dtype: torch.dtype | None,
    channels_last: bool,
    channels: int | None,
    place: str,
) -> Augment:
    if isinstance(transform, Augment):  # a program already
        dtype, channels = dtype or transform.dtype, channels or transform.channels
        channels_last = channels_last or transform.channels_last
        return Augment(transform.steps, dtype=dtype, channels_last=channels_last, channels=channels)
    steps = list(_steps(transform, rules, place))
    floats = [step for step in steps if isinstance(step, _ToFloat)]
    if not floats and not any(isinstance(step, Normalize) for step in steps):
        raise ValueError(
            f"{place}: expected a conversion to floats, such as ToTensor() or ToDtype(torch.float32, scale=True)"
        )
    if dtype is None:
        dtype = floats[-1].dtype if floats else torch.float32
    steps, grey = _grey(steps, place)
    if grey:
        if channels not in (None, 1):
            raise ValueError(f"channels: expected 1 or None for Grayscale(1), got {channels}")
        channels = 1
    if channels is None:
        means = [step.mean for step in steps if isinstance(step, Normalize) and isinstance(step.mean, tuple)]
        channels = len(means[0]) if means else 3
    operations = _ordered([step for step in steps if not isinstance(step, _ToFloat)], place)
    return Augment(operations, dtype=dtype, channels_last=channels_last, channels=channels)


def _grey(steps: list[Any], place: str) -> tuple[list[Any], bool]:
    """The steps without conversions to one channel, which a program makes before all others, and whether there are."""
    colored: Any = None
    for step in steps:
        if isinstance(step, _OneChannel) and colored is not None:
            raise ValueError(
                f"{place}: expected Grayscale(1) before operations on colours, got it behind {colored}; give "
                "Grayscale(3), or Grayscale(1) first"
            )
        if isinstance(step, Operation) and not step.geometric:
            colored = step
    return [s for s in steps if not isinstance(s, _OneChannel)], any(isinstance(s, _OneChannel) for s in steps)


def _steps(transform: Any, rules: Rules, place: str) -> Iterable[Any]:
    """The operations, resizes and conversions of a transform, in its order."""
    rule = _rule(transform, rules)
    if rule is not None:
        found = rule(transform)
    elif isinstance(transform, (Operation, Normalize, _ToFloat)):
        found = transform
    elif isinstance(transform, Augment):
        found = [*transform.steps, _ToFloat(transform.dtype)]
    else:
        name, library = type(transform).__name__, _library(transform)
        if library == "torch" and isinstance(transform, nn.Sequential):
            found = list(transform)
        elif library == "torch" and type(transform) is nn.Identity:
            found = None
        elif library == "lightly" and ("View" in name or name in WRAPPERS) and hasattr(transform, "transform"):
            yield from _steps(transform.transform, rules, f"{place}.transform")
            return
        else:
            known = {"torchvision": TORCHVISION, "timm": TIMM, "lightly": LIGHTLY}.get(library, {}).get(name)
            if known is None:
                raise ValueError(f"{place}: {_unknown(transform)}")
            if name == "RandomApply":
                yield from _applied(transform, rules, place)
                return
            try:
                found = known(transform)
            except _Unknown as error:
                raise ValueError(f"{place}: {name}: {error}") from None
    if found is None:
        return
    if isinstance(found, (Operation, Normalize, _ToFloat, _Shorter, _OneChannel)):
        yield found
        return
    if not isinstance(found, (list, tuple)):
        yield from _steps(found, rules, place)
        return
    for k, part in enumerate(found):
        yield from _steps(part, rules, f"{place}.transforms[{k}]")


def _applied(transform: Any, rules: Rules, place: str) -> Iterable[Any]:
    """One operation that is applied with the probability of a ``RandomApply``."""
    p = float(transform.p)
    if p == 0:
        return
    inner = [s for k, t in enumerate(transform.transforms) for s in _steps(t, rules, f"{place}.transforms[{k}]")]
    if p == 1 or not inner:
        yield from inner
    elif len(inner) == 1 and hasattr(inner[0], "p"):
        yield replace(inner[0], p=inner[0].p * p)
    else:
        raise ValueError(f"{place}: RandomApply(p={p:g}): expected one operation that has a probability, got {inner}")


def _ordered(steps: list[Any], place: str) -> list[Step]:
    """The steps in the order of a program, which changes no view: flips commute with operations on colours."""
    steps = [s for s in steps if getattr(s, "p", 1) != 0]
    steps = _resized(steps, place)
    crops = [s for s in steps if isinstance(s, Operation) and s.crops]
    flips = [s for s in steps if isinstance(s, RandomHorizontalFlip)]
    if len(crops) != 1:
        hint = ""
        if len(crops) > 1 and isinstance(crops[0], Resize):
            hint = (
                "; RandomResizedCrop reads the whole image: leave the resize out"
                if isinstance(crops[1], RandomResizedCrop)
                else f"; before {type(crops[1]).__name__}, Resize(SIZE) of the shorter side is known"
            )
        raise ValueError(
            f"{place}: expected one crop or resize, which determines the size of the views, got {crops}{hint}"
        )
    first = steps.index(crops[0])
    before = [s for s in steps[:first] if not isinstance(s, RandomHorizontalFlip)]
    if before or (first and type(crops[0]) is CenterCrop):
        wrong = (before or steps)[0]
        hint = "; a program turns and moves what is cropped: put it behind the crop" if isinstance(wrong, Warp) else ""
        raise ValueError(f"{place}: expected {crops[0]} as the first operation, got {wrong} before it{hint}")
    colors: list[Step] = []
    normalize: Normalize | None = None
    for step in steps:
        if isinstance(step, RandomHorizontalFlip):
            turned = next((s for s in colors if isinstance(s, Warp) and not s.symmetric), None)
            if turned is not None:
                raise ValueError(f"{place}: expected {step} before {turned}, which differs in a mirrored view")
        if step in crops or step in flips:
            continue
        if isinstance(step, Normalize):
            if normalize is not None:
                raise ValueError(f"{place}: expected one Normalize, got a second, {step}")
            normalize = step
        elif normalize is None:
            colors.append(step)
        elif isinstance(step, RandomErasing):  # its colour is one of normalised values
            colors.append(replace(step, value=_color_before(normalize, step, place)))
        else:
            raise ValueError(f"{place}: expected {step} before Normalize, which comes last in a program")
    return [*crops, *flips, *colors, *([] if normalize is None else [normalize])]


def _color_before(normalize: Normalize, erasing: RandomErasing, place: str) -> Any:
    """The colour that becomes the one of an erased box."""
    count = max(len(v) if isinstance(v, tuple) else 1 for v in (normalize.mean, normalize.std))
    color = erasing.color() if count in (1, 3) else [erasing.color()[0]] * count
    parts = zip(color, normalize.stds(len(color)), normalize.means(len(color)))
    values = tuple(v * s + m for v, s, m in parts)
    if len({*values}) == 1:
        return values[0]
    if len(values) != 3:
        raise ValueError(f"{place}: expected RandomErasing before a Normalize of {len(values)} channels, got it behind")
    return values


def _resized(steps: list[Any], place: str) -> list[Any]:
    """Resizes of the shorter side as a part of the crop that follows them."""
    done: list[Any] = []
    for k, step in enumerate(steps):
        if not isinstance(step, _Shorter):
            before = steps[k - 1] if k else None
            if isinstance(before, _Shorter):
                step = replace(step, resize=before.size, interpolation=before.interpolation)
            done.append(step)
        elif k + 1 == len(steps) or type(steps[k + 1]) not in (CenterCrop, RandomCrop):
            after = "nothing" if k + 1 == len(steps) else repr(steps[k + 1])
            hint = "; RandomResizedCrop reads the whole image: leave the resize out" if "Resized" in after else ""
            raise ValueError(
                f"{place}: expected a CenterCrop or RandomCrop after Resize({step.size}), which resizes the shorter "
                f"side and leaves the size of views open, got {after}{hint}"
            )
    return done


def _rule(transform: Any, rules: Rules) -> Callable[[Any], Any] | None:
    return next((rule for kind, rule in rules.items() if isinstance(transform, kind)), None)


def _library(transform: Any) -> str:
    """The library that defines the class: one derived from it may do anything."""
    return type(transform).__module__.partition(".")[0]


# --- one function per class ----------------------------------------------------------------------------------------


def _unknown(t: Any) -> str:
    """What the error of a transform without a fused equivalent says."""
    if isinstance(t, type):
        return f"expected a transform, got the class {t.__name__}; give an instance, {t.__name__}(...)"
    name = type(t).__name__
    if isinstance(t, FunctionType | BuiltinFunctionType | MethodType):
        return (
            f"expected a transform, got the function {t.__name__}, of which only its calls are known; leave it out, or "
            "make it a class, for which rules= name the operations"
        )
    return (
        f"{type(t).__module__}.{name} has no fused equivalent (known are transforms of torchvision, timm and lightly); "
        f"rules={{{name}: lambda t: ...}} can name the operations, or the transforms of several views, to take for it"
    )


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[-1])


def _interpolated(t: Any) -> str:
    name = str(getattr(t.interpolation, "value", t.interpolation))
    if name not in ("bilinear", "bicubic"):
        raise _Unknown(f"expected bilinear or bicubic interpolation, got {name}")
    if getattr(t, "antialias", True) is False:
        raise _Unknown("expected antialias=True, as of Pillow images")
    return name


def _resized_crop(t: Any) -> Operation:
    return RandomResizedCrop(_pair(t.size), tuple(t.scale), tuple(t.ratio), _interpolated(t))


def _resize(t: Any) -> Any:
    if getattr(t, "max_size", None) is not None:
        raise _Unknown(f"expected no max_size, got {t.max_size}")
    if t.size is None:
        raise _Unknown("expected a size, got None")
    if isinstance(t.size, int) or len(t.size) == 1:
        return _Shorter(_pair(t.size)[0], _interpolated(t))
    return Resize(_pair(t.size), _interpolated(t))


def _random_crop(t: Any) -> Operation:
    sides = {*t.padding} if isinstance(t.padding, (list, tuple)) else {t.padding or 0}
    if len(sides) > 1 or t.pad_if_needed or (any(sides) and not _is_black(t)):
        raise _Unknown(
            f"expected black padding of one width, got padding={t.padding!r}, padding_mode={t.padding_mode!r}, "
            f"fill={t.fill!r}, pad_if_needed={t.pad_if_needed!r}"
        )
    return RandomCrop(_pair(t.size), padding=sides.pop())


def _is_black(t: Any) -> bool:
    fill = next(iter(t.fill.values()), 0) if isinstance(t.fill, dict) else t.fill
    return t.padding_mode == "constant" and not any(fill if isinstance(fill, (list, tuple)) else [fill])


def _jitter(t: Any) -> Operation:
    given: dict[str, Any] = {}
    for name in ("brightness", "contrast", "saturation", "hue"):
        value = getattr(t, name)
        given[name] = 0.0 if value is None else value if isinstance(value, (int, float)) else tuple(value)
    return ColorJitter(**given)


def _gray(t: Any) -> Any:
    return RandomGrayscale(1.0) if t.num_output_channels == 3 else _OneChannel()


def _outside(t: Any) -> dict[str, Any]:
    """How a transform interpolates, and what it fills the outside with."""
    name = str(getattr(t.interpolation, "value", t.interpolation))
    if name not in INTERPOLATIONS:
        raise _Unknown(f"expected bilinear, nearest or bicubic interpolation, got {name}")
    fill = next(iter(t.fill.values()), 0) if isinstance(t.fill, dict) else t.fill
    color = [_threshold(v) for v in (fill if isinstance(fill, (list, tuple)) else [fill or 0])]
    if len(color) not in (1, 3):
        raise _Unknown(f"expected a fill of one number or three, got {t.fill!r}")
    return {"interpolation": name, "fill": color[0] if len({*color}) == 1 else tuple(color)}


def _about_the_centre(t: Any) -> None:
    if t.center is not None:
        raise _Unknown(f"expected center=None, got {t.center!r}")
    if getattr(t, "expand", False):
        raise _Unknown("expected expand=False: views have one size")


def _rotation(t: Any) -> Operation:
    _about_the_centre(t)
    return RandomRotation(tuple(t.degrees), **_outside(t))


def _affine(t: Any) -> Operation:
    _about_the_centre(t)
    translate, scale, shear = (None if v is None else tuple(v) for v in (t.translate, t.scale, t.shear))
    return RandomAffine(tuple(t.degrees), translate, scale, shear, **_outside(t))


def _rand_augment(t: Any) -> Any:
    return RandAugment(t.num_ops, t.magnitude, t.num_magnitude_bins, **_outside(t)) if t.num_ops else None


def _blur(t: Any) -> Operation:
    taps = {*_pair(t.kernel_size)}
    if len(taps) > 1:
        raise _Unknown(f"expected a square kernel, got {t.kernel_size}")
    sigma = t.sigma if isinstance(t.sigma, (list, tuple)) else (t.sigma, t.sigma)
    return GaussianBlur(taps.pop(), (sigma[0], sigma[-1]))


def _threshold(value: float) -> float:
    """Of floats in [0, 1]; above it, of uint8."""
    return value / 255 if value > 1 else float(value)


def _erasing(t: Any) -> Operation:
    value = t.value
    if isinstance(value, str) or value is None:
        raise _Unknown(f"expected a number or three as its value, got {value!r}")
    color = value if isinstance(value, (int, float)) else tuple(value) if len(value) == 3 else value[0]
    return RandomErasing(t.p, tuple(t.scale), tuple(t.ratio), color)


def _normalize(t: Any) -> Normalize:
    # As decimals: float32 has 0.485 as 0.48500001.
    mean, std = (np.asarray(values).astype(str).astype(float).tolist() for values in (t.mean, t.std))
    return Normalize(*(values[0] if len(values) == 1 else tuple(values) for values in (mean, std)))


def _to_dtype(t: Any) -> Any:
    if t.dtype == torch.uint8:
        return None
    if t.dtype not in DTYPES:
        raise _Unknown(f"expected one of {DTYPES}, got {t.dtype}")
    if not getattr(t, "scale", True):
        raise _Unknown("expected scale=True: colours are in [0, 1]")
    return _ToFloat(t.dtype)


def _to_tensor(_: Any) -> Any:
    return _ToFloat(torch.float32)


def _nothing(_: Any) -> None:
    return None


def _parts(t: Any) -> list[Any]:
    return list(t.transforms)


TORCHVISION: dict[str, Callable[[Any], Any]] = {
    "AutoAugment": lambda t: AutoAugment(str(t.policy.value), **_outside(t)),
    "CenterCrop": lambda t: CenterCrop(_pair(t.size)),
    "ColorJitter": _jitter,
    "Compose": _parts,
    "ConvertImageDtype": _to_dtype,
    "GaussianBlur": _blur,
    "Grayscale": _gray,
    "Identity": _nothing,
    "Normalize": _normalize,
    "PILToTensor": _nothing,
    "RGB": _nothing,
    "RandAugment": _rand_augment,
    "RandomAdjustSharpness": lambda t: RandomAdjustSharpness(float(t.sharpness_factor), t.p),
    "RandomAffine": _affine,
    "RandomApply": _parts,  # with a probability: _applied
    "RandomAutocontrast": lambda t: RandomAutocontrast(t.p),
    "RandomCrop": _random_crop,
    "RandomEqualize": lambda t: RandomEqualize(t.p),
    "RandomErasing": _erasing,
    "RandomGrayscale": lambda t: RandomGrayscale(t.p),
    "RandomHorizontalFlip": lambda t: RandomHorizontalFlip(t.p),
    "RandomInvert": lambda t: RandomInvert(t.p),
    "RandomPerspective": lambda t: RandomPerspective(t.distortion_scale, t.p, **_outside(t)),
    "RandomPosterize": lambda t: RandomPosterize(t.p, t.bits),
    "RandomResizedCrop": _resized_crop,
    "RandomRotation": _rotation,
    "RandomSolarize": lambda t: RandomSolarize(t.p, _threshold(t.threshold)),
    "RandomVerticalFlip": lambda t: RandomVerticalFlip(t.p),
    "Resize": _resize,
    "ToDtype": _to_dtype,
    "ToImage": _nothing,
    "ToPILImage": _nothing,
    "ToPureTensor": _nothing,
    "ToTensor": _to_tensor,
    "TrivialAugmentWide": lambda t: TrivialAugmentWide(t.num_magnitude_bins, **_outside(t)),
}


def _pillow_blur(t: Any) -> Operation:
    low, high = t.sigmas
    return GaussianBlur(2 * math.ceil(SIGMAS * high) + 1, (low, high), t.prob)


def _turned(t: Any) -> None:
    if t.prob:
        raise _Unknown(f"expected probability 0, got {t.prob}")


WRAPPERS = ("IJEPATransform", "RandomRotateDegrees")
LIGHTLY: dict[str, Callable[[Any], Any]] = {
    "GaussianBlur": _pillow_blur,
    "RandomRotate": _turned,
    "RandomSolarization": lambda t: RandomSolarize(t.prob, _threshold(t.threshold)),
    "ToTensor": _to_tensor,
}


def _timm_resized_crop(t: Any) -> Operation:
    random = isinstance(t.interpolation, (list, tuple))
    how = "random" if random else _interpolated(t)
    return RandomResizedCrop(_pair(t.size), tuple(t.scale), tuple(t.ratio), how)


def _timm_rand_augment(t: Any) -> Any:
    names, first = {op.name for op in t.ops}, t.ops[0]
    if t.choice_weights is not None or names != TIMM_CHOICES:
        raise _Unknown("expected the operations of 'inc1' with equal weights")
    pct = first.hparams.get("translate_pct", 0.45)
    if pct != 0.45 or first.magnitude_max not in (None, 10) or first.magnitude > 10:
        raise _Unknown(
            "expected translate_pct=0.45 and magnitudes of at most 10, got "
            f"translate_pct={pct}, m={first.magnitude}, mmax={first.magnitude_max}"
        )
    if not t.num_layers:
        return None
    resample = first.kwargs["resample"]
    how = "random" if isinstance(resample, (list, tuple)) else resample.name.lower()
    return TimmRandAugment(
        *(t.num_layers, float(first.magnitude), float(first.magnitude_std), float(first.prob), how),
        tuple(v / 255 for v in first.kwargs["fillcolor"]),
    )


def _timm_erasing(t: Any) -> Operation:
    if t.rand_color or t.per_pixel or t.max_count != 1:
        raise _Unknown(
            f"expected re_mode='const' and re_count=1, got {t.mode!r} and {t.max_count}; for boxes of one colour "
            "rules={timm.data.random_erasing.RandomErasing: lambda t: fastssl.augment.RandomErasing(t.probability)}"
        )
    low, high = (math.exp(v) for v in t.log_aspect_ratio)
    return RandomErasing(t.probability, (t.min_area, t.max_area), (low, high))


TIMM_CHOICES = {
    *("AutoContrast", "Equalize", "Invert", "Rotate", "PosterizeIncreasing", "SolarizeIncreasing", "SolarizeAdd"),
    *("ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing", "SharpnessIncreasing"),
    *("ShearX", "ShearY", "TranslateXRel", "TranslateYRel"),
}
TIMM: dict[str, Callable[[Any], Any]] = {
    "MaybePILToTensor": _nothing,
    "MaybeToTensor": _to_tensor,
    "RandAugment": _timm_rand_augment,
    "RandomErasing": _timm_erasing,
    "RandomResizedCropAndInterpolation": _timm_resized_crop,
}
