// Symbols of many words; compiled once for each instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "keys/codewords.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

using namespace saec;

inline void read_symbol(const Codewords& code, const Codewords::Groups& groups, uint64_t& word, uint32_t& symbol) {
  constexpr uint32_t kLengthMask = (1u << Codewords::kLengthBits) - 1;
  const uint32_t group = groups.of(word);
  Codewords::Found found{group >> Codewords::kLengthBits, group & kLengthMask};
  if (found.length == Codewords::kSeveral) [[unlikely]]
    found = word > groups.last ? groups.end : code.find_in(group, word);  // unknown keys are many
  symbol = found.symbol;
  word <<= found.length;
}

// Takes a codeword off each word; the last one of the code where a word starts with none.
// words: IN and OUT. symbols: OUT.
inline void read_symbols(const Codewords& code, uint64_t* words, size_t count, uint32_t* symbols) {
  const Codewords::Groups groups = code.groups();
#if defined(__AVX512F__)
  constexpr size_t kLanes = 8;
  const __m512i last = _mm512_set1_epi64(static_cast<int64_t>(groups.last));
  const __m512i several = _mm512_set1_epi64(Codewords::kSeveral);
  const __m128i zeros = _mm_cvtsi32_si128(static_cast<int>(groups.zeros));
  const __m128i shift = _mm_cvtsi32_si128(static_cast<int>(groups.shift));
  for (size_t i = 0; i < count; i += kLanes) {
    const auto here = static_cast<__mmask8>(count - i < kLanes ? (1u << (count - i)) - 1 : 0xff);
    const __m512i word = _mm512_maskz_loadu_epi64(here, words + i);
    const __m512i place = _mm512_srl_epi64(_mm512_sll_epi64(_mm512_min_epu64(word, last), zeros), shift);
    const __m512i group = _mm512_cvtepu32_epi64(
        _mm512_mask_i64gather_epi32(_mm256_setzero_si256(), here, place, groups.groups, 4));
    const __m512i length = _mm512_and_si512(group, several);
    _mm512_mask_cvtepi64_storeu_epi32(symbols + i, here, _mm512_srli_epi64(group, Codewords::kLengthBits));
    _mm512_mask_storeu_epi64(words + i, here, _mm512_sllv_epi64(word, length));
    auto left = static_cast<uint32_t>(_mm512_mask_cmpeq_epi64_mask(here, length, several));
    if (!left) [[likely]] continue;
    alignas(64) uint64_t whole[kLanes];
    _mm512_store_si512(whole, word);
    for (; left; left &= left - 1) {
      const auto lane = static_cast<size_t>(std::countr_zero(left));
      words[i + lane] = whole[lane];
      read_symbol(code, groups, words[i + lane], symbols[i + lane]);
    }
  }
#else
  for (size_t i = 0; i < count; ++i) read_symbol(code, groups, words[i], symbols[i]);
#endif
}

}  // namespace
