// Ordered codes: a run is sorted by them, and the rank at which each code starts is stored. To find the code
// of a rank, a hint for every few ranks gives the last code that starts before these; the search goes on from
// there, mostly by one or two steps.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace saec {

// The ordered codes that occur, run after run. The first entry, code 0, is for all runs without ordered codes.
struct Order {
  std::vector<uint64_t> firsts{0, ~uint64_t{0}};  // first rank of each code; each run ends with the largest rank
  std::vector<uint16_t> codes{0, 0, 0};           // one more element, for reads of four bytes
  std::vector<uint16_t> hints{0, 0};              // indices among the run's codes; one more element, too
};

// The entries of one run in an Order. The hint of a rank is number (rank - first rank of the run) >> shift.
struct OrderedRun {
  uint32_t first = 0, first_hint = 0;
  uint32_t shift = 63;
  uint32_t mask = 0;  // selects the bits of an ordered code that choose the stored row

  bool any() const { return first > 0; }
};

inline uint64_t ordered_code(const Order& order, const OrderedRun& run, uint64_t run_first,
                             uint64_t rank) {
  size_t at = run.first + order.hints[run.first_hint + ((rank - run_first) >> run.shift)];
  while (order.firsts[at + 1] <= rank) ++at;
  return order.codes[at];
}

// Appends a run. starts: IN count ranks, ascending within run_first to run_first + rows, at which the codes 1,
// 2, ... start.
inline OrderedRun add_order(const uint64_t* starts, size_t count, uint64_t run_first, uint64_t rows,
                            Order& order) {
  constexpr uint64_t kHintsPerCode = 8;
  order.codes.pop_back();
  order.hints.pop_back();
  OrderedRun run;
  run.first = static_cast<uint32_t>(order.firsts.size());
  run.first_hint = static_cast<uint32_t>(order.hints.size());
  for (size_t code = 0; code <= count; ++code) {
    const uint64_t from = code == 0 ? run_first : starts[code - 1];
    const uint64_t until = code == count ? run_first + rows : starts[code];
    if (from == until) continue;  // this code does not occur
    order.firsts.push_back(from);
    order.codes.push_back(static_cast<uint16_t>(code));
  }
  const uint64_t found = order.firsts.size() - run.first;
  const uint64_t ranks_per_hint = std::max<uint64_t>(rows / (found * kHintsPerCode), 1);
  run.shift = static_cast<uint32_t>(std::bit_width(ranks_per_hint) - 1);
  uint64_t place = 0;
  for (uint64_t rank = run_first; rank < run_first + rows; rank += uint64_t{1} << run.shift) {
    while (place + 1 < found && order.firsts[run.first + place + 1] <= rank) ++place;
    order.hints.push_back(static_cast<uint16_t>(place));
  }
  order.firsts.push_back(~uint64_t{0});
  order.codes.insert(order.codes.end(), 2, 0);
  order.hints.push_back(0);
  return run;
}

}  // namespace saec
