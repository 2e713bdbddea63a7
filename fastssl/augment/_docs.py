"""Descriptions of arguments shared by operations and policies, for :func:`fastssl._docs.complete`."""

from __future__ import annotations

from fastssl._docs import entries

ARGUMENTS = entries(
    {
        "size": "height and width of the views, in pixels.",
        "crop": "minimum and maximum area of a crop, as a fraction of the image.",
        "scale": "minimum and maximum area of a crop, as a fraction of the image.",
        "gray": "probability of grayscale.",
        "options": "``normalize``, ``dtype`` and ``channels_last``, as for :class:`SimCLRAugment`.",
        "p": "probability of application per image.",
        "together": "share the draw among all views of an image.",
        "threshold": "threshold in [0, 1].",
        "bits": "number of bits to keep per value, 0 to 8.",
    }
)
ERRORS = entries(
    {
        "TypeError": "an argument of the wrong type.",
        "ValueError": "an argument out of range, or an unknown option.",
    }
)
_CALLS = {  # where defaults do not fit the example's images of 48 x 48 pixels
    "CenterCrop": "32, resize=40",
    "DINOAugment": "32, 16, local=2",
    "GaussianBlur": "5",
    "JigsawAugment": "12, cell=14, resize=44",
    "RandomCrop": "32",
    "RandomAdjustSharpness": "2.0",
    "RandomAffine": "15.0, translate=(0.1, 0.1), scale=(0.9, 1.1)",
    "RandomRotation": "15.0",
    "RandomResizedCrop": "32",
    "Resize": "32",
    "RelativePatchAugment": "12, cell=14, resize=44",
    "Tile": "3, 10, 8, index=4",
}
_CROPS = ("CenterCrop", "RandomCrop", "RandomResizedCrop", "Resize")


def example(augmentation: type) -> str:
    """The docstring example of a policy, or of a program with an operation."""
    name = augmentation.__name__
    policy = name.endswith("Augment") and not hasattr(augmentation, "kind")  # no operation
    call = f"{name}({_CALLS.get(name, '32' if policy else '')})"
    if policy:
        imported, made = name, call
    elif name in _CROPS:
        imported, made = f"Augment, {name}", f"Augment([{call}])"
    else:
        imported, made = f"Augment, RandomCrop, {name}", f"Augment([RandomCrop(32), {call}])"
    return (
        f"\n    >>> import torch\n    >>> from fastssl.augment import {imported}"
        "\n    >>> images = torch.randint(0, 256, (2, 48, 48, 3), dtype=torch.uint8)"
        f"\n    >>> views = {made}(images, seed=0)"
    )
