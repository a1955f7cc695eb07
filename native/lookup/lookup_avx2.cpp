#include "lookup/lookup.h"

#if defined(__AVX2__) && defined(__F16C__)
#include "lookup/lookup_body.h"

namespace saec {
const LookupKernels kAvx2Lookup = {"avx2", pool_range, live_rows};
}  // namespace saec
#else
namespace saec {
const LookupKernels kAvx2Lookup = {"avx2", nullptr, nullptr};
}  // namespace saec
#endif
