// A cache of file contents that keeps a limited number of pages in memory.
//
// A range of addresses is reserved for all bytes, so that a page in memory has the address that it would have if the
// files were mapped, and lookups read it like a mapped table. Pages are read by pread, many at a time, and evicted by
// madvise. (The scheme of vmcache: Leis et al., "Virtual-Memory Assisted Buffer Management", SIGMOD 2023, section 3.)
// Unlike with a mapping, a batch of pages is read at once, memory has a limit, and a failed read is an error that the
// caller gets.
//
// Pages are evicted by the clock algorithm: each use of a page adds 1 to its count, up to kMostUses. The clock's hand
// passes over the pages, subtracts 1 from each count, and evicts a page whose count is 0.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "cold/read_threads.h"

namespace saec {

// Bytes [first, first + bytes) of a file.
struct FilePart {
  int descriptor;
  uint64_t first, bytes;
};

struct CacheCounts {
  uint64_t hits = 0, misses = 0;  // uses of pages that were in memory, and of pages that were not
  uint64_t reads = 0;             // reads of one or more consecutive pages
  uint64_t pages_read = 0, bytes_read = 0;
  uint64_t resident = 0, most = 0;  // pages in memory except those kept permanently, and their limit
  uint64_t kept = 0;                // pages kept permanently
};

// hold() and keep() throw std::system_error with the error number of the read, or one of these: the file ends before
// the page; it has changed since it was opened; more pages would be held at once than the limit allows; the process
// is a forked child, which has none of the pages.
constexpr int kFileEnds = ENODATA, kFileChanged = ESTALE, kTooManyPages = ENOBUFS, kForked = ECHILD;

class PageCache {
 public:
  // Parts have consecutive addresses, and each starts at a new page. Two parts are contiguous if the first ends and the
  // second starts at a page boundary of its file. Descriptors are duplicated.
  explicit PageCache(const std::vector<FilePart>& parts);
  ~PageCache();
  PageCache(const PageCache&) = delete;
  PageCache& operator=(const PageCache&) = delete;

  const uint8_t* data() const { return start_; }
  size_t size() const { return pages_ << shift_; }
  size_t page_bytes() const { return size_t{1} << shift_; }
  size_t part_count() const { return parts_.size(); }
  // Offset of a part's first byte from data().
  size_t offset(size_t part) const { return parts_[part].offset; }
  bool holds(const void* at) const {
    const auto* byte = static_cast<const uint8_t*>(at);
    return start_ <= byte && byte < start_ + size();
  }
  uint32_t page_of(const uint8_t* at) const { return static_cast<uint32_t>((at - start_) >> shift_); }

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

  struct Part {
    int descriptor;
    uint32_t first_page, pages;
    uint64_t file_first, file_bytes;  // of the first page, and of the whole file
    size_t offset;
    struct timespec changed;
  };

  struct Page {
    uint32_t pins : 28, uses : 2, resident : 1, reading : 1;
  };

  // Consecutive pages that one read fetches, and its result: 0 or an error number.
  struct Read {
    uint32_t first, count;
    int error;
  };

  void place(const std::vector<FilePart>& parts);
  void add(const FilePart& part, size_t place);
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
  int read(const Read& read) const;
  static int changed(const Part& part);
  const Part& part_of(uint32_t page) const;
  void drop(uint32_t first, uint32_t count);
  void drop_all(std::vector<uint32_t>& pages);
  bool same_process() const;

  const unsigned shift_;
  const pid_t owner_;
  const int process_;  // descriptor of this process, or -1
  uint8_t* start_ = nullptr;
  uint64_t pages_ = 0;
  std::vector<Part> parts_;
  std::unique_ptr<ReadThreads> threads_;

  mutable std::mutex mutex_;  // guards all members below
  std::condition_variable changed_;
  std::vector<Page> states_;
  std::vector<uint32_t> clock_;  // a slot for each page that may be evicted; kNoPage if free
  size_t hand_ = 0;
  uint64_t most_ = 0;
  uint64_t pinned_ = 0;  // pages of the clock that are held
  CacheCounts counts_;
};

}  // namespace saec
