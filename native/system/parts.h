// The parts of a call: any idle thread takes the next one, and each is done once.
#pragma once

#include <atomic>
#include <cstddef>
#include <exception>
#include <functional>
#include <mutex>

namespace saec {

class Parts {
 public:
  Parts(size_t count, const std::function<void(size_t)>& work) : count_(count), work_(work) {}

  // Called on each thread. If work(part) throws, parts that have not started are left out.
  void take() {
    try {
      for (size_t part; (part = next_++) < count_;) work_(part);
    } catch (...) {
      next_ = count_;
      const std::lock_guard lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
    }
  }

  // Throws the first exception, if there was one. To be called when all threads have finished.
  void rethrow() const {
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  const size_t count_;
  const std::function<void(size_t)>& work_;
  std::atomic<size_t> next_{0};
  std::mutex mutex_;
  std::exception_ptr failure_;
};

}  // namespace saec
