// Teams: the threads that share the work of a lookup.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

namespace saec {

struct Team {
  // See Workers::run.
  void (*run)(size_t parts, size_t threads, const std::function<void(size_t)>& work);
  size_t ids_per_thread;  // an additional thread is used for each so many ids
  size_t ids_per_part;
};

// The threads of workers.h, which sleep between calls.
const Team& own_team();

// The threads of PyTorch's own operations. Between operations they spin on their cores, where other threads would
// have to wait. Returns own_team() if set_pytorch_team() has not been called, and in forked children, which do not
// have PyTorch's threads.
const Team& pytorch_team();

// `torch_parallel_for` of PyTorch's stable interface (2.10): calls work(begin, end, context) on several threads, for
// ranges that make up [begin, end). Returns 0 on success.
using TorchParallelFor = int32_t (*)(int64_t begin, int64_t end, int64_t grain,
                                     void (*work)(int64_t, int64_t, void*), void* context);
void set_pytorch_team(TorchParallelFor parallel_for);

}  // namespace saec
