// The coordinates of keys that came up twice, for batches in which some keys are frequent; compiled once for
// each instruction set.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "keys/keyed_reader.h"

namespace {

// One place for each of the lowest bits of hashes. A key takes its place when it comes up twice with no
// other key of the place between, so keys that come up once evict none.
class FrequentKeys {
 public:
  // keys: how many will be asked for; stride: numbers of each.
  FrequentKeys(size_t keys, size_t stride)
      : stride_(stride),
        mask_(std::bit_floor(std::clamp<size_t>(std::min(keys / 8, kMostNumbers / (stride + 1)), 2, kMostKeys)) - 1),
        places_(std::make_unique<Place[]>(mask_ + 1)),
        numbers_(std::make_unique<float[]>((mask_ + 1) * stride)) {
    for (size_t i = 0; i <= mask_; ++i) places_[i] = {i ^ 1, i ^ 1};  // hashes that belong to another place
  }

  // Splits keys into those that are kept, whose numbers go to OUT numbers (count, stride), and others: their
  // positions and hashes. Returns how many others there are. count: at most KeyedReader::kMostKeys.
  size_t take(const uint64_t* hashes, size_t count, float* numbers, uint32_t* positions, uint64_t* others) {
    size_t used = 0;
    for (size_t i = 0; i < count; ++i) {
      positions[used] = static_cast<uint32_t>(i);
      others[used] = hashes[i];
      taken_[i - used] = static_cast<uint32_t>(i);
      used += places_[hashes[i] & mask_].kept != hashes[i];
    }
    for (size_t i = 0; i < count - used; ++i) {
      const size_t key = taken_[i];
      std::copy_n(numbers_.get() + (hashes[key] & mask_) * stride_, stride_, numbers + key * stride_);
    }
    return used;
  }

  // Notes keys that are not kept, and keeps those that came up before. positions: of their rows in numbers.
  void note(const uint64_t* hashes, const uint32_t* positions, size_t count, const float* numbers) {
    for (size_t i = 0; i < count; ++i) {
      Place& place = places_[hashes[i] & mask_];
      if (place.waits == hashes[i]) {
        place.kept = hashes[i];
        std::copy_n(numbers + positions[i] * stride_, stride_, numbers_.get() + (hashes[i] & mask_) * stride_);
      }
      place.waits = hashes[i];
    }
  }

 private:
  static constexpr size_t kMostKeys = size_t{1} << 14, kMostNumbers = size_t{1} << 19;

  struct Place {
    uint64_t kept, waits;  // the key whose numbers are here, and the last one that was not kept
  };

  const size_t stride_, mask_;
  const std::unique_ptr<Place[]> places_;
  const std::unique_ptr<float[]> numbers_;
  uint32_t taken_[KeyedReader::kMostKeys];
};

}  // namespace
