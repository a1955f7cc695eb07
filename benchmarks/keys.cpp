// What keys.py compares with: a hash map of key to row, as bags of rows.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

namespace {

constexpr size_t kAhead = 16;  // keys whose memory is on its way at once

// Open addressing with linear probing, at most 0.7 full. Rows follow each other as their keys do, and a place
// holds the key and its row's number, so that a find reads two places in memory.
struct RowMap {
  struct Place {
    uint64_t key;
    uint32_t row;
  };
  std::vector<Place> places;
  size_t mask, dim;
  const float* rows;

  RowMap(const uint64_t* keys, size_t count, const float* table, size_t width) : dim(width), rows(table) {
    size_t size = 16;
    while (size * 7 < count * 10) size *= 2;
    places.assign(size, {0, UINT32_MAX});
    mask = size - 1;
    for (size_t i = 0; i < count; ++i) {
      size_t at = start(keys[i]);
      while (places[at].row != UINT32_MAX) at = (at + 1) & mask;
      places[at] = {keys[i], static_cast<uint32_t>(i)};
    }
  }

  size_t start(uint64_t key) const { return (key * 0x9e3779b97f4a7c15ULL >> 20) & mask; }

  uint32_t find(uint64_t key) const {
    size_t at = start(key);
    while (places[at].row != UINT32_MAX && places[at].key != key) at = (at + 1) & mask;
    return places[at].row;
  }

  // Bags [first, last) of `size` keys each.
  void pool(const uint64_t* keys, size_t size, size_t first, size_t last, float* out) const {
    const size_t end = last * size;
    uint32_t found[kAhead];
    std::fill(out + first * dim, out + last * dim, 0.0f);
    for (size_t at = first * size; at < end; at += kAhead) {
      const size_t used = std::min(kAhead, end - at);
      for (size_t i = at + kAhead; i < std::min(end, at + 2 * kAhead); ++i)
        __builtin_prefetch(&places[start(keys[i])]);
      for (size_t i = 0; i < used; ++i) {
        found[i] = find(keys[at + i]);
        if (found[i] == UINT32_MAX) continue;
        for (size_t d = 0; d < dim; d += 16) __builtin_prefetch(rows + found[i] * dim + d);
      }
      for (size_t i = 0; i < used; ++i) {
        if (found[i] == UINT32_MAX) continue;
        const float* row = rows + found[i] * dim;
        float* sum = out + (at + i) / size * dim;
        for (size_t d = 0; d < dim; ++d) sum[d] += row[d];
      }
    }
  }
};

}  // namespace

extern "C" {

RowMap* map_of(const uint64_t* keys, size_t count, const float* rows, size_t dim) {
  return new RowMap(keys, count, rows, dim);
}

void map_free(RowMap* map) { delete map; }

size_t map_bytes(const RowMap* map) { return map->places.size() * sizeof(RowMap::Place); }

void map_pool(const RowMap* map, const uint64_t* keys, size_t bags, size_t size, size_t threads, float* out) {
  std::vector<std::thread> others;
  const size_t share = (bags + threads - 1) / threads;
  for (size_t first = share; first < bags; first += share)
    others.emplace_back([=] { map->pool(keys, size, first, std::min(bags, first + share), out); });
  map->pool(keys, size, 0, std::min(bags, share), out);
  for (std::thread& other : others) other.join();
}
}
