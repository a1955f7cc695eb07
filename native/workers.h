// Threads that sleep between calls, for work of a tenth of a millisecond and more.
//
// Not OpenMP's: those wait busily, and take the processor from the layers of a model that follow.
#pragma once

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>

namespace saec {

class Workers {
 public:
  // The process's own. A child of a fork has none of its parent's threads, and gets new ones.
  static Workers& here() {
    static std::mutex guard;
    static Workers* workers = nullptr;  // never ended: threads may outlive what ends with a process
    static pid_t owner = 0;
    const std::lock_guard lock(guard);
    if (owner != getpid()) {
      workers = new Workers;
      owner = getpid();
    }
    return *workers;
  }

  // work(part) for each part, by the calling thread and up to threads - 1 others. To wake one takes
  // as long as a part or more, so whoever has nothing to do takes the next part; what is done before
  // another thread is awake is done without it. So is all, while another caller has the threads.
  void run(size_t parts, size_t threads, const std::function<void(size_t)>& work) {
    const std::unique_lock busy(busy_, std::try_to_lock);
    if (threads < 2 || !busy.owns_lock()) {
      for (size_t part = 0; part < parts; ++part) work(part);
      return;
    }
    next_ = 0;
    wake(parts, threads - 1, work);
    take_parts(parts, work);
    std::unique_lock lock(mutex_);
    work_ = nullptr;
    done_.wait(lock, [this] { return active_ == 0; });
  }

 private:
  void take_parts(size_t parts, const std::function<void(size_t)>& work) {
    for (size_t part; (part = next_++) < parts;) work(part);
  }

  void wake(size_t parts, size_t helpers, const std::function<void(size_t)>& work) {
    {
      const std::lock_guard lock(mutex_);
      try {
        for (; threads_ < helpers; ++threads_)
          std::thread([this, number = threads_, seen = round_] { loop(number, seen); }).detach();
      } catch (const std::system_error&) {
        // No more threads to be had.
      }
      work_ = &work;
      parts_ = parts;
      helpers_ = helpers;
      ++round_;
    }
    wake_.notify_all();
  }

  void loop(size_t number, size_t seen) {
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return round_ != seen; });
      seen = round_;
      if (!work_ || number >= helpers_) continue;
      const auto& work = *work_;
      const size_t parts = parts_;
      ++active_;
      lock.unlock();
      take_parts(parts, work);
      lock.lock();
      if (--active_ == 0) done_.notify_one();
    }
  }

  std::mutex busy_;               // held by the caller whose work the threads do
  std::atomic<size_t> next_{0};   // part to be taken
  std::mutex mutex_;              // of all that follows
  std::condition_variable wake_, done_;
  const std::function<void(size_t)>* work_ = nullptr;  // while there is any
  size_t parts_ = 0, helpers_ = 0;
  size_t threads_ = 0, active_ = 0, round_ = 0;
};

}  // namespace saec
