#include "lookup/lookup.h"

#if defined(__AVX512F__) && defined(__AVX512VL__)
#include "lookup/lookup_body.h"

namespace saec {
const LookupKernels kAvx512Lookup = {"avx512", pool_range, live_rows};
}  // namespace saec
#else
namespace saec {
const LookupKernels kAvx512Lookup = {"avx512", nullptr, nullptr};
}  // namespace saec
#endif
