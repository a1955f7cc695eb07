// Codes of 1 to 32 bits, packed without gaps, lowest bit first.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <stdexcept>

namespace saec {

// Bytes that follow the last code, so that eight bytes can be read wherever a code starts.
constexpr size_t kCodePadding = 7;

// Throws where a bit's number would not fit size_t: wrapped round, a short buffer would look long enough.
inline size_t packed_bytes(size_t count, unsigned bits) {
  if (count > (std::numeric_limits<size_t>::max() - 7) / std::max(bits, 1u))
    throw std::length_error("too many codes to be addressed");
  return (count * bits + 7) / 8 + kCodePadding;
}

inline uint32_t read_code(const uint8_t* data, size_t index, unsigned bits) {
  const size_t bit = index * bits;
  uint64_t word;
  std::memcpy(&word, data + bit / 8, sizeof word);
  return static_cast<uint32_t>((word >> (bit % 8)) & ((uint64_t{1} << bits) - 1));
}

// codes: IN count, each below 2^bits. data: OUT packed_bytes(count, bits), zeroed by the caller.
inline void pack_codes(const uint32_t* codes, size_t count, unsigned bits, uint8_t* data) {
  for (size_t i = 0; i < count; ++i) {
    const size_t bit = i * bits;
    uint64_t word;
    std::memcpy(&word, data + bit / 8, sizeof word);
    word |= static_cast<uint64_t>(codes[i]) << (bit % 8);
    std::memcpy(data + bit / 8, &word, sizeof word);
  }
}

// Position of the first id outside [0, limit), or count if there is none.
inline size_t first_outside(const int64_t* ids, size_t count, size_t limit) {
  constexpr size_t kBlock = 4096;
  for (size_t first = 0; first < count; first += kBlock) {
    const size_t last = std::min(count, first + kBlock);
    bool outside = false;  // one vectorised pass; only a bad block is looked at id by id
    for (size_t i = first; i < last; ++i) outside |= static_cast<uint64_t>(ids[i]) >= limit;
    if (!outside) continue;
    for (size_t i = first; i < last; ++i)
      if (static_cast<uint64_t>(ids[i]) >= limit) return i;
  }
  return count;
}

// codes: OUT count.
inline void gather_codes(const uint8_t* data, unsigned bits, const int64_t* ids, size_t count,
                         uint32_t* codes) {
  for (size_t i = 0; i < count; ++i) codes[i] = read_code(data, static_cast<size_t>(ids[i]), bits);
}

inline void unpack_codes(const uint8_t* data, unsigned bits, size_t count, uint32_t* codes) {
  for (size_t i = 0; i < count; ++i) codes[i] = read_code(data, i, bits);
}

}  // namespace saec
