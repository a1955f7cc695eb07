// AVX2 kernels: eight rows in a register.
#include "nearest/kernels.h"

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>

namespace {
struct V {
  using Float = __m256;
  static constexpr size_t kLanes = 8;
  static __m256 load(const float* at) { return _mm256_loadu_ps(at); }
  static void store(float* at, __m256 value) { _mm256_storeu_ps(at, value); }
  static __m256 set1(float value) { return _mm256_set1_ps(value); }
  static __m256 fma(__m256 a, __m256 b, __m256 c) { return _mm256_fmadd_ps(a, b, c); }
  static __m256 add(__m256 a, __m256 b) { return _mm256_add_ps(a, b); }
  static __m256 sub(__m256 a, __m256 b) { return _mm256_sub_ps(a, b); }
  static __m256 mul(__m256 a, __m256 b) { return _mm256_mul_ps(a, b); }
  static __m256 sqrt(__m256 a) { return _mm256_sqrt_ps(a); }
  static __m256 max(__m256 a, __m256 b) { return _mm256_max_ps(a, b); }
  static __m256 gt(__m256 a, __m256 b) { return _mm256_cmp_ps(a, b, _CMP_GT_OQ); }
  static __m256 ge(__m256 a, __m256 b) { return _mm256_cmp_ps(a, b, _CMP_GE_OQ); }
  static __m256 eq(__m256 a, __m256 b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
  static __m256 both(__m256 a, __m256 b) { return _mm256_and_ps(a, b); }
  static __m256 either(__m256 a, __m256 b) { return _mm256_or_ps(a, b); }
  static bool any(__m256 a) { return _mm256_movemask_ps(a) != 0; }
  static uint32_t bits(__m256 a) { return static_cast<uint32_t>(_mm256_movemask_ps(a)); }
  static __m256 blend(__m256 wins, __m256 no, __m256 yes) { return _mm256_blendv_ps(no, yes, wins); }
  static __m256i load_ids(const int32_t* at) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
  }
  static void store_ids(int32_t* at, __m256i value) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), value);
  }
  static __m256i set1_ids(int32_t value) { return _mm256_set1_epi32(value); }
  static __m256 less_ids(__m256i a, __m256i b) {
    return _mm256_castsi256_ps(_mm256_cmpgt_epi32(b, a));
  }
  static __m256i blend_ids(__m256 wins, __m256i no, __m256i yes) {
    return _mm256_blendv_epi8(no, yes, _mm256_castps_si256(wins));
  }
};
}  // namespace

#include "nearest/kernels_body.h"

namespace saec {
const Kernels kAvx2Kernels = {"avx2", false, scan<4, 2>, nullptr, bounds, nearest_groups,
                               any_within};
}  // namespace saec
#else
namespace saec {
const Kernels kAvx2Kernels = {"avx2", false, nullptr, nullptr, nullptr, nullptr, nullptr};
}  // namespace saec
#endif
