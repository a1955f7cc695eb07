#include "cold/disk_reads.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "cold/ring_reads.h"
#include "cold/thread_reads.h"

namespace saec {
namespace {

constexpr size_t kLeastDepth = 8, kMostDepth = 128;
constexpr size_t kAlignment = 4096;  // enough for direct reads

bool threads_wanted() {
  const char* wanted = std::getenv("SAEC_READS");
  return wanted && std::strcmp(wanted, "threads") == 0;
}

}  // namespace

std::unique_ptr<DiskReads> make_disk_reads(size_t buffer_bytes, size_t memory) {
  const size_t fits = buffer_bytes > 0 ? memory / (RingReads::kThreads * buffer_bytes) : kMostDepth;
  const auto depth = static_cast<unsigned>(std::clamp(fits, kLeastDepth, kMostDepth));
  if (!threads_wanted())
    if (auto reads = RingReads::make(buffer_bytes, depth)) return reads;
  return std::make_unique<ThreadReads>(buffer_bytes, depth);
}

int read_on_thread(const DiskRead& read, uint8_t* to, size_t had) {
  while (had < read.wanted) {
    const ssize_t got = pread(read.descriptor, to + had, read.asked - had, static_cast<off_t>(read.from + had));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno;
    if (got == 0) return kFileEnds;
    had += static_cast<size_t>(got);
  }
  return 0;
}

HeapBuffer::~HeapBuffer() { std::free(at_); }

uint8_t* HeapBuffer::get() {
  if (!at_) at_ = static_cast<uint8_t*>(std::aligned_alloc(kAlignment, bytes_));
  return at_;
}

void do_read(ReadJob& job, size_t number, HeapBuffer& buffer) {
  DiskRead read = job.at(number);
  if (!read.to) read.to = buffer.get();
  int error = read.to ? read_on_thread(read, read.to) : ENOMEM;
  if (!error) error = job.check(read.descriptor);
  job.done(number, read.to, error);
}

}  // namespace saec
