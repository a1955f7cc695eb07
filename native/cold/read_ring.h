// A queue of reads in the kernel (io_uring), by system calls, so that no library is needed. Many reads cost one call,
// and no thread waits for each of them. (Axboe, "Efficient IO with io_uring", 2019; io_uring_setup(2).)
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace saec {

struct EndedRead {
  uint64_t mark;
  int result;  // number of bytes, or a negative error number
};

class ReadRing {
 public:
  // Null if the system has no io_uring, not all that is needed of it, or does not allow it. depth: the most reads under
  // way. buffers: `bytes` bytes to which reads may go faster than elsewhere, since the kernel keeps them in memory.
  static std::unique_ptr<ReadRing> make(unsigned depth, uint8_t* buffers, size_t bytes);
  ~ReadRing();
  ReadRing(const ReadRing&) = delete;
  ReadRing& operator=(const ReadRing&) = delete;

  // All calls from here on are of one thread, this one first. Returns false if the system refuses it.
  bool enable();
  void add(int descriptor, uint64_t from, size_t bytes, uint8_t* to, uint64_t mark);
  // Starts the reads that were added, and waits until there is one to take. May return earlier. Returns false if the
  // system refuses it, as a filter of system calls that was installed meanwhile does: some reads may then go on, but
  // their ends are unknown, and no more can be added.
  bool wait();
  // Takes one that has ended; false if there is none.
  bool take(EndedRead& ended);

 private:
  struct Area {
    void* at = nullptr;
    size_t bytes = 0;
  };

  ReadRing() = default;
  bool open(unsigned depth, uint8_t* buffers, size_t bytes);
  bool map(Area& area, size_t bytes, uint64_t offset) const;

  int ring_ = -1;
  Area submitted_, ended_, entries_;
  unsigned *tail_ = nullptr, *order_ = nullptr, *head_ = nullptr, *end_ = nullptr;
  unsigned mask_ = 0, end_mask_ = 0;
  size_t ends_at_ = 0;  // where in ended_ the results begin
  unsigned added_ = 0;
  const uint8_t* buffers_ = nullptr;
  size_t buffer_bytes_ = 0;  // 0 if the system does not keep them
};

}  // namespace saec
