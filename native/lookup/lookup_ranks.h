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

constexpr size_t kChunk = 32;  // ids that go through a stage together

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
  uint64_t words[4];
  std::memcpy(words, level.leaves + position / 256 * 32, sizeof words);
  const size_t own = position / 64 % 4;
  const uint64_t below = (uint64_t{1} << position % 64) - 1;
  uint64_t before = members_of(level, position / 256).start;
  for (size_t word = 0; word < 4; ++word) {
    const uint64_t whole = uint64_t{0} - (word < own);
    before += static_cast<uint64_t>(std::popcount(words[word] & (word == own ? below : whole)));
  }
  return {before, (words[own] >> position % 64 & 1) != 0};
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

// open: OUT those of the first `count` ids that the hash does not know; their number. ranks: IN ids, OUT
// ranks of the others. Ids up to the next multiple of four can be read, and what is in `open` after them
// written.
#ifdef __AVX2__
inline size_t rank_hot_ids(const HotRanks& hot, size_t count, uint64_t* ranks, uint32_t* open) {
  // Which of four bits are set, in order.
  alignas(16) static constexpr uint32_t kSet[16][4] = {
      {0, 0, 0, 0}, {0, 0, 0, 0}, {1, 0, 0, 0}, {0, 1, 0, 0}, {2, 0, 0, 0}, {0, 2, 0, 0},
      {1, 2, 0, 0}, {0, 1, 2, 0}, {3, 0, 0, 0}, {0, 3, 0, 0}, {1, 3, 0, 0}, {0, 1, 3, 0},
      {2, 3, 0, 0}, {0, 2, 3, 0}, {1, 2, 3, 0}, {0, 1, 2, 3}};
  const auto* pairs = reinterpret_cast<const long long*>(hot.ids.data());
  const auto* hot_ranks = reinterpret_cast<const int*>(hot.ranks.data());
  const __m256i factor = _mm256_set1_epi64x(HotRanks::kFactor);
  const __m256i low = _mm256_set1_epi64x(0xffffffff), rank_bits = _mm256_set1_epi64x(0xffff);
  const __m128i shift = _mm_cvtsi32_si128(32 + hot.shift);
  size_t left = 0;
  for (size_t i = 0; i < count; i += 4) {
    auto* const at = reinterpret_cast<__m256i*>(ranks + i);
    const __m256i ids = _mm256_loadu_si256(at);
    const __m256i product = _mm256_slli_epi64(_mm256_mul_epu32(ids, factor), 32);
    const __m256i pair = _mm256_srl_epi64(product, shift);
    const __m256i held = _mm256_i64gather_epi64(pairs, pair, 8);
    const __m256i first = _mm256_cmpeq_epi64(_mm256_and_si256(held, low), ids);
    const __m256i second = _mm256_cmpeq_epi64(_mm256_srli_epi64(held, 32), ids);
    const __m256i found = _mm256_or_si256(first, second);
    const __m256i slot = _mm256_sub_epi64(_mm256_add_epi64(pair, pair), second);
    const __m256i own = _mm256_cvtepu32_epi64(_mm256_i64gather_epi32(hot_ranks, slot, 2));
    const __m256i rank = _mm256_and_si256(own, rank_bits);
    _mm256_storeu_si256(at, _mm256_blendv_epi8(ids, rank, found));
    const auto cold = static_cast<uint32_t>(~_mm256_movemask_pd(_mm256_castsi256_pd(found)) & 15);
    const __m128i positions =
        _mm_add_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(kSet[cold])),
                      _mm_set1_epi32(static_cast<int>(i)));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(open + left), positions);
    left += static_cast<size_t>(std::popcount(cold));
  }
  // Those after the last id are of no interest, and may be none of the table's.
  while (left > 0 && open[left - 1] >= count) --left;
  return left;
}
#else
inline size_t rank_hot_ids(const HotRanks& hot, size_t count, uint64_t* ranks, uint32_t* open) {
  const uint32_t* ids = hot.ids.data();
  const uint16_t* hot_ranks = hot.ranks.data();
  const int shift = hot.shift;
  size_t left = 0;
  for (size_t i = 0; i < count; ++i) {
    const uint64_t id = ranks[i];
    const size_t slot = 2 * size_t{static_cast<uint32_t>(id) * HotRanks::kFactor >> shift};
    const bool second = ids[slot + 1] == id, found = (ids[slot] == id) | second;
    const uint64_t rank = hot_ranks[slot + second];
    ranks[i] = found ? rank : id;
    open[left] = static_cast<uint32_t>(i);
    left += !found;
  }
  return left;
}
#endif

#if defined(__AVX512BW__) && defined(__AVX512VL__)
// Eight ids at once by the hash and the first level.
class VectorRanks {
 public:
  VectorRanks(const HotRanks& hot, const Level& level) : hot_(hot), level_(level) {}

  // ranks: IN eight ids, OUT ranks of those that are found, and positions in the next level of the
  // others, whose bits are set in the result.
  __mmask8 rank(uint64_t* ranks) const {
    const __m512i ids = _mm512_loadu_si512(ranks);
    __m512i found = ids;
    const __mmask8 cold = hot_.ids.empty() ? 0xff : not_hot(ids, found);
    const __mmask8 inside = cold ? pass(ids, cold, found) : 0;
    _mm512_storeu_si512(ranks, found);
    return inside;
  }

 private:
  __mmask8 not_hot(__m512i ids, __m512i& ranks) const {
    const __m512i product = _mm512_mul_epu32(ids, number(HotRanks::kFactor));
    const __m512i pair =
        _mm512_srl_epi64(_mm512_slli_epi64(product, 32), _mm_cvtsi32_si128(32 + hot_.shift));
    const __m512i held = _mm512_i64gather_epi64(pair, hot_.ids.data(), 8);
    const __mmask8 first = _mm512_cmpeq_epi64_mask(_mm512_and_si512(held, number(0xffffffff)), ids);
    const __mmask8 second = _mm512_cmpeq_epi64_mask(_mm512_srli_epi64(held, 32), ids);
    const auto hot = static_cast<__mmask8>(first | second);
    const __m512i one = number(1);
    const __m512i slot = _mm512_mask_add_epi64(_mm512_slli_epi64(pair, 1), second,
                                               _mm512_slli_epi64(pair, 1), one);
    const __m256i own = _mm512_mask_i64gather_epi32(_mm256_setzero_si256(), hot, slot,
                                                    hot_.ranks.data(), 2);
    ranks = _mm512_mask_and_epi64(ranks, hot, _mm512_cvtepu32_epi64(own), number(0xffff));
    return static_cast<__mmask8>(~hot);
  }

  // See passed_in_list.
  __mmask8 pass(__m512i ids, __mmask8 cold, __m512i& ranks) const {
    const __m512i none = _mm512_setzero_si512(), low = number(0xffff);
    const __m512i block = _mm512_srli_epi64(ids, 8);
    const __m512i counts =
        _mm512_cvtepu32_epi64(_mm512_mask_i64gather_epi32(_mm256_setzero_si256(), cold, block,
                                                          level_.counts, 2));
    const __m512i base = _mm512_mask_i64gather_epi64(none, cold, _mm512_srli_epi64(block, 8),
                                                     level_.bases, 8);
    const __m512i members = number(level_.members);
    __m512i start =
        _mm512_add_epi64(base, _mm512_and_si512(_mm512_sub_epi64(counts, base), low));
    start = _mm512_min_epu64(start, members);
    __m512i left = _mm512_and_si512(_mm512_sub_epi64(_mm512_srli_epi64(counts, 16), counts), low);
    left = _mm512_maskz_min_epu64(cold, left, _mm512_sub_epi64(members, start));
    const __m512i byte = _mm512_shuffle_epi8(ids, lowest_bytes());
    __m512i before = start;
    __mmask64 equal = 0;
    for (__mmask8 open; (open = _mm512_test_epi64_mask(left, left)) != 0;) {
      const __m512i list = _mm512_mask_i64gather_epi64(none, open, start, level_.leaves, 1);
      const __m512i most = _mm512_shuffle_epi8(_mm512_min_epu64(left, number(8)), lowest_bytes());
      const __mmask64 used = _mm512_cmplt_epu8_mask(steps(), most);
      equal |= _mm512_mask_cmpeq_epu8_mask(used, list, byte);
      const __mmask64 less = _mm512_mask_cmplt_epu8_mask(used, list, byte);
      before = _mm512_add_epi64(
          before, _mm512_sad_epu8(_mm512_maskz_set1_epi8(less, 1), none));
      start = _mm512_add_epi64(start, number(8));
      left = _mm512_sub_epi64(left, _mm512_min_epu64(left, number(8)));
    }
    const __m512i marks = _mm512_movm_epi8(equal);
    const __mmask8 inside = _mm512_mask_test_epi64_mask(cold, marks, marks);
    const __m512i place = _mm512_sub_epi64(ids, _mm512_min_epu64(before, ids));
    const __m512i last = number(level_.ids - 1);
    const __m512i rank = _mm512_min_epu64(_mm512_add_epi64(members, place), last);
    ranks = _mm512_mask_mov_epi64(ranks, cold, rank);
    ranks = _mm512_mask_min_epu64(ranks, inside, before, number(level_.members - 1));
    return inside;
  }

  static __m512i number(uint64_t value) { return _mm512_set1_epi64(static_cast<int64_t>(value)); }
  // The lowest byte of a number in all its bytes.
  static __m512i lowest_bytes() {
    return _mm512_set4_epi64(0x0808080808080808, 0, 0x0808080808080808, 0);
  }
  static __m512i steps() { return number(0x0706050403020100); }

  const HotRanks& hot_;
  const Level& level_;
};
#endif

// ranks: IN ids, OUT ranks, at most kChunk, followed by zeros up to a multiple of eight. Ids that are
// found at a stage leave the list: no branch depends on one.
inline void rank_ids(const Table& table, size_t count, uint64_t* ranks) {
  uint32_t open[kChunk + 8];
  size_t left = 0, next = 0;
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  if (table.levels[0].listed) {
    const VectorRanks vector(table.hot, table.levels[0]);
    const __m256i steps = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
    for (size_t i = 0; i < count; i += 8) {
      const __mmask8 inside = vector.rank(ranks + i);
      const __m256i positions = _mm256_add_epi32(_mm256_set1_epi32(static_cast<int>(i)), steps);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(open + left),
                          _mm256_maskz_compress_epi32(inside, positions));
      left += static_cast<size_t>(std::popcount(static_cast<uint32_t>(inside)));
    }
    next = 1;
  } else
#endif
  if (!table.hot.ids.empty()) {
    left = rank_hot_ids(table.hot, count, ranks, open);
  } else {
    for (; left < count; ++left) open[left] = static_cast<uint32_t>(left);
  }
  const size_t last = std::min(table.members.level + 1, table.levels.size());
  left = pass_levels(table.levels.data() + next, table.levels.data() + last, open, left, ranks);
  const uint16_t* own = table.members.ranks.data();
  for (size_t k = 0; k < left; ++k) ranks[open[k]] = own[ranks[open[k]]];
}

// The same by the index alone, as it is at the time.
inline void rank_by_levels(const Table& table, size_t count, uint64_t* ranks) {
  uint32_t open[kChunk];
  for (size_t i = 0; i < count; ++i) open[i] = static_cast<uint32_t>(i);
  pass_levels(table.levels.data(), table.levels.data() + table.levels.size(), open, count, ranks);
}

}  // namespace
