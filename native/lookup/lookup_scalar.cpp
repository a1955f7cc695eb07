// Portable: whatever the compiler makes of the loops.
#include "lookup/lookup_body.h"

namespace saec {
const LookupKernels kScalarLookup = {"scalar", pool_range, live_rows};
}  // namespace saec
