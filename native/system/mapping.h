// Pieces of files that are read as if they were one: each is mapped, read-only, to where the one
// before it ends in a range of addresses that was reserved for all of them.
#pragma once

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <system_error>

namespace saec {

class Mapping {
 public:
  // bytes: of all pieces together.
  explicit Mapping(size_t bytes)
      : page_(static_cast<size_t>(sysconf(_SC_PAGESIZE))), bytes_(bytes) {
    if (bytes == 0 || bytes > PTRDIFF_MAX)
      throw std::invalid_argument("nothing to map, or too much");
    reserved_ = (bytes + page_ - 1) / page_ * page_;
    void* start = reserve(nullptr, reserved_, 0);
    if (start == MAP_FAILED) fail(errno);
    start_ = static_cast<uint8_t*>(start);
  }

  ~Mapping() { munmap(start_, reserved_); }

  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  // The next piece: `bytes` of the file from byte `first` on, both of which the file must have,
  // because reading a page beyond a file's end kills the process.
  void add(int descriptor, size_t first, size_t bytes) {
    if (bytes == 0 || bytes > bytes_ - used_)
      throw std::invalid_argument("a piece is empty, or too long");
    if (first % page_ != 0 || used_ % page_ != 0)
      throw std::invalid_argument("a piece does not start at a page");
    struct stat file;
    if (fstat(descriptor, &file) != 0) fail(errno);
    const auto held = static_cast<size_t>(file.st_size);
    if (held < first || held - first < bytes)
      throw std::invalid_argument("a file is too short");
    uint8_t* place = start_ + used_;
    // Private: some file systems over a network map nothing else. Never written, nothing is copied.
    if (mmap(place, bytes, PROT_READ, MAP_PRIVATE | MAP_FIXED, descriptor,
             static_cast<off_t>(first)) == MAP_FAILED) {
      const int error = errno;
      // What was reserved may be gone, and must not be another's when all of it is unmapped.
      reserve(place, (bytes + page_ - 1) / page_ * page_, MAP_FIXED);
      fail(error);
    }
    used_ += bytes;
  }

  bool whole() const { return used_ == bytes_; }
  size_t size() const { return bytes_; }
  const uint8_t* data() const { return start_; }  // OUT of the pieces so far

 private:
  static void* reserve(void* place, size_t bytes, int flags) {
    flags |= MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    return mmap(place, bytes, PROT_NONE, flags, -1, 0);
  }

  [[noreturn]] static void fail(int error) {
    throw std::system_error(error, std::generic_category());
  }

  size_t page_;
  size_t bytes_;
  size_t reserved_ = 0;
  size_t used_ = 0;
  uint8_t* start_ = nullptr;
};

}  // namespace saec
