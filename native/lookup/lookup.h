// Looks up rows of a compressed table, and sums of bags of rows, directly from packed codes.
//
// A table's rows are cut into runs that are coded in the same way: tiers, or the fields of a joint table.
// The *rank* of a row (its id, or given by a tier index) leads to its code, and the code to a *stored
// row*. Codes are packed. Runs may be sorted by some of their codes: these *ordered codes* are not
// packed; instead the rank at which each code starts is stored (lookup_order.h).
//
// Most rows are just one stored row. Some tiers have too many different codes for that: a row with such a
// long code is a sum of several stored rows, one for each group of bits. A single row must equal that of
// the format to the last bit, so for lookups without bags its coordinates are added axis by axis instead.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "lookup/lookup_order.h"
#include "system/teams.h"

namespace saec {

enum class Element : int { kFloat32, kFloat16, kBfloat16, kInt8 };
enum class Mode : int { kSum, kMean, kMax };

// Rows of rank first, first + 1, ... up to the next run's first. All arithmetic is modulo 2^64.
struct Run {
  uint64_t first;
  uint64_t row_bits;
  uint64_t bias;   // a row's codes start at bit rank * row_bits + bias
  uint64_t mask;   // of these bits: selects those that choose the stored row
  uint64_t lead;   // stored row = lead + (bits & mask) + (rank & own) + (ordered code & order.mask)
  uint64_t own;    // all ones if each row is stored decoded, else 0
  uint32_t first_cell, cells;    // blocks of coordinates that are added to the stored row
  uint32_t first_group, groups;  // the same coordinates as groups of stored rows; none if too many
  OrderedRun order;
};

// A group of bits of a row: it adds stored row first + code. The code is at bit `shift` of the row's packed
// codes, or of its ordered code.
struct Group {
  uint64_t mask;
  uint64_t first;
  uint32_t shift;
  bool ordered;
};

// At most eight coordinates, each on an axis: values[first + code * stride] + code * step. All their codes are in
// the same 57 bits, from bit `bit` on of the row's packed codes, or of its ordered code; `shift` counts from there.
// Columns are filled with zeros.
struct CellBlock {
  static constexpr size_t kMost = 8;
  static constexpr uint32_t kBits = 57;  // can be read at once, at whichever bit of a byte they start
  uint64_t shift[kMost], first[kMost];
  uint32_t mask[kMost], stride[kMost], axis[kMost];
  float step[kMost];
  uint32_t bit, count;
  bool ordered;
};

// A level of a tier index (docs/format.md): it says which of its positions are members. Members are looked
// up in the next level; all others are in the tier with ranks members, members + 1, ..., ids - 1.
struct Level {
  uint64_t ids;
  uint64_t members;
  bool listed;            // leaves are lists of bytes; otherwise bitmaps
  const uint8_t* bases;   // for each 256 blocks, the number of members before them
  const uint8_t* counts;  // for each block and for the end, the lowest 16 bits of that number
  const uint8_t* leaves;  // 32 bytes can be read from the start of each block's
};

// Ranks of all positions of the first level that has few enough of them, so that this level and those after
// it are not searched. If no level is small enough, ranks of the last level's members.
struct MemberRanks {
  static constexpr uint64_t kMost = 1 << 16;  // positions
  size_t levels = 0;            // number of levels before it
  std::vector<uint16_t> ranks;  // one more element than positions, for reads of four bytes
};

// The position of a tier's codes, and the parts to which they belong.
struct TierCodes {
  uint64_t first_rank, first_bit, row_bits;
  uint32_t first_part, parts;
  uint64_t first_start, starts;  // of its ordered codes among those of all tiers; 0 starts: none ordered
  size_t decoded;                // 1 + its index in Table::decoded; 0 if it is not in there
};

// A part of a tier's layout: one code and its coordinates (docs/format.md). Ordered parts come first; their
// codes are not packed.
struct TierPart {
  enum Kind : int { kNone, kTable, kGrid, kOrderedTable, kOrderedGrid };
  uint32_t tier, kind, bits, axes;
  uint64_t first;         // index of its first value
  uint32_t grids_before;  // number of grids among the parts before this one, of all tiers

  bool ordered() const { return kind == kOrderedTable || kind == kOrderedGrid; }
  bool grid() const { return kind == kGrid || kind == kOrderedGrid; }
  uint32_t packed_bits() const { return ordered() ? 0 : bits; }
};

// Turns sums of int8 stored rows into a row: coordinate = scale * sum + weight * offset for each of `rank`
// axes; then, if there are axes, row = weight * mean + sum of coordinate * axis, in double precision.
struct Frame {
  std::vector<float> scale, offset;
  std::vector<double> axes;  // (rank + 1) x dim, the mean last; empty if the coordinates are the row
};

struct Table {
  uint64_t rows = 0;
  size_t dim = 0;
  const uint8_t* codes = nullptr;  // eight bytes can be read wherever a code starts
  uint64_t code_bytes = 0;
  std::vector<Run> runs;
  bool geometric = false;  // runs are the tiers of ranks 0, 64, 256, 1024, ...
  bool any_codes = false, any_long = false, any_ordered = false;
  bool any_beyond = true;  // codes may be out of the range of stored rows, so they are checked

  Element element = Element::kFloat32;
  const void* stored = nullptr;  // stored_rows x width
  uint64_t stored_rows = 0;
  size_t width = 0;

  std::vector<TierPart> parts;   // of all tiers
  std::vector<TierCodes> tiers;  // in order of rank
  std::vector<CellBlock> cells;
  std::vector<Group> groups;
  std::vector<float> values;
  Order order;  // of runs' ordered codes
  std::vector<float> axes;  // rank x dim, without the mean
  size_t rank = 0;
  std::vector<Level> levels;  // of the last tier first; empty if ids are ranks
  MemberRanks members;
  std::vector<std::pair<uint64_t, uint64_t>> ranked;  // byte ranges of the index that `members` replaces
  std::vector<std::pair<uint64_t, uint64_t>> decoded;  // byte ranges of codes whose rows are stored decoded
  Frame frame;
  std::vector<uint64_t> pads, pad_rows;  // padding ids, and the stored row of each
};

inline size_t stored_row_bytes(const Table& table) {
  const size_t size = table.element == Element::kInt8 ? 1 : table.element == Element::kFloat32 ? 4 : 2;
  return table.width * size;
}

// A lookup in one table: one field of a batch.
struct Request {
  const Table* table;
  const void* ids;  // IN count, id_stride numbers apart
  bool wide;        // ids are int64, else int32
  size_t count;
  const int64_t* offsets;  // IN bags, the position of each bag's first id; null: each id is a bag
  size_t bags;
  const float* weights;  // IN count; null: all weights are 1
  Mode mode;
  int64_t skipped;  // id that is left out of bags, or -1
  uint8_t* out;     // OUT bags rows of dim elements, stride bytes apart
  size_t stride;
  ptrdiff_t id_stride = 1;
};

inline uint64_t id_of(const Request& request, size_t position) {
  const ptrdiff_t place = static_cast<ptrdiff_t>(position) * request.id_stride;
  return request.wide ? static_cast<uint64_t>(static_cast<const int64_t*>(request.ids)[place])
                      : static_cast<uint64_t>(
                            int64_t{static_cast<const int32_t*>(request.ids)[place]});
}

// The first bad id, code or offset that was found, with its request and its position there.
enum class Fault : int { kNone, kId, kCode, kOffset };
struct Failure {
  Fault fault = Fault::kNone;
  size_t request = 0, position = 0;
};

// Computes bags [first, last) of a request; `out` is the type of the output's elements.
using PoolRange = Failure (*)(const Request& request, size_t first, size_t last, Element out);

// The numbers of a table in tiers as parameters of its modules, which are read in place. values: without the
// steps of grids; extents: 2^bits times the step of each grid; pads: rows of Table::pads; starts: ranks of
// ordered codes. Pointers to empty arrays are null.
struct LiveNumbers {
  const float *values, *extents, *axes, *mean, *pads;
  const int64_t* starts;
};

// Computes float32 rows of a request without bags from the present codes and numbers, without anything that
// was decoded before. Returns false if an id is out of range or tier vectors are damaged.
using LiveRows = bool (*)(const Request& request, const LiveNumbers& numbers);

struct LookupKernels {
  const char* name;
  PoolRange pool;
  LiveRows live;
};
extern const LookupKernels kScalarLookup;
extern const LookupKernels kAvx2Lookup;    // null member where not compiled for this processor
extern const LookupKernels kAvx512Lookup;

// name: "auto", "scalar", "avx2" or "avx512". Returns null if the processor cannot run these kernels.
const LookupKernels* choose_lookup(const char* name);

// Computes all requests. Bags are cut into contiguous ranges of about equally many ids, which threads share
// as in teams.h. Ids, offsets and weights must not change during the call.
Failure pool(const std::vector<Request>& requests, Element out, int threads,
             const LookupKernels& kernels, const Team& team = own_team());

// The same in steps: ids of all requests are numbered consecutively, and a step computes the bags that start
// between two numbers. The caller has checked the offsets.
size_t id_count(const std::vector<Request>& requests);
Failure check_offsets(const std::vector<Request>& requests);
Failure pool_between(const std::vector<Request>& requests, size_t first, size_t last, Element out,
                     int threads, const LookupKernels& kernels, const Team& team = own_team());

// The first bag of a request that starts at or after its id number `ids`.
inline size_t bag_at(const Request& request, size_t ids) {
  if (!request.offsets) return std::min(ids, request.bags);
  const int64_t* end = request.offsets + request.bags;
  return static_cast<size_t>(
      std::lower_bound(request.offsets, end, static_cast<int64_t>(ids)) - request.offsets);
}

// Calls work(number of the request, first bag, last bag) for the bags that start between id numbers first and
// last. The last step includes empty bags at the end.
template <typename Work>
void for_bags(const std::vector<Request>& requests, size_t first, size_t last, bool is_last,
              const Work& work) {
  size_t before = 0;
  for (size_t number = 0; number < requests.size(); ++number) {
    const Request& request = requests[number];
    const size_t from = first > before ? bag_at(request, first - before) : 0;
    const size_t to = is_last         ? request.bags
                      : last > before ? bag_at(request, last - before)
                                      : 0;
    if (from < to) work(number, from, to);
    before += request.count;
  }
}

// Fills in the levels and the ranks of members of a table with a tier index. first_ranks: IN of each tier.
// index: IN index_bytes(rows, first_ranks) bytes.
void prepare_index(const std::vector<uint64_t>& first_ranks, const uint8_t* index, Table& table);
uint64_t index_bytes(uint64_t rows, const std::vector<uint64_t>& first_ranks);

// Fills in runs, cells, groups and stored rows of a table in tiers. The caller has set parts, values, axes,
// rank, rows, dim and codes. starts: IN ranks at which ordered codes start, tier after tier, ascending in each.
// first_ranks, first_bytes: IN of each tier. mean: IN dim. own: OUT the stored rows.
void prepare_tiers(const std::vector<uint64_t>& first_ranks, const std::vector<uint64_t>& first_bytes,
                   const std::vector<uint64_t>& starts, const float* mean, Table& table,
                   std::vector<float>& own);

}  // namespace saec
