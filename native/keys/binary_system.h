// Linear equations over bits.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace saec {

// Takes one equation after the other; each is reduced by those before it.
class BinarySystem {
 public:
  // unknowns: the right side is the bit behind them in a row.
  explicit BinarySystem(size_t unknowns)
      : unknowns_(unknowns), words_(unknowns / 64 + 1), row_of_(unknowns), pivoted_(words_, 0) {}

  // A row of zeros, for the next equation.
  uint64_t* next() {
    rows_.resize((pivots_.size() + 1) * words_, 0);
    uint64_t* row = rows_.data() + pivots_.size() * words_;
    std::fill_n(row, words_, uint64_t{0});
    return row;
  }

  // Whether the row that next() gave can hold beside all before it.
  bool add() {
    uint64_t* row = rows_.data() + pivots_.size() * words_;
    size_t first = SIZE_MAX;  // bit that is left
    for (size_t w = 0; w < words_; ++w) {
      // A row has no bits before its pivot, so bits come in ascending order, and only those that are set.
      while (const uint64_t found = row[w] & pivoted_[w]) {
        const uint64_t* other = rows_.data() + row_of_[w * 64 + static_cast<size_t>(std::countr_zero(found))] * words_;
        for (size_t v = w; v < words_; ++v) row[v] ^= other[v];
      }
      if (first == SIZE_MAX && row[w]) first = w * 64 + static_cast<size_t>(std::countr_zero(row[w]));
    }
    if (first == SIZE_MAX) return true;
    if (first >= unknowns_) return false;
    row_of_[first] = static_cast<uint32_t>(pivots_.size());
    pivoted_[first / 64] |= uint64_t{1} << first % 64;
    pivots_.push_back(first);
    return true;
  }

  // Unknowns that are not needed are 0.
  std::vector<uint64_t> solution() const {
    std::vector<uint64_t> result(words_, 0);
    for (size_t i = pivots_.size(); i-- > 0;) {
      const uint64_t* row = rows_.data() + i * words_;
      uint64_t sum = 0;
      for (size_t w = 0; w < words_; ++w) sum ^= row[w] & result[w];
      const uint64_t wanted = row[unknowns_ / 64] >> unknowns_ % 64 & 1;
      if ((static_cast<uint64_t>(__builtin_parityll(sum)) & 1) != wanted)
        result[pivots_[i] / 64] |= uint64_t{1} << pivots_[i] % 64;
    }
    return result;
  }

 private:
  const size_t unknowns_, words_;
  std::vector<uint64_t> rows_;
  std::vector<size_t> pivots_;    // of each row its lowest bit
  std::vector<uint32_t> row_of_;  // by pivot
  std::vector<uint64_t> pivoted_;  // the bits that are pivots
};

}  // namespace saec
