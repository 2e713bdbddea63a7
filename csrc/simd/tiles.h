// Matrix tiles (AMX): eight registers of 16 rows of 64 bytes. One instruction multiplies 16 rows of 32 bf16 values with
// 32 values of 16 columns and adds the products in fp32. Defined for that instruction set alone.
#pragma once
#include "microkernel.h"

namespace fastssl {
namespace FASTSSL_ISA {

// c[32][32] = (kAdd: +=) the products of `runs` runs: a [32 rows][16 words] with b [16 words][32 columns].
template <class K, bool kAdd, class Prefetch>
void multiply_tiles(float* c, const uint32_t* a, int64_t a_step, const uint32_t* b, int64_t b_step, int64_t runs,
                    Prefetch&& ahead);

// to[c][r] = from[r][c] for 16 x 16 words.
template <class K>
void transpose_words(const uint32_t* from, int64_t from_step, uint32_t* to, int64_t to_step);

#ifdef FASTSSL_TILES
// The shapes of the tiles, for as long as this lives; afterwards those that a caller had. (What tiles hold is lost at
// any call of a function.)
class TileShapes {
 public:
  TileShapes() {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } shapes;
    static_assert(sizeof shapes == 64);
    __asm__ volatile("sttilecfg %0" : "=m"(before_));
    __asm__ volatile("ldtilecfg %0" ::"m"(shapes));
  }
  ~TileShapes() { __asm__ volatile("ldtilecfg %0" ::"m"(before_)); }
  TileShapes(const TileShapes&) = delete;
  TileShapes& operator=(const TileShapes&) = delete;

 private:
  struct alignas(64) {
    char bytes[64];
  } before_;
};

struct Bf16Tiles : Bf16Words {
  using Setup = TileShapes;
  static constexpr bool kTiles = true;
};

// The compiler does not know what tile loads read: "memory".
#define FASTSSL_TILE_LOAD(tile, p, bytes) \
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile::"r"(p), "r"(int64_t(bytes)) : "memory")
#define FASTSSL_TILE_STORE(tile, p, bytes) \
  __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::"r"(p), "r"(int64_t(bytes)) : "memory")
#define FASTSSL_TILE_ZERO(tile) __asm__ volatile("tilezero %%tmm" #tile::)
#define FASTSSL_TILE_DOT(sum, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #sum::)

template <class K, bool kAdd, class Prefetch>
FASTSSL_INLINE void multiply_tiles(float* c, const uint32_t* a, int64_t a_step, const uint32_t* b, int64_t b_step,
                                   int64_t runs, Prefetch&& ahead) {
  constexpr int64_t kA = 64, kB = 4 * kBlock, kC = 4 * kBlock, kHalf = kBlock / 2;
  float* const low = c + kHalf * kBlock;
  if (kAdd) {
    FASTSSL_TILE_LOAD(0, c, kC);
    FASTSSL_TILE_LOAD(1, c + kHalf, kC);
    FASTSSL_TILE_LOAD(2, low, kC);
    FASTSSL_TILE_LOAD(3, low + kHalf, kC);
  } else {
    FASTSSL_TILE_ZERO(0);
    FASTSSL_TILE_ZERO(1);
    FASTSSL_TILE_ZERO(2);
    FASTSSL_TILE_ZERO(3);
  }
  uintptr_t next = reinterpret_cast<uintptr_t>(c + kBlock * kBlock);  // where sums of the next products are
  for (int64_t run = 0; run < runs; ++run, a += a_step, b += b_step) {
    ahead();
    for (int line = 0; kAdd && line < 8; ++line, next += 64)
      __builtin_prefetch(reinterpret_cast<const void*>(next), 1, 3);
    FASTSSL_TILE_LOAD(4, a, kA);
    FASTSSL_TILE_LOAD(6, b, kB);
    FASTSSL_TILE_DOT(0, 4, 6);
    FASTSSL_TILE_LOAD(7, b + kHalf, kB);
    FASTSSL_TILE_DOT(1, 4, 7);
    FASTSSL_TILE_LOAD(5, a + kHalf * kHalf, kA);
    FASTSSL_TILE_DOT(2, 5, 6);
    FASTSSL_TILE_DOT(3, 5, 7);
  }
  FASTSSL_TILE_STORE(0, c, kC);
  FASTSSL_TILE_STORE(1, c + kHalf, kC);
  FASTSSL_TILE_STORE(2, low, kC);
  FASTSSL_TILE_STORE(3, low + kHalf, kC);
}

template <class K>
FASTSSL_INLINE void transpose_words(const uint32_t* from, int64_t from_step, uint32_t* to, int64_t to_step) {
  __m512i r[16], s[16];
  for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_si512(from + i * from_step);
  for (int i = 0; i < 16; i += 4) {
    const __m512i a = _mm512_unpacklo_epi32(r[i], r[i + 1]), b = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    const __m512i c = _mm512_unpacklo_epi32(r[i + 2], r[i + 3]), d = _mm512_unpackhi_epi32(r[i + 2], r[i + 3]);
    s[i] = _mm512_unpacklo_epi64(a, c);
    s[i + 1] = _mm512_unpackhi_epi64(a, c);
    s[i + 2] = _mm512_unpacklo_epi64(b, d);
    s[i + 3] = _mm512_unpackhi_epi64(b, d);
  }
  for (int k = 0; k < 4; ++k) {  // s[4 i + k], 128 bits q: column 4 q + k of rows 4 i ... 4 i + 3
    const __m512i a = _mm512_shuffle_i32x4(s[k], s[4 + k], 0x88), c = _mm512_shuffle_i32x4(s[8 + k], s[12 + k], 0x88);
    const __m512i b = _mm512_shuffle_i32x4(s[k], s[4 + k], 0xdd), d = _mm512_shuffle_i32x4(s[8 + k], s[12 + k], 0xdd);
    _mm512_storeu_si512(to + k * to_step, _mm512_shuffle_i32x4(a, c, 0x88));
    _mm512_storeu_si512(to + (4 + k) * to_step, _mm512_shuffle_i32x4(b, d, 0x88));
    _mm512_storeu_si512(to + (8 + k) * to_step, _mm512_shuffle_i32x4(a, c, 0xdd));
    _mm512_storeu_si512(to + (12 + k) * to_step, _mm512_shuffle_i32x4(b, d, 0xdd));
  }
}
#endif

}  // namespace FASTSSL_ISA
}  // namespace fastssl
