#include "attention.h"

#include <algorithm>

#include "core/buffer.h"
#include "core/interrupt.h"
#include "core/isa.h"
#include "core/parallel.h"

namespace fastssl {

namespace {

void each_head(const std::vector<Head>& heads, bool backward, void (*kernel)(const Head&, float*)) {
  if (heads.empty()) return;
  const Head& first = heads.front();
  const int64_t size = attention_scratch(first.key.count, first.depth, first.value_depth, backward);
  const auto count = int64_t(heads.size()), workers = std::min(count, num_threads());
  Buffer<float> scratch(workers * size, false);
  parallel_tasks(
      count, [&](int64_t worker, int64_t k) { kernel(heads[size_t(k)], scratch.data() + worker * size); }, workers);
  poll_interrupt();
}

}  // namespace

void attention_forward(const std::vector<Head>& heads) { each_head(heads, false, isa().attention->forward); }
void attention_backward(const std::vector<Head>& heads) { each_head(heads, true, isa().attention->backward); }

}  // namespace fastssl
