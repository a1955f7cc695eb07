// From ids to ranks, where tier vectors say which (docs/format.md).
#pragma once

#include <algorithm>
#include <bit>
#include <cstring>

#include "lookup/lookup.h"

namespace {

using namespace saec;

constexpr size_t kChunk = 32;  // ids that go through a stage together

struct Counted {
  uint64_t ones;  // before the position
  bool inside;    // one at it
};

inline Counted count_ones(const Level& level, uint64_t position) {
  constexpr uint64_t kBlockBits = 512, kBlockBytes = 68;
  const uint8_t* block = level.blocks + position / kBlockBits * kBlockBytes;
  uint32_t before;
  std::memcpy(&before, block, sizeof before);
  uint64_t words[kBlockBits / 64];
  std::memcpy(words, block + sizeof before, sizeof words);
  const size_t bit = position % kBlockBits, own = bit / 64;
  uint64_t ones = before;
  for (size_t word = 0; word < kBlockBits / 64; ++word) {
    const uint64_t whole = uint64_t{0} - (word < own), below = (uint64_t{1} << bit % 64) - 1;
    const uint64_t mask = word == own ? below : whole;
    ones += static_cast<uint64_t>(std::popcount(words[word] & mask));
  }
  return {ones, (words[own] >> bit % 64 & 1) != 0};
}

// Level by level, so that blocks of several ids are on their way at once; those that are found leave
// the list. ranks: IN ids, OUT ranks, at most kChunk. Gives the first that vectors contradict
// themselves about, or count.
inline size_t rank_ids(const Table& table, size_t count, uint64_t* ranks) {
  uint32_t open[kChunk];
  bool bad[kChunk] = {};
  size_t left = count;
  for (size_t i = 0; i < count; ++i) open[i] = static_cast<uint32_t>(i);
  for (const Level& level : table.levels) {
    size_t still = 0;
    for (size_t k = 0; k < left; ++k) {
      const uint32_t i = open[k];
      const uint64_t position = std::min(ranks[i], level.ids - 1);  // damaged files say otherwise
      const Counted counted = count_ones(level, position);
      bad[i] |= ranks[i] != position ||
                counted.ones >= (counted.inside ? level.rows : position + 1);
      ranks[i] = counted.inside ? level.first_rank + counted.ones : position - counted.ones;
      open[still] = i;
      still += !counted.inside;
    }
    left = still;
  }
  for (size_t k = 0; k < left; ++k) {
    const uint32_t i = open[k];
    bad[i] |= ranks[i] >= table.last_rows;
    ranks[i] += table.last_first_rank;
  }
  return static_cast<size_t>(std::find(bad, bad + count, true) - bad);
}

}  // namespace
