#!/usr/bin/env bash
# The wheel of this checkout under another torch, and the Triton that belongs to it: losses, operators, compiled patches.
#
# usage: torch_version.sh VERSION [pytest arguments]     (after `make wheel`; VERSION: of torch, as 2.10.0)
set -euo pipefail
version=${1:?"expected a version of torch, as in make torch TORCH=2.10.0"}
shift
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$root/build/torch-$version
wheel=$(ls -t "$root"/dist/*.whl | head -1)
unset PIP_CONSTRAINT # which holds the project's own torch
if [ ! -x "$work/bin/python" ]; then
  python3 -m venv "$work"
  # Triton 3.6's interpreter fails with numpy 2.4: only 0-dimensional arrays can be converted to Python scalars.
  "$work/bin/python" -m pip install --quiet "torch==$version" "numpy<2.4" setuptools \
    "pytest>=8" pytest-xdist pytest-benchmark hypothesis
fi
"$work/bin/python" -m pip install --quiet "$wheel"
"$work/bin/python" -m pip install --quiet --no-deps --force-reinstall "$wheel"

# Without fastssl/ beside the tests, they import what is installed.
tests=$work/tests-of-wheel
rm -rf "$tests" && mkdir -p "$tests"
cp -r "$root/tests" "$root/benchmarks" "$root/pyproject.toml" "$tests/"
cd "$tests"
"$work/bin/python" -m pip freeze | grep -E '^(fastssl|numpy|torch|triton)\b'
[ $# != 0 ] || set -- tests/losses tests/ops tests/compat/test_compiled.py -m "not slow and not threads"
OMP_NUM_THREADS=1 "$work/bin/python" -m pytest -n "$(nproc)" --dist worksteal -p no:cacheprovider "$@"
