// The weights of a resize along one axis.
#include "axis.h"

#include <algorithm>

#include "batch.h"

namespace fastssl {

void fill_axis(AxisTable& table, const Axis& axis) {
  const int64_t count = axis.count, from = axis.from, length = axis.length, most = axis.most_taps();
  table.first.resize(size_t(count));
  table.weights.assign(size_t(count * most), 0.f);
  int64_t taps = 1;
  for (int64_t i = 0; i < count; ++i) {
    int64_t begin;
    double center, w[2048], total = 0;
    const int64_t n = axis.taps(i, begin, center);
    float* out = table.weights.data() + i * most;
    const bool stored = n <= 2048;
    const float scale = axis.factor(i);
    for (int64_t k = 0; k < n; ++k) {
      const double v = axis.weight(begin + k, center);
      if (stored) w[k] = v;
      total += v;
    }
    for (int64_t k = 0; k < n; ++k) out[k] = float((stored ? w[k] : axis.weight(begin + k, center)) / total * scale);
    table.first[size_t(i)] = begin;
    taps = std::max(taps, n);
  }
  // All outputs get the same number of taps; those near the end begin earlier, with zeros in front.
  for (int64_t i = 0; i < count; ++i) {
    float* w = table.weights.data() + i * taps;
    const float* old = table.weights.data() + i * most;
    const int64_t back = std::max<int64_t>(table.first[size_t(i)] + taps - length, 0);
    if (back > 0) {
      std::vector<float> moved(size_t(taps), 0.f);
      for (int64_t k = back; k < taps; ++k) moved[size_t(k)] = old[k - back];
      std::copy(moved.begin(), moved.end(), w);
    } else {
      std::copy(old, old + taps, w);  // to the front: w <= old
    }
    table.first[size_t(i)] += from - back;
  }
  table.taps = taps;
}

}  // namespace fastssl
