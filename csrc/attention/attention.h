// Attention over the threads of the pool, one head a task; the same bits for any number of them.
#pragma once
#include <vector>

#include "kernels.h"

namespace fastssl {

void attention_forward(const std::vector<Head>& heads);
void attention_backward(const std::vector<Head>& heads);

}  // namespace fastssl
