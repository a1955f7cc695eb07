// Strings of many keys, by the instructions that the processor has.
#pragma once

#include "keys/static_function.h"

namespace saec {

// starts: IN first bit of each key's block. strings: OUT count.
using ReadStrings = void (*)(const StaticFunction& function, const uint64_t* hashes,
                             const uint64_t* starts, size_t count, FunctionString* strings);

// name is "auto", "scalar" or "avx512"; null if the processor cannot run it.
ReadStrings choose_read_strings(const char* name);

// Null where not compiled for this processor.
extern const ReadStrings kReadStringsAvx512;

// Calls take(i, string) for the string of each hash, in order.
template <typename Take>
void look_up(const StaticFunction& function, ReadStrings read, const uint64_t* hashes, size_t count,
             const Take& take) {
  constexpr size_t kAhead = 32, kLine = 64;  // keys, and bytes, that are on their way at once
  if (function.blocks == 0) {
    for (size_t i = 0; i < count; ++i) take(i, FunctionString{0, 0});
    return;
  }
  const uint64_t bytes = function.bit_count / 8 / function.blocks;
  uint64_t blocks[kAhead], starts[kAhead];
  FunctionString strings[kAhead];
  for (size_t first = 0; first < count; first += kAhead) {
    const size_t used = std::min(count - first, kAhead);
    for (size_t i = 0; i < used; ++i) {
      blocks[i] = block_of(hashes[first + i], function.blocks);
      __builtin_prefetch(directory_group(function, blocks[i]) + 8 + blocks[i] % kGroup * 2);
      __builtin_prefetch(directory_group(function, blocks[i]));
    }
    for (size_t i = 0; i < used; ++i) {
      starts[i] = block_start(function, blocks[i]);
      for (uint64_t byte = 0; byte < bytes + kLine; byte += kLine)
        __builtin_prefetch(function.bits + starts[i] / 8 + byte);
    }
    read(function, hashes + first, starts, used, strings);
    for (size_t i = 0; i < used; ++i) take(first + i, strings[i]);
  }
}

}  // namespace saec
