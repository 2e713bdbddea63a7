// Sums of exponentials relative to a running maximum, for scores that are out of range of one shift.
#pragma once

namespace fastssl {

constexpr double kMaskedScore = -1e30;

// Adds 2^other_maximum other_sum to 2^maximum sum. Static: each instruction set has a copy of its own.
static inline void add_shifted(double& maximum, double& sum, double other_maximum, double other_sum) {
  if (other_maximum < kMaskedScore / 2) {  // nothing took part, or nothing that can be compared
    if (other_sum != other_sum) sum = other_sum;
    return;
  }
  if (!(other_maximum <= maximum)) {  // true for NaN too: it must not be lost
    sum = (sum == 0 ? 0.0 : sum * __builtin_exp2(maximum - other_maximum)) + other_sum;
    maximum = other_maximum;
  } else {
    sum += other_sum * __builtin_exp2(other_maximum - maximum);
  }
}

}  // namespace fastssl
