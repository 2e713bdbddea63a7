// Rows of scores that threads sort and select from: all triplets, semi-hard triplets, the k best columns. One block for
// a row. Counts are integers and sums have one order: the same bits always.
#pragma once
#include <cmath>

#include "block.h"

namespace fastssl {
namespace cuda {

constexpr int kThreads = 256;

constexpr int64_t kSortedParams = 3;

enum class SortedLoss : int32_t { triplet, semihard };

struct RowsProblem {
  const float* s = nullptr;  // [rows][stride] scores, rows first .. first + rows of n
  int64_t rows = 0, stride = 0, first = 0, n = 0, m = 0;
  // Equal ids are positive pairs, others negative; or bits [n / 32][m], bit r of a word for row 32 k + r.
  const int64_t* x_ids = nullptr;
  const int64_t* y_ids = nullptr;
  const int32_t* positive_bits = nullptr;
  const int32_t* negative_bits = nullptr;
  int64_t self_offset = -1;
  SortedLoss loss = SortedLoss::triplet;
  const float* params = nullptr;  // [kSortedParams] sign, margin, smooth: on the device, where a learned margin is
  double* out = nullptr;          // forward: [2][rows]: the sum, how many are above 0
  const double* grad = nullptr;   // backward: [rows] upstream of the sum
  float* g = nullptr;             // [rows][m] dL/ds
  uint64_t* scratch = nullptr;    // [rows][scratch_words(m)]
};

// Of one row: sorted positives (keys: value, column), sums above each, what each negative of a slot is nearest, counts.
FASTSSL_HOST_DEVICE inline int64_t scratch_words(int64_t m) { return 4 * (power_of_two(m) + 1) + 4 * kThreads; }

FASTSSL_DEVICE float value_of(uint64_t key) {
  const uint32_t u = uint32_t(key >> 32);
  union {
    float f;
    uint32_t u;
  } bits;
  bits.u = u & 0x80000000u ? u ^ 0x80000000u : ~u;
  if (u == 0xFFFFFFFFu) bits.u = 0x7FC00000u;  // NaN, behind everything
  return bits.f;
}

// Of a row and a column: 1 positive, 2 negative, 0 neither.
FASTSSL_DEVICE int relation(const RowsProblem& p, int64_t row, int64_t j) {
  if (p.self_offset >= 0 && (p.self_offset + row) % p.m == j) return 0;
  if (p.positive_bits) {
    const int64_t word = row / 32 * p.m + j;
    if (uint32_t(p.positive_bits[word]) >> (row % 32) & 1) return 1;
    return uint32_t(p.negative_bits[word]) >> (row % 32) & 1 ? 2 : 0;
  }
  return p.x_ids[row] == p.y_ids[j] ? 1 : 2;
}

// How many of `count` ascending keys have a value <= d (or < d).
FASTSSL_DEVICE int64_t count_below(const uint64_t* keys, int64_t count, float d, bool or_equal) {
  int64_t low = 0;
  while (count > 0) {
    const int64_t half = count / 2;
    const float v = value_of(keys[low + half]);
    const bool right = or_equal ? v <= d : v < d;
    low = right ? low + half + 1 : low;
    count = right ? count - half - 1 : half;
  }
  return low;
}

FASTSSL_DEVICE double softplus_of(double z) { return (z > 0 ? z : 0) + log1p(exp(z > 0 ? -z : z)); }
FASTSSL_DEVICE double sigmoid_of(double z) { return z >= 0 ? 1 / (1 + exp(-z)) : exp(z) / (1 + exp(z)); }

struct RowMemory {
  uint64_t* keys;               // positives, sorted
  double* above;                // [positives + 1] sums of the values from each on
  unsigned long long* nearest;  // [positives + 1] semi-hard: the nearest negative of a slot
  int* count;                   // [2 (m + 1)]: pulls by slot, pushes by column
  double* part;                 // [threads] twice
  int64_t* numbers;             // [threads]
  int64_t* total;
  unsigned long long* farthest;
  FASTSSL_HOST_DEVICE RowMemory(uint64_t* memory, int64_t m) {
    const int64_t size = power_of_two(m) + 1;
    keys = memory;
    above = reinterpret_cast<double*>(memory + size);
    nearest = reinterpret_cast<unsigned long long*>(memory + 2 * size);
    count = reinterpret_cast<int*>(memory + 3 * size);
    part = reinterpret_cast<double*>(memory + 4 * size);
    numbers = reinterpret_cast<int64_t*>(memory + 4 * size + 2 * kThreads);
    total = numbers + kThreads;
    farthest = reinterpret_cast<unsigned long long*>(total + 1);
  }
};

// The positives of a row by value + shift, ascending, equal ones by column. Returns how many.
FASTSSL_DEVICE int64_t sort_positives(const Block& block, const RowsProblem& p, const float* s, int64_t row,
                                      const RowMemory& w, float sign, float shift) {
  block.phase([&](int thread) {
    const Share mine(p.m, thread, block.threads);
    int64_t found = 0;
    for (int64_t j = mine.begin; j < mine.end; ++j) found += relation(p, row, j) == 1;
    w.numbers[thread] = found;
  });
  block.phase([&](int thread) {
    if (thread) return;
    int64_t total = 0;
    for (int t = 0; t < block.threads; ++t) {
      const int64_t found = w.numbers[t];
      w.numbers[t] = total;
      total += found;
    }
    *w.total = total;
  });
  const int64_t count = *w.total, size = power_of_two(count);
  block.phase([&](int thread) {
    const Share mine(p.m, thread, block.threads);
    int64_t at = w.numbers[thread];
    for (int64_t j = mine.begin; j < mine.end; ++j)
      if (relation(p, row, j) == 1) w.keys[at++] = uint64_t(ordered(sign * s[j] + shift)) << 32 | uint64_t(j);
    for (int64_t q = count + thread; q < size; q += block.threads) w.keys[q] = ~uint64_t(0);
  });
  bitonic_sort(block, w.keys, size);
  return count;
}

// The sums of the threads, in order, into out[0] and out[1].
FASTSSL_DEVICE void finish(const Block& block, const RowsProblem& p, const RowMemory& w) {
  block.phase([&](int thread) {
    if (thread) return;
    double sum = 0, active = 0;
    for (int t = 0; t < block.threads; ++t) {
      sum += w.part[t];
      active += w.part[kThreads + t];
    }
    p.out[block.index] = sum;
    p.out[p.rows + block.index] = active;
  });
}

FASTSSL_DEVICE void triplets(const Block& block, const RowsProblem& p) {
  const float sign = p.params[0], margin = p.params[1];
  const bool smooth = p.params[2] != 0;
  const int64_t row = p.first + block.index;
  const float* s = p.s + block.index * p.stride;
  const RowMemory w(p.scratch + block.index * scratch_words(p.m), p.m);
  const int64_t count = sort_positives(block, p, s, row, w, sign, margin);
  float* g = p.g ? p.g + block.index * p.m : nullptr;
  const double upstream = g ? p.grad[block.index] * sign : 0;
  block.phase([&](int thread) {
    if (thread == 0) {
      double sum = 0;
      w.above[count] = 0;
      for (int64_t q = count; q-- > 0;) w.above[q] = sum += double(value_of(w.keys[q]));
    }
    if (g)
      for (int64_t q = thread; q <= count; q += block.threads) w.count[q] = 0;
  });
  block.phase([&](int thread) {
    const Share mine(p.m, thread, block.threads);
    double sum = 0, active = 0;
    for (int64_t j = mine.begin; j < mine.end; ++j) {
      const int kind = relation(p, row, j);
      if (g && kind != 1) g[j] = 0;
      if (kind != 2) continue;
      const float d = sign * s[j];
      if (smooth) {
        double pushed = 0;
        if (d != d) sum = d;  // without a positive too, as among hinges
        for (int64_t q = 0; q < count; ++q) {
          const double z = double(value_of(w.keys[q])) - double(d);
          sum += softplus_of(z);
          active += z > 0;
          pushed += sigmoid_of(z);
        }
        if (g) g[j] = float(-pushed * upstream);
        continue;
      }
      // With k thresholds above the negative's distance d, it adds their sum - k d.
      const int64_t first = d == d ? count_below(w.keys, count, d, true) : 0, k = count - first;
      sum += w.above[first] - double(k) * double(d);
      active += double(k);
      if (g) {
        g[j] = float(-double(k) * upstream);
        add(w.count + first, 1);
      }
    }
    w.part[thread] = sum;
    w.part[kThreads + thread] = active;
  });
  if (!g) return finish(block, p, w);
  block.phase([&](int thread) {
    if (smooth || thread) return;
    for (int64_t q = 1; q < count; ++q) w.count[q] += w.count[q - 1];
  });
  block.phase([&](int thread) {
    for (int64_t q = thread; q < count; q += block.threads) {
      double pulled = w.count[q];
      if (smooth) {
        pulled = 0;
        for (int64_t j = 0; j < p.m; ++j)
          if (relation(p, row, j) == 2) pulled += sigmoid_of(double(value_of(w.keys[q])) - double(sign * s[j]));
      }
      g[uint32_t(w.keys[q])] = float(pulled * upstream);
    }
  });
}

// For every positive the nearest negative that is farther away, else the farthest negative. A negative that is NaN is
// the farthest, and every positive's, so that it shows.
FASTSSL_DEVICE void semihard(const Block& block, const RowsProblem& p) {
  const float sign = p.params[0], margin = p.params[1];
  const int64_t row = p.first + block.index;
  const float* s = p.s + block.index * p.stride;
  const RowMemory w(p.scratch + block.index * scratch_words(p.m), p.m);
  const int64_t count = sort_positives(block, p, s, row, w, sign, 0);
  float* g = p.g ? p.g + block.index * p.m : nullptr;
  const unsigned long long none = ~0ull;
  block.phase([&](int thread) {
    for (int64_t q = thread; q <= count; q += block.threads) w.nearest[q] = none;
    if (thread == 0) *w.farthest = 0;
    if (g)
      for (int64_t j = thread; j < p.m; j += block.threads) w.count[j] = 0;
  });
  block.phase([&](int thread) {
    const Share mine(p.m, thread, block.threads);
    for (int64_t j = mine.begin; j < mine.end; ++j) {
      if (relation(p, row, j) != 2) continue;
      const float d = sign * s[j];
      const uint64_t high = uint64_t(ordered(d)) << 32;
      // Slot k: farther away than k positives.
      least(w.nearest + count_below(w.keys, count, d, false), high | uint64_t(j));
      most(w.farthest, high | uint64_t(0xFFFFFFFFu - uint32_t(j)));  // of equal ones the first
    }
  });
  block.phase([&](int thread) {
    if (thread) return;
    for (int64_t q = count; q-- > 0;)
      if (w.nearest[q + 1] < w.nearest[q]) w.nearest[q] = w.nearest[q + 1];
  });
  block.phase([&](int thread) {
    const Share mine(count, thread, block.threads);
    const float far = value_of(*w.farthest);
    double sum = 0, active = 0;
    for (int64_t q = mine.begin; q < mine.end; ++q) {
      unsigned long long chosen = w.nearest[q + 1];
      if (chosen == none || far != far) {
        if (*w.farthest == 0) continue;  // no negative
        chosen = (*w.farthest & 0xFFFFFFFF00000000ull) | (0xFFFFFFFFu - uint32_t(*w.farthest));
      }
      const double z = double(value_of(w.keys[q])) - double(value_of(chosen)) + margin;
      if (z <= 0) {
        if (g) g[uint32_t(w.keys[q])] = 0;
        continue;
      }
      sum += z;
      active += 1;
      if (g) {
        g[uint32_t(w.keys[q])] = float(p.grad[block.index] * sign);
        add(w.count + uint32_t(chosen), 1);
      }
    }
    w.part[thread] = sum;
    w.part[kThreads + thread] = active;
  });
  if (!g) return finish(block, p, w);
  block.phase([&](int thread) {
    const bool any = *w.farthest != 0;
    for (int64_t j = thread; j < p.m; j += block.threads) {
      const int kind = relation(p, row, j);
      if (kind == 1 && any) continue;
      g[j] = kind == 2 ? float(-double(w.count[j]) * p.grad[block.index] * sign) : 0.f;
    }
  });
}

FASTSSL_DEVICE void sorted_rows(const Block& block, const RowsProblem& p) {
  p.loss == SortedLoss::triplet ? triplets(block, p) : semihard(block, p);
}

// The k best columns of each row, best first; equal scores by column, NaN behind everything.
struct SelectProblem {
  const float* s = nullptr;
  int64_t rows = 0, stride = 0, m = 0, k = 0;
  bool largest = false;
  int64_t itself = -1;      // the column that row 0 must not select; row i: itself + i
  float* values = nullptr;  // [rows][k]
  int64_t* indices = nullptr;
  uint64_t* scratch = nullptr;  // [rows][select_words(k)]
};
FASTSSL_HOST_DEVICE inline int64_t select_words(int64_t k) { return power_of_two(k) + 256 + 2 * kThreads + 8; }

FASTSSL_DEVICE void select(const Block& block, const SelectProblem& p) {
  const float* s = p.s + block.index * p.stride;
  const int64_t size = power_of_two(p.k), itself = p.itself < 0 ? -1 : p.itself + block.index;
  uint64_t* keys = p.scratch + block.index * select_words(p.k);
  int* bins = reinterpret_cast<int*>(keys + size);
  int64_t* ties = reinterpret_cast<int64_t*>(keys + size + 256);
  int64_t* better = ties + kThreads;
  int64_t* state = better + kThreads;  // the prefix so far, how many are still wanted
  // Small is good.
  const auto rank = [&](int64_t j) {
    const float v = s[j];
    if (v != v) return 0xFFFFFFFFu;
    const uint32_t u = ordered(v);
    return p.largest ? ~u : u;
  };
  block.phase([&](int thread) {
    if (thread) return;
    state[0] = 0;
    state[1] = p.k;
  });
  // The k-th smallest rank, a byte at a time.
  for (int byte = 3; byte >= 0; --byte) {
    block.phase([&](int thread) {
      for (int b = thread; b < 256; b += block.threads) bins[b] = 0;
    });
    block.phase([&](int thread) {
      const Share mine(p.m, thread, block.threads);
      const uint32_t prefix = uint32_t(state[0]);
      for (int64_t j = mine.begin; j < mine.end; ++j) {
        if (j == itself) continue;
        const uint32_t r = rank(j);
        if (byte < 3 && r >> (8 * (byte + 1)) != prefix) continue;
        add(bins + (r >> (8 * byte) & 255), 1);
      }
    });
    block.phase([&](int thread) {
      if (thread) return;
      int64_t wanted = state[1];
      int b = 0;
      while (b < 255 && wanted > bins[b]) wanted -= bins[b++];
      state[0] = state[0] << 8 | b;
      state[1] = wanted;  // of those that share the prefix
    });
  }
  block.phase([&](int thread) {
    const Share mine(p.m, thread, block.threads);
    const uint32_t limit = uint32_t(state[0]);
    ties[thread] = better[thread] = 0;
    for (int64_t j = mine.begin; j < mine.end; ++j) {
      if (j == itself) continue;
      const uint32_t r = rank(j);
      ties[thread] += r == limit;
      better[thread] += r < limit;
    }
  });
  block.phase([&](int thread) {
    if (thread) return;
    int64_t all = 0, equal = 0;
    for (int t = 0; t < block.threads; ++t) {
      const int64_t b = better[t], e = ties[t];
      better[t] = all;
      ties[t] = equal;
      all += b;
      equal += e;
    }
    state[2] = all;
  });
  block.phase([&](int thread) {
    const Share mine(p.m, thread, block.threads);
    const uint32_t limit = uint32_t(state[0]);
    int64_t at = better[thread], tie = ties[thread];
    for (int64_t j = mine.begin; j < mine.end; ++j) {
      if (j == itself) continue;
      const uint32_t r = rank(j);
      if (r < limit) keys[at++] = uint64_t(r) << 32 | uint64_t(j);
      if (r == limit && tie++ < state[1]) keys[state[2] + tie - 1] = uint64_t(r) << 32 | uint64_t(j);
    }
    for (int64_t q = p.k + thread; q < size; q += block.threads) keys[q] = ~uint64_t(0);
  });
  bitonic_sort(block, keys, size);
  block.phase([&](int thread) {
    for (int64_t q = thread; q < p.k; q += block.threads) {
      const int64_t j = int64_t(uint32_t(keys[q]));
      p.values[block.index * p.k + q] = s[j];
      p.indices[block.index * p.k + q] = j;
    }
  });
}

}  // namespace cuda
}  // namespace fastssl
