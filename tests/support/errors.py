"""Rounding errors, against those that eager PyTorch makes of the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from tests.support.subjects import Inputs, Subject

Way = Callable[[Inputs], list[Tensor]]
EAGER_DRAWS = 12


def assert_errs_no_more_than_eager(
    subject: Subject,
    temperature: float,
    sizes: list[tuple[int, int, int]],
    ways: Mapping[str, Way],
    of_parameters: float = 1.5,
    eager: Way | None = None,
) -> None:
    """RMS error against float64 of the loss and every gradient, at most 1.5 times eager fp32's own.

    Half a unit in the last place of the largest entry is what storing the result costs; below it eager is lucky. A
    single number is compared over all sizes, and eager has a dozen draws of few rows: a few numbers say nothing.

    Args:
        subject: the loss.
        temperature: of its inputs.
        sizes: rows, features and how many draws of them.
        ways: what is compared with eager: gives the loss and its gradients.
        of_parameters: how many times eager's the error of the gradient of a single number may be.
        eager: computes the formulas in eager PyTorch; None: on the CPU.
    """
    every: list[Way] = [eager or (lambda inputs: subject.gradients(inputs, backend="reference")), *ways.values()]
    errors: dict[tuple[int, int], list[float]] = {}  # of each way, mean squares in units of the last place
    for n, d, seeds in sizes:
        squares: dict[int, list[float]] = {}
        largest: dict[int, float] = {}
        of_eager = seeds if n > 100 else max(seeds, EAGER_DRAWS)
        for seed in range(of_eager):
            torch.manual_seed(seed)
            inputs = subject.make(n, d, torch.float32, temperature)
            truth = subject.gradients(inputs.double(), backend="reference")
            for way, compute in enumerate(every if seed < seeds else every[:1]):
                draws = seeds if way else of_eager
                for index, (got, right) in enumerate(zip(compute(inputs), truth)):
                    squares.setdefault(index, [0.0] * len(every))[way] += float((got - right).square().mean()) / draws
            for index, right in enumerate(truth):
                largest[index] = max(largest.get(index, 0.0), float(right.abs().max()))
        for index, sums in squares.items():
            unit = torch.finfo(torch.float32).eps * largest[index] + 1e-30
            pooled = errors.setdefault((0 if truth[index].dim() == 0 else n, index), [0.0] * (len(every) + 1))
            pooled[-1] += seeds
            for way, value in enumerate(sums):
                pooled[way] += value * seeds / unit**2
    for (n, index), (*sums, count) in errors.items():
        theirs, *ours = ((value / count) ** 0.5 for value in sums)
        most = (of_parameters if n == 0 and index else 1.5) * theirs + 0.5
        for name, error in zip(ways, ours):
            assert error <= most, f"{name}, n={n or 'all'}, output {index}: {error:.2f}, eager {theirs:.2f}"
