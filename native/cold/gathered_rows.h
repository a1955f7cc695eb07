// Requests whose rows are in row caches, as requests to tables in memory that have just these rows.
#pragma once

#include <cstdint>
#include <vector>

#include "cold/row_cache.h"
#include "lookup/lookup.h"

namespace saec {

// The ids [first, last) of a request to a table of uncompressed rows in a cache.
class GatheredRows {
 public:
  // Copies the rows from the cache. Ids out of range stay so. Throws as RowCache::gather() does; kTooManyPages if the
  // ids are more than it can take.
  GatheredRows(const Request& request, RowCache& cache, uint32_t first_row, size_t first, size_t last);
  GatheredRows(const GatheredRows&) = delete;
  GatheredRows& operator=(const GatheredRows&) = delete;

  // The request, with the same results for bags of these ids.
  const Request& request() const { return request_; }

 private:
  Table table_;
  Request request_;
  std::vector<int64_t> ids_;
  std::vector<uint8_t> rows_;
};

}  // namespace saec
