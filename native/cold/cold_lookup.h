// Lookups in tables whose codes or rows are in a page cache: the pages that the ids need are read first.
#pragma once

#include <vector>

#include "cold/page_cache.h"
#include "lookup/lookup.h"

namespace saec {

// The same as pool() in lookup.h. caches: of each request's table, null if the whole table is in memory. Large batches
// are looked up in several steps, the smaller the caches are. Throws as PageCache::hold() does; `out` is then
// undefined.
Failure pool_cold(const std::vector<Request>& requests, const std::vector<PageCache*>& caches,
                  Element out, int threads, const LookupKernels& kernels);

}  // namespace saec
