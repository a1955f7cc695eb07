// The inner loops of nearest-centroid search, one implementation per instruction set.
//
// A tile holds kTile rows, transposed: coordinate d of row r is at rows[d * kTile + r]. So a vector register holds
// one coordinate of many rows, and the coordinate of a centroid is broadcast.
//
// Every instruction set computes a score by the same chain of fused multiply-adds, in order of the coordinates:
// score(x, c) = fma(x_d-1, c_d-1, ... fma(x_0, c_0, -|c|^2 / 2)). The nearest centroid has the highest score, and
// results are equal to the last bit.
#pragma once

#include <cstddef>
#include <cstdint>

namespace saec {

constexpr size_t kTile = 32;   // rows of a tile
constexpr size_t kUnroll = 8;  // numbers of centroids are padded to multiples of this, with bias -infinity

// Centroids in the order of the tree's leaves.
struct CentroidRun {
  const float* coordinates;    // count x dim
  const float* bias;           // count: -|c|^2 / 2
  const int32_t* ids;          // count: index in the caller's codebook
  const int8_t* quantised;     // count x quads x 4; null if the instruction set has no byte products
  const int32_t* quantised_bias;
  size_t count;                // a multiple of kUnroll
};

// The state of the search for each row of a tile.
struct TileState {
  alignas(64) float best[kTile];       // highest score
  alignas(64) int32_t best_id[kTile];  // the centroid with this score; of equals, the lowest index
  alignas(64) float reach[kTile];      // upper bound on the distance of the nearest centroid
  alignas(64) float norm[kTile];       // |x|^2
  alignas(64) float slack[kTile];      // bound on the rounding error of a squared distance
  alignas(64) float quantised_norm[kTile];
  alignas(64) float margin[kTile];     // bound on the rounding errors of byte rows and centroids, as a distance
};

struct Kernels {
  const char* name;
  bool has_bytes;
  // Scores all centroids of a run against all rows of a tile.
  void (*scan)(const float* rows, size_t dim, const CentroidRun& run, TileState& state);
  // The same result, but faster: integer products of vectors rounded to bytes first rule out the centroids that
  // cannot be nearest, given the bound on rounding errors. byte_rows: quads x kTile x 4. step: the unit of a byte.
  void (*scan_bytes)(const float* rows, const uint8_t* byte_rows, size_t dim, float step,
                     const CentroidRun& run, TileState& state);
  // bounds[leaf * kTile + r]: OUT lower bound on the distance of row r from every centroid of the leaf.
  void (*bounds)(const float* rows, size_t dim, const float* centres, const float* bias,
                 const float* radii, size_t leaves, const TileState& state, float* bounds);
  // masks: OUT, for each leaf, bit r is set if row r's reach covers the leaf's bound and the leaf's centre is among
  // those nearest to r, about `groups` of them. bounds, radii: IN, see `bounds`.
  void (*nearest_groups)(const float* bounds, const float* radii, size_t leaves, size_t groups,
                         const TileState& state, uint32_t* masks);
  // True if some row's reach covers the leaf's bound.
  bool (*any_within)(const float* bounds, const TileState& state);
};

extern const Kernels kScalarKernels;
extern const Kernels kAvx2Kernels;    // members are null if not compiled for this processor
extern const Kernels kAvx512Kernels;

}  // namespace saec
