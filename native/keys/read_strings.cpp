#include "keys/read_strings.h"

namespace saec {
namespace {

void read_strings(const StaticFunction& function, const uint64_t* hashes, const uint64_t* starts,
                  size_t count, FunctionString* strings) {
  for (size_t i = 0; i < count; ++i) strings[i] = read_string(function, hashes[i], starts[i]);
}

}  // namespace

ReadStrings choose_read_strings(const char* name) {
  const bool any = std::strcmp(name, "auto") == 0;
#if defined(__x86_64__)
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vpopcntdq");
  if ((any || std::strcmp(name, "avx512") == 0) && avx512 && kReadStringsAvx512)
    return kReadStringsAvx512;
#endif
  return any || std::strcmp(name, "scalar") == 0 ? &read_strings : nullptr;
}

}  // namespace saec
