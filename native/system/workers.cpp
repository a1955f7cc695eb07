#include "system/workers.h"

#include <pthread.h>

#include <system_error>
#include <thread>
#include <utility>

namespace saec {
namespace {

// Never deleted: its threads may still run while the process ends.
std::atomic<Workers*> pool_of_process{nullptr};

// A forked child has one thread. Locks that others held in the parent stay locked, so the child must
// not touch the parent's pool.
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, [] { pool_of_process = nullptr; });

thread_local bool at_work = false;  // whether this thread is inside work()

}  // namespace

Workers& Workers::here() {
  Workers* pool = pool_of_process;
  if (pool) return *pool;
  auto* made = new Workers;
  if (pool_of_process.compare_exchange_strong(pool, made)) return *made;
  delete made;  // another thread was faster; this one has no threads yet
  return *pool;
}

void Workers::run(size_t parts, size_t threads, const std::function<void(size_t)>& work) {
  const size_t used = std::min({parts, threads, kMostThreads});
  std::unique_lock busy(busy_, std::defer_lock);
  if (used < 2 || at_work || !busy.try_lock()) {
    for (size_t part = 0; part < parts; ++part) work(part);
    return;
  }
  wake(parts, used - 1, work);
  at_work = true;
  take_parts(parts, work);
  at_work = false;
  finish();
}

void Workers::wake(size_t parts, size_t helpers, const std::function<void(size_t)>& work) {
  {
    const std::lock_guard lock(mutex_);
    try {
      for (; threads_ < helpers; ++threads_)
        std::thread([this, number = threads_, seen = round_] { loop(number, seen); }).detach();
    } catch (const std::system_error&) {
      // The system has no more threads. Those that there are do the work.
    }
    next_ = 0;
    work_ = &work;
    parts_ = parts;
    helpers_ = helpers;
    ++round_;
  }
  wake_.notify_all();
}

void Workers::take_parts(size_t parts, const std::function<void(size_t)>& work) {
  try {
    for (size_t part; (part = next_++) < parts;) work(part);
  } catch (...) {
    next_ = parts;
    const std::lock_guard lock(mutex_);
    if (!failure_) failure_ = std::current_exception();
  }
}

void Workers::finish() {
  std::unique_lock lock(mutex_);
  work_ = nullptr;
  done_.wait(lock, [this] { return active_ == 0; });
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
}

void Workers::loop(size_t number, size_t seen) {
  at_work = true;
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

}  // namespace saec
