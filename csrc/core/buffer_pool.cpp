#include "buffer_pool.h"

#include <mutex>
#include <vector>

namespace fastssl {
namespace {

struct Block {
  void* data;
  size_t bytes;
};
struct Pool {
  std::mutex lock;
  std::vector<Block> blocks;  // the latest last
  size_t bytes = 0, limit = size_t(256) << 20;

  void keep_within_limit() {
    while (bytes > limit) {
      delete_aligned(blocks.front().data);
      bytes -= blocks.front().bytes;
      blocks.erase(blocks.begin());
    }
  }
};
Pool& pool() {
  static Pool* const instance = new Pool;  // outlives every tensor
  return *instance;
}

}  // namespace

namespace buffer_pool {

void release(void* data, void* bytes) {
  Pool& shared = pool();
  const std::lock_guard<std::mutex> guard(shared.lock);
  if (reinterpret_cast<size_t>(bytes) > shared.limit) {  // it would only push out what can be used again
    delete_aligned(data);
    return;
  }
  shared.blocks.push_back({data, reinterpret_cast<size_t>(bytes)});
  shared.bytes += reinterpret_cast<size_t>(bytes);
  shared.keep_within_limit();
}

void* acquire(size_t& bytes) {
  bytes = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  {
    Pool& shared = pool();
    const std::lock_guard<std::mutex> guard(shared.lock);
    size_t best = shared.blocks.size();
    for (size_t k = 0; k < shared.blocks.size(); ++k) {
      const size_t size = shared.blocks[k].bytes;
      if (size >= bytes && size / 2 <= bytes && (best == shared.blocks.size() || size <= shared.blocks[best].bytes))
        best = k;
    }
    if (best < shared.blocks.size()) {
      void* data = shared.blocks[best].data;
      bytes = shared.blocks[best].bytes;
      shared.bytes -= bytes;
      shared.blocks.erase(shared.blocks.begin() + int64_t(best));
      return data;
    }
  }
  void* data = new_aligned(kHugePage, bytes);
  advise_huge_pages(data, bytes);
  return data;
}

void set_limit(int64_t bytes) {
  Pool& shared = pool();
  const std::lock_guard<std::mutex> guard(shared.lock);
  shared.limit = size_t(bytes);
  shared.keep_within_limit();
}

int64_t limit() {
  Pool& shared = pool();
  const std::lock_guard<std::mutex> guard(shared.lock);
  return int64_t(shared.limit);
}

int64_t idle_bytes() {
  Pool& shared = pool();
  const std::lock_guard<std::mutex> guard(shared.lock);
  return int64_t(shared.bytes);
}

}  // namespace buffer_pool
}  // namespace fastssl
