// Reads by io_uring: few threads start all reads and take their results. If the system forbids it later, for example
// by a filter of system calls, each thread does its reads one by one.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "cold/disk_reads.h"
#include "cold/read_buffers.h"
#include "cold/read_ring.h"

namespace saec {

class RingReads final : public DiskReads {
 public:
  // Null if the system does not allow it. depth: the most reads under way of each thread.
  static std::unique_ptr<RingReads> make(size_t buffer_bytes, unsigned depth);
  ~RingReads() override;
  void run(ReadJob& job) override;
  size_t memory() const override { return kThreads * sides_[0]->buffers.bytes(); }
  const char* way() const override { return "io_uring"; }

  // A second thread starts reads while the first one takes results.
  static constexpr size_t kThreads = 2;

 private:
  // A job until its last read has ended.
  struct Open {
    ReadJob& job;
    const size_t count;
    size_t next = 0, left = count;
    std::condition_variable done{};
  };

  // A read under way.
  struct Started {
    Open* open;
    size_t number;
    DiskRead read;
  };

  // What a thread has.
  struct Side {
    Side(size_t buffer_bytes, unsigned depth);
    ~Side();
    size_t under_way() const { return started.size() - free.size(); }

    ReadBuffers buffers;
    std::vector<Started> started;
    std::vector<size_t> free;   // places in `started`, with a buffer each
    std::vector<size_t> fresh;  // of reads that are to start
    std::vector<Open*> ended;   // jobs of reads that have just ended
    int bell;                   // an eventfd that the thread reads, so that it wakes
    uint64_t rings = 0;
    std::unique_ptr<ReadRing> ring;
    std::thread thread;
  };

  explicit RingReads(size_t buffer_bytes) : buffer_bytes_(buffer_bytes) {}
  void start();
  void ring_bell(size_t sides) const;
  void loop(Side& side);
  bool fill(Side& side, bool wait);
  static void listen(Side& side);
  static DiskRead read_of(Side& side, size_t place);
  static void start_reads(Side& side);
  static bool take_results(Side& side);
  static void start_again(Side& side);
  static void read_one_by_one(Side& side, HeapBuffer& buffer);
  static void end_read(Side& side, size_t place, int error, int& checked, int& file_error);
  void end_jobs(Side& side);

  const size_t buffer_bytes_;
  std::mutex mutex_;              // guards all members below, and the counts of jobs
  std::condition_variable wake_;  // of threads whose ring the system does not allow
  std::deque<Open*> open_;        // jobs with reads that have not started
  bool stopped_ = false, running_ = false;
  std::vector<std::unique_ptr<Side>> sides_;
};

}  // namespace saec
