// What crosses the border between the schedule (compiled once) and the kernels (compiled once per
// instruction set): plain structs and one table of function pointers. No inline code lives here, so
// that no function compiled for AVX-512 can be picked by the linker for a machine without it.
#pragma once
#include <cstdint>

namespace fastssl {

// Every packed layout is made of blocks of 32 rows: 32 floats are two AVX-512 registers, four AVX2
// registers and whole cache lines for all of them; powers of two need no padding.
constexpr int64_t kBlock = 32;

// Most blocks on one side of a tile. 256 x 256 floats of scores (256 KiB) and the two operands' rows at
// D = 128 stay inside a 1 MiB L2 cache.
constexpr int64_t kMaxTileBlocks = 8;

enum class DType : int32_t { f32, f64, f16, bf16 };

// Rows to read: any strides, in elements.
struct Source {
  const void* data = nullptr;
  DType dtype = DType::f32;
  int64_t n = 0, row_stride = 0, col_stride = 0;
};

// One side of the pair matrix after packing. `lanes` holds [block][depth][32] (the transposed blocks that
// score tiles read), `rows` holds [block][depth block][32][32] (what gradients read). For bf16 operands a
// word is a pair of neighbours along the contracted dimension.
struct Operand {
  const void* lanes = nullptr;
  const void* rows = nullptr;
  int64_t n = 0;                       // rows that exist
  int64_t depth = 0;                   // features
  const float* lane_factor = nullptr;  // bf16 only: what each raw row is multiplied by
};

// Memory that is wanted after a pass; the pass asks for it while it multiplies.
struct Span {
  const char* at = nullptr;
  const char* end = nullptr;
};
struct Soon {
  static constexpr int kSpans = 3;
  Span spans[kSpans];
};

// A tile: lane blocks [i0, i1) of x against row blocks [j0, j1) of y. T is float or double.
template <class T>
struct Tile {
  Operand x, y;
  int64_t i0 = 0, i1 = 0, j0 = 0, j1 = 0;
  bool triangular = false;  // x == y and i0 == j0: only blocks j <= i are visited
  // Score: dot product (its scale folded into x.lanes, or given here for bf16) + bias per row of y.
  T scale = 1;
  const T* bias = nullptr;
  // Relation: pairs left out of the dense sums, as one index of y per lane (-1: none).
  const int32_t* self = nullptr;
  const int32_t* positive = nullptr;
  // Tile buffer, [lane block][row of y][32].
  T* e = nullptr;
  bool streams = false;  // e is written past the caches
  Soon soon;
  T* scratch = nullptr;  // row accumulators, 32 * kMaxTileBlocks * 16 values
  // Statistics, added to (indexed from the first row of the operand); null when nobody asks.
  double* lane_sum = nullptr;
  double* row_sum = nullptr;
  double* lane_aux = nullptr;  // running maximum (softmax), sum of sigmoids (sigmoid)
  double* row_aux = nullptr;
};

// What turns a tile buffer into gradients: G = e * (lane_weight + row_weight) for tiles of exponentials,
// G = lane_weight 2^(e - lane_lse) + row_weight 2^(e - row_lse) for tiles of scores.
template <class T>
struct Weights {
  const T* lane_weight = nullptr;
  const T* row_weight = nullptr;
  const T* lane_lse = nullptr;
  const T* row_lse = nullptr;
  // Tiles of scores: |G| up to this is left out of the gradient of that row (SideWeights in pair_dense.h).
  const T* lane_floor = nullptr;
  const T* row_floor = nullptr;
  T* g = nullptr;           // scratch for the weighted tile
  void* g_pairs = nullptr;  // bf16 only: the same, paired along the rows of y
  T* grad_x = nullptr;      // blocked like Operand::rows; null: not wanted
  T* grad_y = nullptr;
  double* row_total = nullptr;  // sum of G over lanes, per row of y (bias gradient)
  Soon soon;
};

// The O(N D) end of a backward pass, one row: dense gradient + sparse partners, scale, normalisation.
template <class T>
struct Finish {
  const Source* sources = nullptr;  // the rows the gradient is for
  int64_t n_sources = 0, depth = 0;
  bool normalize = false;
  const double* inverse_norm = nullptr;
  const T* dense = nullptr;              // blocked; null: partners only
  const double* dense_weight = nullptr;  // per row; null: 1
  // Partners of row r: entries [offset[r], offset[r + 1]), or entry r where offset is null.
  const Source* partner_sources = nullptr;
  int64_t n_partner_sources = 0;
  const double* partner_inverse_norm = nullptr;
  const int64_t* partner_offset = nullptr;
  const int32_t* partner = nullptr;  // -1: none
  const double* partner_weight = nullptr;
  double scale = 1;
  void* const* out = nullptr;    // per source, contiguous, its dtype; null: not wanted
  bool wide = false;             // 16-bit sources get fp32 gradients
  double* projection = nullptr;  // per row: x_hat . (gradient before the scale)
};
constexpr int64_t finish_scratch(int64_t depth) { return 2 * ((depth + kBlock - 1) / kBlock * kBlock); }

enum Epilogue : int { kSoftmaxBounded = 0, kSoftmaxRunningMax = 1, kSigmoid = 2, kEpilogues = 3 };

template <class T>
struct EngineTable {
  void (*forward[kEpilogues])(const Tile<T>&);
  void (*backward[kEpilogues])(const Tile<T>&, const Weights<T>&);
  // Packs one block of 32 rows. `factor` multiplies what goes to lanes. inverse_norm and norm are per row.
  void (*pack)(const Source* sources, int64_t n_sources, int64_t block, int64_t depth, bool normalize, double factor,
               void* lanes, void* rows, double* inverse_norm, double* norm, float* lane_factor);
  // Row r of Finish; scratch holds finish_scratch(depth) doubles.
  void (*finish)(const Finish<T>&, int64_t row, double* scratch);
};

template <class T>
struct RowTable;  // rows.h

struct AugmentTable;  // augment.h

struct IsaTable {
  const char* name;
  EngineTable<float> f32;
  EngineTable<double> f64;
  const EngineTable<float>* bf16;  // null: convert to float
  // Dot product of row a of one list of sources with row b of another, each times its inverse norm.
  double (*dot)(const Source* a_sources, int64_t n_a, int64_t a, double a_inverse, const Source* b_sources, int64_t n_b,
                int64_t b, double b_inverse, int64_t depth);
  // sum += weight * inverse * row (sum: depth doubles).
  void (*add_row)(const Source* sources, int64_t n_sources, int64_t row, double weight, int64_t depth, double* sum);
  double (*dot_row)(const Source* sources, int64_t n_sources, int64_t row, double inverse, int64_t depth,
                    const double* vector);
  double (*fma_loop)(int64_t iterations);  // returns the flops done; nothing but registers
  const RowTable<float>* rows_f32;
  const RowTable<double>* rows_f64;
  const AugmentTable* augment;
};

const IsaTable& isa_portable();
#ifdef FASTSSL_X86
const IsaTable& isa_avx2();
const IsaTable& isa_avx512();
const IsaTable& isa_avx512_bf16();
#endif

}  // namespace fastssl
