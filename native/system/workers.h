// A pool of threads that sleep between calls, for work of at least a tenth of a millisecond.
//
// OpenMP's threads spin while they wait, and so on busy cores take time from the threads for which they wait. Within
// PyTorch, which has such threads anyway, lookups use them: see teams.h.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <mutex>

#include "system/parts.h"

namespace saec {

class Workers {
 public:
  // The most threads that work on one call, the calling thread among them.
  static constexpr size_t kMostThreads = 256;

  // The pool of this process. A forked child has none of its parent's threads and gets a pool of
  // its own.
  static Workers& here();

  // Calls work(part) once for each part in [0, parts), on the calling thread and on up to
  // threads - 1 others. Any idle thread takes the next part. Waking a thread takes at least as long as a short part,
  // so the calling thread may do all parts.
  //
  // The calling thread does all parts if the pool is busy with another call, or if run() is called within work(). If
  // work() throws, parts that have not started are skipped, and run() throws the first exception when all threads
  // have finished.
  void run(size_t parts, size_t threads, const std::function<void(size_t)>& work);

  // From now on the calling thread does all parts of its calls, because it is one of several that share the cores.
  static void use_calling_thread();

 private:
  void wake(size_t helpers, Parts& parts);
  void finish();
  void loop(size_t number, size_t seen);

  std::mutex busy_;   // held during a call that uses the threads
  std::mutex mutex_;  // guards all members below
  std::condition_variable wake_, done_;
  Parts* parts_ = nullptr;  // of the present call, or null
  size_t helpers_ = 0, threads_ = 0, active_ = 0, round_ = 0;
};

// Calls work(first, last) for ranges of `grain` items, the last one perhaps shorter, that make up
// [0, count). run: as Workers::run.
template <typename Run, typename Work>
void run_ranges(const Run& run, size_t count, size_t grain, int threads, const Work& work) {
  run((count + grain - 1) / grain, static_cast<size_t>(std::max(threads, 1)), [&](size_t part) {
    work(part * grain, std::min(count, (part + 1) * grain));
  });
}

// The same on the threads of this process's pool.
template <typename Work>
void for_ranges(size_t count, size_t grain, int threads, const Work& work) {
  const auto run = [](size_t parts, size_t used, const std::function<void(size_t)>& part) {
    Workers::here().run(parts, used, part);
  };
  run_ranges(run, count, grain, threads, work);
}

// The items of a range so that each thread has eight ranges, and a delayed thread delays little work; a multiple of 8.
inline size_t share_of(size_t count, int threads) {
  const auto shares = 8 * static_cast<size_t>(std::max(threads, 1));
  return (count / shares / 8 + 1) * 8;
}

// for_ranges for such ranges.
template <typename Work>
void for_shares(size_t count, int threads, const Work& work) {
  for_ranges(count, share_of(count, threads), threads, work);
}

}  // namespace saec
