#include "cold/page_cache.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "system/expect.h"

namespace saec {
namespace {

// Longer runs of pages are divided into several concurrent reads.
constexpr uint32_t kMostPagesPerRead = 64;

}  // namespace

// The reads of pages to their addresses.
class PageCache::Reads final : public ReadJob {
 public:
  Reads(const FileParts& files, std::vector<Read>& reads) : files_(files), reads_(reads) {}

  size_t count() const override { return reads_.size(); }

  DiskRead at(size_t number) const override {
    const Read& read = reads_[number];
    const FileParts::Part& part = files_.part_of(read.first);
    const uint64_t offset = uint64_t{read.first} << files_.shift(), from = files_.in_file(part, offset);
    // Requests whole pages, as direct reads require, even if the file ends within the last one.
    const size_t asked = size_t{read.count} << files_.shift();
    return {part.descriptor, from, asked, std::min<uint64_t>(asked, part.file_bytes - from), files_.data() + offset};
  }

  int check(int descriptor) const override { return files_.changed(descriptor); }
  void done(size_t number, const uint8_t*, int error) override { reads_[number].error = error; }

 private:
  const FileParts& files_;
  std::vector<Read>& reads_;
};

PageCache::PageCache(const std::vector<FilePart>& parts) : PageCache(std::make_shared<const FileParts>(parts)) {}

PageCache::PageCache(std::shared_ptr<const FileParts> files)
    : held_files_(std::move(files)), files_(*held_files_), reads_(make_disk_reads(0, 0)), states_(files_.pages()) {}

PageCache::~PageCache() {
  if (!files_.same_process()) (void)reads_.release();  // a forked child does not have its threads
}

void PageCache::keep(uint64_t first, uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  expect(most_ == 0, "keep() comes before limit(), which was called already");
  if (bytes == 0) return;
  const size_t all = files_.size();
  expect(first <= all && bytes <= all - first, bytes, " bytes from byte ", first, " on go beyond the ", all,
         " bytes of all parts");
  std::vector<uint32_t> missing;
  for (uint64_t page = first >> files_.shift(); page <= (first + bytes - 1) >> files_.shift(); ++page)
    if (!states_[page].resident) missing.push_back(static_cast<uint32_t>(page));
  std::vector<Read> reads = plan(missing);
  read_all(reads);
  for (const Read& read : reads)
    if (read.error) throw_error(read.error);
  for (const uint32_t page : missing) {
    states_[page].resident = 1;
    states_[page].pins = 1;  // never released
  }
  kept_ += missing.size();
}

void PageCache::limit(uint64_t pages) {
  const std::lock_guard lock(mutex_);
  expect(most_ == 0, "there is a limit already, of ", most_, " pages");
  most_ = std::min<uint64_t>(pages, files_.pages() - kept_);
  clock_.assign(most_, kNoPage);
}

void PageCache::hold(const std::vector<uint32_t>& pages) {
  if (!files_.same_process()) throw_error(kForked);
  std::unique_lock lock(mutex_);
  std::vector<uint32_t> absent;
  pin(pages, lock, absent);
  try {
    fetch(absent, lock);
  } catch (...) {
    if (!lock.owns_lock()) lock.lock();
    unpin(pages);
    changed_.notify_all();
    throw;
  }
}

void PageCache::release(const std::vector<uint32_t>& pages) {
  const std::lock_guard lock(mutex_);
  unpin(pages);
  changed_.notify_all();
}

// Pins all pages or none, so that no two callers wait for each other's pages. absent: OUT pages that are not in memory.
void PageCache::pin(const std::vector<uint32_t>& pages, std::unique_lock<std::mutex>& lock,
                    std::vector<uint32_t>& absent) {
  absent.reserve(pages.size());
  for (;;) {
    for (const uint32_t page : pages) pinned_ += states_[page].pins++ == 0;
    if (pinned_ <= most_) break;
    unpin(pages);
    if (pinned_ == 0) throw_error(kTooManyPages);
    changed_.wait(lock);
  }
  for (const uint32_t page : pages) {
    Page& state = states_[page];
    if (!state.resident) absent.push_back(page);
    else if (state.uses < kMostUses) ++state.uses;
  }
  counts_.hits += pages.size() - absent.size();
  counts_.misses += absent.size();
}

void PageCache::unpin(const std::vector<uint32_t>& pages) {
  for (const uint32_t page : pages) pinned_ -= --states_[page].pins == 0;
}

// Reads pages that are pinned but absent, except those that other callers are reading; it waits for these. A page that
// another caller could not read is read again, so that each caller gets its own error.
void PageCache::fetch(std::vector<uint32_t>& absent, std::unique_lock<std::mutex>& lock) {
  std::sort(absent.begin(), absent.end());
  absent.erase(std::unique(absent.begin(), absent.end()), absent.end());
  for (;;) {
    bool others = false;
    const std::vector<uint32_t> missing = missing_of(absent, others);
    if (missing.empty() && !others) return;
    if (missing.empty()) {
      changed_.wait(lock);
      continue;
    }
    std::vector<Read> reads = plan(missing);
    const std::vector<size_t> slots = make_room(missing);
    lock.unlock();
    read_all(reads);
    lock.lock();
    const int error = end_reading(reads, slots);
    changed_.notify_all();
    if (error) throw_error(error);
  }
}

// The absent pages that no caller is reading yet. others: OUT whether another caller is reading some.
std::vector<uint32_t> PageCache::missing_of(const std::vector<uint32_t>& absent, bool& others) const {
  std::vector<uint32_t> missing;
  for (const uint32_t page : absent) {
    if (states_[page].reading) others = true;
    else if (!states_[page].resident) missing.push_back(page);
  }
  return missing;
}

// Takes a slot of the clock for each page and marks the pages as being read.
std::vector<size_t> PageCache::make_room(const std::vector<uint32_t>& missing) {
  std::vector<size_t> slots;
  std::vector<uint32_t> leaving;
  slots.reserve(missing.size());
  leaving.reserve(missing.size());
  for (const uint32_t page : missing) {
    slots.push_back(free_slot(leaving));
    hand_ = (hand_ + 1) % clock_.size();
    clock_[slots.back()] = page;
    states_[page].reading = 1;
  }
  files_.drop_all(leaving);
  return slots;
}

// Finds or frees a slot. There always is one: at most most_ pages are pinned, including those without a slot.
size_t PageCache::free_slot(std::vector<uint32_t>& leaving) {
  for (;; hand_ = (hand_ + 1) % clock_.size()) {
    const uint32_t page = clock_[hand_];
    if (page == kNoPage) return hand_;
    Page& state = states_[page];
    if (state.pins > 0) continue;
    if (state.uses > 0) {
      --state.uses;
      continue;
    }
    state.resident = 0;
    --resident_;
    leaving.push_back(page);
    return hand_;
  }
}

// Joins consecutive pages of a part into one read.
std::vector<PageCache::Read> PageCache::plan(const std::vector<uint32_t>& missing) const {
  std::vector<Read> reads;
  uint64_t end = 0;  // first page after the part of the last read
  for (const uint32_t page : missing) {
    Read* last = reads.empty() ? nullptr : &reads.back();
    if (last && page == last->first + last->count && page < end && last->count < kMostPagesPerRead) {
      ++last->count;
      continue;
    }
    const FileParts::Part& part = files_.part_of(page);
    end = part.end_page();
    reads.push_back({page, 1, 0});
  }
  return reads;
}

void PageCache::read_all(std::vector<Read>& reads) {
  Reads job(files_, reads);
  try {
    reads_->run(job);
  } catch (const std::exception&) {  // no memory or no thread: no read has started
    for (Read& read : reads) read.error = ENOMEM;
  }
}

// Marks pages that were read as resident and drops those whose read failed. Returns the first error, or 0.
int PageCache::end_reading(const std::vector<Read>& reads, const std::vector<size_t>& slots) {
  int error = 0;
  size_t slot = 0;
  for (const Read& read : reads) {
    if (!error) error = read.error;
    for (uint32_t page = read.first; page < read.first + read.count; ++page, ++slot) {
      states_[page].reading = 0;
      states_[page].uses = 0;
      states_[page].resident = read.error == 0;
      if (read.error) clock_[slots[slot]] = kNoPage;
    }
    ++counts_.reads;
    if (read.error) {
      files_.drop(read.first, read.count);
      continue;
    }
    resident_ += read.count;
    counts_.pages_read += read.count;
    counts_.bytes_read += uint64_t{read.count} << files_.shift();
  }
  return error;
}

CacheCounts PageCache::counts() const {
  const std::lock_guard lock(mutex_);
  CacheCounts counts = counts_;
  counts.bytes = (kept_ + resident_) << files_.shift();
  counts.most_bytes = (kept_ + most_) << files_.shift();
  return counts;
}

}  // namespace saec
