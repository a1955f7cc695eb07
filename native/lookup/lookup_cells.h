// Adds the coordinates of long codes to rows, with one function for each width.
#pragma once

#include <cstring>

#include "lookup/lookup_rows.h"

namespace {

// A row's codes: the bit position of its packed codes, and its ordered code.
struct RowCodes {
  uint64_t bits;
  uint64_t ordered;
};

// The bits from `shift` on of the ordered code or of the packed codes.
inline uint64_t code_word(const Table& table, const RowCodes& codes, bool ordered, uint32_t shift) {
  return ordered ? codes.ordered >> shift : read_word(table.codes, codes.bits + shift);
}

typedef uint64_t CellWords __attribute__((vector_size(CellBlock::kMost * sizeof(uint64_t))));
typedef int32_t CellCodes __attribute__((vector_size(CellBlock::kMost * sizeof(int32_t))));
typedef Floats<CellBlock::kMost> CellFloats;

// The numbers at `places`.
inline CellFloats gather_values(const float* values, CellWords places) {
#ifdef __AVX512F__
  const __m512i at = reinterpret_cast<__m512i>(places);
  return reinterpret_cast<CellFloats>(_mm512_i64gather_ps(at, values, sizeof(float)));
#else
  CellFloats found;
  for (size_t i = 0; i < CellBlock::kMost; ++i) found[i] = values[places[i]];
  return found;
#endif
}

template <typename Lanes, typename Number>
inline Lanes column(const Number (&numbers)[CellBlock::kMost]) {
  static_assert(sizeof(Lanes) == sizeof numbers);
  Lanes lanes;
  std::memcpy(&lanes, numbers, sizeof lanes);
  return lanes;
}

// Each product and sum is rounded.
inline CellFloats coordinates_of(const Table& table, const CellBlock& block, const RowCodes& row) {
  const CellWords word = CellWords{} + code_word(table, row, block.ordered, block.bit);
  const CellCodes codes = __builtin_convertvector(word >> column<CellWords>(block.shift), CellCodes) &
                          column<CellCodes>(block.mask);
  const CellCodes further = codes * column<CellCodes>(block.stride);
  const CellWords places =
      column<CellWords>(block.first) + __builtin_convertvector(further, CellWords);
  const CellFloats steps = __builtin_convertvector(codes, CellFloats) * column<CellFloats>(block.step);
  return gather_values(table.values.data(), places) + steps;
}

// row[j] += weight * coordinate * axis[j] for each cell, in order; every product and sum is rounded.
using AddCells = void (*)(const Table&, const CellBlock*, size_t, const RowCodes&, float, float*);

template <size_t D>
void add_cells(const Table& table, const CellBlock* blocks, size_t count, const RowCodes& codes,
               float weight, float* row) {
  const float* axes = table.axes.data();
  constexpr size_t N = D > 0 ? std::min(D, kLanes) : 1;
  Floats<N> sums[D > 0 ? D / N : 1];
  if constexpr (D > 0) std::memcpy(sums, row, sizeof sums);
  for (const CellBlock* block = blocks; block < blocks + count; ++block) {
    const CellFloats coordinates = weight * coordinates_of(table, *block, codes);
    for (size_t i = 0; i < block->count; ++i) {
      const float coordinate = coordinates[i];
      if constexpr (D > 0) {
        for (size_t j = 0; j < D / N; ++j)
          sums[j] += coordinate * load_lanes<N>(axes + block->axis[i] * D + j * N);
      } else {
        const float* axis = axes + block->axis[i] * table.dim;
        for (size_t j = 0; j < table.dim; ++j) row[j] += coordinate * axis[j];
      }
    }
  }
  if constexpr (D > 0) std::memcpy(row, sums, sizeof sums);
}

struct RowKernels {
  AddRows add, add_weighted;
  CopyRows copy;
  AddCells cells;
};

template <typename E, size_t D>
constexpr RowKernels kRows = {add_rows<E, D, false>, add_rows<E, D, true>, copy_rows<E, D>,
                              add_cells<D>};

template <typename E>
RowKernels row_kernels(size_t width) {
  switch (width) {
    case 8: return kRows<E, 8>;
    case 16: return kRows<E, 16>;
    case 32: return kRows<E, 32>;
    case 64: return kRows<E, 64>;
    case 128: return kRows<E, 128>;
    default: return kRows<E, 0>;
  }
}

RowKernels row_kernels(Element element, size_t width) {
  switch (element) {
    case Element::kFloat16: return row_kernels<_Float16>(width);
    case Element::kBfloat16: return row_kernels<Bfloat16>(width);
    case Element::kInt8: return row_kernels<int8_t>(width);
    default: return row_kernels<float>(width);
  }
}

}  // namespace
