#include "nearest/nearest.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "system/cores.h"
#include "nearest/tree.h"
#include "system/workers.h"
#include "system/simd.h"

namespace saec {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int32_t kNoCentroid = std::numeric_limits<int32_t>::max();
constexpr size_t kByteDims = 1024;  // 128^2 * 1024 = 2^24
constexpr size_t kPart = 16 * kTile;  // rows in a chunk of work
constexpr size_t kBlock = 4096;       // rows of a block, whose tiles are made anew for every leaf
constexpr size_t kGroupRounds = 2;    // rounds of k-means over the centroids; more hardly change the leaves

size_t round_up(size_t value, size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Each leaf costs one bound per row; a leaf that is searched costs one score per centroid, too. Leaves of about
// half the square root of the number of centroids balance the two costs.
size_t leaf_size(size_t count) {
  const auto size = static_cast<size_t>(0.5 * std::sqrt(static_cast<double>(count)));
  return count <= 64 ? 64 : round_up(std::max<size_t>(size, 16), kUnroll);
}

// A point near the centroids, which is subtracted so that squares do not cancel in tables far from zero. Its
// coordinates are multiples of a power of two that is at least the spread: subtracting them rounds almost nothing,
// so ties stay ties.
std::vector<float> choose_origin(const float* centroids, size_t count, size_t dim) {
  std::vector<float> origin(dim);
  for (size_t d = 0; d < dim; ++d) {
    float low = kInfinity, high = -kInfinity;
    for (size_t c = 0; c < count; ++c) {
      low = std::min(low, centroids[c * dim + d]);
      high = std::max(high, centroids[c * dim + d]);
    }
    const double spread = static_cast<double>(high) - low;
    const double middle = 0.5 * (static_cast<double>(high) + low);
    if (spread <= 0) {
      origin[d] = low;
      continue;
    }
    const double grid = std::exp2(std::ceil(std::log2(spread)));
    const double limit = std::numeric_limits<float>::max();
    origin[d] = static_cast<float>(std::clamp(std::nearbyint(middle / grid) * grid, -limit, limit));
  }
  return origin;
}

// Row numbers in ascending order of their keys; rows of equal key stay in order.
std::vector<int32_t> sorted_by(const std::vector<int32_t>& keys, size_t limit) {
  std::vector<size_t> next(limit + 1);
  for (int32_t key : keys) ++next[key + 1];
  std::partial_sum(next.begin(), next.end(), next.begin());
  std::vector<int32_t> order(keys.size());
  for (size_t i = 0; i < keys.size(); ++i) order[next[keys[i]]++] = static_cast<int32_t>(i);
  return order;
}

float squared_norm(const float* vector, size_t dim) {
  double norm = 0;
  for (size_t d = 0; d < dim; ++d) norm += static_cast<double>(vector[d]) * vector[d];
  return static_cast<float>(norm);
}

}  // namespace

struct NearestCentroid::Scratch {
  Scratch(size_t dim, size_t quads, size_t leaves)
      : tile(kTile * dim), bounds(kTile * leaves), bytes(kTile * quads * 4) {}
  std::vector<float> tile, bounds;
  std::vector<uint8_t> bytes;
  TileState state{};
};

const Kernels* choose_kernels(const char* name) {
  name = wanted_simd(name);
  const bool any = std::strcmp(name, "auto") == 0;
#if defined(__x86_64__)
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512vnni");
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if ((any || std::strcmp(name, "avx512") == 0) && avx512 && kAvx512Kernels.scan)
    return &kAvx512Kernels;
  if ((any || std::strcmp(name, "avx2") == 0) && avx2 && kAvx2Kernels.scan) return &kAvx2Kernels;
#endif
  return any || std::strcmp(name, "scalar") == 0 ? &kScalarKernels : nullptr;
}

NearestCentroid::NearestCentroid(const float* centroids, size_t count, size_t dim,
                                 const Kernels& kernels, size_t groups)
    : kernels_(kernels), count_(count), dim_(dim), quads_((dim + 3) / 4), groups_(groups),
      origin_(choose_origin(centroids, count, dim)) {
  std::vector<float> centred(count * dim);
  for (size_t c = 0; c < count; ++c)
    for (size_t d = 0; d < dim; ++d) centred[c * dim + d] = centroids[c * dim + d] - origin_[d];
  build_leaves(centroids, centred);
  if (limited()) return;
  build_visits();
  if (kernels_.has_bytes) build_bytes();
}

// Leaves are the cells of a short k-means that starts from the tree's leaves. They are more compact than these, so
// more of them are ruled out, and the nearest centroid is more often in one of the nearest leaves.
std::vector<int32_t> NearestCentroid::group(const float* centroids,
                                            const std::vector<float>& centred) {
  const Tree tree = TreeBuilder(centred.data(), count_, dim_, leaf_size(count_)).take();
  std::vector<int32_t> leaf_of(count_);
  leaves_ = tree.leaves();
  for (size_t leaf = 0; leaf < leaves_; ++leaf)
    for (size_t i = tree.starts[leaf]; i < tree.starts[leaf + 1]; ++i)
      leaf_of[tree.order[i]] = static_cast<int32_t>(leaf);
  for (size_t round = 0; leaves_ > 1 && round < kGroupRounds; ++round) {
    set_centres(centred, leaf_of);
    home_leaves(centroids, count_, count_ > kPart ? default_threads() : 1, leaf_of.data());
    drop_empty(leaf_of);
  }
  set_centres(centred, leaf_of);
  return leaf_of;
}

void NearestCentroid::drop_empty(std::vector<int32_t>& leaf_of) {
  std::vector<int32_t> number(leaves_, 0);
  for (int32_t leaf : leaf_of) number[leaf] = 1;
  int32_t used = 0;
  for (int32_t& own : number) own = own ? used++ : 0;
  for (int32_t& leaf : leaf_of) leaf = number[leaf];
  leaves_ = static_cast<size_t>(used);
}

void NearestCentroid::set_centres(const std::vector<float>& centred,
                                  const std::vector<int32_t>& leaf_of) {
  padded_leaves_ = round_up(leaves_, kUnroll);
  centres_.assign(padded_leaves_ * dim_, 0.0f);
  centre_bias_.assign(padded_leaves_, -kInfinity);
  centre_ids_.assign(padded_leaves_, kNoCentroid);
  std::vector<double> sums(leaves_ * dim_), sizes(leaves_);
  for (size_t c = 0; c < count_; ++c) {
    sizes[leaf_of[c]] += 1;
    for (size_t d = 0; d < dim_; ++d) sums[leaf_of[c] * dim_ + d] += centred[c * dim_ + d];
  }
  for (size_t leaf = 0; leaf < leaves_; ++leaf) {
    float* centre = centres_.data() + leaf * dim_;
    for (size_t d = 0; d < dim_; ++d)
      centre[d] = static_cast<float>(sums[leaf * dim_ + d] / sizes[leaf]);
    centre_bias_[leaf] = -0.5f * squared_norm(centre, dim_);
    centre_ids_[leaf] = static_cast<int32_t>(leaf);
  }
}

void NearestCentroid::build_leaves(const float* centroids, const std::vector<float>& centred) {
  const std::vector<int32_t> leaf_of = group(centroids, centred);
  std::vector<size_t> sizes(leaves_);
  for (int32_t leaf : leaf_of) ++sizes[leaf];
  leaf_starts_.push_back(0);
  for (size_t size : sizes) leaf_starts_.push_back(leaf_starts_.back() + round_up(size, kUnroll));
  coordinates_.assign(leaf_starts_.back() * dim_, 0.0f);
  bias_.assign(leaf_starts_.back(), -kInfinity);
  ids_.assign(leaf_starts_.back(), kNoCentroid);
  places_.resize(count_);
  std::vector<size_t> next(leaf_starts_);
  std::vector<double> radii(padded_leaves_);
  for (size_t c = 0; c < count_; ++c) {
    const float* centroid = centred.data() + c * dim_;
    const auto leaf = static_cast<size_t>(leaf_of[c]);
    const size_t place = next[leaf]++;
    std::copy_n(centroid, dim_, coordinates_.data() + place * dim_);
    const float norm = squared_norm(centroid, dim_);
    bias_[place] = -0.5f * norm;
    ids_[place] = static_cast<int32_t>(c);
    places_[c] = static_cast<int32_t>(place);
    largest_norm_ = std::max(largest_norm_, norm);
    double squared = 0;
    for (size_t d = 0; d < dim_; ++d)
      squared += std::pow(static_cast<double>(centroid[d]) - centres_[leaf * dim_ + d], 2);
    radii[leaf] = std::max(radii[leaf], std::sqrt(squared));
  }
  radii_.resize(padded_leaves_);
  for (size_t leaf = 0; leaf < leaves_; ++leaf)
    radii_[leaf] = static_cast<float>(radii[leaf] * (1 + 1e-6));
}

void NearestCentroid::build_visits() {
  visits_.resize(leaves_ * leaves_);
  for_ranges(leaves_, 8, leaves_ > 64 ? default_threads() : 1, [&](size_t first, size_t last) {
    for (size_t leaf = first; leaf < last; ++leaf) order_visits(leaf);
  });
}

void NearestCentroid::order_visits(size_t leaf) {
  std::vector<double> distance(leaves_);
  for (size_t other = 0; other < leaves_; ++other)
    for (size_t d = 0; d < dim_; ++d)
      distance[other] += std::pow(
          static_cast<double>(centres_[leaf * dim_ + d]) - centres_[other * dim_ + d], 2);
  int32_t* order = visits_.data() + leaf * leaves_;
  std::iota(order, order + leaves_, 0);
  std::sort(order, order + leaves_, [&](int32_t a, int32_t b) {
    return distance[a] != distance[b] ? distance[a] < distance[b] : a < b;
  });
}

void NearestCentroid::build_bytes() {
  float largest = 0;
  bool finite = true;
  for (float x : coordinates_) {
    largest = std::max(largest, std::abs(x));
    finite &= std::isfinite(x);
  }
  // step_ stays 0 and bytes are not used if the inverse of the step would overflow, or if the squared norm of a row
  // of bytes would not be exact in float32.
  if (!finite || !std::isfinite(128.0f / largest) || dim_ > kByteDims) return;
  step_ = largest / 127.0f;
  const size_t places = ids_.size();
  quantised_.assign(places * quads_ * 4, 0);
  quantised_bias_.assign(places, std::numeric_limits<int32_t>::min() / 2);  // padding never wins
  for (size_t place = 0; place < places; ++place) {
    if (ids_[place] == kNoCentroid) continue;
    int32_t sum = 0, norm = 0;
    double error = 0;
    for (size_t d = 0; d < dim_; ++d) {
      const float x = coordinates_[place * dim_ + d];
      const auto q = static_cast<int32_t>(std::nearbyint(x / step_));
      quantised_[place * quads_ * 4 + d] = static_cast<int8_t>(std::clamp(q, -127, 127));
      sum += q;
      norm += q * q;
      error += std::pow(static_cast<double>(x) - static_cast<double>(step_) * q, 2);
    }
    // Bytes of rows are shifted by 128 to be unsigned; this subtracts the product with the shift.
    quantised_bias_[place] = -128 * sum - norm / 2;
    byte_error_ = std::max(byte_error_, static_cast<float>(std::sqrt(error) * (1 + 1e-6)));
  }
}

CentroidRun NearestCentroid::leaf_run(size_t leaf) const {
  const size_t first = leaf_starts_[leaf];
  return {coordinates_.data() + first * dim_,
          bias_.data() + first,
          ids_.data() + first,
          step_ > 0 ? quantised_.data() + first * quads_ * 4 : nullptr,
          step_ > 0 ? quantised_bias_.data() + first : nullptr,
          leaf_starts_[leaf + 1] - first};
}

void NearestCentroid::load(const float* row, size_t lane, float* tile) const {
  for (size_t d = 0; d < dim_; ++d) tile[d * kTile + lane] = row[d] - origin_[d];
}

void NearestCentroid::home_leaves(const float* rows, size_t count, int threads,
                                  int32_t* home) const {
  const CentroidRun centres = {centres_.data(), centre_bias_.data(), centre_ids_.data(),
                               nullptr, nullptr, padded_leaves_};
  for_ranges(count, kPart, threads, [&](size_t begin, size_t end) {
    std::vector<float> tile(kTile * dim_);
    TileState state{};
    for (size_t first = begin; first < end; first += kTile) {
      const size_t size = std::min(kTile, end - first);
      for (size_t r = 0; r < size; ++r) load(rows + (first + r) * dim_, r, tile.data());
      std::fill_n(state.best, kTile, -kInfinity);
      std::fill_n(state.best_id, kTile, kNoCentroid);
      kernels_.scan(tile.data(), dim_, centres, state);
      // Rows whose scores overflow have no best centroid: they start with leaf 0.
      for (size_t r = 0; r < size; ++r)
        home[first + r] = state.best_id[r] == kNoCentroid ? 0 : state.best_id[r];
    }
  });
}

void NearestCentroid::prepare_rows(size_t size, Scratch& scratch) const {
  TileState& state = scratch.state;
  // Unused lanes repeat the first row, so that they cause no additional search.
  for (size_t d = 0; d < dim_; ++d)
    for (size_t r = size; r < kTile; ++r) scratch.tile[d * kTile + r] = scratch.tile[d * kTile];
  for (size_t r = 0; r < kTile; ++r) {
    state.norm[r] = 0;
    state.best[r] = -kInfinity;
    state.best_id[r] = kNoCentroid;
    state.reach[r] = kInfinity;
  }
  for (size_t d = 0; d < dim_; ++d)
    for (size_t r = 0; r < kTile; ++r)
      state.norm[r] += scratch.tile[d * kTile + r] * scratch.tile[d * kTile + r];
  const float unit = 4 * static_cast<float>(dim_ + 8) * std::ldexp(1.0f, -24);
  for (size_t r = 0; r < kTile; ++r) state.slack[r] = unit * (state.norm[r] + largest_norm_);
}

// Returns false if rounding to bytes is too coarse, relative to the distances, to rule out much.
bool NearestCentroid::prepare_bytes(size_t size, Scratch& scratch) const {
  if (step_ <= 0) return false;
  TileState& state = scratch.state;
  float error[kTile] = {};
  std::fill_n(state.quantised_norm, kTile, 0.0f);
  std::fill(scratch.bytes.begin(), scratch.bytes.end(), uint8_t{128});
  const float inverse = 1.0f / step_;
  for (size_t d = 0; d < dim_; ++d) {
    uint8_t* bytes = scratch.bytes.data() + (d / 4) * kTile * 4 + d % 4;
    for (size_t r = 0; r < kTile; ++r) {
      const float x = scratch.tile[d * kTile + (r < size ? r : 0)];
      const float q = std::nearbyint(std::clamp(x * inverse, -128.0f, 127.0f));
      bytes[r * 4] = static_cast<uint8_t>(static_cast<int32_t>(q) + 128);
      state.quantised_norm[r] += q * q;
      error[r] += (x - step_ * q) * (x - step_ * q);
    }
  }
  float margins = 0, reaches = 0;
  for (size_t r = 0; r < kTile; ++r) {
    state.margin[r] = std::sqrt(error[r]) * 1.00001f + byte_error_ + 1e-5f * step_;
    margins += state.margin[r];
    reaches += state.reach[r];
  }
  return margins < 0.25f * reaches;
}

// place: OUT the position of the nearest centroid in each row's home leaf, by which rows are sorted.
void NearestCentroid::home_centroids(const float* rows, const std::vector<int32_t>& order,
                                     int threads, const std::vector<int32_t>& home,
                                     std::vector<int32_t>& place) const {
  for_ranges(order.size(), kPart, threads, [&](size_t begin, size_t end) {
    Scratch scratch(dim_, quads_, padded_leaves_);
    for (size_t first = begin; first < end; first += kTile) {
      const size_t size = std::min(kTile, end - first);
      load_tile(rows, order.data() + first, size, scratch);
      kernels_.scan(scratch.tile.data(), dim_, leaf_run(home[order[first]]), scratch.state);
      for (size_t r = 0; r < size; ++r) {
        const int32_t nearest = scratch.state.best_id[r];
        place[order[first + r]] = nearest == kNoCentroid ? 0 : places_[nearest];
      }
    }
  });
}

void NearestCentroid::load_tile(const float* rows, const int32_t* members, size_t size,
                                Scratch& scratch) const {
  for (size_t r = 0; r < size; ++r)
    load(rows + static_cast<size_t>(members[r]) * dim_, r, scratch.tile.data());
  prepare_rows(size, scratch);
}

void NearestCentroid::search_tile(int32_t home, const std::vector<float>& radii, size_t size,
                                  Scratch& scratch) const {
  TileState& state = scratch.state;
  kernels_.scan(scratch.tile.data(), dim_, leaf_run(home), state);
  if (leaves_ == 1) return;
  kernels_.bounds(scratch.tile.data(), dim_, centres_.data(), centre_bias_.data(), radii.data(),
                  padded_leaves_, state, scratch.bounds.data());
  bool prepared = false, use_bytes = false;
  for (size_t i = 1; i < leaves_; ++i) {
    const size_t leaf = visits_[static_cast<size_t>(home) * leaves_ + i];
    if (!kernels_.any_within(scratch.bounds.data() + leaf * kTile, state)) continue;
    if (!prepared) use_bytes = prepare_bytes(size, scratch);
    prepared = true;
    if (use_bytes)
      kernels_.scan_bytes(scratch.tile.data(), scratch.bytes.data(), dim_, step_, leaf_run(leaf),
                          state);
    else
      kernels_.scan(scratch.tile.data(), dim_, leaf_run(leaf), state);
  }
}

// The state of a block of rows: their best centroids, and the leaves that are still to be searched for each.
struct NearestCentroid::Block {
  Block(size_t tiles, size_t leaves)
      : best(tiles * kTile), best_id(tiles * kTile), masks(tiles * leaves) {}
  std::vector<float> best;
  std::vector<int32_t> best_id;
  std::vector<uint32_t> masks;  // tiles x leaves
};

// Search with a limit on the leaves of each row. Rows of a tile may need different leaves. So a whole block is
// searched leaf after leaf, and the rows that need a leaf are gathered in new tiles.
void NearestCentroid::search_groups(const float* rows, const int32_t* members, size_t count,
                                    const int32_t* home, const std::vector<float>& radii,
                                    int32_t* nearest) const {
  const size_t tiles = round_up(count, kTile) / kTile;
  Scratch scratch(dim_, quads_, padded_leaves_);
  Block block(tiles, leaves_);
  TileState& state = scratch.state;
  for (size_t tile = 0; tile < tiles; ++tile) {
    const int32_t* own = members + tile * kTile;
    const size_t size = std::min(kTile, count - tile * kTile);
    const auto at_home = static_cast<size_t>(home[own[0]]);
    load_tile(rows, own, size, scratch);
    kernels_.scan(scratch.tile.data(), dim_, leaf_run(at_home), state);
    kernels_.bounds(scratch.tile.data(), dim_, centres_.data(), centre_bias_.data(), radii.data(),
                    padded_leaves_, state, scratch.bounds.data());
    uint32_t* masks = block.masks.data() + tile * leaves_;
    kernels_.nearest_groups(scratch.bounds.data(), radii.data(), leaves_, groups_, state, masks);
    masks[at_home] = 0;
    if (size < kTile)
      for (size_t leaf = 0; leaf < leaves_; ++leaf) masks[leaf] &= (uint32_t{1} << size) - 1;
    std::copy_n(state.best, kTile, block.best.data() + tile * kTile);
    std::copy_n(state.best_id, kTile, block.best_id.data() + tile * kTile);
  }
  for (size_t leaf = 0; leaf < leaves_; ++leaf) visit_leaf(rows, members, leaf, block, scratch);
  for (size_t i = 0; i < count; ++i)
    nearest[members[i]] = block.best_id[i] == kNoCentroid ? 0 : block.best_id[i];
}

void NearestCentroid::visit_leaf(const float* rows, const int32_t* members, size_t leaf,
                                 Block& block, Scratch& scratch) const {
  TileState& state = scratch.state;
  size_t waiting[kTile], size = 0;
  const auto scan = [&] {
    for (size_t r = 0; r < kTile; ++r) {
      const size_t i = waiting[r < size ? r : 0];
      load(rows + static_cast<size_t>(members[i]) * dim_, r, scratch.tile.data());
      state.best[r] = block.best[i];
      state.best_id[r] = block.best_id[i];
    }
    kernels_.scan(scratch.tile.data(), dim_, leaf_run(leaf), state);
    for (size_t r = 0; r < size; ++r) {
      block.best[waiting[r]] = state.best[r];
      block.best_id[waiting[r]] = state.best_id[r];
    }
    size = 0;
  };
  for (size_t tile = 0; tile * leaves_ < block.masks.size(); ++tile)
    for (uint32_t mask = block.masks[tile * leaves_ + leaf]; mask; mask &= mask - 1) {
      waiting[size++] = tile * kTile + static_cast<size_t>(__builtin_ctz(mask));
      if (size == kTile) scan();
    }
  if (size) scan();
}

void NearestCentroid::search(const float* rows, size_t count, float radius_share, int threads,
                             int32_t* nearest) const {
  std::vector<int32_t> order(count), home(count, 0), place(count, 0);
  std::iota(order.begin(), order.end(), 0);
  std::vector<float> radii(radii_);
  for (float& radius : radii) radius *= radius_share;
  if (leaves_ > 1) {
    // Rows of a tile should need the same leaves: sort them by the leaf whose centre is nearest.
    home_leaves(rows, count, threads, home.data());
    order = sorted_by(home, leaves_);
  }
  if (limited()) {
    for_ranges(count, kBlock, threads, [&](size_t begin, size_t end) {
      search_groups(rows, order.data() + begin, end - begin, home.data(), radii, nearest);
    });
    return;
  }
  if (leaves_ > 1) {  // then by the nearest centroid in it
    home_centroids(rows, order, threads, home, place);
    order = sorted_by(place, ids_.size());
  }
  for_ranges(count, kPart, threads, [&](size_t begin, size_t end) {
    Scratch scratch(dim_, quads_, padded_leaves_);
    for (size_t first = begin; first < end; first += kTile) {
      const size_t size = std::min(kTile, end - first);
      load_tile(rows, order.data() + first, size, scratch);
      search_tile(home[order[first]], radii, size, scratch);
      for (size_t r = 0; r < size; ++r) {
        const int32_t id = scratch.state.best_id[r];
        nearest[order[first + r]] = id == kNoCentroid ? 0 : id;
      }
    }
  });
}

}  // namespace saec
