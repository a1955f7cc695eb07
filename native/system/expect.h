// Checks of arguments; a message names the value, the limit and the place.
#pragma once

#include <cstdint>
#include <sstream>
#include <stdexcept>

namespace saec {

// parts: texts and numbers, which are joined to the message.
template <typename... Parts>
[[noreturn, gnu::cold, gnu::noinline]] void refuse(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

template <typename... Parts>
inline void expect(bool holds, const Parts&... parts) {
  if (!holds) [[unlikely]] refuse(parts...);
}

// what: names both numbers, as in "hashes and rows differ in length".
inline void expect_equal(uint64_t one, uint64_t other, const char* what) {
  expect(one == other, what, ": ", one, " and ", other);
}

}  // namespace saec
