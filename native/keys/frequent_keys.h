// The coordinates of keys that came up twice, for calls in which some keys are frequent; compiled once for
// each instruction set.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "keys/row_numbers.h"

namespace {

// A cache of sets of two places. Sixteen bits of a key that is not in it are noted; the key takes a place when it
// comes up again before another key with the same place among the notes, so keys that come up once evict none.
// Hashes are compared in full. While few of the keys are in it, it is not asked.
class FrequentKeys {
 public:
  // keys: how many will be asked for; stride: numbers of each.
  FrequentKeys(size_t keys, size_t stride)
      : stride_(stride),
        mask_(std::bit_floor(std::clamp<size_t>(std::min(keys / 4, kMostNumbers / std::max<size_t>(stride, 1)), 4, kMostPlaces)) / 2 - 1),
        kept_(2 * (mask_ + 1)),
        newer_(mask_ + 1),
        noted_(kNotes * kept_.size()),
        numbers_(kept_.size() * stride) {
    for (size_t i = 0; i < kept_.size(); ++i) kept_[i] = (i / 2) ^ 1;  // hashes that belong to another set
  }

  // Whether to ask for the next batch.
  bool pays() const { return idle_ == 0; }

  // To be called in place of take().
  void pass(size_t count) { idle_ -= std::min(idle_, count); }

  // Splits keys into those that are kept, whose numbers OUT rows[i] points to, and others: their positions and
  // hashes. Returns how many others there are. Pointers are valid until note() is called.
  size_t take(const uint64_t* hashes, size_t count, const float** rows, uint32_t* positions, uint64_t* others) {
    size_t used = 0;
    for (size_t i = 0; i < count; ++i) {  // no branch to predict
      const uint64_t hash = hashes[i];
      const size_t place = (hash & mask_) * 2;
      const bool first = kept_[place] == hash, second = kept_[place + 1] == hash;
      rows[i] = numbers_.row(place + second, stride_);
      positions[used] = static_cast<uint32_t>(i);
      others[used] = hash;
      used += !(first | second);
    }
    asked_ += count;
    found_ += count - used;
    if (asked_ >= kTrial) judge();
    return used;
  }

  // Notes keys that are not kept, and keeps those that were noted. rows[positions[i]]: numbers of key i.
  void note(const uint64_t* hashes, const uint32_t* positions, size_t count, const float* const* rows) {
    const size_t notes = noted_.size() - 1;
    for (size_t i = 0; i < count; ++i) {
      const uint64_t hash = hashes[i];
      uint16_t& noted = noted_[hash >> kNoteShift & notes];
      if (noted == static_cast<uint16_t>(hash >> 48)) keep(hash, rows[positions[i]]);
      noted = static_cast<uint16_t>(hash >> 48);
    }
  }

 private:
  static constexpr size_t kMostPlaces = size_t{1} << 15, kMostNumbers = size_t{1} << 19;
  static constexpr size_t kNotes = 4;  // for each place
  static constexpr uint32_t kNoteShift = 20;
  // After so many keys, of which less than one in kLeast was in the cache, it is not asked for kPause keys.
  static constexpr size_t kTrial = 4096, kLeast = 16, kPause = 16 * kTrial;

  void keep(uint64_t hash, const float* row) {
    const size_t set = hash & mask_;
    if (kept_[2 * set] == hash || kept_[2 * set + 1] == hash) return;  // it came up several times in this batch
    const size_t place = 2 * set + (newer_[set] ^= 1);
    kept_[place] = hash;
    std::copy_n(row, stride_, numbers_.row(place, stride_));
  }

  void judge() {
    if (found_ * kLeast < asked_) idle_ = kPause;
    asked_ = found_ = 0;
  }

  const size_t stride_, mask_;
  std::vector<uint64_t> kept_;  // hashes, set after set
  std::vector<uint8_t> newer_;  // the place of each set that was taken last
  std::vector<uint16_t> noted_;
  RowNumbers numbers_;  // of each place
  size_t asked_ = 0, found_ = 0;  // keys since the last judgement
  size_t idle_ = 0;               // keys for which it is not asked
};

}  // namespace
