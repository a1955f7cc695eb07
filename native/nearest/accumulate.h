// The sums of one k-means step.
#pragma once

#include <cstddef>
#include <cstdint>

#include "system/workers.h"

namespace saec {

// rows: IN count x dim; weights: IN count; nearest: IN count, each below clusters.
// sums (clusters x dim), totals (clusters) and distortion (clusters): IN and OUT, this step is added.
// Part `mine` of `all` parts (one per thread) handles the clusters whose number is `mine` modulo `all`. Each part
// reads all rows in order, so a cluster's rows are added in the same order with any number of threads.
inline void accumulate(const float* rows, const double* weights, const int32_t* nearest,
                       size_t count, const float* centroids, size_t dim, double* sums,
                       double* totals, double* distortion, int threads) {
  const auto all = static_cast<size_t>(threads);
  Workers::here().run(all, all, [&](size_t mine) {
    for (size_t i = 0; i < count; ++i) {
      const auto cluster = static_cast<size_t>(nearest[i]);
      if (cluster % all != mine) continue;
      const float* row = rows + i * dim;
      const float* centroid = centroids + cluster * dim;
      double* sum = sums + cluster * dim;
      double squared = 0;
      for (size_t d = 0; d < dim; ++d) {
        const double difference = static_cast<double>(row[d]) - centroid[d];
        squared += difference * difference;
        sum[d] += weights[i] * row[d];
      }
      totals[cluster] += weights[i];
      distortion[cluster] += weights[i] * squared;
    }
  });
}

}  // namespace saec
