// Equal buffers at page boundaries, which a forked child does not get.
#pragma once

#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <new>

namespace saec {

class ReadBuffers {
 public:
  ReadBuffers(size_t buffer_bytes, size_t count) : each_(buffer_bytes), bytes_(buffer_bytes * count), owner_(getpid()) {
    if (bytes_ == 0) return;
    void* at = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) throw std::bad_alloc();
    first_ = static_cast<uint8_t*>(at);
    // Huge pages would make random reads faster by a quarter, but the first uses of a large cache slow: each may take
    // milliseconds.
#ifdef MADV_NOHUGEPAGE
    (void)madvise(at, bytes_, MADV_NOHUGEPAGE);
#endif
#ifdef MADV_DONTFORK
    (void)madvise(at, bytes_, MADV_DONTFORK);
#endif
  }
  ~ReadBuffers() {
    if (first_ && getpid() == owner_) munmap(first_, bytes_);  // a forked child may have something else there
  }
  ReadBuffers(const ReadBuffers&) = delete;
  ReadBuffers& operator=(const ReadBuffers&) = delete;

  uint8_t* first() const { return first_; }
  size_t bytes() const { return bytes_; }
  uint8_t* operator[](size_t number) const { return first_ + number * each_; }

 private:
  const size_t each_, bytes_;
  const pid_t owner_;
  uint8_t* first_ = nullptr;
};

}  // namespace saec
