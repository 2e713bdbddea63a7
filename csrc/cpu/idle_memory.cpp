#include "idle_memory.h"

#include <sys/mman.h>

#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

namespace fastssl {
namespace {

struct Block {
  void* data;
  size_t bytes;
};
struct Idle {
  std::mutex lock;
  std::vector<Block> blocks;  // the latest last
  size_t bytes = 0, limit = size_t(256) << 20;

  void keep_within_limit() {
    while (bytes > limit) {
      std::free(blocks.front().data);
      bytes -= blocks.front().bytes;
      blocks.erase(blocks.begin());
    }
  }
};
Idle& idle() {
  static Idle* const instance = new Idle;  // outlives every tensor
  return *instance;
}

}  // namespace

void advise_huge_pages(void* p, size_t bytes) {
  const uintptr_t begin = (uintptr_t(p) + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = (uintptr_t(p) + bytes) / kHugePage * kHugePage;
  if (p && end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
}

void give_back(void* data, void* bytes) {
  Idle& spare = idle();
  const std::lock_guard<std::mutex> guard(spare.lock);
  if (reinterpret_cast<size_t>(bytes) > spare.limit) {  // it would only push out what can be used again
    std::free(data);
    return;
  }
  spare.blocks.push_back({data, reinterpret_cast<size_t>(bytes)});
  spare.bytes += reinterpret_cast<size_t>(bytes);
  spare.keep_within_limit();
}

void* take(size_t& bytes) {
  bytes = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  {
    Idle& spare = idle();
    const std::lock_guard<std::mutex> guard(spare.lock);
    size_t best = spare.blocks.size();
    for (size_t k = 0; k < spare.blocks.size(); ++k) {
      const size_t size = spare.blocks[k].bytes;
      if (size >= bytes && size / 2 <= bytes && (best == spare.blocks.size() || size <= spare.blocks[best].bytes))
        best = k;
    }
    if (best < spare.blocks.size()) {
      void* data = spare.blocks[best].data;
      bytes = spare.blocks[best].bytes;
      spare.bytes -= bytes;
      spare.blocks.erase(spare.blocks.begin() + int64_t(best));
      return data;
    }
  }
  void* data = std::aligned_alloc(kHugePage, bytes);
  if (!data) throw std::bad_alloc();
  advise_huge_pages(data, bytes);
  return data;
}

void set_idle_limit(int64_t bytes) {
  Idle& spare = idle();
  const std::lock_guard<std::mutex> guard(spare.lock);
  spare.limit = size_t(bytes);
  spare.keep_within_limit();
}

int64_t idle_bytes() {
  Idle& spare = idle();
  const std::lock_guard<std::mutex> guard(spare.lock);
  return int64_t(spare.bytes);
}

}  // namespace fastssl
