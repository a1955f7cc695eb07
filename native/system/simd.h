// The instruction set that "auto" selects.
#pragma once

#include <cstdlib>
#include <cstring>

namespace saec {

// Returns `name`; if that is "auto" and the environment variable SAEC_SIMD is set (to scalar, avx2 or avx512),
// returns its value, which is read once.
inline const char* wanted_simd(const char* name) {
  static const char* const forced = std::getenv("SAEC_SIMD");
  return forced && *forced && std::strcmp(name, "auto") == 0 ? forced : name;
}

}  // namespace saec
