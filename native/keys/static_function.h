// Static functions: from the 64-bit hash of a key to a string of bits, without the keys.
//
// Keys are cut by their hashes into blocks of about a hundred. A block has one column of bits for each bit of
// the strings. The hash of a key picks about half of the places of a column; their exclusive or is
// the key's bit. Strings may differ in length: a column has places for the keys whose strings reach it,
// and a few more, so later columns are shorter. docs/format.md describes every bit.
//
// Why dense equations in small blocks: they can be solved for any number of keys without a retry, with
// one or two places more than keys. Functions of many keys have windows instead (windows.h), which take 4 %
// more than the keys' bits and are read in a fourth of the time, but 15 % more at a few hundred keys.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace saec {

__extension__ typedef unsigned __int128 Wide;

constexpr size_t kMostColumns = 128;  // 64 bits of fingerprint, 64 of value
constexpr uint32_t kWordSlots = 56;   // bits that a load is sure to hold, wherever in a byte they start
constexpr uint32_t kMostWords = 16;
constexpr uint32_t kMostSlots = kWordSlots * kMostWords;  // of a column
constexpr uint32_t kMostFieldBits = 10;
constexpr size_t kFunctionPadding = 8;  // bytes that follow the last block
constexpr size_t kGroup = 32;           // blocks that share an absolute offset
constexpr size_t kGroupBytes = 8 + 2 * kGroup;

// From `column` on, columns have fewer slots than the one before: `base` and a field of `bits` bits in
// the block's header. For column 0 the same is the number of its slots.
struct ColumnStep {
  uint32_t column, base, bits;
};

constexpr ColumnStep kNoStep{UINT32_MAX, 0, 0};

// The steps spread over all columns, for readers that take several columns at once.
struct ColumnTable {
  // Of each column but the first, and zeros up to a multiple of eight: the step's base and bits, and
  // where in the header its field is.
  std::vector<uint64_t> base, bits, field;
};

// What a query needs. Any content of bits and directory is safe to read.
struct StaticFunction {
  const uint8_t* bits;  // blocks, each from a whole byte on, and kFunctionPadding bytes
  uint64_t bit_count;   // without the padding
  const uint8_t* directory;
  uint64_t blocks;            // 0 where nothing is stored
  uint32_t fingerprint_bits;  // 0..64, the first columns
  uint32_t value_bits;        // 0..64, of the longest value
  uint32_t header_bits;       // of a block: all steps' fields
  std::vector<ColumnStep> steps;  // the first one is for column 0; kNoStep ends them
  // Of a function with windows, whose blocks are called buckets: there are 2^bucket_bits of them, and a window
  // has 2^spread places. 0 for one with dense blocks.
  uint32_t spread = 0, bucket_bits = 0;
  ColumnTable table = {};

  uint32_t columns() const { return fingerprint_bits + value_bits; }
};

// Fills in what follows from a function's steps.
static inline void finish_steps(StaticFunction& function) {
  const size_t size = (function.columns() + 7) / 8 * 8;
  for (auto* part : {&function.table.base, &function.table.bits, &function.table.field})
    part->assign(size, 0);
  function.header_bits = 0;
  for (const ColumnStep& step : function.steps) {
    if (step.column > 0) {
      function.table.base[step.column] = step.base;
      function.table.bits[step.column] = step.bits;
      function.table.field[step.column] = function.header_bits;
    }
    function.header_bits += step.bits;
  }
  function.steps.push_back(kNoStep);
}

// A key's string, cut in two.
struct FunctionString {
  uint64_t fingerprint, value;
};

static inline uint64_t mix_hash(uint64_t x) {
  x ^= x >> 33;
  x *= 0xff51afd7ed558ccdULL;
  x ^= x >> 33;
  x *= 0xc4ceb9fe1a85ec53ULL;
  return x ^ x >> 33;
}

// The bits that tell a stored key from others.
static inline uint64_t fingerprint_of(uint64_t hash, uint32_t bits) {
  return bits ? mix_hash(hash) >> (64 - bits) : 0;
}

static inline uint64_t block_of(uint64_t hash, uint64_t blocks) {
  return static_cast<uint64_t>(static_cast<Wide>(hash) * blocks >> 64);
}

// Which of slots 56 * word and on are picked by a key; lowest bit first.
static inline uint64_t picked_slots(uint64_t hash, uint32_t word) {
  return mix_hash(hash + (word + 1) * 0x9e3779b97f4a7c15ULL) >> (64 - kWordSlots);
}

static inline uint64_t load_word(const uint8_t* bits, uint64_t bit) {
  uint64_t word;
  std::memcpy(&word, bits + bit / 8, sizeof word);
  return word >> (bit % 8);
}

static inline uint64_t lowest(uint64_t word, uint32_t count) {
  return count < 64 ? word & ((uint64_t{1} << count) - 1) : word;
}

static inline uint64_t directory_bytes(uint64_t blocks) {
  return 2 * blocks + (blocks + kGroup - 1) / kGroup * 8;
}

static inline const uint8_t* directory_group(const StaticFunction& function, uint64_t block) {
  return function.directory + block / kGroup * kGroupBytes;
}

// First bit of a block, within [0, bit_count] whatever the directory holds.
static inline uint64_t block_start(const StaticFunction& function, uint64_t block) {
  const uint8_t* group = directory_group(function, block);
  uint64_t base;
  uint16_t offset;
  std::memcpy(&base, group, sizeof base);
  std::memcpy(&offset, group + 8 + block % kGroup * 2, sizeof offset);
  return std::min(std::min(base, function.bit_count / 8) + offset, function.bit_count / 8) * 8;
}

// Reads a block's columns for one key, one after the other.
//
// Columns get shorter, so those of so many words come before those of fewer: one loop for each
// number of words, which the processor predicts.
class ColumnReader {
 public:
  ColumnReader(const StaticFunction& function, uint64_t hash, uint64_t start)
      : bits_(function.bits),
        step_(function.steps.data()),
        field_(start),
        end_(function.bit_count),
        at_(std::min(start + function.header_bits, end_)) {
    slots_ = std::min(change(), kMostSlots);
    for (uint32_t word = 0; word * kWordSlots < slots_; ++word)
      picked_[word] = picked_slots(hash, word);
  }

  // Columns up to, but not including, `last`, at most 64 of them; the first one's bit is the lowest.
  uint64_t read(uint32_t last) {
    uint64_t string = 0;
    const uint32_t first = column_;
    while (column_ < last && slots_ > 4 * kWordSlots) read_column<0>(string, first);
    while (column_ < last && slots_ > 3 * kWordSlots) read_column<4>(string, first);
    while (column_ < last && slots_ > 2 * kWordSlots) read_column<3>(string, first);
    while (column_ < last && slots_ > kWordSlots) read_column<2>(string, first);
    while (column_ < last && slots_ > 0) read_column<1>(string, first);
    column_ = last;
    return string;
  }

 private:
  // By how much the next column that has a step is shorter.
  uint32_t change() {
    const ColumnStep& step = *step_++;
    const uint64_t said = lowest(load_word(bits_, std::min(field_, end_)), step.bits);
    field_ += step.bits;
    return step.base + static_cast<uint32_t>(said);
  }

  // kWords: of a column; 0 for more than four.
  template <uint32_t kWords>
  void read_column(uint64_t& string, uint32_t first) {
    if (slots_ > end_ - at_) {  // in a damaged block
      slots_ = 0;
      return;
    }
    const uint32_t words = kWords ? kWords : (slots_ + kWordSlots - 1) / kWordSlots;
    uint64_t sum = 0;
    for (uint32_t word = 0; word + 1 < words; ++word)
      sum ^= load_word(bits_, at_ + word * kWordSlots) & picked_[word];
    const uint32_t before = (words - 1) * kWordSlots;
    sum ^= load_word(bits_, at_ + before) & lowest(picked_[words - 1], slots_ - before);
    string |= static_cast<uint64_t>(__builtin_parityll(sum)) << (column_ - first);
    at_ += slots_;
    if (++column_ == step_->column) slots_ -= std::min(slots_, change());
  }

  const uint8_t* const bits_;
  const ColumnStep* step_;
  uint64_t field_;
  const uint64_t end_;
  uint64_t at_;
  uint32_t column_ = 0, slots_;
  uint64_t picked_[kMostWords];
};

// Bits beyond a value's own length are arbitrary.
static inline FunctionString read_string(const StaticFunction& function, uint64_t hash, uint64_t start) {
  ColumnReader reader(function, hash, start);
  const uint64_t fingerprint = reader.read(function.fingerprint_bits);
  return {fingerprint, reader.read(function.columns())};
}

}  // namespace saec
