// Counting words.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace fastssl {

// Numbers words in the order in which they are first seen, and counts them.
class WordCounter {
 public:
  WordCounter();
  int32_t add(std::string_view word);
  int64_t size() const { return int64_t(counts_.size()); }
  int64_t count(int64_t word) const { return counts_[size_t(word)]; }
  std::string_view word(int64_t k) const {
    return std::string_view(text_).substr(size_t(begins_[size_t(k)]),
                                          size_t(begins_[size_t(k) + 1] - begins_[size_t(k)]));
  }

 private:
  struct Slot {
    uint64_t hash;
    int32_t word;  // -1: free
  };
  void grow();
  std::string text_;  // of all words
  std::vector<int64_t> begins_, counts_;
  std::vector<Slot> slots_;
};

// Numbers of the words of UTF-8 text, -1 at every line break. A word is a run of letters and digits by `is_letter`
// (a bit per code point; those behind are none), with single apostrophes between them.
void number_words(std::string_view text, std::string_view is_letter, WordCounter& counter, std::vector<int32_t>& to);

}  // namespace fastssl
