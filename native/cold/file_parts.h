// Parts of files that take a range of addresses, as if they were mapped one after the other. Nothing is in memory at
// first: an address stands for a place in a file.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace saec {

// Bytes [first, first + bytes) of a file.
struct FilePart {
  int descriptor;
  uint64_t first, bytes;
};

// Error numbers of reads that the system has no number for: the file has changed since it was opened; a lookup needs
// more at once than the limit of memory allows; the process is a forked child, which has nothing of the cache.
constexpr int kFileChanged = ESTALE, kTooManyPages = ENOBUFS, kForked = ECHILD;

[[noreturn]] void throw_error(int error);  // std::system_error

class FileParts {
 public:
  struct Part {
    int descriptor;
    uint32_t first_page, pages;
    uint64_t file_first, file_bytes;  // of the first page, and of the whole file
    size_t offset;
    struct timespec changed;
    size_t unit;  // reads begin and end at multiples of this number of bytes, except where the file ends

    uint32_t end_page() const { return first_page + pages; }
  };

  // Parts have consecutive addresses, and each starts at a new page. Two parts are contiguous if the first ends and the
  // second starts at a page boundary of its file. Descriptors are duplicated.
  explicit FileParts(const std::vector<FilePart>& parts);
  ~FileParts();
  FileParts(const FileParts&) = delete;
  FileParts& operator=(const FileParts&) = delete;

  uint8_t* data() const { return start_; }
  size_t size() const { return size_t{pages_} << shift_; }
  unsigned shift() const { return shift_; }
  size_t page_bytes() const { return size_t{1} << shift_; }
  uint64_t pages() const { return pages_; }
  size_t count() const { return parts_.size(); }
  const Part& operator[](size_t number) const { return parts_[number]; }
  bool holds(const void* at) const {
    const auto* byte = static_cast<const uint8_t*>(at);
    return start_ <= byte && byte < start_ + size();
  }
  const Part& part_of(uint32_t page) const;
  // The place in its file of a byte of a part.
  uint64_t in_file(const Part& part, uint64_t offset) const {
    return part.file_first + (offset - (uint64_t{part.first_page} << shift_));
  }

  // An error number if a file has been written to since it was opened; otherwise 0.
  int changed(int descriptor) const;
  // Returns the memory of pages to the system; they then read as zeros.
  void drop(uint32_t first, uint32_t count) const;
  void drop_all(std::vector<uint32_t>& pages) const;
  bool same_process() const;

 private:
  void place(const std::vector<FilePart>& parts);
  void add(const FilePart& part, size_t place);
  void close_all();

  const unsigned shift_;
  const pid_t owner_;
  const int process_;  // descriptor of this process, or -1
  uint8_t* start_ = nullptr;
  uint64_t pages_ = 0;
  std::vector<Part> parts_;
};

}  // namespace saec
