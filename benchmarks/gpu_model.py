"""Times of launches predicted from their machine code, and the memory of a loss counted tensor by tensor."""

from __future__ import annotations

from typing import Any

import torch
from gpu_launches import Launch, Pointer, Recorder
from torch import Tensor


def seconds(chip: dict[str, float], launch: Launch, found: dict[str, Any], d: int) -> dict[str, float]:
    """Time of a launch by its bounds: tensor cores, instructions issued, exponentials, L2, HBM.

    Matrix instructions and the others overlap where a multiprocessor holds two blocks (or warps are specialised); else
    their times add up.
    """
    clock = chip["GHz"] * 1e9 * chip["processors"]
    tiles, flops_a_tile, bytes_a_tile, hbm = work(launch, d)
    wide = "fp32" in str(launch.source().signature.get("A", launch.source().signature.get("W", "")))
    rate = chip["tensor"] / (2 * 3 if wide else 1)  # tf32 at half the rate, three products
    warps = found["compute_warps"]
    run, special_run = executed(launch, found["mix"], tiles, d)
    tensor = tiles * flops_a_tile / rate
    issued = run * warps / chip["issue"]
    special = special_run * warps * 32 / chip["mufu"]
    l2 = tiles * bytes_a_tile / chip["l2"]
    waves = -(-launch_blocks(launch) // int(chip["processors"] * max(1, found["occupancy"])))
    balance = waves * chip["processors"] * max(1, found["occupancy"]) / max(1, launch_blocks(launch))
    apart = max(issued, special)
    overlapped = found["occupancy"] >= 2 or found["warps"] > found["compute_warps"]
    cycles = max(tensor, apart, l2) if overlapped else max(tensor + apart, l2)
    return {
        "tensor": tensor / clock,
        "issue": issued / clock,
        "mufu": special / clock,
        "l2": l2 / clock,
        "hbm": hbm / chip["hbm"],
        "seconds": max(cycles / clock * min(balance, 2.0), hbm / chip["hbm"]),
        "flops": tiles * flops_a_tile,
    }


def launch_blocks(launch: Launch) -> int:
    total = 1
    for g in launch.grid:
        total *= g
    return total


def executed(launch: Launch, mix: dict[str, Any], tiles: float, d: int) -> tuple[float, float]:
    """Instructions, and special functions among them, that each warp of all blocks runs."""
    c, blocks = launch.constants, launch_blocks(launch)
    result = []
    for k in range(2):
        total, a_tile, a_step = mix["total"][k], mix["tiles"][k], mix["steps"][k]
        if launch.name in ("weights_kernel", "product_kernel"):  # one loop, over features or over the other side's rows
            trips = -(-d // c["BK"]) if launch.name == "weights_kernel" else tiles / max(1, blocks)
            result.append(blocks * (total - a_step + a_step * trips))
        else:
            more = 0 if c.get("RESIDENT", True) else a_step * (-(-d // c["BK"]) - 1)
            result.append(blocks * (total - a_tile) + tiles * (a_tile + more))
    return result[0], result[1]


def work(launch: Launch, d: int) -> tuple[float, float, float, float]:
    """(tiles, tensor FLOPs per tile, bytes from L2 per tile, bytes of HBM) of a launch."""
    c = launch.constants
    names = dict(zip(launch.kernel.arg_names, launch.arguments))
    size = next(t.element_size() for t in launch.arguments if isinstance(t, Pointer))
    if launch.name == "product_kernel":
        n, m = names["n"], names["m"]
        tiles = -(-n // c["BM"]) * -(-d // c["BN"]) * -(-m // c["BK"])
        flops = 2.0 * c["BM"] * c["BN"] * c["BK"]
        return tiles, flops, (c["BM"] + c["BN"]) * c["BK"] * size, (n * m + m * d) * size + 8 * n * d
    if launch.name == "weights_kernel":
        h, b = names["height"], names["breadth"]
        tiles = -(-h // c["BM"]) * -(-b // c["BN"])
        moved = (c["BM"] + c["BN"]) * d * size + c["BM"] * c["BN"] * names["OUT"].element_size()
        return tiles, 2.0 * c["BM"] * c["BN"] * d, moved, (h + b) * d * size + h * b * names["OUT"].element_size()
    n, m = names["n"], names["m"]
    blocks = launch.grid[1 if launch.name == "reduce_kernel" else 0]  # of rows, of a band of them
    tiles = blocks * -(-m // c["BN"])
    if c.get("TRIANGLE"):
        first = names["first_block"]
        tiles = sum(-(-(m - (first + k) * c["BM"]) // c["BN"]) for k in range(blocks))
    products = 2 if launch.name == "gradient_kernel" else 1
    moved = c["BN"] * d * size + (0 if c.get("RESIDENT", True) else c["BM"] * d * size)
    return tiles, 2.0 * products * c["BM"] * c["BN"] * d, moved, 2 * (n + m) * d * size


class Ledger(torch.utils._python_dispatch.TorchDispatchMode):
    """Bytes of all tensors that are alive, on the meta device."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.now = self.most = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        import weakref

        out = function(*args, **(kwargs or {}))
        for t in torch.utils._pytree.tree_leaves(out):
            if isinstance(t, Tensor) and t.device.type == "meta":
                storage = t.untyped_storage()
                if storage._cdata not in self.alive:
                    self.alive[storage._cdata] = storage.nbytes()
                    self.now += storage.nbytes()
                    self.most = max(self.most, self.now)
                    weakref.finalize(storage, self.drop, storage._cdata)
        return out

    def drop(self, which: int) -> None:
        self.now -= self.alive.pop(which, 0)


def peak_memory(n: int, d: int) -> dict[str, int]:
    """Of NT-Xent, forward and backward, bf16: inputs, gradients and all that lies between.

    The operators' own functions are called, since a dispatch mode does not see what happens within an operator.
    """
    from fastssl.ops.triton import operators

    with Recorder("sm_90"), Ledger() as ledger, torch.no_grad():
        z = [torch.empty((n // 2, d), dtype=torch.bfloat16, device="meta") for _ in range(2)]
        inputs = ledger.now
        x = torch.cat(z)
        rest = (x, None, None, None, None, None, 10.0, 0, n // 2, -1, True, False, True, 0.0)
        out, saved = operators.pair_loss(*rest)
        to_x, *_ = operators.pair_loss_backward(torch.empty_like(out), saved, *rest, 1)
        kept = (to_x[: n // 2], to_x[n // 2 :])
        assert kept[0].shape == z[0].shape
    return {"n": n, "d": d, "peak": ledger.most, "inputs": inputs}
