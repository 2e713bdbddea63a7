"""The tests of a library that is patched, without the patch and with it.

    python benchmarks/peer_tests.py lightly CHECKOUT tests/loss
    TEST_DEVICE=cpu TEST_DTYPES=float16,float32 python benchmarks/peer_tests.py pytorch_metric_learning CHECKOUT tests/losses

CHECKOUT holds the library's tests at about the installed version; the rest are paths and options of pytest. Prints how
many tests pass and how many calls ran fused, and exits with 1 where a test passes without the patch alone.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path
from typing import Any

MARK = "fastssl: "
LIBRARY, PATCHED = "FASTSSL_PEER", "FASTSSL_PATCHED"  # of the runs of pytest, which load this file as a plugin


def pytest_configure() -> None:
    importlib.import_module(os.environ[LIBRARY])  # the installed one in both runs, not that of the checkout
    if os.environ[PATCHED]:
        import fastssl

        fastssl.patch(os.environ[LIBRARY], min_rows=0)  # tests are of few rows


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not os.environ[PATCHED]:
        return
    import fastssl

    for name, calls in fastssl.patched().get(os.environ[LIBRARY], {}).items():
        if calls.fused or calls.original:
            reasons = "".join(f"; {count} original: {reason}" for reason, count in calls.original.most_common())
            terminalreporter.write_line(f"{MARK}{name}: {calls.fused} fused{reasons}")


def outcomes(library: str, checkout: Path, arguments: list[str], patched: bool) -> tuple[dict[str, str], str]:
    """Each test's outcome, and the end of pytest's output."""
    folder = str(Path(__file__).resolve().parent)
    path = os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as temporary:
        report = Path(temporary) / "report.xml"
        options = [
            "-q",
            "-p",
            "no:cacheprovider",
            "-n0",
            "--tb=line",
            f"--junitxml={report}",
            "-p",
            Path(__file__).stem,
        ]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *arguments],
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": path, LIBRARY: library, PATCHED: "1" if patched else ""},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode not in (0, 1):  # tests that were not collected, or none
            raise SystemExit(done.stdout[-3000:] + done.stderr[-3000:])
        found = {}
        for case in ElementTree.parse(report).iter("testcase"):
            kinds = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
            found[f"{case.get('classname')}.{case.get('name')}"] = kinds[0] if kinds else "passed"
    return found, done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library")
    parser.add_argument("checkout", type=Path)
    given, arguments = parser.parse_known_args()
    before, _ = outcomes(given.library, given.checkout, arguments, patched=False)
    after, output = outcomes(given.library, given.checkout, arguments, patched=True)
    for title, found in (("the library", before), ("patched", after)):
        counts = Counter(found.values())
        print(f"{title}: {counts['passed']} of {len(found)} pass, {counts['skipped']} are skipped")
    print(*(line.removeprefix(MARK) for line in output.splitlines() if line.startswith(MARK)), sep="\n")
    lost = [name for name, outcome in before.items() if outcome == "passed" and after.get(name) != "passed"]
    print(*(f"passes without the patch alone: {name}" for name in lost), sep="\n")
    raise SystemExit(bool(lost))


if __name__ == "__main__":
    main()
