// Coordinates of keys: the strings of a static function, taken apart by prefix codes; compiled once for
// each instruction set.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>

#include "keys/joined_links.h"
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
    const size_t base = source.base->classes().size();
    const size_t classes = source.patches ? std::max(base, source.patches->classes().size()) : base;
    next_ = std::make_unique<uint32_t[]>(classes + 2);
    runs_ = std::make_unique<Run[]>(classes);
    groups_ = std::make_unique<Group[]>(classes);
  }

  // classes: OUT of each key in the base, -1 if it is unknown there. count: at most kMostKeys.
  void classes(const uint64_t* hashes, size_t count, int32_t* classes) {
    enter(*source_.base);
    read_roots(0, hashes, 0, count);
    for (size_t i = 0; i < count; ++i) classes[i] = owns_[i] == unknown_ ? -1 : static_cast<int32_t>(owns_[i]);
  }

  // rows: OUT at position i of `positions`, the coordinates of key i, `stride` numbers that are valid until the next
  // call; zeros of an unknown key. count: at most `most`.
  void read(const uint64_t* hashes, size_t count, const uint32_t* positions, const float** rows) {
    uint32_t firsts[] = {0, static_cast<uint32_t>(count)};
    if (source_.patches) {
      sort_by_link(hashes, count, positions);
      firsts[1] = first_of_link_[0];
      hashes = link_hashes_;
      positions = link_positions_;
    }
    if (firsts[1]) read_links(*source_.base, hashes, firsts, positions, rows);
    if (firsts[1] < count) read_links(*source_.patches, hashes, first_of_link_, positions, rows);
  }

 private:
  template <typename Number>
  using Batch = Number[kMostKeys];

  // Keys of one class of one link.
  struct Run {
    const JoinedClass* of;
    uint32_t first, last;

    size_t count() const { return last - first; }
    // Strings of a class have no gaps.
    bool has(uint32_t string) const { return !of->own->parts.empty() && of->own->parts.back().string >= string; }
  };

  // Keys of classes that are alike, and their next part.
  struct Group {
    const JoinedClass* of;  // one of them
    uint32_t first, last, part;

    size_t count() const { return last - first; }
    const KeyedPart* next(uint32_t string) const {
      const std::vector<KeyedPart>& parts = of->own->parts;
      return part < parts.size() && parts[part].string == string ? &parts[part] : nullptr;
    }
  };

  void enter(const JoinedLinks& joined) {
    joined_ = &joined;
    unknown_ = static_cast<uint32_t>(joined.classes().size());
    std::fill_n(next_.get(), unknown_ + 2, 0u);
  }

  // Fills in link_hashes_ and link_positions_, those of the base first, and where each patch's keys begin and end.
  void sort_by_link(const uint64_t* hashes, size_t count, const uint32_t* positions) {
    const size_t patches = source_.patches->links().size();
    const size_t maybe = source_.changed->split(hashes, positions, count, maybe_, link_hashes_, link_positions_);
    source_.changed->find_some(hashes, maybe_, maybe, links_);
    uint32_t* const next = first_of_link_ + 1;
    std::fill_n(next, patches + 1, 0u);
    for (size_t i = 0; i < maybe; ++i) ++next[links_[i]];
    const auto others = static_cast<uint32_t>(count - maybe);
    uint32_t at = first_of_link_[0] = others + std::exchange(next[patches], others);
    for (size_t link = 0; link < patches; ++link) at += std::exchange(next[link], at);
    for (size_t i = 0; i < maybe; ++i) {
      const uint32_t place = next[links_[i]]++;
      link_hashes_[place] = hashes[maybe_[i]];
      link_positions_[place] = positions[maybe_[i]];
    }
  }

  // firsts: where each link's keys begin, and behind the last one where they end.
  void read_links(const JoinedLinks& joined, const uint64_t* hashes, const uint32_t* firsts, const uint32_t* positions,
                  const float** rows) {
    enter(joined);
    const size_t links = joined.links().size(), first = firsts[0], last = firsts[links];
    for (size_t link = 0; link < links; ++link)
      if (firsts[link] < firsts[link + 1]) read_roots(link, hashes, firsts[link], firsts[link + 1]);
    next_[0] = firsts[0];
    sort_by_class(hashes, first, last, positions, rows);
    const size_t known = last_group_ == groups_.get() ? first : (last_group_ - 1)->last;
    std::fill_n(row(known), (last - known) * stride_, 0.0f);
    for (const Run* run = runs_.get(); run < last_run_; ++run) put_roots(*run);
    read_parts(0);
    for (uint32_t string = 1; read_strings(string); ++string) read_parts(string);
  }

  float* row(size_t key) { return numbers_.row(key, stride_); }

  void put_roots(const Run& run) {
    const KeyedClass& own = *run.of->own;
    std::fill_n(row(run.first), run.count() * stride_, 0.0f);
    Coordinates{row(run.first), stride_}.put(symbols_ + run.first, run.count(), run.of->values,
                                             own.first_value - size_t{own.first_root} * own.axes, 0, own.axes);
  }

  // Fills in read_words_, words_, roots_ and owns_ of a link's keys, in their order, and counts their classes.
  void read_roots(size_t link, const uint64_t* hashes, size_t first, size_t last) {
    const KeyedLink& own = joined_->links()[link];
    if (own.table->classes.empty()) {
      std::fill(owns_ + first, owns_ + last, unknown_);
      std::fill(roots_ + first, roots_ + last, 0u);
      std::fill(read_words_ + first, read_words_ + last, uint64_t{0});
      next_[unknown_ + 1] += static_cast<uint32_t>(last - first);
      return;
    }
    read_words(*own.function, source_.read, hashes + first, last - first, read_words_ + first);
    std::copy(read_words_ + first, read_words_ + last, words_ + first);
    read_symbols(own.table->root, read_words_ + first, last - first, roots_ + first);
    const uint64_t end = own.table->root.groups().last;
    const uint32_t* class_of_root = joined_->class_of_root(link);
    for (size_t i = first; i < last; ++i) {
      const uint32_t found = class_of_root[roots_[i]], beyond = 0u - (words_[i] > end);  // no branch to predict
      owns_[i] = found + ((unknown_ - found) & beyond);
      ++next_[owns_[i] + 1];
    }
  }

  // Fills in runs and groups, and words_, symbols_ and hashes_ of all keys, group after group; unknown keys are behind
  // the last one. rows: OUT, see read().
  void sort_by_class(const uint64_t* hashes, size_t first, size_t last, const uint32_t* positions,
                     const float** rows) {
    start_runs();
    const float* const numbers = row(0);
    for (size_t i = first; i < last; ++i) {
      const uint32_t at = next_[owns_[i]]++;
      words_[at] = read_words_[i];
      symbols_[at] = roots_[i];
      hashes_[at] = hashes[i];
      rows[positions[i]] = numbers + at * stride_;
    }
  }

  void start_runs() {
    const JoinedClass* const classes = joined_->classes().data();
    last_group_ = groups_.get();
    for (uint32_t own = 0; own < unknown_; ++own) {
      next_[own + 1] += next_[own];
      if (next_[own] == next_[own + 1]) continue;
      const bool alike = last_group_ > groups_.get() && (last_group_ - 1)->of->alike == classes[own].alike;
      if (alike) (last_group_ - 1)->last = next_[own + 1];
      else *last_group_++ = {classes + own, next_[own], next_[own + 1], 0};
    }
    last_run_ = runs_.get();
    for (const uint32_t own : joined_->by_link())
      if (next_[own] < next_[own + 1]) *last_run_++ = {classes + own, next_[own], next_[own + 1]};
  }

  void read_parts(uint32_t string) {
    for (Group* group = groups_.get(); group < last_group_; ++group)
      for (; const KeyedPart* part = group->next(string); ++group->part) {
        // Only an unknown key, taken for a stored one, reads what belongs to no symbol.
        read_symbols(part->code, words_ + group->first, group->count(), symbols_);
        Coordinates{row(group->first), stride_}.put(symbols_, group->count(), group->of->values, part->first_value,
                                                    part->first_axis, part->axes);
      }
  }

  // The next string of all keys that have one; false if none has.
  bool read_strings(uint32_t string) {
    bool found = false;
    for (const Run *run = runs_.get(), *end = run; run < last_run_; run = end) {
      size_t count = 0;
      for (; end < last_run_ && end->of->link == run->of->link; ++end)
        for (uint32_t at = end->has(string) ? end->first : end->last; at < end->last; ++at)
          asked_[count++] = scramble(hashes_[at] + string * kScrambleStep);
      if (count == 0) continue;
      found = true;
      read_words(*joined_->links()[run->of->link].function, source_.read, asked_, count, read_words_);
      const uint64_t* read = read_words_;
      for (const Run* own = run; own < end; ++own) {
        if (!own->has(string)) continue;
        std::copy_n(read, own->count(), words_ + own->first);
        read += own->count();
      }
    }
    return found;
  }

  const KeyedSource& source_;
  const JoinedLinks* joined_ = nullptr;  // those that are read
  uint32_t unknown_ = 0;  // number of their classes, which stands for the class of unknown keys
  std::unique_ptr<uint32_t[]> next_;
  std::unique_ptr<Run[]> runs_;  // link after link
  std::unique_ptr<Group[]> groups_;
  Run* last_run_ = nullptr;  // behind it
  Group* last_group_ = nullptr;
  const size_t stride_;
  RowNumbers numbers_;
  alignas(64) Batch<uint32_t> roots_, owns_, symbols_, maybe_, link_positions_;
  alignas(64) Batch<uint64_t> words_, hashes_, asked_, read_words_, link_hashes_;
  Batch<uint8_t> links_;
  uint32_t first_of_link_[ChangedKeys::kMostPatches + 3];
};

}  // namespace
