#include "cold/read_ring.h"

#if defined(__linux__) && __has_include(<linux/io_uring.h>)
#include <linux/io_uring.h>
#endif

#ifdef IORING_SETUP_R_DISABLED  // rings that one thread makes and another uses (Linux 5.10)
#define SAEC_IO_URING

#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#endif

namespace saec {

#ifdef SAEC_IO_URING

namespace {

// Completions run in the thread that waits, not by interrupting it. (Linux 6.1; the second, 5.19.)
constexpr unsigned kFlags[] = {
#if defined(IORING_SETUP_SINGLE_ISSUER) && defined(IORING_SETUP_DEFER_TASKRUN)
    IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
#endif
#ifdef IORING_SETUP_COOP_TASKRUN
    IORING_SETUP_COOP_TASKRUN,
#endif
    0};

int set_up(unsigned depth, io_uring_params& given) {
  for (const unsigned flags : kFlags) {
    given = {};
    given.flags = flags | IORING_SETUP_R_DISABLED;
    const long ring = syscall(SYS_io_uring_setup, depth, &given);
    if (ring >= 0) return static_cast<int>(ring);
    if (errno != EINVAL) break;
  }
  return -1;
}

unsigned load(unsigned* at) { return std::atomic_ref(*at).load(std::memory_order_acquire); }
void store(unsigned* at, unsigned value) { std::atomic_ref(*at).store(value, std::memory_order_release); }

template <typename T>
T* within(void* area, size_t offset) {
  return reinterpret_cast<T*>(static_cast<uint8_t*>(area) + offset);
}

}  // namespace

std::unique_ptr<ReadRing> ReadRing::make(unsigned depth, uint8_t* buffers, size_t bytes) {
  std::unique_ptr<ReadRing> ring(new ReadRing);
  return ring->open(depth, buffers, bytes) ? std::move(ring) : nullptr;
}

bool ReadRing::open(unsigned depth, uint8_t* buffers, size_t bytes) {
  io_uring_params given;
  ring_ = set_up(depth, given);
  if (ring_ < 0) return false;
  const auto& to = given.sq_off;
  const auto& from = given.cq_off;
  if (!map(submitted_, to.array + given.sq_entries * sizeof(unsigned), IORING_OFF_SQ_RING) ||
      !map(ended_, from.cqes + given.cq_entries * sizeof(io_uring_cqe), IORING_OFF_CQ_RING) ||
      !map(entries_, given.sq_entries * sizeof(io_uring_sqe), IORING_OFF_SQES))
    return false;
  tail_ = within<unsigned>(submitted_.at, to.tail);
  order_ = within<unsigned>(submitted_.at, to.array);
  mask_ = *within<unsigned>(submitted_.at, to.ring_mask);
  head_ = within<unsigned>(ended_.at, from.head);
  end_ = within<unsigned>(ended_.at, from.tail);
  end_mask_ = *within<unsigned>(ended_.at, from.ring_mask);
  ends_at_ = from.cqes;
  struct iovec all = {buffers, bytes};
  if (bytes > 0 && syscall(SYS_io_uring_register, ring_, IORING_REGISTER_BUFFERS, &all, 1) == 0) {
    buffers_ = buffers;  // refused if too much memory would be locked: reads then go there as elsewhere
    buffer_bytes_ = bytes;
  }
  return true;
}

bool ReadRing::map(Area& area, size_t bytes, uint64_t offset) const {
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring_,
                  static_cast<off_t>(offset));
  if (at == MAP_FAILED) return false;
  (void)madvise(at, bytes, MADV_DONTFORK);
  area = {at, bytes};
  return true;
}

ReadRing::~ReadRing() {
  for (const Area& area : {submitted_, ended_, entries_})
    if (area.at) munmap(area.at, area.bytes);
  if (ring_ >= 0) close(ring_);
}

bool ReadRing::enable() {
  return syscall(SYS_io_uring_register, ring_, IORING_REGISTER_ENABLE_RINGS, nullptr, 0) == 0;
}

void ReadRing::add(int descriptor, uint64_t from, size_t bytes, uint8_t* to, uint64_t mark) {
  const unsigned place = *tail_ & mask_;
  const bool kept = buffers_ <= to && to < buffers_ + buffer_bytes_;
  io_uring_sqe entry = {};
  entry.opcode = kept ? IORING_OP_READ_FIXED : IORING_OP_READ;
  entry.fd = descriptor;
  entry.off = from;
  entry.addr = reinterpret_cast<uintptr_t>(to);
  entry.len = static_cast<uint32_t>(bytes);
  entry.user_data = mark;
  static_cast<io_uring_sqe*>(entries_.at)[place] = entry;
  order_[place] = place;
  store(tail_, *tail_ + 1);
  ++added_;
}

bool ReadRing::wait() {
  const long started = syscall(SYS_io_uring_enter, ring_, added_, 1, IORING_ENTER_GETEVENTS, nullptr, 0);
  if (started > 0) added_ -= static_cast<unsigned>(started);
  if (started >= 0 || errno == EINTR) return true;
  if (errno != EAGAIN && errno != EBUSY && errno != ENOMEM) return false;
  usleep(1000);  // the kernel lacks memory: again later
  return true;
}

bool ReadRing::take(EndedRead& ended) {
  const unsigned first = *head_;
  if (first == load(end_)) return false;
  const auto& entry = within<io_uring_cqe>(ended_.at, ends_at_)[first & end_mask_];
  ended = {entry.user_data, entry.res};
  store(head_, first + 1);
  return true;
}

#else

std::unique_ptr<ReadRing> ReadRing::make(unsigned, uint8_t*, size_t) { return nullptr; }
ReadRing::~ReadRing() = default;
bool ReadRing::enable() { return false; }
void ReadRing::add(int, uint64_t, size_t, uint8_t*, uint64_t) {}
bool ReadRing::wait() { return false; }
bool ReadRing::take(EndedRead&) { return false; }

#endif

}  // namespace saec
