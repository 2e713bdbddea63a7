"""Machine code of a launch, compiled ahead of time: its resources, its instructions, and what would be wrong with it."""

from __future__ import annotations

import collections
import dataclasses
import json
import re
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import Any

from gpu_launches import Launch

from fastssl.ops.triton.candidates import KERNELS, SHARED

# Architectures whose tiles were timed on the chip (gpu_tiles.py), which knows better than a rule about registers.
MEASURED = json.loads((Path(__file__).parent.parent / "kernels" / "configs.json").read_text())["measured"]
# Instructions: two to six stand outside of the loops of some kernels, whatever the tile.
FEW_SPILLS = 8
REGISTERS, WARPS = 65536, 64  # of a multiprocessor
SHARED_TOTAL = {"sm_80": 167_936, "sm_90": 233_472, "sm_100": 233_472}
MATRIX = {
    "sm_80": {16: ("HMMA",), 32: ("HMMA",)},
    "sm_90": {16: ("HGMMA",), 32: ("HGMMA", "HMMA")},
    "sm_100": {16: ("UTCHMMA",), 32: ("UTCHMMA", "HMMA")},
}
COPIES = ("LDGSTS", "UTMALDG", "UBLKCP")


def tool(name: str) -> str:
    import triton

    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name)


def compiled(architecture: str, launch: Launch, mix: bool = True) -> dict[str, Any]:
    """Resources and instructions of the machine code."""
    import triton
    from triton.backends.compiler import GPUTarget

    target = GPUTarget("cuda", int(architecture[3:]), 32)
    options = launch.options
    kernel = triton.compile(launch.source(), target=target, options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as f:
        f.write(kernel.asm["cubin"])
        f.flush()
        usage = subprocess.run(
            [tool("cuobjdump"), "-res-usage", f.name], capture_output=True, text=True, check=True
        ).stdout
    sass = disassembly(kernel.asm["cubin"])
    found = {k: int(v) for k, v in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    warps = int(getattr(kernel.metadata, "num_warps", launch.options.get("num_warps", 4)))
    # Warps that only copy or compute beside the main ones, which warp specialisation adds.
    text = kernel.asm["ttgir"]
    total = re.search(r'"ttg.total-num-warps"\s*=\s*(\d+)', text)
    all_warps = int(total.group(1)) if total else warps
    instructions = parse(sass)
    counts = collections.Counter(op for _, op, _ in instructions)
    spills = sum(v for op, v in counts.items() if op.startswith(("STL", "LDL")))
    return {
        "registers": found.get("REG", 0),
        "spills": spills,
        "stack": found.get("STACK", 0),
        "shared": int(kernel.metadata.shared),
        "warps": all_warps,
        "compute_warps": warps,
        "matrix": {op: n for op in ("HMMA", "HGMMA", "UTCHMMA") if (n := count(counts, op))},
        "copies": {op: n for op in COPIES if (n := count(counts, op))},
        "mix": mix_of(target, launch, options, instructions) if mix else None,
        "stages": launch.options.get("num_stages", 1),
    }


def mix_of(
    target: Any, launch: Launch, options: dict[str, Any], instructions: list[tuple[int, str, int | None]]
) -> Any:
    """Of tiles without edges, diagonal or partners: all but a few in a row of tiles."""
    if launch.constants.get("INTERIOR") is False:
        import triton

        inside = dataclasses.replace(launch, constants=launch.constants | {"INTERIOR": True})
        instructions = parse(disassembly(triton.compile(inside.source(), target=target, options=options).asm["cubin"]))
    return dataclasses.asdict(Mix.of(instructions))


def disassembly(cubin: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as f:
        f.write(cubin)
        f.flush()
        return subprocess.run([tool("nvdisasm"), "-c", f.name], capture_output=True, text=True, check=True).stdout


def count(counts: collections.Counter[str], prefix: str) -> int:
    return sum(n for op, n in counts.items() if op.split(".")[0] == prefix)


def parse(sass: str) -> list[tuple[int, str, int | None]]:
    """(address, operation, target of a branch) of every instruction; labels resolved."""
    result: list[tuple[int, str, int | None]] = []
    labels: dict[str, int] = {}
    pending: list[str] = []
    branches: list[tuple[int, str]] = []
    for line in sass.splitlines():
        label = re.match(r"\s*(\.L_x_\d+):", line)
        if label:
            pending.append(label.group(1))
            continue
        found = re.match(r"\s*/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)(.*)", line)
        if not found:
            continue
        address = int(found.group(1), 16)
        for name in pending:
            labels[name] = address
        pending = []
        result.append((address, found.group(2), None))
        goal = re.search(r"`\((\.L_x_\d+)\)", found.group(3))
        if found.group(2).startswith("BRA") and goal:
            branches.append((len(result) - 1, goal.group(1)))
    for index, name in branches:
        address, op, _ = result[index]
        result[index] = (address, op, labels.get(name))
    return result


MATRIX_OPERATIONS = ("HMMA", "HGMMA", "UTCHMMA")
SPIN = 12  # instructions: shorter loops wait for a barrier


@dataclasses.dataclass
class Mix:
    """Instructions and special functions of a thread: in all; in the loop over tiles, the shortest one with matrix
    instructions and exponentials (where warps are specialised, with exponentials); in the shortest with matrix
    instructions, which may be the loop over features inside it."""

    total: tuple[int, int]
    tiles: tuple[int, int]
    steps: tuple[int, int]

    @classmethod
    def of(cls, instructions: list[tuple[int, str, int | None]]) -> Mix:
        def tally(body: list[tuple[int, str, int | None]]) -> tuple[int, int]:
            return len(body), sum(op.startswith("MUFU") for _, op, _ in body)

        loops = []
        for index, (address, _, goal) in enumerate(instructions):
            if goal is not None and goal <= address:
                body = [i for i in instructions[: index + 1] if i[0] >= goal]
                if len(body) >= SPIN:
                    loops.append(body)
        matrix = [q for q in loops if any(op.split(".")[0] in MATRIX_OPERATIONS for _, op, _ in q)]
        special = [q for q in loops if any(op == "MUFU.EX2" for _, op, _ in q)]
        both = [q for q in matrix if q in special] or special or matrix
        tiles = tally(min(both, key=len)) if both else (0, 0)
        return cls(tally(instructions), tiles, tally(min(matrix, key=len)) if matrix else (0, 0))


def occupancy(architecture: str, found: dict[str, Any]) -> int:
    """Blocks of a kernel on one multiprocessor at once."""
    threads = 32 * found["warps"]
    by_registers = REGISTERS // max(1, (found["registers"] + 7) // 8 * 8 * threads)
    by_shared = SHARED_TOTAL[architecture] // max(1, found["shared"] + 1024)
    return max(0, min(by_registers, by_shared, WARPS // found["warps"], 32))


def failures(architecture: str, name: str, bits: int, found: dict[str, Any]) -> list[str]:
    """What makes a chosen configuration unacceptable."""
    wrong = []
    # On an H100 the fastest of the 24 tiles of a kernel spills: a rule is for chips that nobody has measured.
    measured = architecture in MEASURED
    if found["spills"] > FEW_SPILLS and not measured:
        wrong.append(f"{found['spills']} spills, {found['stack']} bytes of stack")
    if name in MATRIX_KERNELS and not any(op in found["matrix"] for op in MATRIX[architecture][bits]):
        wrong.append(f"none of {MATRIX[architecture][bits]}")
    if found["shared"] > SHARED[architecture]:
        wrong.append(f"{found['shared']} bytes of shared memory")
    if occupancy(architecture, found) * found["warps"] < 2:
        wrong.append("fewer than two warps")
    if name in MATRIX_KERNELS and found["stages"] < 2 and not measured:
        wrong.append("fewer than 2 stages")
    return wrong


MATRIX_KERNELS = ("reduce_kernel", "gradient_kernel", "weights_kernel", "product_kernel", "histogram_kernel")
KIND = {f"{k}_kernel": k for k in KERNELS}


def attempt(task: tuple[str, int, Launch], mix: bool = True) -> dict[str, Any]:
    architecture, bits, launch = task
    warnings.simplefilter("ignore")
    try:
        found = compiled(architecture, launch, mix)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {str(error)[:200]}"}
    uses = launch.constants.get("METRIC", 0) in (3, 4, 5) or launch.constants.get("SCORES") is False
    wrong = failures(architecture, launch.name if not uses else "elementwise", bits, found)
    return {**found, "occupancy": occupancy(architecture, found), "failures": wrong}


def attempt_one(task: tuple[str, int, Launch, bool]) -> dict[str, Any]:
    *rest, mix = task
    return attempt((rest[0], rest[1], rest[2]), mix)


def resources(task: tuple[str, int, Launch]) -> dict[str, Any]:
    return attempt(task, mix=False)
