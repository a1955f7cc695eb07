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
  if (count == 0) return;
  Job job{read, count};
  std::unique_lock lock(mutex_);
  start(std::min(count, kMost) - 1);
  jobs_.push_back(&job);
  for (size_t i = 1; i < std::min(count, kMost); ++i) wake_.notify_one();
  while (job.next < job.count) take_one(job, lock);
  job.done.wait(lock, [&] { return job.ended == job.count; });
}

void ReadThreads::start(size_t threads) {
  try {
    while (threads_.size() < threads) threads_.emplace_back([this] { loop(); });
  } catch (const std::system_error&) {
    // The system has no more threads. Those that there are read.
  }
}

// The next read of a job; a job without further ones leaves the list.
void ReadThreads::take_one(Job& job, std::unique_lock<std::mutex>& lock) {
  const size_t number = job.next++;
  if (job.next == job.count) std::erase(jobs_, &job);
  lock.unlock();
  job.read(number);
  lock.lock();
  if (++job.ended == job.count) job.done.notify_one();
}

void ReadThreads::loop() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return stopped_ || !jobs_.empty(); });
    if (stopped_) return;
    Job& job = *jobs_.front();
    jobs_.pop_front();  // others come first next time
    jobs_.push_back(&job);
    take_one(job, lock);
  }
}

}  // namespace saec
