// What storage.py compares with: reads of 4 kB in random places of a file that do nothing else.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <random>
#include <thread>
#include <vector>

#include "cold/ring_reads.h"
#include "cold/thread_reads.h"

namespace {

using Clock = std::chrono::steady_clock;
constexpr size_t kPage = 4096;

double processor_seconds() {
  struct rusage used;
  getrusage(RUSAGE_SELF, &used);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(used.ru_utime) + seconds(used.ru_stime);
}

// A batch of reads to buffers.
class RandomPages final : public saec::ReadJob {
 public:
  RandomPages(int descriptor, uint64_t pages, size_t count, uint64_t seed) : descriptor_(descriptor) {
    std::mt19937_64 draw(seed);
    for (size_t i = 0; i < count; ++i) pages_.push_back(draw() % pages);
  }

  size_t count() const override { return pages_.size(); }
  saec::DiskRead at(size_t number) const override {
    return {descriptor_, pages_[number] * kPage, kPage, kPage, nullptr};
  }
  int check(int) const override { return 0; }
  void done(size_t, const uint8_t*, int error) override {
    if (error) failed_ = true;
  }
  bool failed() const { return failed_; }

 private:
  const int descriptor_;
  std::vector<uint64_t> pages_;
  std::atomic<bool> failed_{false};
};

struct Rate {
  double reads_per_second, processor_us;
};

// work(number of the call) does some reads and returns how many; negative after an error.
template <typename Work>
Rate rate_of(double seconds, Work work) {
  const double before = processor_seconds();
  const auto begin = Clock::now();
  double reads = 0, passed = 0;
  for (uint64_t call = 0; passed < seconds; ++call) {
    const double done = work(call);
    if (done < 0) return {-1, -1};
    reads += done;
    passed = std::chrono::duration<double>(Clock::now() - begin).count();
  }
  return {reads / passed, 1e6 * (processor_seconds() - before) / reads};
}

Rate rate_of_reads(saec::DiskReads& reads, int descriptor, uint64_t pages, double seconds) {
  return rate_of(seconds, [&](uint64_t call) -> double {
    RandomPages job(descriptor, pages, 32768, call);
    reads.run(job);
    return job.failed() ? -1 : static_cast<double>(job.count());
  });
}

// Threads that wait for one page each of a mapping, which the system has nothing of.
Rate rate_of_mapping(const uint8_t* mapped, uint64_t pages, size_t threads, double seconds) {
  std::atomic<uint64_t> reads{0}, sum{0};
  std::atomic<bool> stopped{false};
  const auto read = [&](size_t thread) {
    std::mt19937_64 draw((uint64_t{1} << 40) + thread);
    for (; !stopped; ++reads) sum += mapped[draw() % pages * kPage];
  };
  std::vector<std::thread> running;
  for (size_t thread = 0; thread < threads; ++thread) running.emplace_back(read, thread);
  const Rate rate = rate_of(seconds, [&, before = uint64_t{0}](uint64_t) mutable -> double {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    const uint64_t done = reads - before;
    before += done;
    return static_cast<double>(done);
  });
  stopped = true;
  for (std::thread& thread : running) thread.join();
  return rate;
}

}  // namespace

// way: 0 threads that wait for a page each of a mapping, 1 threads that read, 2 io_uring. number: of threads, or the
// reads under way of each of two threads. found: OUT reads a second, and microseconds of processor time of a read.
// Returns false if it is impossible.
extern "C" bool read_rate(const char* path, int way, int number, double seconds, double* found) {
  const int descriptor = open(path, way == 0 ? O_RDONLY : O_RDONLY | O_DIRECT);
  if (descriptor < 0) return false;
  struct stat file;
  if (fstat(descriptor, &file) != 0) return false;
  const auto size = static_cast<size_t>(file.st_size);
  const uint64_t pages = size / kPage;
  Rate rate = {-1, -1};
  if (way == 0) {
    posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED);
    void* mapped = mmap(nullptr, size, PROT_READ, MAP_SHARED, descriptor, 0);
    if (mapped != MAP_FAILED) {
      madvise(mapped, size, MADV_RANDOM);
      rate = rate_of_mapping(static_cast<const uint8_t*>(mapped), pages, static_cast<size_t>(number), seconds);
      munmap(mapped, size);
      posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED);
    }
  } else if (way == 1) {
    saec::ThreadReads reads(kPage, static_cast<size_t>(number));
    rate = rate_of_reads(reads, descriptor, pages, seconds);
  } else if (auto reads = saec::RingReads::make(kPage, static_cast<unsigned>(number))) {
    rate = rate_of_reads(*reads, descriptor, pages, seconds);
  }
  close(descriptor);
  found[0] = rate.reads_per_second;
  found[1] = rate.processor_us;
  return found[0] > 0;
}
