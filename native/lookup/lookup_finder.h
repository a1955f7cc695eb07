// Finds the stored rows of ids.
//
// Ids pass two stages in chunks: *find* computes the rank, run and bit position; *decode* reads the code
// and computes the stored row. Decode is some chunks behind find and prefetches the codes of chunks in
// between, so that memory is read while other chunks are processed. No branch depends on an id.
#pragma once

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>

#include "codes/codes.h"
#include "lookup/lookup_cells.h"
#include "lookup/lookup_near.h"
#include "lookup/lookup_ranks.h"

namespace {

constexpr size_t kAhead = 3;       // chunks between find and decode
constexpr size_t kRing = 512;      // ids in the ring buffer
constexpr size_t kPiece = 128;     // ids that are added at a time
constexpr size_t kListed = 128;    // stored rows of long codes that are added at a time
constexpr size_t kNextRow = 32;    // ids between the prefetch of a stored row and its use
static_assert(kPiece + kNextRow + (kAhead + 2) * kChunk <= kRing && kRing % kChunk == 0);

// Codes and stored rows larger than this are prefetched; smaller ones stay in the caches.
constexpr uint64_t kFarCodes = 256 << 10;
constexpr uint64_t kFarRows = 2 << 20;

// Reads ids and finds their stored rows, some ids ahead of the caller. The data of the id at a position
// are at that position modulo kRing in each array.
class Finder {
 public:
  Finder(const Request& request, size_t first, size_t last)
      : request_(request), table_(*request.table), last_(last), found_(first), decoded_(first) {
    offset_ = first % kChunk;  // chunks never wrap around the ring
    far_codes_ = table_.code_bytes > kFarCodes;
    far_rows_ = table_.stored_rows * stored_row_bytes(table_) > kFarRows;
#ifdef SAEC_WORDS
    if (last - first >= kLeastNear && (table_.any_codes || table_.any_ordered) && NearTiers::holds(table_))
      near_.emplace(table_);
#endif
    identical_ = request_.wide && request_.id_stride == 1 && !table_.any_codes && !table_.any_beyond &&
                 table_.runs.size() == 1 && table_.runs[0].own && table_.runs[0].lead == 0 &&
                 table_.levels.empty() && table_.pads.empty();
    std::fill_n(rows_, far_rows_ ? kRing + kChunk : 0, 0);  // prefetches may read entries before they are set
  }

  bool failed() const { return failure_.fault != Fault::kNone; }
  const Failure& failure() const { return failure_; }

  // Makes rows() valid for positions below the given one; returns false if an id or a code is bad.
  bool reach(size_t position) {
    while (decoded_ < std::min(position + kNextRow, last_)) {
      if (identical_) {
        if (!check_ids()) return false;
        continue;
      }
#ifdef SAEC_WORDS
      if (near_) {
        if (found_ < last_ && !find_near()) return false;
        if (found_ - decoded_ >= near_ahead() || found_ == last_) decode_near();
        continue;
      }
#endif
      if (found_ < last_) find();
      if (failed()) return false;
      if (found_ - decoded_ >= kAhead * kChunk || found_ == last_) decode();
      if (failed()) return false;
    }
    return true;
  }

  // The number of positions from this one on that are contiguous in the ring.
  size_t together(size_t position) const {
    return identical_ ? last_ - position : kRing - at(position);
  }

  RowList rows(size_t position, size_t count) const {
    if (identical_) {
      const auto* ids = static_cast<const uint64_t*>(request_.ids) + position;
      const bool ahead = far_rows_ && position + count + kNextRow <= last_;
      return {ids, ahead ? ids + kNextRow : nullptr, count};
    }
    const uint64_t* next = far_rows_ ? rows_ + at(position) + kNextRow : nullptr;
    return {rows_ + at(position), next, count};
  }

  // Position of the next row with a long code if it is below `end`; otherwise `end`.
  size_t next_long(size_t end) const {
    return long_first_ < long_last_ ? std::min<size_t>(longs_[long_first_], end) : end;
  }
  void pass_long() { ++long_first_; }

  const Run& run(size_t position) const {
    return table_.runs[runs_[at(position)]];
  }
  RowCodes codes(size_t position) const {
    const size_t slot = at(position);
#ifdef SAEC_WORDS
    if (near_) return {near_bits_[slot], table_.any_ordered ? near_ordered_[slot] : 0};
#endif
    return {bits_[slot], table_.any_ordered ? ordered_[slot] : 0};
  }
  uint64_t id(size_t position) const { return id_of(request_, position); }

 private:
  size_t at(size_t position) const { return (position - offset_) % kRing; }
  static size_t eights(size_t count) { return (count + 7) / 8 * 8; }

  // Tiers start at ranks 64, 256, 1024, ..., so the number of bits of a rank gives the tier.
  static uint32_t tier_of(uint64_t rank) {
    return static_cast<uint32_t>(std::bit_width(rank | 31) - 5) >> 1;
  }

  void find() {
    const size_t slot = at(found_);
    const size_t count = std::min(kChunk, last_ - found_);
    uint64_t* ranks = ranks_ + slot;
    const bool outside = request_.wide ? read_ids<int64_t>(count, ranks)
                                       : read_ids<int32_t>(count, ranks);
    if (outside) {
      fail_at_id(found_);
      return;
    }
    if (!table_.levels.empty()) rank_ids(table_, count, ranks);
    if (table_.runs.size() > 1 || table_.any_long || table_.any_ordered)
      place(slot, slot + eights(count));
    found_ += count;
  }

  template <typename Id>
  bool read_ids(size_t count, uint64_t* ranks) const {
    const ptrdiff_t stride = request_.id_stride;
    const Id* ids = static_cast<const Id*>(request_.ids) + static_cast<ptrdiff_t>(found_) * stride;
    // Loops work on multiples of eight: rank 0 is used after the last id.
    if (count < kChunk) std::fill_n(ranks, eights(count), 0);
    const uint64_t rows = table_.rows;
    uint64_t outside = 0;
    const auto take = [&](size_t i, Id id) {
      ranks[i] = static_cast<uint64_t>(static_cast<int64_t>(id));
      outside |= ranks[i] >= rows;
    };
    if (stride == 1)
      for (size_t i = 0; i < count; ++i) take(i, ids[i]);
    else
      for (size_t i = 0; i < count; ++i) take(i, ids[static_cast<ptrdiff_t>(i) * stride]);
    return outside;
  }

  void place(size_t slot, size_t end) {
    if (table_.geometric)
      place_by(slot, end, tier_of);
    else if (table_.runs.size() == 1)
      place_by(slot, end, [](uint64_t) { return 0; });
    else
      place_by(slot, end, [this](uint64_t rank) { return run_of(table_, rank); });
  }

  template <typename RunOf>
  void place_by(size_t slot, size_t end, RunOf run_of) {
    const Run* runs = table_.runs.data();
    const uint64_t* ranks = ranks_ + slot;
    uint64_t* bits = bits_ + slot;
    uint32_t* numbers = runs_ + slot;
    for (size_t i = 0; i < end - slot; ++i) {
      const auto number = static_cast<uint32_t>(run_of(ranks[i]));
      bits[i] = ranks[i] * runs[number].row_bits + runs[number].bias;
      numbers[i] = number;
    }
  }

  void decode() {
    const size_t slot = at(decoded_);
    const size_t count = std::min(kChunk, last_ - decoded_), end = slot + eights(count);
    if (table_.any_codes && (table_.runs.size() > 1 || table_.any_long)) read_codes(slot, end);
    else if (table_.any_codes) read_single_run(slot, end);
    else own_rows(slot, end);
    if (table_.any_ordered) add_ordered(slot, end);
    if (table_.any_long) list_longs(slot, count);
    if (!table_.pads.empty()) place_pads(slot, count);
    if (table_.any_beyond) check_rows(slot, count);
    // Prefetching reads up to kChunk rows beyond the end of the ring: there is a copy of its first rows.
    if (slot == 0) std::copy_n(rows_, kChunk, rows_ + kRing);
    decoded_ += count;
  }

  void read_codes(size_t slot, size_t end) {
    const Run* runs = table_.runs.data();
    const uint8_t* codes = table_.codes;
    const uint64_t *ranks = ranks_ + slot, *bits = bits_ + slot;
    const uint64_t* later = bits_ + (slot + (kAhead - 1) * kChunk) % kRing;
    const uint32_t* numbers = runs_ + slot;
    uint64_t* rows = rows_ + slot;
    const bool far = far_codes_;
    for (size_t i = 0; i < end - slot; ++i) {
      if (far) prefetch_far(codes, later[i] / 8);
      const Run& run = runs[numbers[i]];
      rows[i] = run.lead + (read_word(codes, bits[i]) & run.mask) + (ranks[i] & run.own);
    }
  }

  // With a single run, the bit position follows from the rank and is not stored.
  void read_single_run(size_t slot, size_t end) {
    const Run run = table_.runs[0];
    const uint8_t* codes = table_.codes;
    const uint64_t* ranks = ranks_ + slot;
    const uint64_t* later = ranks_ + (slot + (kAhead - 1) * kChunk) % kRing;
    uint64_t* rows = rows_ + slot;
    const bool far = far_codes_;
    for (size_t i = 0; i < end - slot; ++i) {
      if (far) prefetch_far(codes, (later[i] * run.row_bits + run.bias) / 8);
      const uint64_t bits = read_word(codes, ranks[i] * run.row_bits + run.bias);
      rows[i] = run.lead + (bits & run.mask) + (ranks[i] & run.own);
    }
  }

  void own_rows(size_t slot, size_t end) {
    if (table_.runs.size() == 1) {
      const Run& run = table_.runs[0];
      for (size_t i = slot; i < end; ++i) rows_[i] = run.lead + (ranks_[i] & run.own);
    } else {
      for (size_t i = slot; i < end; ++i) {
        const Run& run = table_.runs[runs_[i]];
        rows_[i] = run.lead + (ranks_[i] & run.own);
      }
    }
  }

  void add_ordered(size_t slot, size_t end) {
    for (size_t i = slot; i < end; ++i) {
      const Run& run = table_.runs[runs_[i]];
      ordered_[i] = ordered_code(table_.order, run.order, run.first, ranks_[i]);
      rows_[i] += ordered_[i] & run.order.mask;
    }
  }

  void list_longs(size_t slot, size_t count) {
    make_room_for_longs();
    const Run* runs = table_.runs.data();
    uint64_t* longs = longs_ + long_last_;
    size_t listed = 0;
    for (size_t i = 0; i < count; ++i) {
      longs[listed] = decoded_ + i;
      listed += runs[runs_[slot + i]].cells > 0;
    }
    long_last_ += listed;
  }

  // Padding ids have stored rows of their own, which replace those found from their codes.
  void place_pads(size_t slot, size_t count) {
    for (size_t pad = 0; pad < table_.pads.size(); ++pad)
      for (size_t i = 0; i < count; ++i) {
        if (id(decoded_ + i) != table_.pads[pad]) continue;
        rows_[slot + i] = table_.pad_rows[pad];
        uint64_t* last = longs_ + long_last_;
        long_last_ = static_cast<size_t>(std::remove(longs_ + long_first_, last, decoded_ + i) - longs_);
      }
  }

  void make_room_for_longs() {
    if (long_first_ < kRing) return;
    std::copy(longs_ + long_first_, longs_ + long_last_, longs_);
    long_last_ -= long_first_;
    long_first_ = 0;
  }

  void check_rows(size_t slot, size_t count) {
    uint64_t outside = 0;
    for (size_t i = slot; i < slot + count; ++i) outside |= rows_[i] >= table_.stored_rows;
    if (!outside) return;
    for (size_t i = 0; i < count; ++i)
      if (rows_[slot + i] >= table_.stored_rows) return fail(Fault::kCode, decoded_ + i);
  }

  bool check_ids() {
    const size_t count = std::min(kChunk, last_ - decoded_);
    const auto* ids = static_cast<const uint64_t*>(request_.ids) + decoded_;
    uint64_t outside = 0;
    for (size_t i = 0; i < count; ++i) outside |= ids[i] >= table_.rows;
    if (outside) return fail_at_id(decoded_);
    decoded_ += count;
    return true;
  }

  // Records the first id out of range; there is one at `position` or after it.
  bool fail_at_id(size_t position) {
    while (position + 1 < last_ && id(position) < table_.rows) ++position;
    fail(Fault::kId, position);
    return false;
  }

  void fail(Fault fault, size_t position) {
    if (!failed()) failure_ = {fault, 0, position};
  }

#ifdef SAEC_WORDS
  // Both stages for tables in tiers that are not too large (lookup_near.h).
  static constexpr size_t kLeastNear = 16;  // fewer ids are found faster one by one
  static_assert(kChunk % kWords == 0);

  size_t near_ahead() const { return far_codes_ ? kAhead * kChunk : kChunk; }

  bool find_near() {
    const size_t slot = at(found_);
    const size_t count = std::min(kChunk, last_ - found_), end = whole_words(count);
    bool outside = false;
    Words ranks[kRegisters], tiers[kRegisters];
    const uint64_t* ids = near_ids(count);
    for (size_t i = 0; i < end; i += kWords)
      ranks[i / kWords] = narrowed(ids + i, table_.rows, outside);
    if (outside) return fail_at_id(found_);
    if (!table_.levels.empty()) near_ranks(table_, end / kWords, ranks);
    for (size_t i = 0; i < end; i += kWords)
      tiers[i / kWords] = place_near(ranks[i / kWords], slot + i);
    if (table_.any_ordered) order_near(ranks, tiers, end / kWords, slot);
    if (far_codes_)
      for (size_t i = slot; i < slot + count; ++i) prefetch_far(table_.codes, near_bits_[i] / 8);
    found_ += count;
    return true;
  }

  // The next ids, padded with zeros to whole registers.
  const uint64_t* near_ids(size_t count) {
    if (request_.wide && request_.id_stride == 1 && count == kChunk)
      return static_cast<const uint64_t*>(request_.ids) + found_;
    uint64_t* ids = ranks_ + at(found_);
    std::fill_n(ids, whole_words(count), 0);
    if (request_.wide) read_ids<int64_t>(count, ids);
    else read_ids<int32_t>(count, ids);
    return ids;
  }

  // Stores the bit positions, leads and tiers of a register of ranks; returns the tiers.
  Words place_near(Words ranks, size_t slot) {
    const Words tiers = NearTiers::of(ranks);
    store_words(near_leads_ + slot, near_->leads(ranks, tiers));
    store_words(near_bits_ + slot, near_->bits(ranks, tiers));
    store_words(runs_ + slot, tiers);
    return tiers;
  }

  void order_near(const Words* ranks, const Words* tiers, size_t count, size_t slot) {
    Words codes[kRegisters];
    near_->ordered_codes(ranks, tiers, count, codes);
    for (size_t i = 0; i < count; ++i, slot += kWords) {
      const Words leads = load_words(near_leads_ + slot);
      store_words(near_leads_ + slot, leads + (codes[i] & near_->order_masks(tiers[i])));
      store_words(near_ordered_ + slot, codes[i]);
    }
  }

  void decode_near() {
    const size_t slot = at(decoded_);
    const size_t count = std::min(kChunk, last_ - decoded_);
    if (table_.any_long) make_room_for_longs();
    for (size_t i = 0; i < count; i += kWords) {
      const Words tiers = load_words(runs_ + slot + i);
      Words rows = load_words(near_leads_ + slot + i);
      if (table_.any_codes) rows += near_->codes(tiers, load_words(near_bits_ + slot + i));
      store_widened(rows_ + slot + i, rows);
      if (table_.any_long) append_longs(near_->long_ones(tiers), i, count);
    }
    if (!table_.pads.empty()) place_pads(slot, count);
    if (slot == 0) std::copy_n(rows_, kChunk, rows_ + kRing);
    decoded_ += count;
  }

  // found: a bit for each row from the i-th of the chunk on, set if its code is long.
  void append_longs(uint32_t found, size_t i, size_t count) {
    if (count - i < kWords) found &= (1u << (count - i)) - 1;
    for (; found != 0; found &= found - 1)
      longs_[long_last_++] = decoded_ + i + static_cast<size_t>(std::countr_zero(found));
  }

  static size_t whole_words(size_t count) { return (count + kWords - 1) / kWords * kWords; }

  std::optional<NearTiers> near_;
  alignas(64) uint32_t near_bits_[kRing];
  alignas(64) uint32_t near_leads_[kRing];
  alignas(64) uint32_t near_ordered_[kRing];
#endif

  const Request& request_;
  const Table& table_;
  const size_t last_;
  size_t found_, decoded_, offset_;
  size_t long_first_ = 0, long_last_ = 0;
  bool far_codes_, far_rows_;
  bool identical_;  // ids are the numbers of stored rows, so the ring is not used
  Failure failure_;
  alignas(64) uint64_t ranks_[kRing];
  alignas(64) uint64_t bits_[kRing];
  alignas(64) uint64_t ordered_[kRing];
  alignas(64) uint64_t rows_[kRing + kChunk];
  alignas(64) uint32_t runs_[kRing];
  uint64_t longs_[2 * kRing + 8];
};

}  // namespace
