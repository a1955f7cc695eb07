// Checks whether the decoded rows and derived numbers of a table still agree with its tensors.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

#include "codes/codes.h"
#include "lookup/lookup.h"

namespace saec {

// Copies of the tensors from which a table in tiers was prepared, and the present starts. Null pointers are
// not checked.
struct KeptSources {
  const std::vector<std::vector<uint8_t>>* codes;  // of Table::decoded, in its order
  const int64_t *starts, *starts_now;              // ranks of ordered codes
};

class KeptCheck {
 public:
  KeptCheck(const Table& table, const KeptSources& sources) : table_(table), sources_(sources) {}

  // Whether the codes and starts of a rank, which is below the table's rows, are unchanged.
  bool holds(uint64_t rank) const {
    const auto number = static_cast<size_t>(std::bit_width(rank | 31) - 5) >> 1;
    const TierCodes& tier = table_.tiers[number];
    if (sources_.codes && tier.decoded > 0 && !same_codes(tier, rank)) return false;
    return !sources_.starts || tier.starts == 0 || same_start(number, tier, rank);
  }

 private:
  bool same_codes(const TierCodes& tier, uint64_t rank) const {
    const uint64_t bit = tier.first_bit + (rank - tier.first_rank) * tier.row_bits;
    const uint8_t* now = table_.codes + bit / 8;
    const uint8_t* kept = (*sources_.codes)[tier.decoded - 1].data() + (bit - tier.first_bit) / 8;
    // Compares whole words, so bits of other rows, too. Eight bytes can be read wherever a code starts.
    uint64_t other = 0;
    for (uint64_t byte = 0; 8 * byte < bit % 8 + tier.row_bits; byte += 8)
      other |= read_word(now + byte, 0) ^ read_word(kept + byte, 0);
    return other == 0;
  }

  // Whether the rank's code still starts at or before it, and the next code after it.
  bool same_start(size_t number, const TierCodes& tier, uint64_t rank) const {
    const OrderedRun& order = table_.runs[number].order;
    const auto place = static_cast<int64_t>(rank);
    const int64_t* kept = sources_.starts + tier.first_start;
    const uint64_t code =
        order.any() ? ordered_code(table_.order, order, tier.first_rank, rank)
                    : static_cast<uint64_t>(std::upper_bound(kept, kept + tier.starts, place) - kept);
    const int64_t* now = sources_.starts_now + tier.first_start;
    return (code == 0 || now[code - 1] <= place) && (code == tier.starts || place < now[code]);
  }

  const Table& table_;
  const KeptSources& sources_;
};

// Whether KeptCheck::holds for all ids of a request to a table without levels; false, too, if an id is out of
// range.
inline bool holds_of(const KeptCheck& check, const Request& request) {
  for (size_t i = 0; i < request.count; ++i) {
    const uint64_t id = id_of(request, i);
    if (id >= request.table->rows || !check.holds(id)) return false;
  }
  return true;
}

}  // namespace saec
