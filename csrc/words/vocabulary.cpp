#include "vocabulary.h"

#include <stdexcept>

namespace fastssl {
namespace {

uint64_t hash_of(std::string_view s) {
  uint64_t h = 0xcbf29ce484222325u ^ s.size();
  for (unsigned char c : s) h = (h ^ c) * 0x100000001b3u;
  h ^= h >> 32;
  return h * 0x9E3779B97F4A7C15u;
}

// The code point at `at`, which moves behind it; bytes that are no UTF-8 give U+FFFD one by one.
uint32_t next_point(std::string_view s, size_t& at) {
  const auto byte = [&](size_t k) { return k < s.size() ? uint8_t(s[k]) : uint8_t(0); };
  const uint8_t first = byte(at++);
  if (first < 0x80) return first;
  const int more = first >= 0xF0 ? 3 : first >= 0xE0 ? 2 : first >= 0xC0 ? 1 : 0;
  uint32_t point = first & (0x3F >> more);
  for (int k = 0; k < more; ++k) {
    const uint8_t c = byte(at + size_t(k));
    if ((c & 0xC0) != 0x80) return 0xFFFD;
    point = point << 6 | (c & 0x3F);
  }
  at += size_t(more);
  return more ? point : 0xFFFD;
}

}  // namespace

WordCounter::WordCounter() : begins_{0}, slots_(1 << 12, Slot{0, -1}) {}

int32_t WordCounter::add(std::string_view word) {
  const uint64_t hash = hash_of(word);
  const size_t mask = slots_.size() - 1;
  for (size_t k = hash & mask;; k = (k + 1) & mask) {
    Slot& slot = slots_[k];
    if (slot.word >= 0) {
      if (slot.hash != hash || this->word(slot.word) != word) continue;
      ++counts_[size_t(slot.word)];
      return slot.word;
    }
    if (counts_.size() >= size_t(INT32_MAX)) throw std::length_error("more than 2,147,483,647 different words");
    slot = {hash, int32_t(counts_.size())};
    const int32_t number = slot.word;
    text_ += word;
    begins_.push_back(int64_t(text_.size()));
    counts_.push_back(1);
    if (counts_.size() * 2 > slots_.size()) grow();
    return number;
  }
}

void WordCounter::grow() {
  std::vector<Slot> old(slots_.size() * 2, Slot{0, -1});
  old.swap(slots_);
  const size_t mask = slots_.size() - 1;
  for (const Slot& slot : old) {
    if (slot.word < 0) continue;
    size_t k = slot.hash & mask;
    while (slots_[k].word >= 0) k = (k + 1) & mask;
    slots_[k] = slot;
  }
}

void number_words(std::string_view text, std::string_view is_letter, WordCounter& counter, std::vector<int32_t>& to) {
  const auto letter = [&](uint32_t point) {
    return point >> 3 < is_letter.size() && (is_letter[point >> 3] >> (point & 7) & 1) != 0;
  };
  const auto apostrophe = [](uint32_t point) { return point == '\'' || point == 0x2019; };
  std::string plain;  // a word with a typographic apostrophe is that with the plain one
  size_t at = 0;
  while (at < text.size()) {
    const size_t begin = at;
    const uint32_t point = next_point(text, at);
    if (point == '\n') to.push_back(-1);
    if (!letter(point)) continue;
    size_t end = at;
    bool curly = false;
    while (at < text.size()) {
      const uint32_t c = next_point(text, at);
      if (letter(c)) {
        end = at;
      } else if (apostrophe(c) && at < text.size()) {
        size_t behind = at;
        if (!letter(next_point(text, behind))) break;
        curly |= c != '\'';
        at = end = behind;
      } else {
        break;
      }
    }
    at = end;
    std::string_view word = text.substr(begin, end - begin);
    if (curly) {
      plain.clear();
      for (size_t k = 0; k < word.size(); ++k) {
        if (word.substr(k, 3) == "\xE2\x80\x99")
          plain += '\'', k += 2;
        else
          plain += word[k];
      }
      word = plain;
    }
    to.push_back(counter.add(word));
  }
}

}  // namespace fastssl
