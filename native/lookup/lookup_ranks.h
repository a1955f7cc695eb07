// Finds the ranks of ids by a tier index (docs/format.md).
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

constexpr size_t kChunk = 64;  // ids that pass a stage together

// A position in a level.
struct Passed {
  uint64_t before;  // number of members before it
  bool inside;      // whether it is a member
};

template <typename T>
inline T read_at(const uint8_t* base, size_t number) {
  T value;
  std::memcpy(&value, base + number * sizeof(T), sizeof value);
  return value;
}

// Members of a block: the first one's number among all members of the level, and how many there are.
struct BlockMembers {
  uint64_t start, count;
};

inline BlockMembers members_of(const Level& level, uint64_t block) {
  const auto base = read_at<uint64_t>(level.bases, block / 256);
  uint32_t both;  // counts of the block and the next
  std::memcpy(&both, level.counts + 2 * block, sizeof both);
  return {base + ((both - base) & 0xffff), ((both >> 16) - both) & 0xffff};
}

// Bit i of each mask is about byte i of a list: whether it is less than, or equals, the byte searched for.
// Looks at the first 32 of `count` ascending bytes; 32 bytes must be readable.
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

// Keeps numbers in range whatever the bytes are: an index is checked when it is loaded, but may be changed
// later.
inline Passed passed_in_list(const Level& level, uint64_t position) {
  BlockMembers members = members_of(level, position / 256);
  members.start = std::min(members.start, level.members);
  members.count = std::min(members.count, level.members - members.start);
  // 32 bytes are read even if the list is empty, so it must not start after the last member.
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
  // Words before the position's word are counted completely.
  constexpr uint64_t kWhole[] = {~uint64_t{0}, ~uint64_t{0}, ~uint64_t{0}, 0, 0, 0};
  const uint64_t* whole = kWhole + 3 - own;
  const auto count = [&](size_t i) { return std::popcount(read_at<uint64_t>(block, i) & whole[i]); };
  const int before = count(0) + count(1) + count(2) + std::popcount(word & below);
  return {members_of(level, position / 256).start + static_cast<uint64_t>(before),
          (word >> position % 64 & 1) != 0};
}

// Handles `count` entries of `ranks`. open: IN their numbers, OUT the numbers of those that are members, whose
// count is returned. ranks: IN positions in the level; OUT positions in the next level for members, ranks for
// all others.
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

// Passes all levels; returns the number of entries that are members of the last one.
inline size_t pass_levels(const Level* level, const Level* last, uint32_t* open, size_t left,
                          uint64_t* ranks) {
  for (; level < last && left > 0; ++level)
    left = level->listed ? pass_level(*level, passed_in_list, open, left, ranks)
                         : pass_level(*level, passed_in_bits, open, left, ranks);
  return left;
}

// ranks: IN at most kChunk ids, OUT their ranks. Ids whose rank is found at a level leave the list of open
// ones, without a branch that depends on an id.
inline void rank_ids(const Table& table, size_t count, uint64_t* ranks) {
  uint32_t open[kChunk];
  for (size_t i = 0; i < count; ++i) open[i] = static_cast<uint32_t>(i);
  const Level* levels = table.levels.data();
  const size_t left = pass_levels(levels, levels + table.members.levels, open, count, ranks);
  const uint16_t* own = table.members.ranks.data();
  for (size_t k = 0; k < left; ++k) ranks[open[k]] = own[ranks[open[k]]];
}

// The same by the present index alone, without the ranks in Table::members.
inline void rank_by_levels(const Table& table, size_t count, uint64_t* ranks) {
  uint32_t open[kChunk];
  for (size_t i = 0; i < count; ++i) open[i] = static_cast<uint32_t>(i);
  pass_levels(table.levels.data(), table.levels.data() + table.levels.size(), open, count, ranks);
}

// The last run that starts at `rank` or before: binary search without branches.
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
