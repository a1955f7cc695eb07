// Strings of many keys, by the instructions that the processor has.
#pragma once

#include "keys/static_function.h"
#include "keys/windows.h"

namespace saec {

// starts: IN first bit of each key's block. strings: OUT count.
using ReadStrings = void (*)(const StaticFunction& function, const uint64_t* hashes,
                             const uint64_t* starts, size_t count, FunctionString* strings);

// The first kWordBits bits of each string of a function with windows, the first one highest.
// count: up to kWordsAtOnce. words: OUT count; bits behind the strings are arbitrary.
using ReadWords = void (*)(const StaticFunction& function, const uint64_t* hashes, size_t count,
                           uint64_t* words);

constexpr size_t kWordsAtOnce = 64;

// Null where not compiled for this processor.
extern const ReadStrings kReadStringsAvx512;
extern const ReadWords kReadWordsAvx512;

// What reads the two forms of functions.
struct StringReaders {
  ReadStrings strings;  // null if the processor cannot run the instruction set
  ReadWords words;      // null where read_windows() is to be used
};

// Whether the processor has the instructions of read_strings_avx512.cpp.
bool has_avx512();

// name is "auto", "scalar", "avx2" (the same code as "scalar") or "avx512".
StringReaders choose_readers(const char* name);

static inline uint64_t reversed_bits(uint64_t x) {
  x = (x >> 1 & 0x5555555555555555ULL) | (x & 0x5555555555555555ULL) << 1;
  x = (x >> 2 & 0x3333333333333333ULL) | (x & 0x3333333333333333ULL) << 2;
  x = (x >> 4 & 0x0f0f0f0f0f0f0f0fULL) | (x & 0x0f0f0f0f0f0f0f0fULL) << 4;
  return __builtin_bswap64(x);
}

template <typename Take>
static inline void look_up_blocks(const StaticFunction& function, ReadStrings read, const uint64_t* hashes, size_t count,
             const Take& take) {
  constexpr size_t kAhead = 32, kLine = 64;  // keys, and bytes, that are on their way at once
  if (function.blocks == 0) {
    for (size_t i = 0; i < count; ++i) take(i, FunctionString{0, 0});
    return;
  }
  const uint64_t bytes = function.bit_count / 8 / function.blocks;
  uint64_t blocks[kAhead], starts[kAhead];
  FunctionString strings[kAhead];
  for (size_t first = 0; first < count; first += kAhead) {
    const size_t used = std::min(count - first, kAhead);
    for (size_t i = 0; i < used; ++i) {
      blocks[i] = block_of(hashes[first + i], function.blocks);
      __builtin_prefetch(directory_group(function, blocks[i]) + 8 + blocks[i] % kGroup * 2);
      __builtin_prefetch(directory_group(function, blocks[i]));
    }
    for (size_t i = 0; i < used; ++i) {
      starts[i] = block_start(function, blocks[i]);
      for (uint64_t byte = 0; byte < bytes + kLine; byte += kLine)
        __builtin_prefetch(function.bits + starts[i] / 8 + byte);
    }
    read(function, hashes + first, starts, used, strings);
    for (size_t i = 0; i < used; ++i) take(first + i, strings[i]);
  }
}

// Calls take(i, word) for the first kWordBits bits of each hash's string in windows, the first one highest.
template <typename Take>
static inline void look_up_windows(const StaticFunction& function, ReadWords read, const uint64_t* hashes, size_t count,
                     const Take& take) {
  if (!read)
    return read_windows(function, hashes, count,
                        [&](size_t i, uint64_t word, const FunctionPlaces&) { take(i, word); });
  uint64_t words[kWordsAtOnce];
  for (size_t first = 0; first < count; first += kWordsAtOnce) {
    const size_t used = std::min(count - first, kWordsAtOnce);
    read(function, hashes + first, used, words);
    for (size_t i = 0; i < used; ++i) take(first + i, words[i]);
  }
}

// Calls take(i, string) for the string of each hash, in order.
template <typename Take>
static inline void look_up(const StaticFunction& function, const StringReaders& read, const uint64_t* hashes, size_t count,
             const Take& take) {
  if (!function.spread) return look_up_blocks(function, read.strings, hashes, count, take);
  const uint32_t head = function.fingerprint_bits;
  const auto cut = [&](size_t i, Wide string) {
    take(i, FunctionString{lowest(static_cast<uint64_t>(string), head),
                           lowest(static_cast<uint64_t>(string >> head), function.value_bits)});
  };
  if (function.columns() <= kWordBits)
    return look_up_windows(function, read.words, hashes, count,
                           [&](size_t i, uint64_t word) { cut(i, reversed_bits(word)); });
  read_windows(function, hashes, count, [&](size_t i, uint64_t word, const FunctionPlaces& found) {
    Wide string = reversed_bits(word);
    if (function.columns() > 64 && found.found)
      string |= Wide{reversed_bits(read_runs(function, found.places, 64))} << 64;
    cut(i, string);
  });
}

// Calls take(i, word) for the value of each hash, its first bit highest; there are no fingerprints.
template <typename Take>
static inline void look_up_words(const StaticFunction& function, const StringReaders& read, const uint64_t* hashes,
                                 size_t count, const Take& take) {
  if (function.spread)
    return look_up_windows(function, function.columns() <= kWordBits ? read.words : nullptr, hashes, count, take);
  look_up_blocks(function, read.strings, hashes, count, [&](size_t i, const FunctionString& string) {
    take(i, reversed_bits(string.value));
  });
}

}  // namespace saec
