// From ids to stored rows.
//
// Ids go through two stages in chunks, some chunks apart, so that memory is on its way while others
// are worked on: find (rank, run, bit position) and decode (read the code, choose the stored row; fetch
// codes that were found). No branch depends on an id.
#pragma once

#include <algorithm>
#include <bit>
#include <cstring>

#include "codes/codes.h"
#include "lookup/lookup_near.h"
#include "lookup/lookup_ranks.h"
#include "lookup/lookup_rows.h"
#include "lookup/lookup_tiers.h"

namespace {

constexpr size_t kAhead = 6;       // chunks between find and decode
constexpr size_t kRing = 512;      // ids that are kept at a time
constexpr size_t kPiece = 128;     // ids that are added at a time
constexpr size_t kListed = 128;    // stored rows of long codes that are added at a time
constexpr size_t kNextRow = 32;    // ids between the fetching of a stored row and its use
static_assert(kPiece + kNextRow + (kAhead + 2) * kChunk <= kRing && kRing % kChunk == 0);

// Where memory is larger than this, it is fetched ahead; smaller ones stay in the caches.
#ifdef SAEC_NEAR_TIERS
constexpr uint64_t kFarCodes = 256 << 10;
#else
constexpr uint64_t kFarCodes = 5 << 20;
#endif
constexpr uint64_t kFarRows = 2 << 20;

// Reads ids and finds their stored rows, some ahead of where they are wanted. What belongs to the id
// at a position stands at that position modulo kRing.
class Finder {
 public:
  Finder(const Request& request, size_t first, size_t last)
      : request_(request), table_(*request.table), last_(last), found_(first), decoded_(first) {
    offset_ = first % kChunk;  // chunks never wrap around the ring
    far_codes_ = table_.code_bytes > kFarCodes;
    const size_t size = table_.element == Element::kInt8      ? 1
                        : table_.element == Element::kFloat32 ? 4
                                                              : 2;
    far_rows_ = table_.stored_rows * table_.width * size > kFarRows;
#ifdef SAEC_VECTOR_TIERS
    vector_tiers_ = table_.geometric && table_.runs.size() <= VectorTiers::kMost;
    if (vector_tiers_) tiers_.load(table_);
    fused_ = vector_tiers_ && table_.any_codes && !far_codes_ && table_.levels.empty() &&
             table_.pads.empty() && !table_.any_ordered && request_.id_stride == 1;
#endif
#ifdef SAEC_NEAR_TIERS
    near_ = last - first >= kChunk && table_.any_codes | table_.any_ordered && NearTiers::holds(table_) &&
            (table_.levels.empty() || NearRanks::holds(table_));
    if (near_) near_tiers_.load(table_);
#endif
    identical_ = request_.wide && request_.id_stride == 1 && !table_.any_codes && !table_.any_beyond &&
                 table_.runs.size() == 1 && table_.runs[0].own && table_.runs[0].lead == 0 &&
                 table_.levels.empty() && table_.pads.empty();
    std::fill_n(rows_, far_rows_ ? kRing + kChunk : 0, 0);  // else of no use, if fetched ahead
  }

  bool failed() const { return failure_.fault != Fault::kNone; }
  const Failure& failure() const { return failure_; }

  // Make rows() right for positions below the given one; false if an id or code is bad.
  bool reach(size_t position) {
    while (decoded_ < std::min(position + kNextRow, last_)) {
      if (identical_) {
        if (!check_ids()) return false;
        continue;
      }
#ifdef SAEC_VECTOR_TIERS
      if (fused_) {
        if (!find_and_decode()) return false;
        continue;
      }
#endif
#ifdef SAEC_NEAR_TIERS
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

  // As many positions from this one on lie side by side in the ring.
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

  // Position of the next row with further coordinates, if it is below `end`; else `end`.
  size_t next_long(size_t end) const {
    return long_first_ < long_last_ ? std::min<size_t>(longs_[long_first_], end) : end;
  }
  void pass_long() { ++long_first_; }

  const Run& run(size_t position) const {
    return table_.runs[fused_ ? tier_of(id(position)) : runs_[at(position)]];
  }
  RowCodes codes(size_t position) const {
    const size_t slot = at(position);
#ifdef SAEC_NEAR_TIERS
    if (near_) return {near_bits_[slot], table_.any_ordered ? near_ordered_[slot] : 0};
#endif
    if (!fused_) return {bits_[slot], table_.any_ordered ? ordered_[slot] : 0};
    const Run& own = run(position);
    return {id(position) * own.row_bits + own.bias, 0};
  }
  uint64_t id(size_t position) const { return id_of(request_, position); }

 private:
  size_t at(size_t position) const { return (position - offset_) % kRing; }
  static size_t eights(size_t count) { return (count + 7) / 8 * 8; }

  // Cut at 64, 256, 1024, ...: by the length of the rank in bits.
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
    // Whole eights are worked on: what follows the last id is rank 0.
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
#ifdef SAEC_VECTOR_TIERS
    if (vector_tiers_) return place_vector(slot, end);
#endif
    if (table_.geometric)
      place_by(slot, end, tier_of);
    else if (table_.runs.size() == 1)
      place_by(slot, end, [](uint64_t) { return 0; });
    else
      place_by(slot, end, [this](uint64_t rank) { return run_of(rank); });
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

  // The last run that starts at rank or before; halving without a branch.
  uint32_t run_of(uint64_t rank) const {
    const Run* base = table_.runs.data();
    for (size_t left = table_.runs.size(); left > 1;) {
      const size_t half = left / 2;
      base += base[half].first <= rank ? half : 0;
      left -= half;
    }
    return static_cast<uint32_t>(base - table_.runs.data());
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
    // What is fetched ahead beyond the end of the ring is found at its start.
    if (slot == 0) std::copy_n(rows_, kChunk, rows_ + kRing);
    decoded_ += count;
  }

  void read_codes(size_t slot, size_t end) {
#ifdef SAEC_VECTOR_TIERS
    if (vector_tiers_ && !far_codes_) return read_codes_vector(slot, end);
#endif
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

  // Where all rows are coded alike nothing needs to be kept of a row but its rank.
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
#ifdef SAEC_VECTOR_TIERS
    if (vector_tiers_) return add_ordered_vector(slot, end);
#endif
    for (size_t i = slot; i < end; ++i) {
      const Run& run = table_.runs[runs_[i]];
      ordered_[i] = ordered_code(table_.order, run.order, run.first, ranks_[i]);
      rows_[i] += ordered_[i] & run.order.mask;
    }
  }

  void list_longs(size_t slot, size_t count) {
    make_room_for_longs();
#ifdef SAEC_VECTOR_TIERS
    if (vector_tiers_) return list_longs_vector(slot, count);
#endif
    const Run* runs = table_.runs.data();
    uint64_t* longs = longs_ + long_last_;
    size_t listed = 0;
    for (size_t i = 0; i < count; ++i) {
      longs[listed] = decoded_ + i;
      listed += runs[runs_[slot + i]].cells > 0;
    }
    long_last_ += listed;
  }

  // A pad's row is a stored one, whatever is stored for its id.
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

  // One of the ids at position, position + 1, ... is out of range.
  bool fail_at_id(size_t position) {
    while (position + 1 < last_ && id(position) < table_.rows) ++position;
    fail(Fault::kId, position);
    return false;
  }

  void fail(Fault fault, size_t position) {
    if (!failed()) failure_ = {fault, 0, position};
  }

#ifdef SAEC_VECTOR_TIERS
  void place_vector(size_t slot, size_t end) {
    for (size_t i = slot; i < end; i += 8) {
      const __m512i ranks = _mm512_load_si512(ranks_ + i), runs = VectorTiers::of(ranks);
      _mm512_store_si512(bits_ + i, tiers_.bits(ranks, runs));
      _mm256_store_si256(reinterpret_cast<__m256i*>(runs_ + i), _mm512_cvtepi64_epi32(runs));
    }
  }

  void read_codes_vector(size_t slot, size_t end) {
    for (size_t i = slot; i < end; i += 8) {
      const __m512i runs = _mm512_cvtepu32_epi64(
          _mm256_load_si256(reinterpret_cast<const __m256i*>(runs_ + i)));
      const __m512i ranks = _mm512_load_si512(ranks_ + i), bits = _mm512_load_si512(bits_ + i);
      _mm512_store_si512(rows_ + i, tiers_.rows(ranks, runs, bits));
    }
  }

  void add_ordered_vector(size_t slot, size_t end) {
    for (size_t i = slot; i < end; i += 8) {
      const __m512i runs = _mm512_cvtepu32_epi64(
          _mm256_load_si256(reinterpret_cast<const __m256i*>(runs_ + i)));
      const __m512i codes = tiers_.ordered_codes(_mm512_load_si512(ranks_ + i), runs);
      const __m512i chosen = _mm512_and_si512(codes, tiers_.order_masks(runs));
      _mm512_store_si512(ordered_ + i, codes);
      _mm512_store_si512(rows_ + i, _mm512_add_epi64(_mm512_load_si512(rows_ + i), chosen));
    }
  }

  void list_longs_vector(size_t slot, size_t count) {
    for (size_t i = 0; i < count; i += 8) {
      const __m512i runs = _mm512_cvtepu32_epi64(
          _mm256_load_si256(reinterpret_cast<const __m256i*>(runs_ + slot + i)));
      append_longs(runs, i, count);
    }
  }

  // Of eight rows from the i-th of the chunk on, and below `count`.
  void append_longs(__m512i runs, size_t i, size_t count) {
    const __m512i steps = _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0);
    uint32_t found = tiers_.long_ones(runs);
    if (count - i < 8) found &= (1u << (count - i)) - 1;
    const __m512i positions =
        _mm512_add_epi64(_mm512_set1_epi64(static_cast<int64_t>(decoded_ + i)), steps);
    _mm512_storeu_si512(longs_ + long_last_,
                        _mm512_maskz_compress_epi64(static_cast<__mmask8>(found), positions));
    long_last_ += static_cast<size_t>(std::popcount(found));
  }

  // Both stages at once, where codes are near and nothing else needs to be known of a row.
  bool find_and_decode() {
    const size_t slot = at(decoded_);
    const size_t count = std::min(kChunk, last_ - decoded_);
    const __m512i rows = _mm512_set1_epi64(static_cast<int64_t>(table_.rows));
    if (table_.any_long) make_room_for_longs();
    uint32_t outside = 0;
    for (size_t i = 0; i < count; i += 8) {
      const auto wanted = static_cast<__mmask8>(count - i < 8 ? (1u << (count - i)) - 1 : 0xff);
      __m512i rank = load_ids(decoded_ + i, wanted);
      const __mmask8 inside = _mm512_cmplt_epu64_mask(rank, rows);
      outside |= static_cast<uint8_t>(~inside);
      rank = _mm512_maskz_mov_epi64(inside, rank);  // nothing is read for the others
      const __m512i run = VectorTiers::of(rank);
      const __m512i bits = tiers_.bits(rank, run);
      _mm512_store_si512(rows_ + slot + i, tiers_.rows(rank, run, bits));
      if (table_.any_long) append_longs(run, i, count);
    }
    if (slot == 0) std::copy_n(rows_, kChunk, rows_ + kRing);
    if (outside) return fail_at_id(decoded_);
    decoded_ += count;
    found_ = decoded_;
    return true;
  }

  __m512i load_ids(size_t position, __mmask8 wanted) const {
    if (request_.wide)
      return _mm512_maskz_loadu_epi64(wanted, static_cast<const int64_t*>(request_.ids) + position);
    return _mm512_cvtepi32_epi64(
        _mm256_maskz_loadu_epi32(wanted, static_cast<const int32_t*>(request_.ids) + position));
  }

  bool vector_tiers_;
  VectorTiers tiers_;
#endif

#ifdef SAEC_NEAR_TIERS
  size_t near_ahead() const { return far_codes_ ? kAhead * kChunk : kChunk; }

  bool find_near() {
    const size_t slot = at(found_);
    const size_t count = std::min(kChunk, last_ - found_);
    const uint64_t* ids = ranks_ + slot;
    if (request_.wide && request_.id_stride == 1 && count == kChunk)
      ids = static_cast<const uint64_t*>(request_.ids) + found_;
    else if (request_.wide)
      read_ids<int64_t>(count, ranks_ + slot);
    else
      read_ids<int32_t>(count, ranks_ + slot);
    __m256i outside = _mm256_setzero_si256();
    const __m256i rows = near_number(table_.rows);
    for (size_t i = 0; i < eights(count); i += 8) {
      const auto* at = reinterpret_cast<const __m256*>(ids + i);
      const __m256 first = _mm256_loadu_ps(reinterpret_cast<const float*>(at));
      const __m256 second = _mm256_loadu_ps(reinterpret_cast<const float*>(at + 1));
      const __m256i high = _mm256_castps_si256(_mm256_shuffle_ps(first, second, 0xdd));
      __m256i rank = _mm256_castps_si256(_mm256_shuffle_ps(first, second, 0x88));
      const __m256i wrong =
          _mm256_or_si256(near_at_most(rows, rank), near_at_most(near_number(1), high));
      outside = _mm256_or_si256(outside, wrong);
      rank = _mm256_andnot_si256(wrong, rank);  // nothing is read for the others
      place_near(_mm256_permute4x64_epi64(rank, 0xd8), slot + i);
    }
    if (!_mm256_testz_si256(outside, outside)) return fail_at_id(found_);
    if (far_codes_)
      for (size_t i = slot; i < slot + count; ++i) prefetch_far(table_.codes, near_bits_[i] / 8);
    found_ += count;
    return true;
  }

  void place_near(__m256i rank, size_t slot) {
    if (!table_.levels.empty()) rank = NearRanks(table_).of(rank);
    const __m256i tiers = NearTiers::of(rank);
    __m256i leads = near_tiers_.leads(rank, tiers);
    if (table_.any_ordered) {
      const __m256i codes = near_tiers_.ordered_codes(rank, tiers);
      leads = _mm256_add_epi32(leads, _mm256_and_si256(codes, near_tiers_.order_masks(tiers)));
      _mm256_store_si256(reinterpret_cast<__m256i*>(near_ordered_ + slot), codes);
    }
    _mm256_store_si256(reinterpret_cast<__m256i*>(near_leads_ + slot), leads);
    _mm256_store_si256(reinterpret_cast<__m256i*>(near_bits_ + slot), near_tiers_.bits(rank, tiers));
    _mm256_store_si256(reinterpret_cast<__m256i*>(runs_ + slot), tiers);
  }

  void decode_near() {
    const size_t slot = at(decoded_);
    const size_t count = std::min(kChunk, last_ - decoded_);
    if (table_.any_long) make_room_for_longs();
    for (size_t i = 0; i < count; i += 8) {
      const auto load = [&](const uint32_t* ring) {
        return _mm256_load_si256(reinterpret_cast<const __m256i*>(ring + slot + i));
      };
      const __m256i tiers = load(runs_);
      __m256i rows = load(near_leads_);
      if (table_.any_codes)
        rows = _mm256_add_epi32(rows, near_tiers_.codes(tiers, load(near_bits_)));
      auto* to = reinterpret_cast<__m256i*>(rows_ + slot + i);
      _mm256_store_si256(to, _mm256_cvtepu32_epi64(_mm256_castsi256_si128(rows)));
      _mm256_store_si256(to + 1, _mm256_cvtepu32_epi64(_mm256_extracti128_si256(rows, 1)));
      if (table_.any_long) append_near_longs(near_tiers_.long_ones(tiers), i, count);
    }
    if (!table_.pads.empty()) place_pads(slot, count);
    if (slot == 0) std::copy_n(rows_, kChunk, rows_ + kRing);
    decoded_ += count;
  }

  // found: bits of eight rows from the i-th of the chunk on.
  void append_near_longs(uint32_t found, size_t i, size_t count) {
    if (count - i < 8) found &= (1u << (count - i)) - 1;
    for (; found != 0; found &= found - 1)
      longs_[long_last_++] = decoded_ + i + static_cast<size_t>(std::countr_zero(found));
  }

  bool near_;
  NearTiers near_tiers_;
  alignas(32) uint32_t near_bits_[kRing];
  alignas(32) uint32_t near_leads_[kRing];
  alignas(32) uint32_t near_ordered_[kRing];
#endif

  const Request& request_;
  const Table& table_;
  const size_t last_;
  size_t found_, decoded_, offset_;
  size_t long_first_ = 0, long_last_ = 0;
  bool far_codes_, far_rows_;
  bool fused_ = false;
  bool identical_;  // ids are stored rows, and need no place in the ring
  Failure failure_;
  alignas(64) uint64_t ranks_[kRing];
  alignas(64) uint64_t bits_[kRing];
  alignas(64) uint64_t ordered_[kRing];
  alignas(64) uint64_t rows_[kRing + kChunk];
  alignas(64) uint32_t runs_[kRing];
  uint64_t longs_[2 * kRing + 8];
};

}  // namespace
