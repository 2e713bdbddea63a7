// Which pairs of a tile stay out of the dense sums: rows that do not exist, each lane's excluded partners (itself, its
// positive), and rows of equal ids. Partners and ids are integers; no dense mask is ever formed.
#pragma once
#include "simd/simd.h"
#include "tile.h"

namespace fastssl {
namespace FASTSSL_ISA {

// One flag per 32 x 32 block of a tile: only flagged blocks pay for comparisons.
template <class T>
struct TileMask {
  bool flagged[kMaxTileBlocks][kMaxTileBlocks] = {};

  explicit TileMask(const Tile<T>& t) {
    if (t.x_ids) {
      for (auto& row : flagged)
        for (bool& block : row) block = true;
      return;
    }
    const bool x_edge = t.i1 * kBlock > t.x.n, y_edge = t.j1 * kBlock > t.y.n;
    for (int64_t j = 0; x_edge && j < t.j1 - t.j0; ++j) flagged[t.i1 - 1 - t.i0][j] = true;
    for (int64_t i = 0; y_edge && i < t.i1 - t.i0; ++i) flagged[i][t.j1 - 1 - t.j0] = true;
    const int32_t* const partners[] = {t.self, t.positive};
    for (const int32_t* partner : partners) {
      if (!partner) continue;
      for (int64_t i = t.i0 * kBlock; i < t.i1 * kBlock && i < t.x.n; ++i) {
        const int64_t block = partner[i] >> 5;  // -1 stays negative
        if (block >= t.j0 && block < t.j1) flagged[(i >> 5) - t.i0][block - t.j0] = true;
      }
    }
  }
};

// All ones where pair (lane i + offset, j) takes part.
template <class T>
FASTSSL_INLINE IVec<T> takes_part(const Tile<T>& t, int64_t i, int64_t j) {
  using I = IVec<T>;
  using E = decltype(I{}[0] + 0);
  I keep = (iota<T>() + E(i)) < (I{} + E(t.x.n));
  if (j >= t.y.n) keep = I{};
  if (t.self) keep &= load_ids<T>(t.self + i) != (I{} + E(j));
  if (t.positive) keep &= load_ids<T>(t.positive + i) != (I{} + E(j));
  if (t.x_ids) keep &= load_ids<T>(t.x_ids + i) != (I{} + E(t.y_ids[j]));
  return keep;
}

}  // namespace FASTSSL_ISA
}  // namespace fastssl
