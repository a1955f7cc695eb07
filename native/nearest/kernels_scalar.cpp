// Portable kernels, one row at a time.
#include <cmath>

#include "nearest/kernels.h"

namespace {
struct V {
  using Float = float;
  static constexpr size_t kLanes = 1;
  static float load(const float* at) { return *at; }
  static void store(float* at, float value) { *at = value; }
  static float set1(float value) { return value; }
  static float fma(float a, float b, float c) { return std::fma(a, b, c); }
  static float add(float a, float b) { return a + b; }
  static float sub(float a, float b) { return a - b; }
  static float mul(float a, float b) { return a * b; }
  static float sqrt(float a) { return std::sqrt(a); }
  static float max(float a, float b) { return a > b ? a : b; }
  static bool gt(float a, float b) { return a > b; }
  static bool ge(float a, float b) { return a >= b; }
  static bool eq(float a, float b) { return a == b; }
  static bool both(bool a, bool b) { return a && b; }
  static bool either(bool a, bool b) { return a || b; }
  static bool any(bool a) { return a; }
  static uint32_t bits(bool a) { return a; }
  static float blend(bool wins, float no, float yes) { return wins ? yes : no; }
  static int32_t load_ids(const int32_t* at) { return *at; }
  static void store_ids(int32_t* at, int32_t value) { *at = value; }
  static int32_t set1_ids(int32_t value) { return value; }
  static bool less_ids(int32_t a, int32_t b) { return a < b; }
  static int32_t blend_ids(bool wins, int32_t no, int32_t yes) { return wins ? yes : no; }
};
}  // namespace

#include "nearest/kernels_body.h"

namespace saec {
const Kernels kScalarKernels = {"scalar", false, scan<4, 1>, nullptr, bounds, nearest_groups,
                               any_within};
}  // namespace saec
