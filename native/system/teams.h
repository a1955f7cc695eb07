// Which threads share the work of a lookup.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

namespace saec {

struct Team {
  // As Workers::run.
  void (*run)(size_t parts, size_t threads, const std::function<void(size_t)>& work);
  size_t ids_per_thread;  // fewer are not worth another thread
  size_t ids_per_part;
};

// The threads of workers.h, which sleep between calls.
const Team& own_team();

// Those of PyTorch, where its operations wait for the next one: on cores that they keep busy meanwhile,
// a thread of ours would wait for its turn. The own team, if PyTorch has not said how to call it, and in
// forked children, where its threads are missing.
const Team& pytorch_team();

// `torch_parallel_for` of PyTorch's stable interface (2.10): calls work(begin, end, context) for ranges that
// make up [begin, end), on several threads. 0 if that went well.
using TorchParallelFor = int32_t (*)(int64_t begin, int64_t end, int64_t grain,
                                     void (*work)(int64_t, int64_t, void*), void* context);
void set_pytorch_team(TorchParallelFor parallel_for);

}  // namespace saec
