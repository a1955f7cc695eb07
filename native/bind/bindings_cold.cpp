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

nb::dict counts_of(const saec::PageCache& cache) {
  const saec::CacheCounts counts = cache.counts();
  nb::dict result;
  result["hits"] = counts.hits;
  result["misses"] = counts.misses;
  result["reads"] = counts.reads;
  result["pages_read"] = counts.pages_read;
  result["bytes_read"] = counts.bytes_read;
  result["resident_pages"] = counts.resident + counts.kept;
  result["most_pages"] = counts.most + counts.kept;
  return result;
}

}  // namespace

void bind_cold(nb::module_& module) {
  nb::class_<saec::PageCache>(module, "PageCache")
      .def("__init__",
           [](saec::PageCache* self, const std::vector<PartTuple>& parts) {
             new (self) saec::PageCache(parts_of(parts));
           },
           nb::arg("parts"))
      .def_prop_ro("page_bytes", &saec::PageCache::page_bytes)
      .def("offset",
           [](const saec::PageCache& self, size_t part) {
             expect(part < self.part_count(), "part ", part, " of ", self.part_count(), " parts does not exist");
             return self.offset(part);
           },
           nb::arg("part"))
      .def("array",
           [](const nb::object& self) {
             const auto& cache = nb::cast<const saec::PageCache&>(self);
             return nb::ndarray<nb::numpy, const uint8_t, nb::ndim<1>>(cache.data(), {cache.size()},
                                                                       self);
           })
      .def("keep", &saec::PageCache::keep, nb::arg("first"), nb::arg("nbytes"),
           nb::call_guard<WithoutGil>())
      .def("limit", &saec::PageCache::limit, nb::arg("pages"))
      .def("counts", &counts_of)
      .def("serve",
           [](saec::PageCache& self, BoundTable& bound) { bound.cache = &self; },
           nb::arg("table"), nb::keep_alive<2, 1>());
}
