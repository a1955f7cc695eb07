// Some of the buckets of a static function with windows, one after the other from one of them on.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "keys/solve_bucket.h"
#include "system/workers.h"

namespace saec {

struct BucketRange {
  uint32_t bucket_bits;
  uint64_t first;
  size_t count;
  uint32_t spread;
  uint32_t extra;  // bits for every 1024 bits of strings, beside those
};

class BucketRun {
 public:
  enum class Outcome { kSolved, kSameHash, kUnsolved, kElsewhere };

  static constexpr uint32_t kTries = 16;  // for each bucket: seeds 0, 1, ...,
  static constexpr uint32_t kMoreBits = 8;  // each with so many 1024ths more bits than the one before

  BucketRun(const FunctionKeys& keys, size_t count, const BucketRange& range)
      : keys_(keys), range_(range), cell_bits_(bits_of_cells(count, range)), members_(count), parts_(range.count) {
    starts_.resize((range.count << cell_bits_) + 1);
    for (size_t i = 0; i < count; ++i) {
      const uint64_t cell = cell_number(i);
      if (cell >= starts_.size() - 1) {
        outcome = Outcome::kElsewhere;
        return;
      }
      ++starts_[cell + 1];
    }
    for (size_t j = 0; j + 1 < starts_.size(); ++j) starts_[j + 1] += starts_[j];
    std::vector<size_t> next(starts_.begin(), starts_.end() - 1);
    for (size_t i = 0; i < count; ++i)
      members_[next[cell_number(i)]++] = {keys.hashes[i], static_cast<uint32_t>(i)};
  }

  // sizes: OUT bytes of each bucket. seeds: OUT.
  void solve(int threads, uint64_t* sizes, uint16_t* seeds) {
    if (outcome != Outcome::kSolved) return;
    for_ranges(range_.count, 1, threads, [&](size_t bucket, size_t) {
      std::unique_ptr<BucketSolver> solver = idle_solver();
      const Outcome found = solve_one(*solver, bucket, seeds[bucket]);
      sizes[bucket] = parts_[bucket].size();
      give_back(std::move(solver));
      if (found != Outcome::kSolved) note(bucket, found);
    });
  }

  const std::vector<std::vector<uint8_t>>& parts() const { return parts_; }

  Outcome outcome = Outcome::kSolved;  // of the first bucket that is not solved
  size_t failed = SIZE_MAX, same_first = 0, same_second = 0;

 private:
  using Member = std::pair<uint64_t, uint32_t>;  // a hash, and the number of its key
  static constexpr size_t kCellKeys = 8;

  // Keys are sorted into cells, of which a bucket has 2^(this), with about kCellKeys keys each, and then in a cell.
  static uint32_t bits_of_cells(size_t count, const BucketRange& range) {
    const size_t cells = count / kCellKeys / std::max<size_t>(range.count, 1);
    return std::min(static_cast<uint32_t>(std::bit_width(cells)), 64 - range.bucket_bits);
  }

  uint64_t cell_number(size_t key) const {
    return bucket_of(keys_.hashes[key], range_.bucket_bits + cell_bits_) - (range_.first << cell_bits_);
  }

  Member* cell(size_t number) { return members_.data() + starts_[number]; }

  // Solvers keep their memory from bucket to bucket.
  std::unique_ptr<BucketSolver> idle_solver() {
    const std::lock_guard lock(mutex_);
    if (idle_.empty()) return std::make_unique<BucketSolver>(keys_);
    std::unique_ptr<BucketSolver> solver = std::move(idle_.back());
    idle_.pop_back();
    return solver;
  }

  void give_back(std::unique_ptr<BucketSolver> solver) {
    const std::lock_guard lock(mutex_);
    idle_.push_back(std::move(solver));
  }

  Outcome solve_one(BucketSolver& solver, size_t bucket, uint16_t& seed) {
    const size_t first_cell = bucket << cell_bits_, last_cell = (bucket + 1) << cell_bits_;
    for (size_t i = first_cell; i < last_cell; ++i) std::sort(cell(i), cell(i + 1));
    Member *const first = cell(first_cell), *const last = cell(last_cell);
    const auto same = [](const Member& a, const Member& b) { return a.first == b.first; };
    if (std::adjacent_find(first, last, same) != last) return Outcome::kSameHash;
    std::vector<uint32_t> numbers;
    uint64_t bits = 0;
    for (auto member = first; member != last; ++member) {
      if (keys_.columns_of(member->second) == 0) continue;
      numbers.push_back(member->second);
      bits += keys_.columns_of(member->second);
    }
    if (numbers.size() >= BucketSolver::kMostKeys || bits >> 30) return Outcome::kUnsolved;
    const uint64_t fixed =
        (uint64_t{kPlaces} << range_.spread) + keys_.fingerprint_bits + keys_.value_bits;
    for (seed = 0; seed < kTries; ++seed) {
      const uint64_t all = bits + bits * (range_.extra + kMoreBits * seed) / 1024 + fixed;
      parts_[bucket].assign(all / 8 + 1, 0);
      const BucketShape shape{range_.bucket_bits, range_.spread, (all / 8 + 1) * 8, seed};
      if (solver.solve(numbers.data(), numbers.size(), shape, parts_[bucket].data()))
        return Outcome::kSolved;
    }
    return Outcome::kUnsolved;
  }

  void note(size_t bucket, Outcome found) {
    const std::lock_guard lock(mutex_);
    if (bucket >= failed) return;
    failed = bucket;
    outcome = found;
    if (found != Outcome::kSameHash) return;
    const auto same = [](const Member& a, const Member& b) { return a.first == b.first; };
    const Member* pair = std::adjacent_find(cell(bucket << cell_bits_), cell(starts_.size() - 1), same);
    same_first = pair->second;
    same_second = (pair + 1)->second;
  }

  const FunctionKeys keys_;
  const BucketRange range_;
  const uint32_t cell_bits_;
  std::vector<size_t> starts_;   // of cells
  std::vector<Member> members_;  // cell after cell
  std::vector<std::vector<uint8_t>> parts_;
  std::vector<std::unique_ptr<BucketSolver>> idle_;
  std::mutex mutex_;
};

}  // namespace saec
