// Lookups in tables whose codes or rows are in a cache: the pages or rows that the ids need are read first.
#pragma once

#include <cstdint>
#include <vector>

#include "cold/page_cache.h"
#include "cold/row_cache.h"
#include "lookup/lookup.h"

namespace saec {

// Where a request's table is: in pages, in rows, or, if both are null, in memory.
struct ColdPlace {
  PageCache* pages = nullptr;
  RowCache* rows = nullptr;
  uint32_t first_row = 0;  // RowCache::number_of()

  bool any() const { return pages || rows; }
  // The same, with pages only if they have taken over.
  ColdPlace now() const {
    PageCache* instead = rows ? rows->pages() : nullptr;
    return instead ? ColdPlace{instead, nullptr, 0} : *this;
  }
};

// The same as pool() in lookup.h. places: of each request's table. Large batches are looked up in several steps, the
// smaller the caches are. Throws as PageCache::hold() does; `out` is then undefined.
Failure pool_cold(const std::vector<Request>& requests, const std::vector<ColdPlace>& places,
                  Element out, int threads, const LookupKernels& kernels);

}  // namespace saec
