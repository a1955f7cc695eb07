#include "cold/file_parts.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <system_error>

#include "system/expect.h"

namespace saec {
namespace {

constexpr uint32_t kNoPage = ~uint32_t{0};
constexpr size_t kSector = 512;  // of disks; most of them can be read from each

bool same_time(const struct timespec& a, const struct timespec& b) {
  return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

struct stat status_of(int descriptor) {
  struct stat file;
  if (fstat(descriptor, &file) != 0) throw_error(errno);
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
    if (fcntl(descriptor, F_SETFL, flags & ~O_DIRECT) != 0) throw_error(errno);
  }
#endif
#ifdef POSIX_FADV_RANDOM
  posix_fadvise(descriptor, 0, 0, POSIX_FADV_RANDOM);
#endif
}

// Whether single sectors of a file can be read, or only pages. One that is too short to have a second sector has no use
// for it.
size_t unit_of(int descriptor, off_t first, uint8_t* page, size_t page_bytes) {
  const ssize_t got = pread(descriptor, page, kSector, first + static_cast<off_t>(kSector));
  return got < 0 && errno == EINVAL ? page_bytes : kSector;
}

}  // namespace

void throw_error(int error) { throw std::system_error(error, std::generic_category()); }

FileParts::FileParts(const std::vector<FilePart>& parts)
    : shift_(static_cast<unsigned>(std::countr_zero(static_cast<size_t>(sysconf(_SC_PAGESIZE))))),
      owner_(getpid()),
      process_(own_process()) {
  try {
    place(parts);
    for (size_t i = 0; i < parts.size(); ++i) add(parts[i], i);
  } catch (...) {
    close_all();
    throw;
  }
}

FileParts::~FileParts() { close_all(); }

void FileParts::close_all() {
  for (const Part& part : parts_)
    if (part.descriptor >= 0) close(part.descriptor);
  if (process_ >= 0) close(process_);
  if (start_ && same_process()) munmap(start_, size());  // a forked child does not have the addresses
}

bool FileParts::same_process() const { return getpid() == owner_; }

// Sets the position of each part and reserves addresses for all of them.
void FileParts::place(const std::vector<FilePart>& parts) {
  uint64_t pages = 0;
  for (const FilePart& part : parts) {
    const uint64_t within = part.first & (page_bytes() - 1);
    expect(part.bytes > 0 && part.bytes <= PTRDIFF_MAX - page_bytes(), "part ", parts_.size(),
           " has 1 or more bytes, at most 2^63 less a page, not ", part.bytes);
    const uint64_t own = (within + part.bytes + page_bytes() - 1) >> shift_;
    expect(own < kNoPage - pages, "parts take ", pages + own, " pages of ", page_bytes(), " bytes, not fewer than ",
           kNoPage);
    parts_.push_back({-1, static_cast<uint32_t>(pages), static_cast<uint32_t>(own),
                      part.first - within, 0, (pages << shift_) + within, {}, 0});
    pages += own;
  }
  expect(pages > 0, "there are no parts");
  void* start = mmap(nullptr, pages << shift_, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (start == MAP_FAILED) throw_error(errno);
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

void FileParts::add(const FilePart& given, size_t number) {
  Part& part = parts_[number];
  part.descriptor = fcntl(given.descriptor, F_DUPFD_CLOEXEC, 0);
  if (part.descriptor < 0) throw_error(errno);
  const struct stat file = status_of(part.descriptor);
  part.file_bytes = static_cast<uint64_t>(file.st_size);
  part.changed = file.st_mtim;
  expect(part.file_bytes >= given.first && part.file_bytes - given.first >= given.bytes, "a file is too short: ",
         part.file_bytes, " bytes do not hold ", given.bytes, " from byte ", given.first, " on");
  uint8_t* page = start_ + (size_t{part.first_page} << shift_);
  choose_way_to_read(part.descriptor, static_cast<off_t>(part.file_first), page, page_bytes());
  part.unit = unit_of(part.descriptor, static_cast<off_t>(part.file_first), page, page_bytes());
  drop(part.first_page, 1);
}

const FileParts::Part& FileParts::part_of(uint32_t page) const {
  const auto after = std::upper_bound(parts_.begin(), parts_.end(), page,
                                      [](uint32_t p, const Part& part) { return p < part.first_page; });
  return *(after - 1);
}

int FileParts::changed(int descriptor) const {
  const auto same_file = [descriptor](const Part& part) { return part.descriptor == descriptor; };
  const Part& part = *std::find_if(parts_.begin(), parts_.end(), same_file);
  struct stat now;
  if (fstat(descriptor, &now) != 0) return errno;
  const bool same = static_cast<uint64_t>(now.st_size) == part.file_bytes &&
                    same_time(now.st_mtim, part.changed);
  return same ? 0 : kFileChanged;
}

void FileParts::drop(uint32_t first, uint32_t count) const {
  (void)madvise(start_ + (size_t{first} << shift_), size_t{count} << shift_, MADV_DONTNEED);
}

// Drops many pages with one call, since each call must flush address translations on all cores, which takes
// microseconds.
void FileParts::drop_all(std::vector<uint32_t>& pages) const {
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

}  // namespace saec
