// The one place where C++ meets Python. Callers in Python have checked shapes and ids; what is
// checked here protects memory. Buffers to write to are never converted: a copy would be written.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>
#include <omp.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <system_error>
#include <tuple>
#include <vector>

#include "accumulate.h"
#include "codes.h"
#include "lookup.h"
#include "mapping.h"
#include "nearest.h"
#include "scalar.h"
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

saec::RowLayout row_layout(const Vector<uint32_t>& widths) {
  for (size_t j = 0; j < widths.shape(0); ++j)
    expect(widths.data()[j] <= 32, "widths must lie in 0..32");
  return saec::RowLayout(widths.data(), widths.shape(0));
}

void expect_borders(const Vector<int64_t>& borders, size_t count) {
  expect(borders.shape(0) >= 2, "no borders");
  expect(borders.data()[0] == 0, "borders start at 0");
  for (size_t j = 1; j < borders.shape(0); ++j)
    expect(borders.data()[j - 1] < borders.data()[j], "borders must ascend");
  expect(static_cast<size_t>(borders.data()[borders.shape(0) - 1]) == count,
         "borders end with the values");
}

saec::Scalars scalars_of(const Vector<float>& values, const Matrix<double>& sums, double centre) {
  static_assert(sizeof(saec::Moments) == 3 * sizeof(double));
  expect(values.shape(0) > 0, "no values");
  expect(sums.shape(0) == values.shape(0) + 1 && sums.shape(1) == 3,
         "values and sums differ in length");
  return {values.data(), reinterpret_cast<const saec::Moments*>(sums.data()), values.shape(0),
          centre};
}

// A table for lookups, and the arrays that it reads.
struct BoundTable {
  saec::Table table;
  Vector<uint8_t> codes;
  Vector<uint8_t> vectors;
  Matrix<uint8_t> stored;
  std::vector<float> own;  // stored rows that were decoded once
};

uint64_t whole(int64_t number) {
  expect(number >= 0, "a count or place is negative");
  return static_cast<uint64_t>(number);
}

void set_codes(const Vector<uint8_t>& codes, BoundTable& bound) {
  bound.codes = codes;
  bound.table.codes = codes.data();
  bound.table.code_bytes = codes.shape(0);
}

// firsts and so on of rows [first, next) with codes from first_byte on.
void expect_codes(uint64_t rows, uint64_t row_bits, uint64_t first_byte, uint64_t held) {
  if (row_bits == 0) return;
  expect(first_byte <= held && saec::packed_bytes(rows, row_bits) <= held - first_byte,
         "codes are too short");
}

void set_levels(const Matrix<int64_t>& levels, const std::vector<uint64_t>& first_ranks,
                BoundTable& bound) {
  constexpr uint64_t kBits = 512, kBytes = 68;
  saec::Table& table = bound.table;
  uint64_t left = table.rows, byte = 0;
  for (size_t i = 0; i < levels.shape(0); ++i) {
    const uint64_t tier = whole(levels.data()[i]);
    expect(tier < first_ranks.size(), "no such tier");
    const uint64_t next = tier + 1 < first_ranks.size() ? first_ranks[tier + 1] : table.rows;
    const uint64_t rows = next - first_ranks[tier];
    expect(rows <= left, "a tier is listed twice");
    if (i + 1 == levels.shape(0)) {
      table.last_first_rank = first_ranks[tier];
      table.last_rows = rows;
      expect(left == rows, "tiers are missing");
    } else {
      const uint64_t bytes = (left + kBits - 1) / kBits * kBytes;
      expect(bytes <= bound.vectors.shape(0) - byte, "tier vectors are too short");
      table.levels.push_back({first_ranks[tier], rows, left, bound.vectors.data() + byte});
      byte += bytes;
    }
    left -= rows;
  }
}

// tiers: (tiers, 2) first rank, first byte; parts: (parts, 5) tier, kind, bits, axes, first value;
// axes: (rank + 1, dim), the mean last; levels: the tiers in the order of their vectors, or none.
BoundTable* table_of_tiers(int64_t rows, const Vector<uint8_t>& codes,
                           const Matrix<int64_t>& tiers, const Matrix<int64_t>& parts,
                           const Vector<float>& values, const Matrix<float>& axes,
                           const Vector<uint8_t>& vectors, const Matrix<int64_t>& levels,
                           const Vector<int64_t>& pads, const Matrix<float>& pad_rows) {
  expect(tiers.shape(1) == 2 && parts.shape(1) == 5, "tiers have 2 columns, parts 5");
  expect(tiers.shape(0) > 0 && axes.shape(0) > 0 && axes.shape(1) > 0, "no tiers, or no mean");
  expect(levels.shape(1) == 1, "levels have 1 column");
  auto bound = std::make_unique<BoundTable>();
  saec::Table& table = bound->table;
  set_codes(codes, *bound);
  bound->vectors = vectors;
  table.rows = whole(rows);
  table.dim = axes.shape(1);
  table.rank = axes.shape(0) - 1;
  table.axes.assign(axes.data(), axes.data() + table.rank * table.dim);
  table.values.assign(values.data(), values.data() + values.shape(0));
  std::vector<uint64_t> first_ranks, first_bytes, row_bits(tiers.shape(0)), rank(tiers.shape(0));
  for (size_t i = 0; i < tiers.shape(0); ++i) {
    first_ranks.push_back(whole(tiers.data()[2 * i]));
    first_bytes.push_back(whole(tiers.data()[2 * i + 1]));
    expect(first_ranks[i] == (i == 0 ? 0 : uint64_t{64} << 2 * (i - 1)), "not a tier's first rank");
    expect(first_ranks[i] < table.rows, "a tier has no rows");
  }
  const size_t count = first_ranks.size();
  expect(count < 30 && table.rows <= uint64_t{64} << 2 * (count - 1), "a tier is missing");
  std::vector<saec::TierPart> tier_parts;
  for (size_t i = 0; i < parts.shape(0); ++i) {
    const int64_t* row = parts.data() + 5 * i;
    const saec::TierPart part{static_cast<uint32_t>(row[0]), static_cast<uint32_t>(row[1]),
                              static_cast<uint32_t>(row[2]), static_cast<uint32_t>(row[3]),
                              whole(row[4])};
    expect(part.tier < tiers.shape(0) && (i == 0 || tier_parts.back().tier <= part.tier),
           "parts are out of order");
    expect(part.bits <= 16 && part.axes < (1 << 16) && part.kind <= 2, "not a part");
    expect(part.kind != saec::TierPart::kGrid || part.axes == 1, "not a part");
    const uint64_t taken = part.kind == saec::TierPart::kNone   ? 0
                           : part.kind == saec::TierPart::kGrid ? 2
                                                                : uint64_t{part.axes} << part.bits;
    expect(part.first <= values.shape(0) && taken <= values.shape(0) - part.first,
           "values are too short");
    row_bits[part.tier] += part.bits;
    rank[part.tier] += part.axes;
    expect(rank[part.tier] <= table.rank, "parts cover more axes than there are");
    tier_parts.push_back(part);
  }
  for (size_t i = 0; i < tiers.shape(0); ++i) {
    const uint64_t next = i + 1 < tiers.shape(0) ? first_ranks[i + 1] : table.rows;
    expect_codes(next - first_ranks[i], row_bits[i], first_bytes[i], codes.shape(0));
  }
  if (levels.shape(0) > 0) set_levels(levels, first_ranks, *bound);
  saec::prepare_tiers(first_ranks, first_bytes, tier_parts,
                      axes.data() + table.rank * table.dim, table, bound->own);
  expect(pad_rows.shape(0) == pads.shape(0), "pads and their rows differ in length");
  expect(pads.shape(0) == 0 || pad_rows.shape(1) == table.dim, "pads and rows differ in dim");
  for (size_t i = 0; i < pads.shape(0); ++i) {
    table.pads.push_back(whole(pads.data()[i]));
    table.pad_rows.push_back(table.stored_rows++);
  }
  bound->own.insert(bound->own.end(), pad_rows.data(), pad_rows.data() + pad_rows.size());
  table.stored = bound->own.data();
  return bound.release();
}

// runs: (runs, 5) first rank, bits of a code, first bit, first stored row, whether each row is
// stored by itself. stored: (stored rows, bytes of one). grid: (2, width), axes: (width + 1, dim),
// both for int8 only; axes without rows: coordinates are the row.
BoundTable* table_of_runs(int64_t rows, const Vector<uint8_t>& codes, const Matrix<int64_t>& runs,
                          const Matrix<uint8_t>& stored, int element, const Matrix<float>& grid,
                          const Matrix<double>& axes, const Vector<int64_t>& pads,
                          const Vector<int64_t>& pad_rows) {
  expect(runs.shape(1) == 5 && runs.shape(0) > 0, "runs have 5 columns");
  expect(0 <= element && element <= 3, "no such element");
  auto bound = std::make_unique<BoundTable>();
  saec::Table& table = bound->table;
  set_codes(codes, *bound);
  bound->stored = stored;
  table.rows = whole(rows);
  table.element = static_cast<saec::Element>(element);
  const size_t size = element == 0 ? 4 : element == 3 ? 1 : 2;
  expect(stored.shape(1) > 0 && stored.shape(1) % size == 0, "stored rows are cut short");
  table.stored = stored.data();
  table.stored_rows = stored.shape(0);
  table.width = stored.shape(1) / size;
  table.dim = table.width;
  expect((element == 3) == (grid.shape(0) == 2), "int8 rows, and no others, have a grid");
  if (element == 3) {
    expect(grid.shape(1) == table.width, "the grid differs in width");
    table.frame.scale.assign(grid.data(), grid.data() + table.width);
    table.frame.offset.assign(grid.data() + table.width, grid.data() + 2 * table.width);
  }
  if (axes.shape(0) > 0) {
    expect(element == 3 && axes.shape(0) == table.width + 1 && axes.shape(1) > 0,
           "int8 rows, and no others, have axes");
    table.dim = axes.shape(1);
    table.frame.axes.assign(axes.data(), axes.data() + axes.size());
  }
  bool beyond = false;
  for (size_t i = 0; i < runs.shape(0); ++i) {
    const int64_t* row = runs.data() + 5 * i;
    const uint64_t first = whole(row[0]), bits = whole(row[1]), first_bit = whole(row[2]);
    const uint64_t next = i + 1 < runs.shape(0) ? whole(row[runs.shape(1)]) : table.rows;
    expect(bits <= 32 && first_bit % 8 == 0, "not a run");
    expect(first < next && (i > 0 || first == 0), "runs must ascend from 0");
    expect_codes(next - first, bits, first_bit / 8, codes.shape(0));
    table.any_codes |= bits > 0;
    const bool own = row[4] != 0;
    expect(!own || bits == 0, "not a run");
    table.runs.push_back({first, bits, bits ? first_bit - first * bits : 0,
                          (uint64_t{1} << bits) - 1, whole(row[3]) - (own ? first : 0),
                          own ? ~uint64_t{0} : 0, 0, 0, 0, 0});
    const uint64_t stored_first = whole(row[3]), most = own ? next - first : uint64_t{1} << bits;
    beyond |= stored_first > table.stored_rows || most > table.stored_rows - stored_first;
  }
  table.any_beyond = beyond;
  expect(pads.shape(0) == pad_rows.shape(0), "pads and their rows differ in length");
  for (size_t i = 0; i < pads.shape(0); ++i) {
    table.pads.push_back(whole(pads.data()[i]));
    table.pad_rows.push_back(whole(pad_rows.data()[i]));
    expect(table.pad_rows.back() < table.stored_rows, "no stored row for a pad");
  }
  return bound.release();
}

// Where some numbers are and, for some of them, what they were, to see whether they still are. Of
// many, some are compared: what goes behind autograd's back changes all of them.
class Watch {
 public:
  // sizes: bytes at each address that are remembered; 0 where the place alone matters.
  Watch(std::vector<uintptr_t> addresses, const std::vector<size_t>& sizes)
      : addresses_(std::move(addresses)) {
    expect(addresses_.size() == sizes.size(), "addresses and sizes differ in length");
    for (size_t i = 0; i < sizes.size(); ++i) {
      const auto* first = reinterpret_cast<const uint8_t*>(addresses_[i]);
      held_.emplace_back(first, first + sizes[i]);
    }
  }

  static constexpr size_t kPieces = 4, kPiece = 64;

  bool holds(const std::vector<uintptr_t>& addresses) const {
    if (addresses != addresses_) return false;
    for (size_t i = 0; i < held_.size(); ++i) {
      const auto* now = reinterpret_cast<const uint8_t*>(addresses_[i]);
      const size_t size = held_[i].size();
      const size_t step = size <= kPieces * kPiece ? kPiece : (size - kPiece) / (kPieces - 1);
      for (size_t at = 0; at < size; at += step)
        if (std::memcmp(held_[i].data() + at, now + at, std::min(kPiece, size - at)) != 0)
          return false;
    }
    return true;
  }

 private:
  std::vector<uintptr_t> addresses_;
  std::vector<std::vector<uint8_t>> held_;
};

// At most so many (0: as many as there are), and no more than are worth starting.
int lookup_threads(int threads, size_t ids) {
  constexpr size_t kWorth = size_t{1} << 13;
  const auto most = static_cast<size_t>(threads > 0 ? threads : omp_get_max_threads());
  return static_cast<int>(std::min(most, 1 + ids / kWorth));
}

constexpr size_t kBrief = 64;  // ids

using RequestTuple = std::tuple<const BoundTable*, uintptr_t, bool, size_t, uintptr_t, size_t,
                                uintptr_t, int, int64_t, uintptr_t, size_t>;

// Addresses are not checked: the caller knows that they hold what they are said to hold.
saec::Request request_of(const RequestTuple& given) {
  const auto& [bound, ids, wide, count, offsets, bags, weights, mode, skipped, out, stride] = given;
  return {&bound->table,
          reinterpret_cast<const void*>(ids),
          wide,
          count,
          reinterpret_cast<const int64_t*>(offsets),
          bags,
          reinterpret_cast<const float*>(weights),
          static_cast<saec::Mode>(mode),
          skipped,
          reinterpret_cast<uint8_t*>(out),
          stride,
          1};
}

const saec::Kernels& kernels_named(const std::string& name) {
  const saec::Kernels* kernels = saec::choose_kernels(name.c_str());
  if (!kernels) throw std::invalid_argument("this processor has no instruction set " + name);
  return *kernels;
}

}  // namespace

NB_MODULE(_native, module) {
  nb::set_leak_warnings(false);  // tables that live until the interpreter ends are no leak
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

  module.def("packed_bytes", &saec::packed_bytes, nb::arg("count"), nb::arg("row_bits"));

  module.def(
      "pack_codes",
      [](std::vector<Vector<uint32_t>> codes, Vector<uint32_t> widths, OutVector<uint8_t> data,
         int threads) {
        const saec::RowLayout layout = row_layout(widths);
        expect(codes.size() == layout.parts, "codes and widths differ in length");
        const size_t count = codes.empty() ? 0 : codes[0].shape(0);
        expect(data.shape(0) >= saec::packed_bytes(count, layout.bits), "data is too short");
        std::vector<const uint32_t*> parts;
        for (size_t j = 0; j < layout.parts; ++j) {
          expect(codes[j].shape(0) == count, "parts differ in length");
          uint64_t used = 0;
          for (size_t i = 0; i < count; ++i) used |= codes[j].data()[i];
          expect((used >> widths.data()[j]) == 0, "a code needs more bits");
          parts.push_back(codes[j].data());
        }
        nb::gil_scoped_release release;
        saec::pack_codes(parts.data(), layout, count,
                         thread_count(threads, count * layout.parts * 2), data.data());
      },
      nb::arg("codes"), nb::arg("widths"), nb::arg("data").noconvert(), nb::arg("threads") = 0);

  module.def(
      "unpack_codes",
      [](Vector<uint8_t> data, Vector<uint32_t> widths, OutMatrix<uint32_t> codes, int threads) {
        const saec::RowLayout layout = row_layout(widths);
        const size_t count = codes.shape(0);
        expect(codes.shape(1) == layout.parts, "codes and widths differ in length");
        expect(data.shape(0) >= saec::packed_bytes(count, layout.bits),
               "packed codes are too short");
        nb::gil_scoped_release release;
        saec::gather_codes(data.data(), layout, [](size_t i) { return i; }, count,
                           thread_count(threads, count * layout.parts * 2), codes.data());
      },
      nb::arg("data"), nb::arg("widths"), nb::arg("codes").noconvert(), nb::arg("threads") = 0);

  module.def(
      "gather_codes",
      [](Vector<uint8_t> data, Vector<uint32_t> widths, size_t count, Vector<int64_t> ids,
         OutMatrix<uint32_t> codes, int threads) {
        const saec::RowLayout layout = row_layout(widths);
        expect(codes.shape(1) == layout.parts, "codes and widths differ in length");
        expect(data.shape(0) >= saec::packed_bytes(count, layout.bits),
               "packed codes are too short");
        expect(ids.shape(0) == codes.shape(0), "ids and codes differ in length");
        expect(saec::first_outside(ids.data(), ids.shape(0), count) == ids.shape(0),
               "id out of range");
        nb::gil_scoped_release release;
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
        expect(count > 0, "no values");
        expect(weights.shape(0) == count, "values and weights differ in length");
        expect(sums.shape(0) == count + 1 && sums.shape(1) == 3, "values and sums differ in length");
        nb::gil_scoped_release release;
        return saec::sum_scalars(values.data(), weights.data(), count,
                                 reinterpret_cast<saec::Moments*>(sums.data()));
      },
      nb::arg("values"), nb::arg("weights"), nb::arg("sums").noconvert());

  module.def(
      "split_scalars",
      [](Vector<float> values, Matrix<double> sums, double centre, OutVector<int64_t> borders) {
        const saec::Scalars scalars = scalars_of(values, sums, centre);
        expect(borders.shape(0) >= 2, "no borders");
        nb::gil_scoped_release release;
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
        expect(sizes.shape(0) > 0, "no sizes");
        size_t wanted = 0;
        for (size_t s = 0; s < sizes.shape(0); ++s) {
          const auto size = static_cast<size_t>(sizes.data()[s]);
          expect(size >= 1 && size <= runs, "sizes must lie in 1..runs");
          wanted += size + 1;
        }
        expect(partitions.shape(0) == wanted, "sizes and partitions differ in length");
        nb::gil_scoped_release release;
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
        expect(centers.shape(0) + 1 == borders.shape(0), "borders and centers differ in length");
        nb::gil_scoped_release release;
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
        expect(clusters > 0 && clusters < (size_t{1} << 31), "no centers, or too many");
        expect(nearest.shape(0) == values.shape(0), "values and nearest differ in length");
        nb::gil_scoped_release release;
        saec::nearest_scalars(values.data(), values.shape(0), centers.data(), clusters,
                              thread_count(threads, values.shape(0) * 4), nearest.data());
      },
      nb::arg("values"), nb::arg("centers"), nb::arg("nearest").noconvert(),
      nb::arg("threads") = 0);

  nb::class_<saec::Mapping>(module, "Mapping")
      .def(nb::init<size_t>(), nb::arg("nbytes"))
      .def("add", &saec::Mapping::add, nb::arg("descriptor"), nb::arg("first"), nb::arg("nbytes"))
      .def("array", [](const nb::object& self) {
        const auto& mapping = nb::cast<const saec::Mapping&>(self);
        expect(mapping.whole(), "pieces are missing");
        return nb::ndarray<nb::numpy, const uint8_t, nb::ndim<1>>(mapping.data(), {mapping.size()},
                                                                  self);
      });

  nb::class_<BoundTable>(module, "LookupTable")
      .def_prop_ro("rows", [](const BoundTable& self) { return self.table.rows; })
      .def_prop_ro("dim", [](const BoundTable& self) { return self.table.dim; })
      .def_prop_ro("stored_rows", [](const BoundTable& self) { return self.table.stored_rows; });
  nb::class_<Watch>(module, "Watch")
      .def(nb::init<std::vector<uintptr_t>, const std::vector<size_t>&>(), nb::arg("addresses"),
           nb::arg("sizes"))
      .def("holds", &Watch::holds, nb::arg("addresses"));
  module.def("table_of_tiers", &table_of_tiers, nb::arg("rows"), nb::arg("codes"),
             nb::arg("tiers"), nb::arg("parts"), nb::arg("values"), nb::arg("axes"),
             nb::arg("vectors"), nb::arg("levels"), nb::arg("pads"), nb::arg("pad_rows"),
             nb::rv_policy::take_ownership);
  module.def("table_of_runs", &table_of_runs, nb::arg("rows"), nb::arg("codes"), nb::arg("runs"),
             nb::arg("stored"), nb::arg("element"), nb::arg("grid"), nb::arg("axes"),
             nb::arg("pads"), nb::arg("pad_rows"), nb::rv_policy::take_ownership);
  // Rows of one field; 0, or what was wrong.
  module.def(
      "lookup",
      [](const BoundTable& bound, uintptr_t ids, bool wide, ptrdiff_t id_stride, size_t count,
         uintptr_t out, int element, int threads) {
        const saec::LookupKernels* kernels = saec::choose_lookup("auto");
        const auto type = static_cast<saec::Element>(element);
        saec::Request request = request_of(
            {&bound, ids, wide, count, 0, count, 0, 0, -1, out,
             bound.table.dim * (type == saec::Element::kFloat32 ? 4 : 2)});
        request.id_stride = id_stride;
        const int used = lookup_threads(threads, count);
        if (used == 1 && count < kBrief)  // handing the interpreter over takes as long
          return static_cast<int>(kernels->pool(request, 0, count, type).fault);
        nb::gil_scoped_release release;
        return static_cast<int>(saec::pool({request}, type, used, *kernels).fault);
      },
      nb::arg("table"), nb::arg("ids"), nb::arg("wide"), nb::arg("id_stride"), nb::arg("count"),
      nb::arg("out"),
      nb::arg("element"), nb::arg("threads"));
  module.def(
      "pool",
      [](const std::vector<RequestTuple>& given, int out, int threads, const std::string& isa) {
        const saec::LookupKernels* kernels = saec::choose_lookup(isa.c_str());
        if (!kernels) throw std::invalid_argument("this processor has no instruction set " + isa);
        std::vector<saec::Request> requests;
        size_t total = 0;
        for (const RequestTuple& tuple : given) {
          expect(std::get<0>(tuple) != nullptr, "no table");
          requests.push_back(request_of(tuple));
          total += requests.back().count;
        }
        const int used = lookup_threads(threads, total);
        nb::gil_scoped_release release;
        const saec::Failure failure =
            saec::pool(requests, static_cast<saec::Element>(out), used, *kernels);
        return std::make_tuple(static_cast<int>(failure.fault), failure.request, failure.position);
      },
      nb::arg("requests"), nb::arg("out"), nb::arg("threads") = 0, nb::arg("isa") = "auto");
}
