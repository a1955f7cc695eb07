// Which instruction set "auto" stands for.
#pragma once

#include <cstdlib>
#include <cstring>

namespace saec {

// name, unless that is "auto" and the environment variable SAEC_SIMD says something else: scalar, avx2
// or avx512. It is read once.
inline const char* wanted_simd(const char* name) {
  static const char* const forced = std::getenv("SAEC_SIMD");
  return forced && *forced && std::strcmp(name, "auto") == 0 ? forced : name;
}

}  // namespace saec
