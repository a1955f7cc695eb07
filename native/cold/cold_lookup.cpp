#include "cold/cold_lookup.h"

#include <algorithm>
#include <deque>
#include <map>
#include <optional>
#include <system_error>

#include "cold/gathered_rows.h"
#include "lookup/lookup_ranks.h"

namespace saec {
namespace {

// The most ids whose pages are held at a time: enough reads to keep a disk busy, and few enough that other callers do
// not wait long.
constexpr size_t kMostIds = size_t{1} << 16;

// Collects the pages of a cache that rows of a table need.
class TablePages {
 public:
  TablePages(const Table& table, const PageCache& cache, std::vector<uint32_t>& pages)
      : table_(table),
        cache_(cache),
        row_bytes_(stored_row_bytes(table)),
        cold_codes_(cache.holds(table.codes)),
        cold_rows_(cache.holds(table.stored)),
        pages_(pages) {}

  // Skips ids out of range: the lookup rejects them.
  void append(const Request& request, size_t first, size_t last) {
    uint64_t ranks[kChunk];
    size_t count = 0;
    for (size_t i = first; i < last; ++i) {
      const uint64_t id = id_of(request, i);
      if (id < table_.rows) ranks[count++] = id;
      if (count == kChunk || i + 1 == last) {
        append_ranks(ranks, count);
        count = 0;
      }
    }
  }

  // The most pages that one row needs.
  static size_t most(const Table& table, const PageCache& cache) {
    uint64_t bytes = cache.holds(table.stored) ? stored_row_bytes(table) : 0;
    for (const Run& run : table.runs) bytes = std::max(bytes, run.row_bits / 8 + 2);
    return bytes / cache.page_bytes() + 2;
  }

 private:
  void append_ranks(uint64_t* ids, size_t count) {
    if (!table_.levels.empty()) rank_ids(table_, count, ids);
    for (size_t i = 0; i < count; ++i) append_row(table_.runs[run_of(table_, ids[i])], ids[i]);
  }

  // Lookups read eight bytes where a code starts and mask the bits that are not part of the code. So they may read from
  // a page that is not held while another thread fills it, but use none of these bits. (The thread sanitizer reports
  // this as a race.)
  void append_row(const Run& run, uint64_t rank) {
    if (cold_codes_ && run.row_bits > 0) {
      const uint64_t bit = rank * run.row_bits + run.bias;
      append_bytes(table_.codes + bit / 8, table_.codes + (bit + run.row_bits - 1) / 8);
    }
    if (cold_rows_) {
      const auto* row = static_cast<const uint8_t*>(table_.stored) +
                        (run.lead + (rank & run.own)) * row_bytes_;
      append_bytes(row, row + row_bytes_ - 1);
    }
  }

  void append_bytes(const uint8_t* first, const uint8_t* last) {
    for (uint32_t page = cache_.page_of(first); page <= cache_.page_of(last); ++page)
      pages_.push_back(page);
  }

  const Table& table_;
  const PageCache& cache_;
  const size_t row_bytes_;
  const bool cold_codes_, cold_rows_;
  std::vector<uint32_t>& pages_;
};

// Holds pages of several caches during its lifetime. It takes the caches in order of their addresses, so that two
// callers do not wait for each other forever.
class HeldPages {
 public:
  explicit HeldPages(std::map<PageCache*, std::vector<uint32_t>> pages) : pages_(std::move(pages)) {
    try {
      for (const auto& [cache, own] : pages_) {
        cache->hold(own);
        ++held_;
      }
    } catch (...) {
      release();
      throw;
    }
  }
  ~HeldPages() { release(); }
  HeldPages(const HeldPages&) = delete;
  HeldPages& operator=(const HeldPages&) = delete;

 private:
  void release() {
    for (const auto& [cache, own] : pages_)
      if (held_ > 0) {
        cache->release(own);
        --held_;
      }
  }

  std::map<PageCache*, std::vector<uint32_t>> pages_;
  size_t held_ = 0;
};

// The position of a bag's first id.
size_t id_at(const Request& request, size_t bag) {
  if (!request.offsets) return bag;
  return bag < request.bags ? static_cast<size_t>(request.offsets[bag]) : request.count;
}

// What bags need, in memory: pages are held, and rows are copied.
class Reached {
 public:
  Reached(const std::vector<Request>& requests, const std::vector<ColdPlace>& places, size_t first, size_t last)
      : requests_(requests) {
    std::map<PageCache*, std::vector<uint32_t>> pages;
    for_bags(requests, first, last, last == id_count(requests), [&](size_t number, size_t from, size_t to) {
      const Request& request = requests[number];
      const ColdPlace place = places[number].now();
      const size_t first_id = id_at(request, from), last_id = id_at(request, to);
      if (place.pages) TablePages(*request.table, *place.pages, pages[place.pages]).append(request, first_id, last_id);
      if (!place.rows) return;
      rows_.emplace_back(request, *place.rows, place.first_row, first_id, last_id);
      requests_[number] = rows_.back().request();
    });
    held_.emplace(std::move(pages));
  }

  const std::vector<Request>& requests() const { return requests_; }

 private:
  std::vector<Request> requests_;
  std::deque<GatheredRows> rows_;
  std::optional<HeldPages> held_;
};

// The number of ids whose pages take at most half of each cache, so that two callers can work at the same time, and
// whose rows a call may have.
size_t ids_at_a_time(const std::vector<Request>& requests, const std::vector<ColdPlace>& places) {
  size_t ids = kMostIds;
  for (size_t number = 0; number < requests.size(); ++number) {
    const ColdPlace place = places[number].now();
    if (place.rows) ids = std::min(ids, place.rows->most_rows());
    PageCache* cache = place.pages;
    if (!cache) continue;
    const size_t pages = TablePages::most(*requests[number].table, *cache);
    ids = std::min(ids, std::max<size_t>(cache->most() / 2 / pages, 1));
  }
  return ids;
}

// Looks up the bags that start between two id numbers. If these need too much memory, does one half after the other.
Failure pool_step(const std::vector<Request>& requests, const std::vector<ColdPlace>& places,
                  size_t first, size_t last, Element out, int threads, const LookupKernels& kernels) {
  try {
    const Reached reached(requests, places, first, last);
    return pool_between(reached.requests(), first, last, out, threads, kernels);
  } catch (const std::system_error& error) {
    if (error.code().value() == kTakenOver) return pool_step(requests, places, first, last, out, threads, kernels);
    if (error.code().value() != kTooManyPages || last - first < 2) throw;
  }
  const size_t middle = first + (last - first) / 2;
  const Failure failure = pool_step(requests, places, first, middle, out, threads, kernels);
  if (failure.fault != Fault::kNone) return failure;
  return pool_step(requests, places, middle, last, out, threads, kernels);
}

}  // namespace

Failure pool_cold(const std::vector<Request>& requests, const std::vector<ColdPlace>& places,
                  Element out, int threads, const LookupKernels& kernels) {
  Failure failure = check_offsets(requests);
  const size_t total = id_count(requests), step = ids_at_a_time(requests, places);
  for (size_t first = 0; failure.fault == Fault::kNone && (first < total || first == 0); first += step) {
    failure = pool_step(requests, places, first, std::min(total, first + step), out, threads, kernels);
  }
  return failure;
}

}  // namespace saec
