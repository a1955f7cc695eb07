// The inner loops of nearest-centroid search, one implementation per instruction set.
//
// A tile holds kTile rows, transposed: lane r of coordinate d lies at rows[d * kTile + r], so a
// vector register holds one coordinate of many rows and a centroid's coordinate is broadcast.
//
// Every score is the same chain of fused multiply-adds, in order of the coordinates, whatever the
// instruction set: score(x, c) = fma(x_d-1, c_d-1, ... fma(x_0, c_0, -|c|^2 / 2)). The nearest
// centroid has the highest score, and all instruction sets give the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

namespace saec {

constexpr size_t kTile = 32;   // rows of a tile
constexpr size_t kUnroll = 8;  // centroids come in multiples of this, padded with bias -infinity

// Centroids in the order of the tree's leaves.
struct CentroidRun {
  const float* coordinates;    // count x dim
  const float* bias;           // count: -|c|^2 / 2
  const int32_t* ids;          // count: index in the caller's codebook
  const int8_t* quantised;     // count x quads x 4, or null where the set has no byte products
  const int32_t* quantised_bias;
  size_t count;                // a multiple of kUnroll
};

// A tile's rows and what is known about each so far.
struct TileState {
  alignas(64) float best[kTile];       // highest score
  alignas(64) int32_t best_id[kTile];  // its centroid; the lowest index among equals
  alignas(64) float reach[kTile];      // no centroid farther than this can be the nearest
  alignas(64) float norm[kTile];       // |x|^2
  alignas(64) float slack[kTile];      // bound on the rounding error of a squared distance
  alignas(64) float quantised_norm[kTile];
  alignas(64) float margin[kTile];     // rounding error of the byte rows and centroids, as a distance
};

struct Kernels {
  const char* name;
  bool has_bytes;
  // Score all centroids of a run against all rows of a tile.
  void (*scan)(const float* rows, size_t dim, const CentroidRun& run, TileState& state);
  // The same result, but an integer product of byte-rounded vectors first rules out those centroids
  // that cannot win whatever the rounding did. byte_rows: quads x kTile x 4. step: width of a byte.
  void (*scan_bytes)(const float* rows, const uint8_t* byte_rows, size_t dim, float step,
                     const CentroidRun& run, TileState& state);
  // bounds[leaf * kTile + r]: at least how far row r is from every centroid of the leaf.
  void (*bounds)(const float* rows, size_t dim, const float* centres, const float* bias,
                 const float* radii, size_t leaves, const TileState& state, float* bounds);
  // masks: OUT, for each leaf, bit r set if row r's reach covers its bound and its centre is among about
  // as many as `groups` nearest to r. bounds and radii: of the leaves, as of `bounds`.
  void (*nearest_groups)(const float* bounds, const float* radii, size_t leaves, size_t groups,
                         const TileState& state, uint32_t* masks);
  // True if some row's reach covers the leaf's bound.
  bool (*any_within)(const float* bounds, const TileState& state);
};

extern const Kernels kScalarKernels;
extern const Kernels kAvx2Kernels;    // null members where not compiled for this processor
extern const Kernels kAvx512Kernels;

}  // namespace saec
