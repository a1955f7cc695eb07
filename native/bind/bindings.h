// Shared by the files that bind C++ to Python. Callers in Python have checked shapes and ids; the checks here protect
// memory. Output buffers are never converted, since results would go to a copy.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "cold/cold_lookup.h"
#include "system/cores.h"
#include "keys/static_function.h"
#include "lookup/lookup.h"
#include "system/expect.h"
#include "system/simd.h"
#include "system/workers.h"

namespace nb = nanobind;

template <typename T>
using Vector = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Matrix = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <typename T>
using OutVector = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T>
using OutMatrix = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

using saec::expect;
using saec::expect_equal;
using saec::refuse;

// Releases the GIL during its lifetime. While the interpreter shuts down, Python (up to 3.13) calls pthread_exit() in a
// daemon thread that wants the GIL. That unwinds the stack like an exception, and the process aborts if a frame catches
// it. So such a thread waits here for the process to end, as Python 3.14 does itself.
class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  WithoutGil(const WithoutGil&) = delete;
  ~WithoutGil() {
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {
      for (;;) pause();
    }
  }

 private:
  PyThreadState* state_;
};

// threads: the caller's number, 0 or less for the default. worth: number of threads for which there is enough work.
inline int used_threads(int threads, size_t worth) {
  if (worth < 2) return 1;
  const auto most = static_cast<size_t>(threads > 0 ? threads : saec::default_threads());
  return static_cast<int>(std::min({most, worth, saec::Workers::kMostThreads}));
}

// A table for lookups, and the arrays that it reads.
struct BoundTable {
  saec::Table table;
  Vector<uint8_t> codes;
  Vector<uint8_t> index;
  Matrix<uint8_t> stored;
  std::vector<float> own;  // stored rows, decoded when the table was made
  saec::ColdPlace place;   // of codes or stored rows that are not all in memory
};

// A static function for lookups, and the arrays that it reads.
struct BoundFunction {
  saec::StaticFunction function;
  Vector<uint8_t> bits, directory;
};

// threads: the most threads, 0 for the default. Uses fewer if a thread would have too few ids.
inline int lookup_threads(int threads, size_t ids, const saec::Team& team) {
  return used_threads(threads, 1 + ids / team.ids_per_thread);
}

void bind_cold(nb::module_& module);
void bind_keyed(nb::module_& module);
void bind_keys(nb::module_& module);
void bind_lookups(nb::module_& module);
void bind_shortcuts(nb::module_& module);
void bind_symbols(nb::module_& module);
