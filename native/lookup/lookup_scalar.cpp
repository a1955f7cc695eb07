// Portable kernels: plain loops, which the compiler may vectorise.
#include "lookup/lookup_body.h"

namespace saec {
const LookupKernels kScalarLookup = {"scalar", pool_range, live_rows};
}  // namespace saec
