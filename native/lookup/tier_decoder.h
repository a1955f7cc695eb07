// Decodes rows of tiers exactly as the format says: in float32, axis after axis.
//
// Everything in here has internal linkage: otherwise the linker could use code of one instruction set for
// another.
#pragma once

#include <algorithm>
#include <cstring>

#include "codes/codes.h"
#include "lookup/lookup.h"

namespace {

using namespace saec;

// Values as an artifact stores them: a grid's offset is followed by its step.
struct StoredNumbers {
  const float *values, *axes, *mean;

  float coordinate(const TierPart& part, uint32_t code, uint32_t axis) const {
    const float* own = values + part.first;
    if (!part.grid()) return own[size_t{code} * part.axes + axis];
    const float step = static_cast<float>(code) * own[1];
    return own[0] + step;
  }
};

// Values as the parameters of a module hold them: see LiveNumbers.
struct LearnedNumbers {
  const float *values, *extents, *axes, *mean;

  float coordinate(const TierPart& part, uint32_t code, uint32_t axis) const {
    const float* own = values + (part.first - part.grids_before);
    if (!part.grid()) return own[size_t{code} * part.axes + axis];
    const float share = 1.0f / static_cast<float>(uint32_t{1} << part.bits);  // a power of two: exact
    const float step = static_cast<float>(code) * (extents[part.grids_before] * share);
    return own[0] + step;
  }
};

// D: dim, or 0 for any.
template <typename Numbers, size_t D = 0>
class TierDecoder {
 public:
  TierDecoder(const Numbers& numbers, size_t dim) : numbers_(numbers), dim_(dim) {}

  // row: OUT dim, the mean plus the coordinates of parts [first, last) times their axes. The packed codes start
  // at `bit` of `data`.
  void decode(const TierPart* first, const TierPart* last, const uint8_t* data, uint64_t bit,
              float* row) const {
    std::copy_n(numbers_.mean, dim_, row);
    add_parts(first, last, 0, data, bit, row);
  }

  // The same for a tier with ordered codes: `code` is the row's ordered code; other parts' codes are packed.
  void decode_ordered(const TierPart* first, const TierPart* last, uint64_t code,
                      const uint8_t* data, uint64_t bit, float* row) const {
    uint8_t own[16] = {};
    std::memcpy(own, &code, sizeof code);
    const TierPart* packed = first;
    size_t axis = 0;
    for (; packed < last && packed->ordered(); ++packed) axis += packed->axes;
    decode(first, packed, own, 0, row);
    add_parts(packed, last, axis, data, bit, row);
  }

  // Adds the coordinates of parts [first, last), whose first axis is `axis`, to `row`.
  void add_parts(const TierPart* first, const TierPart* last, size_t axis, const uint8_t* data,
                 uint64_t bit, float* row) const {
    float sums[D > 0 ? D : 1];  // for a known dim, these stay in registers
    if constexpr (D > 0) std::copy_n(row, D, sums);
    float* to = D > 0 ? sums : row;
    for (const TierPart* part = first; part < last; ++part) {
      const uint32_t code = part->bits ? lowest_bits(read_word(data, bit), part->bits) : 0;
      for (uint32_t j = 0; j < part->axes; ++j, ++axis)
        if (part->kind != TierPart::kNone) add(numbers_.coordinate(*part, code, j), axis, to);
      bit += part->bits;
    }
    if constexpr (D > 0) std::copy_n(sums, D, row);
  }

 private:
  void add(float coordinate, size_t axis, float* row) const {
    const size_t dim = D > 0 ? D : dim_;
    const float* direction = numbers_.axes + axis * dim;
    for (size_t j = 0; j < dim; ++j) row[j] += coordinate * direction[j];
  }

  const Numbers numbers_;
  const size_t dim_;
};

}  // namespace
