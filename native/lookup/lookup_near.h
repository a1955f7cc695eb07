// Tables of which 32 bits hold every id, stored row and bit of the codes: ranks, tiers and stored rows of a
// register of ids at once.
#pragma once

#include "lookup/lookup_ranks.h"
#include "lookup/lookup_words.h"

#ifdef SAEC_WORDS

namespace {

using namespace saec;

inline Words gather16(const uint16_t* numbers, Words at) { return gather<2>(numbers, at) & 0xffff; }

// What a table's tiers say of ranks.
class NearTiers {
 public:
  static constexpr size_t kMost = 16;  // numbers of a column
  static constexpr uint64_t kMostRows = uint64_t{1} << 31;
  static constexpr uint64_t kMostBytes = uint64_t{1} << 29;  // of codes: their bits can be counted

  static bool holds(const Table& table) {
    return table.geometric && table.runs.size() <= kMost && table.rows < kMostRows &&
           table.code_bytes < kMostBytes && table.stored_rows < kMostRows;
  }

  explicit NearTiers(const Table& table) : NearTiers(table, Columns(table)) {}

  // Tiers are cut at 64, 256, 1024, ...: by the length of the rank in bits, which is in the exponent of
  // the same number as a float. Without the bits below its highest one it is not rounded up.
  static Words of(Words ranks) {
    const Words least = ranks | 31;
    const auto highest = reinterpret_cast<Chosen>(least & ~(least >> 1));
    const auto bits = reinterpret_cast<Words>(__builtin_convertvector(highest, WordFloats));
    return ((bits + (1u << 23)) >> 24) - 66;
  }

  // Where codes start.
  Words bits(Words ranks, Words tiers) const { return ranks * row_bits_.at(tiers) + bias_.at(tiers); }

  // Stored rows, but for what codes add.
  Words leads(Words ranks, Words tiers) const {
    return (ranks & own_.at(tiers)) + lead_.at(tiers);
  }

  // What codes at `bits` add.
  Words codes(Words tiers, Words bits) const {
    return (gather<1>(table_.codes, bits >> 3) >> (bits & 7)) & mask_.at(tiers);
  }

  // See ordered_code.
  Words ordered_codes(Words ranks, Words tiers) const {
    const Words hint = ((ranks - first_.at(tiers)) >> hint_shift_.at(tiers)) + first_hint_.at(tiers);
    Words at = order_first_.at(tiers) + gather16(table_.order.hints.data(), hint);
    for (;;) {
      const Words next = gather<8>(table_.order.firsts.data() + 1, at);  // the lower halves
      const Chosen searching = next <= ranks;
      if (!any(searching)) return gather16(table_.order.codes.data(), at);
      at -= reinterpret_cast<Words>(searching);
    }
  }

  Words order_masks(Words tiers) const { return order_mask_.at(tiers); }

  // Bit i: whether the i-th has a long code.
  uint32_t long_ones(Words tiers) const { return highest_bits(long_runs_ >> tiers << 31); }

 private:
  // Numbers are kept modulo 2^32: biases and leads may be negative.
  struct Columns {
    static constexpr size_t kCount = 10;
    alignas(64) uint32_t numbers[kCount][kMost] = {};
    uint32_t long_runs = 0;

    explicit Columns(const Table& table) {
      for (size_t i = 0; i < table.runs.size(); ++i) {
        const Run& run = table.runs[i];
        const uint64_t own[kCount] = {
            run.row_bits,    run.bias,       run.mask,             run.lead,  run.own,
            run.order.first, run.order.mask, run.order.first_hint, run.first, run.order.shift,
        };
        for (size_t j = 0; j < kCount; ++j) numbers[j][i] = static_cast<uint32_t>(own[j]);
        long_runs |= static_cast<uint32_t>(run.cells > 0) << i;
      }
    }
  };

  NearTiers(const Table& table, const Columns& columns)
      : table_(table),
        long_runs_(words(columns.long_runs)),
        row_bits_(columns.numbers[0]),
        bias_(columns.numbers[1]),
        mask_(columns.numbers[2]),
        lead_(columns.numbers[3]),
        own_(columns.numbers[4]),
        order_first_(columns.numbers[5]),
        order_mask_(columns.numbers[6]),
        first_hint_(columns.numbers[7]),
        first_(columns.numbers[8]),
        hint_shift_(columns.numbers[9]) {}

  const Table& table_;
  const Words long_runs_;
  const Column row_bits_, bias_, mask_, lead_, own_;
  const Column order_first_, order_mask_, first_hint_, first_, hint_shift_;
};

// Positions of a level of a tier index: members before them, and which are members. See passed_in_list.
struct NearPassed {
  Words before;
  Chosen inside;
};

// Of lists of at most eight bytes: how many are no more than a position's lowest byte, and in the upper
// half how many equal it.
inline Pairs compared(const Level& level, Pairs start, Pairs count, Pairs positions) {
  const auto steps = reinterpret_cast<Bytes>(Pairs{} + 0x0706050403020100);
  const Bytes list = gather_lists(level.leaves, start), byte = spread(positions);
  const auto used = reinterpret_cast<Bytes>(reinterpret_cast<SmallBytes>(steps) <
                                            reinterpret_cast<SmallBytes>(spread(count)));
  const auto equal = reinterpret_cast<Bytes>(list == byte) & used & 1;
  const auto most = reinterpret_cast<Bytes>(list <= byte) & used & 1;
  return sums(most) | sums(equal) << 32;
}

inline NearPassed passed_one_by_one(const Level& level, Words positions) {
  NearPassed passed;
  for (size_t i = 0; i < kWords; ++i) {
    const uint64_t position = std::min<uint64_t>(positions[i], level.ids - 1);
    const Passed one =
        level.listed ? passed_in_list(level, position) : passed_in_bits(level, position);
    passed.before[i] = static_cast<uint32_t>(one.before);
    passed.inside[i] = -static_cast<int32_t>(one.inside);
  }
  return passed;
}

inline NearPassed passed_in_level(const Level& level, Words positions) {
  if (!level.listed) return passed_one_by_one(level, positions);
  const Words members = words(level.members);
  const Words counts = gather<2>(level.counts, positions >> 8);
  const Words base = gather<8>(level.bases, positions >> 16);
  const Words start = lesser(base + ((counts - base) & 0xffff), members);
  const Words count = lesser(((counts >> 16) - counts) & 0xffff, members - start);
  if (any(count > words(8))) return passed_one_by_one(level, positions);
  const Pairs first =
      compared(level, first_pairs(start), first_pairs(count), first_pairs(positions));
  const Pairs last = compared(level, last_pairs(start), last_pairs(count), last_pairs(positions));
  const Words most = lower_words(first, last), equal = upper_words(first, last);
  return {start + most - equal, equal > words(0)};
}

// Ranks of ids by the levels up to the one whose members' ranks are known. A word that has been found
// goes on at position 0.
inline Words near_ranks(const Table& table, Words ids) {
  Words ranks = words(0);
  Words open = ~Words{};
  for (size_t i = 0; i <= table.members.level; ++i) {
    const Level& level = table.levels[i];
    const NearPassed passed = passed_in_level(level, ids);
    const auto inside = reinterpret_cast<Words>(passed.inside);
    const Words rank = lesser(words(level.members) + ids - lesser(passed.before, ids),
                              words(level.ids - 1));
    ranks |= rank & open & ~inside;
    open &= inside;
    if (!any(reinterpret_cast<Chosen>(open))) return ranks;
    ids = lesser(passed.before, words(level.members - 1)) & open;
  }
  return ranks | (gather16(table.members.ranks.data(), ids) & open);
}

}  // namespace
#endif
