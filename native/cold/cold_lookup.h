// Lookups in tables whose codes or rows are in a page cache: pages of the ids are read first.
#pragma once

#include <vector>

#include "cold/page_cache.h"
#include "lookup/lookup.h"

namespace saec {

// As pool() in lookup.h. caches: of each request's table, null where all of it is in memory. Of large
// batches, and where the caches are small, some ids at a time are looked up. Throws as
// PageCache::hold() does; `out` is then undefined.
Failure pool_cold(const std::vector<Request>& requests, const std::vector<PageCache*>& caches,
                  Element out, int threads, const LookupKernels& kernels);

}  // namespace saec
