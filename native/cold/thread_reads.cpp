#include "cold/thread_reads.h"

#include <algorithm>
#include <exception>

namespace saec {

ThreadReads::~ThreadReads() {
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadReads::run(ReadJob& job) {
  Open open{job, job.count()};
  const size_t helpers = std::min(open.count, threads_most_) - (open.count > 0);
  if (helpers > 0) {
    const std::lock_guard lock(mutex_);
    open_.push_back(&open);
    start(helpers);
  }
  for (size_t i = 0; i < helpers; ++i) wake_.notify_one();
  take(open, open.count);
  if (helpers == 0) return;
  std::unique_lock lock(mutex_);
  std::erase(open_, &open);
  open.done.wait(lock, [&] { return open.threads == 0; });
}

void ThreadReads::start(size_t threads) {
  try {
    while (threads_.size() < threads) threads_.emplace_back([this] { loop(); });
  } catch (const std::exception&) {
    // The system allows no more threads, or has no memory for them: the existing ones read.
  }
}

// Does at most `most` of the reads that have not started.
void ThreadReads::take(Open& open, size_t most) const {
  HeapBuffer buffer(buffer_bytes_);
  for (size_t i = 0; i < most; ++i) {
    const size_t number = open.next++;
    if (number >= open.count) return;
    do_read(open.job, number, buffer);
  }
}

void ThreadReads::loop() {
  constexpr size_t kTurn = 16;  // reads that a thread does for one job before it takes the next job
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return stopped_ || !open_.empty(); });
    if (stopped_) return;
    Open& open = *open_.front();
    open_.pop_front();
    if (open.next >= open.count) continue;  // all reads have started; other threads finish them
    open_.push_back(&open);
    ++open.threads;
    lock.unlock();
    take(open, kTurn);
    lock.lock();
    if (--open.threads == 0) open.done.notify_one();
  }
}

}  // namespace saec
