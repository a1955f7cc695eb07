// Portable: whatever the compiler makes of the loops.
#include "keys/keyed_bags.h"

namespace saec {
const KeyedKernels kScalarKeyed = {begin_work, read_classes, read_rows, pool_bags};
}  // namespace saec
