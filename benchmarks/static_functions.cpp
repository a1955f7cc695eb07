// What static_functions.py compares with: a hash map of key to index, and a binary fuse graph.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "keys/static_function.h"

namespace {

constexpr size_t kAhead = 32;  // keys whose memory is on its way at once

// Open addressing with linear probing; an index of UINT32_MAX marks a free place.
struct Map {
  struct Place {
    uint64_t key;
    uint32_t index;
  };
  std::vector<Place> places;
  size_t mask;

  Map(const uint64_t* keys, size_t count) {
    size_t size = 16;
    while (size * 7 < count * 10) size *= 2;  // at most 0.7 full
    places.assign(size, {0, UINT32_MAX});
    mask = size - 1;
    for (size_t i = 0; i < count; ++i) {
      size_t at = keys[i] & mask;
      while (places[at].index != UINT32_MAX) at = (at + 1) & mask;
      places[at] = {keys[i], static_cast<uint32_t>(i)};
    }
  }

  uint32_t find(uint64_t key) const {
    size_t at = key & mask;
    while (places[at].index != UINT32_MAX && places[at].key != key) at = (at + 1) & mask;
    return places[at].index;
  }
};

// Four places in consecutive segments, one slot of r bits each.
struct Fuse {
  uint32_t starts, segment_bits, width;
  uint64_t seed;

  void places(uint64_t hash, uint64_t* place) const {
    const uint64_t mixed = saec::mix_hash(hash + seed * 0x9e3779b97f4a7c15ULL);
    uint64_t offsets = mixed * 0xd6e8feb86659fd93ULL;
    offsets ^= offsets >> 32;
    const uint64_t size = uint64_t{1} << segment_bits;
    uint64_t first = ((mixed >> 32) * starts >> 32) * size;
    for (int j = 0; j < 4; ++j, first += size, offsets >>= 16) place[j] = first + (offsets & (size - 1));
  }

  uint64_t slots() const { return uint64_t{starts + 3} << segment_bits; }

  // Takes away keys that have a slot to themselves; whether all go. bits: OUT, if not null.
  bool solve(const uint64_t* hashes, const uint64_t* values, size_t count, uint8_t* bits) const {
    std::vector<uint8_t> degree(slots());
    std::vector<uint32_t> sum(slots()), order, own, free;
    uint64_t place[4];
    for (size_t i = 0; i < count; ++i) {
      places(hashes[i], place);
      for (const uint64_t slot : place) ++degree[slot], sum[slot] ^= static_cast<uint32_t>(i);
    }
    for (size_t slot = 0; slot < slots(); ++slot) {
      if (degree[slot] == 1) free.push_back(static_cast<uint32_t>(slot));
      while (!free.empty()) {
        const uint32_t mine = free.back();
        free.pop_back();
        if (degree[mine] != 1) continue;
        const uint32_t key = sum[mine];
        order.push_back(key);
        own.push_back(mine);
        places(hashes[key], place);
        for (const uint64_t other : place) {
          sum[other] ^= key;
          if (--degree[other] == 1) free.push_back(static_cast<uint32_t>(other));
        }
      }
    }
    if (order.size() < count) return false;
    for (size_t i = count; bits && i-- > 0;) {
      places(hashes[order[i]], place);
      uint64_t value = values[order[i]];
      for (const uint64_t slot : place) value ^= saec::load_word(bits, slot * width);
      uint64_t word;
      std::memcpy(&word, bits + uint64_t{own[i]} * width / 8, sizeof word);
      word ^= saec::lowest(value, width) << uint64_t{own[i]} * width % 8;
      std::memcpy(bits + uint64_t{own[i]} * width / 8, &word, sizeof word);
    }
    return true;
  }
};

}  // namespace

extern "C" {

Map* map_of(const uint64_t* keys, size_t count) { return new Map(keys, count); }
void map_free(Map* map) { delete map; }
size_t map_bytes(const Map* map) { return map->places.size() * sizeof(Map::Place); }

void map_find(const Map* map, const uint64_t* keys, size_t count, uint32_t* found) {
  for (size_t first = 0; first < count; first += kAhead) {
    const size_t last = std::min(count, first + kAhead);
    for (size_t i = first; i < last; ++i) __builtin_prefetch(&map->places[keys[i] & map->mask]);
    for (size_t i = first; i < last; ++i) found[i] = map->find(keys[i]);
  }
}

size_t fuse_slots(uint32_t starts, uint32_t segment_bits) { return Fuse{starts, segment_bits, 0, 0}.slots(); }

bool fuse_solve(const uint64_t* hashes, const uint64_t* values, size_t count, uint32_t width,
                uint32_t starts, uint32_t segment_bits, uint64_t seed, uint8_t* bits) {
  return Fuse{starts, segment_bits, width, seed}.solve(hashes, values, count, bits);
}

void fuse_find(const uint64_t* hashes, size_t count, uint32_t width, uint32_t starts,
               uint32_t segment_bits, uint64_t seed, const uint8_t* bits, uint64_t* found) {
  const Fuse fuse{starts, segment_bits, width, seed};
  uint64_t place[kAhead][4];
  for (size_t first = 0; first < count; first += kAhead) {
    const size_t used = std::min(count - first, kAhead);
    for (size_t i = 0; i < used; ++i) {
      fuse.places(hashes[first + i], place[i]);
      for (const uint64_t slot : place[i]) __builtin_prefetch(bits + slot * width / 8);
    }
    for (size_t i = 0; i < used; ++i) {
      uint64_t value = 0;
      for (const uint64_t slot : place[i]) value ^= saec::load_word(bits, slot * width);
      found[first + i] = saec::lowest(value, width);
    }
  }
}
}
