// A cache of file contents that keeps a limited number of pages in memory.
//
// A range of addresses is reserved for all bytes, so that a page in memory has the address that it would have if the
// files were mapped, and lookups read it like a mapped table. Many pages are read at a time (disk_reads.h), and evicted
// by madvise. (The scheme of vmcache: Leis et al., "Virtual-Memory Assisted Buffer Management", SIGMOD 2023, section
// 3.) Unlike with a mapping, a batch of pages is read at once, memory has a limit, and a failed read is an error that the
// caller gets.
//
// Pages are evicted by the clock algorithm: each use of a page adds 1 to its count, up to kMostUses. The clock's hand
// passes over the pages, subtracts 1 from each count, and evicts a page whose count is 0.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "cold/cache_counts.h"
#include "cold/disk_reads.h"
#include "cold/file_parts.h"

namespace saec {

// hold() and keep() throw std::system_error with the error number of the read, kFileEnds, or one of those of FileParts.
class PageCache {
 public:
  explicit PageCache(const std::vector<FilePart>& parts);
  explicit PageCache(std::shared_ptr<const FileParts> files);
  ~PageCache();
  PageCache(const PageCache&) = delete;
  PageCache& operator=(const PageCache&) = delete;

  const FileParts& files() const { return files_; }
  size_t page_bytes() const { return files_.page_bytes(); }
  bool holds(const void* at) const { return files_.holds(at); }
  uint32_t page_of(const uint8_t* at) const { return static_cast<uint32_t>((at - files_.data()) >> files_.shift()); }
  const char* reads_by() const { return reads_->way(); }

  // Reads the pages with these bytes and keeps them permanently.
  void keep(uint64_t first, uint64_t bytes);

  // Sets the most pages in memory besides those kept; 0 before the first call.
  void limit(uint64_t pages);
  uint64_t most() const { return most_; }

  // Waits until all of these pages are in memory; they stay there until release(). A page may occur several times. If a
  // read fails, no page is held.
  void hold(const std::vector<uint32_t>& pages);
  void release(const std::vector<uint32_t>& pages);

  CacheCounts counts() const;

 private:
  static constexpr uint32_t kMostUses = 3, kNoPage = ~uint32_t{0};

  struct Page {
    uint32_t pins : 28, uses : 2, resident : 1, reading : 1;
  };

  // Consecutive pages that one read fetches, and its result: 0 or an error number.
  struct Read {
    uint32_t first, count;
    int error;
  };
  class Reads;

  void pin(const std::vector<uint32_t>& pages, std::unique_lock<std::mutex>& lock,
           std::vector<uint32_t>& absent);
  void unpin(const std::vector<uint32_t>& pages);
  void fetch(std::vector<uint32_t>& absent, std::unique_lock<std::mutex>& lock);
  std::vector<uint32_t> missing_of(const std::vector<uint32_t>& absent, bool& others) const;
  std::vector<size_t> make_room(const std::vector<uint32_t>& missing);
  size_t free_slot(std::vector<uint32_t>& leaving);
  int end_reading(const std::vector<Read>& reads, const std::vector<size_t>& slots);
  std::vector<Read> plan(const std::vector<uint32_t>& missing) const;
  void read_all(std::vector<Read>& reads);

  const std::shared_ptr<const FileParts> held_files_;
  const FileParts& files_;
  std::unique_ptr<DiskReads> reads_;

  mutable std::mutex mutex_;  // guards all members below
  std::condition_variable changed_;
  std::vector<Page> states_;
  std::vector<uint32_t> clock_;  // a slot for each page that may be evicted; kNoPage if free
  size_t hand_ = 0;
  uint64_t most_ = 0;
  uint64_t kept_ = 0, resident_ = 0;  // pages kept permanently, and the others in memory
  uint64_t pinned_ = 0;  // pages of the clock that are held
  CacheCounts counts_;
};

}  // namespace saec
