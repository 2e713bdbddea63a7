"""``python -m fastssl.bench.pairs CASE AGAINST ROWS FEATURES SECONDS``: one comparison of the losses on labels.

In a separate process, since earlier calls leave warm or fragmented memory, which changes eager times by a third.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from fastssl.bench.harness import as_dict, compare


def compare_fresh(loss: str, against: str, rows: int, features: int, seconds: float) -> dict[str, Any]:
    """The comparison, or ``{"failed": reason}``."""
    arguments = [loss, against, str(rows), str(features), str(seconds)]
    run = subprocess.run([sys.executable, "-m", __name__, *arguments], capture_output=True, text=True, check=False)
    if run.returncode != 0:
        return {"failed": (run.stderr.strip().splitlines() or [f"exit {run.returncode}"])[-1]}
    result: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return result


def main(argv: list[str]) -> None:
    from fastssl.bench.metric import METRIC_CASES

    loss, against, rows, features, seconds = argv[0], argv[1], int(argv[2]), int(argv[3]), float(argv[4])
    case = METRIC_CASES[loss]
    inputs = case.inputs(rows, features)
    backward = loss != "nearest"
    fused = case.step("patched" if "patched" in case.peers else "fused", inputs, backward)
    result = compare(fused, case.step(against, inputs, backward), seconds=seconds, least=3)
    print(json.dumps({"loss": loss, "against": against, "rows": rows, "features": features, **as_dict(result)}))


if __name__ == "__main__":
    main(sys.argv[1:])
