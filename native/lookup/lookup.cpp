#include "lookup/lookup.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "codes/codes.h"
#include "lookup/tier_decoder.h"
#include "system/simd.h"

namespace saec {

namespace {

// Tiers with long codes, which frequent rows have, are stored decoded while these rows take at most
// kHotBytes or, in large tables, 1 / kHotShare of the float32 table, but at most kMostHotBytes.
constexpr uint64_t kHotBytes = 256 << 10;
constexpr uint64_t kMostHotBytes = 1 << 20;
constexpr uint64_t kHotShare = 64;

// The most bytes of stored rows for one group of bits.
constexpr size_t kGroupBytes = 64 << 10;

// The same for ordered codes: a tier has fewer of them than rows, mostly in a single group.
constexpr size_t kOrderedBytes = 256 << 10;

// The most bytes of all stored rows of a table, except one row for each tier: kKeptBytes, and
// kKeptPerByte times the bytes from which they are decoded. Without a limit, a small hostile file could
// take much memory.
constexpr uint64_t kKeptBytes = 256 << 10;
constexpr uint64_t kKeptPerByte = 64;

uint64_t ones(uint32_t bits) { return (uint64_t{1} << bits) - 1; }

using Decoder = TierDecoder<StoredNumbers>;

uint32_t packed_bits(const TierPart* first, const TierPart* last) {
  uint32_t bits = 0;
  for (const TierPart* part = first; part < last; ++part) bits += part->packed_bits();
  return bits;
}

// The last block from number `own` on if it has room for a code at bit `shift`, else a new one.
CellBlock& block_for(const TierPart& part, uint32_t shift, size_t own, std::vector<CellBlock>& blocks) {
  if (blocks.size() > own) {
    CellBlock& last = blocks.back();
    const bool near = part.bits == 0 || shift + part.bits <= last.bit + CellBlock::kBits;
    if (near && last.ordered == part.ordered() && last.count < CellBlock::kMost) return last;
  }
  CellBlock block{};
  block.bit = part.bits ? shift : 0;
  block.ordered = part.ordered();
  return blocks.emplace_back(block);
}

// Appends the cells of parts [first, last). `axis` axes and `shift` bits of codes of the same kind
// (ordered or packed) come before them.
void append_cells(const TierPart* first, const TierPart* last, uint32_t axis, uint32_t shift,
                  Table& table) {
  const size_t own = table.cells.size();
  if (table.values.size() > static_cast<size_t>(std::numeric_limits<int32_t>::max()))
    throw std::length_error("a table has more values than 31 bits can number");
  for (const TierPart* part = first; part < last; ++part) {
    if (part > first && part[-1].ordered() != part->ordered()) shift = 0;
    for (uint32_t j = 0; j < part->axes && part->kind != TierPart::kNone; ++j) {
      CellBlock& block = block_for(*part, shift, own, table.cells);
      const uint32_t i = block.count++;
      // A part without bits reads the block's first bit: `shift` may lie beyond the last code.
      block.shift[i] = part->bits ? shift - block.bit : 0;
      block.first[i] = part->first + j;
      block.mask[i] = static_cast<uint32_t>(ones(part->bits));
      block.stride[i] = part->grid() ? 0 : part->axes;
      block.axis[i] = axis + j;
      block.step[i] = part->grid() ? table.values[part->first + 1] : 0.0f;
    }
    axis += part->axes;
    shift += part->bits;
  }
}

// Parts [first, last), whose codes together select one stored row.
struct Span {
  const TierPart *first, *last;
  uint32_t bits = 0, axes = 0;

  bool ordered() const { return first < last && first->ordered(); }
};

// The longest span from `first` on. Ordered and packed codes are in different words, so a span has only
// one kind. left: bytes that further stored rows may take.
Span next_span(const TierPart* first, const TierPart* end, size_t dim, uint64_t left) {
  Span span{first, first};
  for (; span.last < end && span.last->ordered() == first->ordered(); ++span.last) {
    const uint32_t bits = span.bits + span.last->bits;
    const uint64_t most = std::min<uint64_t>(left, first->ordered() ? kOrderedBytes : kGroupBytes);
    if ((dim * sizeof(float)) << bits > most && bits > 0) break;
    span.bits = bits;
    span.axes += span.last->axes;
  }
  return span;
}

// Position of the code of `next`, which follows `span`, in its word: `span` itself starts at `shift`.
uint32_t bits_taken(const Span& span, uint32_t shift, const TierPart* next, const TierPart* end) {
  return next < end && next->ordered() == span.ordered() ? shift + span.bits : 0;
}

// Appends one stored row for each code of `bits` bits. fill(code's bytes, row): OUT row, zeros before.
template <typename Fill>
void append_rows(uint32_t bits, size_t dim, std::vector<float>& own, Fill fill) {
  const size_t stored = own.size() / dim;
  own.resize((stored + (size_t{1} << bits)) * dim);
  for (uint64_t code = 0; code < uint64_t{1} << bits; ++code) {
    uint8_t data[16] = {};  // with padding, since readers load eight bytes
    std::memcpy(data, &code, sizeof code);
    fill(data, own.data() + (stored + code) * dim);
  }
}

// Bytes of the stored rows for all groups of parts [first, end); 0 if one part alone is too large.
uint64_t group_bytes(const TierPart* first, const TierPart* end, size_t dim) {
  uint64_t bytes = 0;
  while (first < end) {
    const Span span = next_span(first, end, dim, ~uint64_t{0});
    if (span.last == first) return 0;
    bytes += (dim * sizeof(float)) << span.bits;
    first = span.last;
  }
  return bytes;
}

// Appends the groups of the parts after `lead` up to `end`. Appends nothing if one part alone is too
// large, or if all stored rows together would take more than `left` bytes.
void append_groups(const Decoder& decoder, const Span& lead, const TierPart* end, Table& table,
                   std::vector<float>& own, uint64_t& left) {
  const uint64_t bytes = group_bytes(lead.last, end, table.dim);
  if (bytes == 0 || bytes > left) return;
  left -= bytes;
  uint32_t axis = lead.axes, shift = bits_taken(lead, 0, lead.last, end);
  for (const TierPart* first = lead.last; first < end;) {
    const Span span = next_span(first, end, table.dim, ~uint64_t{0});
    table.groups.push_back(
        {ones(span.bits), own.size() / table.dim, span.bits ? shift : 0, span.ordered()});
    append_rows(span.bits, table.dim, own, [&](const uint8_t* code, float* row) {
      decoder.add_parts(span.first, span.last, axis, code, 0, row);
    });
    axis += span.axes;
    shift = bits_taken(span, shift, span.last, end);
    first = span.last;
  }
}

uint32_t ordered_bits(const TierPart* first, const TierPart* end) {
  uint32_t bits = 0;
  for (const TierPart* part = first; part < end && part->ordered(); ++part) bits += part->bits;
  return bits;
}

// A tier and its parts.
struct Tier {
  uint64_t first, rows, first_bit;
  const TierPart *parts, *end;
};

// Stores each row of the tier decoded.
void store_decoded(const Tier& tier, const Decoder& decoder, Table& table, Run& run,
                   std::vector<float>& own) {
  const size_t stored = own.size() / table.dim;
  const uint32_t row_bits = packed_bits(tier.parts, tier.end);
  run.own = ~uint64_t{0};
  run.lead = stored - tier.first;
  if (row_bits > 0)
    table.decoded.push_back(
        {tier.first_bit / 8, tier.first_bit / 8 + packed_bytes(tier.rows, row_bits)});
  own.resize((stored + tier.rows) * table.dim);
  for (uint64_t i = 0; i < tier.rows; ++i) {
    const uint64_t bit = tier.first_bit + i * row_bits;
    float* row = own.data() + (stored + i) * table.dim;
    if (!run.order.any()) {
      decoder.decode(tier.parts, tier.end, table.codes, bit, row);
      continue;
    }
    const uint64_t code = ordered_code(table.order, run.order, tier.first, tier.first + i);
    decoder.decode_ordered(tier.parts, tier.end, code, table.codes, bit, row);
  }
  run.order = {};
}

// Stores one row for each code of the tier's leading parts, and cells and groups for the other parts.
void store_by_code(const Tier& tier, const Span& lead, const Decoder& decoder, Table& table, Run& run,
                   std::vector<float>& own, uint64_t& left) {
  run.row_bits = packed_bits(tier.parts, tier.end);
  run.bias = run.row_bits ? tier.first_bit - tier.first * run.row_bits : 0;
  if (lead.ordered()) run.order.mask = static_cast<uint32_t>(ones(lead.bits));
  else run.mask = ones(lead.bits);
  run.lead = own.size() / table.dim;
  append_rows(lead.bits, table.dim, own, [&](const uint8_t* code, float* row) {
    decoder.decode(lead.first, lead.last, code, 0, row);
  });
  append_cells(lead.last, tier.end, lead.axes, bits_taken(lead, 0, lead.last, tier.end), table);
  run.cells = static_cast<uint32_t>(table.cells.size()) - run.first_cell;
  run.first_group = static_cast<uint32_t>(table.groups.size());
  if (run.cells > 0) append_groups(decoder, lead, tier.end, table, own, left);
  run.groups = static_cast<uint32_t>(table.groups.size()) - run.first_group;
  table.any_codes |= run.row_bits > 0;
  table.any_long |= run.cells > 0;
  table.any_ordered |= run.order.any();
}

}  // namespace

void prepare_tiers(const std::vector<uint64_t>& first_ranks,
                   const std::vector<uint64_t>& first_bytes, const std::vector<uint64_t>& starts,
                   const float* mean, Table& table, std::vector<float>& own) {
  const Decoder decoder({table.values.data(), table.axes.data(), mean}, table.dim);
  const TierPart* part = table.parts.data();
  const TierPart* const end = part + table.parts.size();
  own.clear();
  size_t used = 0;  // starts
  const uint64_t row_bytes = table.dim * sizeof(float);
  // In a file, a value and a number of an axis take at least two bytes, a start about one.
  const uint64_t read_bytes =
      table.code_bytes + 2 * (table.values.size() + table.axes.size()) + starts.size();
  uint64_t left = kKeptBytes + kKeptPerByte * read_bytes;
  uint64_t hot_rows =
      std::max(kHotBytes, std::min(kMostHotBytes, table.rows * row_bytes / kHotShare)) / row_bytes;
  for (size_t number = 0; number < first_ranks.size(); ++number) {
    const bool is_last = number + 1 == first_ranks.size();
    Tier tier{first_ranks[number], (is_last ? table.rows : first_ranks[number + 1]), 0, part, part};
    tier.rows -= tier.first;
    tier.first_bit = 8 * first_bytes[number];
    while (part < end && part->tier == number) ++part;
    tier.end = part;
    const Span lead = next_span(tier.parts, tier.end, table.dim, left);
    Run run{tier.first, 0, 0, 0, 0, 0, static_cast<uint32_t>(table.cells.size()), 0, 0, 0, {}};
    const uint64_t own_starts = ones(ordered_bits(tier.parts, tier.end));
    table.tiers.push_back({tier.first, tier.first_bit, packed_bits(tier.parts, tier.end),
                           static_cast<uint32_t>(tier.parts - table.parts.data()),
                           static_cast<uint32_t>(tier.end - tier.parts), used, own_starts, 0});
    if (own_starts > 0) {
      run.order = add_order(starts.data() + used, own_starts, tier.first, tier.rows, table.order);
      used += own_starts;
    }
    // Short codes, too, if the tier has no more rows than codes.
    const bool is_long = lead.last < tier.end;
    const bool fits = tier.rows <= hot_rows && tier.rows <= left / row_bytes;
    if (fits && (is_long || tier.rows <= uint64_t{1} << lead.bits)) {
      hot_rows -= tier.rows;
      left -= tier.rows * row_bytes;
      store_decoded(tier, decoder, table, run, own);
      if (table.tiers.back().row_bits > 0) table.tiers.back().decoded = table.decoded.size();
    } else {
      left -= std::min(left, row_bytes << lead.bits);
      store_by_code(tier, lead, decoder, table, run, own, left);
    }
    table.runs.push_back(run);
  }
  // Runs are found by the number of bits of a rank, as if tiers went on. So the last tier is repeated
  // for all ranks beyond its usual end.
  while (uint64_t{64} << 2 * (table.runs.size() - 1) < table.rows) {
    const Run last = table.runs.back();
    table.runs.push_back(last);
    const TierCodes codes = table.tiers.back();
    table.tiers.push_back(codes);
  }
  table.geometric = true;
  table.any_beyond = false;  // each code has a stored row by construction
  table.element = Element::kFloat32;
  table.width = table.dim;
  table.stored = own.data();
  table.stored_rows = own.size() / table.dim;
}

const LookupKernels* choose_lookup(const char* name) {
  name = wanted_simd(name);
  const bool any = std::strcmp(name, "auto") == 0;
#if defined(__x86_64__)
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512cd");
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi2") &&
                    __builtin_cpu_supports("popcnt");
  if ((any || std::strcmp(name, "avx512") == 0) && avx512 && kAvx512Lookup.pool)
    return &kAvx512Lookup;
  if ((any || std::strcmp(name, "avx2") == 0) && avx2 && kAvx2Lookup.pool) return &kAvx2Lookup;
#endif
  return any || std::strcmp(name, "scalar") == 0 ? &kScalarLookup : nullptr;
}

namespace {

// Offsets must ascend from 0 to at most the number of ids. Returns the number of the first offset that
// does not, or the number of bags.
size_t first_bad_offset(const Request& request) {
  const int64_t* offsets = request.offsets;
  if (!offsets || request.bags == 0) return request.bags;
  bool bad = offsets[0] != 0 || offsets[request.bags - 1] > static_cast<int64_t>(request.count);
  for (size_t i = 1; i < request.bags; ++i) bad |= offsets[i] < offsets[i - 1];
  if (!bad) return request.bags;
  for (size_t i = 0; i < request.bags; ++i)
    if (offsets[i] < (i ? offsets[i - 1] : 0) || offsets[i] > static_cast<int64_t>(request.count))
      return i;
  return 0;
}

}  // namespace

size_t id_count(const std::vector<Request>& requests) {
  size_t total = 0;
  for (const Request& request : requests) total += request.count;
  return total;
}

Failure check_offsets(const std::vector<Request>& requests) {
  for (size_t number = 0; number < requests.size(); ++number) {
    const size_t bad = first_bad_offset(requests[number]);
    if (bad < requests[number].bags) return {Fault::kOffset, number, bad};
  }
  return {};
}

Failure pool_between(const std::vector<Request>& requests, size_t first, size_t last, Element out,
                     int threads, const LookupKernels& kernels, const Team& team) {
  const size_t count = last - first, total = id_count(requests);
  const auto most = static_cast<size_t>(std::max(threads, 1));
  const size_t parts = most == 1 ? 1 : std::min(8 * most, 1 + count / team.ids_per_part);
  std::vector<Failure> failures(parts);
  const auto work = [&](size_t part) {
    const size_t from = first + count * part / parts, to = first + count * (part + 1) / parts;
    for_bags(requests, from, to, part + 1 == parts && to == total,
             [&](size_t number, size_t first_bag, size_t last_bag) {
               if (failures[part].fault != Fault::kNone) return;
               failures[part] = kernels.pool(requests[number], first_bag, last_bag, out);
               failures[part].request = number;
             });
  };
  team.run(parts, most, work);
  for (const Failure& failure : failures)
    if (failure.fault != Fault::kNone) return failure;
  return {};
}

Failure pool(const std::vector<Request>& requests, Element out, int threads,
             const LookupKernels& kernels, const Team& team) {
  const Failure failure = check_offsets(requests);
  if (failure.fault != Fault::kNone) return failure;
  return pool_between(requests, 0, id_count(requests), out, threads, kernels, team);
}

}  // namespace saec
