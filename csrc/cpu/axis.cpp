// The weights of a resize along one axis.
#include <algorithm>
#include <cmath>

#include "augment.h"

namespace fastssl {
namespace {

double triangle(double x) {
  x = std::fabs(x);
  return x < 1 ? 1 - x : 0;
}
double cubic(double x) {
  constexpr double a = -0.5;
  x = std::fabs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

}  // namespace

void fill_axis(AxisTable& table, int64_t from, int64_t length, int64_t frame, int64_t offset, int64_t count, bool flip,
               bool bicubic, float scale) {
  const double ratio = double(length) / double(frame), stretch = std::max(ratio, 1.0);
  const double support = (bicubic ? 2 : 1) * stretch, inverse = 1 / stretch;
  const int64_t most = std::min<int64_t>(length, int64_t(std::ceil(support)) * 2 + 1);
  table.first.resize(size_t(count));
  table.weights.assign(size_t(count * most), 0.f);
  int64_t taps = 1;
  for (int64_t i = 0; i < count; ++i) {
    const double center = ratio * (double(offset + (flip ? count - 1 - i : i)) + 0.5);
    const int64_t low = std::max<int64_t>(int64_t(center - support + 0.5), 0);
    const int64_t high = std::min<int64_t>(int64_t(center + support + 0.5), length);
    const int64_t n = std::clamp<int64_t>(high - low, 1, most), begin = std::min(low, length - n);
    double w[2048], total = 0;
    float* out = table.weights.data() + i * most;
    const auto weight = [&](int64_t k) {
      const double x = (double(k + begin) - center + 0.5) * inverse;
      return bicubic ? cubic(x) : triangle(x);
    };
    const bool stored = n <= 2048;
    for (int64_t k = 0; k < n; ++k) {
      const double v = weight(k);
      if (stored) w[k] = v;
      total += v;
    }
    for (int64_t k = 0; k < n; ++k) out[k] = float((stored ? w[k] : weight(k)) / total * scale);
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
