// Prefix codes, read from the highest bit of a word on.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include "keys/static_function.h"

namespace saec {

constexpr uint32_t kMostCodeword = 56;

// A canonical prefix code.
class Codewords {
 public:
  static constexpr size_t kMostSymbols = size_t{1} << 24;

  struct Found {
    uint32_t symbol, length;
  };

  // Whether such a code exists. lengths: IN bits of each symbol's codeword.
  bool set(const uint8_t* lengths, size_t symbols) {
    if (symbols == 0 || symbols > kMostSymbols) return false;
    const uint8_t least = symbols == 1 ? 0 : 1;
    order_.resize(symbols);
    std::iota(order_.begin(), order_.end(), 0u);
    std::stable_sort(order_.begin(), order_.end(),
                     [=](uint32_t a, uint32_t b) { return lengths[a] < lengths[b]; });
    Wide start = 0;
    for (uint32_t place = 0; place < symbols; ++place) {
      const uint8_t length = lengths[order_[place]];
      if (length < least || length > kMostCodeword || start >> 64) return false;
      if (runs_.empty() || runs_.back().length < length)
        runs_.push_back({static_cast<uint64_t>(start), place, length});
      start += Wide{1} << (64 - length);
    }
    if (start > Wide{1} << 64) return false;
    last_ = static_cast<uint64_t>(start - 1);
    zeros_ = static_cast<uint32_t>(std::countl_zero(last_));
    end_ = {order_.back(), runs_.back().length};
    group();
    return true;
  }

  // Words are grouped by their highest bits, without those that are zero in all words. A group is a symbol
  // and, in the lowest kLengthBits bits, the length of its codeword; or, where several codewords are in it,
  // something for find_in() and kSeveral.
  struct Groups {
    const uint32_t* groups;
    uint64_t last;  // word that belongs to a symbol
    Found end;      // its codeword
    uint32_t zeros, shift;

    uint32_t of(uint64_t word) const { return groups[(std::min(word, last) << zeros) >> shift]; }
  };

  static constexpr uint32_t kLengthBits = 8, kSeveral = 255;

  Groups groups() const { return {groups_.data(), last_, end_, zeros_, shift_}; }

  size_t symbols() const { return order_.size(); }

  // Numbers that are equal for equal codes: symbols by their codewords, and how many there are of each length.
  std::vector<uint32_t> described() const {
    std::vector<uint32_t> numbers(order_);
    for (const Run& run : runs_) {
      numbers.push_back(run.place);
      numbers.push_back(run.length);
    }
    return numbers;
  }

  // The codeword that a word starts with; the last one if there is none. group: the word's, with several.
  Found find_in(uint32_t group, uint64_t word) const;

 private:
  static constexpr uint32_t kMostTopBits = 14, kMoreTopBits = 3;

  struct Run {  // of codewords of one length
    uint64_t start;  // first word of the first of them
    uint32_t place;  // of the first of them
    uint32_t length;
  };

  struct Place {
    uint32_t run, place;
  };

  // Of a group with several codewords, the first one's run is stored.
  void group() {
    const uint32_t longest = runs_.back().length;
    const auto most = static_cast<uint32_t>(std::bit_width(order_.size())) + kMoreTopBits;
    const uint32_t bits =
        std::clamp(longest - std::min(longest, zeros_), 1u, std::min(most, kMostTopBits));
    shift_ = 64 - bits;
    groups_.resize(size_t{1} << bits);
    for (uint64_t top = 0, run = 0; top < groups_.size(); ++top) {
      const uint64_t word = top << shift_ >> zeros_;
      const Place low = place_from(static_cast<uint32_t>(run), std::min(word, last_));
      const uint64_t end = (top << shift_ | ((uint64_t{1} << shift_) - 1)) >> zeros_;
      const Place high = place_from(low.run, std::min(end, last_));
      groups_[top] = low.place == high.place ? order_[low.place] << kLengthBits | runs_[low.run].length
                                             : low.run << kLengthBits | kSeveral;
      run = low.run;
    }
  }

  Place place_from(uint32_t run, uint64_t word) const {
    while (run + 1 < runs_.size() && runs_[run + 1].start <= word) ++run;
    const Run& own = runs_[run];
    const uint64_t further = own.length ? (word - own.start) >> (64 - own.length) : 0;
    return {run, own.place + static_cast<uint32_t>(further)};
  }

  std::vector<uint32_t> order_;  // symbols by their codewords
  std::vector<Run> runs_;
  std::vector<uint32_t> groups_;
  uint64_t last_ = 0;  // the last word that belongs to a symbol
  Found end_ = {0, 0};
  uint32_t zeros_ = 0, shift_ = 63;
};

}  // namespace saec
