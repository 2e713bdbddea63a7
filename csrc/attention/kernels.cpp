// Attention on the micro-kernel of products. Compiled once per instruction set.
#include "kernels.h"

#include <algorithm>

#include "core/half.h"
#include "simd/microkernel.h"
#include "simd/values.h"

namespace fastssl {
namespace FASTSSL_ISA {
namespace {

using K = Plain<float>;
using V = Vec<float>;
using I = IVec<float>;
constexpr int kW = kWidth<float>;
constexpr int64_t kArea = kBlock * kBlock;
constexpr float kLog2e = 1.4426950408889634f;

FASTSSL_INLINE float read_as(const float* p) { return *p; }
FASTSSL_INLINE float read_as(const uint16_t* p) { return bf16_to_float(*p); }

// f(float()) or f(uint16_t()).
template <class F>
FASTSSL_INLINE void with_dtype(DType dtype, F&& f) {
  dtype == DType::bf16 ? f(uint16_t()) : f(float());
}

// A square of 32 tokens (of which `count` exist) by 32 features (of which `features` exist).
template <class T>
FASTSSL_INLINE void read_square(const T* from, int64_t stride, int64_t count, int64_t features, float* square) {
  for (int64_t r = 0; r < kBlock; ++r, square += kBlock) {
    if (r < count && features >= kBlock) {
      for (int v = 0; v < kBlock; v += kW) store<float>(square + v, from_memory(from + r * stride + v));
    } else {
      for (int64_t k = 0; k < kBlock; ++k) square[k] = r < count && k < features ? read_as(from + r * stride + k) : 0.f;
    }
  }
}

// Tokens `begin` on, `blocks` blocks of 32. rows: [block][depth block][32][32]; lanes: [block][depth block][32
// features] [32 tokens]. Null: not wanted.
void pack(const Tokens& tokens, DType dtype, int64_t depth, int64_t begin, int64_t blocks, float* rows, float* lanes) {
  const int64_t depth_blocks = ceil_div(depth, kBlock);
  alignas(64) float square[kArea];
  with_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    for (int64_t b = 0; b < blocks; ++b)
      for (int64_t d = 0; d < depth_blocks; ++d) {
        const int64_t first = begin + b * kBlock, at = (b * depth_blocks + d) * kArea;
        float* to = rows ? rows + at : square;
        read_square(static_cast<const T*>(tokens.data) + first * tokens.stride + d * kBlock, tokens.stride,
                    tokens.count - first, depth - d * kBlock, to);
        for (int64_t r = 0; lanes && r < kBlock; r += kW)
          for (int64_t k = 0; k < kBlock; k += kW)
            transpose<float>(to + r * kBlock + k, kBlock, lanes + at + k * kBlock + r, kBlock);
      }
  });
}

// c[32][32] = (kAdd: +=) the sum over runs of a [k][r] b [k][lanes], a with the strides kStrideK and kStrideR.
template <int kStrideK, int kStrideR, bool kAdd>
void product(float* c, const float* a, int64_t a_step, const float* b, int64_t b_step, int64_t runs) {
  for (int l = 0; l < kBlock; l += kLanes<float>)
    for_row_groups([&](auto rows, int r) __attribute__((always_inline)) {
      constexpr int R = decltype(rows)::value;
      float* p = c + r * kBlock + l;
      Micro<K, R> acc = {};
      multiply<K, kStrideK, kStrideR, R>(acc, a + r * kStrideR, a_step, b + l, b_step, runs, 0);
      for (int q = 0; kAdd && q < R; ++q)
        for (int v = 0; v < kVectors; ++v) acc[q][v] += load<float>(p + q * kBlock + v * kW);
      store_micro<K, R>(p, acc);
    });
}

// c[32 queries][32 features] = the sum over blocks of keys of p [32 queries][32 keys] b [32 keys][32 features], in
// parts of 256 keys: chains of fp32 additions are no longer.
FASTSSL_INLINE void over_keys(float* c, const float* p, const float* b, int64_t b_step, int64_t blocks) {
  constexpr int64_t kPart = 8;
  product<1, int(kBlock), false>(c, p, kArea, b, b_step, std::min(blocks, kPart));
  for (int64_t k = kPart; k < blocks; k += kPart)
    product<1, int(kBlock), true>(c, p + k * kArea, kArea, b + k * b_step, b_step, std::min(blocks - k, kPart));
}

// Products of 32 tokens with 32 others, both as lanes.
FASTSSL_INLINE void scores(float* c, const float* a, const float* b, int64_t depth_blocks) {
  product<int(kBlock), 1, false>(c, a, kArea, b, kArea, depth_blocks);
}

void write_rows(const Gradient& to, DType dtype, const float* blocks, int64_t depth, int64_t begin, int64_t count) {
  const int64_t depth_blocks = ceil_div(depth, kBlock);
  with_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    for (int64_t r = 0; r < count; ++r)
      for (int64_t d = 0; d < depth_blocks; ++d) {
        const float* from = blocks + (r / kBlock * depth_blocks + d) * kArea + r % kBlock * kBlock;
        T* out = static_cast<T*>(to.data) + (begin + r) * to.stride + d * kBlock;
        const int64_t features = std::min(kBlock, depth - d * kBlock);
        int64_t k = 0;
        for (; k + kW <= features; k += kW) to_memory(out + k, load<float>(from + k));
        if (k == features) continue;
        T rest[kW];
        to_memory(rest, load<float>(from + k));
        std::copy_n(rest, features - k, out + k);
      }
  });
}

constexpr float kNever = -__builtin_huge_valf();

// Which keys a query sees, 32 at a time, as masks of lanes; and what is added to their scores.
class Sight {
 public:
  Sight(const Head& head, int64_t query) : h_(head), query_(query) {
    last_ = head.causal ? std::min(head.key.count, query + 1) : head.key.count;
  }
  int64_t blocks() const { return ceil_div(last_, kBlock); }
  // The score of lanes from `key` on, minus infinity where they are not seen.
  FASTSSL_INLINE V operator()(V score, int64_t key) const {
    score *= h_.scale * kLog2e;
    const bool whole = key + kW <= last_;
    const int64_t at = query_ * h_.mask_row + key * h_.mask_column;
    if (h_.added) {
      alignas(64) float some[kW];
      const float* added = h_.added + at;
      if (!whole || h_.mask_column != 1) {
        for (int k = 0; k < kW; ++k) some[k] = key + k < last_ ? added[k * h_.mask_column] : kNever;
        added = some;
      }
      // The least number as a mask, which times log2(e) is none, is not minus infinity: where all keys have it, all are
      // seen.
      const V more = load<float>(added);
      const V scaled = more * kLog2e;  // NaN stays NaN
      return more == kNever ? more : score + (scaled < -2e38f ? splat(-2e38f) : scaled);
    }
    if (h_.visible) {
      uint8_t some[kW];
      const uint8_t* visible = h_.visible + at;
      if (!whole || h_.mask_column != 1) {
        for (int k = 0; k < kW; ++k) some[k] = key + k < last_ && visible[k * h_.mask_column];
        visible = some;
      }
      return load_as<I>(visible) != 0 ? score : splat(kNever);
    }
    return whole ? score : iota<float>() < int32_t(last_ - key) ? score : splat(kNever);
  }

 private:
  const Head& h_;
  int64_t query_, last_;
};

FASTSSL_INLINE V weight(V score, Softmax row) { return score == kNever ? V{} : exp2v(score - row.shift) * row.factor; }

// p[key block][32 queries][32 keys], scores, become probabilities of one query.
Softmax softmax(const Sight& sight, float* p) {
  const auto each = [&](auto&& f) __attribute__((always_inline)) {
    for (int64_t b = 0; b < sight.blocks(); ++b)
      for (int64_t k = 0; k < kBlock; k += kW) f(p + b * kArea + k, b * kBlock + k);
  };
  V top = splat(kNever), sums = {};
  each([&](float* at, int64_t key) __attribute__((always_inline)) {
    const V score = sight(load<float>(at), key);
    store<float>(at, score);
    top = vmax<float>(top, score);
  });
  const float most = hmax<float>(top);
  Softmax row = {most == kNever ? 0.f : most, 1.f};
  each([&](float* at, int64_t) __attribute__((always_inline)) {
    const V w = weight(load<float>(at), row);
    store<float>(at, w);
    sums += w;
  });
  const float sum = hsum<float>(sums);
  row.factor = sum == 0 ? 0.f : 1.f / sum;
  each([&](float* at, int64_t) __attribute__((always_inline)) { store<float>(at, load<float>(at) * row.factor); });
  return row;
}

// Factors of dropout of lanes from `key` on.
FASTSSL_INLINE V kept_factor(const Head& h, int64_t query, int64_t key) {
  const uint8_t* kept = h.kept + query * h.key.count + key;
  const int64_t left = h.key.count - key;
  uint8_t some[kW] = {};
  if (left < kW) std::copy_n(kept, std::max<int64_t>(left, 0), some);
  return load_as<I>(left < kW ? some : kept) != 0 ? splat(h.kept_scale) : V{};
}

struct Sizes {
  int64_t key_blocks, depth_blocks, value_blocks;
  explicit Sizes(const Head& h)
      : key_blocks(ceil_div(h.key.count, kBlock)),
        depth_blocks(ceil_div(h.depth, kBlock)),
        value_blocks(ceil_div(h.value_depth, kBlock)) {}
};

void forward(const Head& h, float* scratch) {
  const Sizes n(h);
  const int64_t queries = h.query.count;
  float* const key_lanes = scratch;
  float* const value_rows = key_lanes + n.key_blocks * n.depth_blocks * kArea;
  float* const query_lanes = value_rows + n.key_blocks * n.value_blocks * kArea;
  float* const out = query_lanes + kQueryBlocks * n.depth_blocks * kArea;
  float* const p = out + kQueryBlocks * n.value_blocks * kArea;
  pack(h.key, h.dtype, h.depth, 0, n.key_blocks, nullptr, key_lanes);
  pack(h.value, h.dtype, h.value_depth, 0, n.key_blocks, value_rows, nullptr);
  for (int64_t begin = 0; begin < queries; begin += kBlock) {
    const int64_t count = std::min(kBlock, queries - begin);
    pack(h.query, h.dtype, h.depth, begin, 1, nullptr, query_lanes);
    const int64_t blocks = Sight(h, begin + count - 1).blocks();
    for (int64_t b = 0; b < blocks; ++b)
      scores(p + b * kArea, query_lanes, key_lanes + b * n.depth_blocks * kArea, n.depth_blocks);
    for (int64_t r = 0; r < kBlock; ++r) {
      const int64_t query = begin + std::min(r, count - 1);
      const Sight sight(h, query);
      const Softmax row = softmax(sight, p + r * kBlock);
      if (r < count) h.rows[query] = row;
      for (int64_t b = sight.blocks(); b < blocks; ++b) std::fill_n(p + b * kArea + r * kBlock, kBlock, 0.f);
      for (int64_t b = 0; h.kept && b < sight.blocks(); ++b)
        for (int64_t k = 0; k < kBlock; k += kW) {
          float* at = p + b * kArea + r * kBlock + k;
          store<float>(at, load<float>(at) * kept_factor(h, query, b * kBlock + k));
        }
    }
    for (int64_t d = 0; d < n.value_blocks; ++d)
      over_keys(out + d * kArea, p, value_rows + d * kArea, n.value_blocks * kArea, blocks);
    write_rows(h.out, h.dtype, out, h.value_depth, begin, count);
  }
}

void backward(const Head& h, float* scratch) {
  const Sizes n(h);
  const int64_t queries = h.query.count;
  float* next = scratch;
  const auto take = [&](int64_t blocks) {
    float* const found = next;
    next += blocks * kArea;
    return found;
  };
  const int64_t keys = n.key_blocks;
  float* const key_lanes = take(keys * n.depth_blocks);
  float* const key_rows = take(keys * n.depth_blocks);
  float* const value_lanes = take(keys * n.value_blocks);
  float* const key_sums = take(keys * n.depth_blocks);
  float* const value_sums = take(keys * n.value_blocks);
  float* const query_lanes = take(kQueryBlocks * n.depth_blocks);
  float* const query_rows = take(kQueryBlocks * n.depth_blocks);
  float* const query_sums = take(kQueryBlocks * n.depth_blocks);
  float* const out_lanes = take(kQueryBlocks * n.value_blocks);
  float* const out_rows = take(kQueryBlocks * n.value_blocks);
  float* const p = take(kQueryBlocks * keys);  // [query block][key block][32][32]
  float* const g = take(kQueryBlocks * keys);
  pack(h.key, h.dtype, h.depth, 0, keys, key_rows, key_lanes);
  pack(h.value, h.dtype, h.value_depth, 0, keys, nullptr, value_lanes);
  std::fill_n(key_sums, keys * n.depth_blocks * kArea, 0.f);
  std::fill_n(value_sums, keys * n.value_blocks * kArea, 0.f);
  for (int64_t begin = 0; begin < queries; begin += kQueryBlocks * kBlock) {
    const int64_t count = std::min(kQueryBlocks * kBlock, queries - begin), parts = ceil_div(count, kBlock);
    pack(h.query, h.dtype, h.depth, begin, parts, query_rows, query_lanes);
    pack(h.out_gradient, h.dtype, h.value_depth, begin, parts, out_rows, out_lanes);
    const int64_t seen = Sight(h, begin + count - 1).blocks();
    for (int64_t part = 0; part < parts; ++part) {
      float* const own_p = p + part * keys * kArea;
      float* const own_g = g + part * keys * kArea;
      for (int64_t b = 0; b < seen; ++b) {
        scores(own_p + b * kArea, query_lanes + part * n.depth_blocks * kArea, key_lanes + b * n.depth_blocks * kArea,
               n.depth_blocks);
        scores(own_g + b * kArea, out_lanes + part * n.value_blocks * kArea, value_lanes + b * n.value_blocks * kArea,
               n.value_blocks);
      }
      for (int64_t r = 0; r < kBlock; ++r) {
        const int64_t query = begin + part * kBlock + r;
        if (query >= queries) {
          for (int64_t b = 0; b < seen; ++b) {
            std::fill_n(own_p + b * kArea + r * kBlock, kBlock, 0.f);
            std::fill_n(own_g + b * kArea + r * kBlock, kBlock, 0.f);
          }
          continue;
        }
        const Sight sight(h, query);
        const Softmax row = h.rows[query];
        V sums = {};
        const int64_t own = sight.blocks();
        for (int64_t b = 0; b < own; ++b)
          for (int64_t k = 0; k < kBlock; k += kW) {
            float* const at = own_p + b * kArea + r * kBlock + k;
            float* const to = own_g + b * kArea + r * kBlock + k;
            const V w = weight(sight(load<float>(at), b * kBlock + k), row);
            V gradient = load<float>(to);
            if (h.kept) gradient *= kept_factor(h, query, b * kBlock + k);
            store<float>(at, w);
            store<float>(to, gradient);
            sums += w * gradient;
          }
        const V mean = splat(hsum<float>(sums)), scale = splat(h.scale);
        for (int64_t b = 0; b < own; ++b)
          for (int64_t k = 0; k < kBlock; k += kW) {
            float* const at = own_p + b * kArea + r * kBlock + k;
            float* const to = own_g + b * kArea + r * kBlock + k;
            const V w = load<float>(at);
            store<float>(to, w * (load<float>(to) - mean) * scale);
            if (h.kept) store<float>(at, w * kept_factor(h, query, b * kBlock + k));
          }
        for (int64_t b = own; b < seen; ++b) {
          std::fill_n(own_p + b * kArea + r * kBlock, kBlock, 0.f);
          std::fill_n(own_g + b * kArea + r * kBlock, kBlock, 0.f);
        }
      }
      for (int64_t d = 0; h.query_gradient.data && d < n.depth_blocks; ++d)
        over_keys(query_sums + (part * n.depth_blocks + d) * kArea, own_g, key_rows + d * kArea, n.depth_blocks * kArea,
                  seen);
    }
    for (int64_t b = 0; b < seen; ++b) {
      for (int64_t d = 0; h.value_gradient.data && d < n.value_blocks; ++d)
        product<int(kBlock), 1, true>(value_sums + (b * n.value_blocks + d) * kArea, p + b * kArea, keys * kArea,
                                      out_rows + d * kArea, n.value_blocks * kArea, parts);
      for (int64_t d = 0; h.key_gradient.data && d < n.depth_blocks; ++d)
        product<int(kBlock), 1, true>(key_sums + (b * n.depth_blocks + d) * kArea, g + b * kArea, keys * kArea,
                                      query_rows + d * kArea, n.depth_blocks * kArea, parts);
    }
    if (h.query_gradient.data) write_rows(h.query_gradient, h.dtype, query_sums, h.depth, begin, count);
  }
  if (h.key_gradient.data) write_rows(h.key_gradient, h.dtype, key_sums, h.depth, 0, h.key.count);
  if (h.value_gradient.data) write_rows(h.value_gradient, h.dtype, value_sums, h.value_depth, 0, h.key.count);
}

}  // namespace
}  // namespace FASTSSL_ISA

extern const AttentionTable FASTSSL_JOIN(attention_, FASTSSL_ISA);
const AttentionTable FASTSSL_JOIN(attention_, FASTSSL_ISA) = {FASTSSL_ISA::forward, FASTSSL_ISA::backward};

}  // namespace fastssl
