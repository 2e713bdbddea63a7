"""``python -m fastssl.bench.pairs CASE AGAINST ROWS FEATURES SECONDS``: one comparison of the losses on labels."""

from __future__ import annotations

import json
import sys

from fastssl.bench.harness import as_dict, compare
from fastssl.bench.metric import METRIC_CASES


def main(argv: list[str]) -> None:
    loss, against, rows, features, seconds = argv[0], argv[1], int(argv[2]), int(argv[3]), float(argv[4])
    case = METRIC_CASES[loss]
    inputs = case.inputs(rows, features)
    backward = loss != "nearest"
    fused = case.step("patched" if "patched" in case.peers else "fused", inputs, backward)
    result = compare(fused, case.step(against, inputs, backward), seconds=seconds, least=3)
    print(json.dumps({"loss": loss, "against": against, "rows": rows, "features": features, **as_dict(result)}))


if __name__ == "__main__":
    main(sys.argv[1:])
