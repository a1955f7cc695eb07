// XXH3-64 with the default secret, from its specification (doc/xxhash_spec.md of xxHash, 0.2.0),
// and a check of UTF-8. Little-endian processors only, as everything in here.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace saec {

static_assert(std::endian::native == std::endian::little);

namespace xxh3 {

__extension__ typedef unsigned __int128 Wide;

constexpr uint64_t kPrime32a = 0x9E3779B1, kPrime32b = 0x85EBCA77, kPrime32c = 0xC2B2AE3D;
constexpr uint64_t kPrime64a = 0x9E3779B185EBCA87, kPrime64b = 0xC2B2AE3D27D4EB4F,
                   kPrime64c = 0x165667B19E3779F9, kPrime64d = 0x85EBCA77C2B2AE63,
                   kPrime64e = 0x27D4EB2F165667C5;
constexpr uint64_t kMix1 = 0x165667919E3779F9, kMix2 = 0x9FB21C651E98DF25;

constexpr uint8_t kSecret[192] = {
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c,
    0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f,
    0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
    0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c,
    0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3,
    0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
    0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d,
    0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64,
    0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
    0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e,
    0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce,
    0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e};

inline uint64_t read8(const uint8_t* at) {
  uint64_t word;
  std::memcpy(&word, at, sizeof word);
  return word;
}

inline uint64_t read4(const uint8_t* at) {
  uint32_t word;
  std::memcpy(&word, at, sizeof word);
  return word;
}

inline uint64_t secret(size_t offset) { return read8(kSecret + offset); }

inline uint64_t folded_product(uint64_t a, uint64_t b) {
  const Wide product = static_cast<Wide>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

inline uint64_t avalanche(uint64_t x) {
  x ^= x >> 37;
  x *= kMix1;
  return x ^ x >> 32;
}

inline uint64_t avalanche_xxh64(uint64_t x) {
  x ^= x >> 33;
  x *= kPrime64b;
  x ^= x >> 29;
  x *= kPrime64c;
  return x ^ x >> 32;
}

inline uint64_t hash_1_to_3(const uint8_t* data, size_t size, uint64_t seed) {
  const uint64_t combined = data[size - 1] | size << 8 | uint64_t{data[0]} << 16 |
                            uint64_t{data[size >> 1]} << 24;
  return avalanche_xxh64(((read4(kSecret) ^ read4(kSecret + 4)) + seed) ^ combined);
}

// Each step can be undone: no two inputs of the same size of 8 bytes have the same hash.
inline uint64_t hash_4_to_8(uint64_t first4, uint64_t last4, size_t size, uint64_t seed) {
  seed ^= uint64_t{__builtin_bswap32(static_cast<uint32_t>(seed))} << 32;
  uint64_t value = ((secret(8) ^ secret(16)) - seed) ^ (last4 | first4 << 32);
  value ^= std::rotl(value, 49) ^ std::rotl(value, 24);
  value *= kMix2;
  value ^= (value >> 35) + size;
  value *= kMix2;
  return value ^ value >> 28;
}

inline uint64_t hash_9_to_16(const uint8_t* data, size_t size, uint64_t seed) {
  const uint64_t low = ((secret(24) ^ secret(32)) + seed) ^ read8(data);
  const uint64_t high = ((secret(40) ^ secret(48)) - seed) ^ read8(data + size - 8);
  return avalanche(size + __builtin_bswap64(low) + high + folded_product(low, high));
}

inline uint64_t mix_step(const uint8_t* data, size_t offset, uint64_t seed) {
  return folded_product(read8(data) ^ (secret(offset) + seed),
                        read8(data + 8) ^ (secret(offset + 8) - seed));
}

inline uint64_t hash_17_to_240(const uint8_t* data, size_t size, uint64_t seed) {
  uint64_t sum = size * kPrime64a;
  if (size <= 128) {
    for (size_t i = 0; i <= (size - 1) >> 5; ++i)
      sum += mix_step(data + i * 16, i * 32, seed) +
             mix_step(data + size - i * 16 - 16, i * 32 + 16, seed);
    return avalanche(sum);
  }
  for (size_t i = 0; i < 8; ++i) sum += mix_step(data + i * 16, i * 16, seed);
  sum = avalanche(sum);
  for (size_t i = 8; i < size >> 4; ++i) sum += mix_step(data + i * 16, (i - 8) * 16 + 3, seed);
  return avalanche(sum + mix_step(data + size - 16, 119, seed));
}

// secrets: IN eight words.
inline void accumulate_stripe(uint64_t* sums, const uint8_t* stripe, const uint8_t* secrets) {
  for (size_t i = 0; i < 8; ++i) {
    const uint64_t word = read8(stripe + i * 8), value = word ^ read8(secrets + i * 8);
    sums[i ^ 1] += word;
    sums[i] += (value & 0xffffffff) * (value >> 32);
  }
}

inline uint64_t hash_long(const uint8_t* data, size_t size, uint64_t seed) {
  uint8_t own[sizeof kSecret];
  for (size_t i = 0; i < sizeof own; i += 8) {
    const uint64_t word = i % 16 ? secret(i) - seed : secret(i) + seed;
    std::memcpy(own + i, &word, sizeof word);
  }
  constexpr size_t kStripes = (sizeof kSecret - 64) / 8, kBlock = 64 * kStripes;
  uint64_t sums[8] = {kPrime32c, kPrime64a, kPrime64b, kPrime64c,
                      kPrime64d, kPrime32b, kPrime64e, kPrime32a};
  const size_t blocks = (size - 1) / kBlock;
  for (size_t block = 0; block < blocks; ++block, data += kBlock) {
    for (size_t i = 0; i < kStripes; ++i) accumulate_stripe(sums, data + i * 64, own + i * 8);
    for (size_t i = 0; i < 8; ++i)
      sums[i] = (sums[i] ^ sums[i] >> 47 ^ read8(own + sizeof own - 64 + i * 8)) * kPrime32a;
  }
  const size_t left = size - blocks * kBlock;
  for (size_t i = 0; i < (left - 1) / 64; ++i) accumulate_stripe(sums, data + i * 64, own + i * 8);
  accumulate_stripe(sums, data + left - 64, own + sizeof own - 71);
  uint64_t result = size * kPrime64a;
  for (size_t i = 0; i < 4; ++i)
    result += folded_product(sums[i * 2] ^ read8(own + 11 + i * 16),
                             sums[i * 2 + 1] ^ read8(own + 19 + i * 16));
  return avalanche(result);
}

}  // namespace xxh3

inline uint64_t hash_bytes(const uint8_t* data, size_t size, uint64_t seed) {
  if (size > 240) return xxh3::hash_long(data, size, seed);
  if (size > 16) return xxh3::hash_17_to_240(data, size, seed);
  if (size > 8) return xxh3::hash_9_to_16(data, size, seed);
  if (size > 3) return xxh3::hash_4_to_8(xxh3::read4(data), xxh3::read4(data + size - 4), size, seed);
  if (size > 0) return xxh3::hash_1_to_3(data, size, seed);
  return xxh3::avalanche_xxh64(seed ^ xxh3::secret(56) ^ xxh3::secret(64));
}

// The same as hash_bytes() of the eight bytes of a number, lowest first.
inline uint64_t hash_integer(uint64_t key, uint64_t seed) {
  return xxh3::hash_4_to_8(key & 0xffffffff, key >> 32, 8, seed);
}

// Bytes of the character at data (RFC 3629); 0 where there is none.
inline size_t utf8_character(const uint8_t* data, size_t size) {
  const uint8_t lead = data[0];
  if (lead < 0x80) return 1;
  const size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || size < length) return 0;
  for (size_t i = 1; i < length; ++i)
    if ((data[i] & 0xc0) != 0x80) return 0;
  const uint8_t next = data[1];
  const bool overlong = (lead == 0xe0 && next < 0xa0) || (lead == 0xf0 && next < 0x90);
  const bool surrogate = lead == 0xed && next > 0x9f, beyond = lead == 0xf4 && next > 0x8f;
  return overlong || surrogate || beyond ? 0 : length;
}

inline bool is_utf8(const uint8_t* data, size_t size) {
  for (size_t at = 0; at < size;) {
    if (size - at >= 8 && (xxh3::read8(data + at) & 0x8080808080808080) == 0) {
      at += 8;
      continue;
    }
    const size_t length = utf8_character(data + at, size - at);
    if (length == 0) return false;
    at += length;
  }
  return true;
}

}  // namespace saec
