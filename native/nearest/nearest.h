// Nearest centroid of every row: exact, with whole leaves of centroids ruled out by the triangle
// inequality, or approximate with tighter bounds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "nearest/kernels.h"

namespace saec {

// The kernels for this processor; name is "auto", "scalar", "avx2" or "avx512". Null if the
// processor cannot run what was asked for.
const Kernels* choose_kernels(const char* name);

class NearestCentroid {
 public:
  // centroids: IN count x dim, finite. groups: leaves that a row looks into at most, those with the
  // nearest centres, and the one that is nearest to the first row of its tile; 0 for all.
  NearestCentroid(const float* centroids, size_t count, size_t dim, const Kernels& kernels,
                  size_t groups);

  // rows: IN count x dim; nearest: OUT count, the lowest index among equally near centroids.
  // radius_share: 1 is exact. Below 1, leaves are taken for that much smaller than they are, so that
  // fewer are looked at and some rows get a centroid that is only nearly nearest.
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
  float step_ = 0;           // width of a byte
  float byte_error_ = 0;     // largest |c - rounded c|
  std::vector<float> origin_;
  std::vector<size_t> leaf_starts_;  // in padded centroids
  std::vector<float> coordinates_, bias_;
  std::vector<int32_t> ids_;
  std::vector<int32_t> places_;  // of each centroid in the order of the leaves
  std::vector<int8_t> quantised_;
  std::vector<int32_t> quantised_bias_;
  std::vector<float> centres_, centre_bias_, radii_;  // leaves, padded to kUnroll
  std::vector<int32_t> centre_ids_;
  std::vector<int32_t> visits_;  // leaves x leaves: nearest leaf first
  size_t leaves_ = 0, padded_leaves_ = 0;
};

}  // namespace saec
