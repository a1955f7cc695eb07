// Rows of keys, and sums of them; compiled once for each instruction set.
//
// A row is the default row and coordinates on axes. Coordinates are added up first, so that a bag takes one
// product with the axes, not one for each key.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "keys/frequent_keys.h"
#include "keys/keyed_reader.h"

namespace {

using namespace saec;

constexpr size_t kBlock = 16;  // numbers that are added up in registers

// row: OUT weight * the default row + coordinates on the axes.
void put_row(const KeyedTable& table, float weight, const float* coordinates, float* row) {
  const size_t dim = table.dim, rank = table.rank();
  const float *axes = table.axes.data(), *default_row = table.default_row();
  size_t first = 0;
  for (; first + kBlock <= dim; first += kBlock) {
    float sums[kBlock];
    for (size_t d = 0; d < kBlock; ++d) sums[d] = weight * default_row[first + d];
    for (size_t a = 0; a < rank; ++a)
      for (size_t d = 0; d < kBlock; ++d) sums[d] += coordinates[a] * axes[a * dim + first + d];
    std::copy_n(sums, kBlock, row + first);
  }
  for (; first < dim; ++first) {
    float sum = weight * default_row[first];
    for (size_t a = 0; a < rank; ++a) sum += coordinates[a] * axes[a * dim + first];
    row[first] = sum;
  }
}

// Coordinates of batches of keys.
class KeyedBatches {
 public:
  // keys: of all batches.
  KeyedBatches(const KeyedSource& source, size_t keys)
      : stride_((source.base().rank() + kBlock - 1) / kBlock * kBlock),
        most_(std::clamp<size_t>(kBatchNumbers / std::max<size_t>(stride_, 1), kLeastBatch, KeyedReader::kMostKeys)),
        reader_(source),
        frequent_(keys, stride_),
        numbers_(std::make_unique<float[]>(most_ * stride_)) {}

  size_t most() const { return most_; }
  size_t stride() const { return stride_; }
  const float* numbers() const { return numbers_.get(); }

  // At most `most()` keys.
  void read(const uint64_t* hashes, size_t count) {
    float* numbers = numbers_.get();
    std::fill_n(numbers, count * stride_, 0.0f);
    const size_t others = frequent_.take(hashes, count, numbers, positions_, others_);
    reader_.read(others_, others, positions_, Coordinates{numbers, stride_});
    frequent_.note(others_, positions_, others, numbers);
  }

 private:
  static constexpr size_t kBatchNumbers = size_t{1} << 14, kLeastBatch = 64;

  const size_t stride_, most_;  // numbers of a key, and keys of a batch
  KeyedReader reader_;
  FrequentKeys frequent_;
  const std::unique_ptr<float[]> numbers_;
  uint32_t positions_[KeyedReader::kMostKeys];
  uint64_t others_[KeyedReader::kMostKeys];
};

// Each coordinate is added in the order of the keys, in float32: results depend neither on threads nor on
// where a bag stands. That of a bag of one is the row that a lookup gives.
class KeyedBags {
 public:
  // keys: of all bags.
  KeyedBags(const KeyedSource& source, const KeyedRequest& request, size_t keys)
      : table_(source.base()),
        request_(request),
        batches_(source, keys),
        sums_(std::make_unique<float[]>(batches_.stride())) {}

  // Bags [first, last).
  void pool(size_t first, size_t last) {
    size_t bag = first;
    const size_t end = request_.start(last);
    for (size_t at = request_.start(first); at < end; at += batches_.most()) {
      const size_t used = std::min(batches_.most(), end - at);
      batches_.read(request_.hashes + at, used);
      for (size_t i = 0; i < used;) {
        while (request_.start(bag + 1) == at + i) finish(bag++);
        const size_t until = std::min(used, request_.start(bag + 1) - at);
        add(at, i, until);
        i = until;
      }
    }
    while (bag < last) finish(bag++);
  }

 private:
  // Keys [first, last) of the batch that starts at a key.
  void add(size_t start, size_t first, size_t last) {
    const size_t stride = batches_.stride();
    const float* weights = request_.weights ? request_.weights + start : nullptr;
    for (size_t block = 0; block < stride; block += kBlock) {
      const float* numbers = batches_.numbers() + block;
      float sums[kBlock];
      std::copy_n(sums_.get() + block, kBlock, sums);
      for (size_t i = first; i < last; ++i) {
        const float weight = weights ? weights[i] : 1.0f;
        for (size_t a = 0; a < kBlock; ++a) sums[a] += weight * numbers[i * stride + a];
      }
      std::copy_n(sums, kBlock, sums_.get() + block);
    }
    for (size_t i = first; i < last; ++i) weight_ += weights ? weights[i] : 1.0f;
  }

  // Writes a bag's row, and starts the next bag.
  void finish(size_t bag) {
    const size_t keys = request_.start(bag + 1) - request_.start(bag);
    const float share = request_.mean && keys ? static_cast<float>(keys) : 1.0f;
    float* sums = sums_.get();
    for (size_t a = 0; a < batches_.stride(); ++a) sums[a] /= share;
    put_row(table_, weight_ / share, sums, request_.rows + bag * table_.dim);
    weight_ = 0;
    std::fill_n(sums, batches_.stride(), 0.0f);
  }

  const KeyedTable& table_;
  const KeyedRequest& request_;
  KeyedBatches batches_;
  const std::unique_ptr<float[]> sums_;
  float weight_ = 0;
};

void read_classes(const KeyedSource& source, const uint64_t* hashes, size_t count, int32_t* classes) {
  KeyedReader reader(source);
  for (size_t at = 0; at < count; at += KeyedReader::kMostKeys)
    reader.classes(hashes + at, std::min(KeyedReader::kMostKeys, count - at), classes + at);
}

void read_rows(const KeyedSource& source, const uint64_t* hashes, size_t count, float* rows) {
  KeyedBatches batches(source, count);
  for (size_t at = 0; at < count; at += batches.most()) {
    const size_t used = std::min(batches.most(), count - at);
    batches.read(hashes + at, used);
    for (size_t i = 0; i < used; ++i)
      put_row(source.base(), 1.0f, batches.numbers() + i * batches.stride(), rows + (at + i) * source.base().dim);
  }
}

void pool_bags(const KeyedSource& source, const KeyedRequest& request, size_t first, size_t last) {
  KeyedBags(source, request, request.start(last) - request.start(first)).pool(first, last);
}

}  // namespace
