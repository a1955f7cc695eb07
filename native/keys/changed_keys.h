// Which patch of a chain is the newest that has a key, for all patches in one place.
//
// A patch has the first bits of the hashes of its keys. Entries of all patches are in order of these bits, cut
// into buckets by the highest ones; in a bucket the newest patch comes first. Before them a map of bits is asked,
// which tells most keys that no patch has them. So a key takes one or two looks, however many patches there are.
// A prefix with fewer bits than the number of a bucket stands in each bucket that it covers.
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
  static constexpr uint64_t kMostKeys = uint64_t{1} << 31;

  ChangedKeys() = default;

  // patches: the newest first, at most kMostPatches, of fewer than kMostKeys prefixes together.
  explicit ChangedKeys(const std::vector<KeyPrefixes>& patches) : patches_(static_cast<uint32_t>(patches.size())) {
    size_t total = 0;
    for (const KeyPrefixes& own : patches) total += own.count;
    bucket_bits_ = bits_of_buckets(patches, total);
    map_bits_ = std::min(static_cast<uint32_t>(std::bit_width(total)) + kMapBits, kMostPrefix);
    map_.assign(((size_t{1} << map_bits_) + 63) / 64, 0);
    firsts_.assign((size_t{1} << bucket_bits_) + 1, 0);
    for (const KeyPrefixes& own : patches)
      for_buckets(own, [&](size_t bucket, uint64_t) { ++firsts_[bucket + 1]; });
    for (size_t i = 1; i < firsts_.size(); ++i) firsts_[i] += firsts_[i - 1];
    entries_.resize(firsts_.back() + kFew);  // those behind the last one belong to no bucket
    std::vector<uint32_t> next(firsts_.begin(), firsts_.end() - 1);
    for (uint32_t patch = 0; patch < patches_; ++patch) {
      const KeyPrefixes& own = patches[patch];
      shifts_.push_back(64 - own.bits);
      for_buckets(own, [&](size_t bucket, uint64_t start) { entries_[next[bucket]++] = start | patch; });
      for (size_t i = 0; i < own.count; ++i) mark(own.prefixes[i] << (64 - own.bits) >> (64 - map_bits_), own.bits);
    }
  }

  // maybe: OUT the numbers of keys that the map does not tell; other_hashes, other_positions: OUT those of all further
  // keys. Returns how many there are of the former.
  size_t split(const uint64_t* hashes, const uint32_t* positions, size_t count, uint32_t* maybe, uint64_t* other_hashes,
               uint32_t* other_positions) const {
    constexpr size_t kAhead = 16;
    const uint32_t shift = 64 - map_bits_;
    for (size_t i = 0; i < std::min(count, kAhead); ++i) __builtin_prefetch(&map_[hashes[i] >> shift >> 6]);
    size_t taken = 0;
    for (size_t i = 0; i < count; ++i) {  // no branch to predict
      __builtin_prefetch(&map_[hashes[std::min(i + kAhead, count - 1)] >> shift >> 6]);
      const uint64_t place = hashes[i] >> shift;
      maybe[taken] = static_cast<uint32_t>(i);
      other_hashes[i - taken] = hashes[i];
      other_positions[i - taken] = positions[i];
      taken += map_[place >> 6] >> (place & 63) & 1;
    }
    return taken;
  }

  // links: OUT the number of the newest patch that has each of the keys of these numbers, or how many patches there
  // are. Entries are fetched ahead, so that no key waits for those before it.
  void find_some(const uint64_t* hashes, const uint32_t* numbers, size_t count, uint8_t* links) const {
    constexpr size_t kAhead = 16;
    const auto first_of = [&](size_t i) { return &firsts_[bucket(hashes[numbers[std::min(i, count - 1)]])]; };
    for (size_t i = 0; i < std::min(count, 2 * kAhead); ++i) __builtin_prefetch(first_of(i));
    for (size_t i = 0; i < std::min(count, kAhead); ++i) __builtin_prefetch(entries_.data() + *first_of(i));
    for (size_t i = 0; i < count; ++i) {
      __builtin_prefetch(first_of(i + 2 * kAhead));
      __builtin_prefetch(entries_.data() + *first_of(i + kAhead));
      links[i] = static_cast<uint8_t>(find(hashes[numbers[i]]));
    }
  }

  // The most entries that `find` compares for a key.
  uint32_t most_compared() const {
    uint32_t most = 0;
    for (size_t i = 1; i < firsts_.size(); ++i) most = std::max(most, firsts_[i] - firsts_[i - 1]);
    return most;
  }

 private:
  static constexpr uint32_t kMapBits = 3;  // 8 to 16 bits for each entry

  static constexpr uint32_t kFew = 2;  // entries of nearly all buckets

  // The first few entries of a bucket take no branch, which would depend on the key.
  uint32_t find(uint64_t hash) const {
    const uint32_t* at = &firsts_[bucket(hash)];
    uint32_t found = patches_;
    for (uint32_t i = kFew; i-- > 0;) {
      const uint64_t entry = entries_[at[0] + i];
      const bool same = at[0] + i < at[1] && has(entry, hash);
      found = same ? patch_of(entry) : found;
    }
    if (at[1] - at[0] > kFew && found == patches_) [[unlikely]]
      for (uint32_t place = at[0] + kFew; place < at[1]; ++place)
        if (has(entries_[place], hash)) return patch_of(entries_[place]);
    return found;
  }

  static uint32_t patch_of(uint64_t entry) { return entry & 0xff; }
  bool has(uint64_t entry, uint64_t hash) const { return (entry ^ hash) >> shifts_[patch_of(entry)] == 0; }

  size_t bucket(uint64_t hash) const { return bucket_bits_ ? hash >> (64 - bucket_bits_) : 0; }

  // How many of 2^places_bits places a prefix covers.
  static uint64_t covered(uint32_t places_bits, uint32_t bits) {
    return uint64_t{1} << (places_bits > bits ? places_bits - bits : 0);
  }

  // As many buckets as there are keys, or fewer, so that prefixes which stand in several buckets no more than double
  // the entries.
  static uint32_t bits_of_buckets(const std::vector<KeyPrefixes>& patches, size_t total) {
    for (auto bits = static_cast<uint32_t>(std::bit_width(total)); bits > 0; --bits) {
      uint64_t entries = 0;
      for (const KeyPrefixes& own : patches) entries += own.count * covered(bits, own.bits);
      if (entries <= 2 * uint64_t{total}) return bits;
    }
    return 0;
  }

  // Calls work(bucket, start) for each bucket of each prefix; start: the prefix as the first bits of a hash.
  template <typename Work>
  void for_buckets(const KeyPrefixes& own, const Work& work) const {
    const uint64_t buckets = covered(bucket_bits_, own.bits);
    for (size_t i = 0; i < own.count; ++i) {
      const uint64_t start = own.prefixes[i] << (64 - own.bits);
      for (uint64_t place = 0; place < buckets; ++place) work(bucket(start) + place, start);
    }
  }

  // Marks where in the map keys of a prefix of so many bits may be.
  void mark(uint64_t first, uint32_t bits) {
    const uint64_t places = covered(map_bits_, bits);  // `first` is a multiple of it
    if (places < 64)
      map_[first >> 6] |= ((uint64_t{1} << places) - 1) << (first & 63);
    else
      std::fill_n(map_.begin() + static_cast<ptrdiff_t>(first >> 6), places >> 6, ~uint64_t{0});
  }

  uint32_t patches_ = 0, bucket_bits_ = 0, map_bits_ = 0;
  std::vector<uint64_t> map_;
  std::vector<uint32_t> firsts_;
  std::vector<uint64_t> entries_;
  std::vector<uint32_t> shifts_;
};

}  // namespace saec
