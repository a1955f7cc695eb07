// Bodies of the kernels over a vector type V. Each instruction set's file defines V and then includes this file
// once. Everything is in an anonymous namespace and uses no standard library, so that the linker cannot use a
// function compiled for one instruction set in code for another.
//
// V: Float, Mask (of kLanes rows), and static load, store, set1, fma, add, sub, mul, sqrt, max, gt,
//    ge, eq, less_ids, both, either, any, bits, blend, blend_ids, load_ids, set1_ids, store_ids.

namespace {

using saec::CentroidRun;
using saec::kTile;
using saec::TileState;

constexpr float kInfinity = __builtin_inff();

// Sets reach to sqrt(|x|^2 - 2 s + error), where s is the best score.
inline void update_reach(TileState& state, size_t lane) {
  const auto squared = V::sub(V::load(state.norm + lane),
                              V::mul(V::set1(2.0f), V::load(state.best + lane)));
  const auto safe = V::add(V::max(squared, V::set1(0.0f)), V::load(state.slack + lane));
  V::store(state.reach + lane, V::sqrt(safe));
}

// Replaces best scores by higher ones. Not inlined: it runs seldom once scores are good, and the loop around it
// needs the registers.
template <size_t U>
[[gnu::noinline]] void settle_scores(const CentroidRun& run, size_t first, const V::Float* scores,
                                     size_t lane, TileState& state) {
  auto best = V::load(state.best + lane);
  auto ids = V::load_ids(state.best_id + lane);
#pragma GCC unroll 8
  for (size_t u = 0; u < U; ++u) {
    const auto id = V::set1_ids(run.ids[first + u]);
    const auto wins = V::either(V::gt(scores[u], best),
                                V::both(V::eq(scores[u], best), V::less_ids(id, ids)));
    best = V::blend(wins, best, scores[u]);
    ids = V::blend_ids(wins, ids, id);
  }
  V::store(state.best + lane, best);
  V::store_ids(state.best_id + lane, ids);
}

// Scores U centroids against P vectors of rows at a time, with U * P sums in registers. Returns whether a best
// score changed.
template <size_t U, size_t P>
inline bool scan_strip(const float* rows, size_t lane, size_t dim, const CentroidRun& run,
                       TileState& state) {
  bool improved = false;
  for (size_t c = 0; c < run.count; c += U) {
    const float* centroids = run.coordinates + c * dim;
    V::Float sums[P][U];
#pragma GCC unroll 8
    for (size_t u = 0; u < U; ++u)
#pragma GCC unroll 2
      for (size_t p = 0; p < P; ++p) sums[p][u] = V::set1(run.bias[c + u]);
    for (size_t d = 0; d < dim; ++d) {
      V::Float row[P];
#pragma GCC unroll 2
      for (size_t p = 0; p < P; ++p) row[p] = V::load(rows + d * kTile + lane + p * V::kLanes);
#pragma GCC unroll 8
      for (size_t u = 0; u < U; ++u) {
        const auto coordinate = V::set1(centroids[u * dim + d]);
#pragma GCC unroll 2
        for (size_t p = 0; p < P; ++p) sums[p][u] = V::fma(row[p], coordinate, sums[p][u]);
      }
    }
#pragma GCC unroll 2
    for (size_t p = 0; p < P; ++p) {
      auto highest = sums[p][0];
#pragma GCC unroll 8
      for (size_t u = 1; u < U; ++u) highest = V::max(highest, sums[p][u]);
      const size_t at = lane + p * V::kLanes;
      if (!V::any(V::ge(highest, V::load(state.best + at)))) continue;
      V::Float saved[U];
#pragma GCC unroll 8
      for (size_t u = 0; u < U; ++u) saved[u] = sums[p][u];
      settle_scores<U>(run, c, saved, at, state);
      improved = true;
    }
  }
  return improved;
}

template <size_t U, size_t P>
void scan(const float* rows, size_t dim, const CentroidRun& run, TileState& state) {
  for (size_t lane = 0; lane < kTile; lane += P * V::kLanes) {
    if (!scan_strip<U, P>(rows, lane, dim, run, state)) continue;
    for (size_t p = 0; p < P; ++p) update_reach(state, lane + p * V::kLanes);
  }
}

void bounds(const float* rows, size_t dim, const float* centres, const float* bias,
            const float* radii, size_t leaves, const TileState& state, float* out) {
  constexpr size_t U = 4;
  for (size_t lane = 0; lane < kTile; lane += V::kLanes) {
    const auto norm = V::sub(V::load(state.norm + lane), V::load(state.slack + lane));
    for (size_t first = 0; first < leaves; first += U) {  // leaves are padded to kUnroll
      V::Float scores[U];
      for (size_t u = 0; u < U; ++u) scores[u] = V::set1(bias[first + u]);
      for (size_t d = 0; d < dim; ++d) {
        const auto row = V::load(rows + d * kTile + lane);
        for (size_t u = 0; u < U; ++u)
          scores[u] = V::fma(row, V::set1(centres[(first + u) * dim + d]), scores[u]);
      }
      for (size_t u = 0; u < U; ++u) {
        const auto squared = V::sub(norm, V::mul(V::set1(2.0f), scores[u]));
        const auto distance = V::sqrt(V::max(squared, V::set1(0.0f)));
        V::store(out + (first + u) * kTile + lane, V::sub(distance, V::set1(radii[first + u])));
      }
    }
  }
}

// Finds each row's distance limit by bisection: every step counts the leaves within the limit for all rows of a
// register at once, which takes a fraction of the time of sorting.
void nearest_groups(const float* bounds, const float* radii, size_t leaves, size_t groups,
                    const TileState& state, uint32_t* masks) {
  constexpr int kSteps = 10;
  const auto zero = V::set1(0.0f), one = V::set1(1.0f), wanted = V::set1(static_cast<float>(groups));
  for (size_t leaf = 0; leaf < leaves; ++leaf) masks[leaf] = 0;
  for (size_t lane = 0; lane < kTile; lane += V::kLanes) {
    const auto distance = [&](size_t leaf) {
      return V::add(V::load(bounds + leaf * kTile + lane), V::set1(radii[leaf]));
    };
    auto low = distance(0), high = low;
    for (size_t leaf = 1; leaf < leaves; ++leaf) {
      const auto own = distance(leaf);
      low = V::blend(V::gt(low, own), low, own);
      high = V::max(high, own);
    }
    for (int step = 0; step < kSteps && groups < leaves; ++step) {
      const auto middle = V::mul(V::set1(0.5f), V::add(low, high));
      auto within = zero;
      for (size_t leaf = 0; leaf < leaves; ++leaf)
        within = V::add(within, V::blend(V::ge(middle, distance(leaf)), zero, one));
      const auto enough = V::ge(within, wanted);
      high = V::blend(enough, high, middle);
      low = V::blend(enough, middle, low);
    }
    const auto reach = V::load(state.reach + lane);
    for (size_t leaf = 0; leaf < leaves; ++leaf) {
      const auto within = V::both(V::ge(high, distance(leaf)),
                                  V::ge(reach, V::load(bounds + leaf * kTile + lane)));
      masks[leaf] |= V::bits(within) << lane;
    }
  }
}

bool any_within(const float* bounds, const TileState& state) {
  for (size_t lane = 0; lane < kTile; lane += V::kLanes)
    if (V::any(V::ge(V::load(state.reach + lane), V::load(bounds + lane)))) return true;
  return false;
}

}  // namespace
