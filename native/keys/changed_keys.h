// Which patch of a chain is the newest that has a key, for all patches in one place.
//
// A patch has the first bits of the hashes of its keys. Entries of all patches are in order of these bits, cut
// into buckets by the highest ones; in a bucket the newest patch comes first. So a key takes one look, however many
// patches there are, and most keys find an empty bucket.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace saec {

// The first `bits` bits (1 to kMostPrefix) of the hashes of a patch's keys, ascending.
struct KeyPrefixes {
  const uint64_t* prefixes;
  size_t count;
  uint32_t bits;
};

class ChangedKeys {
 public:
  static constexpr uint32_t kMostPrefix = 56;
  static constexpr size_t kMostPatches = 255;

  ChangedKeys() = default;

  // patches: the newest first, at most kMostPatches.
  explicit ChangedKeys(const std::vector<KeyPrefixes>& patches) : patches_(static_cast<uint32_t>(patches.size())) {
    size_t total = 0;
    for (const KeyPrefixes& own : patches) {
      total += own.count;
      least_ = std::min(least_, own.bits);
    }
    // No bucket splits the keys of a prefix.
    bucket_bits_ = std::min(static_cast<uint32_t>(std::bit_width(total)), least_);
    firsts_.assign((size_t{1} << bucket_bits_) + 1, 0);
    entries_.resize(total);
    for (const KeyPrefixes& own : patches)
      for (size_t i = 0; i < own.count; ++i) ++firsts_[bucket(own.prefixes[i] << (64 - own.bits)) + 1];
    for (size_t i = 1; i < firsts_.size(); ++i) firsts_[i] += firsts_[i - 1];
    std::vector<uint32_t> next(firsts_.begin(), firsts_.end() - 1);
    for (uint32_t patch = 0; patch < patches_; ++patch) {
      const KeyPrefixes& own = patches[patch];
      shifts_.push_back(64 - own.bits);
      for (size_t i = 0; i < own.count; ++i) {
        const uint64_t start = own.prefixes[i] << (64 - own.bits);
        entries_[next[bucket(start)]++] = start | patch;
      }
    }
  }

  // patches: OUT of each key the number of the newest patch that has it, or how many patches there are.
  void find(const uint64_t* hashes, size_t count, uint8_t* patches) const {
    for (size_t first = 0; first < count; first += kAhead) {
      const size_t used = std::min(count - first, kAhead);
      find_some(hashes + first, used, patches + first);
    }
  }

 private:
  static constexpr size_t kAhead = 64;

  size_t bucket(uint64_t hash) const { return bucket_bits_ ? hash >> (64 - bucket_bits_) : 0; }

  void find_some(const uint64_t* hashes, size_t count, uint8_t* patches) const {
    uint32_t starts[kAhead], ends[kAhead];
    for (size_t i = 0; i < count; ++i) __builtin_prefetch(&firsts_[bucket(hashes[i])]);
    for (size_t i = 0; i < count; ++i) {
      const uint32_t* at = &firsts_[bucket(hashes[i])];
      starts[i] = at[0];
      ends[i] = at[1];
      __builtin_prefetch(entries_.data() + at[0]);
    }
    for (size_t i = 0; i < count; ++i) {
      uint32_t found = patches_;
      for (uint32_t at = starts[i]; at < ends[i]; ++at) {
        const uint64_t entry = entries_[at];
        const auto patch = static_cast<uint32_t>(entry & 0xff);
        if ((entry ^ hashes[i]) >> shifts_[patch] == 0) {
          found = patch;
          break;
        }
      }
      patches[i] = static_cast<uint8_t>(found);
    }
  }

  uint32_t patches_ = 0, least_ = kMostPrefix, bucket_bits_ = 0;
  std::vector<uint32_t> firsts_;
  std::vector<uint64_t> entries_;
  std::vector<uint32_t> shifts_;
};

}  // namespace saec
