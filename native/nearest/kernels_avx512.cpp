// AVX-512 kernels: sixteen rows in a register; integer products of bytes (VNNI) rule out centroids.
#include "nearest/kernels.h"

#if defined(__AVX512F__) && defined(__AVX512VNNI__)
#include <immintrin.h>

namespace {
struct V {
  using Float = __m512;
  static constexpr size_t kLanes = 16;
  static __m512 load(const float* at) { return _mm512_loadu_ps(at); }
  static void store(float* at, __m512 value) { _mm512_storeu_ps(at, value); }
  static __m512 set1(float value) { return _mm512_set1_ps(value); }
  static __m512 fma(__m512 a, __m512 b, __m512 c) { return _mm512_fmadd_ps(a, b, c); }
  static __m512 add(__m512 a, __m512 b) { return _mm512_add_ps(a, b); }
  static __m512 sub(__m512 a, __m512 b) { return _mm512_sub_ps(a, b); }
  static __m512 mul(__m512 a, __m512 b) { return _mm512_mul_ps(a, b); }
  static __m512 sqrt(__m512 a) { return _mm512_sqrt_ps(a); }
  static __m512 max(__m512 a, __m512 b) { return _mm512_max_ps(a, b); }
  static __mmask16 gt(__m512 a, __m512 b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
  static __mmask16 ge(__m512 a, __m512 b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
  static __mmask16 eq(__m512 a, __m512 b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
  static __mmask16 both(__mmask16 a, __mmask16 b) { return _kand_mask16(a, b); }
  static __mmask16 either(__mmask16 a, __mmask16 b) { return _kor_mask16(a, b); }
  static bool any(__mmask16 a) { return a != 0; }
  static uint32_t bits(__mmask16 a) { return a; }
  static __m512 blend(__mmask16 wins, __m512 no, __m512 yes) {
    return _mm512_mask_blend_ps(wins, no, yes);
  }
  static __m512i load_ids(const int32_t* at) { return _mm512_loadu_si512(at); }
  static void store_ids(int32_t* at, __m512i value) { _mm512_storeu_si512(at, value); }
  static __m512i set1_ids(int32_t value) { return _mm512_set1_epi32(value); }
  static __mmask16 less_ids(__m512i a, __m512i b) { return _mm512_cmplt_epi32_mask(a, b); }
  static __m512i blend_ids(__mmask16 wins, __m512i no, __m512i yes) {
    return _mm512_mask_blend_epi32(wins, no, yes);
  }
};
}  // namespace

#include "nearest/kernels_body.h"

namespace {

// Rows and centroids are rounded to multiples q of one step, with errors e_x and e_c. By the
// triangle inequality |x - c| >= step |q_x - q_c| - e_x - e_c, so a centroid can be nearest only if
// step |q_x - q_c| <= reach + margin, that is if
//   q_x . q_c - |q_c|^2 / 2 >= (|q_x|^2 - ((reach + margin) / step)^2) / 2.
inline __m512i threshold(const TileState& state, size_t lane, float step) {
  const auto radius = V::mul(V::add(V::load(state.reach + lane), V::load(state.margin + lane)),
                             V::set1(1.00001f / step));
  auto least = V::mul(V::sub(V::load(state.quantised_norm + lane), V::mul(radius, radius)),
                      V::set1(0.5f));
  least = V::sub(V::max(least, V::set1(-1e9f)), V::set1(3.0f));
  return _mm512_cvttps_epi32(least);
}

// Replaces the best scores by higher ones, or by equal ones with a lower index.
inline bool improve(TileState& state, size_t lane, V::Float score, int32_t id) {
  const auto best = V::load(state.best + lane);
  const auto ids = V::load_ids(state.best_id + lane);
  const auto wins = V::either(V::gt(score, best),
                              V::both(V::eq(score, best), V::less_ids(V::set1_ids(id), ids)));
  if (!V::any(wins)) return false;
  V::store(state.best + lane, V::blend(wins, best, score));
  V::store_ids(state.best_id + lane, V::blend_ids(wins, ids, V::set1_ids(id)));
  return true;
}

inline __m512 score_of(const float* rows, size_t lane, size_t dim, const float* centroid,
                         float bias) {
  __m512 score = V::set1(bias);
  for (size_t d = 0; d < dim; ++d)
    score = V::fma(V::load(rows + d * kTile + lane), V::set1(centroid[d]), score);
  return score;
}

// Computes exact scores of centroids that bytes could not rule out. Not inlined: it runs seldom, and the loop
// around it needs every register.
[[gnu::noinline]] void settle(const float* rows, size_t dim, float step, const CentroidRun& run,
                              size_t first, const __m512i* sums, size_t lane, TileState& state) {
  __m512i least = threshold(state, lane, step);
  for (size_t u = 0; u < saec::kUnroll; ++u) {
    if (_mm512_cmpgt_epi32_mask(sums[u], least) == 0) continue;
    const size_t c = first + u;
    const auto score = score_of(rows, lane, dim, run.coordinates + c * dim, run.bias[c]);
    if (!improve(state, lane, score, run.ids[c])) continue;
    update_reach(state, lane);
    least = threshold(state, lane, step);
  }
}

void scan_bytes(const float* rows, const uint8_t* byte_rows, size_t dim, float step,
                const CentroidRun& run, TileState& state) {
  constexpr size_t U = saec::kUnroll;
  const size_t quads = (dim + 3) / 4;
  __m512i least0 = threshold(state, 0, step), least1 = threshold(state, 16, step);
  for (size_t c = 0; c < run.count; c += U) {
    const int8_t* centroids = run.quantised + c * quads * 4;
    __m512i sums0[U], sums1[U];
#pragma GCC unroll 8
    for (size_t u = 0; u < U; ++u)
      sums0[u] = sums1[u] = _mm512_set1_epi32(run.quantised_bias[c + u]);
    for (size_t q = 0; q < quads; ++q) {
      const __m512i row0 = _mm512_loadu_si512(byte_rows + (q * kTile) * 4);
      const __m512i row1 = _mm512_loadu_si512(byte_rows + (q * kTile + 16) * 4);
#pragma GCC unroll 8
      for (size_t u = 0; u < U; ++u) {
        int32_t four;
        __builtin_memcpy(&four, centroids + (u * quads + q) * 4, 4);
        const __m512i bytes = _mm512_set1_epi32(four);
        sums0[u] = _mm512_dpbusd_epi32(sums0[u], row0, bytes);
        sums1[u] = _mm512_dpbusd_epi32(sums1[u], row1, bytes);
      }
    }
    __m512i highest0 = sums0[0], highest1 = sums1[0];
#pragma GCC unroll 8
    for (size_t u = 1; u < U; ++u) {
      highest0 = _mm512_max_epi32(highest0, sums0[u]);
      highest1 = _mm512_max_epi32(highest1, sums1[u]);
    }
    const __mmask16 open0 = _mm512_cmpgt_epi32_mask(highest0, least0);
    const __mmask16 open1 = _mm512_cmpgt_epi32_mask(highest1, least1);
    if (_kortestz_mask16_u8(open0, open1)) continue;
    __m512i saved[U];
    if (open0) {
#pragma GCC unroll 8
      for (size_t u = 0; u < U; ++u) saved[u] = sums0[u];
      settle(rows, dim, step, run, c, saved, 0, state);
      least0 = threshold(state, 0, step);
    }
    if (open1) {
#pragma GCC unroll 8
      for (size_t u = 0; u < U; ++u) saved[u] = sums1[u];
      settle(rows, dim, step, run, c, saved, 16, state);
      least1 = threshold(state, 16, step);
    }
  }
}

}  // namespace

namespace saec {
const Kernels kAvx512Kernels = {"avx512", true, scan<8, 2>, scan_bytes, bounds, nearest_groups,
                               any_within};
}  // namespace saec
#else
namespace saec {
const Kernels kAvx512Kernels = {"avx512", false, nullptr, nullptr, nullptr, nullptr, nullptr};
}  // namespace saec
#endif
