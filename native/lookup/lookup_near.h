// Finds ranks, tiers and stored rows of a whole register of ids at once, for tables whose ids, stored rows and
// bit positions of codes fit 32 bits.
#pragma once

#include "lookup/lookup_ranks.h"
#include "lookup/lookup_words.h"

#ifdef SAEC_WORDS

namespace {

using namespace saec;

// Number of registers for the ids of a chunk.
constexpr size_t kRegisters = kChunk / kWords;

inline Words gather16(const uint16_t* numbers, Words at) { return gather<2>(numbers, at) & 0xffff; }

// Properties of the tiers, as registers that are indexed by registers of tiers.
class NearTiers {
 public:
  static constexpr size_t kMost = 16;  // tiers: the numbers that a Column holds
  static constexpr uint64_t kMostRows = uint64_t{1} << 31;
  static constexpr uint64_t kMostBytes = uint64_t{1} << 29;  // of codes: bit positions fit 32 bits

  static bool holds(const Table& table) {
    return table.geometric && table.runs.size() <= kMost && table.rows < kMostRows &&
           table.code_bytes < kMostBytes && table.stored_rows < kMostRows;
  }

  explicit NearTiers(const Table& table) : NearTiers(table, Columns(table)) {}

  // Tiers start at ranks 64, 256, 1024, ..., so the number of bits of a rank gives the tier. It is the exponent
  // of the rank as a float. The lower bits are cleared first, so that the conversion does not round up.
  static Words of(Words ranks) {
    const Words least = ranks | 31;
    const auto highest = reinterpret_cast<Chosen>(least & ~(least >> 1));
    const auto bits = reinterpret_cast<Words>(__builtin_convertvector(highest, WordFloats));
    return ((bits + (1u << 23)) >> 24) - 66;
  }

  // Bit positions of codes.
  Words bits(Words ranks, Words tiers) const { return ranks * row_bits_.at(tiers) + bias_.at(tiers); }

  // Stored rows without the code, which is added to them.
  Words leads(Words ranks, Words tiers) const {
    return (ranks & own_.at(tiers)) + lead_.at(tiers);
  }

  // The codes at bit positions `bits`.
  Words codes(Words tiers, Words bits) const {
    return (gather<1>(table_.codes, bits >> 3) >> (bits & 7)) & mask_.at(tiers);
  }

  // See ordered_code. Works on `count` registers at once, so that their memory reads overlap.
  void ordered_codes(const Words* ranks, const Words* tiers, size_t count, Words* codes) const {
    Words at[kRegisters];
    for (size_t i = 0; i < count; ++i) {
      const Words steps = (ranks[i] - first_.at(tiers[i])) >> hint_shift_.at(tiers[i]);
      const Words hint = steps + first_hint_.at(tiers[i]);
      at[i] = order_first_.at(tiers[i]) + gather16(table_.order.hints.data(), hint);
    }
    while (step_to_codes(ranks, count, at)) {}
    for (size_t i = 0; i < count; ++i) codes[i] = gather16(table_.order.codes.data(), at[i]);
  }

  Words order_masks(Words tiers) const { return order_mask_.at(tiers); }

  // Bit i is set if the i-th row has a long code.
  uint32_t long_ones(Words tiers) const { return highest_bits(long_runs_ >> tiers << 31); }

 private:
  // Moves `at` one entry on for each rank whose code comes later; returns whether there was any.
  bool step_to_codes(const Words* ranks, size_t count, Words* at) const {
    Chosen any_searching{};
    for (size_t i = 0; i < count; ++i) {
      const Words next = gather<8>(table_.order.firsts.data() + 1, at[i]);  // the lower halves
      const Chosen searching = next <= ranks[i];
      at[i] -= reinterpret_cast<Words>(searching);
      any_searching |= searching;
    }
    return any(any_searching);
  }

  // Numbers are modulo 2^32, since biases and leads may be negative.
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

// For a register of positions in a level of a tier index: the number of members before each, and whether it
// is a member. See passed_in_list.
struct NearPassed {
  Words before;
  Chosen inside;
};

// For lists of at most eight bytes: the lower half is the number of bytes that are at most the lowest byte of
// the position, the upper half the number of bytes that equal it.
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

// Start and number of members of the list of each position's block.
struct NearLists {
  Words start, count;
};

inline NearLists lists_of(const Level& level, Words positions) {
  const Words members = words(level.members);
  const Words counts = gather<2>(level.counts, positions >> 8);
  const Words base = gather<8>(level.bases, positions >> 16);
  const Words start = lesser(base + ((counts - base) & 0xffff), members);
  return {start, lesser(((counts >> 16) - counts) & 0xffff, members - start)};
}

inline NearPassed passed_in_lists(const Level& level, NearLists lists, Words positions) {
  const auto [start, count] = lists;
  if (any(count > words(8))) return passed_one_by_one(level, positions);
  const Pairs first =
      compared(level, first_pairs(start), first_pairs(count), first_pairs(positions));
  const Pairs last = compared(level, last_pairs(start), last_pairs(count), last_pairs(positions));
  const Words most = lower_words(first, last), equal = upper_words(first, last);
  return {start + most - equal, equal > words(0)};
}

// Handles `count` registers of positions. Each kind of read is done for all of them before the next kind, so
// that the reads overlap.
inline void pass_near(const Level& level, const Words* positions, size_t count,
                      NearPassed* passed) {
  if (!level.listed) {
    for (size_t i = 0; i < count; ++i) passed[i] = passed_one_by_one(level, positions[i]);
    return;
  }
  NearLists lists[kRegisters];
  for (size_t i = 0; i < count; ++i) lists[i] = lists_of(level, positions[i]);
  for (size_t i = 0; i < count; ++i) passed[i] = passed_in_lists(level, lists[i], positions[i]);
}

// ids: IN `count` registers, OUT their ranks. Searches the levels before the one whose ranks are known. Words
// whose rank is found continue with position 0, without effect.
inline void near_ranks(const Table& table, size_t count, Words* ids) {
  const uint16_t* known = table.members.ranks.data();
  if (table.members.levels == 0) {
    for (size_t i = 0; i < count; ++i) ids[i] = gather16(known, ids[i]);
    return;
  }
  Words ranks[kRegisters], open[kRegisters];
  for (size_t number = 0; number < table.members.levels; ++number) {
    const Level& level = table.levels[number];
    NearPassed passed[kRegisters];
    pass_near(level, ids, count, passed);
    Words any_open{};
    for (size_t i = 0; i < count; ++i) {
      const auto inside = reinterpret_cast<Words>(passed[i].inside);
      const Words place = ids[i] - lesser(passed[i].before, ids[i]);
      const Words rank = lesser(words(level.members) + place, words(level.ids - 1));
      // ranks and open are first set here: compilers initialise such arrays with a slow instruction.
      ranks[i] = number ? ranks[i] | (rank & open[i] & ~inside) : rank & ~inside;
      open[i] = number ? open[i] & inside : inside;
      ids[i] = lesser(passed[i].before, words(level.members - 1)) & open[i];
      any_open |= open[i];
    }
    if (!any(reinterpret_cast<Chosen>(any_open))) break;
  }
  for (size_t i = 0; i < count; ++i) {
    if (any(reinterpret_cast<Chosen>(open[i]))) ranks[i] |= gather16(known, ids[i]) & open[i];
    ids[i] = ranks[i];
  }
}

}  // namespace
#endif
