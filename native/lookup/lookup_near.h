// Eight ids at once by AVX2, where 32 bits hold every id, rank, stored row and bit of the codes: their ranks,
// tiers, codes and stored rows.
#pragma once

#include "lookup/lookup_ranks.h"

#if defined(__AVX2__) && !defined(__AVX512F__)
#include <immintrin.h>
#define SAEC_NEAR_TIERS 1

namespace {

using namespace saec;

inline __m256i near_number(uint64_t value) {
  return _mm256_set1_epi32(static_cast<int>(static_cast<uint32_t>(value)));
}

// a <= b, unsigned.
inline __m256i near_at_most(__m256i a, __m256i b) {
  return _mm256_cmpeq_epi32(_mm256_max_epu32(a, b), b);
}

// What a table's tiers say of ranks.
class NearTiers {
 public:
  static constexpr size_t kMost = 16;  // what two registers hold of a column
  static constexpr uint64_t kMostRows = uint64_t{1} << 31;
  static constexpr uint64_t kMostBytes = uint64_t{1} << 29;  // of codes: their bits can be counted

  static bool holds(const Table& table) {
    return table.geometric && table.runs.size() <= kMost && table.rows < kMostRows &&
           table.code_bytes < kMostBytes && table.stored_rows < kMostRows;
  }

  // Numbers are kept modulo 2^32: biases and leads may be negative.
  void load(const Table& table) {
    alignas(32) uint32_t columns[kColumns][kMost] = {};
    uint32_t long_runs = 0;
    for (size_t i = 0; i < table.runs.size(); ++i) {
      const Run& run = table.runs[i];
      const uint64_t numbers[kColumns] = {
          run.row_bits,    run.bias,       run.mask,        run.lead,  run.own,
          run.order.first, run.order.mask, run.order.first_hint, run.first, run.order.shift,
      };
      for (size_t j = 0; j < kColumns; ++j) columns[j][i] = static_cast<uint32_t>(numbers[j]);
      long_runs |= static_cast<uint32_t>(run.cells > 0) << i;
    }
    Column* const to[kColumns] = {&row_bits_,    &bias_,       &mask_,       &lead_,  &own_,
                                  &order_first_, &order_mask_, &first_hint_, &first_, &hint_shift_};
    for (size_t j = 0; j < kColumns; ++j) {
      const auto* at = reinterpret_cast<const __m256i*>(columns[j]);
      *to[j] = {_mm256_load_si256(at), _mm256_load_si256(at + 1)};
    }
    long_runs_ = near_number(long_runs);
    codes_ = table.codes;
    order_ = &table.order;
  }

  // Tiers are cut at 64, 256, 1024, ...: by the length of the rank in bits, which is in the exponent of
  // the same number as a float. Without the bits below its two highest it cannot be rounded up.
  static __m256i of(__m256i ranks) {
    const __m256i least = _mm256_or_si256(ranks, near_number(31));
    const __m256i highest = _mm256_andnot_si256(_mm256_srli_epi32(least, 1), least);
    const __m256i bits = _mm256_castps_si256(_mm256_cvtepi32_ps(highest));
    const __m256i exponent = _mm256_srli_epi32(_mm256_add_epi32(bits, near_number(1 << 23)), 24);
    return _mm256_sub_epi32(exponent, near_number(66));
  }

  // Where codes start.
  __m256i bits(__m256i ranks, __m256i tiers) const {
    return _mm256_add_epi32(_mm256_mullo_epi32(ranks, row_bits_.at(tiers)), bias_.at(tiers));
  }

  // Stored rows, but for what codes add.
  __m256i leads(__m256i ranks, __m256i tiers) const {
    return _mm256_add_epi32(_mm256_and_si256(ranks, own_.at(tiers)), lead_.at(tiers));
  }

  // What codes at `bits` add.
  __m256i codes(__m256i tiers, __m256i bits) const {
    const __m256i words = _mm256_i32gather_epi32(reinterpret_cast<const int*>(codes_),
                                                 _mm256_srli_epi32(bits, 3), 1);
    const __m256i shifted = _mm256_srlv_epi32(words, _mm256_and_si256(bits, near_number(7)));
    return _mm256_and_si256(shifted, mask_.at(tiers));
  }

  // See ordered_code.
  __m256i ordered_codes(__m256i ranks, __m256i tiers) const {
    const __m256i place = _mm256_sub_epi32(ranks, first_.at(tiers));
    const __m256i hint =
        _mm256_add_epi32(_mm256_srlv_epi32(place, hint_shift_.at(tiers)), first_hint_.at(tiers));
    __m256i at = _mm256_add_epi32(order_first_.at(tiers), gather16(order_->hints.data(), hint));
    const auto* firsts = reinterpret_cast<const int*>(order_->firsts.data());
    for (;;) {
      const __m256i next = _mm256_i32gather_epi32(firsts + 2, at, 8);  // the lower halves
      const __m256i searching = near_at_most(next, ranks);
      if (_mm256_testz_si256(searching, searching)) return gather16(order_->codes.data(), at);
      at = _mm256_sub_epi32(at, searching);
    }
  }

  __m256i order_masks(__m256i tiers) const { return order_mask_.at(tiers); }

  // Bit i: whether the i-th has a long code.
  uint32_t long_ones(__m256i tiers) const {
    const __m256i flags = _mm256_slli_epi32(_mm256_srlv_epi32(long_runs_, tiers), 31);
    return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(flags)));
  }

 private:
  struct Column {
    __m256i low, high;
    __m256i at(__m256i tiers) const {
      const __m256 first = _mm256_castsi256_ps(_mm256_permutevar8x32_epi32(low, tiers));
      const __m256 second = _mm256_castsi256_ps(_mm256_permutevar8x32_epi32(high, tiers));
      const __m256 is_high = _mm256_castsi256_ps(_mm256_slli_epi32(tiers, 28));
      return _mm256_castps_si256(_mm256_blendv_ps(first, second, is_high));
    }
  };

  static __m256i gather16(const uint16_t* numbers, __m256i at) {
    const __m256i found = _mm256_i32gather_epi32(reinterpret_cast<const int*>(numbers), at, 2);
    return _mm256_and_si256(found, near_number(0xffff));
  }

  static constexpr size_t kColumns = 10;
  const uint8_t* codes_ = nullptr;
  const Order* order_ = nullptr;
  __m256i long_runs_;
  Column row_bits_, bias_, mask_, lead_, own_;
  Column order_first_, order_mask_, first_hint_, first_, hint_shift_;
};

// Ranks by the first level of a tier index, which lists its members, and by the ranks of these.
class NearRanks {
 public:
  static bool holds(const Table& table) {
    return table.rows < NearTiers::kMostRows && !table.levels.empty() && table.levels[0].listed &&
           table.members.level == 0;
  }

  explicit NearRanks(const Table& table)
      : level_(table.levels[0]), own_(table.members.ranks.data()) {}

  // See passed_in_list.
  __m256i of(__m256i ids) const {
    const __m256i none = _mm256_setzero_si256(), low = near_number(0xffff);
    const __m256i members = near_number(level_.members);
    const __m256i counts = _mm256_i32gather_epi32(reinterpret_cast<const int*>(level_.counts),
                                                  _mm256_srli_epi32(ids, 8), 2);
    const __m256i base = _mm256_i32gather_epi32(reinterpret_cast<const int*>(level_.bases),
                                                _mm256_srli_epi32(ids, 16), 8);
    __m256i start = _mm256_add_epi32(base, _mm256_and_si256(_mm256_sub_epi32(counts, base), low));
    start = _mm256_min_epu32(start, members);
    __m256i count =
        _mm256_and_si256(_mm256_sub_epi32(_mm256_srli_epi32(counts, 16), counts), low);
    count = _mm256_min_epu32(count, _mm256_sub_epi32(members, start));
    const __m256i more = _mm256_cmpgt_epi32(count, near_number(8));
    if (!_mm256_testz_si256(more, more)) return one_by_one(ids);
    const __m256i first = compared(_mm256_unpacklo_epi32(start, none),
                                   _mm256_unpacklo_epi32(count, none),
                                   _mm256_unpacklo_epi32(ids, none));
    const __m256i second = compared(_mm256_unpackhi_epi32(start, none),
                                    _mm256_unpackhi_epi32(count, none),
                                    _mm256_unpackhi_epi32(ids, none));
    const auto* found = reinterpret_cast<const __m256*>(&first);
    const auto* also = reinterpret_cast<const __m256*>(&second);
    const __m256i most = _mm256_castps_si256(_mm256_shuffle_ps(*found, *also, 0x88));
    const __m256i equal = _mm256_castps_si256(_mm256_shuffle_ps(*found, *also, 0xdd));
    const __m256i before = _mm256_sub_epi32(_mm256_add_epi32(start, most), equal);
    const __m256i place = _mm256_sub_epi32(ids, _mm256_min_epu32(before, ids));
    const __m256i rank = _mm256_min_epu32(_mm256_add_epi32(members, place),
                                          near_number(level_.ids - 1));
    if (_mm256_testz_si256(equal, equal)) return rank;
    const __m256i member = _mm256_min_epu32(before, near_number(level_.members - 1));
    const __m256i own = _mm256_and_si256(
        _mm256_i32gather_epi32(reinterpret_cast<const int*>(own_), member, 2), low);
    return _mm256_blendv_epi8(own, rank, _mm256_cmpeq_epi32(equal, none));
  }

 private:
  // Of four lists of at most eight bytes: how many are no more than an id's lowest byte, and in the
  // upper half how many equal it. IN numbers of 64 bits.
  __m256i compared(__m256i start, __m256i count, __m256i ids) const {
    const __m256i none = _mm256_setzero_si256();
    const __m256i lowest = _mm256_set_epi64x(0x0808080808080808, 0, 0x0808080808080808, 0);
    const __m256i steps = _mm256_set1_epi64x(0x0706050403020100);
    const __m256i list = _mm256_i64gather_epi64(reinterpret_cast<const long long*>(level_.leaves),
                                                start, 1);
    const __m256i byte = _mm256_shuffle_epi8(ids, lowest);
    const __m256i used = _mm256_cmpgt_epi8(_mm256_shuffle_epi8(count, lowest), steps);
    const __m256i equal = _mm256_and_si256(_mm256_cmpeq_epi8(list, byte), used);
    const __m256i most =
        _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_min_epu8(list, byte), list), used);
    return _mm256_or_si256(
        _mm256_sad_epu8(_mm256_sub_epi8(none, most), none),
        _mm256_slli_epi64(_mm256_sad_epu8(_mm256_sub_epi8(none, equal), none), 32));
  }

  // Where a block lists more ids than a lane holds.
  __m256i one_by_one(__m256i ids) const {
    alignas(32) uint32_t ranks[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(ranks), ids);
    for (uint32_t& rank : ranks) {
      const Passed passed = passed_in_list(level_, rank);
      const uint64_t place = rank - std::min<uint64_t>(passed.before, rank);
      rank = passed.inside ? own_[std::min(passed.before, level_.members - 1)]
                           : static_cast<uint32_t>(
                                 std::min(level_.members + place, level_.ids - 1));
    }
    return _mm256_load_si256(reinterpret_cast<const __m256i*>(ranks));
  }

  const Level& level_;
  const uint16_t* const own_;
};

}  // namespace
#endif
