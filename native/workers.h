// Threads that sleep between calls, for work of a tenth of a millisecond and more.
//
// Not OpenMP's: those wait busily, and take the processor from the layers of a model that follow.
#pragma once

#include <unistd.h>

#include <condition_variable>
#include <cstddef>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

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

  // work(part) for each part, the first on the calling thread. While another caller has the
  // threads, or there are none to be had, the calling thread does it all.
  void run(size_t parts, const std::function<void(size_t)>& work) {
    const std::unique_lock busy(busy_, std::try_to_lock);
    const size_t helped = parts > 1 && busy.owns_lock() ? start(parts - 1, work) : 0;
    work(0);
    for (size_t part = helped + 1; part < parts; ++part) work(part);
    if (helped == 0) return;
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return left_ == 0; });
    work_ = nullptr;
  }

 private:
  // Gives how many threads take a part, of at most `wanted`.
  size_t start(size_t wanted, const std::function<void(size_t)>& work) {
    std::unique_lock lock(mutex_);
    try {
      while (threads_ < wanted) {
        std::thread([this, number = threads_, seen = round_] { loop(number, seen); }).detach();
        ++threads_;
      }
    } catch (const std::system_error&) {
      // No more threads to be had.
    }
    const size_t helped = wanted < threads_ ? wanted : threads_;
    work_ = &work;
    helped_ = left_ = helped;
    ++round_;
    lock.unlock();
    wake_.notify_all();
    return helped;
  }

  void loop(size_t number, size_t seen) {
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return round_ != seen; });
      seen = round_;
      if (number >= helped_) continue;
      const auto* work = work_;
      lock.unlock();
      (*work)(number + 1);
      lock.lock();
      if (--left_ == 0) done_.notify_one();
    }
  }

  std::mutex busy_;   // held by the caller whose work the threads do
  std::mutex mutex_;  // of all that follows
  std::condition_variable wake_, done_;
  const std::function<void(size_t)>* work_ = nullptr;
  size_t threads_ = 0, helped_ = 0, left_ = 0, round_ = 0;
};

}  // namespace saec
