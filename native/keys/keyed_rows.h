// Rows of keys: the strings of a static function, taken apart by prefix codes, and their symbols'
// coordinates added up. docs/format.md describes all of it, as codec "keyed".
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include "keys/read_strings.h"

namespace saec {

constexpr uint32_t kMostCodeword = 56;
constexpr uint64_t kScrambleStep = 0x9e3779b97f4a7c15ULL;

// The finaliser of SplitMix64.
inline uint64_t scramble(uint64_t x) {
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ x >> 27) * 0x94d049bb133111ebULL;
  return x ^ x >> 31;
}

inline uint64_t string_hash(uint64_t hash, uint32_t string) {
  return string ? scramble(hash + string * kScrambleStep) : hash;
}

// The bits of a string as its writer meant them, the first one highest.
inline uint64_t string_word(uint64_t word, uint64_t asked) {
  return word ^ scramble(asked ^ kScrambleStep);
}

// A canonical prefix code, read from the highest bit of a word on.
class Codewords {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  // Whether such a code exists. lengths: IN bits of each symbol's codeword.
  bool set(const uint8_t* lengths, size_t symbols) {
    if (symbols == 0 || symbols >= kNone) return false;
    const uint8_t least = symbols == 1 ? 0 : 1;
    order_.resize(symbols);
    std::iota(order_.begin(), order_.end(), 0u);
    std::stable_sort(order_.begin(), order_.end(),
                     [=](uint32_t a, uint32_t b) { return lengths[a] < lengths[b]; });
    Wide start = 0;
    for (const uint32_t symbol : order_) {
      if (lengths[symbol] < least || lengths[symbol] > kMostCodeword || start >> 64) return false;
      starts_.push_back(static_cast<uint64_t>(start));
      lengths_.push_back(lengths[symbol]);
      start += Wide{1} << (64 - lengths[symbol]);
    }
    if (start > Wide{1} << 64) return false;
    last_ = static_cast<uint64_t>(start - 1);
    zeros_ = static_cast<uint32_t>(std::countl_zero(last_));
    first_.resize(size_t{1} << kTopBits);
    uint32_t place = 0;
    for (uint64_t top = 0; top < first_.size(); ++top) {
      const uint64_t word = top << (64 - kTopBits) >> zeros_;
      while (place + 1 < symbols && starts_[place + 1] <= word) ++place;
      first_[top] = place;
    }
    return true;
  }

  // The place in order of codewords of the one that a word starts with; kNone if there is none.
  uint32_t find(uint64_t word) const {
    if (word > last_) return kNone;
    uint32_t place = first_[(word << zeros_) >> (64 - kTopBits)];
    while (place + 1 < starts_.size() && starts_[place + 1] <= word) ++place;
    return place;
  }

  uint32_t last_place() const { return static_cast<uint32_t>(starts_.size() - 1); }
  uint32_t symbol(uint32_t place) const { return order_[place]; }
  uint32_t length(uint32_t place) const { return lengths_[place]; }

 private:
  static constexpr uint32_t kTopBits = 9;

  std::vector<uint64_t> starts_;  // first word of each codeword, ascending
  std::vector<uint32_t> order_;   // their symbols
  std::vector<uint8_t> lengths_;
  std::vector<uint32_t> first_;  // by the highest bits that are not zero in all words
  uint64_t last_ = 0;            // the last word that belongs to a symbol
  uint32_t zeros_ = 0;
};

// A part after the first of its class.
struct KeyedPart {
  Codewords code;
  size_t first_value;
  uint32_t axes, first_axis, string;
};

struct KeyedClass {
  uint32_t first_root, axes;  // of its first part
  size_t first_value;
  std::vector<KeyedPart> parts;
};

struct KeyedTable {
  size_t dim = 0;
  std::vector<float> axes;  // (rank + 1) * dim, the default row last
  std::vector<float> values;
  Codewords root;
  std::vector<uint16_t> class_of_root;
  std::vector<KeyedClass> classes;

  const float* default_row() const { return axes.data() + axes.size() - dim; }
};

// Reads strings and adds up rows, a batch of keys at a time.
class KeyedReader {
 public:
  KeyedReader(const KeyedTable& table, const StaticFunction& function, ReadStrings read)
      : table_(table), function_(function), read_(read) {}

  // rows: OUT (count, dim), or null; classes: OUT count, -1 for unknown keys, or null.
  void run(const uint64_t* hashes, size_t count, float* rows, int32_t* classes) {
    for (size_t first = 0; first < count; first += kBatch) {
      const size_t used = std::min(kBatch, count - first);
      start(hashes + first, used, rows ? rows + first * table_.dim : nullptr,
            classes ? classes + first : nullptr);
      for (uint32_t string = 1; rows && !waiting_.empty(); ++string)
        go_on(string, hashes + first, rows + first * table_.dim);
    }
  }

 private:
  static constexpr size_t kBatch = 512;

  struct Waiting {  // for its next string
    uint32_t key, part;
    const KeyedClass* own;
  };

  void start(const uint64_t* hashes, size_t count, float* rows, int32_t* classes) {
    waiting_.clear();
    look_up_words(function_, read_, hashes, count, [&](size_t i, uint64_t read) {
      uint64_t word = string_word(read, hashes[i]);
      const uint32_t place = table_.classes.empty() ? Codewords::kNone : table_.root.find(word);
      const bool known = place != Codewords::kNone;
      const uint32_t root = known ? table_.root.symbol(place) : 0;
      if (classes) classes[i] = known ? table_.class_of_root[root] : -1;
      if (!rows) return;
      float* row = rows + i * table_.dim;
      std::copy_n(table_.default_row(), table_.dim, row);
      if (!known) return;
      const KeyedClass& own = table_.classes[table_.class_of_root[root]];
      add(own.first_value + size_t{root - own.first_root} * own.axes, 0, own.axes, row);
      word <<= table_.root.length(place);
      read_parts({static_cast<uint32_t>(i), 0, &own}, 0, word, row);
    });
  }

  // The next string of each key that waits for one.
  void go_on(uint32_t string, const uint64_t* hashes, float* rows) {
    before_.swap(waiting_);
    waiting_.clear();
    asked_.clear();
    for (const Waiting& key : before_) asked_.push_back(string_hash(hashes[key.key], string));
    look_up_words(function_, read_, asked_.data(), asked_.size(), [&](size_t i, uint64_t read) {
      const Waiting& key = before_[i];
      read_parts(key, string, string_word(read, asked_[i]), rows + key.key * table_.dim);
    });
  }

  void read_parts(Waiting key, uint32_t string, uint64_t word, float* row) {
    const std::vector<KeyedPart>& parts = key.own->parts;
    for (; key.part < parts.size(); ++key.part) {
      const KeyedPart& part = parts[key.part];
      if (part.string != string) return waiting_.push_back(key);
      uint32_t place = part.code.find(word);
      // Only an unknown key, taken for a stored one, reads what belongs to no symbol.
      if (place == Codewords::kNone) place = part.code.last_place();
      word <<= part.code.length(place);
      const size_t value = part.first_value + size_t{part.code.symbol(place)} * part.axes;
      add(value, part.first_axis, part.axes, row);
    }
  }

  void add(size_t value, uint32_t axis, uint32_t axes, float* row) const {
    const size_t dim = table_.dim;
    const float* from = table_.axes.data() + axis * dim;
    for (uint32_t a = 0; a < axes; ++a, from += dim) {
      const float coordinate = table_.values[value + a];
      for (size_t d = 0; d < dim; ++d) row[d] += coordinate * from[d];
    }
  }

  const KeyedTable& table_;
  const StaticFunction& function_;
  const ReadStrings read_;
  std::vector<Waiting> waiting_, before_;
  std::vector<uint64_t> asked_;
};

}  // namespace saec
