#!/usr/bin/env bash
# The kernels on aarch64, without such a machine: cross-compiled, then their tests under qemu-user with Debian's Python
# and torch's own wheel. Slow (a test takes some 50 times what it takes natively): a few tests of each kind by default.
#
# On Debian, as root, once:
#   dpkg --add-architecture arm64 && apt-get update
#   apt-get install g++-aarch64-linux-gnu qemu-user cmake ninja-build unzip
#
# usage: arm64.sh PYTHON [pytest arguments]     (PYTHON: of this machine, with fastssl's dev dependencies; the same 3.x as Debian's)
set -euo pipefail
python=$(realpath -s "$1")
shift
root=$(cd "$(dirname "$0")/../.." && pwd)
work=${FASTSSL_ARM64:-$root/build/arm64}
torch=${FASTSSL_ARM64_TORCH:-2.10.0} # the newest aarch64 wheel on PyPI that needs no CUDA libraries
mkdir -p "$work/debs" "$work/root" "$work/site" "$work/wheels"

version=$("$python" -c 'import sys; print("3.%d" % sys.version_info[1])')
if [ ! -e "$work/root/usr/bin/python$version" ]; then
  packages="python$version-minimal libpython$version-minimal libpython$version-stdlib libpython$version libpython$version-dev
    libc6 libgcc-s1 libstdc++6 zlib1g libexpat1 libssl3 libffi8 libsqlite3-0 libbz2-1.0 liblzma5 libgomp1 libuuid1 libcrypt1"
  (cd "$work/debs" && for package in $packages; do apt-get download -qq "$package:arm64"; done)
  for deb in "$work"/debs/*.deb; do dpkg -x "$deb" "$work/root"; done
fi
if [ ! -e "$work/site/torch" ]; then
  numpy=$("$python" -c 'import numpy; print(numpy.__version__)')
  "$python" -m pip download --quiet --no-deps --dest "$work/wheels" --only-binary :all: --python-version "$version" \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 \
    "torch==$torch" "numpy==$numpy" markupsafe pillow scipy safetensors
  for wheel in "$work"/wheels/*.whl; do unzip -q -o "$wheel" -d "$work/site"; done
  # What has no machine code is that of this machine.
  "$python" -m pip download --quiet --dest "$work/pure" --only-binary :all: --platform any --no-deps \
    sympy mpmath networkx jinja2 typing_extensions filelock fsspec setuptools pytest pluggy iniconfig packaging pygments hypothesis sortedcontainers
  for wheel in "$work"/pure/*.whl; do unzip -q -o "$wheel" -d "$work/site"; done
fi

include="$work/site/torch/include;$work/site/torch/include/torch/csrc/api/include"
export PATH="$(dirname "$python"):$PATH"
cmake -G Ninja -S "$root" -B "$work/build" -DCMAKE_BUILD_TYPE=Release \
  -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
  "-DFASTSSL_TORCH_INCLUDE=$include" "-DFASTSSL_TORCH_LIB=$work/site/torch/lib" \
  "-Dpybind11_DIR=$("$python" -c 'import pybind11; print(pybind11.get_cmake_dir())')" \
  "-DPython_EXECUTABLE=$python" "-DPython_INCLUDE_DIR=$work/root/usr/include/python$version" \
  "-DCMAKE_CXX_FLAGS=-idirafter $work/root/usr/include -Wl,--allow-shlib-undefined" >"$work/cmake.log"
cmake --build "$work/build" --target _C

# The package as it would be installed there: its Python, the extension for aarch64, kernels/ as fastssl.kernels.
rm -rf "$work/package" && mkdir -p "$work/package"
cp -r "$root/fastssl" "$work/package/fastssl" && rm -f "$work"/package/fastssl/*.so
cp -r "$root/kernels" "$work/package/fastssl/kernels"
cp "$work"/build/_C*.so "$work/package/fastssl/_C.so"
cp "$work/build/libfastssl.kernels.so" "$work/package/fastssl/"
cp -r "$root/tests" "$root/pyproject.toml" "$work/package/"

cd "$work/package"
# CI: hypothesis does not mind that inputs come slowly.
run=(qemu-aarch64 -cpu max -L "$work/root" -E "PYTHONPATH=$work/package:$work/site" -E "PYTHONHOME=$work/root/usr" -E OMP_NUM_THREADS=1 -E CI=true
  "$work/root/usr/bin/python$version")
"${run[@]}" -c 'import torch, fastssl; print(torch.__version__, fastssl.instruction_set())'
if [ $# = 0 ]; then # without those that start this Python again, compile, need more packages, or sum 1,030 rows in float64
  set -- tests/losses/test_pair_engine.py tests/losses/test_particular.py tests/losses/test_density.py tests/ops/test_characteristic.py tests/ops/test_distances.py \
    tests/augment/test_augment.py tests/methods/test_word2vec.py tests/methods/test_autoregressive.py \
    -k "not 1030 and not compile and not subprocess and not resume and not bad_data"
fi
"${run[@]}" -m pytest -p no:cacheprovider "$@"
