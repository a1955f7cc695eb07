// Building a bucket of a static function: bits for which all keys' strings are right.
//
// Each bit of a string is an equation over four bits of the bucket. As in peeling, a bit that stands in only
// one equation is made to fulfil it, and the equation is removed. Where no such bit is left, all
// equations of one key are set aside. In reverse order, bits are then set one after the other. Where
// equations were set aside, bits that are nobody's are chosen so that they hold: these change only bits of
// equations removed before, so systems stay small (lazy elimination, as of Genuzio et al. 2016, but local).
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "keys/binary_system.h"
#include "keys/solve_blocks.h"
#include "keys/windows.h"

namespace saec {

// Memory whose content is not set: pages that are not used are never touched.
template <typename T>
class Unset {
 public:
  void reserve(size_t count) {
    if (count <= room_) return;
    items_.reset();
    items_ = std::make_unique_for_overwrite<T[]>(count);
    room_ = count;
  }

  T& operator[](size_t i) { return items_[i]; }
  const T& operator[](size_t i) const { return items_[i]; }

 private:
  std::unique_ptr<T[]> items_;
  size_t room_ = 0;
};

struct BucketShape {
  uint32_t bucket_bits, spread;
  uint64_t bits, seed;
};

class BucketSolver {
 public:
  static constexpr size_t kMostKeys = size_t{1} << 20;

  explicit BucketSolver(const FunctionKeys& keys) : keys_(keys) {}

  // Whether there is a solution; then out has all bits, the first one highest in its byte.
  // members: IN the numbers of the bucket's keys in ascending order of their hashes, all different. out: OUT
  // shape.bits / 8 bytes.
  bool solve(const uint32_t* members, size_t count, const BucketShape& shape, uint8_t* out) {
    place_keys(members, count, shape);
    if (!count_equations(shape.bits) || !peel()) return false;
    bits_.assign(shape.bits, 0);
    if (slots_.size() < shape.bits) slots_.resize(shape.bits);  // zeros again after each system
    if (!assign()) return false;
    pack(out);
    return true;
  }

 private:
  static constexpr uint32_t kAside = std::numeric_limits<uint32_t>::max();
  static constexpr uint32_t kBitShift = 7;  // of an equation's number: key << 7 | bit of its string
  static constexpr size_t kAhead = 16;
  static constexpr size_t kSpare = 40;      // free bits more than equations that are set aside
  static constexpr size_t kMostUnknowns = 1 << 12;  // of one system, and words of what bits are in terms of them
  static constexpr size_t kMostWordsOfRows = size_t{1} << 24;

  // What peeling reads of a key, in half a line of the cache.
  struct Key {
    uint64_t offsets;
    std::array<uint64_t, 2> gone;  // bits of its string whose equations are removed
    uint32_t start, length;
  };
  // Of a bit, in one number so that both change at once: how many equations it stands in, 4 on average and at most
  // kMostStanding, and in the lower kNumberBits bits the exclusive or of their numbers.
  using Standing = uint32_t;
  static constexpr uint32_t kNumberBits = 27;
  static_assert(kMostKeys << kBitShift == Standing{1} << kNumberBits);
  static constexpr Standing kOne = Standing{1} << kNumberBits, kMostStanding = 31;
  static constexpr uint32_t count_of(Standing own) { return own >> kNumberBits; }
  static constexpr uint32_t numbers_of(Standing own) { return own & (kOne - 1); }
  struct Event {
    uint32_t equation, bit;  // bit: the one that fulfils it, or kAside
  };
  struct Group {  // events that were set aside, one after the other
    uint32_t first, last;
    size_t first_free, free;  // bits that became free since then and before the next group

    size_t equations() const { return last - first; }
  };
  struct Free {
    uint32_t event, bit;  // the event that removed the last equation of a bit that is nobody's
  };

  void place_keys(const uint32_t* members, size_t count, const BucketShape& shape) {
    const uint64_t starts = starts_of(shape.bits, shape.spread, keys_.fingerprint_bits + keys_.value_bits);
    spread_ = shape.spread;
    placed_.resize(count);
    strings_.resize(count);
    for (size_t i = 0; i < count; ++i) {
      const uint32_t number = members[i];
      const Places places = places_of(keys_.hashes[number], shape.bucket_bits, starts, shape.seed);
      placed_[i] = {places.offsets, {0, 0}, static_cast<uint32_t>(places.start), keys_.columns_of(number)};
      keys_.string_of(number, strings_[i].data());
    }
  }

  template <typename Use>
  void each_bit(uint32_t equation, const Use& use) const {
    const Key& key = placed_[equation >> kBitShift];
    const uint32_t within = equation & ((1u << kBitShift) - 1);
    for (uint32_t j = 0; j < kPlaces; ++j)
      use(place_of(key, j) + within);
  }

  uint32_t place_of(const Key& key, uint32_t j) const {
    return static_cast<uint32_t>(Places{key.start, key.offsets}.at(j, spread_));
  }

  // False if a bit stands in too many equations: hashes are not evenly distributed then.
  bool count_equations(uint64_t bits) {
    standing_.assign(bits, 0);
    left_ = 0;
    uint32_t full = 0;
    for (size_t i = 0; i < placed_.size(); ++i) {
      const Key& key = placed_[i];
      left_ += key.length;
      const auto first = static_cast<uint32_t>(i) << kBitShift;
      for (uint32_t j = 0; j < kPlaces; ++j) {
        Standing* own = standing_.data() + place_of(key, j);
        for (uint32_t bit = 0; bit < key.length; ++bit) {
          full |= count_of(own[bit]) == kMostStanding;
          own[bit] = (own[bit] + kOne) ^ (first | bit);
        }
      }
    }
    return !full;
  }

  // False if too many equations had to be set aside: hashes are not evenly distributed then.
  bool peel() {
    const size_t most_aside = 512 + left_ / 8;
    size_t aside = 0;
    const size_t bits = standing_.size();
    events_.reserve(left_);
    free_.reserve(bits + 1);  // and one that is written to, but not kept
    ready_.reserve(bits + 1);
    event_count_ = free_count_ = ready_count_ = 0;
    for (size_t bit = bits; bit-- > 0;)
      if (count_of(standing_[bit]) == 1) ready_[ready_count_++] = static_cast<uint32_t>(bit);
    for (size_t key = 0; left_ > 0; ++key) {
      while (ready_count_ > 0) remove_ready();
      const size_t before = left_;
      if (left_ > 0) set_aside(static_cast<uint32_t>(key));
      aside += before - left_;
      if (aside > most_aside) return false;
    }
    return true;
  }

  // Removes some equations, each by a bit that stands in no other one, as many as can be prefetched together.
  void remove_ready() {
    uint32_t bits[kAhead];
    const size_t used = std::min(ready_count_, kAhead);
    for (size_t i = 0; i < used; ++i) {
      bits[i] = ready_[--ready_count_];
      __builtin_prefetch(placed_.data() + (numbers_of(standing_[bits[i]]) >> kBitShift));
    }
    for (size_t i = 0; i < used; ++i) {
      const Standing own = standing_[bits[i]];
      if (count_of(own) == 1)
        each_bit(numbers_of(own), [&](uint32_t bit) { __builtin_prefetch(&standing_[bit], 1); });
    }
    for (size_t i = 0; i < used; ++i)
      if (count_of(standing_[bits[i]]) == 1) remove(numbers_of(standing_[bits[i]]), bits[i]);
  }

  void set_aside(uint32_t key) {
    for (uint32_t bit = 0; bit < placed_[key].length; ++bit)
      if (!(placed_[key].gone[bit / 64] >> bit % 64 & 1)) remove(key << kBitShift | bit, kAside);
  }

  void remove(uint32_t equation, uint32_t pivot) {
    const auto now = static_cast<uint32_t>(event_count_);
    events_[event_count_++] = {equation, pivot};
    const uint32_t within = equation & ((1u << kBitShift) - 1);
    placed_[equation >> kBitShift].gone[within / 64] |= uint64_t{1} << within % 64;
    --left_;
    each_bit(equation, [&](uint32_t bit) {
      const Standing own = standing_[bit] = (standing_[bit] - kOne) ^ equation;
      // As branches, the processor could not predict these.
      ready_[ready_count_] = bit;
      ready_count_ += count_of(own) == 1;
      free_[free_count_] = {now, bit};
      free_count_ += (count_of(own) == 0) & (bit != pivot);
    });
  }

  uint8_t wanted(uint32_t equation) const {
    const uint32_t within = equation & ((1u << kBitShift) - 1);
    return strings_[equation >> kBitShift][within / 64] >> within % 64 & 1;
  }

  // What is missing for an equation, if its bit is 0 as yet.
  uint8_t missing(uint32_t equation) const {
    uint8_t sum = wanted(equation);
    each_bit(equation, [&](uint32_t bit) { sum ^= bits_[bit]; });
    return sum;
  }

  // Sets all bits, from the last event to the first.
  bool assign() {
    find_groups();
    size_t first = 0;
    uint32_t next = static_cast<uint32_t>(event_count_);
    systems_.clear();
    for (size_t group = 0; group < groups_.size(); ++group) {
      const bool own = group > first && groups_[group].free >= groups_[group].equations() + kSpare;
      if (own) {
        if (!fulfil(first, group)) return false;
        first = group;
      }
      settle(groups_[group].last, next);
      next = groups_[group].first;
    }
    if (first < groups_.size() && !fulfil(first, groups_.size())) return false;
    settle(0, next);
    return true;
  }

  // Lets the bits of events [first, last) fulfil their equations.
  void settle(uint32_t first, uint32_t last) {
    for (uint32_t event = last; event-- > first;)
      if (events_[event].bit != kAside) bits_[events_[event].bit] = missing(events_[event].equation);
  }

  // Runs of events that were set aside, the last ones first.
  void find_groups() {
    groups_.clear();
    size_t free = free_count_;
    for (auto last = static_cast<uint32_t>(event_count_); last > 0; --last) {
      if (events_[last - 1].bit != kAside) continue;
      uint32_t first = last;
      while (first > 0 && events_[first - 1].bit == kAside) --first;
      const size_t before = free;
      while (free > 0 && free_[free - 1].event >= first) --free;
      groups_.push_back({first, last, free, before - free});
      last = first + 1;
    }
  }

  // Chooses free bits so that the equations of groups [first, last) hold. All events of groups before
  // them hold, and go on to.
  bool fulfil(size_t first, size_t last) {
    for (;;) {
      const size_t from = groups_[last - 1].first_free;
      const size_t to = first ? groups_[first - 1].first_free : free_count_;
      size_t equations = 0;
      for (size_t group = first; group < last; ++group) equations += groups_[group].equations();
      if (equations > kMostUnknowns) return false;
      for (size_t wanted = equations + kSpare;; wanted *= 2) {
        const size_t used = std::min({wanted, to - from, kMostUnknowns});
        if (used >= equations && solve_local(first, last, from, used)) {
          systems_.push_back(first);
          return true;
        }
        if (used < wanted) break;
      }
      if (first == 0) return false;
      first = systems_.back();
      systems_.pop_back();
    }
  }

  // Whether that is possible with free bits [from, from + count) alone.
  bool solve_local(size_t first_group, size_t last_group, size_t from, size_t count) {
    const uint32_t first = groups_[last_group - 1].last, until = std::max(first, free_[from + count - 1].event + 1);
    const size_t words = count / 64 + 1;
    if ((until - first + count + 1) * words > kMostWordsOfRows) return false;
    rows_.reserve((until - first + count + 1) * words);
    std::fill_n(&rows_[0], (count + 1) * words, uint64_t{0});
    for (size_t i = 0; i < count; ++i) {
      slots_[free_[from + i].bit] = static_cast<uint32_t>(i + 1);
      rows_[(i + 1) * words + i / 64] |= uint64_t{1} << i % 64;
    }
    for (uint32_t event = until; event-- > first;) {
      if (events_[event].bit == kAside) continue;
      const size_t slot = count + 1 + event - first;
      sum_rows(events_[event].equation, words, &rows_[slot * words]);
      slots_[events_[event].bit] = static_cast<uint32_t>(slot);
    }
    BinarySystem system(count);
    bool solvable = true;
    for (size_t group = first_group; group < last_group; ++group)
      for (uint32_t event = groups_[group].first; event < groups_[group].last && solvable; ++event) {
        uint64_t* row = system.next();
        sum_rows(events_[event].equation, words, row);
        if (missing(events_[event].equation)) row[count / 64] ^= uint64_t{1} << count % 64;
        solvable = system.add();
      }
    if (solvable) apply(system.solution(), from, count, first, until, words);
    for (size_t i = 0; i < count; ++i) slots_[free_[from + i].bit] = 0;
    for (uint32_t event = first; event < until; ++event)
      if (events_[event].bit != kAside) slots_[events_[event].bit] = 0;
    return solvable;
  }

  // row: OUT the sum of the rows of an equation's bits.
  void sum_rows(uint32_t equation, size_t words, uint64_t* row) const {
    const uint64_t* rows[kPlaces];
    uint32_t found = 0;
    each_bit(equation, [&](uint32_t bit) { rows[found++] = &rows_[slots_[bit] * words]; });
    static_assert(kPlaces == 4);
    for (size_t w = 0; w < words; ++w) row[w] = rows[0][w] ^ rows[1][w] ^ rows[2][w] ^ rows[3][w];
  }

  void apply(const std::vector<uint64_t>& solution, size_t from, size_t count, uint32_t first, uint32_t until,
             size_t words) {
    for (size_t i = 0; i < count; ++i)
      if (solution[i / 64] >> i % 64 & 1) bits_[free_[from + i].bit] ^= 1;
    for (uint32_t event = first; event < until; ++event) {
      if (events_[event].bit == kAside) continue;
      const uint64_t* row = &rows_[(count + 1 + event - first) * words];
      uint64_t sum = 0;
      for (size_t w = 0; w < words; ++w) sum ^= row[w] & solution[w];
      bits_[events_[event].bit] ^= static_cast<uint8_t>(__builtin_parityll(sum));
    }
  }

  void pack(uint8_t* out) const {
    for (size_t byte = 0; byte < bits_.size() / 8; ++byte) {
      uint8_t packed = 0;
      for (size_t bit = 0; bit < 8; ++bit) packed = static_cast<uint8_t>(packed << 1 | bits_[byte * 8 + bit]);
      out[byte] = packed;
    }
  }

  const FunctionKeys& keys_;
  uint32_t spread_ = 0;
  size_t left_ = 0;  // equations
  std::vector<Key> placed_;
  std::vector<std::array<uint64_t, 2>> strings_;
  std::vector<Standing> standing_;
  std::vector<uint8_t> bits_;
  std::vector<uint32_t> slots_;
  size_t event_count_ = 0, free_count_ = 0, ready_count_ = 0;
  Unset<uint32_t> ready_;
  Unset<Event> events_;
  Unset<Free> free_;
  std::vector<Group> groups_;
  std::vector<size_t> systems_;  // the first group of each that was solved
  Unset<uint64_t> rows_;
};

}  // namespace saec
