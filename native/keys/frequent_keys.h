// The coordinates of keys that came up twice, for batches in which some keys are frequent.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace saec {

// One place for each of the lowest bits of hashes. A key takes its place when it comes up twice with no
// other key of the place between, so keys that come up once evict none.
class FrequentKeys {
 public:
  // keys: how many will be asked for; rank: numbers of each.
  FrequentKeys(size_t keys, size_t rank)
      : rank_(rank),
        mask_(std::bit_floor(std::clamp<size_t>(std::min(keys / 8, kMostNumbers / (rank + 1)), 1, kMostKeys)) - 1),
        kept_(mask_ + 1, {0, 0, false, false}),
        numbers_((mask_ + 1) * rank) {}

  // Splits keys into those that are kept, whose numbers go to OUT numbers (count, rank), and others: their
  // positions and hashes. Returns how many others there are.
  size_t take(const uint64_t* hashes, size_t count, float* numbers, uint32_t* positions, uint64_t* others) {
    size_t used = 0;
    for (size_t i = 0; i < count; ++i) {
      const Kept& kept = kept_[hashes[i] & mask_];
      const bool known = kept.any && kept.hash == hashes[i];
      positions[used] = static_cast<uint32_t>(i);
      others[used] = hashes[i];
      used += !known;
    }
    for (size_t i = 0, other = 0; i < count; ++i) {
      if (other < used && positions[other] == i) {
        ++other;
        continue;
      }
      std::copy_n(numbers_.data() + (hashes[i] & mask_) * rank_, rank_, numbers + i * rank_);
    }
    return used;
  }

  // Notes a key that is not kept, and keeps it if it came up before.
  void note(uint64_t hash, const float* numbers) {
    Kept& kept = kept_[hash & mask_];
    if (kept.waits && kept.next == hash) {
      kept = {hash, 0, true, false};
      std::copy_n(numbers, rank_, numbers_.data() + (hash & mask_) * rank_);
    } else {
      kept.next = hash;
      kept.waits = true;
    }
  }

 private:
  static constexpr size_t kMostKeys = size_t{1} << 12, kMostNumbers = size_t{1} << 16;

  struct Kept {
    uint64_t hash, next;
    bool any, waits;  // whether there is a hash, and a next one
  };

  const size_t rank_, mask_;
  std::vector<Kept> kept_;
  std::vector<float> numbers_;
};

}  // namespace saec
