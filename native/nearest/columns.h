// Measures codes of single coordinates: the error of tables and grids of several widths for each column of a tier.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "nearest/scalar.h"
#include "system/workers.h"

namespace saec {

// values: OUT 1 + the sum of the table sizes: the mean, then the centers of each table, ascending, padded with the
// last one. left: OUT 2 + tables: weighted squared errors with no code, with the mean, and with each table.
// grids: OUT 2 for each grid, its offset and step. grid_left: OUT grids, weighted squared errors; infinite if
// float16 cannot hold the grid.
struct ColumnOut {
  float* values;
  double* left;
  float* grids;
  double* grid_left;
};

struct ColumnSizes {
  const int64_t* tables;  // values of each table
  size_t table_count;
  const int64_t* grid_bits;
  size_t grid_count;
  size_t runs_per_cluster, least_runs;

  size_t most() const {
    return table_count ? static_cast<size_t>(*std::max_element(tables, tables + table_count)) : 0;
  }
};

constexpr double kLargestHalf = 65504.0;
constexpr int kLeastHalfExponent = -14;  // of normal numbers

// x rounded to float16, ties to even; the largest float16 in place of infinity.
inline double rounded_to_half(double x) {
  const double near = std::clamp(x, -kLargestHalf, kLargestHalf);
  if (near == 0) return 0;
  const double unit = std::ldexp(1.0, std::max(std::ilogb(near), kLeastHalfExponent) - 10);
  return std::clamp(std::nearbyint(near / unit) * unit, -kLargestHalf, kLargestHalf);
}

class Column {
 public:
  // column, weights: IN count; order: IN count, the row numbers in ascending order of the column.
  Column(const float* column, const double* weights, const int64_t* order, size_t count)
      : sums_(count + 1) {
    values_.reserve(count), weights_.reserve(count);
    for (size_t i = 0; i < count; ++i) {
      const double weight = weights[order[i]];
      const double x = column[order[i]];
      if (!(weight > 0)) continue;
      values_.push_back(column[order[i]]), weights_.push_back(weight);
      square_ += weight * x * x;
    }
  }

  void measure(const ColumnSizes& sizes, const ColumnOut& out) {
    out.left[0] = square_;
    if (square_ > 0) {
      const double centre =
          sum_scalars(values_.data(), weights_.data(), values_.size(), sums_.data());
      const Scalars scalars{values_.data(), sums_.data(), values_.size(), centre};
      mean_ = scalars.mean(0, scalars.count);
      measure_tables(scalars, sizes, out);
      for (size_t g = 0; g < sizes.grid_count; ++g)
        out.grid_left[g] = measure_grid(static_cast<int>(sizes.grid_bits[g]), out.grids + 2 * g);
    }
  }

 private:
  void measure_tables(const Scalars& scalars, const ColumnSizes& sizes, const ColumnOut& out) {
    float* values = out.values;
    const double mean = rounded_to_half(mean_);
    *values++ = static_cast<float>(mean);
    out.left[1] = scalar_distortion(scalars, &mean, 1);
    if (!sizes.table_count) return;
    const size_t limit = std::max(sizes.runs_per_cluster * sizes.most(), sizes.least_runs);
    std::vector<int64_t> borders(std::min(limit, scalars.count) + 1);
    const size_t runs = split_scalars(scalars, borders.size() - 1, borders.data());
    std::vector<int64_t> found(sizes.tables, sizes.tables + sizes.table_count);
    size_t wanted = 0;
    for (int64_t& size : found) {
      size = std::min(size, static_cast<int64_t>(runs));
      wanted += static_cast<size_t>(size) + 1;
    }
    std::vector<int64_t> partitions(wanted);
    partition_scalars(scalars, borders.data(), runs, found.data(), found.size(), partitions.data());
    int64_t* partition = partitions.data();
    std::vector<double> centers;
    for (size_t t = 0; t < found.size(); ++t) {
      const auto clusters = static_cast<size_t>(found[t]);
      centers.resize(clusters);
      refine_scalars(scalars, clusters, partition, centers.data());
      for (double& center : centers) center = rounded_to_half(center);
      centers.erase(std::unique(centers.begin(), centers.end()), centers.end());
      out.left[2 + t] = scalar_distortion(scalars, centers.data(), centers.size());
      float* end = std::copy(centers.begin(), centers.end(), values);
      values += sizes.tables[t];
      std::fill(end, values, static_cast<float>(centers.back()));
      partition += clusters + 1;
    }
  }

  // Tries grids over smaller and smaller parts of the range and keeps the best: a few rows at the ends of the range
  // must not determine the step for all others. grid: OUT offset and step. Returns the weighted squared error.
  double measure_grid(int bits, float* grid) const {
    constexpr double kShrink = 0.85;
    constexpr int kMostShrinks = 24;
    const double low = values_.front(), high = values_.back();
    const double middle = std::clamp(mean_, low, high);
    double best = std::numeric_limits<double>::infinity();
    double share = 1;
    for (int i = 0; i <= kMostShrinks; ++i, share *= kShrink) {
      const double first = middle + share * (low - middle);
      const double step = share * (high - low) / ((1 << bits) - 1);
      if (std::abs(first) > kLargestHalf || step > kLargestHalf) continue;
      if (step < std::ldexp(1.0, kLeastHalfExponent)) break;
      const auto offset = static_cast<float>(rounded_to_half(first));
      const auto spacing = static_cast<float>(rounded_to_half(step));
      const double left = grid_distortion(offset, spacing, bits);
      if (left >= best) break;
      best = left, grid[0] = offset, grid[1] = spacing;
    }
    return best;
  }

  double grid_distortion(float offset, float step, int bits) const {
    constexpr size_t kLanes = 8;
    const auto most = static_cast<float>((1 << bits) - 1);
    const auto squared = [&](size_t i) {
      const float steps = std::min(std::max((values_[i] - offset) / step, 0.0f), most);
      constexpr float kWhole = 12582912.0f;  // 1.5 * 2^23: adding it rounds a small number to an integer
      const float error = values_[i] - (offset + ((steps + kWhole) - kWhole) * step);
      return weights_[i] * static_cast<double>(error) * static_cast<double>(error);
    };
    double sums[kLanes] = {};
    const size_t whole = values_.size() / kLanes * kLanes;
    for (size_t i = 0; i < whole; i += kLanes)
      for (size_t lane = 0; lane < kLanes; ++lane) sums[lane] += squared(i + lane);
    for (size_t i = whole; i < values_.size(); ++i) sums[0] += squared(i);
    double total = 0;
    for (double sum : sums) total += sum;
    return total;
  }

  std::vector<float> values_;
  std::vector<double> weights_;
  std::vector<Moments> sums_;
  double square_ = 0, mean_ = 0;
};

// columns: IN axes x count; weights: IN count; order: IN axes x count; outs: the results of each axis.
inline void measure_columns(const float* columns, const double* weights, const int64_t* order,
                            size_t axes, size_t count, const ColumnSizes& sizes, int threads,
                            const std::vector<ColumnOut>& outs) {
  for_ranges(axes, 1, threads, [&](size_t axis, size_t) {
    Column(columns + axis * count, weights, order + axis * count, count).measure(sizes, outs[axis]);
  });
}

}  // namespace saec
