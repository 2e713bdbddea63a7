#!/usr/bin/env bash
# Builds the extension with AddressSanitizer and UndefinedBehaviorSanitizer beside the sources and runs the tests of the
# kernels with it: bash tests/support/sanitize.sh .venv/bin/python
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$(readlink -f "$(dirname "$1")")/$(basename "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git ls-files -co --exclude-standard | tar -cf - -T - | tar -xf - -C "$work"
cd "$work"
FASTSSL_SANITIZE=1 FASTSSL_REQUIRE_KERNELS=1 "$python" setup.py -q build_ext --inplace >build.log 2>&1 || { tail -30 build.log; exit 1; }
asan=$(${CXX:-g++} -print-file-name=libasan.so)
stdcxx=$(${CXX:-g++} -print-file-name=libstdc++.so)
# torch and Python themselves leak at exit and allocate in ways that are not ours to judge.
export LD_PRELOAD="$asan $stdcxx" ASAN_OPTIONS=detect_leaks=0:halt_on_error=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
export PYTHONPATH=$work
loaded=$("$python" -c "import torch, fastssl._C as c; print(c.__file__)")
[[ $loaded == "$work"/* ]] || { echo "sanitize: the wrong extension was loaded: $loaded"; exit 1; }
# Not grep -q: it leaves before nm has written everything, which pipefail takes for a failure.
LD_PRELOAD='' nm -D "$(dirname "$loaded")/libfastssl.kernels.so" | grep __asan_report >/dev/null || { echo "sanitize: the extension is not instrumented"; exit 1; }
"$python" -m pytest -p no:cacheprovider tests/losses/test_fuzz.py tests/losses/test_bad_input.py \
  tests/losses/test_bad_metric_input.py tests/losses/test_properties.py tests/losses/test_pair_engine.py \
  tests/losses/test_particular.py tests/ops/test_distances.py \
  -k "not errs_no_more and not gradcheck and not oracle and not compile and not opcheck"
"$python" -m pytest -p no:cacheprovider tests/augment/test_augment.py tests/data/test_loader.py \
  tests/data/test_fuzz_images.py tests/gpu/test_cuda_on_host.py tests/methods/test_word2vec.py -m "not slow"
echo "sanitize: clean"
