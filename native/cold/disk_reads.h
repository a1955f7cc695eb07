// Reads of a disk, many at a time: it reaches its full throughput only with far more reads under way than there are
// cores. Unlike in workers.h, calls from several threads run concurrently.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>

namespace saec {

// Bytes [from, from + asked) of a file. The file may end within them, but not before the first `wanted`.
struct DiskRead {
  int descriptor;
  uint64_t from;
  size_t asked, wanted;
  uint8_t* to;  // OUT asked bytes; null: to a buffer that ReadJob::done() gets
};

// The reads of a call. Its functions are called on several threads, and must not throw.
class ReadJob {
 public:
  virtual size_t count() const = 0;
  virtual DiskRead at(size_t number) const = 0;
  // Whether the file is still the same: 0, or an error number. It is called after reads of a file and before done(),
  // once for several reads that end together.
  virtual int check(int descriptor) const = 0;
  // data: IN the bytes, during the call. error: an error number, or 0.
  virtual void done(size_t number, const uint8_t* data, int error) = 0;

 protected:
  ~ReadJob() = default;
};

constexpr int kFileEnds = ENODATA;  // the error number of a file that ends before the bytes that are wanted

class DiskReads {
 public:
  virtual ~DiskReads() = default;
  // Calls done() once for each read, and returns when all these calls have ended.
  virtual void run(ReadJob& job) = 0;
  // The most bytes of its buffers.
  virtual size_t memory() const = 0;
  // Where reads wait: "io_uring" or "threads".
  virtual const char* way() const = 0;
};

// buffer_bytes: the most that a read without a place of its own may ask for, a multiple of the page size; buffers take
// at most `memory` bytes, but there are a few in any case. By io_uring where the system allows it, otherwise by
// threads, as the environment variable SAEC_READS=threads demands.
std::unique_ptr<DiskReads> make_disk_reads(size_t buffer_bytes, size_t memory);

// The whole of a read on the calling thread, of which the first `had` bytes are there. Returns an error number, or 0.
int read_on_thread(const DiskRead& read, uint8_t* to, size_t had = 0);

// A buffer for reads without a place of their own, which is allocated when one needs it.
class HeapBuffer {
 public:
  explicit HeapBuffer(size_t bytes) : bytes_(bytes) {}
  ~HeapBuffer();
  HeapBuffer(const HeapBuffer&) = delete;
  HeapBuffer& operator=(const HeapBuffer&) = delete;
  uint8_t* get();  // null if there is no memory

 private:
  const size_t bytes_;
  uint8_t* at_ = nullptr;
};

// A read of a job, from its start to done(), on the calling thread.
void do_read(ReadJob& job, size_t number, HeapBuffer& buffer);

}  // namespace saec
