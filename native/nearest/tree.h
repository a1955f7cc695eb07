// Splits rows into compact leaves, each time at the median along the direction of largest variance.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

namespace saec {

struct Tree {
  std::vector<int32_t> order;   // row numbers, leaf after leaf
  std::vector<size_t> starts;   // leaf l is order[starts[l] .. starts[l + 1])
  size_t leaves() const { return starts.size() - 1; }
};

class TreeBuilder {
 public:
  // rows: IN count x dim. leaf: rows per leaf (the last leaf may hold fewer).
  TreeBuilder(const float* rows, size_t count, size_t dim, size_t leaf)
      : rows_(rows), dim_(dim), leaf_(leaf), projections_(count) {
    tree_.order.resize(count);
    std::iota(tree_.order.begin(), tree_.order.end(), 0);
    tree_.starts.push_back(0);
    split(0, count);
  }
  Tree take() { return std::move(tree_); }

 private:
  void split(size_t first, size_t last) {
    if (last - first <= leaf_) {
      tree_.starts.push_back(last);
      return;
    }
    const std::vector<double> direction = principal_direction(first, last);
    for (size_t i = first; i < last; ++i) {
      const int32_t row = tree_.order[i];
      double projection = 0;
      for (size_t d = 0; d < dim_; ++d) projection += direction[d] * rows_[row * dim_ + d];
      // nth_element would run out of bounds with NaN, which has no order.
      projections_[row] = std::isnan(projection) ? 0.0f : static_cast<float>(projection);
    }
    // The left half has whole leaves, so that only the very last leaf may be smaller.
    const size_t leaves = (last - first + leaf_ - 1) / leaf_;
    const size_t middle = first + (leaves / 2) * leaf_;
    std::nth_element(tree_.order.begin() + first, tree_.order.begin() + middle,
                     tree_.order.begin() + last, [this](int32_t a, int32_t b) {
                       return projections_[a] != projections_[b] ? projections_[a] < projections_[b]
                                                                 : a < b;
                     });
    split(first, middle);
    split(middle, last);
  }

  // Power iteration on the covariance of a sample of rows, smaller for wide rows. The direction affects speed, not
  // results.
  std::vector<double> principal_direction(size_t first, size_t last) const {
    constexpr size_t kMostSampled = 128, kLeastSampled = 16, kSampledValues = 8192, kSteps = 4;
    const size_t sample = std::clamp(kSampledValues / dim_, kLeastSampled, kMostSampled);
    const size_t stride = (last - first + sample - 1) / sample;
    std::vector<double> mean(dim_), square(dim_), direction(dim_), next(dim_);
    size_t sampled = 0;
    for (size_t i = first; i < last; i += stride, ++sampled)
      for (size_t d = 0; d < dim_; ++d) {
        const double x = rows_[tree_.order[i] * dim_ + d];
        mean[d] += x;
        square[d] += x * x;
      }
    for (size_t d = 0; d < dim_; ++d) {
      mean[d] /= sampled;
      // Start with the standard deviation of each coordinate.
      direction[d] = std::sqrt(std::max(0.0, square[d] / sampled - mean[d] * mean[d]));
    }
    for (size_t step = 0; step < kSteps; ++step) {
      std::fill(next.begin(), next.end(), 0.0);
      for (size_t i = first; i < last; i += stride) {
        const float* row = rows_ + tree_.order[i] * dim_;
        double projection = 0;
        for (size_t d = 0; d < dim_; ++d) projection += direction[d] * (row[d] - mean[d]);
        for (size_t d = 0; d < dim_; ++d) next[d] += projection * (row[d] - mean[d]);
      }
      double length = 0;
      for (double x : next) length += x * x;
      if (length == 0) break;  // all rows are equal, or orthogonal to the start
      for (size_t d = 0; d < dim_; ++d) direction[d] = next[d] / std::sqrt(length);
    }
    return direction;
  }

  const float* rows_;
  size_t dim_, leaf_;
  std::vector<float> projections_;
  Tree tree_;
};

}  // namespace saec
