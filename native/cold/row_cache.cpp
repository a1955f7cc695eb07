#include "cold/row_cache.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>

#include "system/expect.h"

namespace saec {
namespace {

constexpr size_t kMostBytes = 16 << 10;  // of a read; or two pages, which are enough for any row
constexpr size_t kMostRows = 1 << 16;    // of a call
constexpr uint64_t kSmallShare = 64;     // a call's rows, and all buffers, take at most this part of the memory
constexpr uint64_t kPageRecord = 12;     // bytes for each page of a file: 4 of the cache, 8 of the system's page table
constexpr size_t kTogether = 64;         // rows that are searched for at a time

size_t rows_of_call(size_t row_bytes, uint64_t memory) {
  return std::clamp<uint64_t>(memory / kSmallShare / row_bytes, kTogether, kMostRows);
}

size_t system_page() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

size_t checked_row(size_t row_bytes, uint64_t memory) {
  expect(row_bytes > 0 && row_bytes <= system_page() / 8,
         "rows have 1 or more bytes, at most an eighth of a page, not ", row_bytes);
  expect(memory >= RowCache::kLeastMemory, memory, " bytes of memory are too few: the least are ",
         RowCache::kLeastMemory);
  return row_bytes;
}

}  // namespace

// The reads of rows that are missing. A read goes into a buffer; from there its rows are copied to where they are
// wanted, and kept.
class RowCache::Reads final : public ReadJob {
 public:
  // missing: in order of rows.
  Reads(RowCache& cache, const std::vector<Wanted>& missing, uint8_t* to, bool whole_pages)
      : cache_(cache), missing_(missing), to_(to), whole_pages_(whole_pages) {
    for (size_t i = 0; i < missing.size(); ++i) plan(i);
  }

  size_t count() const override { return reads_.size(); }
  DiskRead at(size_t number) const override { return reads_[number].read; }
  int check(int descriptor) const override { return cache_.files_->changed(descriptor); }

  void done(size_t number, const uint8_t* data, int error) override {
    const Read& read = reads_[number];
    if (error) {
      int none = 0;
      error_.compare_exchange_strong(none, error);
    } else {
      for (size_t i = read.first; i < read.last; ++i)
        std::memcpy(to_ + missing_[i].place * cache_.row_bytes_, data + within(read, missing_[i].row),
                    cache_.row_bytes_);
    }
    const std::lock_guard lock(cache_.mutex_);
    ++cache_.counts_.reads;
    if (!error) keep(read, data);
  }

  int error() const { return error_; }

 private:
  // Bytes [offset, offset + read.asked) of the files' addresses, with the rows missing[first..last).
  struct Read {
    DiskRead read;
    uint64_t offset;
    size_t first, last;
  };

  size_t within(const Read& read, uint32_t row) const { return cache_.offset_of(row) - read.offset; }

  // Adds a row to the last read if they touch, otherwise to a new one.
  void plan(size_t number) {
    const uint64_t offset = cache_.offset_of(missing_[number].row), end = offset + cache_.row_bytes_;
    const FileParts& files = *cache_.files_;
    const auto& part = files.part_of(static_cast<uint32_t>(offset >> files.shift()));
    const uint64_t unit = whole_pages_ ? files.page_bytes() : part.unit;
    const uint64_t from = offset & ~(unit - 1), to = (end + unit - 1) & ~(unit - 1);
    if (!reads_.empty()) {
      Read& last = reads_.back();
      const bool near = from <= last.offset + last.read.asked && to - last.offset <= cache_.buffer_bytes_;
      if (near && last.read.descriptor == part.descriptor) {
        last.last = number + 1;
        last.read.asked = std::max<uint64_t>(last.read.asked, to - last.offset);
        last.read.wanted = wanted(last.read, part);
        return;
      }
    }
    DiskRead read = {part.descriptor, files.in_file(part, from), to - from, 0, nullptr};
    read.wanted = wanted(read, part);
    reads_.push_back({read, from, number, number + 1});
  }

  static size_t wanted(const DiskRead& read, const FileParts::Part& part) {
    return std::min<uint64_t>(read.asked, part.file_bytes - read.from);
  }

  // Called with the cache's mutex.
  void keep(const Read& read, const uint8_t* data) {
    CacheCounts& counts = cache_.counts_;
    counts.bytes_read += read.read.asked;
    counts.pages_read += (read.read.asked + cache_.files_->page_bytes() - 1) >> cache_.files_->shift();
    for (size_t i = read.first; i < read.last; ++i)
      if (i == read.first || missing_[i].row != missing_[i - 1].row)
        cache_.sets_->put(missing_[i].row, data + within(read, missing_[i].row));
    if (whole_pages_) keep_others(read, data);
  }

  // Keeps all whole rows of the same table that were read.
  void keep_others(const Read& read, const uint8_t* data) {
    const Range& range = cache_.range_of(missing_[read.first].row);
    const size_t row_bytes = cache_.row_bytes_;
    const auto& part = cache_.files_->part_of(static_cast<uint32_t>(read.offset >> cache_.files_->shift()));
    const uint64_t start = std::max({read.offset, range.offset, uint64_t{part.offset}}) - range.offset;
    const uint64_t first = (start + row_bytes - 1) / row_bytes;
    const uint64_t end = std::min<uint64_t>((read.offset + read.read.wanted - range.offset) / row_bytes, range.rows);
    if (first < end)
      cache_.sets_->put_unused(static_cast<uint32_t>(range.first + first), end - first,
                              data + (range.offset + first * row_bytes - read.offset));
  }

  RowCache& cache_;
  const std::vector<Wanted>& missing_;
  uint8_t* const to_;
  const bool whole_pages_;
  std::vector<Read> reads_;
  std::atomic<int> error_{0};
};

RowCache::RowCache(const std::vector<FilePart>& parts, const std::vector<RowTable>& tables, size_t row_bytes,
                   uint64_t memory)
    : row_bytes_(checked_row(row_bytes, memory)),
      most_rows_(rows_of_call(row_bytes, memory)),
      buffer_bytes_(std::max(kMostBytes, 2 * system_page())),
      memory_(memory),
      files_(std::make_shared<const FileParts>(parts)),
      reads_(make_disk_reads(buffer_bytes_, memory / kSmallShare)),
      sets_(std::in_place, row_bytes, memory - std::min(memory, beside())) {
  expect(sets_->count() > 0, memory, " bytes of memory leave nothing for rows beside ", beside(), " for reads");
  uint64_t first = 0;
  for (const RowTable& table : tables) {
    expect(table.part < files_->count(), "part ", table.part, " of ", files_->count(), " parts does not exist");
    const uint64_t offset = (*files_)[table.part].offset;
    expect(table.rows <= (files_->size() - offset) / row_bytes, table.rows, " rows go beyond the parts");
    expect(table.rows < ~uint32_t{0} - first, "there are ", first + table.rows, " rows, not fewer than 2^32 - 1");
    ranges_.push_back({static_cast<uint32_t>(first), static_cast<uint32_t>(table.rows), offset});
    first += table.rows;
  }
}

RowCache::~RowCache() {
  if (!files_->same_process()) (void)reads_.release();  // a forked child does not have its threads
}

uint32_t RowCache::number_of(const void* table) const {
  const auto offset = static_cast<uint64_t>(static_cast<const uint8_t*>(table) - files_->data());
  for (const Range& range : ranges_)
    if (range.offset == offset) return range.first;
  refuse("no table starts at this address");
}

const RowCache::Range& RowCache::range_of(uint32_t row) const {
  const auto after = std::upper_bound(ranges_.begin(), ranges_.end(), row,
                                      [](uint32_t r, const Range& range) { return r < range.first; });
  return *(after - 1);
}

uint64_t RowCache::offset_of(uint32_t row) const {
  const Range& range = range_of(row);
  return range.offset + uint64_t{row - range.first} * row_bytes_;
}

// Sets do not fill up at the same time, so there is room until nearly all places are taken.
bool RowCache::has_room() const { return sets_->held() < sets_->places() - sets_->places() / 16; }

// A call of gather() with its mutex held at both ends. The last one that ends after pages have taken over returns the
// memory of rows.
class RowCache::Call {
 public:
  explicit Call(RowCache& cache) : cache_(cache) {
    const std::lock_guard lock(cache.mutex_);
    rows_kept_ = cache.sets_.has_value();
    cache.calls_ += rows_kept_;
  }
  ~Call() {
    const std::lock_guard lock(cache_.mutex_);
    cache_.calls_ -= rows_kept_;
    if (cache_.own_pages_ && cache_.calls_ == 0) cache_.sets_.reset();
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  bool rows_kept() const { return rows_kept_; }

 private:
  RowCache& cache_;
  bool rows_kept_;
};

void RowCache::gather(const std::vector<uint32_t>& rows, uint8_t* to) {
  if (!files_->same_process()) throw_error(kForked);
  const Call call(*this);
  if (!call.rows_kept()) throw_error(kTakenOver);
  std::vector<Wanted> missing;
  take_held(rows, to, missing);
  if (missing.empty()) return;
  std::sort(missing.begin(), missing.end(), [](const Wanted& a, const Wanted& b) { return a.row < b.row; });
  bool whole_pages;
  {
    const std::lock_guard lock(mutex_);
    decide();
    whole_pages = has_room();
  }
  Reads reads(*this, missing, to, whole_pages);
  reads_->run(reads);
  if (reads.error()) throw_error(reads.error());
}

// When an eighth of the places is taken, pages take over if every second read or more led to a use of another row.
void RowCache::decide() {
  if (decided_ || sets_->held() < sets_->places() / 8) return;
  decided_ = true;
  const uint64_t records = kPageRecord * files_->pages(), taken = beside() + records;
  if (2 * sets_->first_uses() < counts_.reads || taken > memory_ / 2) return;
  own_pages_ = std::make_unique<PageCache>(files_);
  own_pages_->limit((memory_ - taken) >> files_->shift());
  pages_ = own_pages_.get();
}

// Copies the rows that are in memory, and lists the others. Memory is read ahead for many rows at a time.
void RowCache::take_held(const std::vector<uint32_t>& rows, uint8_t* to, std::vector<Wanted>& missing) {
  size_t sets[kTogether], ways[kTogether];
  for (size_t first = 0; first < rows.size(); first += kTogether) {
    const size_t count = std::min(kTogether, rows.size() - first), missed = missing.size();
    const uint32_t* own = rows.data() + first;
    for (size_t i = 0; i < count; ++i) sets_->prefetch(sets[i] = sets_->set_of(own[i]));
    const std::lock_guard lock(mutex_);
    for (size_t i = 0; i < count; ++i) sets_->prefetch_row(sets[i], ways[i] = sets_->find(sets[i], own[i]));
    for (size_t i = 0; i < count; ++i) {
      if (ways[i] == RowSets::kNone) missing.push_back({own[i], static_cast<uint32_t>(first + i)});
      else std::memcpy(to + (first + i) * row_bytes_, sets_->use(sets[i], ways[i]), row_bytes_);
    }
    counts_.misses += missing.size() - missed;
    counts_.hits += count - (missing.size() - missed);
  }
}

CacheCounts RowCache::counts() const {
  const std::lock_guard lock(mutex_);
  CacheCounts counts = counts_;
  if (own_pages_) {
    const CacheCounts pages = own_pages_->counts();
    const uint64_t taken = beside() + kPageRecord * files_->pages();
    counts.hits += pages.hits;
    counts.misses += pages.misses;
    counts.reads += pages.reads;
    counts.pages_read += pages.pages_read;
    counts.bytes_read += pages.bytes_read;
    counts.bytes = taken + pages.bytes;
    counts.most_bytes = taken + pages.most_bytes;
  } else {
    counts.bytes = counts.most_bytes = sets_->bytes() + beside();  // places are taken from all over it
  }
  return counts;
}

}  // namespace saec
