// Threads that wait for disk reads. A disk reaches its full throughput only with many concurrent reads, far more than
// there are cores. Unlike in workers.h, calls from several threads run concurrently.
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
  // The most concurrent reads. More reads of 4 kB gave no more throughput on the disks measured (docs/performance.md).
  static constexpr size_t kMost = 64;

  ReadThreads() = default;
  ~ReadThreads();
  ReadThreads(const ReadThreads&) = delete;
  ReadThreads& operator=(const ReadThreads&) = delete;

  // Calls read(i) once for each i in [0, count), on the calling thread and on up to kMost - 1 others, and returns when
  // all reads have ended. Concurrent calls share the threads in turns. read() must not throw.
  void run(size_t count, const std::function<void(size_t)>& read);

 private:
  struct Job {
    Job(size_t reads, const std::function<void(size_t)>& each) : read(each), count(reads) {}

    const std::function<void(size_t)>& read;
    const size_t count;
    std::atomic<size_t> next{0};
    size_t threads = 0;  // threads that work on the job, without the caller's
    std::condition_variable done;
  };

  void start(size_t threads);
  static void take(Job& job, size_t most);
  void loop();

  std::mutex mutex_;  // guards all members below, and the jobs
  std::condition_variable wake_;
  std::deque<Job*> jobs_;  // jobs with reads that have not started, or whose caller has not yet returned
  std::vector<std::thread> threads_;
  bool stopped_ = false;
};

}  // namespace saec
