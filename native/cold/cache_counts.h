// What a cache of file contents has done, and what it holds.
#pragma once

#include <cstdint>

namespace saec {

struct CacheCounts {
  uint64_t hits = 0, misses = 0;  // uses of pages, or of rows, that were in memory, and of those that were not
  uint64_t reads = 0;             // reads of consecutive bytes
  uint64_t pages_read = 0, bytes_read = 0;
  uint64_t bytes = 0, most_bytes = 0;  // memory in use, and the most that it can become
};

}  // namespace saec
