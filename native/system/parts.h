// Parts of a call, each done once. Every thread begins with a run of parts of its own, so that with equal
// calls a thread finds in its caches what it wrote before; then it helps the others.
#pragma once

#include <atomic>
#include <cstddef>
#include <exception>
#include <functional>
#include <mutex>
#include <vector>

namespace saec {

class Parts {
 public:
  Parts(size_t count, size_t threads, const std::function<void(size_t)>& work)
      : work_(work), runs_(threads) {
    for (size_t i = 0; i < threads; ++i) {
      runs_[i].next = count * i / threads;
      runs_[i].end = count * (i + 1) / threads;
    }
  }

  // Called on each thread with another number, and by one of them again for those that have not come. If
  // work(part) throws, parts that have not started are left out.
  void take(size_t thread) {
    try {
      for (size_t i = 0; i < runs_.size(); ++i) {
        Run& run = runs_[(thread + i) % runs_.size()];
        for (size_t part; (part = run.next++) < run.end;) work_(part);
      }
    } catch (...) {
      for (Run& run : runs_) run.next = run.end;
      const std::lock_guard lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
    }
  }

  // Throws the first exception, if there was one. To be called when all threads have finished.
  void rethrow() const {
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  struct Run {
    std::atomic<size_t> next;
    size_t end;
  };

  const std::function<void(size_t)>& work_;
  std::vector<Run> runs_;
  std::mutex mutex_;
  std::exception_ptr failure_;
};

}  // namespace saec
