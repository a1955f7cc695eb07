// Sums of rows of keys, bag after bag.
//
// A row is the default row and coordinates on axes. Coordinates are added up first, so that a bag takes one
// product with the axes, not one for each key.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "keys/frequent_keys.h"
#include "keys/keyed_rows.h"

namespace saec {

struct KeyedRequest {
  const uint64_t* hashes;
  size_t keys;
  const int64_t* offsets;  // of bags, ascending from 0 to at most `keys`
  size_t bags;
  const float* weights;  // of keys, or null
  bool mean;
  float* rows;  // OUT (bags, dim)

  size_t start(size_t bag) const { return bag < bags ? static_cast<size_t>(offsets[bag]) : keys; }
};

// Each coordinate is added in the order of the keys, in float32: results depend neither on threads nor on
// where a bag stands. That of a bag of one is the row that a lookup gives.
class KeyedBags {
 public:
  KeyedBags(const KeyedTable& table, const StaticFunction& function, StringReaders read,
            const KeyedRequest& request)
      : table_(table),
        request_(request),
        rank_(table.rank()),
        batch_(std::clamp<size_t>(kBatchNumbers / std::max<size_t>(rank_, 1), kLeastBatch, KeyedReader::kMostKeys)),
        reader_(table, function, read),
        coordinates_(batch_ * rank_),
        sums_(rank_) {}

  // Bags [first, last).
  void pool(size_t first, size_t last) {
    size_t bag = first;
    const size_t end = request_.start(last);
    FrequentKeys frequent(end - request_.start(first), rank_);
    for (size_t at = request_.start(first); at < end; at += batch_) {
      const size_t used = std::min(batch_, end - at);
      read(request_.hashes + at, used, frequent);
      for (size_t i = 0; i < used; ++i) {
        while (at + i == request_.start(bag + 1)) finish(bag++);
        add(coordinates_.data() + i * rank_, request_.weights ? request_.weights[at + i] : 1.0f);
      }
    }
    while (bag < last) finish(bag++);
  }

 private:
  static constexpr size_t kBatchNumbers = size_t{1} << 14, kLeastBatch = 64;

  // The coordinates of a batch of keys.
  void read(const uint64_t* hashes, size_t count, FrequentKeys& frequent) {
    float* numbers = coordinates_.data();
    std::fill_n(numbers, count * rank_, 0.0f);
    const size_t others = frequent.take(hashes, count, numbers, positions_, others_);
    reader_.read(others_, others, TakenCoordinates{rank_, positions_, numbers});
    for (size_t i = 0; i < others; ++i) frequent.note(others_[i], numbers + positions_[i] * rank_);
  }

  void add(const float* coordinates, float weight) {
    weight_ += weight;
    float* sums = sums_.data();
    for (size_t a = 0; a < rank_; ++a) sums[a] += weight * coordinates[a];
  }

  // Writes a bag's row, and starts the next bag.
  void finish(size_t bag) {
    const size_t keys = request_.start(bag + 1) - request_.start(bag), dim = table_.dim;
    const float share = request_.mean && keys ? static_cast<float>(keys) : 1.0f;
    float* row = request_.rows + bag * dim;
    const float weight = weight_ / share, *default_row = table_.default_row();
    for (size_t d = 0; d < dim; ++d) row[d] = weight * default_row[d];
    const float* axis = table_.axes.data();
    for (size_t a = 0; a < rank_; ++a, axis += dim) {
      const float coordinate = sums_[a] / share;
      for (size_t d = 0; d < dim; ++d) row[d] += coordinate * axis[d];
    }
    weight_ = 0;
    std::fill(sums_.begin(), sums_.end(), 0.0f);
  }

  const KeyedTable& table_;
  const KeyedRequest& request_;
  const size_t rank_, batch_;  // batch: of keys
  KeyedReader reader_;
  std::vector<float> coordinates_, sums_;
  float weight_ = 0;
  uint32_t positions_[KeyedReader::kMostKeys];
  uint64_t others_[KeyedReader::kMostKeys];
};

}  // namespace saec
