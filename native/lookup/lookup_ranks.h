// From ids to ranks, where a tier index says which (docs/format.md).
#pragma once

#include <algorithm>
#include <bit>
#include <cstring>

#include "lookup/lookup.h"

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace {

using namespace saec;

constexpr size_t kChunk = 64;  // ids that go through a stage together

struct Passed {
  uint64_t before;  // members before the position
  bool inside;      // whether it is one
};

template <typename T>
inline T read_at(const uint8_t* base, size_t number) {
  T value;
  std::memcpy(&value, base + number * sizeof(T), sizeof value);
  return value;
}

// Where the members of a block start among all, and how many it has.
struct BlockMembers {
  uint64_t start, count;
};

inline BlockMembers members_of(const Level& level, uint64_t block) {
  const auto base = read_at<uint64_t>(level.bases, block / 256);
  uint32_t both;  // counts of the block and the next
  std::memcpy(&both, level.counts + 2 * block, sizeof both);
  return {base + ((both - base) & 0xffff), ((both >> 16) - both) & 0xffff};
}

// Of `count` ascending bytes, of which 32 can be read: which are less than a byte, and whether one
// equals it.
struct Compared {
  uint32_t less, equal;
};

inline Compared compare_bytes(const uint8_t* bytes, uint64_t count, uint8_t byte) {
#ifdef __AVX2__
  const __m256i held = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes));
  const __m256i wanted = _mm256_set1_epi8(static_cast<char>(byte));
  const uint32_t used = count < 32 ? (uint32_t{1} << count) - 1 : ~uint32_t{0};
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  return {_mm256_cmplt_epu8_mask(held, wanted) & used, _mm256_cmpeq_epi8_mask(held, wanted) & used};
#else
  const auto mask = [](__m256i bytes) { return static_cast<uint32_t>(_mm256_movemask_epi8(bytes)); };
  const uint32_t equal = mask(_mm256_cmpeq_epi8(held, wanted));
  const uint32_t most = mask(_mm256_cmpeq_epi8(_mm256_min_epu8(held, wanted), held));
  return {most & ~equal & used, equal & used};
#endif
#else
  Compared found{0, 0};
  for (uint64_t i = 0; i < std::min<uint64_t>(count, 32); ++i) {
    found.less |= static_cast<uint32_t>(bytes[i] < byte) << i;
    found.equal |= static_cast<uint32_t>(bytes[i] == byte) << i;
  }
  return found;
#endif
}

// Numbers are kept in range whatever the bytes are: an index was checked when it was loaded, but may
// have been written to since.
inline Passed passed_in_list(const Level& level, uint64_t position) {
  BlockMembers members = members_of(level, position / 256);
  members.start = std::min(members.start, level.members);
  members.count = std::min(members.count, level.members - members.start);
  // Of an empty list after the last member nothing counts, but 32 bytes are read.
  const uint8_t* list = level.leaves + std::min(members.start, level.members - 1);
  const auto byte = static_cast<uint8_t>(position);
  Compared found = compare_bytes(list, members.count, byte);
  uint64_t before = members.start + static_cast<uint64_t>(std::popcount(found.less));
  uint32_t equal = found.equal;
  for (uint64_t done = 32; done < members.count; done += 32) {
    found = compare_bytes(list + done, members.count - done, byte);
    before += static_cast<uint64_t>(std::popcount(found.less));
    equal |= found.equal;
  }
  return {before, equal != 0};
}

inline Passed passed_in_bits(const Level& level, uint64_t position) {
  const uint8_t* block = level.leaves + position / 256 * 32;
  const size_t own = position / 64 % 4;
  const auto word = read_at<uint64_t>(block, own);
  const uint64_t below = (uint64_t{1} << position % 64) - 1;
  // Words before the own one count as a whole.
  constexpr uint64_t kWhole[] = {~uint64_t{0}, ~uint64_t{0}, ~uint64_t{0}, 0, 0, 0};
  const uint64_t* whole = kWhole + 3 - own;
  const auto count = [&](size_t i) { return std::popcount(read_at<uint64_t>(block, i) & whole[i]); };
  const int before = count(0) + count(1) + count(2) + std::popcount(word & below);
  return {members_of(level, position / 256).start + static_cast<uint64_t>(before),
          (word >> position % 64 & 1) != 0};
}

// Positions in the level of which `open` lists `count`; OUT those of members among them, and their
// number. ranks: IN positions, OUT ranks, or positions in the next level.
template <typename PassedIn>
inline size_t pass_level(Level level, PassedIn passed_in, uint32_t* open, size_t count,
                         uint64_t* ranks) {
  size_t inside = 0;
  for (size_t k = 0; k < count; ++k) {
    const uint32_t i = open[k];
    const uint64_t position = ranks[i];
    const Passed passed = passed_in(level, position);
    const uint64_t place = position - std::min(passed.before, position);
    ranks[i] = passed.inside ? std::min(passed.before, level.members - 1)
                             : std::min(level.members + place, level.ids - 1);
    open[inside] = i;
    inside += passed.inside;
  }
  return inside;
}

// Those that are left are members of the last level; their number.
inline size_t pass_levels(const Level* level, const Level* last, uint32_t* open, size_t left,
                          uint64_t* ranks) {
  for (; level < last && left > 0; ++level)
    left = level->listed ? pass_level(*level, passed_in_list, open, left, ranks)
                         : pass_level(*level, passed_in_bits, open, left, ranks);
  return left;
}

// ranks: IN ids, OUT ranks, at most kChunk. Ids that are found at a level leave the list: no branch
// depends on one.
inline void rank_ids(const Table& table, size_t count, uint64_t* ranks) {
  uint32_t open[kChunk];
  for (size_t i = 0; i < count; ++i) open[i] = static_cast<uint32_t>(i);
  const Level* levels = table.levels.data();
  const size_t left = pass_levels(levels, levels + table.members.levels, open, count, ranks);
  const uint16_t* own = table.members.ranks.data();
  for (size_t k = 0; k < left; ++k) ranks[open[k]] = own[ranks[open[k]]];
}

// The same by the index alone, as it is at the time.
inline void rank_by_levels(const Table& table, size_t count, uint64_t* ranks) {
  uint32_t open[kChunk];
  for (size_t i = 0; i < count; ++i) open[i] = static_cast<uint32_t>(i);
  pass_levels(table.levels.data(), table.levels.data() + table.levels.size(), open, count, ranks);
}

// The last run that starts at rank or before; halving without a branch.
inline uint32_t run_of(const Table& table, uint64_t rank) {
  const Run* base = table.runs.data();
  for (size_t left = table.runs.size(); left > 1;) {
    const size_t half = left / 2;
    base += base[half].first <= rank ? half : 0;
    left -= half;
  }
  return static_cast<uint32_t>(base - table.runs.data());
}

}  // namespace
