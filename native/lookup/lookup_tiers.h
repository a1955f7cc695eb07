// What a table's tiers say of eight ranks at once, out of registers.
#pragma once

#include "lookup/lookup.h"

#if defined(__AVX512F__) && defined(__AVX512CD__)
#include <immintrin.h>
#define SAEC_VECTOR_TIERS 1

namespace {

using namespace saec;

class VectorTiers {
 public:
  static constexpr size_t kMost = 16;  // what two registers hold

  void load(const Table& table) {
    alignas(64) uint64_t columns[kColumns][kMost] = {};
    for (size_t i = 0; i < table.runs.size(); ++i) {
      const Run& run = table.runs[i];
      const uint64_t numbers[kColumns] = {
          run.row_bits, run.bias,        run.mask,         run.lead,
          run.own,      run.order.first, run.order.mask,   run.order.first_hint,
          run.first,    run.order.shift,
      };
      for (size_t j = 0; j < kColumns; ++j) columns[j][i] = numbers[j];
      long_runs_ |= static_cast<uint32_t>(run.cells > 0) << i;
    }
    Column* const to[kColumns] = {&row_bits_,     &bias_,       &mask_,      &lead_,  &own_,
                                  &order_first_,  &order_mask_, &first_hint_, &first_, &hint_shift_};
    for (size_t j = 0; j < kColumns; ++j)
      *to[j] = {_mm512_load_si512(columns[j]), _mm512_load_si512(columns[j] + 8)};
    codes_ = table.codes;
    order_ = &table.order;
  }

  // Tiers are cut at 64, 256, 1024, ...: by the length of the rank in bits.
  static __m512i of(__m512i ranks) {
    const __m512i zeros = _mm512_lzcnt_epi64(_mm512_or_si512(ranks, _mm512_set1_epi64(31)));
    return _mm512_srli_epi64(_mm512_sub_epi64(_mm512_set1_epi64(59), zeros), 1);
  }

  // Where codes start. Sixteen tiers have ranks below 2^36: two products of 32 bits make the low 64.
  __m512i bits(__m512i ranks, __m512i tiers) const {
    const __m512i width = row_bits_.at(tiers);
    const __m512i low = _mm512_mul_epu32(ranks, width);
    const __m512i high = _mm512_mul_epu32(_mm512_srli_epi64(ranks, 32), width);
    return _mm512_add_epi64(_mm512_add_epi64(low, _mm512_slli_epi64(high, 32)), bias_.at(tiers));
  }

  // Stored rows, of the codes at bits.
  __m512i rows(__m512i ranks, __m512i tiers, __m512i bits) const {
    const __m512i words = _mm512_i64gather_epi64(_mm512_srli_epi64(bits, 3), codes_, 1);
    const __m512i shifted = _mm512_srlv_epi64(words, _mm512_and_si512(bits, _mm512_set1_epi64(7)));
    const __m512i code = _mm512_and_si512(shifted, mask_.at(tiers));
    const __m512i own = _mm512_and_si512(ranks, own_.at(tiers));
    return _mm512_add_epi64(_mm512_add_epi64(code, lead_.at(tiers)), own);
  }

  // See ordered_code.
  __m512i ordered_codes(__m512i ranks, __m512i tiers) const {
    const __m512i place = _mm512_sub_epi64(ranks, first_.at(tiers));
    const __m512i hint =
        _mm512_add_epi64(_mm512_srlv_epi64(place, hint_shift_.at(tiers)), first_hint_.at(tiers));
    __m512i at = _mm512_add_epi64(order_first_.at(tiers), gather16(order_->hints.data(), hint));
    const __m512i one = _mm512_set1_epi64(1);
    for (__mmask8 searching = 0xff;;) {
      const __m512i next = _mm512_add_epi64(at, one);
      const __m512i firsts = _mm512_mask_i64gather_epi64(_mm512_setzero_si512(), searching, next,
                                                         order_->firsts.data(), 8);
      searching = _mm512_mask_cmple_epu64_mask(searching, firsts, ranks);
      if (!searching) return gather16(order_->codes.data(), at);
      at = _mm512_mask_mov_epi64(at, searching, next);
    }
  }

  __m512i order_masks(__m512i tiers) const { return order_mask_.at(tiers); }

  // Bit i: whether the i-th has a long code.
  uint32_t long_ones(__m512i tiers) const {
    const __m512i flags = _mm512_set1_epi64(long_runs_);
    return _mm512_test_epi64_mask(_mm512_srlv_epi64(flags, tiers), _mm512_set1_epi64(1));
  }

 private:
  struct Column {
    __m512i low, high;
    __m512i at(__m512i tiers) const { return _mm512_permutex2var_epi64(low, tiers, high); }
  };

  static __m512i gather16(const uint16_t* numbers, __m512i at) {
    const __m256i found = _mm512_i64gather_epi32(at, numbers, 2);
    return _mm512_and_si512(_mm512_cvtepu32_epi64(found), _mm512_set1_epi64(0xffff));
  }

  static constexpr size_t kColumns = 10;
  const uint8_t* codes_ = nullptr;
  const Order* order_ = nullptr;
  uint32_t long_runs_ = 0;
  Column row_bits_, bias_, mask_, lead_, own_;
  Column order_first_, order_mask_, first_hint_, first_, hint_shift_;
};

}  // namespace
#endif
