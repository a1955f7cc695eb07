// Rows of keys, and sums of them; compiled once for each instruction set.
//
// A row is the default row and coordinates on axes. Coordinates are added up first, so that a bag takes one
// product with the axes, not one for each key.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <vector>

#include "keys/frequent_keys.h"
#include "keys/keyed_reader.h"

namespace {

using namespace saec;

constexpr size_t kBlock = 16;  // numbers that are added up in registers

// The registers of a block. Written out, because compilers add such numbers one by one otherwise.
#ifdef __AVX512F__
constexpr size_t kLanes = 16;
#else
constexpr size_t kLanes = 8;
#endif
typedef float Floats __attribute__((vector_size(kLanes * sizeof(float))));

inline Floats load_floats(const float* at) {
  Floats found;
  std::memcpy(&found, at, sizeof found);
  return found;
}

struct Block {
  static constexpr size_t kParts = kBlock / kLanes;
  Floats parts[kParts];

  explicit Block(const float* from) {
    for (size_t i = 0; i < kParts; ++i) parts[i] = load_floats(from + i * kLanes);
  }

  void put(float* to) const {
    for (size_t i = 0; i < kParts; ++i) std::memcpy(to + i * kLanes, &parts[i], sizeof parts[i]);
  }

  void add(const float* row) {
    for (size_t i = 0; i < kParts; ++i) parts[i] += load_floats(row + i * kLanes);
  }

  void add(float weight, const float* row) {
    for (size_t i = 0; i < kParts; ++i) parts[i] += weight * load_floats(row + i * kLanes);
  }

  void scale(float weight) {
    for (Floats& part : parts) part *= weight;
  }
};

// row: OUT weight * the default row + coordinates on the axes.
void put_row(const KeyedTable& table, float weight, const float* coordinates, float* row) {
  const size_t dim = table.dim, rank = table.rank();
  const float *axes = table.axes.data(), *default_row = table.default_row();
  size_t first = 0;
  for (; first + kBlock <= dim; first += kBlock) {
    Block sums(default_row + first);
    sums.scale(weight);
    for (size_t a = 0; a < rank; ++a) sums.add(coordinates[a], axes + a * dim + first);
    sums.put(row + first);
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
      : stride_((source.base->table().rank() + kBlock - 1) / kBlock * kBlock),
        most_(std::clamp<size_t>(std::min(keys, kBatchNumbers / std::max<size_t>(stride_, 1)), kLeastBatch,
                                 KeyedReader::kMostKeys)),
        reader_(source, stride_, most_),
        frequent_(keys, stride_) {
    std::iota(every_, every_ + KeyedReader::kMostKeys, 0u);
  }

  size_t most() const { return most_; }
  size_t stride() const { return stride_; }
  KeyedReader& reader() { return reader_; }

  // The coordinates of each of at most `most()` keys, valid until the next call.
  const float* const* read(const uint64_t* hashes, size_t count) {
    frequent_.note(others_, positions_, noted_, rows_);  // now that the rows of the last batch are not needed
    noted_ = 0;
    if (frequent_.pays()) {
      noted_ = frequent_.take(hashes, count, rows_, positions_, others_);
      reader_.read(others_, noted_, positions_, rows_);
    } else {
      frequent_.pass(count);
      reader_.read(hashes, count, every_, rows_);
    }
    return rows_;
  }

 private:
  static constexpr size_t kBatchNumbers = size_t{1} << 15, kLeastBatch = 64;

  const size_t stride_, most_;  // numbers of a key, and keys of a batch
  KeyedReader reader_;
  FrequentKeys frequent_;
  size_t noted_ = 0;  // keys of the last batch that were not kept
  const float* rows_[KeyedReader::kMostKeys];
  uint32_t every_[KeyedReader::kMostKeys], positions_[KeyedReader::kMostKeys];
  uint64_t others_[KeyedReader::kMostKeys];
};

// Each coordinate is added in the order of the keys, in float32: results depend neither on threads nor on
// where a bag stands. That of a bag of one is the row that a lookup gives.
class KeyedBags {
 public:
  KeyedBags(const KeyedTable& table, const KeyedRequest& request, KeyedBatches& batches)
      : table_(table), request_(request), batches_(batches), sums_(batches.stride(), 0.0f) {}

  // Bags [first, last).
  void pool(size_t first, size_t last) {
    size_t bag = first;
    const size_t end = request_.start(last);
    for (size_t at = request_.start(first); at < end; at += batches_.most()) {
      const size_t used = std::min(batches_.most(), end - at);
      const float* const* rows = batches_.read(request_.hashes + at, used);
      for (size_t i = 0; i < used;) {
        while (request_.start(bag + 1) == at + i) finish(bag++);
        const size_t until = std::min(used, request_.start(bag + 1) - at);
        if (request_.weights) add<true>(rows + i, request_.weights + at + i, until - i);
        else add<false>(rows + i, nullptr, until - i);
        i = until;
      }
    }
    while (bag < last) finish(bag++);
  }

 private:
  template <bool kWeighted>
  void add(const float* const* rows, const float* weights, size_t count) {
    for (size_t block = 0; block < batches_.stride(); block += kBlock) {
      Block sums(sums_.data() + block);
      for (size_t i = 0; i < count; ++i) {
        if constexpr (kWeighted) sums.add(weights[i], rows[i] + block);
        else sums.add(rows[i] + block);
      }
      sums.put(sums_.data() + block);
    }
    if (!kWeighted) weight_ += static_cast<float>(count);
    else
      for (size_t i = 0; i < count; ++i) weight_ += weights[i];
  }

  // Writes a bag's row, and starts the next bag.
  void finish(size_t bag) {
    const size_t keys = request_.start(bag + 1) - request_.start(bag);
    const float share = request_.mean && keys ? static_cast<float>(keys) : 1.0f;
    for (float& sum : sums_) sum /= share;
    put_row(table_, weight_ / share, sums_.data(), request_.rows + bag * table_.dim);
    weight_ = 0;
    std::fill(sums_.begin(), sums_.end(), 0.0f);
  }

  const KeyedTable& table_;
  const KeyedRequest& request_;
  KeyedBatches& batches_;
  std::vector<float> sums_;
  float weight_ = 0;
};

struct Work final : KeyedWork {
  Work(const KeyedSource& source, size_t keys) : table(source.base->table()), batches(source, keys) {}

  const KeyedTable& table;
  KeyedBatches batches;
};

std::unique_ptr<KeyedWork> begin_work(const KeyedSource& source, size_t keys) {
  return std::make_unique<Work>(source, keys);
}

void read_classes(KeyedWork& work, const uint64_t* hashes, size_t count, int32_t* classes) {
  KeyedReader& reader = static_cast<Work&>(work).batches.reader();
  for (size_t at = 0; at < count; at += KeyedReader::kMostKeys)
    reader.classes(hashes + at, std::min(KeyedReader::kMostKeys, count - at), classes + at);
}

void read_rows(KeyedWork& work, const uint64_t* hashes, size_t count, float* rows) {
  const KeyedTable& table = static_cast<Work&>(work).table;
  KeyedBatches& batches = static_cast<Work&>(work).batches;
  for (size_t at = 0; at < count; at += batches.most()) {
    const size_t used = std::min(batches.most(), count - at);
    const float* const* coordinates = batches.read(hashes + at, used);
    for (size_t i = 0; i < used; ++i) put_row(table, 1.0f, coordinates[i], rows + (at + i) * table.dim);
  }
}

void pool_bags(KeyedWork& work, const KeyedRequest& request, size_t first, size_t last) {
  auto& own = static_cast<Work&>(work);
  KeyedBags(own.table, request, own.batches).pool(first, last);
}

}  // namespace
