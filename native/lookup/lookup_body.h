// Sums of bags of rows, compiled once per instruction set. Everything in here has internal linkage:
// otherwise the linker could use code of one instruction set for another.
#pragma once

#include <vector>

#include "lookup/lookup_finder.h"
#include "lookup/lookup_live.h"

namespace {

inline void store_row(const float* row, size_t dim, Element element, uint8_t* out) {
  if (element == Element::kFloat32) {
    std::memcpy(out, row, dim * sizeof(float));
  } else if (element == Element::kFloat16) {
    auto* to = reinterpret_cast<_Float16*>(out);
    for (size_t j = 0; j < dim; ++j) to[j] = static_cast<_Float16>(row[j]);
  } else {
    auto* to = reinterpret_cast<Bfloat16*>(out);
    for (size_t j = 0; j < dim; ++j) to[j] = to_bfloat16(row[j]);
  }
}

// Computes one bag after the other.
class Bags {
 public:
  Bags(const Request& request, Element out, Finder& finder)
      : request_(request),
        table_(*request.table),
        finder_(finder),
        kernels_(row_kernels(table_.element, table_.width)),
        unframe_(unframe_of(table_.dim)),
        out_(out),
        framed_(!table_.frame.scale.empty()),
        direct_(out == Element::kFloat32 && !framed_),
        plain_(out == Element::kFloat32 && !request.offsets && !request.weights &&
               request.skipped < 0),
        sums_(framed_ ? table_.width * (plain_ ? kPiece : 1) : 0),
        long_sums_(table_.any_long && !plain_ ? table_.width : 0),
        row_(direct_ ? 0 : table_.dim) {}

  // Whether each id is a bag of its own with float32 output, so that rows are copied directly.
  bool plain() const { return plain_; }

  // Computes a bag of the ids [first, last); returns false if an id or a code is bad.
  bool pool(size_t bag, size_t first, size_t last) {
    uint8_t* out = request_.out + bag * request_.stride;
    float* row = direct_ ? reinterpret_cast<float*>(out) : row_.data();
    const bool done = request_.mode == Mode::kMax || request_.skipped >= 0
                          ? pool_singly(first, last, row)
                          : pool_sum(first, last, row);
    if (!done) return false;
    if (!direct_) store_row(row, table_.dim, out_, out);
    return true;
  }

  bool copy(size_t first, size_t last) {
    for (size_t at = first; at < last;) {
      const size_t count = piece(at, last);
      if (!finder_.reach(at + count)) return false;
      uint8_t* out = request_.out + at * request_.stride;
      if (framed_) copy_framed(finder_.rows(at, count), out);
      else kernels_.copy(table_.stored, table_.width, finder_.rows(at, count), out, request_.stride);
      for (size_t i; (i = finder_.next_long(at + count)) < at + count; finder_.pass_long())
        add_cells(i, 1, reinterpret_cast<float*>(request_.out + i * request_.stride));
      at += count;
    }
    return true;
  }

 private:
  void copy_framed(const RowList& list, uint8_t* out) {
    float* sums = sums_.data();
    const size_t row_bytes = table_.width * sizeof(float);
    kernels_.copy(table_.stored, table_.width, list, reinterpret_cast<uint8_t*>(sums), row_bytes);
    for (size_t i = 0; i < list.count; ++i)
      unframe_(table_.frame, table_.width, table_.dim, sums + i * table_.width, 1,
               reinterpret_cast<float*>(out + i * request_.stride));
  }

  size_t piece(size_t at, size_t last) const {
    return std::min({last - at, kPiece, finder_.together(at)});
  }

  bool pool_sum(size_t first, size_t last, float* row) {
    float* sums = framed_ ? sums_.data() : row;
    start_bag();
    if (first == last) std::fill_n(sums, table_.width, 0.0f);
    for (size_t at = first; at < last;) {
      const size_t count = piece(at, last);
      if (!finder_.reach(at + count)) return false;
      add(at, count, at == first ? nullptr : sums, sums);
      at += count;
    }
    complete(sums, row);
    if (request_.mode == Mode::kMean && last > first) divide(row, last - first);
    return true;
  }

  // Row by row, for bags that are not plain sums: the maximum of each coordinate, or skipped ids.
  bool pool_singly(size_t first, size_t last, float* row) {
    size_t counted = 0;
    std::vector<float> one(table_.dim);
    std::fill_n(row, table_.dim, 0.0f);
    for (size_t at = first; at < last; ++at) {
      if (!finder_.reach(at + 1)) return false;
      if (request_.skipped >= 0 && finder_.id(at) == static_cast<uint64_t>(request_.skipped)) {
        if (finder_.next_long(at + 1) == at) finder_.pass_long();
        continue;
      }
      float* sums = framed_ ? sums_.data() : one.data();
      start_bag();
      add(at, 1, nullptr, sums);
      complete(sums, one.data());
      const bool largest = request_.mode == Mode::kMax && counted > 0;
      for (size_t j = 0; j < table_.dim; ++j)
        row[j] = !largest               ? row[j] + one[j]
                 : one[j] > row[j]      ? one[j]
                                        : row[j];
      ++counted;
    }
    if (request_.mode == Mode::kMean && counted > 0) divide(row, counted);
    return true;
  }

  void start_bag() {
    any_long_ = false;
    weight_ = 0;
  }

  // Rows with long codes have sums of their own until the bag is complete, so that the result does not
  // depend, to the last bit, on how the bag is cut into pieces.
  void add(size_t at, size_t count, const float* from, float* sums) {
    const float* weights = request_.weights ? request_.weights + at : nullptr;
    const auto kernel = weights ? kernels_.add_weighted : kernels_.add;
    kernel(table_.stored, table_.width, finder_.rows(at, count), weights, from, sums);
    if (finder_.next_long(at + count) < at + count) add_longs(at + count, sums);
    if (!weights) weight_ += static_cast<float>(count);
    else
      for (size_t i = 0; i < count; ++i) weight_ += weights[i];
  }

  // Adds what the rows before `end` with long codes have beyond their stored rows: their groups, as lists
  // of stored rows, or their cells if they have no groups. Without bags, the result must be exact to the
  // last bit, so cells are used.
  void add_longs(size_t end, float* sums) {
    if (!request_.offsets) {
      for (size_t i; (i = finder_.next_long(end)) < end; finder_.pass_long())
        add_cells(i, request_.weights ? request_.weights[i] : 1, sums);
      return;
    }
    if (!any_long_) std::fill(long_sums_.begin(), long_sums_.end(), 0.0f);
    any_long_ = true;
    size_t listed = 0;
    for (size_t i; (i = finder_.next_long(end)) < end; finder_.pass_long()) {
      const Run& run = finder_.run(i);
      const RowCodes codes = finder_.codes(i);
      const Group* groups = table_.groups.data() + run.first_group;
      if (run.groups == 0 || listed + run.groups > kListed) add_listed(listed);
      if (run.groups == 0 || run.groups > kListed) {
        add_cells(i, request_.weights ? request_.weights[i] : 1, long_sums_.data());
        continue;
      }
      for (size_t j = 0; j < run.groups; ++j, ++listed) {
        const uint64_t word = code_word(table_, codes, groups[j].ordered, groups[j].shift);
        listed_[listed] = groups[j].first + (word & groups[j].mask);
        if (request_.weights) listed_weights_[listed] = request_.weights[i];
      }
    }
    add_listed(listed);
  }

  void add_listed(size_t& listed) {
    const auto kernel = request_.weights ? kernels_.add_weighted : kernels_.add;
    float* sums = long_sums_.data();
    kernel(table_.stored, table_.width, {listed_, nullptr, listed}, listed_weights_, sums, sums);
    listed = 0;
  }

  // Adds coordinate * axis for each axis beyond the row's stored row, in order, so that the row is exact to
  // the last bit.
  void add_cells(size_t position, float weight, float* row) {
    const Run& run = finder_.run(position);
    kernels_.cells(table_, table_.cells.data() + run.first_cell, run.cells,
                   finder_.codes(position), weight, row);
  }

  // Completes the sums of a bag and turns them into a row.
  void complete(float* sums, float* row) {
    if (any_long_)
      for (size_t j = 0; j < table_.width; ++j) sums[j] += long_sums_[j];
    if (framed_) unframe_(table_.frame, table_.width, table_.dim, sums, weight_, row);
  }

  void divide(float* row, size_t count) const {
    for (size_t j = 0; j < table_.dim; ++j) row[j] /= static_cast<float>(count);
  }

  const Request& request_;
  const Table& table_;
  Finder& finder_;
  const RowKernels kernels_;
  const Unframe unframe_;
  const Element out_;
  const bool framed_, direct_, plain_;
  bool any_long_ = false;
  float weight_ = 0;  // of a bag so far
  uint64_t listed_[kListed];
  float listed_weights_[kListed];
  std::vector<float> sums_, long_sums_, row_;
};

Failure pool_range(const Request& request, size_t first, size_t last, Element out) {
  const auto start_of = [&](size_t bag) {
    if (!request.offsets) return bag;
    return bag < request.bags ? static_cast<size_t>(request.offsets[bag]) : request.count;
  };
  Finder finder(request, start_of(first), start_of(last));
  Bags bags(request, out, finder);
  bool done = true;
  if (bags.plain()) done = bags.copy(first, last);
  else
    for (size_t bag = first; bag < last && done; ++bag)
      done = bags.pool(bag, start_of(bag), start_of(bag + 1));
  return done ? Failure{} : finder.failure();
}

}  // namespace
