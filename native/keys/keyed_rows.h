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
  static constexpr size_t kMostSymbols = size_t{1} << 24;

  struct Found {
    uint32_t symbol, length;
  };

  // Whether such a code exists. lengths: IN bits of each symbol's codeword.
  bool set(const uint8_t* lengths, size_t symbols) {
    if (symbols == 0 || symbols > kMostSymbols) return false;
    const uint8_t least = symbols == 1 ? 0 : 1;
    order_.resize(symbols);
    std::iota(order_.begin(), order_.end(), 0u);
    std::stable_sort(order_.begin(), order_.end(),
                     [=](uint32_t a, uint32_t b) { return lengths[a] < lengths[b]; });
    Wide start = 0;
    for (uint32_t place = 0; place < symbols; ++place) {
      const uint8_t length = lengths[order_[place]];
      if (length < least || length > kMostCodeword || start >> 64) return false;
      if (runs_.empty() || runs_.back().length < length)
        runs_.push_back({static_cast<uint64_t>(start), place, length});
      start += Wide{1} << (64 - length);
    }
    if (start > Wide{1} << 64) return false;
    last_ = static_cast<uint64_t>(start - 1);
    zeros_ = static_cast<uint32_t>(std::countl_zero(last_));
    group();
    return true;
  }

  // Whether a word starts with any codeword.
  bool holds(uint64_t word) const { return word <= last_; }

  // The codeword that a word starts with; the last one if there is none.
  Found find(uint64_t word) const {
    word = std::min(word, last_);
    const uint32_t group = groups_[(word << zeros_) >> shift_];
    const uint32_t length = group & kLengthMask;
    return length < kSeveral ? Found{group >> kLengthBits, length}
                             : found_at(place_from(group >> kLengthBits, word));
  }

 private:
  static constexpr uint32_t kLengthBits = 8, kLengthMask = 255, kSeveral = 255;
  static constexpr uint32_t kMostTopBits = 14, kMoreTopBits = 2;

  struct Run {  // of codewords of one length
    uint64_t start;  // first word of the first of them
    uint32_t place;  // of the first of them
    uint32_t length;
  };

  struct Place {
    uint32_t run, place;
  };

  // Words are grouped by their highest bits, without those that are zero in all words. A group holds a
  // symbol and the length of its codeword; or, where several codewords are in it, the first one's run.
  void group() {
    const uint32_t longest = runs_.back().length;
    const auto most = static_cast<uint32_t>(std::bit_width(order_.size())) + kMoreTopBits;
    const uint32_t bits =
        std::clamp(longest - std::min(longest, zeros_), 1u, std::min(most, kMostTopBits));
    shift_ = 64 - bits;
    groups_.resize(size_t{1} << bits);
    for (uint64_t top = 0, run = 0; top < groups_.size(); ++top) {
      const uint64_t word = top << shift_ >> zeros_;
      const Place low = place_from(static_cast<uint32_t>(run), std::min(word, last_));
      const uint64_t end = (top << shift_ | ((uint64_t{1} << shift_) - 1)) >> zeros_;
      const Place high = place_from(low.run, std::min(end, last_));
      groups_[top] = low.place == high.place ? order_[low.place] << kLengthBits | runs_[low.run].length
                                             : low.run << kLengthBits | kSeveral;
      run = low.run;
    }
  }

  Place place_from(uint32_t run, uint64_t word) const {
    while (run + 1 < runs_.size() && runs_[run + 1].start <= word) ++run;
    const Run& own = runs_[run];
    const uint64_t further = own.length ? (word - own.start) >> (64 - own.length) : 0;
    return {run, own.place + static_cast<uint32_t>(further)};
  }

  Found found_at(Place place) const { return {order_[place.place], runs_[place.run].length}; }

  std::vector<uint32_t> order_;  // symbols by their codewords
  std::vector<Run> runs_;
  std::vector<uint32_t> groups_;
  uint64_t last_ = 0;  // the last word that belongs to a symbol
  uint32_t zeros_ = 0, shift_ = 63;
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

  size_t rank() const { return axes.size() / dim - 1; }
  const float* default_row() const { return axes.data() + axes.size() - dim; }
};

// Takes symbols' coordinates: rows (keys, dim), of one axis after the other.
struct TakenRows {
  const KeyedTable& table;
  float* rows;

  void begin(size_t key) const { std::copy_n(table.default_row(), table.dim, rows + key * table.dim); }

  void add(size_t key, const float* coordinates, uint32_t axis, uint32_t axes) const {
    const size_t dim = table.dim;
    const float* from = table.axes.data() + axis * dim;
    float* row = rows + key * dim;
    for (uint32_t a = 0; a < axes; ++a, from += dim)
      for (size_t d = 0; d < dim; ++d) row[d] += coordinates[a] * from[d];
  }
};

// Takes the coordinates themselves, `rank` of them from each key's position on; the others stay what they are.
struct TakenCoordinates {
  size_t rank;
  const uint32_t* positions;
  float* numbers;

  void begin(size_t) const {}

  void add(size_t key, const float* coordinates, uint32_t axis, uint32_t axes) const {
    float* to = numbers + positions[key] * rank + axis;
    for (uint32_t a = 0; a < axes; ++a) to[a] = coordinates[a];
  }
};

// Reads the strings of a batch of keys, class by class: keys of one class have the same parts in the same
// strings, so no branch depends on a key.
class KeyedReader {
 public:
  static constexpr size_t kMostKeys = 512;  // of a batch

  KeyedReader(const KeyedTable& table, const StaticFunction& function, StringReaders read)
      : table_(table), function_(function), read_(read) {}

  // classes: OUT of each key, -1 if it is unknown.
  void classes(const uint64_t* hashes, size_t count, int32_t* classes) const {
    const auto unknown = static_cast<uint32_t>(table_.classes.size());
    look_up_words(function_, read_, hashes, count, [&](size_t i, uint64_t read) {
      const uint32_t own = root_of(string_word(read, hashes[i])).own;
      classes[i] = own == unknown ? -1 : static_cast<int32_t>(own);
    });
  }

  // Gives the symbols of all keys to `taken`, those of a key in order.
  template <typename Taken>
  void read(const uint64_t* hashes, size_t count, const Taken& taken) {
    read_roots(hashes, count, taken);
    read_parts(0, taken);
    for (uint32_t string = 1; read_strings(string, hashes); ++string) read_parts(string, taken);
  }

 private:
  struct Root {
    uint32_t symbol, length, own;  // own: the class; as many as there are classes if the key is unknown
  };

  // Keys of one class, and their next part.
  struct Run {
    const KeyedClass* own;
    uint32_t first, last, part;

    const KeyedPart* next(uint32_t string) const {
      return part < own->parts.size() && own->parts[part].string == string ? &own->parts[part] : nullptr;
    }
  };

  Root root_of(uint64_t word) const {
    const auto unknown = static_cast<uint32_t>(table_.classes.size());
    if (unknown == 0) return {0, 0, 0};
    const Codewords::Found found = table_.root.find(word);
    const uint32_t own = table_.class_of_root[found.symbol];
    return {found.symbol, found.length, table_.root.holds(word) ? own : unknown};
  }

  // Fills in runs_, and keys_ and words_ of all known keys, run after run.
  template <typename Taken>
  void read_roots(const uint64_t* hashes, size_t count, const Taken& taken) {
    const size_t classes = table_.classes.size();
    next_.assign(classes + 2, 0);
    look_up_words(function_, read_, hashes, count, [&](size_t i, uint64_t read) {
      asked_[i] = string_word(read, hashes[i]);
      roots_[i] = root_of(asked_[i]);
      ++next_[roots_[i].own + 1];
    });
    runs_.clear();
    for (size_t own = 0; own < classes; ++own) {
      next_[own + 1] += next_[own];
      if (next_[own] < next_[own + 1])
        runs_.push_back({&table_.classes[own], next_[own], next_[own + 1], 0});
    }
    for (size_t i = 0; i < count; ++i) {
      const Root root = roots_[i];
      const uint32_t at = next_[root.own]++;
      keys_[at] = static_cast<uint32_t>(i);
      words_[at] = asked_[i] << root.length;
      taken.begin(i);
    }
    for (const Run& run : runs_)
      for (uint32_t at = run.first; at < run.last; ++at) {
        const uint32_t symbol = roots_[keys_[at]].symbol - run.own->first_root;
        const size_t value = run.own->first_value + size_t{symbol} * run.own->axes;
        taken.add(keys_[at], table_.values.data() + value, 0, run.own->axes);
      }
  }

  template <typename Taken>
  void read_parts(uint32_t string, const Taken& taken) {
    for (Run& run : runs_)
      for (; const KeyedPart* part = run.next(string); ++run.part) {
        const float* values = table_.values.data() + part->first_value;
        for (uint32_t at = run.first; at < run.last; ++at) {
          // Only an unknown key, taken for a stored one, reads what belongs to no symbol.
          const Codewords::Found found = part->code.find(words_[at]);
          words_[at] <<= found.length;
          taken.add(keys_[at], values + size_t{found.symbol} * part->axes, part->first_axis, part->axes);
        }
      }
  }

  // The next string of all keys that have one; false if none has.
  bool read_strings(uint32_t string, const uint64_t* hashes) {
    size_t count = 0;
    for (const Run& run : runs_) {
      if (!run.next(string)) continue;
      for (uint32_t at = run.first; at < run.last; ++at, ++count) {
        asked_[count] = string_hash(hashes[keys_[at]], string);
        places_[count] = at;
      }
    }
    look_up_words(function_, read_, asked_, count,
                  [&](size_t i, uint64_t read) { read_words_[i] = string_word(read, asked_[i]); });
    for (size_t i = 0; i < count; ++i) words_[places_[i]] = read_words_[i];
    return count > 0;
  }

  const KeyedTable& table_;
  const StaticFunction& function_;
  const StringReaders read_;
  std::vector<uint32_t> next_;
  std::vector<Run> runs_;
  Root roots_[kMostKeys];
  uint32_t keys_[kMostKeys], places_[kMostKeys];
  uint64_t words_[kMostKeys], asked_[kMostKeys], read_words_[kMostKeys];
};

}  // namespace saec
