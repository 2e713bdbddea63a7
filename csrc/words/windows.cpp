#include "windows.h"

#include <algorithm>

namespace fastssl {
namespace {

// Whether the word at a position is kept in an epoch.
class Keeper {
 public:
  Keeper(const WindowOptions& o, uint32_t epoch)
      : keep_(o.keep), philox_{{uint32_t(o.seed), uint32_t(o.seed >> 32)}}, epoch_(epoch) {}
  bool operator()(int32_t word, int64_t position) {
    const float share = keep_[word];
    if (share >= 1.f) return true;
    if (position >> 2 != block_) {  // four positions share a call
      block_ = position >> 2;
      const uint32_t counter[4] = {uint32_t(block_), uint32_t(uint64_t(block_) >> 32), epoch_, 0};
      philox_(counter, numbers_);
    }
    return float(uniform_of(numbers_[position & 3])) < share;
  }

 private:
  const float* keep_;
  Philox philox_;
  uint32_t epoch_;
  int64_t block_ = -1;
  uint32_t numbers_[4];
};

void add_output(Windows& to, size_t first, int32_t row, float target) {
  for (size_t k = first; k < to.outputs.size(); ++k) {
    if (to.outputs[k] != row) continue;
    if (to.targets[k] == target) to.weights[k] += 1.f;  // noise that is drawn twice counts twice
    return;                                             // noise that is the word itself does not count
  }
  to.outputs.push_back(row);
  to.targets.push_back(target);
  to.weights.push_back(1.f);
}

int32_t noise_word(const AliasTable& noise, PositionDraws& draws) {
  const uint32_t place = draws.next(), coin = draws.next();
  return noise.draw(place, coin);
}

// `pool`: where shared noise is taken from.
void add_outputs(Windows& to, const WindowOptions& o, int32_t word, PositionDraws& draws, const int32_t* pool) {
  const size_t first = to.outputs.size();
  if (o.noise) {
    add_output(to, first, word, 1.f);
    for (int32_t k = 0; k < o.negatives; ++k)
      add_output(to, first, o.shared ? pool[NoisePool::place(draws.next())] : noise_word(*o.noise, draws), 0.f);
    return;
  }
  const auto& tree = *o.tree;
  for (int64_t k = tree.begins[size_t(word)]; k < tree.begins[size_t(word) + 1]; ++k) {
    to.outputs.push_back(tree.nodes[size_t(k)]);
    to.targets.push_back(1.f - tree.codes[size_t(k)]);
    to.weights.push_back(1.f);
  }
}

void add_input(Windows& to, size_t first, int32_t row) {
  for (size_t k = first; k < to.inputs.size(); ++k)
    if (to.inputs[k] == row) {
      to.input_weights[k] += 1.f;
      return;
    }
  to.inputs.push_back(row);
  to.input_weights.push_back(1.f);
}

void end_window(Windows& to) {
  to.input_ends.push_back(int64_t(to.inputs.size()));
  to.output_ends.push_back(int64_t(to.outputs.size()));
}

}  // namespace

void NoisePool::move_to(const WindowOptions& o, uint32_t epoch, int64_t position) {
  if (position / kBlock == block_) return;
  block_ = position / kBlock;
  PositionDraws draws(o.seed, epoch, uint64_t(block_), PositionDraws::kPool);
  for (int32_t& word : words_) word = noise_word(*o.noise, draws);
}

void Windows::clear() {
  inputs.clear(), input_weights.clear(), outputs.clear(), targets.clear(), weights.clear(), input_ends.clear(),
      output_ends.clear();
}

void WindowFinder::find(const Text& text, const WindowOptions& o, uint32_t epoch, int64_t begin, int64_t end,
                        Windows& to) {
  to.clear();
  kept_.clear();
  Keeper keeper(o, epoch);
  NoisePool pool;
  const auto is_word = [&](int64_t p) { return uint32_t(text.ids[p]) < uint64_t(text.words); };
  // The words before and behind belong to windows here too; draws by position find the same ones as elsewhere.
  int64_t sentence = 0;
  for (int64_t p = begin - 1; p >= 0 && is_word(p) && int64_t(kept_.size()) < o.window; --p)
    if (keeper(text.ids[p], p)) kept_.push_back({text.ids[p], p, sentence});
  std::reverse(kept_.begin(), kept_.end());
  const size_t first = kept_.size();
  for (int64_t p = begin; p < end; ++p) {
    if (!is_word(p)) {
      ++sentence;
    } else if (keeper(text.ids[p], p)) {
      kept_.push_back({text.ids[p], p, sentence});
    }
  }
  const size_t last = kept_.size();
  for (int64_t p = end; p < text.size && is_word(p) && int64_t(kept_.size() - last) < o.window; ++p)
    if (keeper(text.ids[p], p)) kept_.push_back({text.ids[p], p, sentence});

  for (size_t k = first; k < last; ++k) {
    const Kept& centre = kept_[k];
    PositionDraws draws(o.seed, epoch, uint64_t(centre.position));
    const auto reach = size_t(1 + ((uint64_t(draws.next()) * uint64_t(o.window)) >> 32));
    const size_t from = k >= reach ? k - reach : 0, until = std::min(kept_.size() - 1, k + reach);
    if (o.noise && o.shared) pool.move_to(o, epoch, centre.position);
    const size_t inputs = to.inputs.size();
    for (size_t c = from; c <= until; ++c) {
      if (c == k || kept_[c].sentence != centre.sentence) continue;
      const bool together = o.cbow || o.shared || !o.noise;
      add_input(to, together ? inputs : to.inputs.size(), kept_[c].word);
      if (together) continue;
      add_outputs(to, o, centre.word, draws, pool.words());  // noise of its own
      end_window(to);
    }
    if (to.inputs.size() == inputs) continue;  // a word alone predicts nothing
    if (o.cbow || o.shared || !o.noise) {
      add_outputs(to, o, centre.word, draws, pool.words());
      end_window(to);
    }
  }
}

}  // namespace fastssl
