// Reads by threads that wait for one read each, for systems without io_uring.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "cold/disk_reads.h"

namespace saec {

// The calling thread reads, and up to kMost - 1 others. Concurrent calls share these in turns.
class ThreadReads final : public DiskReads {
 public:
  // The most concurrent reads. More reads of 4 kB gave no more throughput on the disks measured.
  static constexpr size_t kMost = 64;

  ThreadReads(size_t buffer_bytes, size_t depth)
      : buffer_bytes_(buffer_bytes), threads_most_(depth < kMost ? depth : kMost) {}
  ~ThreadReads() override;
  void run(ReadJob& job) override;
  size_t memory() const override { return threads_most_ * buffer_bytes_; }
  const char* way() const override { return "threads"; }

 private:
  struct Open {
    ReadJob& job;
    const size_t count;
    std::atomic<size_t> next{0};
    size_t threads = 0;  // threads that work on the job, without the caller's
    std::condition_variable done{};
  };

  void start(size_t threads);
  void take(Open& open, size_t most) const;
  void loop();

  const size_t buffer_bytes_, threads_most_;
  std::mutex mutex_;  // guards all members below, and the jobs
  std::condition_variable wake_;
  std::deque<Open*> open_;  // jobs with reads that have not started, or whose caller has not yet returned
  std::vector<std::thread> threads_;
  bool stopped_ = false;
};

}  // namespace saec
