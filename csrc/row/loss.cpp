#include "loss.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include <algorithm>
#include <unordered_map>

#include "distances.h"
#include "engine.h"
#include "select_many.h"

namespace fastssl {
namespace {

// Ids of both sides as small integers; what pads the last block matches nothing.
struct Relation {
  std::vector<int32_t> x, y;
  Relation(const RowLossProblem& p) {
    if (p.positive_bits || p.n() == 0) return;
    std::unordered_map<int64_t, int32_t> index;
    auto side = [&](const int64_t* ids, int64_t count, int32_t pad) {
      std::vector<int32_t> result(size_t(ceil_div(count, kBlock) * kBlock), pad);
      for (int64_t i = 0; i < count; ++i)
        result[size_t(i)] = index.emplace(ids[i], int32_t(index.size())).first->second;
      return result;
    };
    x = side(p.x_ids, p.n(), -2);
    y = p.y_ids ? side(p.y_ids, p.m(), -1) : x;
    size = index.size();
  }
  // How many positives and negatives each row has.
  void count(const RowLossProblem& p, double* out) const {
    const int64_t n = p.n(), m = p.m(), columns = p.columns();
    std::vector<int64_t> members(size, 0);
    for (int64_t j = 0; j < m && !y.empty(); ++j) ++members[size_t(y[size_t(j)])];
    for (int64_t i = 0; i < n; ++i) {
      int64_t positive = 0, negative = 0;
      if (p.positive_bits) {
        for (int64_t j = 0; j < m; ++j) {
          positive += uint32_t(p.positive_bits[i / kBlock * m + j]) >> (i % kBlock) & 1;
          negative += uint32_t(p.negative_bits[i / kBlock * m + j]) >> (i % kBlock) & 1;
        }
      } else {
        positive = members[size_t(x[size_t(i)])];
        negative = m - positive;
        if (p.self_offset >= 0) {
          const bool counted = x[size_t(i)] == y[size_t((p.self_offset + i) % m)];
          (counted ? positive : negative) -= 1;
        }
      }
      out[i * columns + columns - 2] = double(positive);
      out[i * columns + columns - 1] = double(negative);
    }
  }
  size_t size = 0;
};

template <class T>
RowTask<T> task_of(const RowLossProblem& p, const Relation& relation, const Strip<T>& t, int64_t block) {
  RowTask<T> task;
  task.s = t.s + (block - t.i0) * t.stride;
  if (t.g) task.g = const_cast<T*>(t.g) + (block - t.i0) * t.stride;
  task.i = block * kBlock;
  task.n = p.n();
  task.m = p.m();
  task.first = t.first;
  if (p.positive_bits) {
    task.positive_bits = reinterpret_cast<const uint32_t*>(p.positive_bits) + block * p.m();
    task.negative_bits = reinterpret_cast<const uint32_t*>(p.negative_bits) + block * p.m();
  } else {
    task.x_ids = relation.x.data();
    task.y_ids = relation.y.data();
  }
  task.self_offset = p.self_offset;
  task.upper = p.upper;
  task.params = p.params;
  task.row_value = p.row_value.empty() ? nullptr : p.row_value.data();
  return task;
}

// A loss writes `outputs` values a row; what leaves has the counts beside them.
void widen(const RowLossProblem& p, const double* narrow, double* out) {
  for (int64_t i = 0; i < p.n(); ++i)
    for (int64_t k = 0; k < p.outputs(); ++k) out[i * p.columns() + k] = narrow[i * p.outputs() + k];
}
std::vector<double> narrow(const RowLossProblem& p, const double* out) {
  std::vector<double> result(size_t(p.n() * p.outputs()));
  for (int64_t i = 0; i < p.n(); ++i)
    for (int64_t k = 0; k < p.outputs(); ++k) result[size_t(i * p.outputs() + k)] = out[i * p.columns() + k];
  return result;
}

template <class T>
void forward(const RowLossProblem& p, T* kept, double* out) {
  const RowEngine<T> e(p, isa());
  const Relation relation(p);
  std::vector<double> values(size_t(p.n() * p.outputs()), 0.0);
  Buffer<T> scores;
  if (!kept) scores.allocate(e.strip_numel(), false);
  const int sweeps = p.loss == RowLoss::lifted ? 2 : 1;
  for (int sweep = 0; sweep < sweeps; ++sweep) {
    for (int64_t k = 0; k < e.strips(); ++k) {
      Strip<T> t = e.strip(k, p.upper);
      t.s = kept ? kept + e.kept_offset(k, p.upper) : scores.data();
      if (!kept || sweep == 0) e.score(t);
      e.for_each_block(t, [&](int64_t block) {
        RowTask<T> task = task_of(p, relation, t, block);
        task.sweep = sweep;
        task.out = values.data();
        e.rows.forward[int(p.loss)](task);
      });
      poll_interrupt();
    }
  }
  widen(p, values.data(), out);
  relation.count(p, out);
}

template <class T>
void backward(const RowLossProblem& p, const T* kept, const double* out, const double* grad, const RowGradients& to) {
  const RowEngine<T> e(p, isa());
  const Relation relation(p);
  std::vector<double> values = narrow(p, out), upstream = narrow(p, grad);
  std::vector<double> scale_grad(size_t(2 * p.n()), 0.0);
  typename RowEngine<T>::Gradients g;
  if (p.metric != Metric::given) e.start(g, to.x != nullptr, to.y != nullptr);
  Buffer<T> scores, weights;
  if (!kept) scores.allocate(e.strip_numel(), false);
  // These read each score once, before they write its gradient.
  const bool in_place = !kept && (p.metric == Metric::dot || p.metric == Metric::given) &&
                        (p.loss == RowLoss::lse || p.loss == RowLoss::hinge);
  if (!in_place) weights.allocate(e.strip_numel(), false);
  for (int64_t k = 0; k < e.strips(); ++k) {
    Strip<T> t = e.strip(k, p.upper);
    t.s = kept ? const_cast<T*>(kept) + e.kept_offset(k, p.upper) : scores.data();
    if (!kept) e.score(t);
    t.g = in_place ? t.s : weights.data();
    e.for_each_block(t, [&](int64_t block) {
      RowTask<T> task = task_of(p, relation, t, block);
      task.out = values.data();
      task.grad = upstream.data();
      task.grad_row = to.row_value;
      task.grad_scale = scale_grad.data();
      const int64_t end = ceil_div(p.m(), kBlock) * kBlock;
      if (p.upper && task.i > t.first) std::memset(task.g, 0, sizeof(T) * size_t((task.i - t.first) * kBlock));
      std::memset(task.g + (p.m() - t.first) * kBlock, 0, sizeof(T) * size_t((end - p.m()) * kBlock));
      e.rows.backward[int(p.loss)](task);
    });
    if (p.metric != Metric::given)
      e.accumulate(t, g, [&](int64_t block, int64_t j, int64_t) { return e.tile_weights(t, block, j); });
    else if (to.x)
      e.turn(t, to.x, true);
    poll_interrupt();
  }
  if (p.metric != Metric::given) e.finish(g, to.x, to.y);
  for (int64_t i = 0; to.params && i < p.n(); ++i)
    for (int64_t k = 0; k < 2; ++k) to.params[k] += scale_grad[size_t(2 * i + k)];
}

// The matrix [n, m] with y on the lanes: 32 neighbours of a row of the matrix lie side by side in a strip too.
RowProblem exchanged(const RowProblem& p) {
  RowProblem q = p;
  std::swap(q.x, q.y);
  return q;
}
// A copy that is not read again soon: whole cache lines are written without being fetched first.
void leave(void* to, const void* from, size_t bytes) {
#ifdef __SSE2__
  if (bytes % 64 == 0 && reinterpret_cast<uintptr_t>(to) % 64 == 0) {
    for (size_t k = 0; k < bytes; k += 16)
      _mm_stream_si128(reinterpret_cast<__m128i*>(static_cast<char*>(to) + k),
                       _mm_loadu_si128(reinterpret_cast<const __m128i*>(static_cast<const char*>(from) + k)));
    return;
  }
#endif
  std::memcpy(to, from, bytes);
}

template <class T>
void pairwise_forward_as(const RowProblem& p, T* out) {
  const RowEngine<T> e(exchanged(p), isa());
  const Distances<T> distances(e);
  Buffer<T> scores(e.strip_numel(), false);
  advise_huge_pages(out, size_t(e.n * e.m) * sizeof(T));
  for (int64_t k = 0; k < e.strips(); ++k) {
    Strip<T> t = e.strip(k, false);
    t.s = scores.data();
    // A tile leaves for the matrix while it is in the cache.
    e.for_each_chunk(t, [&](int64_t, int64_t j0, int64_t j1) {
      for (int64_t j = j0; j < j1; j += kMaxTileBlocks) {
        const int64_t end = std::min(j + kMaxTileBlocks, j1);
        distances.score(t, j, end);
        for (int64_t row = j * kBlock; row < std::min(end * kBlock, e.m); ++row)
          for (int64_t block = t.i0; block < t.i1; ++block)
            leave(out + row * e.n + block * kBlock, t.s + (block - t.i0) * t.stride + row * kBlock,
                  size_t(std::min(kBlock, e.n - block * kBlock)) * sizeof(T));
      }
#ifdef __SSE2__
      _mm_sfence();
#endif
    });
    poll_interrupt();
  }
}

template <class T>
void pairwise_backward_as(const RowProblem& p, const Source& grad, const T* out, const RowGradients& to) {
  const RowEngine<T> e(exchanged(p), isa());
  typename RowEngine<T>::Gradients g;
  e.start(g, p.same ? to.x != nullptr : to.y != nullptr, !p.same && to.x != nullptr);
  const bool needs_scores = e.weighted() || p.metric == Metric::chebyshev;
  Buffer<T> scores(needs_scores ? e.strip_numel() : 0), weights(e.strip_numel());  // rows beyond the last stay 0
  for (int64_t k = 0; k < e.strips(); ++k) {
    Strip<T> t = e.strip(k, false);
    t.s = scores.data();
    t.g = weights.data();
    e.accumulate(t, g, [&](int64_t block, int64_t j0, int64_t j1) {
      RowWeights<T> w = e.tile_weights(t, block, j0);
      const int64_t first = block * kBlock, count = std::min(kBlock, e.n - first);
      const T* from = static_cast<const T*>(grad.data) + j0 * kBlock * grad.row_stride + first * grad.col_stride;
      const T* at = out + j0 * kBlock * e.n + first;
      const bool whole = count == kBlock && grad.col_stride == 1;
      if (e.weighted() && whole) {  // weighed from where they lie
        w.from = from;
        w.from_step = grad.row_stride;
        w.s = at;
        w.s_step = e.n;
        return w;
      }
      for (int64_t j = 0; j < std::min(j1 * kBlock, e.m) - j0 * kBlock; ++j) {
        if (whole) {
          std::memcpy(w.g + j * kBlock, from + j * grad.row_stride, kBlock * sizeof(T));
          if (needs_scores) std::memcpy(const_cast<T*>(w.s) + j * kBlock, at + j * e.n, kBlock * sizeof(T));
          continue;
        }
        for (int64_t c = 0; c < kBlock; ++c)
          w.g[j * kBlock + c] = c < count ? from[j * grad.row_stride + c * grad.col_stride] : T(0);
        if (needs_scores) {
          T* s = const_cast<T*>(w.s) + j * kBlock;
          for (int64_t c = 0; c < kBlock; ++c) s[c] = c < count ? at[j * e.n + c] : T(0);
        }
      }
      return w;
    });
    poll_interrupt();
  }
  if (p.same) {
    e.finish(g, to.x, nullptr);
  } else {
    e.finish(g, to.y, to.x);
  }
}

template <class T>
void nearest_as(const RowProblem& p, int64_t k, bool largest, bool exclude_self, T* values, int64_t* indices) {
  const RowEngine<T> e(p, isa());
  const Distances<T> distances(e);
  Buffer<T> scores(e.strip_numel());
  for (int64_t q = 0; q < e.strips(); ++q) {
    Strip<T> t = e.strip(q, false);
    t.s = scores.data();
    distances.score(t);
    e.for_each_block(t, [&](int64_t block) {
      int64_t count[kBlock] = {};
      Selection<T> select;
      select.s = t.s + (block - t.i0) * t.stride;
      select.i = block * kBlock;
      select.n = e.n;
      select.end = e.m;
      select.k = k;
      select.largest = largest;
      select.exclude_self = exclude_self;
      select.value = values + select.i * k;
      select.index = indices + select.i * k;
      select.count = count;
      if (k >= kManyNearest) return select_many(select);
      e.rows.select(select);
      std::vector<std::pair<T, int64_t>> row(static_cast<size_t>(k));
      for (int64_t l = 0; l < kBlock && select.i + l < e.n; ++l) {
        T* value = select.value + l * k;
        int64_t* index = select.index + l * k;
        for (int64_t r = 0; r < k; ++r) row[size_t(r)] = {value[r], index[r]};
        std::sort(row.begin(), row.end(), [&](const auto& a, const auto& b) {
          return ranks_behind(largest, b.first, b.second, a.first, a.second);
        });
        for (int64_t r = 0; r < k; ++r) std::tie(value[r], index[r]) = row[size_t(r)];
      }
    });
    poll_interrupt();
  }
}

// As pair losses: one block of pairs costs nothing in fp64.
bool tiny(const RowProblem& p) { return std::max(p.n(), p.m()) <= kBlock; }

}  // namespace

int64_t row_kept_numel(const RowLossProblem& p) {
  if (!p.keep) return 0;
  const int64_t x = ceil_div(p.n(), kBlock) * kBlock, y = ceil_div(p.m(), kBlock) * kBlock;
  return p.upper ? x * (x + kMaxTileBlocks * kBlock) / 2 : x * y;
}

void row_loss_forward(const RowLossProblem& p, void* kept, double* out) {
  const int64_t size = p.dtype == DType::f64 ? 8 : 4, numel = row_kept_numel(p);
  if (kept && (tiny(p) || p.upper)) std::memset(kept, 0, size_t(numel * size));
  if (p.dtype == DType::f64) {
    forward<double>(p, static_cast<double*>(kept), out);
  } else if (tiny(p)) {
    forward<double>(p, nullptr, out);
  } else {
    forward<float>(p, static_cast<float*>(kept), out);
  }
}

void row_loss_backward(const RowLossProblem& p, const void* kept, const double* out, const double* grad,
                       const RowGradients& to) {
  if (p.dtype == DType::f64) {
    backward<double>(p, static_cast<const double*>(kept), out, grad, to);
  } else if (tiny(p)) {
    backward<double>(p, nullptr, out, grad, to);
  } else {
    backward<float>(p, static_cast<const float*>(kept), out, grad, to);
  }
}

void pairwise_forward(const RowProblem& p, void* out) {
  p.dtype == DType::f64 ? pairwise_forward_as<double>(p, static_cast<double*>(out))
                        : pairwise_forward_as<float>(p, static_cast<float*>(out));
}
void pairwise_backward(const RowProblem& p, const Source& grad, const void* out, const RowGradients& to) {
  p.dtype == DType::f64 ? pairwise_backward_as<double>(p, grad, static_cast<const double*>(out), to)
                        : pairwise_backward_as<float>(p, grad, static_cast<const float*>(out), to);
}
void nearest(const RowProblem& p, int64_t k, bool largest, bool exclude_self, void* values, int64_t* indices) {
  p.dtype == DType::f64 ? nearest_as<double>(p, k, largest, exclude_self, static_cast<double*>(values), indices)
                        : nearest_as<float>(p, k, largest, exclude_self, static_cast<float*>(values), indices);
}

}  // namespace fastssl
