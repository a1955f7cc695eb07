// Vectors of 32-bit numbers in AVX-512 or AVX2 registers: operations that the compiler's vector types lack.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__AVX512BW__) && defined(__AVX512VL__)
#define SAEC_WORDS 64
#elif defined(__AVX2__)
#define SAEC_WORDS 32
#endif

#ifdef SAEC_WORDS
#include <immintrin.h>

namespace {

constexpr size_t kWords = SAEC_WORDS / 4;
typedef uint32_t Words __attribute__((vector_size(SAEC_WORDS)));
typedef int32_t Chosen __attribute__((vector_size(SAEC_WORDS)));  // each word has all bits set, or none
typedef uint64_t Pairs __attribute__((vector_size(SAEC_WORDS)));
typedef uint8_t Bytes __attribute__((vector_size(SAEC_WORDS)));
typedef int8_t SmallBytes __attribute__((vector_size(SAEC_WORDS)));  // signed ones compare in one instruction
typedef float WordFloats __attribute__((vector_size(SAEC_WORDS)));

inline Words words(uint64_t value) { return Words{} + static_cast<uint32_t>(value); }
inline Words lesser(Words a, Words b) { return a < b ? a : b; }

inline Words load_words(const uint32_t* at) { return *reinterpret_cast<const Words*>(at); }
inline void store_words(uint32_t* at, Words value) { *reinterpret_cast<Words*>(at) = value; }

#if SAEC_WORDS == 64

inline __m512i raw(Words a) { return reinterpret_cast<__m512i>(a); }
inline __m512i raw(Pairs a) { return reinterpret_cast<__m512i>(a); }

inline bool any(Chosen a) {
  const auto all = reinterpret_cast<__m512i>(a);
  return _mm512_test_epi32_mask(all, all) != 0;
}

// Bit i is the highest bit of the i-th word.
inline uint32_t highest_bits(Words a) { return _mm512_movepi32_mask(raw(a)); }

// Four bytes at base + at * kScale.
template <int kScale>
inline Words gather(const void* base, Words at) {
  return reinterpret_cast<Words>(_mm512_i32gather_epi32(raw(at), base, kScale));
}

// Eight bytes at base + at.
inline Bytes gather_lists(const void* base, Pairs at) {
  return reinterpret_cast<Bytes>(_mm512_i64gather_epi64(raw(at), base, 1));
}

// The first two words, or the last two words, of each 16 bytes, widened to 64 bits.
inline Pairs first_pairs(Words a) {
  return reinterpret_cast<Pairs>(_mm512_unpacklo_epi32(raw(a), _mm512_setzero_si512()));
}
inline Pairs last_pairs(Words a) {
  return reinterpret_cast<Pairs>(_mm512_unpackhi_epi32(raw(a), _mm512_setzero_si512()));
}

// The inverse: lower halves, or upper halves, of the numbers as words in their original order.
inline Words lower_words(Pairs first, Pairs last) {
  return reinterpret_cast<Words>(_mm512_shuffle_ps(_mm512_castsi512_ps(raw(first)),
                                                   _mm512_castsi512_ps(raw(last)), 0x88));
}
inline Words upper_words(Pairs first, Pairs last) {
  return reinterpret_cast<Words>(_mm512_shuffle_ps(_mm512_castsi512_ps(raw(first)),
                                                   _mm512_castsi512_ps(raw(last)), 0xdd));
}

// Copies the lowest byte of each 64-bit number to all its bytes.
inline Bytes spread(Pairs a) {
  const __m512i lowest = _mm512_set4_epi64(0x0808080808080808, 0, 0x0808080808080808, 0);
  return reinterpret_cast<Bytes>(_mm512_shuffle_epi8(raw(a), lowest));
}

// The sum of each eight bytes.
inline Pairs sums(Bytes a) {
  return reinterpret_cast<Pairs>(
      _mm512_sad_epu8(reinterpret_cast<__m512i>(a), _mm512_setzero_si512()));
}

// 64-bit numbers as words; numbers that are not below `limit` become 0 and set `outside`.
inline Words narrowed(const uint64_t* numbers, uint64_t limit, bool& outside) {
  const __m512i most = _mm512_set1_epi64(static_cast<int64_t>(limit));
  const __m512i first = _mm512_loadu_si512(numbers), last = _mm512_loadu_si512(numbers + 8);
  const __mmask8 first_in = _mm512_cmplt_epu64_mask(first, most);
  const __mmask8 last_in = _mm512_cmplt_epu64_mask(last, most);
  outside |= (first_in & last_in) != 0xff;
  return reinterpret_cast<Words>(
      _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_maskz_cvtepi64_epi32(first_in, first)),
                         _mm512_maskz_cvtepi64_epi32(last_in, last), 1));
}

// Stores words as 64-bit numbers; `to` is aligned.
inline void store_widened(uint64_t* to, Words a) {
  _mm512_store_si512(to, _mm512_cvtepu32_epi64(_mm512_castsi512_si256(raw(a))));
  _mm512_store_si512(to + 8, _mm512_cvtepu32_epi64(_mm512_extracti64x4_epi64(raw(a), 1)));
}

// A table of sixteen numbers in registers, indexed by words below 16.
struct Column {
  Words all;
  explicit Column(const uint32_t* numbers) : all(load_words(numbers)) {}
  Words at(Words place) const {
    return reinterpret_cast<Words>(_mm512_permutexvar_epi32(raw(place), raw(all)));
  }
};

#else

inline __m256i raw(Words a) { return reinterpret_cast<__m256i>(a); }
inline __m256i raw(Pairs a) { return reinterpret_cast<__m256i>(a); }

inline bool any(Chosen a) {
  const auto all = reinterpret_cast<__m256i>(a);
  return _mm256_testz_si256(all, all) == 0;
}

inline uint32_t highest_bits(Words a) {
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(raw(a))));
}

// One by one: gather instructions are microcode on AMD's processors, and slower.
template <int kScale>
inline Words gather(const void* base, Words at) {
  const auto* bytes = static_cast<const uint8_t*>(base);
  const auto one = [&](size_t i) {
    uint32_t value;
    std::memcpy(&value, bytes + size_t{at[i]} * kScale, sizeof value);
    return value;
  };
  return Words{one(0), one(1), one(2), one(3), one(4), one(5), one(6), one(7)};
}

inline Bytes gather_lists(const void* base, Pairs at) {
  const auto* bytes = static_cast<const uint8_t*>(base);
  const auto one = [&](size_t i) {
    uint64_t value;
    std::memcpy(&value, bytes + at[i], sizeof value);
    return value;
  };
  return reinterpret_cast<Bytes>(Pairs{one(0), one(1), one(2), one(3)});
}

inline Pairs first_pairs(Words a) {
  return reinterpret_cast<Pairs>(_mm256_unpacklo_epi32(raw(a), _mm256_setzero_si256()));
}
inline Pairs last_pairs(Words a) {
  return reinterpret_cast<Pairs>(_mm256_unpackhi_epi32(raw(a), _mm256_setzero_si256()));
}

inline Words lower_words(Pairs first, Pairs last) {
  return reinterpret_cast<Words>(_mm256_shuffle_ps(_mm256_castsi256_ps(raw(first)),
                                                   _mm256_castsi256_ps(raw(last)), 0x88));
}
inline Words upper_words(Pairs first, Pairs last) {
  return reinterpret_cast<Words>(_mm256_shuffle_ps(_mm256_castsi256_ps(raw(first)),
                                                   _mm256_castsi256_ps(raw(last)), 0xdd));
}

inline Bytes spread(Pairs a) {
  const __m256i lowest = _mm256_set_epi64x(0x0808080808080808, 0, 0x0808080808080808, 0);
  return reinterpret_cast<Bytes>(_mm256_shuffle_epi8(raw(a), lowest));
}

inline Pairs sums(Bytes a) {
  return reinterpret_cast<Pairs>(
      _mm256_sad_epu8(reinterpret_cast<__m256i>(a), _mm256_setzero_si256()));
}

// limit: at most 2^32.
inline Words narrowed(const uint64_t* numbers, uint64_t limit, bool& outside) {
  const auto* at = reinterpret_cast<const float*>(numbers);
  const __m256 first = _mm256_loadu_ps(at), last = _mm256_loadu_ps(at + 8);
  const auto high = reinterpret_cast<Words>(_mm256_shuffle_ps(first, last, 0xdd));
  const auto low = reinterpret_cast<Words>(_mm256_shuffle_ps(first, last, 0x88));
  const Chosen wrong = (low > words(limit - 1)) | (high > words(0));
  outside |= any(wrong);
  return reinterpret_cast<Words>(
      _mm256_permute4x64_epi64(raw(low & ~reinterpret_cast<Words>(wrong)), 0xd8));
}

inline void store_widened(uint64_t* to, Words a) {
  auto* at = reinterpret_cast<__m256i*>(to);
  _mm256_store_si256(at, _mm256_cvtepu32_epi64(_mm256_castsi256_si128(raw(a))));
  _mm256_store_si256(at + 1, _mm256_cvtepu32_epi64(_mm256_extracti128_si256(raw(a), 1)));
}

struct Column {
  Words low, high;
  explicit Column(const uint32_t* numbers)
      : low(load_words(numbers)), high(load_words(numbers + 8)) {}
  Words at(Words place) const {
    const __m256 first = _mm256_castsi256_ps(_mm256_permutevar8x32_epi32(raw(low), raw(place)));
    const __m256 second = _mm256_castsi256_ps(_mm256_permutevar8x32_epi32(raw(high), raw(place)));
    return reinterpret_cast<Words>(
        _mm256_blendv_ps(first, second, _mm256_castsi256_ps(raw(place << 28))));
  }
};

#endif

}  // namespace
#endif
