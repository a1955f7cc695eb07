// A cache of single rows of files, for tables whose rows are much shorter than a page. If ids are in no order, one row
// of a page is used often and the others hardly ever: a cache of pages then holds mostly rows that are not used.
//
// As long as there is room, the rows that are read along with a row are kept, too. If many of them are wanted, as in a
// table by frequency, pages are the better unit, since what is known of one row holds for its neighbours: then a cache of
// pages takes over, before much of the memory is full. Otherwise, when there is no more room, only those sectors of the
// disk are read that have the rows.
#pragma once

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "cold/cache_counts.h"
#include "cold/disk_reads.h"
#include "cold/file_parts.h"
#include "cold/page_cache.h"
#include "cold/row_sets.h"

namespace saec {

// A table of `rows` rows, whose first one is at the first byte of part number `part`.
struct RowTable {
  uint64_t rows;
  size_t part;
};

constexpr int kTakenOver = EALREADY;

class RowCache {
 public:
  // The cache's rows all have row_bytes bytes, at most 1/8 of a page. tables: in order of their parts; a table's parts
  // are contiguous and hold whole rows. memory: for rows with their overhead, buffers of reads, and the rows of kCalls
  // calls of gather() at a time.
  RowCache(const std::vector<FilePart>& parts, const std::vector<RowTable>& tables, size_t row_bytes, uint64_t memory);
  ~RowCache();
  RowCache(const RowCache&) = delete;
  RowCache& operator=(const RowCache&) = delete;

  const FileParts& files() const { return *files_; }
  size_t row_bytes() const { return row_bytes_; }
  const char* reads_by() const { return reads_->way(); }
  // The most rows of one call of gather().
  size_t most_rows() const { return most_rows_; }
  // The number that gather() wants for the first row of the table with this address.
  uint32_t number_of(const void* table) const;

  // Copies rows, of these numbers, one after the other. Throws std::system_error, as PageCache::hold() does, and
  // kTakenOver if there are pages() meanwhile.
  void gather(const std::vector<uint32_t>& rows, uint8_t* to);

  // The cache of pages that has taken over for all further lookups; null if none has.
  PageCache* pages() const { return pages_; }

  CacheCounts counts() const;

  static constexpr uint64_t kLeastMemory = 1 << 20;

 private:
  static constexpr size_t kCalls = 4;

  struct Range {
    uint32_t first, rows;
    uint64_t offset;  // of the first row, in the address range of the files

    uint32_t end() const { return first + rows; }
  };

  // A row that must be read, and its place among those of a call.
  struct Wanted {
    uint32_t row, place;
  };
  class Reads;

  void take_held(const std::vector<uint32_t>& rows, uint8_t* to, std::vector<Wanted>& missing);
  const Range& range_of(uint32_t row) const;
  uint64_t offset_of(uint32_t row) const;
  bool has_room() const;
  void decide();
  class Call;
  uint64_t beside() const { return reads_->memory() + kCalls * most_rows_ * row_bytes_; }

  const size_t row_bytes_, most_rows_, buffer_bytes_;
  const uint64_t memory_;
  const std::shared_ptr<const FileParts> files_;
  std::vector<Range> ranges_;
  std::unique_ptr<DiskReads> reads_;

  std::atomic<PageCache*> pages_{nullptr};

  mutable std::mutex mutex_;  // guards all members below
  std::optional<RowSets> sets_;  // none after pages have taken over
  bool decided_ = false;
  size_t calls_ = 0;  // of gather() that have not ended
  CacheCounts counts_;
  std::unique_ptr<PageCache> own_pages_;
};

}  // namespace saec
