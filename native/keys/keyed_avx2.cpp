#include "keys/keyed_table.h"

#if defined(__AVX2__) && defined(__BMI2__)
#include "keys/keyed_bags.h"

namespace saec {
const KeyedKernels kAvx2Keyed = {begin_work, read_classes, read_rows, pool_bags};
}  // namespace saec
#else
namespace saec {
const KeyedKernels kAvx2Keyed = {nullptr, nullptr, nullptr, nullptr};
}  // namespace saec
#endif
