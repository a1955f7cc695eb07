// What the files that bind C++ to Python share. Callers in Python have checked shapes and ids; what is
// checked here protects memory. Buffers to write to are never converted: a copy would be written.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <omp.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "lookup.h"

namespace nb = nanobind;

template <typename T>
using Vector = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Matrix = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <typename T>
using OutVector = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T>
using OutMatrix = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

inline void expect(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

// A table for lookups, and the arrays that it reads.
struct BoundTable {
  saec::Table table;
  Vector<uint8_t> codes;
  Vector<uint8_t> vectors;
  Matrix<uint8_t> stored;
  std::vector<float> own;  // stored rows that were decoded once
};

// At most so many (0: as many as there are), and no more than are worth starting.
inline int lookup_threads(int threads, size_t ids) {
  constexpr size_t kWorth = size_t{1} << 13;
  const auto most = static_cast<size_t>(threads > 0 ? threads : omp_get_max_threads());
  return static_cast<int>(std::min(most, 1 + ids / kWorth));
}

void bind_lookups(nb::module_& module);
void bind_shortcuts(nb::module_& module);
