#include "keys/keyed_table.h"

#include <cstring>

#include "system/simd.h"

namespace saec {

Codewords::Found Codewords::find_in(uint32_t group, uint64_t word) const {
  const Place place = place_from(group >> kLengthBits, std::min(word, last_));
  return {order_[place.place], runs_[place.run].length};
}

const KeyedKernels& choose_keyed(const char* name) {
  name = wanted_simd(name);
  [[maybe_unused]] const bool any = std::strcmp(name, "auto") == 0;
#if defined(__x86_64__)
  if ((any || std::strcmp(name, "avx512") == 0) && kAvx512Keyed.pool && has_avx512()) return kAvx512Keyed;
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
  if ((any || std::strcmp(name, "avx2") == 0) && kAvx2Keyed.pool && avx2) return kAvx2Keyed;
#endif
  return kScalarKeyed;
}

}  // namespace saec
