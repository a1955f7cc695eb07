// Bytes of files, of which a limited number of pages is in memory.
//
// A range of addresses is reserved for all of the bytes, so that a page that is in memory has the address
// it would have if the files were mapped: lookups read it as they read a mapped table. Pages come by
// pread, many at a time, and go by madvise. (The scheme of vmcache: Leis et al., "Virtual-Memory Assisted
// Buffer Management", SIGMOD 2023, section 3.) Unlike a mapping, a batch of pages is read at once, the
// memory has a limit, and a read that fails is an error of its caller.
//
// Which page goes: the hand of a clock passes over the pages. A page that is used again gains a point, up
// to kMostUses; the hand takes one from it, and the page goes when it has none.
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
  uint64_t hits = 0, misses = 0;  // uses of pages that were in memory, and of others
  uint64_t reads = 0;             // of one or more pages side by side
  uint64_t pages_read = 0, bytes_read = 0;
  uint64_t resident = 0, most = 0;  // pages in memory without those kept for good, and their limit
  uint64_t kept = 0;                // pages kept for good
};

// Errors of hold() and keep() are std::system_error with the number that the read gave, or one of
// these: the file ends before the page; it has changed since it was opened; more pages are to be held at
// once than the limit allows; the process is a forked child, which has none of the pages.
constexpr int kFileEnds = ENODATA, kFileChanged = ESTALE, kTooManyPages = ENOBUFS, kForked = ECHILD;

class PageCache {
 public:
  // Parts follow each other, each from the next page on; a part that starts with a page of its file
  // directly follows one that ends with a page. Descriptors are copied.
  explicit PageCache(const std::vector<FilePart>& parts);
  ~PageCache();
  PageCache(const PageCache&) = delete;
  PageCache& operator=(const PageCache&) = delete;

  const uint8_t* data() const { return start_; }
  size_t size() const { return pages_ << shift_; }
  size_t page_bytes() const { return size_t{1} << shift_; }
  size_t part_count() const { return parts_.size(); }
  // Where the first byte of a part is.
  size_t offset(size_t part) const { return parts_[part].offset; }
  bool holds(const void* at) const {
    const auto* byte = static_cast<const uint8_t*>(at);
    return start_ <= byte && byte < start_ + size();
  }
  uint32_t page_of(const uint8_t* at) const { return static_cast<uint32_t>((at - start_) >> shift_); }

  // Reads the pages with these bytes and keeps them for good.
  void keep(uint64_t first, uint64_t bytes);

  // The number of other pages in memory, from then on; without a call, none.
  void limit(uint64_t pages);
  uint64_t most() const { return most_; }

  // Waits until all of these pages are in memory; they stay until they are released. A page may be named
  // several times. If a read fails, nothing is held.
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

  // Pages side by side that one read fetches, and what came of it: 0 or an error's number.
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
  std::vector<uint32_t> clock_;  // pages in memory that may go, or kNoPage
  size_t hand_ = 0;
  uint64_t most_ = 0;
  uint64_t pinned_ = 0;  // pages of the clock that are held by someone
  CacheCounts counts_;
};

}  // namespace saec
