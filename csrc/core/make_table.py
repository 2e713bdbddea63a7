"""Prints table.h, the enumerations of fastssl/_table.py in C++ (run by CMake)."""

import enum
import runpy
import sys

table = runpy.run_path(sys.argv[1])
print("// Made by csrc/core/make_table.py from fastssl/_table.py.\n#pragma once\n#include <cstdint>\n")
print("namespace fastssl {\n")
for name in ("Metric", "RowLoss", "Positives", "Closing", "Keep", "Reduction"):
    values: "type[enum.IntEnum]" = table[name]
    print(f"enum class {name} : int64_t {{ {', '.join(f'{v.name} = {v.value}' for v in values)} }};")
    print(f"constexpr int k{name}Values = {len(values)};")
print("// f(name) for every row statistic, in their order.")
print(f"#define FASTSSL_ROW_LOSSES(f) {', '.join(f'f({v.name})' for v in table['RowLoss'])}")
outputs = ", ".join(str(len(table["OUTPUTS"][v])) for v in table["RowLoss"])
print(f"constexpr int kRowOutputs[kRowLossValues] = {{{outputs}}};")
print(f"constexpr int kRowParams = {table['PARAMETERS']};\nconstexpr int kMaxBins = {table['MAX_BINS']};")
print("\n}  // namespace fastssl")
