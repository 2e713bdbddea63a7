#include "sampling.h"

#include <algorithm>
#include <numeric>
#include <queue>

namespace fastssl {

AliasTable::AliasTable(const std::vector<double>& weights) : entries_(weights.size()) {
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<double> share(weights.size());
  std::vector<int32_t> small, large;
  for (size_t k = 0; k < weights.size(); ++k) {
    share[k] = weights[k] / total * double(weights.size());
    (share[k] < 1 ? small : large).push_back(int32_t(k));
  }
  const auto threshold = [](double p) { return uint32_t(std::min(p * 4294967296.0, 4294967295.0)); };
  while (!small.empty() && !large.empty()) {
    const int32_t less = small.back(), more = large.back();
    small.pop_back();
    entries_[size_t(less)] = {threshold(share[size_t(less)]), more};
    share[size_t(more)] -= 1 - share[size_t(less)];
    if (share[size_t(more)] < 1) {
      large.pop_back();
      small.push_back(more);
    }
  }
  for (const auto* rest : {&small, &large})
    for (int32_t k : *rest) entries_[size_t(k)] = {0xFFFFFFFFu, k};
}

HuffmanTree::HuffmanTree(const std::vector<double>& counts) {
  const auto words = int32_t(counts.size());
  begins.assign(size_t(words) + 1, 0);
  if (words < 2) return;                    // a single word needs no decision
  using Node = std::pair<double, int32_t>;  // words first, then inner nodes in the order they are made
  std::priority_queue<Node, std::vector<Node>, std::greater<Node>> open;
  for (int32_t k = 0; k < words; ++k) open.emplace(counts[size_t(k)], k);
  std::vector<int32_t> above(size_t(2 * words - 1), -1);
  std::vector<float> turn(size_t(2 * words - 1), 0.f);
  for (int32_t made = words; made < 2 * words - 1; ++made) {
    const Node a = open.top();
    open.pop();
    const Node b = open.top();
    open.pop();
    above[size_t(a.second)] = above[size_t(b.second)] = made;
    turn[size_t(b.second)] = 1.f;
    open.emplace(a.first + b.first, made);
  }
  std::vector<int32_t> way;
  for (int32_t k = 0; k < words; ++k) {
    way.clear();
    for (int32_t at = k; above[size_t(at)] >= 0; at = above[size_t(at)]) way.push_back(at);
    for (auto at = way.rbegin(); at != way.rend(); ++at) {
      nodes.push_back(above[size_t(*at)] - words);
      codes.push_back(turn[size_t(*at)]);
    }
    begins[size_t(k) + 1] = int64_t(nodes.size());
  }
}

}  // namespace fastssl
