// Decodes rows from the present contents of a table's tensors, without anything that was decoded before.
#pragma once

#include <algorithm>

#include "lookup/lookup_ranks.h"
#include "lookup/tier_decoder.h"

namespace {

template <size_t D>
class LiveDecoder {
 public:
  LiveDecoder(const Table& table, const LiveNumbers& numbers)
      : table_(table),
        numbers_(numbers),
        decoder_({numbers.values, numbers.extents, numbers.axes, numbers.mean}, table.dim) {}

  // row: OUT dim.
  void decode(uint64_t rank, float* row) const {
    const auto tier = static_cast<size_t>(std::bit_width(rank | 31) - 5) >> 1;
    const TierCodes& own = table_.tiers[tier];
    const TierPart* first = table_.parts.data() + own.first_part;
    const TierPart* last = first + own.parts;
    const uint64_t bit = own.first_bit + (rank - own.first_rank) * own.row_bits;
    if (own.starts == 0) return decoder_.decode(first, last, table_.codes, bit, row);
    const int64_t* starts = numbers_.starts + own.first_start;
    const auto code = static_cast<uint64_t>(
        std::upper_bound(starts, starts + own.starts, static_cast<int64_t>(rank)) - starts);
    decoder_.decode_ordered(first, last, code, table_.codes, bit, row);
  }

 private:
  const Table& table_;
  const LiveNumbers& numbers_;
  const TierDecoder<LearnedNumbers, D> decoder_;
};

template <size_t D>
bool live_rows_of(const Request& request, const LiveNumbers& numbers) {
  const Table& table = *request.table;
  const LiveDecoder<D> decoder(table, numbers);
  for (size_t first = 0; first < request.count; first += kChunk) {
    const size_t count = std::min(kChunk, request.count - first);
    uint64_t ranks[kChunk];
    for (size_t i = 0; i < count; ++i)
      if ((ranks[i] = id_of(request, first + i)) >= table.rows) return false;
    // Without the ranks in Table::members, which come from an earlier state of the index.
    if (!table.levels.empty()) rank_by_levels(table, count, ranks);
    for (size_t i = 0; i < count; ++i) {
      auto* row = reinterpret_cast<float*>(request.out + (first + i) * request.stride);
      const auto pad = std::find(table.pads.begin(), table.pads.end(), id_of(request, first + i));
      if (pad == table.pads.end()) decoder.decode(ranks[i], row);
      else std::copy_n(numbers.pads + (pad - table.pads.begin()) * table.dim, table.dim, row);
    }
  }
  return true;
}

// See LookupKernels.
inline bool live_rows(const Request& request, const LiveNumbers& numbers) {
  switch (request.table->dim) {
    case 8: return live_rows_of<8>(request, numbers);
    case 16: return live_rows_of<16>(request, numbers);
    case 32: return live_rows_of<32>(request, numbers);
    case 64: return live_rows_of<64>(request, numbers);
    default: return live_rows_of<0>(request, numbers);
  }
}

}  // namespace
