#include "system/workers.h"

#include <pthread.h>

#include <system_error>
#include <thread>

namespace saec {
namespace {

// Never deleted, since its threads may still run while the process ends.
std::atomic<Workers*> pool_of_process{nullptr};

// A forked child has one thread. Locks that others held in the parent stay locked, so the child must
// not touch the parent's pool.
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, [] { pool_of_process = nullptr; });

thread_local bool at_work = false;  // whether this thread is inside work(), or does all parts of its calls

}  // namespace

Workers& Workers::here() {
  Workers* pool = pool_of_process;
  if (pool) return *pool;
  auto* made = new Workers;
  if (pool_of_process.compare_exchange_strong(pool, made)) return *made;
  delete made;  // another thread has set the pool first; this one has no threads yet
  return *pool;
}

void Workers::use_calling_thread() { at_work = true; }

void Workers::run(size_t parts, size_t threads, const std::function<void(size_t)>& work) {
  const size_t used = std::min({parts, threads, kMostThreads});
  std::unique_lock busy(busy_, std::defer_lock);
  if (used < 2 || at_work || !busy.try_lock()) {
    for (size_t part = 0; part < parts; ++part) work(part);
    return;
  }
  Parts all(parts, used, work);
  wake(used - 1, all);
  at_work = true;
  all.take(0);
  at_work = false;
  finish();
  all.rethrow();
}

void Workers::wake(size_t helpers, Parts& parts) {
  {
    const std::lock_guard lock(mutex_);
    try {
      for (; threads_ < helpers; ++threads_)
        std::thread([this, number = threads_, seen = round_] { loop(number, seen); }).detach();
    } catch (const std::system_error&) {
      // The system allows no more threads: the existing ones do the work.
    }
    parts_ = &parts;
    helpers_ = helpers;
    ++round_;
  }
  wake_.notify_all();
}

void Workers::finish() {
  std::unique_lock lock(mutex_);
  parts_ = nullptr;
  done_.wait(lock, [this] { return active_ == 0; });
}

void Workers::loop(size_t number, size_t seen) {
  at_work = true;
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [&] { return round_ != seen; });
    seen = round_;
    if (!parts_ || number >= helpers_) continue;
    Parts& parts = *parts_;
    ++active_;
    lock.unlock();
    parts.take(number + 1);
    lock.lock();
    if (--active_ == 0) done_.notify_one();
  }
}

}  // namespace saec
