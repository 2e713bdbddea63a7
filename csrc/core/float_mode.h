// The floating-point mode of a kernel: subnormal numbers count as zero and results that would be subnormal are zero.
#pragma once
#include <cstdint>
#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace fastssl {

// Sets the mode of the calling thread while it lives, and gives the caller's mode back.
//
// The exponentials of a softmax over well separated rows end far below 2^-126, and each multiply-add with a subnormal
// operand takes some 150 cycles (a microcode assist) instead of a half: a backward pass was 60 times slower on trained
// embeddings than on random ones. What is lost is below 1.2e-38.
class FlushSubnormals {
 public:
  FlushSubnormals() : caller_(read()) { write(caller_ | kBits); }
  ~FlushSubnormals() { write(caller_); }
  static bool is_set() { return kBits != 0 && (read() & kBits) == kBits; }
  // For good: a caller that gives the mode back itself.
  static void set(bool flush) { write(flush ? Word(read() | kBits) : Word(read() & ~kBits)); }
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

 private:
#if defined(__SSE2__)
  using Word = uint32_t;
  static constexpr Word kBits = 0x8040;  // MXCSR: flush to zero, denormals are zero
  static Word read() { return _mm_getcsr(); }
  static void write(Word mode) { _mm_setcsr(mode); }
#elif defined(__aarch64__)
  using Word = uint64_t;
  static constexpr Word kBits = uint64_t(1) << 24;  // FPCR.FZ
  static Word read() {
    Word mode;
    asm volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
  }
  static void write(Word mode) { asm volatile("msr fpcr, %0" : : "r"(mode)); }
#else
  using Word = int;
  static constexpr Word kBits = 0;
  static Word read() { return 0; }
  static void write(Word) {}
#endif
  const Word caller_;
};

}  // namespace fastssl
