// Python bindings of tables that are looked up by the hashes of keys; see bindings.h.
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "bind/bindings.h"
#include "keys/joined_links.h"
#include "keys/keyed_table.h"
#include "system/teams.h"

namespace {

constexpr size_t kIdsPerKey = 2;  // that take less time to look up

// A table, and the function that it reads; patches of it, the newest first, and which keys they have.
struct BoundKeyed {
  saec::KeyedTable table;
  BoundFunction function;
  std::vector<std::shared_ptr<const BoundKeyed>> patches;
  std::shared_ptr<const saec::ChangedKeys> changed;
  std::unique_ptr<const saec::JoinedLinks> joined, joined_patches;

  BoundKeyed(saec::KeyedTable own_table, BoundFunction own_function)
      : table(std::move(own_table)), function(std::move(own_function)) {}

  saec::KeyedLink link() const { return {&table, &function.function}; }

  // To be called when the table, or the patches, are complete.
  void join() {
    joined = std::make_unique<const saec::JoinedLinks>(std::vector{link()});
    std::vector<saec::KeyedLink> links;
    for (const auto& patch : patches) links.push_back(patch->link());
    if (!links.empty()) joined_patches = std::make_unique<const saec::JoinedLinks>(std::move(links));
  }

  saec::KeyedSource source(saec::StringReaders read) const {
    return {joined.get(), joined_patches.get(), read, changed.get()};
  }
};

using SharedKeyed = std::shared_ptr<BoundKeyed>;

saec::StringReaders known_readers(const std::string& isa) {
  const saec::StringReaders read = saec::choose_readers(isa.c_str());
  expect(read.strings != nullptr, "this processor has no instruction set ", isa);
  return read;
}

uint32_t number(int64_t given, int64_t limit) {
  expect(0 <= given && given < limit, "a number of a part is ", given, ", not within 0..", limit - 1);
  return static_cast<uint32_t>(given);
}

// parts: (parts, 4) class, symbols, axes, string, in order of classes; lengths and values: of the symbols of each part,
// part after part; axes: (rank + 1, dim), the default row last.
SharedKeyed keyed_table(const BoundFunction& function, Matrix<int64_t> parts, Vector<uint8_t> lengths,
                        Vector<float> values, Matrix<float> axes) {
  expect(parts.shape(1) == 4, "a part has 4 numbers, not ", parts.shape(1));
  expect(axes.shape(0) > 0 && axes.shape(1) > 0, "axes of shape (", axes.shape(0), ", ", axes.shape(1),
         ") have no default row");
  auto bound = std::make_shared<BoundKeyed>(saec::KeyedTable{}, function);
  saec::KeyedTable& table = bound->table;
  table.dim = axes.shape(1);
  table.axes.assign(axes.data(), axes.data() + axes.size());
  table.values.assign(values.data(), values.data() + values.size());
  std::vector<uint8_t> root_lengths;
  size_t first_length = 0, first_value = 0;
  uint32_t axis = 0, string = 0;
  for (size_t i = 0; i < parts.shape(0); ++i) {
    const int64_t* row = parts.data() + 4 * i;
    const uint32_t own = number(row[0], 1 << 16), symbols = number(row[1], 1 << 17);
    const uint32_t covered = number(row[2], 1 << 16), in_string = number(row[3], 1 << 16);
    expect(symbols <= lengths.shape(0) - first_length, "lengths are missing: part ", i, " needs ", symbols,
           ", ", lengths.shape(0) - first_length, " are left");
    expect(size_t{symbols} * covered <= values.shape(0) - first_value, "values are missing: part ", i,
           " needs ", size_t{symbols} * covered, ", ", values.shape(0) - first_value, " are left");
    const uint8_t* own_lengths = lengths.data() + first_length;
    if (own == table.classes.size()) {
      axis = string = 0;
      expect(in_string == 0, "class ", own, " starts in string ", in_string, ", not in string 0");
      table.classes.push_back({static_cast<uint32_t>(root_lengths.size()), covered, first_value, {}});
      root_lengths.insert(root_lengths.end(), own_lengths, own_lengths + symbols);
      table.class_of_root.resize(root_lengths.size(), static_cast<uint16_t>(own));
    } else {
      expect(own + 1 == table.classes.size(), "parts are out of order: part ", i, " is of class ", own,
             " after ", table.classes.size(), " classes");
      expect(in_string == string || in_string == string + 1, "part ", i, " is in string ", in_string,
             ", the part before in string ", string);
      string = in_string;
      table.classes.back().parts.push_back({{}, first_value, covered, axis, string});
      expect(table.classes.back().parts.back().code.set(own_lengths, symbols), "lengths of part ", i,
             " are not those of a prefix code");
    }
    axis += covered;
    expect(axis < axes.shape(0), "class ", own, " covers ", axis, " axes of ", axes.shape(0) - 1);
    first_length += symbols;
    first_value += size_t{symbols} * covered;
  }
  expect(root_lengths.empty() || table.root.set(root_lengths.data(), root_lengths.size()),
         "lengths of first parts are not those of a prefix code");
  bound->join();
  return bound;
}

// The table of a base behind its patches, the newest first. prefixes, bits: of the hashes of each patch's keys;
// see KeyPrefixes.
SharedKeyed patched_table(const BoundKeyed& base, const std::vector<SharedKeyed>& patches,
                          const std::vector<Vector<uint64_t>>& prefixes, const std::vector<uint32_t>& bits) {
  expect(patches.size() <= saec::ChangedKeys::kMostPatches, patches.size(), " patches are too many: at most ",
         saec::ChangedKeys::kMostPatches);
  expect_equal(prefixes.size(), patches.size(), "prefixes and patches differ in length");
  expect_equal(bits.size(), patches.size(), "bits and patches differ in length");
  expect(base.patches.empty(), "the base has patches itself");
  auto bound = std::make_shared<BoundKeyed>(base.table, base.function);
  std::vector<saec::KeyPrefixes> keys;
  uint64_t total = 0;
  for (size_t i = 0; i < patches.size(); ++i) {
    const SharedKeyed& patch = patches[i];
    expect(patch->patches.empty(), "patch ", i, " itself has patches");
    expect(patch->table.dim == base.table.dim && patch->table.rank() == base.table.rank(), "patch ", i, " has ",
           patch->table.rank(), " axes of dim ", patch->table.dim, ", its base ", base.table.rank(), " of dim ",
           base.table.dim);
    expect(1 <= bits[i] && bits[i] <= saec::ChangedKeys::kMostPrefix, "prefixes of patch ", i, " have ", bits[i],
           " bits, not 1..", saec::ChangedKeys::kMostPrefix);
    total += prefixes[i].shape(0);
    keys.push_back({prefixes[i].data(), prefixes[i].shape(0), bits[i]});
    bound->patches.push_back(patch);
  }
  expect(total < saec::ChangedKeys::kMostKeys, "patches have ", total, " keys, not fewer than ",
         saec::ChangedKeys::kMostKeys);
  bound->changed = std::make_shared<const saec::ChangedKeys>(keys);
  bound->join();
  return bound;
}

// How a lookup is computed.
struct LookupOptions {
  int threads;  // the most, 0 for the default
  const std::string& isa;
  bool in_pytorch;
};

// What threads keep from range to range, while none uses it.
class IdleWork {
 public:
  // Null if all are in use.
  std::unique_ptr<saec::KeyedWork> take() {
    const std::lock_guard lock(mutex_);
    if (idle_.empty()) return nullptr;
    std::unique_ptr<saec::KeyedWork> work = std::move(idle_.back());
    idle_.pop_back();
    return work;
  }

  void give_back(std::unique_ptr<saec::KeyedWork> work) {
    const std::lock_guard lock(mutex_);
    idle_.push_back(std::move(work));
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<saec::KeyedWork>> idle_;
};

// Calls use(kernels, work, first, last) for ranges of `items` items; `keys`: their number of keys, which determines
// the number of threads.
template <typename Use>
void for_shares_of(const BoundKeyed& bound, size_t items, size_t keys, const LookupOptions& options, const Use& use) {
  const saec::KeyedSource source = bound.source(known_readers(options.isa));
  const saec::KeyedKernels& kernels = saec::choose_keyed(options.isa.c_str());
  const saec::Team& team = options.in_pytorch ? saec::pytorch_team() : saec::own_team();
  const int threads = lookup_threads(options.threads, keys * kIdsPerKey, team);
  const WithoutGil released;
  IdleWork idle;
  saec::run_ranges(team.run, items, saec::share_of(items, threads), threads, [&](size_t first, size_t last) {
    std::unique_ptr<saec::KeyedWork> work = idle.take();
    if (!work) work = kernels.begin(source, keys / static_cast<size_t>(threads));
    use(kernels, *work, first, last);
    idle.give_back(std::move(work));
  });
}

// rows: OUT (keys, dim).
void read_rows(const BoundKeyed& bound, Vector<uint64_t> hashes, OutMatrix<float> rows, int threads,
               const std::string& isa, bool in_pytorch) {
  const size_t count = hashes.shape(0), dim = bound.table.dim;
  expect_equal(rows.shape(1), dim, "rows and table differ in dim");
  expect_equal(rows.shape(0), count, "rows and hashes differ in length");
  const uint64_t* from = hashes.data();
  float* to = rows.data();
  for_shares_of(bound, count, count, {threads, isa, in_pytorch},
                [=](const auto& kernels, auto& work, size_t first, size_t last) {
                  kernels.rows(work, from + first, last - first, to + first * dim);
                });
}

// classes: OUT the class of each key in the table itself, without patches; -1 for unknown keys.
void read_classes(const BoundKeyed& bound, Vector<uint64_t> hashes, OutVector<int32_t> classes, int threads,
                  const std::string& isa) {
  const size_t count = hashes.shape(0);
  expect_equal(classes.shape(0), count, "classes and hashes differ in length");
  const uint64_t* from = hashes.data();
  int32_t* to = classes.data();
  for_shares_of(bound, count, count, {threads, isa, false},
                [=](const auto& kernels, auto& work, size_t first, size_t last) {
                  kernels.classes(work, from + first, last - first, to + first);
                });
}

bool ascend(const Vector<int64_t>& offsets, size_t keys) {
  int64_t least = 0;
  for (size_t bag = 0; bag < offsets.shape(0); ++bag) {
    const int64_t offset = offsets.data()[bag];
    if (offset < least || (bag == 0 && offset > 0)) return false;
    least = offset;
  }
  return static_cast<uint64_t>(least) <= keys;
}

// weights: of keys, or empty; rows: OUT (bags, dim). Returns false if offsets do not ascend from 0 to at most the
// number of keys.
bool pool_rows(const BoundKeyed& bound, Vector<uint64_t> hashes, Vector<int64_t> offsets,
               Vector<float> weights, bool mean, OutMatrix<float> rows, int threads, const std::string& isa,
               bool in_pytorch) {
  const size_t count = hashes.shape(0), bags = offsets.shape(0);
  expect_equal(rows.shape(0), bags, "rows and offsets differ in length");
  expect_equal(rows.shape(1), bound.table.dim, "rows and table differ in dim");
  if (weights.shape(0)) expect_equal(weights.shape(0), count, "weights and hashes differ in length");
  if (!ascend(offsets, count) || (bags == 0 && count > 0)) return false;
  const saec::KeyedRequest request{hashes.data(), count, offsets.data(), bags,
                                   weights.shape(0) ? weights.data() : nullptr, mean, rows.data()};
  for_shares_of(bound, bags, count, {threads, isa, in_pytorch},
                [&](const auto& kernels, auto& work, size_t first, size_t last) {
                  kernels.pool(work, request, first, last);
                });
  return true;
}

}  // namespace

void bind_keyed(nb::module_& module) {
  nb::class_<BoundKeyed>(module, "KeyedTable")
      .def("read_rows", &read_rows, nb::arg("hashes"), nb::arg("rows").noconvert(),
           nb::arg("threads") = 0, nb::arg("isa") = "auto", nb::arg("in_pytorch") = false)
      .def("read_classes", &read_classes, nb::arg("hashes"), nb::arg("classes").noconvert(),
           nb::arg("threads") = 0, nb::arg("isa") = "auto")
      .def("pool_rows", &pool_rows, nb::arg("hashes"), nb::arg("offsets").noconvert(),
           nb::arg("weights").noconvert(), nb::arg("mean"), nb::arg("rows").noconvert(),
           nb::arg("threads") = 0, nb::arg("isa") = "auto", nb::arg("in_pytorch") = false)
      .def_prop_ro("most_compared",
                   [](const BoundKeyed& bound) { return bound.changed ? bound.changed->most_compared() : 0; });
  module.def("keyed_table", &keyed_table, nb::arg("function"), nb::arg("parts"),
             nb::arg("lengths"), nb::arg("values"), nb::arg("axes"));
  module.def("patched_table", &patched_table, nb::arg("base"), nb::arg("patches"), nb::arg("prefixes"),
             nb::arg("bits"));
}
