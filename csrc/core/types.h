// Plain structs that cross the border between the host code (compiled once) and the kernels (compiled once per
// instruction set). No inline code of vectors lives here, so that no function compiled for AVX-512 can be picked by the
// linker for a machine without it.
#pragma once
#include <cstdint>

// Names of tables of kernels: prefix_, then the instruction set.
#define FASTSSL_JOIN2(a, b) a##b
#define FASTSSL_JOIN(a, b) FASTSSL_JOIN2(a, b)
#define FASTSSL_TEXT2(a) #a
#define FASTSSL_TEXT(a) FASTSSL_TEXT2(a)

namespace fastssl {

// Every packed layout is made of blocks of 32 rows: 32 floats are two AVX-512 registers, four AVX2
// registers and whole cache lines for all of them; powers of two need no padding.
constexpr int64_t kBlock = 32;

enum class DType : int32_t { f32, f64, f16, bf16 };

// Rows to read: any strides, in elements.
struct Source {
  const void* data = nullptr;
  DType dtype = DType::f32;
  int64_t n = 0, row_stride = 0, col_stride = 0;
};

// One side of the pair matrix after packing. `lanes` holds [block][depth][32] (the transposed blocks that
// score tiles read), `rows` holds [block][depth block][32][32] (what gradients read). For bf16 operands a
// word is a pair of neighbours along the contracted dimension. `natural` (matrix tiles only) holds
// [block][depth block][32][32], rows as they are; there the depth of lanes is one of whole blocks.
struct Operand {
  const void* lanes = nullptr;
  const void* rows = nullptr;
  int64_t n = 0;                       // rows that exist
  int64_t depth = 0;                   // features
  const float* lane_factor = nullptr;  // bf16 only: what each raw row is multiplied by
  const void* natural = nullptr;
};

// Where the rows of one side go; null: not wanted. Per row: inverse_norm, norm, and lane_factor (bf16 only).
struct Packed {
  void *lanes = nullptr, *rows = nullptr, *natural = nullptr;
  double *inverse_norm = nullptr, *norm = nullptr;
  float* lane_factor = nullptr;
};

// Memory that is wanted after a pass; the pass asks for it while it multiplies.
struct Span {
  const char* at = nullptr;
  const char* end = nullptr;
};
struct PrefetchPlan {
  static constexpr int kSpans = 3;
  Span spans[kSpans];
};

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace fastssl
