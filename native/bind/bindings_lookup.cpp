// Python bindings of tables for lookups, and of lookups whose arrays are given by address.
#include "bind/bindings.h"

#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <string>
#include <tuple>

#include "codes/codes.h"
#include "cold/cold_lookup.h"

namespace {

uint64_t whole(int64_t number) {
  expect(number >= 0, "a count or place is negative: ", number);
  return static_cast<uint64_t>(number);
}

void set_codes(const Vector<uint8_t>& codes, BoundTable& bound) {
  bound.codes = codes;
  bound.table.codes = codes.data();
  bound.table.code_bytes = codes.shape(0);
}

// Checks that the codes of `rows` rows from first_byte on are within the `held` bytes of codes.
void expect_codes(uint64_t rows, uint64_t row_bits, uint64_t first_byte, uint64_t held) {
  if (row_bits == 0) return;
  expect(first_byte <= held && saec::packed_bytes(rows, row_bits) <= held - first_byte,
         "codes are too short: ", held, " bytes do not hold ", rows, " rows of ", row_bits, " bits from byte ",
         first_byte, " on");
}

// The starts of all tiers; checks that those of each tier are within it and ascend.
std::vector<uint64_t> checked_starts(const Vector<int64_t>& starts,
                                     const std::vector<uint32_t>& ordered_bits,
                                     const std::vector<uint64_t>& first_ranks, uint64_t rows) {
  std::vector<uint64_t> found;
  for (size_t tier = 0; tier < ordered_bits.size(); ++tier) {
    uint64_t least = first_ranks[tier];
    const uint64_t most = tier + 1 < first_ranks.size() ? first_ranks[tier + 1] : rows;
    for (uint64_t code = 1; code < uint64_t{1} << ordered_bits[tier]; ++code) {
      expect(found.size() < starts.shape(0), "starts are missing: there are ", starts.shape(0),
             ", tier ", tier, " needs more");
      const uint64_t start = whole(starts.data()[found.size()]);
      expect(least <= start && start <= most, "starts do not ascend within tier ", tier, ": ", start,
             " is not within ", least, "..", most);
      found.push_back(least = start);
    }
  }
  expect_equal(starts.shape(0), found.size(), "starts and codes differ in number");
  return found;
}

// tiers: (tiers, 2) first rank, first byte; parts: (parts, 5) tier, kind, bits, axes, first value; axes: (rank + 1,
// dim), the mean last; index: of the tiers, empty if ids are ranks; starts: of ordered codes, ascending within a tier.
BoundTable* table_of_tiers(int64_t rows, const Vector<uint8_t>& codes,
                           const Matrix<int64_t>& tiers, const Matrix<int64_t>& parts,
                           const Vector<float>& values, const Matrix<float>& axes,
                           const Vector<uint8_t>& index, const Vector<int64_t>& starts,
                           const Vector<int64_t>& pads, const Matrix<float>& pad_rows) {
  expect(tiers.shape(1) == 2 && parts.shape(1) == 5, "tiers have 2 columns and parts 5, not ", tiers.shape(1),
         " and ", parts.shape(1));
  expect(tiers.shape(0) > 0, "there are no tiers");
  expect(axes.shape(0) > 0 && axes.shape(1) > 0, "axes of shape (", axes.shape(0), ", ", axes.shape(1),
         ") have no mean");
  auto bound = std::make_unique<BoundTable>();
  saec::Table& table = bound->table;
  set_codes(codes, *bound);
  bound->index = index;
  table.rows = whole(rows);
  table.dim = axes.shape(1);
  table.rank = axes.shape(0) - 1;
  table.axes.assign(axes.data(), axes.data() + table.rank * table.dim);
  table.values.assign(values.data(), values.data() + values.shape(0));
  std::vector<uint64_t> first_ranks, first_bytes, row_bits(tiers.shape(0)), rank(tiers.shape(0));
  for (size_t i = 0; i < tiers.shape(0); ++i) {
    first_ranks.push_back(whole(tiers.data()[2 * i]));
    first_bytes.push_back(whole(tiers.data()[2 * i + 1]));
    const uint64_t wanted = i == 0 ? 0 : uint64_t{64} << 2 * (i - 1);
    expect(first_ranks[i] == wanted, "tier ", i, " starts at rank ", first_ranks[i], ", not at ", wanted);
    expect(first_ranks[i] < table.rows, "tier ", i, " from rank ", wanted, " on has no rows: there are ",
           table.rows);
  }
  expect(first_ranks.size() < 30 && table.rows < uint64_t{1} << 43, first_ranks.size(), " tiers of ", table.rows,
         " rows are too many: fewer than 30, and fewer than 2^43 rows");
  std::vector<saec::TierPart>& tier_parts = table.parts;
  uint32_t grids = 0;
  std::vector<uint32_t> ordered_bits(tiers.shape(0));
  for (size_t i = 0; i < parts.shape(0); ++i) {
    const int64_t* row = parts.data() + 5 * i;
    const saec::TierPart part{static_cast<uint32_t>(row[0]), static_cast<uint32_t>(row[1]),
                              static_cast<uint32_t>(row[2]), static_cast<uint32_t>(row[3]),
                              whole(row[4]), grids};
    expect(part.tier < tiers.shape(0) && (i == 0 || tier_parts.back().tier <= part.tier),
           "parts are out of order: part ", i, " is of tier ", part.tier, " of ", tiers.shape(0));
    expect(part.bits <= 16 && part.axes < (1 << 16) && part.kind <= 4, "part ", i, " has ", part.bits,
           " bits, ", part.axes, " axes and kind ", part.kind, "; at most 16, 65535 and 4");
    const bool leads = i == 0 || tier_parts.back().tier < part.tier;
    expect(!part.ordered() || leads || tier_parts.back().ordered(),
           "ordered parts come first: part ", i, " is ordered, the part before is not");
    expect(!part.ordered() || part.bits > 0, "part ", i, " is ordered, but has no bits");
    ordered_bits[part.tier] += part.ordered() ? part.bits : 0;
    expect(ordered_bits[part.tier] <= 16, "tier ", part.tier, " has ", ordered_bits[part.tier],
           " ordered bits, at most 16");
    expect(!part.grid() || part.axes == 1, "part ", i, " is a grid of ", part.axes, " axes, not of 1");
    const uint64_t taken = part.kind == saec::TierPart::kNone ? 0
                           : part.grid()                      ? 2
                                                              : uint64_t{part.axes} << part.bits;
    expect(part.first <= values.shape(0) && taken <= values.shape(0) - part.first,
           "values are too short: part ", i, " needs ", taken, " from number ", part.first, " on, there are ",
           values.shape(0));
    row_bits[part.tier] += part.packed_bits();
    rank[part.tier] += part.axes;
    expect(rank[part.tier] <= table.rank, "parts of tier ", part.tier, " cover ", rank[part.tier], " axes of ",
           table.rank);
    grids += part.grid();
    tier_parts.push_back(part);
  }
  for (size_t i = 0; i < tiers.shape(0); ++i) {
    const uint64_t next = i + 1 < tiers.shape(0) ? first_ranks[i + 1] : table.rows;
    expect_codes(next - first_ranks[i], row_bits[i], first_bytes[i], codes.shape(0));
  }
  const std::vector<uint64_t> code_starts =
      checked_starts(starts, ordered_bits, first_ranks, table.rows);
  if (index.shape(0) > 0) {
    expect_equal(index.shape(0), saec::index_bytes(table.rows, first_ranks),
                 "bytes of the index and those that the tiers need differ");
    saec::prepare_index(first_ranks, index.data(), table);
  }
  saec::prepare_tiers(first_ranks, first_bytes, code_starts, axes.data() + table.rank * table.dim, table,
                      bound->own);
  expect_equal(pads.shape(0), pad_rows.shape(0), "pads and their rows differ in length");
  if (pads.shape(0)) expect_equal(pad_rows.shape(1), table.dim, "rows of pads and table differ in dim");
  for (size_t i = 0; i < pads.shape(0); ++i) {
    table.pads.push_back(whole(pads.data()[i]));
    table.pad_rows.push_back(table.stored_rows++);
  }
  bound->own.insert(bound->own.end(), pad_rows.data(), pad_rows.data() + pad_rows.size());
  table.stored = bound->own.data();
  return bound.release();
}

// runs: (runs, 5) first rank, bits of a code, first bit, first stored row, whether each row is stored without code.
// stored: (stored rows, bytes of one). grid: (2, width) and axes: (width + 1, dim) are for int8 only; with axes of 0
// rows, the coordinates are the row.
BoundTable* table_of_runs(int64_t rows, const Vector<uint8_t>& codes, const Matrix<int64_t>& runs,
                          const Matrix<uint8_t>& stored, int element, const Matrix<float>& grid,
                          const Matrix<double>& axes, const Vector<int64_t>& pads,
                          const Vector<int64_t>& pad_rows) {
  expect(runs.shape(1) == 5 && runs.shape(0) > 0, "runs have 1 or more rows and 5 columns, not ",
         runs.shape(0), " and ", runs.shape(1));
  expect(0 <= element && element <= 3, "the element type is a number from 0 to 3, not ", element);
  auto bound = std::make_unique<BoundTable>();
  saec::Table& table = bound->table;
  set_codes(codes, *bound);
  bound->stored = stored;
  table.rows = whole(rows);
  table.element = static_cast<saec::Element>(element);
  const size_t size = element == 0 ? 4 : element == 3 ? 1 : 2;
  expect(stored.shape(1) > 0 && stored.shape(1) % size == 0, "stored rows of ", stored.shape(1),
         " bytes do not hold elements of ", size, " bytes");
  table.stored = stored.data();
  table.stored_rows = stored.shape(0);
  table.width = stored.shape(1) / size;
  table.dim = table.width;
  expect((element == 3) == (grid.shape(0) == 2), "int8 rows, and no others, have a grid of 2 rows, not of ",
         grid.shape(0));
  if (element == 3) {
    expect_equal(grid.shape(1), table.width, "grid and stored rows differ in width");
    table.frame.scale.assign(grid.data(), grid.data() + table.width);
    table.frame.offset.assign(grid.data() + table.width, grid.data() + 2 * table.width);
  }
  if (axes.shape(0) > 0) {
    expect(element == 3, "int8 rows, and no others, have axes");
    expect(axes.shape(0) == table.width + 1 && axes.shape(1) > 0, "axes of shape (", axes.shape(0), ", ",
           axes.shape(1), ") do not fit rows of ", table.width, " elements");
    table.dim = axes.shape(1);
    table.frame.axes.assign(axes.data(), axes.data() + axes.size());
  }
  bool beyond = false;
  for (size_t i = 0; i < runs.shape(0); ++i) {
    const int64_t* row = runs.data() + 5 * i;
    const uint64_t first = whole(row[0]), bits = whole(row[1]), first_bit = whole(row[2]);
    const uint64_t next = i + 1 < runs.shape(0) ? whole(row[runs.shape(1)]) : table.rows;
    expect(bits <= 32 && first_bit % 8 == 0, "run ", i, " has codes of ", bits, " bits from bit ", first_bit,
           " on, not of 0..32 bits from a byte on");
    expect(first < next && (i > 0 || first == 0), "runs must ascend from 0: run ", i, " is of the ranks ", first,
           " to ", next);
    expect_codes(next - first, bits, first_bit / 8, codes.shape(0));
    table.any_codes |= bits > 0;
    const bool own = row[4] != 0;
    expect(!own || bits == 0, "run ", i, " stores each row, and has codes of ", bits, " bits");
    table.runs.push_back({first, bits, bits ? first_bit - first * bits : 0,
                          (uint64_t{1} << bits) - 1, whole(row[3]) - (own ? first : 0),
                          own ? ~uint64_t{0} : 0, 0, 0, 0, 0, {}});
    const uint64_t stored_first = whole(row[3]), most = own ? next - first : uint64_t{1} << bits;
    beyond |= stored_first > table.stored_rows || most > table.stored_rows - stored_first;
  }
  table.any_beyond = beyond;
  expect_equal(pads.shape(0), pad_rows.shape(0), "pads and their rows differ in length");
  for (size_t i = 0; i < pads.shape(0); ++i) {
    table.pads.push_back(whole(pads.data()[i]));
    table.pad_rows.push_back(whole(pad_rows.data()[i]));
    expect(table.pad_rows.back() < table.stored_rows, "pad ", i, " has stored row ", table.pad_rows.back(),
           " of ", table.stored_rows);
  }
  return bound.release();
}

// The tuple that saec.format.native_lookup.pool_request returns.
using RequestTuple = std::tuple<const BoundTable*, uintptr_t, bool, ptrdiff_t, size_t, uintptr_t, size_t,
                                uintptr_t, int, int64_t, uintptr_t, size_t>;

// Addresses cannot be checked: the caller guarantees that the arrays have the stated sizes.
saec::Request request_of(const RequestTuple& given) {
  const auto& [bound, ids, wide, id_stride, count, offsets, bags, weights, mode, skipped, out,
               stride] = given;
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
          id_stride};
}

}  // namespace

void bind_lookups(nb::module_& module) {
  nb::class_<BoundTable>(module, "LookupTable")
      .def_prop_ro("rows", [](const BoundTable& self) { return self.table.rows; })
      .def_prop_ro("dim", [](const BoundTable& self) { return self.table.dim; })
      .def_prop_ro("stored_rows", [](const BoundTable& self) { return self.table.stored_rows; })
      .def_prop_ro("stored_bytes",
                   [](const BoundTable& self) {
                     return self.table.stored_rows * saec::stored_row_bytes(self.table);
                   })
      .def_prop_ro("decoded", [](const BoundTable& self) { return self.table.decoded; })
      .def_prop_ro("ranked", [](const BoundTable& self) { return self.table.ranked; });
  module.def("table_of_tiers", &table_of_tiers, nb::arg("rows"), nb::arg("codes"),
             nb::arg("tiers"), nb::arg("parts"), nb::arg("values"), nb::arg("axes"),
             nb::arg("index"), nb::arg("starts"), nb::arg("pads"), nb::arg("pad_rows"),
             nb::rv_policy::take_ownership);
  module.def("table_of_runs", &table_of_runs, nb::arg("rows"), nb::arg("codes"), nb::arg("runs"),
             nb::arg("stored"), nb::arg("element"), nb::arg("grid"), nb::arg("axes"),
             nb::arg("pads"), nb::arg("pad_rows"), nb::rv_policy::take_ownership);
  module.def("simd", [] {
    const saec::LookupKernels* kernels = saec::choose_lookup("auto");
    return std::string(kernels ? kernels->name : "");
  });
  module.def(
      "pool",
      [](const std::vector<RequestTuple>& given, int out, int threads, const std::string& isa,
         bool in_pytorch) {
        const saec::LookupKernels* kernels = saec::choose_lookup(isa.c_str());
        expect(kernels != nullptr, "this processor has no instruction set ", saec::wanted_simd(isa.c_str()));
        std::vector<saec::Request> requests;
        std::vector<saec::ColdPlace> places;  // empty if all tables are in memory
        size_t total = 0;
        for (const RequestTuple& tuple : given) {
          expect(std::get<0>(tuple) != nullptr, "request ", requests.size(), " has no table");
          requests.push_back(request_of(tuple));
          total += requests.back().count;
          if (std::get<0>(tuple)->place.any()) places.resize(given.size());
        }
        for (size_t i = 0; i < places.size(); ++i) places[i] = std::get<0>(given[i])->place;
        const saec::Team& team = in_pytorch ? saec::pytorch_team() : saec::own_team();
        const int used = lookup_threads(threads, total, team);
        const WithoutGil released;
        const auto element = static_cast<saec::Element>(out);
        const saec::Failure failure =
            places.empty() ? saec::pool(requests, element, used, *kernels, team)
                           : saec::pool_cold(requests, places, element, used, *kernels);
        return std::make_tuple(static_cast<int>(failure.fault), failure.request, failure.position);
      },
      nb::arg("requests"), nb::arg("out"), nb::arg("threads") = 0, nb::arg("isa") = "auto",
      nb::arg("in_pytorch") = false);
  module.def("set_pytorch_team", [](uintptr_t parallel_for) {
    saec::set_pytorch_team(reinterpret_cast<saec::TorchParallelFor>(parallel_for));
  });
}
