// Eight columns at a time: a gather for each word of them, and one count of bits for their parities.
#include "keys/read_strings.h"

#if defined(__AVX512F__) && defined(__AVX512VPOPCNTDQ__)
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

}  // namespace

const ReadStrings kReadStringsAvx512 = read_any;

}  // namespace saec
#else
namespace saec {
const ReadStrings kReadStringsAvx512 = nullptr;
}  // namespace saec
#endif
