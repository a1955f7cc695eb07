// Adds and copies stored rows, with one function for each element type and width.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "codes/codes.h"
#include "lookup/lookup.h"

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace {

using namespace saec;

constexpr size_t kLine = 64;  // bytes of a cache line

inline void prefetch(const void* at) { __builtin_prefetch(at, 0, 3); }

// Prefetches to the second-level cache, which allows more outstanding reads than the first.
// The offset may be invalid beyond the last id, so the address is computed as an integer.
inline void prefetch_far(const void* base, uint64_t offset) {
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(base) + offset), 0, 2);
}

struct Bfloat16 {
  uint16_t bits;
};

inline float widened(float value) { return value; }
inline float widened(int8_t value) { return value; }
inline float widened(_Float16 value) { return static_cast<float>(value); }
inline float widened(Bfloat16 value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16);
}

// Vectors of kLanes or 8 floats. They are written out because compilers keep loops over single numbers in
// scalar registers, and convert vectors of other types number by number.
#ifdef __AVX512F__
constexpr size_t kLanes = 16;
#else
constexpr size_t kLanes = 8;
#endif

template <size_t N>
struct Lanes {
  typedef float Type __attribute__((vector_size(N * sizeof(float))));
};
template <size_t N>
using Floats = typename Lanes<N>::Type;

template <size_t N, typename E>
inline Floats<N> load_lanes(const E* at) {
  Floats<N> lanes;
  if constexpr (std::is_same_v<E, float>) {
    std::memcpy(&lanes, at, sizeof lanes);
    return lanes;
  }
#ifdef __AVX512F__
  if constexpr (N == 16) {
    if constexpr (std::is_same_v<E, int8_t>)
      return _mm512_cvtepi32_ps(
          _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at))));
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
    if constexpr (std::is_same_v<E, _Float16>) return _mm512_cvtph_ps(halves);
    if constexpr (std::is_same_v<E, Bfloat16>)
      return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
  }
#endif
#ifdef __AVX2__
  if constexpr (N == 8) {
    if constexpr (std::is_same_v<E, int8_t>)
      return _mm256_cvtepi32_ps(
          _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(at))));
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
    if constexpr (std::is_same_v<E, _Float16>) return _mm256_cvtph_ps(halves);
    if constexpr (std::is_same_v<E, Bfloat16>)
      return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
  }
#endif
  for (size_t i = 0; i < N; ++i) lanes[i] = widened(at[i]);
  return lanes;
}

inline Bfloat16 to_bfloat16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if (std::isnan(value)) return {static_cast<uint16_t>(bits >> 16 | 0x40)};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};  // to nearest even
}

// Stored rows to read now (rows) and as many rows to prefetch (next; null if the stored rows are small).
// Prefetches are spread among the additions: all at once would not fit the queue of outstanding reads.
struct RowList {
  const uint64_t* rows;
  const uint64_t* next;
  size_t count;
};

template <size_t kRowBytes>
inline void prefetch_row(const uint8_t* at) {
  for (size_t byte = 0; byte < kRowBytes; byte += kLine) prefetch(at + byte);
}

// to[j] = from[j] + sum of weight_i * row_i[j]; a null `from` means 0. D: the width, or 0 for any width.
// Rows are added in order of the ids, so results do not depend on threads, on how ids are cut into pieces, or
// on the instruction set.
template <typename E, size_t D, bool kWeighted>
void add_rows(const void* stored, size_t width, const RowList& list, const float* weights,
              const float* from, float* to) {
  const E* base = static_cast<const E*>(stored);
  if constexpr (D > 0) {
    constexpr size_t N = std::min(D, kLanes);
    Floats<N> sums[D / N] = {};
    if (from) std::memcpy(sums, from, sizeof sums);
    const auto add = [&](size_t i) {
      const E* row = base + list.rows[i] * D;
      for (size_t j = 0; j < D / N; ++j) {
        const Floats<N> lanes = load_lanes<N>(row + j * N);
        sums[j] += kWeighted ? weights[i] * lanes : lanes;
      }
    };
    if (list.next) {
      for (size_t i = 0; i < list.count; ++i) {
        prefetch_row<D * sizeof(E)>(reinterpret_cast<const uint8_t*>(base + list.next[i] * D));
        add(i);
      }
    } else {
      for (size_t i = 0; i < list.count; ++i) add(i);
    }
    std::memcpy(to, sums, sizeof sums);
  } else {
    if (!from) std::fill_n(to, width, 0.0f);
    for (size_t i = 0; i < list.count; ++i) {
      const E* row = base + list.rows[i] * width;
      for (size_t j = 0; j < width; ++j)
        to[j] += kWeighted ? weights[i] * widened(row[j]) : widened(row[j]);
    }
  }
}

// out: OUT count rows of float32, stride bytes apart.
template <typename E, size_t D>
void copy_rows(const void* stored, size_t width, const RowList& list, uint8_t* out, size_t stride) {
  const E* base = static_cast<const E*>(stored);
  for (size_t i = 0; i < list.count; ++i) {
    uint8_t* to = out + i * stride;
    if constexpr (D > 0) {
      if (list.next)
        prefetch_row<D * sizeof(E)>(reinterpret_cast<const uint8_t*>(base + list.next[i] * D));
      constexpr size_t N = std::min(D, kLanes);
      for (size_t j = 0; j < D; j += N) {
        const Floats<N> lanes = load_lanes<N>(base + list.rows[i] * D + j);
        std::memcpy(to + j * sizeof(float), &lanes, sizeof lanes);
      }
    } else {
      const E* row = base + list.rows[i] * width;
      for (size_t j = 0; j < width; ++j) reinterpret_cast<float*>(to)[j] = widened(row[j]);
    }
  }
}

using AddRows = void (*)(const void*, size_t, const RowList&, const float*, const float*, float*);
using CopyRows = void (*)(const void*, size_t, const RowList&, uint8_t*, size_t);

constexpr size_t kDoubles = 8;
typedef double Doubles __attribute__((vector_size(kDoubles * sizeof(double))));

// Adds coordinate * axis of `count` axes, in order. Works on as many columns at a time as fit the registers.
template <size_t N>
void add_axes(const double* axes, const double* coordinates, size_t count,
              Doubles (&columns)[N]) {
  constexpr size_t kTogether = std::min<size_t>(N, 4);
  for (size_t first = 0; first < N; first += kTogether) {
    Doubles sums[kTogether];
    std::memcpy(sums, &columns[first], sizeof sums);
    for (size_t i = 0; i < count; ++i)
      for (size_t j = 0; j < kTogether; ++j) {
        Doubles axis;
        std::memcpy(&axis, axes + (i * N + first + j) * kDoubles, sizeof axis);
        sums[j] += coordinates[i] * axis;
      }
    std::memcpy(&columns[first], sums, sizeof sums);
  }
}

using Unframe = void (*)(const Frame&, size_t, size_t, const float*, float, float*);

// See Frame. sums: IN rank sums of int8 rows. row: OUT dim. D: dim, or 0 for any.
template <size_t D>
void unframe(const Frame& frame, size_t rank, size_t dim, const float* sums, float weight,
             float* row) {
  const float *scale = frame.scale.data(), *offset = frame.offset.data();
  if (frame.axes.empty()) {
    constexpr size_t N = std::max<size_t>(std::min(D, kLanes), 1);
    for (size_t j = 0; j + N <= dim; j += N) {
      const Floats<N> found = load_lanes<N>(sums + j) * load_lanes<N>(scale + j) +
                              weight * load_lanes<N>(offset + j);
      std::memcpy(row + j, &found, sizeof found);
    }
    return;
  }
  // In double precision, so that the order of additions does not change the rounded result.
  const double* axes = frame.axes.data();
  const auto coordinate = [&](size_t a) { return double{sums[a] * scale[a] + weight * offset[a]}; };
  if constexpr (D > 0) {
    Doubles columns[D / kDoubles] = {};
    for (size_t first = 0; first < rank; first += kDoubles) {
      double held[kDoubles];
      const size_t count = std::min(kDoubles, rank - first);
      if (count == kDoubles) {
        const Floats<kDoubles> found =
            load_lanes<kDoubles>(sums + first) * load_lanes<kDoubles>(scale + first) +
            weight * load_lanes<kDoubles>(offset + first);
        const Doubles wide = __builtin_convertvector(found, Doubles);
        std::memcpy(held, &wide, sizeof held);
      } else {
        for (size_t i = 0; i < count; ++i) held[i] = coordinate(first + i);
      }
      add_axes(axes + first * D, held, count, columns);
    }
    const double mean = weight;
    add_axes(axes + rank * D, &mean, 1, columns);
    for (size_t j = 0; j < D / kDoubles; ++j) {
      const auto column = __builtin_convertvector(columns[j], Floats<kDoubles>);
      std::memcpy(row + j * kDoubles, &column, sizeof column);
    }
  } else {
    for (size_t j = 0; j < dim; ++j) {
      double column = 0;
      for (size_t a = 0; a < rank; ++a) column += coordinate(a) * axes[a * dim + j];
      row[j] = static_cast<float>(column + weight * axes[rank * dim + j]);
    }
  }
}

Unframe unframe_of(size_t dim) {
  switch (dim) {
    case 8: return unframe<8>;
    case 16: return unframe<16>;
    case 32: return unframe<32>;
    case 64: return unframe<64>;
    case 128: return unframe<128>;
    default: return unframe<0>;
  }
}

}  // namespace
