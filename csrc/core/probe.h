// What the machine can do, and states of its threads.
#pragma once
#include <vector>

namespace fastssl {

// Whether subnormal numbers are flushed to zero on threads of torch's pool, the calling thread first; and setting it.
std::vector<bool> float_modes(int threads);
void set_float_modes(const std::vector<bool>& flushes);

// For this time parallel regions begin on the calling thread, as if others had come too late.
void assume_crowded(double seconds);

// Floating point operations a second of a loop of multiply-adds on registers, on all threads together.
double fma_rate(int threads, double seconds);

}  // namespace fastssl
