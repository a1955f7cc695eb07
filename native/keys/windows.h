// Static functions of many keys: every string is the sum of four runs of bits.
//
// Keys are cut by their hashes into buckets, which are arrays of bits. A key's hash picks four places
// in its bucket; the exclusive or of the bits from each place on is the key's string (Genuzio,
// Ottaviano and Vigna 2016). Strings may differ in length, and all bits of a string are read at once. The
// places are near each other, one in each of four windows that slide over the bucket with the hash: at the
// ends of the bucket there are few keys, so equations can be solved from there on (Dietzfelbinger and
// Walzer 2019; Graf and Lemire 2022). docs/format.md describes every bit.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "keys/static_function.h"

namespace saec {

constexpr uint32_t kPlaces = 4;
constexpr uint32_t kMostSpread = 16;
constexpr uint32_t kMostBucketBits = 24;
constexpr uint32_t kWordBits = 57;  // that a load of 64 bits holds, wherever in a byte they start
constexpr uint32_t kStartBits = 48;  // of a directory's entry: the byte at which a bucket starts; then its seed

static inline uint64_t high_product(uint64_t a, uint64_t b) {
  return static_cast<uint64_t>(static_cast<Wide>(a) * b >> 64);
}

static inline uint64_t bucket_of(uint64_t hash, uint32_t bucket_bits) {
  return bucket_bits ? hash >> (64 - bucket_bits) : 0;
}

// How many places the first window can be at in a bucket of so many bits; 0 if there is no room.
static inline uint64_t starts_of(uint64_t bits, uint32_t spread, uint32_t longest) {
  const uint64_t taken = (uint64_t{kPlaces} << spread) + longest;
  return bits > taken ? bits - taken : 0;
}

// The four places of a key, in ascending order.
struct Places {
  uint64_t start, offsets;

  uint64_t at(uint32_t j, uint32_t spread) const {
    return start + (uint64_t{j} << spread) + (offsets >> 16 * j & ((uint64_t{1} << spread) - 1));
  }
};

// As bits of the bucket, which has so many `starts`.
static inline Places places_of(uint64_t hash, uint32_t bucket_bits, uint64_t starts, uint64_t seed) {
  return {high_product(hash << bucket_bits, starts),
          mix_hash(hash + (seed + 1) * 0x9e3779b97f4a7c15ULL)};
}

// Where a key's bits are; within the tensor whatever the directory holds. `found` is false in a bucket
// without room.
struct FunctionPlaces {
  Places places;
  bool found;
};

static inline FunctionPlaces places_in(const StaticFunction& function, uint64_t hash) {
  constexpr uint64_t kStarts = (uint64_t{1} << kStartBits) - 1;
  const uint8_t* at = function.directory + bucket_of(hash, function.bucket_bits) * 8;
  uint64_t entry, next;
  std::memcpy(&entry, at, sizeof entry);
  std::memcpy(&next, at + 8, sizeof next);
  const uint64_t first = std::min((entry & kStarts) * 8, function.bit_count);
  const uint64_t last = std::min(std::max((next & kStarts) * 8, first), function.bit_count);
  const uint64_t starts = starts_of(last - first, function.spread, function.columns());
  Places places = places_of(hash, function.bucket_bits, starts, entry >> kStartBits);
  places.start += first;
  return {places, starts > 0};
}

// 64 bits from a place on, the first one highest; it must not be behind the last byte before the padding.
static inline uint64_t load_run(const uint8_t* bits, uint64_t bit) {
  uint64_t word;
  std::memcpy(&word, bits + bit / 8, sizeof word);
  return __builtin_bswap64(word) << bit % 8 | bits[bit / 8 + 8] >> (8 - bit % 8);
}

// The first kWordBits bits of a string; those behind them are arbitrary.
static inline uint64_t read_word(const StaticFunction& function, const Places& places) {
  uint64_t sum = 0;
  for (uint32_t j = 0; j < kPlaces; ++j) {
    const uint64_t bit = places.at(j, function.spread);
    uint64_t word;
    std::memcpy(&word, function.bits + bit / 8, sizeof word);
    sum ^= __builtin_bswap64(word) << bit % 8;
  }
  return sum;
}

// The sum of the runs from bit `first` of a string on.
static inline uint64_t read_runs(const StaticFunction& function, const Places& places, uint32_t first) {
  uint64_t sum = 0;
  for (uint32_t j = 0; j < kPlaces; ++j)
    sum ^= load_run(function.bits, places.at(j, function.spread) + first);
  return sum;
}

// Calls take(i, word, places) for each hash: the first 64 bits of its string, the first one highest, and where
// they are. Bits behind the string are arbitrary. Strings of at most kWordBits bits take one load from each place.
template <typename Take>
static inline void read_windows(const StaticFunction& function, const uint64_t* hashes, size_t count, const Take& take) {
  constexpr size_t kAhead = 64;
  FunctionPlaces found[kAhead];
  const bool one_load = function.columns() <= kWordBits;
  for (size_t first = 0; first < count; first += kAhead) {
    const size_t used = std::min(count - first, kAhead);
    for (size_t i = 0; i < used; ++i) {
      found[i] = places_in(function, hashes[first + i]);
      if (!found[i].found) continue;
      for (uint32_t j = 0; j < kPlaces; ++j) {
        const uint8_t* run = function.bits + found[i].places.at(j, function.spread) / 8;
        __builtin_prefetch(run);
        __builtin_prefetch(run + (one_load ? 7 : 8));  // one run in eight ends in another line
      }
    }
    const auto read = [&](const Places& places) {
      return one_load ? read_word(function, places) : read_runs(function, places, 0);
    };
    for (size_t i = 0; i < used; ++i) take(first + i, found[i].found ? read(found[i].places) : 0, found[i]);
  }
}

}  // namespace saec
