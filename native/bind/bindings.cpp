// Python bindings of the core's functions; see bindings.h.
#include "bind/bindings.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <bit>
#include <cerrno>
#include <string>
#include <system_error>

#include "nearest/accumulate.h"
#include "codes/codes.h"
#include "system/mapping.h"
#include "nearest/nearest.h"
#include "nearest/columns.h"
#include "nearest/scalar.h"
#include "nearest/seeding.h"

namespace {

// The caller's number of threads or, by default, one for each kWorth multiply-adds: with little work, threads wait for
// each other longer than they work, much longer on a busy machine. work: approximate number of multiply-adds.
int thread_count(int threads, size_t work) {
  constexpr size_t kWorth = size_t{1} << 20;
  return used_threads(threads, threads > 0 ? saec::Workers::kMostThreads : 1 + work / kWorth);
}

template <typename Array>
void expect_shape(const Array& array, size_t rows, size_t columns, const char* name) {
  expect(array.shape(0) == rows && array.shape(1) == columns, name, " must be of shape (", rows, ", ", columns,
         "), not (", array.shape(0), ", ", array.shape(1), ")");
}

// Checks that `held` bytes hold the packed codes of `count` rows.
void expect_packed(size_t held, size_t count, const saec::RowLayout& layout) {
  const size_t needed = saec::packed_bytes(count, layout.bits);
  expect(held >= needed, count, " rows of packed codes take ", needed, " bytes, there are ", held);
}

saec::RowLayout row_layout(const Vector<uint32_t>& widths) {
  for (size_t j = 0; j < widths.shape(0); ++j)
    expect(widths.data()[j] <= 32, "widths must lie in 0..32: width ", j, " is ", widths.data()[j]);
  return saec::RowLayout(widths.data(), widths.shape(0));
}

void expect_borders(const Vector<int64_t>& borders, size_t count) {
  expect(borders.shape(0) >= 2, "there must be 2 or more borders, not ", borders.shape(0));
  expect(borders.data()[0] == 0, "borders start at 0, not at ", borders.data()[0]);
  for (size_t j = 1; j < borders.shape(0); ++j)
    expect(borders.data()[j - 1] < borders.data()[j], "borders must ascend: at position ", j, " ",
           borders.data()[j - 1], ", then ", borders.data()[j]);
  expect_equal(borders.data()[borders.shape(0) - 1], count, "the last border and the number of values differ");
}

// sums have one more row than there are values, and 3 columns.
void expect_sums(size_t values, size_t rows, size_t columns) {
  expect(values > 0, "there are no values");
  expect(rows == values + 1 && columns == 3, "sums of ", values, " values are of shape (", values + 1,
         ", 3), not (", rows, ", ", columns, ")");
}

saec::Scalars scalars_of(const Vector<float>& values, const Matrix<double>& sums, double centre) {
  static_assert(sizeof(saec::Moments) == 3 * sizeof(double));
  expect_sums(values.shape(0), sums.shape(0), sums.shape(1));
  return {values.data(), reinterpret_cast<const saec::Moments*>(sums.data()), values.shape(0),
          centre};
}

const saec::Kernels& kernels_named(const std::string& name) {
  const saec::Kernels* kernels = saec::choose_kernels(name.c_str());
  expect(kernels != nullptr, "this processor has no instruction set ", saec::wanted_simd(name.c_str()));
  return *kernels;
}

}  // namespace

NB_MODULE(_native, module) {
  nb::set_leak_warnings(false);  // tables that exist until the interpreter ends are not leaks
  nb::register_exception_translator([](const std::exception_ptr& thrown, void*) {
    try {
      std::rethrow_exception(thrown);
    } catch (const std::system_error& error) {
      errno = error.code().value();
      PyErr_SetFromErrno(PyExc_OSError);
    }
  });

  nb::class_<saec::NearestCentroid>(module, "NearestCentroid")
      .def(
          "__init__",
          [](saec::NearestCentroid* self, Matrix<float> centroids, const std::string& isa,
             size_t groups) {
            expect(centroids.shape(0) > 0 && centroids.shape(1) > 0, "centroids of shape (",
                   centroids.shape(0), ", ", centroids.shape(1), ") are empty");
            expect(centroids.shape(0) < (size_t{1} << 31), centroids.shape(0),
                   " centroids are too many: fewer than 2^31");
            const saec::Kernels& kernels = kernels_named(isa);
            const WithoutGil released;
            new (self) saec::NearestCentroid(centroids.data(), centroids.shape(0),
                                             centroids.shape(1), kernels, groups);
          },
          nb::arg("centroids"), nb::arg("isa") = "auto", nb::arg("groups") = 0)
      .def(
          "search",
          [](const saec::NearestCentroid& self, Matrix<float> rows, OutVector<int32_t> nearest,
             float radius_share, int threads) {
            expect_equal(rows.shape(1), self.dim(), "rows and centroids differ in dim");
            expect_equal(rows.shape(0), nearest.shape(0), "rows and nearest differ in length");
            expect(rows.shape(0) < (size_t{1} << 31), rows.shape(0),
                   " rows are too many for one call: fewer than 2^31");
            const WithoutGil released;
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
        expect_equal(weights.shape(0), count, "weights and rows differ in length");
        expect_equal(nearest.shape(0), count, "nearest and rows differ in length");
        expect_equal(centroids.shape(1), dim, "centroids and rows differ in dim");
        expect_equal(sums.shape(1), dim, "sums and rows differ in dim");
        expect_equal(sums.shape(0), clusters, "sums and centroids differ in length");
        expect_equal(totals.shape(0), clusters, "totals and centroids differ in length");
        expect_equal(distortion.shape(0), clusters, "distortion and centroids differ in length");
        for (size_t i = 0; i < count; ++i)
          expect(nearest.data()[i] >= 0 && static_cast<size_t>(nearest.data()[i]) < clusters, "row ", i,
                 " is assigned to cluster ", nearest.data()[i], " of ", clusters);
        const WithoutGil released;
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
        expect_equal(rows.shape(0), weights.shape(0), "rows and weights differ in length");
        expect_equal(uniforms.shape(0), chosen.shape(0), "uniforms and chosen differ in length");
        expect(rows.shape(0) > 0 && rows.shape(0) < (size_t{1} << 31), "there are ", rows.shape(0),
               " rows, not 1 to 2^31 - 1");
        const WithoutGil released;
        saec::PlusPlusSeeding seeding(rows.data(), weights.data(), rows.shape(0), rows.shape(1));
        return seeding.draw(uniforms.data(), chosen.shape(0), chosen.data());
      },
      nb::arg("rows"), nb::arg("weights"), nb::arg("uniforms"),
      nb::arg("chosen").noconvert());

  module.def("packed_bytes", &saec::packed_bytes, nb::arg("count"), nb::arg("row_bits"));

  module.def(
      "pack_codes",
      [](std::vector<Vector<uint32_t>> codes, Vector<uint32_t> widths, OutVector<uint8_t> data,
         int threads) {
        const saec::RowLayout layout = row_layout(widths);
        expect_equal(codes.size(), layout.parts, "codes and widths differ in length");
        const size_t count = codes.empty() ? 0 : codes[0].shape(0);
        expect_packed(data.shape(0), count, layout);
        std::vector<const uint32_t*> parts;
        for (size_t j = 0; j < layout.parts; ++j) {
          expect_equal(codes[j].shape(0), count, "parts differ in length");
          uint64_t used = 0;
          for (size_t i = 0; i < count; ++i) used |= codes[j].data()[i];
          expect((used >> widths.data()[j]) == 0, "a code needs more bits: part ", j, " has codes of ",
                 std::bit_width(used), " bits, its width is ", widths.data()[j]);
          parts.push_back(codes[j].data());
        }
        const WithoutGil released;
        saec::pack_codes(parts.data(), layout, count,
                         thread_count(threads, count * layout.parts * 2), data.data());
      },
      nb::arg("codes"), nb::arg("widths"), nb::arg("data").noconvert(), nb::arg("threads") = 0);

  module.def(
      "unpack_codes",
      [](Vector<uint8_t> data, Vector<uint32_t> widths, OutMatrix<uint32_t> codes, int threads) {
        const saec::RowLayout layout = row_layout(widths);
        const size_t count = codes.shape(0);
        expect_equal(codes.shape(1), layout.parts, "codes and widths differ in length");
        expect_packed(data.shape(0), count, layout);
        const WithoutGil released;
        saec::gather_codes(data.data(), layout, [](size_t i) { return i; }, count,
                           thread_count(threads, count * layout.parts * 2), codes.data());
      },
      nb::arg("data"), nb::arg("widths"), nb::arg("codes").noconvert(), nb::arg("threads") = 0);

  module.def(
      "gather_codes",
      [](Vector<uint8_t> data, Vector<uint32_t> widths, size_t count, Vector<int64_t> ids,
         OutMatrix<uint32_t> codes, int threads) {
        const saec::RowLayout layout = row_layout(widths);
        expect_equal(codes.shape(1), layout.parts, "codes and widths differ in length");
        expect_packed(data.shape(0), count, layout);
        expect_equal(ids.shape(0), codes.shape(0), "ids and codes differ in length");
        const size_t outside = saec::first_outside(ids.data(), ids.shape(0), count);
        if (outside < ids.shape(0))
          refuse("id ", ids.data()[outside], " at position ", outside, " is outside of ", count, " rows");
        const WithoutGil released;
        const auto row_of = [rows = ids.data()](size_t i) { return static_cast<size_t>(rows[i]); };
        saec::gather_codes(data.data(), layout, row_of, ids.shape(0),
                           thread_count(threads, ids.shape(0) * (4 + layout.parts * 2)),
                           codes.data());
      },
      nb::arg("data"), nb::arg("widths"), nb::arg("count"), nb::arg("ids"),
      nb::arg("codes").noconvert(), nb::arg("threads") = 0);

  module.def(
      "first_outside",
      [](Vector<int64_t> ids, size_t limit) {
        return saec::first_outside(ids.data(), ids.shape(0), limit);
      },
      nb::arg("ids"), nb::arg("limit"));

  module.def(
      "sum_scalars",
      [](Vector<float> values, Vector<double> weights, OutMatrix<double> sums) {
        const size_t count = values.shape(0);
        expect_sums(count, sums.shape(0), sums.shape(1));
        expect_equal(count, weights.shape(0), "values and weights differ in length");
        const WithoutGil released;
        return saec::sum_scalars(values.data(), weights.data(), count,
                                 reinterpret_cast<saec::Moments*>(sums.data()));
      },
      nb::arg("values"), nb::arg("weights"), nb::arg("sums").noconvert());

  module.def(
      "split_scalars",
      [](Vector<float> values, Matrix<double> sums, double centre, OutVector<int64_t> borders) {
        const saec::Scalars scalars = scalars_of(values, sums, centre);
        expect(borders.shape(0) >= 2, "there must be 2 or more borders, not ", borders.shape(0));
        const WithoutGil released;
        return saec::split_scalars(scalars, borders.shape(0) - 1, borders.data());
      },
      nb::arg("values"), nb::arg("sums"), nb::arg("centre"), nb::arg("borders").noconvert());

  module.def(
      "partition_scalars",
      [](Vector<float> values, Matrix<double> sums, double centre, Vector<int64_t> borders,
         Vector<int64_t> sizes, OutVector<int64_t> partitions) {
        const saec::Scalars scalars = scalars_of(values, sums, centre);
        expect_borders(borders, values.shape(0));
        const size_t runs = borders.shape(0) - 1;
        expect(sizes.shape(0) > 0, "there are no sizes");
        size_t wanted = 0;
        for (size_t s = 0; s < sizes.shape(0); ++s) {
          const auto size = static_cast<size_t>(sizes.data()[s]);
          expect(size >= 1 && size <= runs, "sizes must lie in 1..", runs, ": size ", s, " is ",
                 sizes.data()[s]);
          wanted += size + 1;
        }
        expect_equal(partitions.shape(0), wanted, "partitions and those of all sizes differ in length");
        const WithoutGil released;
        saec::partition_scalars(scalars, borders.data(), runs, sizes.data(), sizes.shape(0),
                                partitions.data());
      },
      nb::arg("values"), nb::arg("sums"), nb::arg("centre"), nb::arg("borders"), nb::arg("sizes"),
      nb::arg("partitions").noconvert());

  module.def(
      "refine_scalars",
      [](Vector<float> values, Matrix<double> sums, double centre, OutVector<int64_t> borders,
         OutVector<double> centers) {
        const saec::Scalars scalars = scalars_of(values, sums, centre);
        expect_borders(Vector<int64_t>(borders), values.shape(0));
        expect(centers.shape(0) + 1 == borders.shape(0), centers.shape(0), " centers have ",
               centers.shape(0) + 1, " borders, not ", borders.shape(0));
        const WithoutGil released;
        saec::refine_scalars(scalars, centers.shape(0), borders.data(), centers.data());
      },
      nb::arg("values"), nb::arg("sums"), nb::arg("centre"), nb::arg("borders").noconvert(),
      nb::arg("centers").noconvert());

  module.def(
      "scalar_distortion",
      [](Vector<float> values, Matrix<double> sums, double centre, Vector<double> centers) {
        const saec::Scalars scalars = scalars_of(values, sums, centre);
        return saec::scalar_distortion(scalars, centers.data(), centers.shape(0));
      },
      nb::arg("values"), nb::arg("sums"), nb::arg("centre"), nb::arg("centers"));

  module.def(
      "nearest_scalars",
      [](Vector<float> values, Vector<float> centers, OutVector<uint32_t> nearest, int threads) {
        const size_t clusters = centers.shape(0);
        expect(clusters > 0 && clusters < (size_t{1} << 31), "there are ", clusters,
               " centers, not 1 to 2^31 - 1");
        expect_equal(values.shape(0), nearest.shape(0), "values and nearest differ in length");
        const WithoutGil released;
        saec::nearest_scalars(values.data(), values.shape(0), centers.data(), clusters,
                              thread_count(threads, values.shape(0) * 4), nearest.data());
      },
      nb::arg("values"), nb::arg("centers"), nb::arg("nearest").noconvert(),
      nb::arg("threads") = 0);

  module.def(
      "measure_columns",
      [](Matrix<float> columns, Vector<double> weights, Matrix<int64_t> order,
         Vector<int64_t> tables, Vector<int64_t> grid_bits, size_t runs_per_cluster,
         size_t least_runs, OutMatrix<float> values, OutMatrix<double> left, OutMatrix<float> grids,
         OutMatrix<double> grid_left, int threads) {
        const size_t axes = columns.shape(0), count = columns.shape(1);
        const saec::ColumnSizes sizes{tables.data(),      tables.shape(0),  grid_bits.data(),
                                      grid_bits.shape(0), runs_per_cluster, least_runs};
        expect_equal(count, weights.shape(0), "columns and weights differ in length");
        expect_shape(order, axes, count, "order");
        size_t width = 1;
        for (size_t t = 0; t < sizes.table_count; ++t) {
          expect(sizes.tables[t] >= 1, "table ", t, " has size ", sizes.tables[t], ", not 1 or more");
          width += static_cast<size_t>(sizes.tables[t]);
        }
        for (size_t g = 0; g < sizes.grid_count; ++g)
          expect(sizes.grid_bits[g] >= 1 && sizes.grid_bits[g] <= 16, "grid ", g, " has ",
                 sizes.grid_bits[g], " bits, not 1..16");
        for (size_t i = 0; i < axes * count; ++i)
          expect(order.data()[i] >= 0 && static_cast<size_t>(order.data()[i]) < count, "order names row ",
                 order.data()[i], " of ", count);
        expect_shape(values, axes, width, "values");
        expect_shape(left, axes, 2 + sizes.table_count, "left");
        expect_shape(grids, axes, 2 * sizes.grid_count, "grids");
        expect_shape(grid_left, axes, sizes.grid_count, "grid_left");
        std::vector<saec::ColumnOut> outs;
        for (size_t axis = 0; axis < axes; ++axis)
          outs.push_back({values.data() + axis * width, left.data() + axis * left.shape(1),
                          grids.data() + axis * grids.shape(1),
                          grid_left.data() + axis * grid_left.shape(1)});
        const WithoutGil released;
        saec::measure_columns(columns.data(), weights.data(), order.data(), axes, count, sizes,
                              thread_count(threads, axes * count * 16), outs);
      },
      nb::arg("columns"), nb::arg("weights"), nb::arg("order"), nb::arg("tables"),
      nb::arg("grid_bits"), nb::arg("runs_per_cluster"), nb::arg("least_runs"),
      nb::arg("values").noconvert(), nb::arg("left").noconvert(), nb::arg("grids").noconvert(),
      nb::arg("grid_left").noconvert(), nb::arg("threads") = 0);

  nb::class_<saec::Mapping>(module, "Mapping")
      .def(nb::init<size_t>(), nb::arg("nbytes"))
      .def("add", &saec::Mapping::add, nb::arg("descriptor"), nb::arg("first"), nb::arg("nbytes"))
      .def("array", [](const nb::object& self) {
        const auto& mapping = nb::cast<const saec::Mapping&>(self);
        expect(mapping.whole(), "pieces are missing: they do not fill the ", mapping.size(), " bytes");
        return nb::ndarray<nb::numpy, const uint8_t, nb::ndim<1>>(mapping.data(), {mapping.size()},
                                                                  self);
      });

  module.def("usable_cores", &saec::usable_cores);
  module.def("default_threads", &saec::default_threads);
  module.def("use_calling_thread", &saec::Workers::use_calling_thread);
  module.def("quota_cores", &saec::quota_cores, nb::arg("root") = "");

  bind_cold(module);
  bind_keyed(module);
  bind_keys(module);
  bind_lookups(module);
  bind_shortcuts(module);
  bind_symbols(module);
}
