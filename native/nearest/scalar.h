// Weighted k-means of scalars. In ascending order, clusters are runs of values. So the moments of a cluster follow
// from running sums at its two borders (positions in that order), without reading the values between them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cmath>
#include <limits>
#include <numeric>
#include <queue>
#include <utility>
#include <vector>

#include "system/workers.h"

namespace saec {

struct Moments {
  double weight, first, second;  // sums of w, w x and w x^2, with x relative to the centre

  double distortion() const {
    return weight > 0 ? std::max(0.0, second - first * first / weight) : 0;
  }
};

inline Moments operator-(const Moments& a, const Moments& b) {
  return {a.weight - b.weight, a.first - b.first, a.second - b.second};
}

// values: count, ascending. sums: count + 1; the difference of two is the moments between these borders.
struct Scalars {
  const float* values;
  const Moments* sums;
  size_t count;
  double centre;

  Moments between(size_t first, size_t last) const { return sums[last] - sums[first]; }

  // The mean of a non-empty run; clamped to the run's values, since sums are rounded.
  double mean(size_t first, size_t last) const {
    const Moments run = between(first, last);
    const double low = values[first], high = values[last - 1];
    return run.weight > 0 ? std::clamp(centre + run.first / run.weight, low, high) : low;
  }

  // The border in [first, last] after the last value that is at most `limit`.
  size_t border(double limit, size_t first, size_t last) const {
    return static_cast<size_t>(std::upper_bound(values + first, values + last, limit) - values);
  }
};

// values: IN count, ascending; weights: IN count, above zero; sums: OUT count + 1. Returns the centre, which is the
// weighted median. Sums run from the centre to both sides, so that the small terms of the dense middle are not lost
// beside the large terms of a tail.
inline double sum_scalars(const float* values, const double* weights, size_t count, Moments* sums) {
  const double half = std::accumulate(weights, weights + count, 0.0) / 2;
  size_t middle = 0;
  for (double below = weights[0]; below < half && middle + 1 < count;) below += weights[++middle];
  const double centre = values[middle];
  const auto moments = [&](size_t i) {
    const double x = values[i] - centre;
    return Moments{weights[i], weights[i] * x, weights[i] * x * x};
  };
  sums[middle] = {0, 0, 0};
  for (size_t i = middle; i < count; ++i) {
    const Moments own = moments(i);
    sums[i + 1] = {sums[i].weight + own.weight, sums[i].first + own.first,
                   sums[i].second + own.second};
  }
  for (size_t i = middle; i-- > 0;) sums[i] = sums[i + 1] - moments(i);
  return centre;
}

// Repeatedly cuts the run of largest distortion in two at its mean, until there are `limit` runs or each run has a
// single value. The runs then have similar distortions, as between quantiles of the cube root of the density
// (Panter and Dite 1951), but no density needs to be estimated.
// borders: OUT limit + 1. Returns the number of runs.
inline size_t split_scalars(const Scalars& scalars, size_t limit, int64_t* borders) {
  struct Run {
    double distortion;
    size_t first, last;
    bool operator<(const Run& other) const { return distortion < other.distortion; }
  };
  const auto run = [&](size_t first, size_t last) {
    if (scalars.values[first] == scalars.values[last - 1]) return Run{0, first, last};
    const double distortion = scalars.between(first, last).distortion();  // may round to zero
    return Run{std::max(distortion, std::numeric_limits<double>::min()), first, last};
  };
  std::priority_queue<Run> runs;
  runs.push(run(0, scalars.count));
  size_t found = 0;
  borders[found++] = 0;
  while (found < limit && runs.top().distortion > 0) {
    const auto [distortion, first, last] = runs.top();
    runs.pop();
    size_t cut = scalars.border(scalars.mean(first, last), first, last);
    if (cut == last) cut = scalars.border(scalars.values[first], first, last);
    borders[found++] = static_cast<int64_t>(cut);
    runs.push(run(first, cut));
    runs.push(run(cut, last));
  }
  std::sort(borders, borders + found);
  borders[found] = static_cast<int64_t>(scalars.count);
  return found;
}

// The best partitions of runs into 1, 2, ... clusters, by dynamic programming over the number of clusters. Each
// layer is computed by divide and conquer, since the best start of the last cluster never moves back as the end
// moves on (Wu 1991; Gronlund et al. 2017). O(clusters x runs x log runs) for all numbers of clusters together.
class Partitions {
 public:
  // ends: the sums at the runs' borders.
  Partitions(std::vector<Moments> ends, size_t most_clusters)
      : ends_(std::move(ends)), least_(ends_.size()), previous_(ends_.size()),
        starts_(most_clusters * ends_.size()) {
    for (size_t end = 1; end < ends_.size(); ++end) least_[end] = distortion(0, end);
    for (size_t clusters = 2; clusters <= most_clusters; ++clusters) {
      std::swap(least_, previous_);
      fill(clusters, clusters, ends_.size() - 1, clusters - 1, ends_.size() - 2);
    }
  }

  // chosen: OUT clusters + 1 indices of borders.
  void trace(size_t clusters, int64_t* chosen) const {
    size_t end = ends_.size() - 1;
    for (size_t layer = clusters; layer > 0; --layer) {
      chosen[layer] = static_cast<int64_t>(end);
      end = starts_[(layer - 1) * ends_.size() + end];
    }
    chosen[0] = 0;
  }

 private:
  double distortion(size_t first, size_t last) const {
    return (ends_[last] - ends_[first]).distortion();
  }

  // Fills in the ends low..high; their last cluster starts between least_start and most_start.
  void fill(size_t clusters, size_t low, size_t high, size_t least_start, size_t most_start) {
    if (low > high) return;
    const size_t end = low + (high - low) / 2;
    double least = std::numeric_limits<double>::infinity();
    size_t best = least_start;
    for (size_t start = least_start; start <= std::min(end - 1, most_start); ++start) {
      const double total = previous_[start] + distortion(start, end);
      if (total < least) least = total, best = start;
    }
    least_[end] = least;
    starts_[(clusters - 1) * ends_.size() + end] = static_cast<uint32_t>(best);
    fill(clusters, low, end - 1, least_start, best);
    fill(clusters, end + 1, high, best, most_start);
  }

  std::vector<Moments> ends_;
  std::vector<double> least_, previous_;  // by end, with this many clusters and with one fewer
  std::vector<uint32_t> starts_;          // of the last cluster, by number of clusters and end
};

// borders: IN runs + 1; sizes: IN size_count numbers of clusters in 1..runs. partitions: OUT for each
// size in turn the size + 1 borders of its clusters.
inline void partition_scalars(const Scalars& scalars, const int64_t* borders, size_t runs,
                              const int64_t* sizes, size_t size_count, int64_t* partitions) {
  std::vector<Moments> ends(runs + 1);
  for (size_t i = 0; i <= runs; ++i) ends[i] = scalars.sums[borders[i]];
  const int64_t most = *std::max_element(sizes, sizes + size_count);
  const Partitions found(std::move(ends), static_cast<size_t>(most));
  for (size_t s = 0; s < size_count; ++s) {
    found.trace(static_cast<size_t>(sizes[s]), partitions);
    for (int64_t j = 0; j <= sizes[s]; ++j, ++partitions) *partitions = borders[*partitions];
  }
}

// Lloyd's iterations until one improves the distortion by less than kGain; each takes O(clusters x log count).
// borders: IN and OUT clusters + 1, strictly ascending; centers: OUT the means between them.
inline void refine_scalars(const Scalars& scalars, size_t clusters, int64_t* borders,
                           double* centers) {
  constexpr double kGain = 1e-5;
  std::vector<int64_t> next(borders, borders + clusters + 1);
  double before = std::numeric_limits<double>::infinity();
  for (bool more = true; more;) {
    double now = 0;
    for (size_t j = 0; j < clusters; ++j) now += scalars.between(next[j], next[j + 1]).distortion();
    if (!(now < before)) return;  // discards a step that rounding makes worse
    more = before - now > kGain * now;
    before = now;
    std::copy(next.begin(), next.end(), borders);
    for (size_t j = 0; j < clusters; ++j) centers[j] = scalars.mean(borders[j], borders[j + 1]);
    for (size_t j = 1; j < clusters; ++j)
      next[j] = scalars.border((centers[j - 1] + centers[j]) / 2, borders[j - 1], borders[j + 1]);
    if (std::adjacent_find(next.begin(), next.end()) != next.end()) return;  // an empty cluster
  }
}

// Weighted squared error if every value is replaced by its nearest center, ties to the lower one. centers: IN
// clusters, ascending. For each run, adds its distortion and the weighted squared distance of its mean from the
// center; no term is negative.
inline double scalar_distortion(const Scalars& scalars, const double* centers, size_t clusters) {
  double total = 0;
  for (size_t j = 0, first = 0, last = 0; j < clusters; ++j, first = last) {
    last = scalars.count;
    if (j + 1 < clusters) last = scalars.border((centers[j] + centers[j + 1]) / 2, first, last);
    if (first == last) continue;
    const Moments run = scalars.between(first, last);
    const double off = scalars.mean(first, last) - centers[j];
    total += run.distortion() + std::max(0.0, run.weight) * off * off;
  }
  return total;
}

// The largest float that is at most x: a float is above it if and only if it is above x.
inline float float_below(double x) {
  const auto near = static_cast<float>(x);
  return near > x ? std::nextafter(near, -std::numeric_limits<float>::infinity()) : near;
}

// values: IN count; centers: IN clusters, ascending. nearest: OUT count, ties to the lower center.
inline void nearest_scalars(const float* values, size_t count, const float* centers, size_t clusters,
                            int threads, uint32_t* nearest) {
  uint32_t half = 1;
  while (size_t{half} * 2 < clusters) half *= 2;
  // Pads the limits with infinity to a full search tree: no value is above these.
  std::vector<float> limits(size_t{half} * 2 - 1, std::numeric_limits<float>::infinity());
  for (size_t j = 0; j + 1 < clusters; ++j)
    limits[j] = float_below((static_cast<double>(centers[j]) + centers[j + 1]) / 2);
  for_shares(count, threads, [&](size_t first, size_t last) {
    for (size_t i = first; i < last; ++i) {
      uint32_t below = 0;  // number of limits below the value
      for (uint32_t step = half; step > 0; step /= 2)
        below += values[i] > limits[below + step - 1] ? step : 0;
      nearest[i] = below;
    }
  });
}

}  // namespace saec
