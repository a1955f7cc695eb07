#include "cold/ring_reads.h"

#include <algorithm>
#include <system_error>

#ifdef __linux__
#include <sys/eventfd.h>
#include <unistd.h>
#endif

namespace saec {
namespace {

constexpr size_t kTurn = 16;  // reads that a thread starts for one job before it takes the next job
constexpr uint64_t kBell = ~uint64_t{0};

#ifdef __linux__
int make_bell() { return eventfd(0, EFD_CLOEXEC); }
void close_bell(int bell) { close(bell); }
void write_bell(int bell) {
  const uint64_t one = 1;
  (void)!write(bell, &one, sizeof one);
}
#else
int make_bell() { return -1; }
void close_bell(int) {}
void write_bell(int) {}
#endif

// The error number of a read, which is completed if it has brought too few bytes.
int error_of(const DiskRead& read, int result) {
  if (result == -EINTR || result == -EAGAIN || result == -EINVAL || result == -EOPNOTSUPP)
    return read_on_thread(read, read.to);  // such as a file whose kind has no reads by io_uring
  if (result < 0) return -result;
  const auto had = static_cast<size_t>(result);
  return had >= read.wanted ? 0 : read_on_thread(read, read.to, had);
}

}  // namespace

RingReads::Side::Side(size_t buffer_bytes, unsigned depth)
    : buffers(buffer_bytes, depth), started(depth), bell(make_bell()) {
  for (size_t place = depth; place > 0; --place) free.push_back(place - 1);
  fresh.reserve(depth);
  ended.reserve(depth);
  if (bell >= 0) ring = ReadRing::make(depth + 1, buffers.first(), buffers.bytes());
}

RingReads::Side::~Side() {
  if (bell >= 0) close_bell(bell);
}

std::unique_ptr<RingReads> RingReads::make(size_t buffer_bytes, unsigned depth) {
  std::unique_ptr<RingReads> reads(new RingReads(buffer_bytes));
  for (size_t i = 0; i < kThreads; ++i) {
    reads->sides_.push_back(std::make_unique<Side>(buffer_bytes, depth));
    if (!reads->sides_.back()->ring) return nullptr;
  }
  return reads;
}

RingReads::~RingReads() {
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
  }
  ring_bell(sides_.size());
  wake_.notify_all();
  for (const auto& side : sides_)
    if (side->thread.joinable()) side->thread.join();
}

void RingReads::ring_bell(size_t sides) const {
  for (size_t i = 0; i < sides; ++i) write_bell(sides_[i]->bell);
}

void RingReads::run(ReadJob& job) {
  Open open{job, job.count()};
  if (open.count == 0) return;
  if (open.count == 1) {  // waking another thread would take longer
    HeapBuffer buffer(buffer_bytes_);
    do_read(job, 0, buffer);
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    start();
    open_.push_back(&open);
  }
  ring_bell(std::min(sides_.size(), (open.count + kTurn - 1) / kTurn));
  wake_.notify_all();
  std::unique_lock lock(mutex_);
  open.done.wait(lock, [&] { return open.left == 0; });
}

// Throws std::system_error if the system allows no thread at all.
void RingReads::start() {
  if (running_) return;
  for (const auto& side : sides_) {
    try {
      side->thread = std::thread([this, own = side.get()] { loop(*own); });
      running_ = true;
    } catch (const std::system_error&) {
      if (!running_) throw;
    }
  }
}

void RingReads::loop(Side& side) {
  bool allowed = side.ring->enable();
  if (allowed) listen(side);
  for (HeapBuffer buffer(buffer_bytes_); fill(side, !allowed); end_jobs(side)) {
    if (allowed) {
      start_reads(side);
      allowed = take_results(side);
      if (!allowed) start_again(side);
    }
    if (!allowed) read_one_by_one(side, buffer);
  }
}

// Takes reads of jobs in turns. wait: for a job, which no ring announces. Returns false if this thread is to end.
bool RingReads::fill(Side& side, bool wait) {
  std::unique_lock lock(mutex_);
  if (wait) wake_.wait(lock, [this] { return stopped_ || !open_.empty(); });
  while (!side.free.empty() && !open_.empty()) {
    Open& open = *open_.front();
    open_.pop_front();
    const size_t count = std::min({kTurn, side.free.size(), open.count - open.next});
    for (size_t i = 0; i < count; ++i, ++open.next) {
      const size_t place = side.free.back();
      side.free.pop_back();
      side.started[place] = {&open, open.next, {}};
      side.fresh.push_back(place);
    }
    if (open.next < open.count) open_.push_back(&open);
  }
  return !stopped_ || side.under_way() > 0;
}

void RingReads::listen(Side& side) {
  side.ring->add(side.bell, 0, sizeof side.rings, reinterpret_cast<uint8_t*>(&side.rings), kBell);
}

DiskRead RingReads::read_of(Side& side, size_t place) {
  const Started& started = side.started[place];
  DiskRead read = started.open->job.at(started.number);
  if (!read.to) read.to = side.buffers[place];
  return read;
}

void RingReads::start_reads(Side& side) {
  for (const size_t place : side.fresh) {
    const DiskRead& read = side.started[place].read = read_of(side, place);
    side.ring->add(read.descriptor, read.from, read.asked, read.to, place);
  }
  side.fresh.clear();
}

// Returns false if the system no longer allows the ring.
bool RingReads::take_results(Side& side) {
  const bool allowed = side.ring->wait();
  int checked = -1, file_error = 0;
  for (EndedRead ended; side.ring->take(ended);) {
    if (ended.mark == kBell) {
      listen(side);
      continue;
    }
    const DiskRead& read = side.started[ended.mark].read;
    end_read(side, ended.mark, error_of(read, ended.result), checked, file_error);
  }
  return allowed;
}

// Makes all reads under way fresh. The system may complete some of them nevertheless: at a place of their own these are
// the same bytes again, and the side's buffers are not used any more.
void RingReads::start_again(Side& side) {
  std::vector<bool> is_free(side.started.size());
  for (const size_t place : side.free) is_free[place] = true;
  for (size_t place = 0; place < is_free.size(); ++place)
    if (!is_free[place]) side.fresh.push_back(place);
}

void RingReads::read_one_by_one(Side& side, HeapBuffer& buffer) {
  for (const size_t place : side.fresh) {
    const Started& started = side.started[place];
    do_read(started.open->job, started.number, buffer);
    side.ended.push_back(started.open);
    side.free.push_back(place);
  }
  side.fresh.clear();
}

// checked: the descriptor whose file was checked last, with this result.
void RingReads::end_read(Side& side, size_t place, int error, int& checked, int& file_error) {
  const Started& started = side.started[place];
  ReadJob& job = started.open->job;
  if (started.read.descriptor != checked) file_error = job.check(started.read.descriptor);
  checked = started.read.descriptor;
  job.done(started.number, started.read.to, error ? error : file_error);
  side.ended.push_back(started.open);
  side.free.push_back(place);
}

void RingReads::end_jobs(Side& side) {
  if (side.ended.empty()) return;
  const std::lock_guard lock(mutex_);
  for (Open* open : side.ended)
    if (--open->left == 0) open->done.notify_one();
  side.ended.clear();
}

}  // namespace saec
