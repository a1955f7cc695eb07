// Threads that wait for a disk. A disk reaches its throughput only with many reads under way, far more
// than there are cores, and calls from several threads must not wait for each other as in workers.h.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace saec {

class ReadThreads {
 public:
  // Reads of 4 kB under way at a time. More did not read more per second from the disks measured
  // (docs/performance.md).
  static constexpr size_t kMost = 64;

  ReadThreads() = default;
  ~ReadThreads();
  ReadThreads(const ReadThreads&) = delete;
  ReadThreads& operator=(const ReadThreads&) = delete;

  // Calls read(i) once for each i in [0, count), on the calling thread and on up to kMost - 1 others;
  // returns when all have ended. Calls of several threads take turns. read() must not throw.
  void run(size_t count, const std::function<void(size_t)>& read);

 private:
  struct Job {
    Job(size_t reads, const std::function<void(size_t)>& each) : read(each), count(reads) {}

    const std::function<void(size_t)>& read;
    const size_t count;
    std::atomic<size_t> next{0};
    size_t threads = 0;  // at work on it, besides the caller's
    std::condition_variable done;
  };

  void start(size_t threads);
  static void take(Job& job, size_t most);
  void loop();

  std::mutex mutex_;  // guards all members below, and the jobs
  std::condition_variable wake_;
  std::deque<Job*> jobs_;  // with reads that have not begun, or whose caller has not seen their end
  std::vector<std::thread> threads_;
  bool stopped_ = false;
};

}  // namespace saec
