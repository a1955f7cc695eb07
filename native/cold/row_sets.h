// Rows in memory by number, in sets of kWays places. A hash of the number gives the set, so there are no pointers and
// no lists, and a row costs kOverhead bytes besides its own.
//
// Places count uses. In a full set, a new row takes the place of one with the smallest count, in turns. After kAging
// such replacements the set's counts are halved, so that what was used long ago leaves. (LFU with aging by halves, as
// in Einziger, Friedman and Manes, "TinyLFU", ACM Transactions on Storage 13(4), 2017, section 3.3, but with counts of
// the rows that are held only. Sets in place of one list: any replacement looks at one set.)
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "cold/read_buffers.h"

namespace saec {

class RowSets {
 public:
  static constexpr size_t kWays = 64, kNone = kWays;
  static constexpr size_t kOverhead = 5;
  static constexpr size_t kGroup = 8;  // consecutive rows that have the same set
  static constexpr uint8_t kMostUses = 15;
  static constexpr uint8_t kAging = 255;

  RowSets(size_t row_bytes, uint64_t memory)
      : row_bytes_(row_bytes), sets_(memory / set_bytes(row_bytes)), memory_(set_bytes(row_bytes), sets_) {
    uint8_t* next = memory_.first();
    const auto take = [&next](size_t bytes) {
      uint8_t* taken = next;
      next += bytes;
      return taken;
    };
    rows_ = take(sets_ * kWays * row_bytes);
    numbers_ = reinterpret_cast<uint32_t*>(take(sets_ * kWays * sizeof(uint32_t)));
    uses_ = take(sets_ * kWays);
    states_ = reinterpret_cast<State*>(take(sets_ * sizeof(State)));
  }

  size_t count() const { return sets_; }
  uint64_t places() const { return uint64_t{sets_} * kWays; }
  uint64_t held() const { return held_; }
  // How many rows were used that put_unused() had kept.
  uint64_t first_uses() const { return first_uses_; }
  uint64_t bytes() const { return memory_.bytes(); }

  size_t set_of(uint32_t row) const {
    uint64_t hash = (row / kGroup + uint64_t{1}) * 0x9e3779b97f4a7c15;  // Fibonacci hashing, and a mix of high bits
    hash ^= hash >> 32;
    hash *= 0xd6e8feb86659fd93;
    return static_cast<size_t>((hash >> 32) * sets_ >> 32);
  }

  void prefetch(size_t set) const {
    const uint32_t* numbers = numbers_ + set * kWays;
    for (size_t i = 0; i < kWays; i += 16) __builtin_prefetch(numbers + i);
  }
  void prefetch_row(size_t set, size_t way) const {
    if (way != kNone) __builtin_prefetch(row_at(set, way));
  }

  // The place of a row in its set, or kNone.
  size_t find(size_t set, uint32_t row) const {
    const uint32_t* numbers = numbers_ + set * kWays;
    uint32_t way = kNone;
    for (uint32_t i = 0; i < kWays; ++i) way = numbers[i] == row + 1 ? i : way;
    return way;
  }

  const uint8_t* use(size_t set, size_t way) {
    uint8_t& uses = uses_[set * kWays + way];
    first_uses_ += uses == 0;
    uses = static_cast<uint8_t>(uses + (uses < kMostUses));
    return row_at(set, way);
  }

  // Keeps a row that was used once.
  void put(uint32_t row, const uint8_t* data) {
    const size_t set = set_of(row), held = find(set, row);
    if (held != kNone) use(set, held);
    else write(set, states_[set].held < kWays ? added(set) : replaced(set), row, 1, data);
  }

  // Keeps `count` consecutive rows that were not used, if there is room.
  void put_unused(uint32_t first, size_t count, const uint8_t* data) {
    for (size_t i = 0; i < count; ++i) {
      const auto row = static_cast<uint32_t>(first + i);
      const size_t set = set_of(row);
      if (states_[set].held == kWays) {
        i += kGroup - 1 - row % kGroup;  // the rest of its group has the same set
      } else if (find(set, row) == kNone) {
        write(set, added(set), row, 0, data + i * row_bytes_);
      }
    }
  }

 private:
  struct State {
    uint8_t held, hand, age;
  };

  static size_t set_bytes(size_t row_bytes) { return kWays * (row_bytes + kOverhead) + sizeof(State); }

  uint8_t* row_at(size_t set, size_t way) const { return rows_ + (set * kWays + way) * row_bytes_; }

  void write(size_t set, size_t way, uint32_t row, uint8_t uses, const uint8_t* data) {
    numbers_[set * kWays + way] = row + 1;
    uses_[set * kWays + way] = uses;
    std::memcpy(row_at(set, way), data, row_bytes_);
  }

  size_t added(size_t set) {
    ++held_;
    return states_[set].held++;
  }

  // The place of a row that leaves: the next one in turn with the fewest uses.
  size_t replaced(size_t set) {
    uint8_t* uses = uses_ + set * kWays;
    State& state = states_[set];
    const uint8_t fewest = *std::min_element(uses, uses + kWays);
    const uint8_t* way = std::find(uses + state.hand, uses + kWays, fewest);
    if (way == uses + kWays) way = std::find(uses, uses + kWays, fewest);
    const auto found = static_cast<size_t>(way - uses);
    state.hand = static_cast<uint8_t>((found + 1) % kWays);
    if (++state.age == kAging) {
      state.age = 0;
      for (size_t i = 0; i < kWays; ++i) uses[i] = static_cast<uint8_t>((uses[i] + 1) / 2);
    }
    return found;
  }

  const size_t row_bytes_, sets_;
  const ReadBuffers memory_;
  uint8_t *rows_, *uses_;
  uint32_t* numbers_;  // of rows, plus 1; 0 if there is none
  State* states_;
  uint64_t held_ = 0, first_uses_ = 0;
};

}  // namespace saec
