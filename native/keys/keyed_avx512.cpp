#include "keys/keyed_table.h"

#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__BMI2__)
#include "keys/keyed_bags.h"

namespace saec {
const KeyedKernels kAvx512Keyed = {begin_work, read_classes, read_rows, pool_bags};
}  // namespace saec
#else
namespace saec {
const KeyedKernels kAvx512Keyed = {nullptr, nullptr, nullptr, nullptr};
}  // namespace saec
#endif
