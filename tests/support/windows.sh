#!/usr/bin/env bash
# The kernels' sources for Windows, without such a machine: read by MinGW's compiler, with its headers. What is left to
# a real one: Microsoft's standard library, linking, and Python's binding.
#
# On Debian, as root, once: apt-get install g++-mingw-w64-x86-64-posix
#
# usage: windows.sh PYTHON     (of this machine, with fastssl's dependencies)
set -euo pipefail
python=$(realpath -s "$1")
cd "$(dirname "$0")/../../csrc"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" core/make_table.py ../fastssl/_table.py > "$work/table.h"
include=$("$python" -c 'from torch.utils.cpp_extension import include_paths; print(*("-isystem " + path for path in include_paths()))')
avx512="-mavx512f -mavx512vl -mavx512dq -mavx512bw -mfma"

read_as() { # FILE, INSTRUCTION SET, BYTES OF A VECTOR, options
  local file=$1 isa=$2 bytes=$3
  shift 3
  echo "$file $isa"
  x86_64-w64-mingw32-g++-posix -std=gnu++17 -fsyntax-only -Wall -Wextra -Werror -Wno-psabi -DTORCH_TARGET_VERSION=0x020a000000000000 \
    -DFASTSSL_X86 -DFASTSSL_AVX512_BF16 "-DFASTSSL_ISA=$isa" -DFASTSSL_BASE=avx512 "-DFASTSSL_VECTOR_BYTES=$bytes" -I. "-I$work" $include "$@" "$file"
}

per_isa=" $(sed -n 's/^set(per_isa \(.*\))/\1/p' CMakeLists.txt) "
for file in */*.cpp; do
  [[ "$file" == bindings/* ]] && continue
  if [[ "$per_isa" == *" $file "* ]]; then
    read_as "$file" portable 16
    read_as "$file" avx2 32 -mavx2 -mfma
    read_as "$file" avx512 64 $avx512
  elif [ "$file" = operators/bf16_pairs.cpp ]; then
    read_as "$file" avx512_bf16 64 $avx512 -mavx512bf16
  else
    read_as "$file" none 16
  fi
done
echo "windows: all sources compile"
