// Which tiles run when. Tiles of one round share no row and no column block, so they may run at once and in any order;
// tiles that share a block run in the order of their rounds. Every sum has a fixed order: the bits do not depend on
// threads.
#pragma once
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "buffer.h"
#include "float_mode.h"
#include "tile.h"

namespace fastssl {

// Throws Interrupted when the user has asked to stop (Ctrl-C).
void poll_interrupt();

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Grid {
  bool triangular = false;  // x == y: tiles with I >= J only
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

// f(worker) on each of `workers` threads, in the floating-point mode of kernels. All work of the kernels passes here.
template <class F>
void on_workers(int64_t workers, F&& f) {
  if (workers <= 1) {
    const FlushSubnormals mode;
    f(int64_t(0));
    return;
  }
  torch::stable::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
    const FlushSubnormals mode;
    for (int64_t worker = begin; worker < end; ++worker) f(worker);
  });
}

// f(worker, k) for k in [0, n), on at most `most` threads: workers take the next k when they are free.
template <class F>
void parallel_tasks(int64_t n, F&& f, int64_t most = INT64_MAX) {
  std::atomic<int64_t> next{0};
  on_workers(std::min<int64_t>({n, most, int64_t(torch::stable::get_num_threads())}), [&](int64_t worker) {
    for (int64_t k; (k = next.fetch_add(1, std::memory_order_relaxed)) < n;) f(worker, k);
  });
}

// Who may touch a block of rows: tiles that share it follow each other in the order in which they were claimed.
class Turns {
 public:
  explicit Turns(int64_t blocks) : claimed_(size_t(blocks), 0), done_(size_t(blocks)) {}
  int64_t claim(int64_t block) { return claimed_[size_t(block)]++; }  // under the claimer's lock
  void wait(int64_t block, int64_t turn) const {
    for (int spins = 0; done_[size_t(block)].load(std::memory_order_acquire) != turn; ++spins)
      if (spins > 64) std::this_thread::yield();
  }
  void leave(int64_t block) { done_[size_t(block)].fetch_add(1, std::memory_order_release); }

 private:
  std::vector<int64_t> claimed_;
  std::vector<std::atomic<int64_t>> done_;
};

struct TileTask {
  int64_t worker, I = 0, J = 0;
  int64_t next_I = -1, next_J = -1;  // what this worker is likely to get next; -1: nothing
};

// f(TileTask) for every tile of the grid. A tile waits for the tiles before it that share a block of its, not for
// its whole round: with a barrier a round, two threads stood still for 5 % of the time (8,192 rows).
template <class F>
void for_each_tile(const Grid& grid, int64_t depth, F&& f) {
  if (grid.x_blocks == 0 || grid.y_blocks == 0) return;
  Turns x(grid.x_tiles()), own_y(grid.triangular ? 0 : grid.y_tiles());
  Turns& y = grid.triangular ? x : own_y;
  std::mutex claiming;
  int64_t round = 0, task = 0;
  // Waking a thread takes some 10 us, the time of three million multiply-adds on two.
  const bool small = grid.x_blocks * kBlock * grid.y_blocks * kBlock * depth < 3000000;
  const int64_t workers = small ? 1 : std::min<int64_t>(torch::stable::get_num_threads(), grid.tasks(0));
  const auto work_until = [&](int64_t worker, std::chrono::steady_clock::time_point deadline) {
    while (std::chrono::steady_clock::now() < deadline) {
      TileTask now{worker};
      int64_t& I = now.I;
      int64_t& J = now.J;
      int64_t x_turn, y_turn = 0;
      bool both;
      {
        const std::lock_guard<std::mutex> lock(claiming);
        if (round == grid.rounds()) return;
        grid.tile(round, task, I, J);
        if (++task == grid.tasks(round)) ++round, task = 0;
        grid.tile_after(round, task, workers - 1, now.next_I, now.next_J);
        both = !grid.triangular || I != J;
        x_turn = x.claim(I);
        if (both) y_turn = y.claim(J);
      }
      x.wait(I, x_turn);
      if (both) y.wait(J, y_turn);
      f(now);
      x.leave(I);
      if (both) y.leave(J);
    }
  };
  while (round < grid.rounds()) {  // Ctrl-C is looked for when the threads have come back
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(100);
    on_workers(workers, [&](int64_t worker) { work_until(worker, deadline); });
    poll_interrupt();
  }
}

// f(worker, row) over rows in pieces that are worth a thread's while.
template <class F>
void parallel_rows(int64_t n, int64_t depth, F&& f) {
  const int64_t piece = std::max<int64_t>(kBlock, 16384 / std::max<int64_t>(depth, 1));
  parallel_tasks(ceil_div(n, piece), [&](int64_t worker, int64_t k) {
    for (int64_t row = k * piece; row < std::min(n, (k + 1) * piece); ++row) f(worker, row);
  });
}

// The end of the gradient for the first n rows, which have some partners each.
template <class T>
void finish_rows(void (*finish)(const Finish<T>&, int64_t, double*), const Finish<T>& f, int64_t n,
                 int64_t partners = 0) {
  const int64_t width = finish_scratch(f.depth);
  Buffer<double> scratch(torch::stable::get_num_threads() * width, false);
  parallel_rows(n, f.depth * (partners + 1),
                [&](int64_t worker, int64_t row) { finish(f, row, scratch.data() + worker * width); });
}

}  // namespace fastssl
