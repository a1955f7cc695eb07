#include "keys/read_strings.h"

#include "system/simd.h"

namespace saec {
namespace {

void read_strings(const StaticFunction& function, const uint64_t* hashes, const uint64_t* starts,
                  size_t count, FunctionString* strings) {
  for (size_t i = 0; i < count; ++i) strings[i] = read_string(function, hashes[i], starts[i]);
}

}  // namespace

bool has_avx512() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("avx512vpopcntdq");
#else
  return false;
#endif
}

StringReaders choose_readers(const char* name) {
  name = wanted_simd(name);
  const bool any = std::strcmp(name, "auto") == 0;
  if ((any || std::strcmp(name, "avx512") == 0) && kReadStringsAvx512 && has_avx512())
    return {kReadStringsAvx512, kReadWordsAvx512};
  const bool plain = std::strcmp(name, "scalar") == 0 || std::strcmp(name, "avx2") == 0;
  return {any || plain ? &read_strings : nullptr, nullptr};
}

}  // namespace saec
