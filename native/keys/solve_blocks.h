// Building the blocks of a static function: columns whose picked slots add up to the keys' strings.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "keys/static_function.h"

namespace saec {

// Keys of one block after the other, and their strings: fingerprint bits first, then the value's.
struct FunctionKeys {
  const uint64_t* hashes;
  const uint64_t* values;
  const uint8_t* lengths;  // of each value in bits; null: each has value_bits
  uint32_t fingerprint_bits;
  uint32_t value_bits;

  uint32_t columns_of(size_t key) const {
    return fingerprint_bits + (lengths ? lengths[key] : value_bits);
  }

  // string: OUT bits 0..63 and 64..127.
  void string_of(size_t key, uint64_t* string) const {
    const uint64_t value = values ? values[key] : 0;
    const uint32_t head = fingerprint_bits;
    string[0] = fingerprint_of(hashes[key], head);
    if (head < 64) string[0] |= value << head;
    string[1] = head == 0 ? 0 : head < 64 ? value >> (64 - head) : value;
  }
};

// Solves one block after the other; keeps its memory.
//
// Keys are taken in order of their strings' lengths, the longest first. Each is a row over the slots: what
// its hash picks. A row is reduced by those before it and gets its *pivot* among the first slots; where
// there is none left, the block's columns from here on to the first get one slot more. So the keys that
// reach a column have their pivots among its slots, and each column is solved backwards.
class BlockSolver {
 public:
  enum class Outcome { kSolved, kSameHash, kTooMany };

  BlockSolver(const FunctionKeys& keys, const std::vector<ColumnStep>& steps)
      : keys_(keys), steps_(steps), columns_(keys.fingerprint_bits + keys.value_bits) {}

  // Keys [first, last). Appends the block's bytes to out; members: IN the keys' numbers.
  Outcome solve(const uint32_t* members, size_t count, std::vector<uint8_t>& out) {
    sort_rows(members, count);
    const Outcome outcome = eliminate();
    if (outcome != Outcome::kSolved) return outcome;
    if (!fit_steps()) return Outcome::kTooMany;
    write(out);
    return outcome;
  }

  // Two keys of the last block with one hash.
  size_t same_first() const { return same_first_; }
  size_t same_second() const { return same_second_; }

 private:
  struct Row {
    uint64_t picked[kMostWords];
    uint64_t string[2];  // bits of columns 0..63 and 64..127
    uint32_t key, columns, pivot;
  };

  void sort_rows(const uint32_t* members, size_t count) {
    order_.assign(members, members + count);
    // Of keys with strings of equal lengths, the order is that of their hashes: the result must not
    // depend on the order in which keys came.
    std::sort(order_.begin(), order_.end(), [this](uint32_t a, uint32_t b) {
      const uint32_t of_a = keys_.columns_of(a), of_b = keys_.columns_of(b);
      return of_a != of_b ? of_a > of_b
             : keys_.hashes[a] != keys_.hashes[b] ? keys_.hashes[a] < keys_.hashes[b] : a < b;
    });
    while (!order_.empty() && keys_.columns_of(order_.back()) == 0) order_.pop_back();
  }

  Outcome eliminate() {
    const size_t count = order_.size();
    std::fill_n(slots_, kMostColumns + 1, 0u);
    rows_.resize(count);
    if (count > kMostSlots) return find_same(Outcome::kTooMany);
    words_ = std::min<uint32_t>(kMostWords, static_cast<uint32_t>(count + 40) / kWordSlots + 1);
    std::fill_n(row_at_, kMostSlots, nullptr);
    uint32_t slots = 0;
    for (size_t i = 0; i < count; ++i) {
      Row& row = rows_[i];
      fill_row(row, order_[i]);
      slots = std::max(slots, static_cast<uint32_t>(i + 1));
      if (!place_row(row, slots)) return find_same(Outcome::kTooMany);
      slots_[row.columns - 1] = slots;
    }
    for (uint32_t column = columns_; column-- > 0;)
      slots_[column] = std::max(slots_[column], slots_[column + 1]);
    return Outcome::kSolved;
  }

  void fill_row(Row& row, uint32_t key) const {
    for (uint32_t word = 0; word < words_; ++word)
      row.picked[word] = picked_slots(keys_.hashes[key], word);
    keys_.string_of(key, row.string);
    row.key = key;
    row.columns = keys_.columns_of(key);
  }

  // Finds the first free slot that the row picks once it is reduced; makes room for one if need be.
  bool place_row(Row& row, uint32_t& slots) {
    for (uint32_t word = 0; word < words_; ++word)
      while (row.picked[word]) {
        const uint32_t slot = word * kWordSlots + static_cast<uint32_t>(std::countr_zero(row.picked[word]));
        const Row* other = row_at_[slot];
        if (!other) {
          row.pivot = slot;
          row_at_[slot] = &row;
          slots = std::max(slots, slot + 1);
          return true;
        }
        for (uint32_t w = word; w < words_; ++w) row.picked[w] ^= other->picked[w];
        row.string[0] ^= other->string[0];
        row.string[1] ^= other->string[1];
      }
    return false;
  }

  // Equal hashes are why a block cannot be solved, or else there are too many keys in it.
  Outcome find_same(Outcome otherwise) {
    std::vector<uint32_t> sorted(order_);
    std::sort(sorted.begin(), sorted.end(), [this](uint32_t a, uint32_t b) {
      return keys_.hashes[a] != keys_.hashes[b] ? keys_.hashes[a] < keys_.hashes[b] : a < b;
    });
    for (size_t i = 1; i < sorted.size(); ++i)
      if (keys_.hashes[sorted[i - 1]] == keys_.hashes[sorted[i]]) {
        same_first_ = sorted[i - 1];
        same_second_ = sorted[i];
        return Outcome::kSameHash;
      }
    return otherwise;
  }

  // Where the header's fields cannot say a column's number of slots, it gets some more.
  bool fit_steps() {
    for (size_t j = steps_.size(); j-- > 1;) {
      const ColumnStep& step = steps_[j];
      const uint32_t least = slots_[step.column] + step.base;
      for (uint32_t column = steps_[j - 1].column; column < step.column; ++column)
        slots_[column] = std::max(slots_[steps_[j - 1].column], least);
    }
    for (size_t j = 0; j < steps_.size(); ++j) {
      const ColumnStep& step = steps_[j];
      const uint32_t end = j + 1 < steps_.size() ? steps_[j + 1].column : columns_;
      const uint32_t most = step.base + ((1u << step.bits) - 1);
      uint32_t slots = slots_[step.column];
      if (j == 0) {
        slots = std::max(slots, step.base);
        if (slots > most || slots > kMostSlots) return false;
      } else if (slots + most < slots_[step.column - 1]) {
        slots = slots_[step.column - 1] - most;
      }
      for (uint32_t column = step.column; column < end; ++column) slots_[column] = slots;
    }
    return true;
  }

  void write(std::vector<uint8_t>& out) {
    uint64_t bits = 0;
    for (const ColumnStep& step : steps_) bits += step.bits;
    for (uint32_t column = 0; column < columns_; ++column) bits += slots_[column];
    const size_t first = out.size();
    out.resize(first + (bits + 7) / 8 + kFunctionPadding);
    uint8_t* data = out.data() + first;
    uint64_t at = 0;
    for (const ColumnStep& step : steps_) {
      const uint32_t slots = slots_[step.column];
      const uint32_t change = step.column ? slots_[step.column - 1] - slots : slots;
      put(data, at, change - step.base);
      at += step.bits;
    }
    for (uint32_t column = 0; column < columns_; ++column) {
      write_column(column, data, at);
      at += slots_[column];
    }
    out.resize(first + (bits + 7) / 8);
  }

  // From the last pivot to the first: a row's picked slots beyond its pivot are known by then. Slots that
  // are nobody's pivot are 0.
  void write_column(uint32_t column, uint8_t* data, uint64_t at) const {
    const uint32_t slots = slots_[column];
    uint64_t known[kMostWords] = {};
    for (uint32_t slot = slots; slot-- > 0;) {
      const Row* row = row_at_[slot];
      if (!row || row->columns <= column) continue;
      uint64_t sum = 0;
      for (uint32_t word = slot / kWordSlots; word < words_; ++word)
        sum ^= row->picked[word] & known[word];
      const uint64_t bit = (row->string[column / 64] >> column % 64 ^
                            static_cast<uint64_t>(std::popcount(sum))) & 1;
      known[slot / kWordSlots] |= bit << slot % kWordSlots;
    }
    for (uint32_t word = 0; word * kWordSlots < slots; ++word)
      put(data, at + word * kWordSlots, known[word]);
  }

  static void put(uint8_t* data, uint64_t bit, uint64_t value) {
    uint64_t word;
    std::memcpy(&word, data + bit / 8, sizeof word);
    word |= value << bit % 8;
    std::memcpy(data + bit / 8, &word, sizeof word);
  }

  const FunctionKeys& keys_;
  const std::vector<ColumnStep>& steps_;
  const uint32_t columns_;
  uint32_t words_ = 0;
  std::vector<uint32_t> order_;
  std::vector<Row> rows_;
  Row* row_at_[kMostSlots];
  uint32_t slots_[kMostColumns + 1];
  size_t same_first_ = 0, same_second_ = 0;
};

}  // namespace saec
