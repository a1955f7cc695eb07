// Rows of a compressed table, and sums of bags of them, straight from packed codes.
//
// A table's rows are cut into runs that are coded alike: tiers, or the fields of a joint table. A
// row is found in two steps: its *rank*, which is its id unless a tier index says otherwise, gives
// its code, and the code gives a *stored row*. Codes are packed. Where ranks of a run are in order of
// some of their codes, these are not, but the ranks are kept at which each *ordered code* starts
// (lookup_order.h). Most rows are a stored row and nothing else. Rows of
// long codes (in tiers with too many of them for one list of stored rows) are a sum of several
// stored rows, one for each group of bits; alone, where a row must come out as the format says to
// the last bit, their coordinates are added axis by axis instead.
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
  uint64_t mask;   // of the bits there that choose the stored row
  uint64_t lead;   // stored row = lead + (bits & mask) + (rank & own) + (ordered code & order.mask)
  uint64_t own;    // all ones where each row is stored by itself, else 0
  uint32_t first_cell, cells;    // coordinates beyond the stored row
  uint32_t first_group, groups;  // the same as stored rows; none where these would be too many
  OrderedRun order;
};

// Stored row first + code, with the code at bit shift of the row, or of its ordered code.
struct Group {
  uint64_t mask;
  uint64_t first;
  uint32_t shift;
  bool ordered;
};

// A coordinate: values[first + code * stride] + code * step, with the code at bit shift of the row, or
// of its ordered code.
struct Cell {
  uint32_t axis;
  uint32_t shift;
  uint32_t mask;
  uint32_t stride;
  uint64_t first;
  float step;
  bool ordered;
};

// A level of a tier index (docs/format.md): which of its positions are members. Members go on to the
// next level; the others are in the tier whose ranks are members, members + 1, ..., ids - 1.
struct Level {
  uint64_t ids;
  uint64_t members;
  bool listed;            // leaves are lists of bytes, else bits
  const uint8_t* bases;   // of each 256 blocks, the members before
  const uint8_t* counts;  // of each block, the lowest 16 bits of the same, and once more at the end
  const uint8_t* leaves;  // 32 bytes can be read wherever a block's begin
};

// Ranks of all positions of a level, so that it and further ones need not be asked: of the first level with
// few enough positions. If that is none, ranks of the last level's members.
struct MemberRanks {
  static constexpr uint64_t kMost = 1 << 16;  // positions
  size_t levels = 0;            // before it
  std::vector<uint16_t> ranks;  // and one more, for reads of four bytes
};

// A tier's codes: where they are, and which parts they belong to.
struct TierCodes {
  uint64_t first_rank, first_bit, row_bits;
  uint32_t first_part, parts;
  uint64_t first_start, starts;  // of its ordered codes among all tiers'; none: no part is ordered
  size_t decoded;                // 1 + its place in Table::decoded; 0 if it is not there
};

// Part of a tier's rows: one code and the coordinates that it stands for (docs/format.md). Ordered ones
// come first; their codes are not among the packed ones.
struct TierPart {
  enum Kind : int { kNone, kTable, kGrid, kOrderedTable, kOrderedGrid };
  uint32_t tier, kind, bits, axes;
  uint64_t first;         // value
  uint32_t grids_before;  // parts of all tiers before this one that are grids

  bool ordered() const { return kind == kOrderedTable || kind == kOrderedGrid; }
  bool grid() const { return kind == kGrid || kind == kOrderedGrid; }
  uint32_t packed_bits() const { return ordered() ? 0 : bits; }
};

// How int8 stored rows become rows: coordinate = scale * sum + weight * offset on each of rank axes,
// then, if there are axes, row = weight * mean + sum of coordinate * axis, in double.
struct Frame {
  std::vector<float> scale, offset;
  std::vector<double> axes;  // (rank + 1) x dim, the mean last; empty if coordinates are the row
};

struct Table {
  uint64_t rows = 0;
  size_t dim = 0;
  const uint8_t* codes = nullptr;  // eight bytes can be read wherever a code starts
  uint64_t code_bytes = 0;
  std::vector<Run> runs;
  bool geometric = false;  // runs are the tiers of ranks 0, 64, 256, 1024, ...
  bool any_codes = false, any_long = false, any_ordered = false;
  bool any_beyond = true;  // codes may name stored rows that there are not

  Element element = Element::kFloat32;
  const void* stored = nullptr;  // stored_rows x width
  uint64_t stored_rows = 0;
  size_t width = 0;

  std::vector<TierPart> parts;   // of all tiers
  std::vector<TierCodes> tiers;  // in order of rank
  std::vector<Cell> cells;
  std::vector<Group> groups;
  std::vector<float> values;
  Order order;  // of runs' ordered codes
  std::vector<float> axes;  // rank x dim, without the mean
  size_t rank = 0;
  std::vector<Level> levels;  // of the last tier first; none where ids are ranks
  MemberRanks members;
  std::vector<std::pair<uint64_t, uint64_t>> ranked;  // bytes of the index that members' ranks say
  std::vector<std::pair<uint64_t, uint64_t>> decoded;  // bytes of codes whose rows are stored decoded
  Frame frame;
  std::vector<uint64_t> pads, pad_rows;  // ids whose stored row is another
};

inline size_t stored_row_bytes(const Table& table) {
  const size_t size = table.element == Element::kInt8 ? 1 : table.element == Element::kFloat32 ? 4 : 2;
  return table.width * size;
}

// One field of a batch.
struct Request {
  const Table* table;
  const void* ids;  // IN count, id_stride numbers apart
  bool wide;        // ids are int64, else int32
  size_t count;
  const int64_t* offsets;  // IN bags, where each starts; null: each id is a bag
  size_t bags;
  const float* weights;  // IN count, or null: each counts once
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

// What was wrong with an id or an offset: the first bad one found in a field of the batch.
enum class Fault : int { kNone, kId, kCode, kOffset };
struct Failure {
  Fault fault = Fault::kNone;
  size_t request = 0, position = 0;
};

// Bags [first, last) of a request; out elements are of the given type.
using PoolRange = Failure (*)(const Request& request, size_t first, size_t last, Element out);

// The numbers of a table in tiers as its modules hold them, read where they are. values: without grids'
// steps; extents: of each grid, 2^bits times its step; pads: rows of Table::pads; starts: ranks of
// ordered codes. Null where there are none.
struct LiveNumbers {
  const float *values, *extents, *axes, *mean, *pads;
  const int64_t* starts;
};

// float32 rows of a request without bags, from codes and numbers as they are now: nothing that was
// decoded before is used. False if an id is out of range or tier vectors are damaged.
using LiveRows = bool (*)(const Request& request, const LiveNumbers& numbers);

struct LookupKernels {
  const char* name;
  PoolRange pool;
  LiveRows live;
};
extern const LookupKernels kScalarLookup;
extern const LookupKernels kAvx2Lookup;    // null member where not compiled for this processor
extern const LookupKernels kAvx512Lookup;

// name is "auto", "scalar", "avx2" or "avx512"; null if the processor cannot run it.
const LookupKernels* choose_lookup(const char* name);

// All requests, bags cut into contiguous ranges of about equal numbers of ids; see teams.h for who
// does which. Ids, offsets and weights must not change meanwhile.
Failure pool(const std::vector<Request>& requests, Element out, int threads,
             const LookupKernels& kernels, const Team& team = own_team());

// The same in steps: ids of all requests are numbered one after the other, and a step takes the bags that
// start between two numbers. Offsets are checked before.
size_t id_count(const std::vector<Request>& requests);
Failure check_offsets(const std::vector<Request>& requests);
Failure pool_between(const std::vector<Request>& requests, size_t first, size_t last, Element out,
                     int threads, const LookupKernels& kernels, const Team& team = own_team());

// Bag of a request at or after which `ids` ids have passed.
inline size_t bag_at(const Request& request, size_t ids) {
  if (!request.offsets) return std::min(ids, request.bags);
  const int64_t* end = request.offsets + request.bags;
  return static_cast<size_t>(
      std::lower_bound(request.offsets, end, static_cast<int64_t>(ids)) - request.offsets);
}

// Calls work(number of a request, first bag, last bag) for the bags between two numbers of ids. The last
// step has the empty ones at the end, too.
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

// Levels of an index of so many rows, whose tiers have these first ranks, and ranks of members. index:
// IN index_bytes(rows, first_ranks) bytes.
void prepare_index(const std::vector<uint64_t>& first_ranks, const uint8_t* index, Table& table);
uint64_t index_bytes(uint64_t rows, const std::vector<uint64_t>& first_ranks);

// Fill in runs, cells, groups and stored rows of a table in tiers; parts, values, axes, rank, rows, dim
// and codes are set. starts: IN of tier after tier, ascending within one, the ranks of ordered codes.
// first_ranks, first_bytes: IN of each tier. mean: IN dim. own: OUT the stored rows.
void prepare_tiers(const std::vector<uint64_t>& first_ranks, const std::vector<uint64_t>& first_bytes,
                   const std::vector<uint64_t>& starts, const float* mean, Table& table,
                   std::vector<float>& own);

}  // namespace saec
