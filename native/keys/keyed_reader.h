// Coordinates of keys: the strings of a static function, taken apart by prefix codes; compiled once for
// each instruction set.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>

#include "keys/keyed_table.h"
#include "keys/read_symbols.h"
#include "keys/row_numbers.h"

namespace {

using namespace saec;

constexpr uint64_t kScrambleStep = 0x9e3779b97f4a7c15ULL;

// The finaliser of SplitMix64.
inline uint64_t scramble(uint64_t x) {
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ x >> 27) * 0x94d049bb133111ebULL;
  return x ^ x >> 31;
}

// The bits of keys' strings as their writer meant them, the first one highest. words: OUT.
inline void read_words(const StaticFunction& function, const StringReaders& read, const uint64_t* hashes,
                       size_t count, uint64_t* words) {
  look_up_words(function, read, hashes, count, [=](size_t i, uint64_t word) { words[i] = word; });
  for (size_t i = 0; i < count; ++i) words[i] ^= scramble(hashes[i] ^ kScrambleStep);
}

// Rows of coordinates, `stride` numbers each, of keys that follow each other.
struct Coordinates {
  float* numbers;
  size_t stride;

  // Puts the numbers of symbols, on `axes` axes from `axis` on: those of symbol s are values[first + s * axes] and on,
  // modulo 2^64.
  void put(const uint32_t* symbols, size_t count, const float* values, size_t first, uint32_t axis,
           uint32_t axes) const {
    switch (axes) {  // copies of a size that the compiler knows take a few instructions
      case 0: return;
      case 1: return put_some<1>(symbols, count, values, first, axis);
      case 2: return put_some<2>(symbols, count, values, first, axis);
      case 3: return put_some<3>(symbols, count, values, first, axis);
      case 4: return put_some<4>(symbols, count, values, first, axis);
      case 5: return put_some<5>(symbols, count, values, first, axis);
      case 6: return put_some<6>(symbols, count, values, first, axis);
      case 7: return put_some<7>(symbols, count, values, first, axis);
      case 8: return put_some<8>(symbols, count, values, first, axis);
      case 9: return put_some<9>(symbols, count, values, first, axis);
      case 16: return put_some<16>(symbols, count, values, first, axis);
      default:
        for (size_t i = 0; i < count; ++i)
          std::memcpy(numbers + i * stride + axis, values + (first + size_t{symbols[i]} * axes), axes * sizeof(float));
    }
  }

 private:
  template <uint32_t kAxes>
  void put_some(const uint32_t* symbols, size_t count, const float* values, size_t first, uint32_t axis) const {
    float* to = numbers + axis;
    for (size_t i = 0; i < count; ++i, to += stride)
      std::memcpy(to, values + (first + size_t{symbols[i]} * kAxes), kAxes * sizeof(float));
  }
};

// Reads the strings of a batch of keys, class by class: keys of one class have the same parts in the same
// strings, so no branch depends on a key.
class KeyedReader {
 public:
  static constexpr size_t kMostKeys = 2048;  // of a batch

  // stride: numbers of a row, at least the rank; most: keys of a batch that is read, at most kMostKeys.
  KeyedReader(const KeyedSource& source, size_t stride, size_t most)
      : source_(source), stride_(stride), numbers_(most * stride) {
    size_t classes = 0;
    for (const KeyedLink& link : source.links) classes = std::max(classes, link.table->classes.size());
    next_ = std::make_unique<uint32_t[]>(classes + 2);
    runs_ = std::make_unique<Run[]>(classes);
  }

  // classes: OUT of each key in the base, -1 if it is unknown there. count: at most kMostKeys.
  void classes(const uint64_t* hashes, size_t count, int32_t* classes) {
    enter(source_.links.back());
    if (unknown_ == 0) {
      std::fill_n(classes, count, -1);
      return;
    }
    read_words(*function_, source_.read, hashes, count, read_words_);
    read_roots(count);
    for (size_t i = 0; i < count; ++i) classes[i] = owns_[i] == unknown_ ? -1 : static_cast<int32_t>(owns_[i]);
  }

  // rows: OUT at position i of `positions`, the coordinates of key i, `stride` numbers that are valid until the next
  // call; zeros of an unknown key. count: at most `most`.
  void read(const uint64_t* hashes, size_t count, const uint32_t* positions, const float** rows) {
    if (source_.links.size() == 1) return read_link(source_.links.back(), hashes, count, positions, 0, rows);
    sort_by_link(hashes, count, positions);
    for (size_t link = 0; link < source_.links.size(); ++link) {
      const uint32_t first = first_of_link_[link], last = first_of_link_[link + 1];
      if (first < last)
        read_link(source_.links[link], link_hashes_ + first, last - first, link_positions_ + first, first, rows);
    }
  }

 private:
  // Keys of one class, and their next part.
  struct Run {
    const KeyedClass* own;
    uint32_t first, last, part;

    size_t count() const { return last - first; }
    const KeyedPart* next(uint32_t string) const {
      return part < own->parts.size() && own->parts[part].string == string ? &own->parts[part] : nullptr;
    }
  };

  void enter(const KeyedLink& link) {
    table_ = link.table;
    function_ = link.function;
    unknown_ = static_cast<uint32_t>(table_->classes.size());
  }

  // Fills in link_hashes_ and link_positions_, link after link, and where each link's keys begin.
  void sort_by_link(const uint64_t* hashes, size_t count, const uint32_t* positions) {
    const size_t links = source_.links.size(), base = links - 1;
    const size_t maybe = source_.changed->split(hashes, count, maybe_, others_);
    std::fill_n(first_of_link_, links + 2, 0u);
    source_.changed->find_some(hashes, maybe_, maybe, links_);
    for (size_t i = 0; i < maybe; ++i) ++first_of_link_[links_[i] + 2];
    for (size_t link = 2; link <= base + 1; ++link) first_of_link_[link] += first_of_link_[link - 1];
    const auto take = [&](uint32_t position, uint32_t at) {
      link_hashes_[at] = hashes[position];
      link_positions_[at] = positions[position];
    };
    for (size_t i = 0; i < maybe; ++i) take(maybe_[i], first_of_link_[links_[i] + 1]++);
    for (size_t i = 0; i < count - maybe; ++i) take(others_[i], static_cast<uint32_t>(maybe + i));
    first_of_link_[links] = static_cast<uint32_t>(count);
  }

  // first: number of the first row that is used for these keys.
  void read_link(const KeyedLink& link, const uint64_t* hashes, size_t count, const uint32_t* positions, size_t first,
                 const float** rows) {
    enter(link);
    first_row_ = first;
    if (unknown_ == 0) {
      last_run_ = runs_.get();
      for (size_t i = 0; i < count; ++i) rows[positions[i]] = row(i);
      std::fill_n(row(0), count * stride_, 0.0f);
      return;
    }
    read_words(*function_, source_.read, hashes, count, read_words_);
    read_roots(count);
    sort_by_class(hashes, count, positions, rows);
    const size_t known = last_run_ == runs_.get() ? 0 : (last_run_ - 1)->last;
    std::fill_n(row(0) + known * stride_, (count - known) * stride_, 0.0f);
    for (const Run* run = runs_.get(); run < last_run_; ++run) put_roots(*run);
    read_parts(0);
    for (uint32_t string = 1; read_strings(string); ++string) read_parts(string);
  }

  float* row(size_t key) { return numbers_.row(first_row_ + key, stride_); }

  Coordinates coordinates(const Run& run) { return {row(run.first), stride_}; }

  void put_roots(const Run& run) {
    const KeyedClass& own = *run.own;
    std::fill_n(row(run.first), run.count() * stride_, 0.0f);
    coordinates(run).put(symbols_ + run.first, run.count(), table_->values.data(),
                         own.first_value - size_t{own.first_root} * own.axes, 0, own.axes);
  }

  // Fills in roots_ and owns_ from read_words_, in the order of the keys.
  void read_roots(size_t count) {
    std::fill_n(next_.get(), unknown_ + 2, 0u);
    std::copy_n(read_words_, count, words_);
    read_symbols(table_->root, read_words_, count, roots_);
    const uint64_t last = table_->root.groups().last;
    const uint16_t* class_of_root = table_->class_of_root.data();
    for (size_t i = 0; i < count; ++i) {
      const uint32_t own = class_of_root[roots_[i]], beyond = 0u - (words_[i] > last);  // no branch to predict
      owns_[i] = own + ((unknown_ - own) & beyond);
      ++next_[owns_[i] + 1];
    }
  }

  // Fills in the runs, and words_, symbols_ and hashes_ of all keys, run after run; unknown keys are behind the last
  // run. rows: OUT, see read().
  void sort_by_class(const uint64_t* hashes, size_t count, const uint32_t* positions, const float** rows) {
    last_run_ = runs_.get();
    for (uint32_t own = 0; own < unknown_; ++own) {
      next_[own + 1] += next_[own];
      if (next_[own] < next_[own + 1]) *last_run_++ = {&table_->classes[own], next_[own], next_[own + 1], 0};
    }
    const float* const numbers = row(0);
    for (size_t i = 0; i < count; ++i) {
      const uint32_t at = next_[owns_[i]]++;
      words_[at] = read_words_[i];
      symbols_[at] = roots_[i];
      hashes_[at] = hashes[i];
      rows[positions[i]] = numbers + at * stride_;
    }
  }

  void read_parts(uint32_t string) {
    for (Run* run = runs_.get(); run < last_run_; ++run)
      for (; const KeyedPart* part = run->next(string); ++run->part) {
        // Only an unknown key, taken for a stored one, reads what belongs to no symbol.
        read_symbols(part->code, words_ + run->first, run->count(), symbols_);
        coordinates(*run).put(symbols_, run->count(), table_->values.data(), part->first_value, part->first_axis,
                              part->axes);
      }
  }

  // The next string of all keys that have one; false if none has.
  bool read_strings(uint32_t string) {
    size_t count = 0;
    for (const Run* run = runs_.get(); run < last_run_; ++run) {
      if (!run->next(string)) continue;
      for (uint32_t at = run->first; at < run->last; ++at)
        asked_[count++] = scramble(hashes_[at] + string * kScrambleStep);
    }
    if (count == 0) return false;
    read_words(*function_, source_.read, asked_, count, read_words_);
    const uint64_t* read = read_words_;
    for (const Run* run = runs_.get(); run < last_run_; ++run) {
      if (!run->next(string)) continue;
      std::copy_n(read, run->count(), words_ + run->first);
      read += run->count();
    }
    return true;
  }

  const KeyedSource& source_;
  const KeyedTable* table_ = nullptr;  // of the link that is read
  const StaticFunction* function_ = nullptr;
  uint32_t unknown_ = 0;  // number of its classes, which stands for the class of unknown keys
  std::unique_ptr<uint32_t[]> next_;
  std::unique_ptr<Run[]> runs_;
  Run* last_run_ = nullptr;  // behind it
  const size_t stride_;
  RowNumbers numbers_;
  size_t first_row_ = 0;
  uint32_t roots_[kMostKeys], owns_[kMostKeys], symbols_[kMostKeys];
  uint64_t words_[kMostKeys], hashes_[kMostKeys], asked_[kMostKeys], read_words_[kMostKeys];
  uint8_t links_[kMostKeys];
  uint32_t maybe_[kMostKeys], others_[kMostKeys];
  uint32_t first_of_link_[ChangedKeys::kMostPatches + 3], link_positions_[kMostKeys];
  uint64_t link_hashes_[kMostKeys];
};

}  // namespace
