// The tiles of a pair matrix, in rounds: tiles of one round share no row and no column block.
//
// A matrix with few rows of tiles has few tiles a round, however many columns it has. Its columns (of a tall one: its
// rows) are divided into parts, each with rounds of its own and with sums of its own for the shorter side: tiles of two
// parts may run at once.
#pragma once
#include <algorithm>

#include "tile.h"

namespace fastssl {

struct Grid {
  bool triangular = false;  // x == y: tiles with I >= J only
  int64_t x_begin = 0;      // of a strip: the first of its blocks of x
  int64_t x_blocks = 0, y_blocks = 0;
  int64_t x_tile = 1, y_tile = 1;  // blocks per tile
  int64_t parts = 1;               // of the longer side

  static constexpr int64_t kAtOnce = 32;  // tiles, as far as the shape allows it
  static int64_t tile_size(int64_t blocks, bool symmetric) {
    // Tiles for many threads where there is the work for them, few rounds where there is not, none larger than
    // the cache allows. Four a side is the least that keeps two threads busy on a triangle.
    const int64_t tiles = blocks >= 32 ? 8 : (blocks > 8 || symmetric ? 4 : 2);
    return std::clamp<int64_t>(ceil_div(blocks, tiles), 1, kMaxTileBlocks);
  }
  Grid(int64_t n, int64_t m, bool symmetric)
      : triangular(symmetric), x_blocks(ceil_div(n, kBlock)), y_blocks(ceil_div(m, kBlock)) {
    x_tile = tile_size(x_blocks, symmetric);
    y_tile = symmetric ? x_tile : tile_size(y_blocks, false);
    divide();
  }
  // `blocks` of x, from the `first` one on, as far as there are so many.
  Grid strip(int64_t first, int64_t blocks) const {
    Grid rows = *this;
    rows.x_begin = first;
    rows.x_blocks = std::min(blocks, x_blocks - first);
    rows.x_tile = std::min(x_tile, tile_size(rows.x_blocks, triangular));
    rows.divide();
    return rows;
  }
  int64_t x_tiles() const { return ceil_div(x_blocks, x_tile); }
  int64_t y_tiles() const { return ceil_div(y_blocks, y_tile); }

  // Where a kept tile starts, in elements; closed forms because tiles are only as large as their blocks.
  int64_t kept_offset(int64_t I, int64_t J) const {
    const int64_t i0 = I * x_tile, j0 = J * y_tile, i1 = std::min(i0 + x_tile, x_blocks);
    int64_t before;  // blocks in earlier rows of tiles
    if (triangular) {
      before = x_tile * x_tile * I * (I + 1) / 2;
    } else {
      before = i0 * y_blocks;
    }
    return (before + (i1 - i0) * j0) * kBlock * kBlock;
  }
  // Where the last kept tile ends.
  int64_t kept_end() const {
    if (x_blocks == 0 || y_blocks == 0) return 0;
    return triangular
               ? kept_offset(x_tiles() - 1, 0) + (x_blocks - (x_tiles() - 1) * x_tile) * y_blocks * kBlock * kBlock
               : x_blocks * y_blocks * kBlock * kBlock;
  }
  static int64_t kept_numel(int64_t n, int64_t m, bool symmetric) {
    const int64_t x = ceil_div(n, kBlock) * kBlock, y = ceil_div(m, kBlock) * kBlock;
    return symmetric ? x * (x + kMaxTileBlocks * kBlock) / 2 : x * y;
  }

  bool wide() const { return x_tiles() <= y_tiles(); }
  // How many sums each side has: the shorter one those of every part.
  int64_t x_parts() const { return wide() ? parts : 1; }
  int64_t y_parts() const { return wide() ? 1 : parts; }
  int64_t short_tiles() const { return std::min(x_tiles(), y_tiles()); }
  int64_t long_tiles() const { return std::max(x_tiles(), y_tiles()); }
  // The first parts have one tile more than the others where it does not come out even.
  int64_t part_begin(int64_t part) const {
    return part * (long_tiles() / parts) + std::min(part, long_tiles() % parts);
  }

  // Triangular, odd: the one that rests does its own diagonal; even: one more round for the diagonals.
  int64_t rounds(int64_t part) const { return triangular ? x_tiles() : part_begin(part + 1) - part_begin(part); }
  int64_t tasks(int64_t round) const {  // of one part
    if (!triangular) return short_tiles();
    const int64_t b = x_tiles();
    if (b % 2) return (b + 1) / 2;
    return round == b - 1 ? b : b / 2;
  }
  // The circle method of a round-robin tournament; a Latin square for x != y.
  void tile(int64_t part, int64_t round, int64_t task, int64_t& I, int64_t& J) const {
    if (!triangular) {
      const int64_t other = part_begin(part) + (task + round) % rounds(part);
      I = wide() ? task : other;
      J = wide() ? other : task;
      return;
    }
    const int64_t b = x_tiles(), seats = b % 2 ? b + 1 : b, circle = seats - 1;
    if (b % 2 == 0 && round == b - 1) {
      I = J = task;
      return;
    }
    int64_t p, q;
    if (task == 0) {
      p = circle;
      q = round;
      if (b % 2) p = q;  // nobody sits there
    } else {
      p = (round + task) % circle;
      q = (round - task + circle) % circle;
    }
    I = std::max(p, q);
    J = std::min(p, q);
  }

 private:
  void divide() {
    if (!triangular && short_tiles() > 0)
      parts = std::clamp<int64_t>(kAtOnce / short_tiles(), 1, long_tiles() / short_tiles());
  }
};

// The order in which the tiles of a grid are claimed: `at_once` parts side by side, round after round. Tiles that add
// to the same sums follow each other in the same order whatever `at_once` is.
class TileOrder {
 public:
  TileOrder(const Grid& grid, int64_t at_once) : grid_(grid), at_once_(at_once) {}
  bool done() const { return first_ >= grid_.parts; }
  int64_t tile(int64_t& I, int64_t& J) const {  // and its part
    grid_.tile(part_, round_, task_, I, J);
    return part_;
  }
  void next() {
    if (++task_ < grid_.tasks(round_)) return;
    task_ = 0;
    const int64_t end = std::min(first_ + at_once_, grid_.parts);
    if (++part_ < end && round_ < grid_.rounds(part_)) return;
    part_ = first_;
    if (++round_ < grid_.rounds(first_)) return;
    round_ = 0;
    part_ = first_ = end;
  }

 private:
  const Grid& grid_;
  const int64_t at_once_;
  int64_t first_ = 0, part_ = 0, round_ = 0, task_ = 0;
};

}  // namespace fastssl
