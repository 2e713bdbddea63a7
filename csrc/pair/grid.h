// The tiles of a pair matrix, in rounds: tiles of one round share no row and no column block.
#pragma once
#include <algorithm>

#include "tile.h"

namespace fastssl {

struct Grid {
  bool triangular = false;  // x == y: tiles with I >= J only
  int64_t x_begin = 0;      // of a strip: the first of its blocks of x
  int64_t x_blocks = 0, y_blocks = 0;
  int64_t x_tile = 1, y_tile = 1;  // blocks per tile

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
  }
  // `blocks` of x, from the `first` one on, as far as there are so many.
  Grid strip(int64_t first, int64_t blocks) const {
    Grid rows = *this;
    rows.x_begin = first;
    rows.x_blocks = std::min(blocks, x_blocks - first);
    rows.x_tile = std::min(x_tile, tile_size(rows.x_blocks, triangular));
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

  // Triangular, odd: the one that rests does its own diagonal; even: one more round for the diagonals.
  int64_t rounds() const { return triangular ? x_tiles() : std::max(x_tiles(), y_tiles()); }
  int64_t tasks(int64_t round) const {
    if (!triangular) return std::min(x_tiles(), y_tiles());
    const int64_t b = x_tiles();
    if (b % 2) return (b + 1) / 2;
    return round == b - 1 ? b : b / 2;
  }
  // The circle method of a round-robin tournament; a Latin square for x != y.
  void tile(int64_t round, int64_t task, int64_t& I, int64_t& J) const {
    if (!triangular) {
      const int64_t a = x_tiles(), b = y_tiles();
      if (a <= b) {
        I = task;
        J = (task + round) % b;
      } else {
        J = task;
        I = (task + round) % a;
      }
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
  // The tile `further` tasks after this one; the arguments stay as they are where there is none.
  void tile_after(int64_t round, int64_t task, int64_t further, int64_t& I, int64_t& J) const {
    for (task += further; round < rounds() && task >= tasks(round); ++round) task -= tasks(round);
    if (round < rounds()) tile(round, task, I, J);
  }
};

}  // namespace fastssl
