"""What the losses without a kernel take, beside the torch operations that they cannot do without.

python benchmarks/plain_torch.py      prints the table of docs/decisions/0006-plain-torch.md
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as TF
from torch import Tensor

import fastssl.functional as F


def milliseconds(function: Callable[[], object], repeats: int = 9) -> float:
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def leaf(*shape: int) -> Tensor:
    return torch.randn(*shape, requires_grad=True)


def main() -> None:
    torch.manual_seed(0)
    rows: list[tuple[str, float, str, float]] = []
    a, b = leaf(4096, 1024), leaf(4096, 1024)
    plain = a.detach()
    product = milliseconds(lambda: plain.T @ plain)
    passes = milliseconds(lambda: plain * 1.5)
    rows.append(
        (
            "Barlow Twins, 4,096 x 1,024",
            milliseconds(lambda: F.barlow_twins(a, b).backward()),
            "3 products",
            3 * product,
        )
    )
    rows.append(("VICReg, 4,096 x 1,024", milliseconds(lambda: F.vicreg(a, b).backward()), "6 products", 6 * product))
    scores = TF.normalize(torch.randn(4096, 128), dim=1) @ TF.normalize(torch.randn(3000, 128), dim=1).T
    left, right = torch.ones(4096), torch.ones(3000)

    def iterations() -> None:
        scores.exp()
        for _ in range(3):
            _ = left @ scores, scores @ right

    rows.append(
        (
            "Sinkhorn, 4,096 x 3,000, 3 iterations",
            milliseconds(lambda: F.sinkhorn(scores)),
            "exp, 6 products with a vector",
            milliseconds(iterations),
        )
    )
    student, teacher, center = leaf(8, 256, 4096), torch.randn(2, 256, 4096), torch.zeros(4096)
    rows.append(
        (
            "DINO, 8 and 2 views of 256 x 4,096",
            milliseconds(lambda: F.dino(student, teacher, center).backward()),
            "log_softmax and its gradient",
            milliseconds(lambda: torch.log_softmax(student, -1).sum().backward()),
        )
    )
    p, q = leaf(65536, 256), torch.randn(65536, 256)
    rows.append(
        (
            "negative cosine, 65,536 x 256",
            milliseconds(lambda: F.negative_cosine_similarity(p, q).backward()),
            "normalize and its gradient",
            milliseconds(lambda: TF.normalize(p, dim=1).sum().backward()),
        )
    )
    print("| loss | here, ms | what it needs at least | ms |\n|---|---|---|---|")
    for name, ours, what, least in rows:
        print(f"| {name} | {ours:.0f} | {what} | {least:.0f} |")
    print(f"\nOne pass over 4,096 x 1,024 (read, write): {passes:.1f} ms; one product: {product:.1f} ms.")


if __name__ == "__main__":
    main()
