// Levels of coordinates: points of an even lattice that hold values, each value at the level with the least error
// plus cost of its codeword.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include "system/workers.h"

namespace saec {

// rows: how many the class has, of which the values are a sample; bit_nats: the price of a bit; step_bits: what an error
// of one step costs; most: points on either side of the centre; rounds: how often values choose again.
struct LatticeOptions {
  double rows, bit_nats, step_bits;
  size_t most, rounds;
};

// Levels of one axis, whose first point is at `low` and whose points are `step` apart. numbers: of the levels' points,
// counted from the first one, ascending from 0; counts: of values; means: of their values, weighted.
struct Lattice {
  double low = 0, step = 0;
  std::vector<int64_t> numbers;
  std::vector<double> counts, means;
};

class LatticeLevels {
 public:
  // shares: IN count, of each value in all occurrences, with a positive sum.
  LatticeLevels(const double* shares, size_t count, const LatticeOptions& options)
      : shares_(shares), count_(count), options_(options), total_(std::accumulate(shares, shares + count, 0.0)),
        column_(count), point_(count) {}

  // values: IN count, `stride` apart; nats: per squared error of a value that has all occurrences, positive; levels:
  // OUT count, the level of each value.
  Lattice of(const float* values, size_t stride, double nats, uint16_t* levels) {
    for (size_t i = 0; i < count_; ++i) column_[i] = values[i * stride];
    Lattice found;
    place(found, nats);
    for (size_t i = 0; i < count_; ++i) levels[i] = level_of_[static_cast<size_t>(point_[i])];
    measure(found, levels);
    for (size_t round = 0; round < options_.rounds && choose(found, nats, levels); ++round) {
      drop_empty(found, levels);
      measure(found, levels);
    }
    const int64_t first = found.numbers.front();
    found.low += found.step * static_cast<double>(first);
    for (int64_t& number : found.numbers) number -= first;
    return found;
  }

 private:
  // The lattice, the point of each value, and a level for each point that has values.
  void place(Lattice& found, double nats) {
    double centre = 0, widest = 0;
    for (size_t i = 0; i < count_; ++i) centre += shares_[i] * column_[i];
    centre /= total_;
    double step = std::sqrt(options_.step_bits * options_.bit_nats * options_.rows / (total_ * nats));
    if (std::abs(centre) < step / 2) centre = 0;
    for (const double value : column_) widest = std::max(widest, std::abs(value - centre));
    const auto most = static_cast<double>(options_.most);
    step = std::max(step, widest / most);
    int64_t least = 0, last = 0;
    for (size_t i = 0; i < count_; ++i) {
      const double number = std::nearbyint((column_[i] - centre) / step);
      const auto point = number > -most && number < most ? static_cast<int64_t>(number)
                                                         : static_cast<int64_t>(number > 0 ? most : -most);
      least = i == 0 ? point : std::min(least, point);
      last = i == 0 ? point : std::max(last, point);
      point_[i] = point;
    }
    std::vector<bool> used(static_cast<size_t>(last - least) + 1);
    for (int64_t& point : point_) used[static_cast<size_t>(point -= least)] = true;
    found.low = centre + step * static_cast<double>(least);
    found.step = step;
    for (size_t j = 0; j < used.size(); ++j)
      if (used[j]) found.numbers.push_back(static_cast<int64_t>(j));
    find_levels(found);
  }

  // The first level at each point or above it.
  void find_levels(const Lattice& found) {
    level_of_.resize(static_cast<size_t>(found.numbers.back()) + 1);
    size_t point = 0;
    for (size_t level = 0; level < found.numbers.size(); ++level)
      while (point <= static_cast<size_t>(found.numbers[level])) level_of_[point++] = static_cast<uint16_t>(level);
  }

  // Counts and means of the levels. The mean of a level whose values have no share is unweighted.
  void measure(Lattice& found, const uint16_t* levels) {
    const size_t size = found.numbers.size();
    found.counts.assign(size, 0);
    found.means.assign(size, 0);
    weights_.assign(size, 0);
    plain_.assign(size, 0);
    for (size_t i = 0; i < count_; ++i) {
      const size_t level = levels[i];
      found.counts[level] += 1;
      weights_[level] += shares_[i];
      found.means[level] += shares_[i] * column_[i];
      plain_[level] += column_[i];
    }
    for (size_t j = 0; j < size; ++j)
      found.means[j] = weights_[j] > 0 ? found.means[j] / weights_[j] : plain_[j] / found.counts[j];
  }

  // The level with the least cost for each value: its neighbour below, its neighbour that is not below, or the level
  // with the most values. Means mostly ascend; where values that left for the most common level have changed that,
  // neighbours are those about the value's own point. Returns whether any value has another level now.
  bool choose(const Lattice& found, double nats, uint16_t* levels) {
    const std::vector<double>& means = found.means;
    const size_t size = means.size();
    bits_.resize(size);
    const auto count = static_cast<double>(count_);
    for (size_t j = 0; j < size; ++j)
      bits_[j] = options_.bit_nats * options_.rows / count * std::log2(count / found.counts[j]);
    const auto common = static_cast<size_t>(std::max_element(found.counts.begin(), found.counts.end()) -
                                            found.counts.begin());
    bool moved = false;
    for (size_t i = 0; i < count_; ++i) {
      const double value = column_[i], weight = shares_[i] * nats;
      const auto point = static_cast<size_t>(point_[i]);
      size_t above = point < level_of_.size() ? level_of_[point] : size;
      while (above > 0 && means[above - 1] >= value) --above;
      while (above < size && means[above] < value) ++above;
      size_t best = above > 0 ? above - 1 : 0;
      double least = weight * square(value - means[best]) + bits_[best];
      for (const size_t level : {std::min(above, size - 1), common}) {
        const double cost = weight * square(value - means[level]) + bits_[level];
        if (cost < least) best = level, least = cost;
      }
      moved |= best != levels[i];
      levels[i] = static_cast<uint16_t>(best);
    }
    return moved;
  }

  void drop_empty(Lattice& found, uint16_t* levels) {
    const size_t size = found.numbers.size();
    std::vector<bool> used(size);
    for (size_t i = 0; i < count_; ++i) used[levels[i]] = true;
    std::vector<uint16_t> new_level(size);
    size_t next = 0;
    for (size_t j = 0; j < size; ++j) {
      if (!used[j]) continue;
      found.numbers[next] = found.numbers[j];
      new_level[j] = static_cast<uint16_t>(next++);
    }
    if (next == size) return;
    found.numbers.resize(next);
    for (size_t i = 0; i < count_; ++i) levels[i] = new_level[levels[i]];
    find_levels(found);
  }

  static double square(double value) { return value * value; }

  const double* shares_;
  size_t count_;
  LatticeOptions options_;
  double total_;
  std::vector<double> column_, weights_, plain_, bits_;
  std::vector<int64_t> point_;      // of each value
  std::vector<uint16_t> level_of_;  // of each point, or the next level above it
};

// values: IN (count, stride), of which the leading axes are taken; nats: IN axes; levels: OUT (axes, count).
inline std::vector<Lattice> lattices(const float* values, size_t count, size_t stride, const double* shares,
                                     const double* nats, size_t axes, const LatticeOptions& options, int threads,
                                     uint16_t* levels) {
  constexpr size_t kAxes = 8;  // of a part
  std::vector<Lattice> result(axes);
  for_ranges(axes, kAxes, threads, [&](size_t first, size_t last) {
    LatticeLevels own(shares, count, options);
    for (size_t axis = first; axis < last; ++axis)
      result[axis] = own.of(values + axis, stride, nats[axis], levels + axis * count);
  });
  return result;
}

}  // namespace saec
