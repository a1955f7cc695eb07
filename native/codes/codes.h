// Packs rows of codes of 0 to 32 bits without gaps, lowest bit first, and reads them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

#include "system/workers.h"

namespace saec {

// Bytes that follow the last row, so that eight bytes can be read wherever a code starts.
constexpr size_t kCodePadding = 7;

// Throws if bit positions would overflow size_t: with wrapped sizes, a short buffer would look long enough.
inline size_t packed_bytes(size_t count, size_t row_bits) {
  if (count > (std::numeric_limits<size_t>::max() - 7) / std::max(row_bits, size_t{1}))
    throw std::length_error(std::to_string(count) + " rows of codes of " + std::to_string(row_bits) +
                            " bits are too many to be addressed");
  return (count * row_bits + 7) / 8 + kCodePadding;
}

// The layout of a row: the codes of its parts one after the other, of widths[j] bits. A part of 0 bits has code 0.
struct RowLayout {
  const uint32_t* widths;
  size_t parts;
  size_t bits = 0;  // of a row

  RowLayout(const uint32_t* part_widths, size_t part_count)
      : widths(part_widths), parts(part_count) {
    for (size_t j = 0; j < parts; ++j) bits += widths[j];
  }
};

// Packs rows [first, last), where first is a multiple of 8. Writes only the bytes of these rows. Ranges that start
// at multiples of 8 share no byte, so several threads may write at once.
// codes[j]: IN the codes of part j, each below 2^widths[j]. data: OUT packed_bytes(last, layout.bits).
inline void pack_range(const uint32_t* const* codes, const RowLayout& layout, size_t first,
                       size_t last, uint8_t* data) {
  uint8_t* out = data + first / 8 * layout.bits;
  uint64_t held = 0;
  unsigned filled = 0;  // bits of held; below 32 between codes
  for (size_t i = first; i < last; ++i)
    for (size_t j = 0; j < layout.parts; ++j) {
      held |= static_cast<uint64_t>(codes[j][i]) << filled;
      filled += layout.widths[j];
      if (filled < 32) continue;
      std::memcpy(out, &held, 4);
      out += 4;
      held >>= 32;
      filled -= 32;
    }
  std::memcpy(out, &held, (filled + 7) / 8);
}

// Packs all rows. data: OUT packed_bytes(count, layout.bits); the padding is not written.
inline void pack_codes(const uint32_t* const* codes, const RowLayout& layout, size_t count,
                       int threads, uint8_t* data) {
  for_shares(count, threads,
             [&](size_t first, size_t last) { pack_range(codes, layout, first, last, data); });
}

inline uint64_t read_word(const uint8_t* data, size_t bit) {
  uint64_t word;
  std::memcpy(&word, data + bit / 8, sizeof word);
  return word >> (bit % 8);
}

inline uint32_t lowest_bits(uint64_t word, uint32_t width) {
  return static_cast<uint32_t>(word & ((uint64_t{1} << width) - 1));
}

// codes: OUT layout.parts.
inline void read_row(const uint8_t* data, const RowLayout& layout, size_t row, uint32_t* codes) {
  constexpr size_t kWord = 57;  // bits that a word holds, whatever the bit of a byte at which they start
  size_t bit = row * layout.bits;
  if (layout.bits >= 1 && layout.bits <= kWord) {
    uint64_t word = read_word(data, bit);
    for (size_t j = 0; j < layout.parts; ++j) {
      codes[j] = lowest_bits(word, layout.widths[j]);
      word >>= layout.widths[j];
    }
    return;
  }
  for (size_t j = 0; j < layout.parts; ++j) {
    const uint32_t width = layout.widths[j];  // a part of 0 bits may start where no word can be read
    codes[j] = width ? lowest_bits(read_word(data, bit), width) : 0;
    bit += width;
  }
}

// Reads the codes of `count` rows. row_of(i): number of the i-th row. codes: OUT count x layout.parts.
template <typename RowOf>
void gather_codes(const uint8_t* data, const RowLayout& layout, RowOf row_of, size_t count,
                  int threads, uint32_t* codes) {
  for_shares(count, threads, [&](size_t first, size_t last) {
    for (size_t i = first; i < last; ++i)
      read_row(data, layout, row_of(i), codes + i * layout.parts);
  });
}

// Position of the first id outside [0, limit), or count if there is none.
inline size_t first_outside(const int64_t* ids, size_t count, size_t limit) {
  constexpr size_t kBlock = 4096;
  for (size_t first = 0; first < count; first += kBlock) {
    const size_t last = std::min(count, first + kBlock);
    bool outside = false;  // one vectorised pass; only a block with a bad id is searched id by id
    for (size_t i = first; i < last; ++i) outside |= static_cast<uint64_t>(ids[i]) >= limit;
    if (!outside) continue;
    for (size_t i = first; i < last; ++i)
      if (static_cast<uint64_t>(ids[i]) >= limit) return i;
  }
  return count;
}

}  // namespace saec
