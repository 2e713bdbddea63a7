// Kernels of early models of binary data: half a Gibbs step of a restricted Boltzmann machine, and NADE.
#pragma once
#include <cstdint>

namespace fastssl {

enum class Units : int32_t { binary, normal };

constexpr int64_t kTileUnits = 16;  // at most this many outputs at a time
constexpr int64_t kDrawUnits = 4;   // one counter draws for so many

// Half a Gibbs step: units begin to end of [outputs] of `lanes` rows given the others [inputs], for several blocks of
// rows, one row per lane. States are [block][unit][lanes]; `begin` is a multiple of kDrawUnits.
template <class T>
struct HalfStep {
  const T* from;
  T* to;
  int64_t blocks, lanes, last_lanes;  // of the last block, these are in use; multiples of 16
  int64_t inputs, outputs, begin, end;
  const T* weight;  // of input k and output r: weight[k * input_stride + r * output_stride]; one of the strides is 1
  int64_t input_stride, output_stride;
  T* scratch;                 // [inputs][kTileUnits]
  const T* bias;              // [outputs]
  const uint32_t* key_words;  // [block][2][lanes]: low, high
  uint32_t stream;            // of the draws
  Units units;
};

// NADE on rows whose hidden units are padded to kNadeUnits. `weight`, `output`: [dimensions][hidden].
constexpr int64_t kNadeUnits = 32, kNadeRows = 8;
template <class T>
struct Nade {
  int64_t dimensions, hidden;
  const T* weight;
  const T* output;
  const T* bias;         // [dimensions]
  const T* hidden_bias;  // [hidden]
};

template <class T>
struct DensityTable {
  void (*half_step)(const HalfStep<T>& step);
  // Up to kNadeRows rows: losses, derivatives of the losses by the logits [rows][dimensions], and the activations of
  // the hidden units after all dimensions [rows][hidden]. With `keys`, `visible` is drawn first. `scratch`: hidden
  // units [kNadeRows][hidden].
  void (*nade_rows)(const Nade<T>& p, T* visible, int64_t rows, const int64_t* keys, double* losses, T* slopes, T* last,
                    T* scratch);
  // The gradients of kNadeUnits hidden units from `unit` on, over all rows in order: of the columns of `weight` and
  // `output`, which begin as zeros, and of the hidden biases.
  void (*nade_units)(const Nade<T>& p, const T* visible, int64_t rows, const T* slopes, const T* last, int64_t unit,
                     T* weight, T* output, T* hidden_bias);
};

struct DensityTables {
  DensityTable<float> f32;
  DensityTable<double> f64;
};

}  // namespace fastssl
