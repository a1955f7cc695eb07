// Finds the nearest centroid of every row. The search is exact: it rules out whole leaves of centroids by the
// triangle inequality. With tighter bounds it is approximate.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "nearest/kernels.h"

namespace saec {

// The kernels for this processor. name: "auto", "scalar", "avx2" or "avx512". Returns null if the processor cannot
// run these kernels.
const Kernels* choose_kernels(const char* name);

class NearestCentroid {
 public:
  // centroids: IN count x dim, finite. groups: the most leaves that are searched for a row: those with the nearest
  // centres, and the leaf nearest to the first row of its tile; 0 for all.
  NearestCentroid(const float* centroids, size_t count, size_t dim, const Kernels& kernels,
                  size_t groups);

  // rows: IN count x dim; nearest: OUT count, the lowest index among equally near centroids.
  // radius_share: factor for the radii of leaves. 1 is exact. With less, fewer leaves are searched, and some rows
  // get a centroid that is only nearly the nearest.
  void search(const float* rows, size_t count, float radius_share, int threads,
              int32_t* nearest) const;

  size_t count() const { return count_; }
  size_t dim() const { return dim_; }

 private:
  struct Scratch;
  struct Block;
  bool limited() const { return groups_ > 0 && groups_ < leaves_; }
  CentroidRun leaf_run(size_t leaf) const;
  std::vector<int32_t> group(const float* centroids, const std::vector<float>& centred);
  void drop_empty(std::vector<int32_t>& leaf_of);
  void set_centres(const std::vector<float>& centred, const std::vector<int32_t>& leaf_of);
  void build_leaves(const float* centroids, const std::vector<float>& centred);
  void build_bytes();
  void build_visits();
  void order_visits(size_t leaf);
  void load(const float* row, size_t lane, float* tile) const;
  void home_leaves(const float* rows, size_t count, int threads, int32_t* home) const;
  void home_centroids(const float* rows, const std::vector<int32_t>& order, int threads,
                      const std::vector<int32_t>& home, std::vector<int32_t>& place) const;
  void load_tile(const float* rows, const int32_t* members, size_t size, Scratch& scratch) const;
  void search_tile(int32_t home, const std::vector<float>& radii, size_t size,
                   Scratch& scratch) const;
  void search_groups(const float* rows, const int32_t* members, size_t count, const int32_t* home,
                     const std::vector<float>& radii, int32_t* nearest) const;
  void visit_leaf(const float* rows, const int32_t* members, size_t leaf, Block& block,
                  Scratch& scratch) const;
  void prepare_rows(size_t size, Scratch& scratch) const;
  bool prepare_bytes(size_t size, Scratch& scratch) const;

  const Kernels& kernels_;
  size_t count_, dim_, quads_, groups_;
  float largest_norm_ = 0;   // of the centred centroids, squared
  float step_ = 0;           // the unit of a byte; 0 if bytes are not used
  float byte_error_ = 0;     // largest |c - rounded c|
  std::vector<float> origin_;
  std::vector<size_t> leaf_starts_;  // among the padded centroids
  std::vector<float> coordinates_, bias_;
  std::vector<int32_t> ids_;
  std::vector<int32_t> places_;  // position of each centroid in the order of the leaves
  std::vector<int8_t> quantised_;
  std::vector<int32_t> quantised_bias_;
  std::vector<float> centres_, centre_bias_, radii_;  // leaves, padded to kUnroll
  std::vector<int32_t> centre_ids_;
  std::vector<int32_t> visits_;  // leaves x leaves: all leaves in order of distance from each one
  size_t leaves_ = 0, padded_leaves_ = 0;
};

}  // namespace saec
