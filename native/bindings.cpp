// The one place where C++ meets Python. Callers in Python have checked shapes and ids; what is
// checked here protects memory. Buffers to write to are never converted: a copy would be written.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <omp.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "accumulate.h"
#include "codes.h"
#include "nearest.h"
#include "seeding.h"

namespace nb = nanobind;

namespace {

template <typename T>
using Vector = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Matrix = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <typename T>
using OutVector = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T>
using OutMatrix = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void expect(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

// Unless the caller says how many: no more threads than have something to do, because waiting for each
// other takes longer than small work, on a busy machine much longer. work: multiply-adds, about.
int thread_count(int threads, size_t work) {
  constexpr size_t kWorth = size_t{1} << 20;
  if (threads > 0) return threads;
  return static_cast<int>(
      std::min(static_cast<size_t>(omp_get_max_threads()), 1 + work / kWorth));
}

void expect_packed(const Vector<uint8_t>& data, size_t count, unsigned bits) {
  expect(bits >= 1 && bits <= 32, "code_bits must lie in 1..32");
  expect(data.shape(0) >= saec::packed_bytes(count, bits), "packed codes are too short");
}

const saec::Kernels& kernels_named(const std::string& name) {
  const saec::Kernels* kernels = saec::choose_kernels(name.c_str());
  if (!kernels) throw std::invalid_argument("this processor has no instruction set " + name);
  return *kernels;
}

}  // namespace

NB_MODULE(_native, module) {
  nb::class_<saec::NearestCentroid>(module, "NearestCentroid")
      .def(
          "__init__",
          [](saec::NearestCentroid* self, Matrix<float> centroids, const std::string& isa) {
            expect(centroids.shape(0) > 0 && centroids.shape(1) > 0, "no centroids");
            expect(centroids.shape(0) < (size_t{1} << 31), "too many centroids");
            const saec::Kernels& kernels = kernels_named(isa);
            new (self) saec::NearestCentroid(centroids.data(), centroids.shape(0),
                                             centroids.shape(1), kernels);
          },
          nb::arg("centroids"), nb::arg("isa") = "auto")
      .def(
          "search",
          [](const saec::NearestCentroid& self, Matrix<float> rows, OutVector<int32_t> nearest,
             float radius_share, int threads) {
            expect(rows.shape(1) == self.dim(), "rows and centroids differ in dim");
            expect(nearest.shape(0) == rows.shape(0), "rows and nearest differ in length");
            expect(rows.shape(0) < (size_t{1} << 31), "too many rows in one block");
            nb::gil_scoped_release release;
            const size_t work = rows.shape(0) * self.count() * self.dim();
            self.search(rows.data(), rows.shape(0), radius_share, thread_count(threads, work),
                        nearest.data());
          },
          nb::arg("rows"), nb::arg("nearest").noconvert(), nb::arg("radius_share") = 1.0f,
          nb::arg("threads") = 0);

  module.def(
      "accumulate",
      [](Matrix<float> rows, Vector<double> weights, Vector<int32_t> nearest,
         Matrix<float> centroids, OutMatrix<double> sums, OutVector<double> totals,
         OutVector<double> distortion, int threads) {
        const size_t count = rows.shape(0), dim = rows.shape(1), clusters = centroids.shape(0);
        expect(weights.shape(0) == count && nearest.shape(0) == count, "lengths differ");
        expect(centroids.shape(1) == dim && sums.shape(1) == dim, "dims differ");
        expect(sums.shape(0) == clusters && totals.shape(0) == clusters &&
                   distortion.shape(0) == clusters, "cluster counts differ");
        for (size_t i = 0; i < count; ++i)
          expect(nearest.data()[i] >= 0 && static_cast<size_t>(nearest.data()[i]) < clusters,
                 "assignment outside the clusters");
        nb::gil_scoped_release release;
        saec::accumulate(rows.data(), weights.data(), nearest.data(), count, centroids.data(), dim,
                         sums.data(), totals.data(), distortion.data(),
                         thread_count(threads, count * dim));
      },
      nb::arg("rows"), nb::arg("weights"), nb::arg("nearest"), nb::arg("centroids"),
      nb::arg("sums").noconvert(), nb::arg("totals").noconvert(),
      nb::arg("distortion").noconvert(), nb::arg("threads") = 0);

  module.def(
      "draw_seeds",
      [](Matrix<float> rows, Vector<double> weights, Vector<double> uniforms,
         OutVector<int64_t> chosen) {
        expect(weights.shape(0) == rows.shape(0), "rows and weights differ in length");
        expect(uniforms.shape(0) == chosen.shape(0), "uniforms and chosen differ in length");
        expect(rows.shape(0) > 0 && rows.shape(0) < (size_t{1} << 31), "no rows, or too many");
        nb::gil_scoped_release release;
        saec::PlusPlusSeeding seeding(rows.data(), weights.data(), rows.shape(0), rows.shape(1));
        return seeding.draw(uniforms.data(), chosen.shape(0), chosen.data());
      },
      nb::arg("rows"), nb::arg("weights"), nb::arg("uniforms"),
      nb::arg("chosen").noconvert());

  module.def("packed_bytes", &saec::packed_bytes, nb::arg("count"), nb::arg("bits"));

  module.def(
      "pack_codes",
      [](Vector<uint32_t> codes, unsigned bits, OutVector<uint8_t> data) {
        expect(bits >= 1 && bits <= 32, "code_bits must lie in 1..32");
        expect(data.shape(0) >= saec::packed_bytes(codes.shape(0), bits), "data is too short");
        for (size_t i = 0; i < codes.shape(0); ++i)
          expect((static_cast<uint64_t>(codes.data()[i]) >> bits) == 0, "a code needs more bits");
        nb::gil_scoped_release release;
        saec::pack_codes(codes.data(), codes.shape(0), bits, data.data());
      },
      nb::arg("codes"), nb::arg("bits"), nb::arg("data").noconvert());

  module.def(
      "unpack_codes",
      [](Vector<uint8_t> data, unsigned bits, OutVector<uint32_t> codes) {
        expect_packed(data, codes.shape(0), bits);
        nb::gil_scoped_release release;
        saec::unpack_codes(data.data(), bits, codes.shape(0), codes.data());
      },
      nb::arg("data"), nb::arg("bits"), nb::arg("codes").noconvert());

  module.def(
      "gather_codes",
      [](Vector<uint8_t> data, unsigned bits, size_t count, Vector<int64_t> ids,
         OutVector<uint32_t> codes) {
        expect_packed(data, count, bits);
        expect(ids.shape(0) == codes.shape(0), "ids and codes differ in length");
        expect(saec::first_outside(ids.data(), ids.shape(0), count) == ids.shape(0),
               "id out of range");
        nb::gil_scoped_release release;
        saec::gather_codes(data.data(), bits, ids.data(), ids.shape(0), codes.data());
      },
      nb::arg("data"), nb::arg("bits"), nb::arg("count"), nb::arg("ids"),
      nb::arg("codes").noconvert());

  module.def(
      "first_outside",
      [](Vector<int64_t> ids, size_t limit) {
        return saec::first_outside(ids.data(), ids.shape(0), limit);
      },
      nb::arg("ids"), nb::arg("limit"));
}
