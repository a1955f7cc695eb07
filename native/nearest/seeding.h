// k-means++ seeding (Arthur and Vassilvitskii 2007). Exact; a tree avoids most distance computations.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "nearest/tree.h"

namespace saec {

class PlusPlusSeeding {
 public:
  // rows: IN count x dim; weights: IN count, not negative.
  PlusPlusSeeding(const float* rows, const double* weights, size_t count, size_t dim)
      : rows_(rows), dim_(dim), tree_(TreeBuilder(rows, count, dim, kLeaf).take()),
        weights_(count), squared_(count, 1.0), centres_(tree_.leaves() * dim),
        radii_(tree_.leaves()), farthest_(tree_.leaves(), std::numeric_limits<double>::infinity()),
        masses_(tree_.leaves()) {
    for (size_t i = 0; i < count; ++i) weights_[i] = weights[tree_.order[i]];
    for (size_t leaf = 0; leaf < tree_.leaves(); ++leaf) measure_leaf(leaf);
  }

  // Draws up to `wanted` rows, each with a probability proportional to its weight x its squared distance from the
  // nearest row drawn before. uniforms: IN wanted numbers in [0, 1). chosen: OUT row numbers.
  // Returns the number of rows drawn: fewer than wanted if no other row differs from those drawn.
  size_t draw(const double* uniforms, size_t wanted, int64_t* chosen) {
    for (size_t drawn = 0; drawn < wanted; ++drawn) {
      const size_t place = pick(uniforms[drawn]);
      if (place == weights_.size()) return drawn;
      chosen[drawn] = tree_.order[place];
      if (drawn == 0) std::fill(squared_.begin(), squared_.end(), kFar);
      approach(rows_ + static_cast<size_t>(tree_.order[place]) * dim_);
    }
    return wanted;
  }

 private:
  static constexpr size_t kLeaf = 64;
  static constexpr double kFar = std::numeric_limits<double>::infinity();

  void measure_leaf(size_t leaf) {
    const size_t first = tree_.starts[leaf], last = tree_.starts[leaf + 1];
    double* centre = centres_.data() + leaf * dim_;
    for (size_t i = first; i < last; ++i) {
      masses_[leaf] += weights_[i];  // the first row is drawn by weight alone
      for (size_t d = 0; d < dim_; ++d)
        centre[d] += row(i)[d] / static_cast<double>(last - first);
    }
    for (size_t i = first; i < last; ++i) {
      double squared = 0;
      for (size_t d = 0; d < dim_; ++d) squared += (row(i)[d] - centre[d]) * (row(i)[d] - centre[d]);
      radii_[leaf] = std::max(radii_[leaf], std::sqrt(squared) * (1 + 1e-9));
    }
  }

  const float* row(size_t place) const {
    return rows_ + static_cast<size_t>(tree_.order[place]) * dim_;
  }

  size_t pick(double uniform) const {
    double total = 0;
    for (double mass : masses_) total += mass;
    if (!(total > 0)) return weights_.size();
    double left = uniform * total;
    size_t last_possible = weights_.size();
    for (size_t leaf = 0; leaf < masses_.size(); ++leaf) {
      if (masses_[leaf] <= 0) continue;
      const bool here = left < masses_[leaf];
      for (size_t i = tree_.starts[leaf]; i < tree_.starts[leaf + 1]; ++i) {
        const double mass = weights_[i] * squared_[i];
        if (mass <= 0) continue;
        last_possible = i;
        if (here && left < mass) return i;
        if (here) left -= mass;
      }
      if (here) return last_possible;  // rounded sums may leave a remainder
      left -= masses_[leaf];
    }
    return last_possible;
  }

  void approach(const float* drawn) {
    for (size_t leaf = 0; leaf < tree_.leaves(); ++leaf) {
      const double* centre = centres_.data() + leaf * dim_;
      double apart = 0;
      for (size_t d = 0; d < dim_; ++d) apart += (drawn[d] - centre[d]) * (drawn[d] - centre[d]);
      const double least = std::sqrt(apart) * (1 - 1e-9) - radii_[leaf];
      if (least > 0 && least * least > farthest_[leaf]) continue;
      update_leaf(leaf, drawn);
    }
  }

  void update_leaf(size_t leaf, const float* drawn) {
    masses_[leaf] = farthest_[leaf] = 0;
    for (size_t i = tree_.starts[leaf]; i < tree_.starts[leaf + 1]; ++i) {
      double squared = 0;
      for (size_t d = 0; d < dim_; ++d) {
        const double difference = static_cast<double>(row(i)[d]) - drawn[d];
        squared += difference * difference;
      }
      squared_[i] = std::min(squared_[i], squared);
      farthest_[leaf] = std::max(farthest_[leaf], squared_[i]);
      masses_[leaf] += weights_[i] * squared_[i];
    }
  }

  const float* rows_;
  size_t dim_;
  Tree tree_;
  std::vector<double> weights_, squared_, centres_, radii_, farthest_, masses_;
};

}  // namespace saec
