#include "cold/read_threads.h"

#include <algorithm>
#include <system_error>

namespace saec {

ReadThreads::~ReadThreads() {
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ReadThreads::run(size_t count, const std::function<void(size_t)>& read) {
  Job job(count, read);
  const size_t helpers = std::min(count, kMost) - (count > 0);
  if (helpers > 0) {
    const std::lock_guard lock(mutex_);
    jobs_.push_back(&job);
    start(helpers);
  }
  for (size_t i = 0; i < helpers; ++i) wake_.notify_one();
  take(job, count);
  if (helpers == 0) return;
  std::unique_lock lock(mutex_);
  std::erase(jobs_, &job);
  job.done.wait(lock, [&] { return job.threads == 0; });
}

void ReadThreads::start(size_t threads) {
  try {
    while (threads_.size() < threads) threads_.emplace_back([this] { loop(); });
  } catch (const std::system_error&) {
    // The system allows no more threads: the existing ones read.
  }
}

// Does at most `most` of the reads that have not started.
void ReadThreads::take(Job& job, size_t most) {
  for (size_t i = 0; i < most; ++i) {
    const size_t number = job.next++;
    if (number >= job.count) return;
    job.read(number);
  }
}

void ReadThreads::loop() {
  constexpr size_t kTurn = 16;  // reads that a thread does for one job before it takes the next job
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return stopped_ || !jobs_.empty(); });
    if (stopped_) return;
    Job& job = *jobs_.front();
    jobs_.pop_front();
    if (job.next >= job.count) continue;  // all reads have started; other threads finish them
    jobs_.push_back(&job);
    ++job.threads;
    lock.unlock();
    take(job, kTurn);
    lock.lock();
    if (--job.threads == 0) job.done.notify_one();
  }
}

}  // namespace saec
