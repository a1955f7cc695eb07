// Dense blocks, eight columns at a time: a gather for each word of them, and one count of bits for their
// parities. Windows, eight keys at a time.
#include "keys/read_strings.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VPOPCNTDQ__)
#include <immintrin.h>

namespace saec {
namespace {

constexpr uint32_t kLanes = 8;

// Sums of all lanes up to each, itself included.
inline __m512i running_sums(__m512i x) {
  const __m512i zero = _mm512_setzero_si512();
  x = _mm512_add_epi64(x, _mm512_alignr_epi64(x, zero, 7));
  x = _mm512_add_epi64(x, _mm512_alignr_epi64(x, zero, 6));
  return _mm512_add_epi64(x, _mm512_alignr_epi64(x, zero, 4));
}

// Words from bits on, of the lanes in `wanted`; 0 elsewhere.
inline __m512i load_words(const uint8_t* data, __m512i bit, __mmask8 wanted) {
  const __m512i words = _mm512_mask_i64gather_epi64(_mm512_setzero_si512(), wanted,
                                                    _mm512_srli_epi64(bit, 3), data, 1);
  return _mm512_srlv_epi64(words, _mm512_and_si512(bit, _mm512_set1_epi64(7)));
}

inline __m512i lowest_lanes(__m512i words, __m512i counts) {
  const __m512i unwanted = _mm512_sub_epi64(_mm512_set1_epi64(64), counts);
  return _mm512_and_si512(words, _mm512_srlv_epi64(_mm512_set1_epi64(-1), unwanted));
}

class Reader {
 public:
  Reader(const StaticFunction& function, uint64_t hash, uint64_t start)
      : function_(function),
        start_(_mm512_set1_epi64(static_cast<int64_t>(start))),
        end_(_mm512_set1_epi64(static_cast<int64_t>(function.bit_count))),
        at_(std::min(start + function.header_bits, function.bit_count)),
        hash_(hash) {
    const ColumnStep& step = function.steps[0];
    slots_ = std::min(step.base + static_cast<uint32_t>(lowest(load_word(function.bits, start), step.bits)),
                      kMostSlots);
    for (uint32_t word = 0; word * kWordSlots < slots_; ++word)
      picked_[word] = picked_slots(hash, word);
  }

  // Bits of columns [column, column + 8), in order; those beyond the last column are arbitrary.
  template <bool kVaried>
  uint64_t read(uint32_t column) {
    const __m512i zero = _mm512_setzero_si512();
    __m512i slots = _mm512_set1_epi64(slots_);
    if constexpr (kVaried) slots = _mm512_max_epi64(_mm512_sub_epi64(slots, changes(column)), zero);
    const __m512i ends = _mm512_add_epi64(_mm512_set1_epi64(static_cast<int64_t>(at_)), running_sums(slots));
    const __mmask8 inside = _mm512_cmple_epu64_mask(ends, end_);
    const __m512i starts = _mm512_sub_epi64(ends, slots);
    const uint64_t widest = kVaried ? lane(slots, 0) : slots_;
    __m512i sum = zero;
    for (uint32_t word = 0; word * kWordSlots < widest; ++word) {
      const __m512i before = _mm512_set1_epi64(word * kWordSlots);
      const __m512i left = _mm512_min_epi64(
          _mm512_max_epi64(_mm512_sub_epi64(slots, before), zero), _mm512_set1_epi64(kWordSlots));
      const __mmask8 wanted = _mm512_mask_test_epi64_mask(inside, left, left);
      const __m512i words = load_words(function_.bits, _mm512_add_epi64(starts, before), wanted);
      const __m512i picked = _mm512_set1_epi64(static_cast<int64_t>(picked_[word]));
      sum = _mm512_xor_si512(sum, lowest_lanes(_mm512_and_si512(words, picked), left));
    }
    at_ = std::min(lane(ends, 7), function_.bit_count);
    if (inside != 0xff) at_ = function_.bit_count, slots_ = 0;
    else if (kVaried) slots_ = static_cast<uint32_t>(lane(slots, 7));
    return _mm512_test_epi64_mask(_mm512_popcnt_epi64(sum), _mm512_set1_epi64(1));
  }

  bool over() const { return slots_ == 0; }

 private:
  // By how much columns from `column` on are shorter than the one before the first of them.
  __m512i changes(uint32_t column) const {
    const ColumnTable& table = function_.table;
    const __m512i field = _mm512_add_epi64(start_, _mm512_loadu_si512(table.field.data() + column));
    const __m512i bits = _mm512_loadu_si512(table.bits.data() + column);
    const __m512i within = _mm512_min_epu64(field, end_);
    const __mmask8 any = _mm512_test_epi64_mask(bits, bits);
    const __m512i said = lowest_lanes(load_words(function_.bits, within, any), bits);
    return running_sums(_mm512_add_epi64(said, _mm512_loadu_si512(table.base.data() + column)));
  }

  static uint64_t lane(__m512i x, int number) {
    return static_cast<uint64_t>(_mm_cvtsi128_si64(_mm512_castsi512_si128(
        _mm512_permutexvar_epi64(_mm512_set1_epi64(number), x))));
  }

  const StaticFunction& function_;
  const __m512i start_, end_;
  uint64_t at_;
  const uint64_t hash_;
  uint32_t slots_;
  uint64_t picked_[kMostWords];
};

template <bool kVaried>
void read_strings(const StaticFunction& function, const uint64_t* hashes, const uint64_t* starts,
                  size_t count, FunctionString* strings) {
  const uint32_t columns = function.columns(), head = function.fingerprint_bits;
  for (size_t i = 0; i < count; ++i) {
    Reader reader(function, hashes[i], starts[i]);
    uint64_t string[2] = {0, 0};
    for (uint32_t column = 0; column < columns && !reader.over(); column += kLanes)
      string[column / 64] |= reader.read<kVaried>(column) << column % 64;
    const Wide all = static_cast<Wide>(string[1]) << 64 | string[0];
    strings[i] = {lowest(string[0], head), lowest(static_cast<uint64_t>(all >> head), function.value_bits)};
  }
}

void read_any(const StaticFunction& function, const uint64_t* hashes, const uint64_t* starts,
              size_t count, FunctionString* strings) {
  const bool varied = function.steps.size() > 2;  // kNoStep is one of them
  (varied ? read_strings<true> : read_strings<false>)(function, hashes, starts, count, strings);
}

inline __m512i all(uint64_t number) { return _mm512_set1_epi64(static_cast<int64_t>(number)); }

inline __m512i high_products(__m512i a, __m512i b) {
  const __m512i low = all(UINT32_MAX), a_high = _mm512_srli_epi64(a, 32), b_high = _mm512_srli_epi64(b, 32);
  const __m512i first = _mm512_mul_epu32(a_high, b), second = _mm512_mul_epu32(a, b_high);
  __m512i carry = _mm512_srli_epi64(_mm512_mul_epu32(a, b), 32);
  carry = _mm512_add_epi64(carry, _mm512_and_si512(first, low));
  carry = _mm512_add_epi64(carry, _mm512_and_si512(second, low));
  __m512i sum = _mm512_add_epi64(_mm512_mul_epu32(a_high, b_high), _mm512_srli_epi64(carry, 32));
  sum = _mm512_add_epi64(sum, _mm512_srli_epi64(first, 32));
  return _mm512_add_epi64(sum, _mm512_srli_epi64(second, 32));
}

inline __m512i mixed_hashes(__m512i x) {
  x = _mm512_xor_si512(x, _mm512_srli_epi64(x, 33));
  x = _mm512_mullo_epi64(x, all(0xff51afd7ed558ccdULL));
  x = _mm512_xor_si512(x, _mm512_srli_epi64(x, 33));
  x = _mm512_mullo_epi64(x, all(0xc4ceb9fe1a85ec53ULL));
  return _mm512_xor_si512(x, _mm512_srli_epi64(x, 33));
}

// As places_in() of eight keys. places: OUT kPlaces runs, 0 for keys in buckets without room. Returns which
// keys are in others.
__mmask8 find_places(const StaticFunction& function, __m512i hashes, __m512i* places) {
  const __m512i starts_mask = all((uint64_t{1} << kStartBits) - 1), end = all(function.bit_count);
  const __m512i bucket = _mm512_srl_epi64(hashes, _mm_cvtsi32_si128(static_cast<int>(64 - function.bucket_bits)));
  const __m512i entry = _mm512_i64gather_epi64(bucket, function.directory, 8);
  const __m512i next = _mm512_i64gather_epi64(bucket, function.directory + 8, 8);
  const __m512i first = _mm512_min_epu64(_mm512_slli_epi64(_mm512_and_si512(entry, starts_mask), 3), end);
  const __m512i behind = _mm512_slli_epi64(_mm512_and_si512(next, starts_mask), 3);
  const __m512i last = _mm512_min_epu64(_mm512_max_epu64(behind, first), end);
  const __m512i taken = all((uint64_t{kPlaces} << function.spread) + function.columns());
  const __m512i held = _mm512_sub_epi64(last, first);
  const __mmask8 found = _mm512_cmpgt_epu64_mask(held, taken);
  const __m512i within = _mm512_sll_epi64(hashes, _mm_cvtsi32_si128(static_cast<int>(function.bucket_bits)));
  const __m512i start = _mm512_add_epi64(first, high_products(within, _mm512_sub_epi64(held, taken)));
  const __m512i seed = _mm512_add_epi64(_mm512_srli_epi64(entry, kStartBits), all(1));
  const __m512i step = _mm512_mullo_epi64(seed, all(0x9e3779b97f4a7c15ULL));
  __m512i offsets = mixed_hashes(_mm512_add_epi64(hashes, step));
  const __m512i offset_mask = all((uint64_t{1} << function.spread) - 1);
  for (uint32_t j = 0; j < kPlaces; ++j, offsets = _mm512_srli_epi64(offsets, 16)) {
    const __m512i window = _mm512_add_epi64(start, all(uint64_t{j} << function.spread));
    places[j] = _mm512_maskz_add_epi64(found, window, _mm512_and_si512(offsets, offset_mask));
  }
  return found;
}

// The first bits of eight strings.
__m512i read_places(const uint8_t* bits, __mmask8 found, const __m512i* places) {
  const __m512i reversed = _mm512_broadcast_i32x4(
      _mm_setr_epi8(7, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8));
  __m512i sum = _mm512_setzero_si512();
  for (uint32_t j = 0; j < kPlaces; ++j) {
    const __m512i words = _mm512_i64gather_epi64(_mm512_srli_epi64(places[j], 3), bits, 1);
    const __m512i shifts = _mm512_and_si512(places[j], all(7));
    sum = _mm512_xor_si512(sum, _mm512_sllv_epi64(_mm512_shuffle_epi8(words, reversed), shifts));
  }
  return _mm512_maskz_mov_epi64(found, sum);
}

void read_words(const StaticFunction& function, const uint64_t* hashes, size_t count, uint64_t* words) {
  constexpr size_t kKeys = 8;
  __m512i places[kWordsAtOnce / kKeys][kPlaces];
  __mmask8 found[kWordsAtOnce / kKeys];
  const auto here = [count](size_t i) {
    return static_cast<__mmask8>(count - i < kKeys ? (1u << (count - i)) - 1 : 0xff);
  };
  for (size_t i = 0; i < count; i += kKeys) {
    __m512i* own = places[i / kKeys];
    found[i / kKeys] = find_places(function, _mm512_maskz_loadu_epi64(here(i), hashes + i), own);
    alignas(64) uint64_t bytes[kKeys];
    for (uint32_t j = 0; j < kPlaces; ++j) {
      _mm512_store_si512(bytes, _mm512_srli_epi64(own[j], 3));
      for (const uint64_t byte : bytes) __builtin_prefetch(function.bits + byte);
    }
  }
  for (size_t i = 0; i < count; i += kKeys)
    _mm512_mask_storeu_epi64(words + i, here(i), read_places(function.bits, found[i / kKeys], places[i / kKeys]));
}

}  // namespace

const ReadStrings kReadStringsAvx512 = read_any;
const ReadWords kReadWordsAvx512 = read_words;

}  // namespace saec
#else
namespace saec {
const ReadStrings kReadStringsAvx512 = nullptr;
const ReadWords kReadWordsAvx512 = nullptr;
}  // namespace saec
#endif
