// Python bindings of the page cache, for tables of which a limited part is in memory.
#include "bind/bindings.h"

#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <tuple>

#include "cold/page_cache.h"

namespace {

// Descriptor, first byte and number of bytes of a part of a file.
using PartTuple = std::tuple<int, uint64_t, uint64_t>;

std::vector<saec::FilePart> parts_of(const std::vector<PartTuple>& given) {
  std::vector<saec::FilePart> parts;
  for (const auto& [descriptor, first, bytes] : given) parts.push_back({descriptor, first, bytes});
  return parts;
}

template <typename Cache>
nb::dict counts_of(const Cache& cache) {
  const saec::CacheCounts counts = cache.counts();
  nb::dict result;
  result["hits"] = counts.hits;
  result["misses"] = counts.misses;
  result["reads"] = counts.reads;
  result["pages_read"] = counts.pages_read;
  result["bytes_read"] = counts.bytes_read;
  result["memory_bytes"] = counts.bytes;
  result["most_memory_bytes"] = counts.most_bytes;
  return result;
}

// What both caches have. `serve` makes lookups in a table read through the cache.
template <typename Cache>
void bind_cache(nb::class_<Cache>& bound) {
  bound
      .def_prop_ro("reads_by", &Cache::reads_by)
      .def("offset",
           [](const Cache& self, size_t part) {
             const saec::FileParts& files = self.files();
             expect(part < files.count(), "part ", part, " of ", files.count(), " parts does not exist");
             return files[part].offset;
           },
           nb::arg("part"))
      .def("array",
           [](const nb::object& self) {
             const saec::FileParts& files = nb::cast<const Cache&>(self).files();
             return nb::ndarray<nb::numpy, const uint8_t, nb::ndim<1>>(files.data(), {files.size()}, self);
           })
      .def("counts", &counts_of<Cache>);
}

}  // namespace

void bind_cold(nb::module_& module) {
  nb::class_<saec::PageCache> pages(module, "PageCache");
  bind_cache(pages);
  pages
      .def("__init__",
           [](saec::PageCache* self, const std::vector<PartTuple>& parts) {
             new (self) saec::PageCache(parts_of(parts));
           },
           nb::arg("parts"))
      .def_prop_ro("page_bytes", &saec::PageCache::page_bytes)
      .def("keep", &saec::PageCache::keep, nb::arg("first"), nb::arg("nbytes"),
           nb::call_guard<WithoutGil>())
      .def("limit", &saec::PageCache::limit, nb::arg("pages"))
      .def("serve", [](saec::PageCache& self, BoundTable& bound) { bound.place.pages = &self; },
           nb::arg("table"), nb::keep_alive<2, 1>());
  nb::class_<saec::RowCache> rows(module, "RowCache");
  bind_cache(rows);
  rows
      .def("__init__",
           [](saec::RowCache* self, const std::vector<PartTuple>& parts,
              const std::vector<std::tuple<uint64_t, size_t>>& given, size_t row_bytes, uint64_t memory) {
             std::vector<saec::RowTable> tables;
             for (const auto& [count, part] : given) tables.push_back({count, part});
             new (self) saec::RowCache(parts_of(parts), tables, row_bytes, memory);
           },
           nb::arg("parts"), nb::arg("tables"), nb::arg("row_bytes"), nb::arg("memory"))
      .def_ro_static("least_memory", &saec::RowCache::kLeastMemory)
      .def_prop_ro("keeps", [](const saec::RowCache& self) { return self.pages() ? "pages" : "rows"; })
      .def("serve",
           [](saec::RowCache& self, BoundTable& bound) {
             const saec::Table& table = bound.table;
             expect(!table.any_codes && table.pads.empty() && table.runs.size() == 1,
                    "rows of a cache are for uncompressed tables without padding ids");
             expect_equal(saec::stored_row_bytes(table), self.row_bytes(), "rows of table and cache differ in bytes");
             bound.place.first_row = self.number_of(table.stored);
             bound.place.rows = &self;
           },
           nb::arg("table"), nb::keep_alive<2, 1>());
}
