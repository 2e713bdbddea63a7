// Which tiles run when. Tiles of one round share no block, so they may run at once and in any order; tiles that share a
// block run in the order of their rounds. Every sum has a fixed order: the bits do not depend on threads.
#pragma once
#include <mutex>
#include <thread>
#include <vector>

#include "core/buffer.h"
#include "core/interrupt.h"
#include "core/parallel.h"
#include "grid.h"

namespace fastssl {

// Who may touch a block of rows: tiles that share it follow each other in the order in which they were claimed.
class BlockTickets {
 public:
  explicit BlockTickets(int64_t blocks) : claimed_(size_t(blocks), 0), done_(size_t(blocks)) {}
  int64_t claim(int64_t block) { return claimed_[size_t(block)]++; }  // under the claimer's lock
  void wait(int64_t block, int64_t turn) const {
    const auto mine = [&] { return done_[size_t(block)].load(std::memory_order_acquire) == turn; };
    for (int spins = 0; spins < 64; ++spins)
      if (mine()) return;
    const auto began = Clock::now();
    while (!mine()) std::this_thread::yield();
    Crowding::waited += Clock::now() - began;
  }
  void finish(int64_t block) { done_[size_t(block)].fetch_add(1, std::memory_order_release); }

 private:
  std::vector<int64_t> claimed_;
  std::vector<std::atomic<int64_t>> done_;
};

struct TileTask {
  int64_t worker, part = 0, I = 0, J = 0;
  int64_t next_I = -1, next_J = -1;  // what this worker is likely to get next; -1: nothing
};

// f(TileTask) for every tile of the grid. A tile waits for the tiles before it that share a block of its, not for
// its whole round: with a barrier a round, two threads stood still for 5 % of the time (8,192 rows).
template <class F>
void for_each_tile(const Grid& grid, int64_t depth, F&& f) {
  if (grid.x_blocks == 0 || grid.y_blocks == 0) return;
  BlockTickets x(grid.x_tiles() * grid.x_parts()), own_y(grid.triangular ? 0 : grid.y_tiles() * grid.y_parts());
  BlockTickets& y = grid.triangular ? x : own_y;
  std::mutex claiming;
  // Waking a thread takes some 10 us, the time of three million multiply-adds on two.
  const bool small = grid.x_blocks * kBlock * grid.y_blocks * kBlock * depth < 3000000;
  const int64_t most = grid.tasks(0) * grid.parts;
  const int64_t workers = small ? 1 : std::min(num_threads(), most);
  // No more parts than there are threads for: tiles of one part find their rows in the caches.
  TileOrder order(grid, ceil_div(workers, grid.tasks(0)));
  const auto work_until = [&](int64_t worker, Clock::time_point deadline) {
    while (Clock::now() < deadline) {
      TileTask now{worker};
      int64_t& I = now.I;
      int64_t& J = now.J;
      int64_t x_block, y_block, x_ticket, y_ticket = 0;
      bool both;
      {
        const std::lock_guard<std::mutex> lock(claiming);
        if (order.done()) return;
        now.part = order.tile(I, J);
        order.next();
        TileOrder later = order;
        for (int64_t k = 1; k < workers && !later.done(); ++k) later.next();
        if (!later.done()) later.tile(now.next_I, now.next_J);
        both = !grid.triangular || I != J;
        x_block = I + now.part % grid.x_parts() * grid.x_tiles();
        y_block = J + now.part % grid.y_parts() * grid.y_tiles();
        x_ticket = x.claim(x_block);
        if (both) y_ticket = y.claim(y_block);
      }
      x.wait(x_block, x_ticket);
      if (both) y.wait(y_block, y_ticket);
      f(now);
      x.finish(x_block);
      if (both) y.finish(y_block);
    }
  };
  const auto left = [&] { return !order.done(); };
  while (left()) {  // Ctrl-C is looked for when the threads have come back
    share_work(workers, Clock::now() + std::chrono::milliseconds(100), left, work_until);
    poll_interrupt();
  }
}

// The end of the gradient for the first n rows, which have some partners each.
template <class T>
void run_gradient_epilogue(void (*epilogue)(const GradientEpilogue<T>&, int64_t, double*), const GradientEpilogue<T>& f,
                           int64_t n, int64_t partners = 0) {
  const int64_t width = epilogue_scratch(f.depth);
  Buffer<double> scratch(num_threads() * width, false);
  parallel_rows(n, f.depth * (partners + 1),
                [&](int64_t worker, int64_t row) { epilogue(f, row, scratch.data() + worker * width); });
}

}  // namespace fastssl
