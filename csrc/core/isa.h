// The kernels of an instruction set behind one table, and the choice of the instruction set at run time.
#pragma once
#include <vector>

#include "types.h"

namespace fastssl {

template <class T>
struct PairTable;  // pair/tile.h
template <class T>
struct RowTable;  // row/task.h

struct AugmentTable;          // augment/batch.h
struct WordTable;             // words/window.h
struct DensityTables;         // density/kernels.h
struct CharacteristicTables;  // characteristic/kernels.h
struct WaveTable;             // wave/step.h
struct GruTable;              // wave/gru.h
struct ElementwiseTable;      // elementwise/kernels.h
struct AttentionTable;        // attention/kernels.h

struct IsaTable {
  const char* name;
  const PairTable<float>* pairs_f32;
  const PairTable<double>* pairs_f64;
  const PairTable<float>* pairs_bf16;  // null: convert to float
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
  const WordTable* words;
  const DensityTables* density;
  const CharacteristicTables* characteristic;
  const WaveTable* wave;
  const GruTable* gru;
  const ElementwiseTable* elementwise;
  const AttentionTable* attention;
};

#ifdef FASTSSL_NEON
const IsaTable& isa_neon();
const IsaTable& isa_neon_bf16();
#else
const IsaTable& isa_portable();
#endif
#ifdef FASTSSL_X86
const IsaTable& isa_avx2();
const IsaTable& isa_avx512();
const IsaTable& isa_avx512_bf16();
const IsaTable& isa_amx();
#endif

const IsaTable& isa();
// Of tables by type those of T.
template <class T, class Tables>
const auto& of_type(const Tables& tables) {
  if constexpr (sizeof(T) == sizeof(float)) {
    return tables.f32;
  } else {
    return tables.f64;
  }
}
std::vector<const IsaTable*> usable_isas();
const char* select_isa(const char* name);  // null: chosen; otherwise why it cannot be used

}  // namespace fastssl
