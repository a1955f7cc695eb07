// Maps pieces of files, read-only, to consecutive addresses, so that they are read like one file. The range of
// addresses is reserved for all pieces first.
#pragma once

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <system_error>

#include "system/expect.h"

namespace saec {

class Mapping {
 public:
  // bytes: of all pieces together.
  explicit Mapping(size_t bytes)
      : page_(static_cast<size_t>(sysconf(_SC_PAGESIZE))), bytes_(bytes) {
    expect(bytes > 0 && bytes <= PTRDIFF_MAX, "a mapping has 1 to ", PTRDIFF_MAX, " bytes, not ", bytes);
    reserved_ = (bytes + page_ - 1) / page_ * page_;
    void* start = reserve(nullptr, reserved_, 0);
    if (start == MAP_FAILED) fail(errno);
    start_ = static_cast<uint8_t*>(start);
  }

  ~Mapping() { munmap(start_, reserved_); }

  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  // Maps the next piece: `bytes` bytes of the file from byte `first` on. Throws if the file is shorter, since reading
  // a page beyond the end of a file kills the process.
  void add(int descriptor, size_t first, size_t bytes) {
    expect(bytes > 0 && bytes <= bytes_ - used_, "a piece has ", bytes, " bytes, ", bytes_ - used_,
           " are left of the mapping");
    expect(first % page_ == 0 && used_ % page_ == 0, "a piece does not start at a page of ", page_,
           " bytes: it starts at byte ", first, " of the file, ", used_, " of the mapping");
    struct stat file;
    if (fstat(descriptor, &file) != 0) fail(errno);
    const auto held = static_cast<size_t>(file.st_size);
    expect(held >= first && held - first >= bytes, "a file is too short: ", held, " bytes do not hold ", bytes,
           " from byte ", first, " on");
    uint8_t* place = start_ + used_;
    // Private mappings, since some network file systems allow no others. Pages are never written, so never copied.
    if (mmap(place, bytes, PROT_READ, MAP_PRIVATE | MAP_FIXED, descriptor,
             static_cast<off_t>(first)) == MAP_FAILED) {
      const int error = errno;
      // The reservation may be lost. Renew it, so that the destructor does not unmap memory of others.
      reserve(place, (bytes + page_ - 1) / page_ * page_, MAP_FIXED);
      fail(error);
    }
    used_ += bytes;
  }

  bool whole() const { return used_ == bytes_; }
  size_t size() const { return bytes_; }
  const uint8_t* data() const { return start_; }  // only the pieces added so far can be read

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
