#include "system/teams.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>

#include "system/parts.h"
#include "system/workers.h"

namespace saec {
namespace {

std::atomic<TorchParallelFor> parallel_for{nullptr};

[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, [] { parallel_for = nullptr; });

void run_here(size_t parts, size_t threads, const std::function<void(size_t)>& work) {
  Workers::here().run(parts, threads, work);
}

void run_in_pytorch(size_t count, size_t threads, const std::function<void(size_t)>& work) {
  const size_t used = std::min(count, threads);
  const TorchParallelFor run = parallel_for;
  if (!run || used < 2) return run_here(count, threads, work);
  Parts parts(count, used, work);
  run(0, static_cast<int64_t>(used), 1,
      [](int64_t begin, int64_t, void* context) {
        static_cast<Parts*>(context)->take(static_cast<size_t>(begin));
      },
      &parts);
  // This thread does the parts that are left, all of them if PyTorch could start no thread.
  parts.take(0);
  parts.rethrow();
}

constexpr Team kOwn{run_here, size_t{1} << 13, size_t{1} << 12};
constexpr Team kPytorch{run_in_pytorch, size_t{1} << 11, size_t{1} << 10};

}  // namespace

const Team& own_team() { return kOwn; }

const Team& pytorch_team() { return parallel_for.load() ? kPytorch : kOwn; }

void set_pytorch_team(TorchParallelFor function) { parallel_for = function; }

}  // namespace saec
