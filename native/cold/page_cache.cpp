#include "cold/page_cache.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <new>
#include <system_error>

#include "system/expect.h"

namespace saec {
namespace {

// Longer runs of pages are divided into several concurrent reads.
constexpr uint32_t kMostPagesPerRead = 64;

[[noreturn]] void fail(int error) { throw std::system_error(error, std::generic_category()); }

bool same_time(const struct timespec& a, const struct timespec& b) {
  return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

struct stat status_of(int descriptor) {
  struct stat file;
  if (fstat(descriptor, &file) != 0) fail(errno);
  return file;
}

// A descriptor of this process; -1 if the system does not support it.
int own_process() {
#ifdef SYS_pidfd_open
  return static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0));
#else
  return -1;
#endif
}

// One system call for all ranges if the system has it (Linux 6.13); otherwise one for each range.
void advise_unused(int process, struct iovec* ranges, size_t count) {
#ifdef SYS_process_madvise
  long bytes = 0;
  for (size_t i = 0; i < count; ++i) bytes += static_cast<long>(ranges[i].iov_len);
  if (process >= 0 && syscall(SYS_process_madvise, process, ranges, count, MADV_DONTNEED, 0) == bytes)
    return;
#else
  (void)process;
#endif
  for (size_t i = 0; i < count; ++i) (void)madvise(ranges[i].iov_base, ranges[i].iov_len, MADV_DONTNEED);
}

// Direct reads, which bypass the system's page cache, take no memory there and less processor time. If the file system
// does not support them, the system's read-ahead is switched off.
void choose_way_to_read(int descriptor, off_t first, uint8_t* page, size_t page_bytes) {
#ifdef O_DIRECT
  const int flags = fcntl(descriptor, F_GETFL);
  if (flags >= 0 && (flags & O_DIRECT)) {
    const bool refused = pread(descriptor, page, page_bytes, first) < 0 && errno == EINVAL;
    if (!refused) return;
    if (fcntl(descriptor, F_SETFL, flags & ~O_DIRECT) != 0) fail(errno);
  }
#endif
#ifdef POSIX_FADV_RANDOM
  posix_fadvise(descriptor, 0, 0, POSIX_FADV_RANDOM);
#endif
}

}  // namespace

PageCache::PageCache(const std::vector<FilePart>& parts)
    : shift_(static_cast<unsigned>(std::countr_zero(static_cast<size_t>(sysconf(_SC_PAGESIZE))))),
      owner_(getpid()),
      process_(own_process()),
      threads_(std::make_unique<ReadThreads>()) {
  try {
    place(parts);
    for (size_t i = 0; i < parts.size(); ++i) add(parts[i], i);
    states_.resize(pages_);
  } catch (...) {
    for (const Part& part : parts_)
      if (part.descriptor >= 0) close(part.descriptor);
    if (process_ >= 0) close(process_);
    if (start_) munmap(start_, size());
    throw;
  }
}

PageCache::~PageCache() {
  // A forked child has neither the pages nor the threads.
  if (!same_process()) (void)threads_.release();
  threads_.reset();
  for (const Part& part : parts_) close(part.descriptor);
  if (process_ >= 0) close(process_);
  if (same_process()) munmap(start_, size());
}

bool PageCache::same_process() const { return getpid() == owner_; }

// Sets the position of each part and reserves addresses for all of them.
void PageCache::place(const std::vector<FilePart>& parts) {
  uint64_t pages = 0;
  for (const FilePart& part : parts) {
    const uint64_t within = part.first & (page_bytes() - 1);
    expect(part.bytes > 0 && part.bytes <= PTRDIFF_MAX - page_bytes(), "part ", parts_.size(),
           " has 1 or more bytes, at most 2^63 less a page, not ", part.bytes);
    const uint64_t own = (within + part.bytes + page_bytes() - 1) >> shift_;
    expect(own < kNoPage - pages, "parts take ", pages + own, " pages of ", page_bytes(), " bytes, not fewer than ",
           kNoPage);
    parts_.push_back({-1, static_cast<uint32_t>(pages), static_cast<uint32_t>(own),
                      part.first - within, 0, (pages << shift_) + within, {}});
    pages += own;
  }
  expect(pages > 0, "there are no parts");
  void* start = mmap(nullptr, pages << shift_, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (start == MAP_FAILED) fail(errno);
  start_ = static_cast<uint8_t*>(start);
  pages_ = pages;
  // Without huge pages: each would take the memory of hundreds of pages.
#ifdef MADV_NOHUGEPAGE
  (void)madvise(start_, size(), MADV_NOHUGEPAGE);
#endif
#ifdef MADV_DONTFORK
  (void)madvise(start_, size(), MADV_DONTFORK);
#endif
}

void PageCache::add(const FilePart& given, size_t number) {
  Part& part = parts_[number];
  part.descriptor = fcntl(given.descriptor, F_DUPFD_CLOEXEC, 0);
  if (part.descriptor < 0) fail(errno);
  const struct stat file = status_of(part.descriptor);
  part.file_bytes = static_cast<uint64_t>(file.st_size);
  part.changed = file.st_mtim;
  expect(part.file_bytes >= given.first && part.file_bytes - given.first >= given.bytes, "a file is too short: ",
         part.file_bytes, " bytes do not hold ", given.bytes, " from byte ", given.first, " on");
  uint8_t* page = start_ + (size_t{part.first_page} << shift_);
  choose_way_to_read(part.descriptor, static_cast<off_t>(part.file_first), page, page_bytes());
  drop(part.first_page, 1);
}

void PageCache::keep(uint64_t first, uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  expect(most_ == 0, "keep() comes before limit(), which was called already");
  if (bytes == 0) return;
  expect(first <= size() && bytes <= size() - first, bytes, " bytes from byte ", first, " on go beyond the ",
         size(), " bytes of all parts");
  std::vector<uint32_t> missing;
  for (uint64_t page = first >> shift_; page <= (first + bytes - 1) >> shift_; ++page)
    if (!states_[page].resident) missing.push_back(static_cast<uint32_t>(page));
  std::vector<Read> reads = plan(missing);
  read_all(reads);
  for (const Read& read : reads)
    if (read.error) fail(read.error);
  for (const uint32_t page : missing) {
    states_[page].resident = 1;
    states_[page].pins = 1;  // never released
  }
  counts_.kept += missing.size();
}

void PageCache::limit(uint64_t pages) {
  const std::lock_guard lock(mutex_);
  expect(most_ == 0, "there is a limit already, of ", most_, " pages");
  most_ = std::min<uint64_t>(pages, pages_ - counts_.kept);
  clock_.assign(most_, kNoPage);
  counts_.most = most_;
}

void PageCache::hold(const std::vector<uint32_t>& pages) {
  if (!same_process()) fail(kForked);
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
    if (pinned_ == 0) fail(kTooManyPages);
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
    if (error) fail(error);
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
  drop_all(leaving);
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
    --counts_.resident;
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
    const Part& part = part_of(page);
    end = uint64_t{part.first_page} + part.pages;
    reads.push_back({page, 1, 0});
  }
  return reads;
}

void PageCache::read_all(std::vector<Read>& reads) {
  try {
    threads_->run(reads.size(), [&](size_t i) { reads[i].error = read(reads[i]); });
  } catch (const std::bad_alloc&) {  // no read has started
    for (Read& read : reads) read.error = ENOMEM;
  }
  const Part* last = nullptr;  // reads are in order of parts, so each file is checked once
  int error = 0;
  for (Read& read : reads) {
    const Part& part = part_of(read.first);
    if (&part != last) error = changed(part);
    last = &part;
    if (!read.error) read.error = error;
  }
}

int PageCache::read(const Read& read) const {
  const Part& part = part_of(read.first);
  uint8_t* to = start_ + (size_t{read.first} << shift_);
  const uint64_t from = part.file_first + (uint64_t{read.first - part.first_page} << shift_);
  // Requests whole pages, as direct reads require, even if the file ends within the last one.
  const size_t asked = size_t{read.count} << shift_;
  const size_t wanted = std::min<uint64_t>(asked, part.file_bytes - from);
  for (size_t done = 0; done < wanted;) {
    const ssize_t got = pread(part.descriptor, to + done, asked - done, static_cast<off_t>(from + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno;
    if (got == 0) return kFileEnds;
    done += static_cast<size_t>(got);
  }
  return 0;
}

// An error number if the file has been written to since it was opened; otherwise 0.
int PageCache::changed(const Part& part) {
  struct stat now;
  if (fstat(part.descriptor, &now) != 0) return errno;
  const bool same = static_cast<uint64_t>(now.st_size) == part.file_bytes &&
                    same_time(now.st_mtim, part.changed);
  return same ? 0 : kFileChanged;
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
      drop(read.first, read.count);
      continue;
    }
    counts_.resident += read.count;
    counts_.pages_read += read.count;
    counts_.bytes_read += uint64_t{read.count} << shift_;
  }
  return error;
}

const PageCache::Part& PageCache::part_of(uint32_t page) const {
  const auto after = std::upper_bound(parts_.begin(), parts_.end(), page,
                                      [](uint32_t p, const Part& part) { return p < part.first_page; });
  return *(after - 1);
}

// Returns the memory of pages to the system; they then read as zeros.
void PageCache::drop(uint32_t first, uint32_t count) {
  (void)madvise(start_ + (size_t{first} << shift_), size_t{count} << shift_, MADV_DONTNEED);
}

// Drops many pages with one call, since each call must flush address translations on all cores, which takes
// microseconds.
void PageCache::drop_all(std::vector<uint32_t>& pages) {
  std::sort(pages.begin(), pages.end());
  std::vector<struct iovec> ranges;
  for (size_t i = 0, end; i < pages.size(); i = end) {
    for (end = i + 1; end < pages.size() && pages[end] == pages[end - 1] + 1;) ++end;
    ranges.push_back({start_ + (size_t{pages[i]} << shift_), (end - i) << shift_});
  }
  constexpr size_t kMost = 512;
  for (size_t first = 0; first < ranges.size(); first += kMost)
    advise_unused(process_, ranges.data() + first, std::min(kMost, ranges.size() - first));
}

CacheCounts PageCache::counts() const {
  const std::lock_guard lock(mutex_);
  return counts_;
}

}  // namespace saec
