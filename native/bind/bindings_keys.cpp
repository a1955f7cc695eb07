// Hashes of keys, and static functions; see bindings.h.
#include <nanobind/stl/string.h>

#include <atomic>
#include <bit>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "bind/bindings.h"
#include "keys/bucket_run.h"
#include "keys/solve_blocks.h"
#include "keys/read_strings.h"
#include "keys/static_function.h"
#include "keys/xxh3.h"

namespace {

constexpr size_t kKeysPerThread = size_t{1} << 14;

int key_threads(int threads, size_t keys) { return used_threads(threads, 1 + keys / kKeysPerThread); }

template <typename Work>
void for_keys(size_t count, int threads, const Work& work) {
  const WithoutGil released;
  saec::for_shares(count, key_threads(threads, count), work);
}

void hash_integers(Vector<uint64_t> keys, OutVector<uint64_t> hashes, uint64_t seed,
                   int threads) {
  expect_equal(keys.shape(0), hashes.shape(0), "keys and hashes differ in length");
  const uint64_t* from = keys.data();
  uint64_t* to = hashes.data();
  for_keys(keys.shape(0), threads, [=](size_t first, size_t last) {
    for (size_t i = first; i < last; ++i) to[i] = saec::hash_integer(from[i], seed);
  });
}

// Returns the position of the first string that is no UTF-8; the number of strings if all are.
template <typename Offset>
size_t hash_strings(Vector<uint8_t> bytes, Vector<Offset> offsets, OutVector<uint64_t> hashes,
                    uint64_t seed, int threads) {
  const size_t count = hashes.shape(0);
  expect(offsets.shape(0) == count + 1, count, " hashes need ", count + 1, " offsets, there are ",
         offsets.shape(0));
  const Offset* border = offsets.data();
  expect(border[0] >= 0, "offsets start at ", border[0], ", below 0");
  for (size_t i = 0; i < count; ++i)
    expect(border[i] <= border[i + 1], "offsets must ascend: at position ", i, " ", border[i], ", then ",
           border[i + 1]);
  expect(static_cast<size_t>(border[count]) <= bytes.shape(0), "offsets end at ", border[count], ", beyond the ",
         bytes.shape(0), " bytes");
  const uint8_t* data = bytes.data();
  uint64_t* to = hashes.data();
  std::atomic<size_t> bad{count};
  for_keys(count, threads, [&](size_t first, size_t last) {
    for (size_t i = first; i < last; ++i) {
      const auto size = static_cast<size_t>(border[i + 1] - border[i]);
      to[i] = saec::hash_bytes(data + border[i], size, seed);
      if (saec::is_utf8(data + border[i], size)) continue;
      for (size_t known = bad; i < known && !bad.compare_exchange_weak(known, i);) {
      }
    }
  });
  return bad;
}

std::vector<saec::ColumnStep> steps_of(const Matrix<uint32_t>& steps, uint32_t columns) {
  expect(steps.shape(1) == 3, "a step has 3 numbers, not ", steps.shape(1));
  std::vector<saec::ColumnStep> result;
  for (size_t j = 0; j < steps.shape(0); ++j) {
    const uint32_t* step = steps.data() + 3 * j;
    expect(step[0] < columns, "step ", j, " is at column ", step[0], " of ", columns);
    expect(j == 0 ? step[0] == 0 : step[0] > result.back().column, "columns of steps must ascend from 0: step ",
           j, " is at column ", step[0]);
    expect(step[1] <= saec::kMostSlots && step[2] <= saec::kMostFieldBits, "step ", j, " has ", step[1],
           " slots of ", step[2], " bits; at most ", saec::kMostSlots, " of ", saec::kMostFieldBits);
    result.push_back({step[0], step[1], step[2]});
  }
  expect(columns == 0 || !result.empty(), "there are no steps for ", columns, " columns");
  return result;
}

void expect_string_bits(uint32_t fingerprint_bits, uint32_t value_bits) {
  expect(fingerprint_bits <= 64, "fingerprints have ", fingerprint_bits, " bits, at most 64");
  expect(value_bits <= 64, "values have ", value_bits, " bits, at most 64");
}

BoundFunction bound_windows(Vector<uint8_t> bits, Vector<uint8_t> directory, uint64_t buckets,
                            uint32_t fingerprint_bits, uint32_t value_bits, const Matrix<uint32_t>& steps,
                            uint32_t spread) {
  expect(spread <= saec::kMostSpread, "windows of 2^", spread, " places are too wide: at most 2^", saec::kMostSpread);
  expect(steps.shape(0) == 0, "a function with windows has no steps, not ", steps.shape(0));
  expect(std::has_single_bit(buckets) && buckets <= uint64_t{1} << saec::kMostBucketBits, buckets,
         " buckets are no power of two up to 2^", saec::kMostBucketBits);
  expect(directory.shape(0) == 8 * (buckets + 1), "the directory of ", buckets, " buckets takes ",
         8 * (buckets + 1), " bytes, not ", directory.shape(0));
  saec::StaticFunction function{bits.data(), (bits.shape(0) - saec::kFunctionPadding) * 8,
                                directory.data(), buckets, fingerprint_bits, value_bits, 0, {}};
  function.spread = spread;
  function.bucket_bits = static_cast<uint32_t>(std::countr_zero(buckets));
  return {std::move(function), std::move(bits), std::move(directory)};
}

BoundFunction bound_function(Vector<uint8_t> bits, Vector<uint8_t> directory, uint64_t blocks,
                             uint32_t fingerprint_bits, uint32_t value_bits,
                             Matrix<uint32_t> steps, uint32_t spread) {
  expect_string_bits(fingerprint_bits, value_bits);
  expect(bits.shape(0) >= saec::kFunctionPadding && bits.shape(0) < (size_t{1} << 60), "bits take ",
         bits.shape(0), " bytes, not ", saec::kFunctionPadding, " to 2^60");
  const uint32_t columns = fingerprint_bits + value_bits;
  expect(columns > 0 || blocks == 0, blocks, " blocks of strings without bits");
  if (spread) return bound_windows(bits, directory, blocks, fingerprint_bits, value_bits, steps, spread);
  expect(blocks < (uint64_t{1} << 48) && directory.shape(0) == saec::directory_bytes(blocks), blocks,
         " blocks do not fit a directory of ", directory.shape(0), " bytes");
  saec::StaticFunction function{bits.data(), (bits.shape(0) - saec::kFunctionPadding) * 8,
                                directory.data(), blocks, fingerprint_bits, value_bits, 0,
                                steps_of(steps, columns)};
  finish_steps(function);
  return {std::move(function), std::move(bits), std::move(directory)};
}

// known: OUT whether the fingerprint fits, or empty.
void look_up(const BoundFunction& bound, Vector<uint64_t> hashes, OutVector<uint64_t> values,
             OutVector<bool> known, int threads, const std::string& isa) {
  const size_t count = hashes.shape(0);
  expect_equal(values.shape(0), count, "values and hashes differ in length");
  if (known.shape(0)) expect_equal(known.shape(0), count, "known and hashes differ in length");
  const uint64_t* from = hashes.data();
  uint64_t* to = values.data();
  bool* fits = known.shape(0) ? known.data() : nullptr;
  const uint32_t fingerprint_bits = bound.function.fingerprint_bits;
  const saec::StringReaders read = saec::choose_readers(isa.c_str());
  expect(read.strings != nullptr, "this processor has no instruction set ", isa);
  for_keys(count, threads, [&](size_t first, size_t last) {
    saec::look_up(bound.function, read, from + first, last - first,
                  [&](size_t i, const saec::FunctionString& string) {
                    i += first;
                    to[i] = string.value;
                    if (fits)
                      fits[i] = string.fingerprint == saec::fingerprint_of(from[i], fingerprint_bits);
                  });
  });
}

// How many keys of each block have values of 0, 1, ... bits. counts: OUT, zeros before.
void count_lengths(Vector<uint64_t> hashes, Vector<uint8_t> lengths, uint64_t blocks,
                   OutMatrix<uint32_t> counts) {
  expect_equal(lengths.shape(0), hashes.shape(0), "lengths and hashes differ in length");
  const size_t used = counts.shape(0), width = counts.shape(1);
  for (size_t i = 0; i < hashes.shape(0); ++i) {
    const uint64_t block = saec::block_of(hashes.data()[i], blocks);
    expect(block < used && lengths.data()[i] < width, "block ", block, " or length ", +lengths.data()[i],
           " is outside the counts of shape (", used, ", ", width, ")");
    ++counts.data()[block * width + lengths.data()[i]];
  }
}

// All blocks of a function.
class BlockRun {
 public:
  BlockRun(const saec::FunctionKeys& keys, size_t count, size_t blocks,
           const std::vector<saec::ColumnStep>& steps)
      : keys_(keys), steps_(steps), starts_(blocks + 1), members_(count) {
    std::vector<uint32_t> block(count);
    for (size_t i = 0; i < count; ++i) {
      block[i] = static_cast<uint32_t>(saec::block_of(keys.hashes[i], blocks));
      ++starts_[block[i] + 1];
    }
    for (size_t j = 0; j < blocks; ++j) starts_[j + 1] += starts_[j];
    std::vector<size_t> next(starts_.begin(), starts_.end() - 1);
    for (size_t i = 0; i < count; ++i) members_[next[block[i]]++] = static_cast<uint32_t>(i);
  }

  // sizes: OUT bytes of each block.
  void solve(int threads, uint32_t* sizes) {
    const size_t block_count = starts_.size() - 1;
    parts_.resize((block_count + kPart - 1) / kPart);
    saec::for_ranges(block_count, kPart, threads, [&](size_t first, size_t last) {
      solve_part(first, last, sizes, parts_[first / kPart]);
    });
  }

  using Outcome = saec::BlockSolver::Outcome;
  Outcome outcome = Outcome::kSolved;  // of the first block that is not solved
  size_t failed = SIZE_MAX, same_first = 0, same_second = 0;

  const std::vector<std::vector<uint8_t>>& parts() const { return parts_; }

 private:
  static constexpr size_t kPart = 64;

  void solve_part(size_t first, size_t last, uint32_t* sizes, std::vector<uint8_t>& out) {
    const auto solver = std::make_unique<saec::BlockSolver>(keys_, steps_);
    for (size_t j = first; j < last; ++j) {
      const size_t before = out.size();
      const Outcome found =
          solver->solve(members_.data() + starts_[j], starts_[j + 1] - starts_[j], out);
      if (found != Outcome::kSolved) return note(j, found, *solver);
      sizes[j] = static_cast<uint32_t>(out.size() - before);
    }
  }

  void note(size_t block, Outcome found, const saec::BlockSolver& solver) {
    const std::lock_guard lock(mutex_);
    if (block >= failed) return;
    failed = block;
    outcome = found;
    same_first = solver.same_first();
    same_second = solver.same_second();
  }

  const saec::FunctionKeys& keys_;
  const std::vector<saec::ColumnStep>& steps_;
  std::vector<size_t> starts_;
  std::vector<uint32_t> members_;
  std::vector<std::vector<uint8_t>> parts_;
  std::mutex mutex_;
};

saec::FunctionKeys function_keys(const Vector<uint64_t>& hashes, const Vector<uint64_t>& values,
                                 const Vector<uint8_t>& lengths, uint32_t fingerprint_bits,
                                 uint32_t value_bits) {
  const size_t count = hashes.shape(0);
  expect_string_bits(fingerprint_bits, value_bits);
  expect(count < (size_t{1} << 32), count, " keys are too many for one call: fewer than 2^32");
  if (value_bits) expect_equal(values.shape(0), count, "values and hashes differ in length");
  if (lengths.shape(0)) expect_equal(lengths.shape(0), count, "lengths and hashes differ in length");
  for (size_t i = 0; i < lengths.shape(0); ++i)
    expect(lengths.data()[i] <= value_bits, "value ", i, " has ", +lengths.data()[i], " bits, at most ",
           value_bits);
  return {hashes.data(), value_bits ? values.data() : nullptr,
          lengths.shape(0) ? lengths.data() : nullptr, fingerprint_bits, value_bits};
}

nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>> joined(const std::vector<std::vector<uint8_t>>& parts) {
  size_t size = 0;
  for (const auto& part : parts) size += part.size();
  auto* all = new uint8_t[size ? size : 1];
  nb::capsule owner(all, [](void* data) noexcept { delete[] static_cast<uint8_t*>(data); });
  uint8_t* end = all;
  for (const auto& part : parts) end = std::copy(part.begin(), part.end(), end);
  return {all, {size}, owner};
}

// Returns 0, 1 (two keys have one hash) or 2 (a block has too many keys), the two keys or the block, and
// the blocks' bytes.
nb::tuple solve_blocks(Vector<uint64_t> hashes, Vector<uint64_t> values, Vector<uint8_t> lengths,
                       uint32_t fingerprint_bits, uint32_t value_bits, uint64_t blocks,
                       Matrix<uint32_t> steps, OutVector<uint32_t> sizes, int threads) {
  const size_t count = hashes.shape(0);
  const saec::FunctionKeys keys = function_keys(hashes, values, lengths, fingerprint_bits, value_bits);
  const auto layout = steps_of(steps, fingerprint_bits + value_bits);
  expect(!layout.empty(), "strings without bits need no function");
  expect(blocks > 0 && sizes.shape(0) == blocks, "there are ", sizes.shape(0), " sizes for ", blocks, " blocks");
  std::unique_ptr<BlockRun> run;
  {
    const WithoutGil released;
    run = std::make_unique<BlockRun>(keys, count, blocks, layout);
    run->solve(key_threads(threads, count), sizes.data());
  }
  if (run->outcome == BlockRun::Outcome::kSameHash)
    return nb::make_tuple(1, run->same_first, run->same_second, nb::none());
  if (run->outcome == BlockRun::Outcome::kTooMany)
    return nb::make_tuple(2, run->failed, 0, nb::none());
  return nb::make_tuple(0, 0, 0, joined(run->parts()));
}

// Solves buckets [first_bucket, first_bucket + sizes.shape(0)) of a function with windows. Returns as
// solve_blocks(). sizes, seeds: OUT of each bucket.
nb::tuple solve_buckets(Vector<uint64_t> hashes, Vector<uint64_t> values, Vector<uint8_t> lengths,
                        uint32_t fingerprint_bits, uint32_t value_bits, uint32_t bucket_bits,
                        uint64_t first_bucket, uint32_t spread, uint32_t extra, OutVector<uint64_t> sizes,
                        OutVector<uint16_t> seeds, int threads) {
  const size_t count = hashes.shape(0), buckets = sizes.shape(0);
  const saec::FunctionKeys keys = function_keys(hashes, values, lengths, fingerprint_bits, value_bits);
  expect(bucket_bits <= saec::kMostBucketBits, "2^", bucket_bits, " buckets, at most 2^", saec::kMostBucketBits);
  expect(0 < spread && spread <= saec::kMostSpread, "windows of 2^", spread, " places, not of 2^1 to 2^",
         saec::kMostSpread);
  expect_equal(seeds.shape(0), buckets, "seeds and sizes differ in length");
  saec::BucketRun run(keys, count, {bucket_bits, first_bucket, buckets, spread, extra});
  {
    const WithoutGil released;
    run.solve(used_threads(threads, buckets), sizes.data(), seeds.data());
  }
  expect(run.outcome != saec::BucketRun::Outcome::kElsewhere, "a key is in none of the ", buckets,
         " buckets from ", first_bucket, " on");
  if (run.outcome == saec::BucketRun::Outcome::kSameHash)
    return nb::make_tuple(1, run.same_first, run.same_second, nb::none());
  if (run.outcome == saec::BucketRun::Outcome::kUnsolved)
    return nb::make_tuple(2, first_bucket + run.failed, 0, nb::none());
  return nb::make_tuple(0, 0, 0, joined(run.parts()));
}

}  // namespace

void bind_keys(nb::module_& module) {
  nb::class_<BoundFunction>(module, "FunctionTable")
      .def("look_up", &look_up, nb::arg("hashes"), nb::arg("values").noconvert(),
           nb::arg("known").noconvert(), nb::arg("threads") = 0, nb::arg("isa") = "auto");
  module.def("function_table", &bound_function, nb::arg("bits").noconvert(),
             nb::arg("directory").noconvert(), nb::arg("blocks"), nb::arg("fingerprint_bits"),
             nb::arg("value_bits"), nb::arg("steps"), nb::arg("spread") = 0);
  module.def("count_lengths", &count_lengths, nb::arg("hashes"), nb::arg("lengths"),
             nb::arg("blocks"), nb::arg("counts").noconvert());
  module.def("solve_blocks", &solve_blocks, nb::arg("hashes"), nb::arg("values"),
             nb::arg("lengths"), nb::arg("fingerprint_bits"), nb::arg("value_bits"),
             nb::arg("blocks"), nb::arg("steps"),
             nb::arg("sizes").noconvert(), nb::arg("threads") = 0);
  module.def("solve_buckets", &solve_buckets, nb::arg("hashes"), nb::arg("values"),
             nb::arg("lengths"), nb::arg("fingerprint_bits"), nb::arg("value_bits"),
             nb::arg("bucket_bits"), nb::arg("first_bucket"), nb::arg("spread"), nb::arg("extra"),
             nb::arg("sizes").noconvert(), nb::arg("seeds").noconvert(), nb::arg("threads") = 0);
  module.def("hash_integers", &hash_integers, nb::arg("keys"), nb::arg("hashes").noconvert(),
             nb::arg("seed"), nb::arg("threads") = 0);
  module.def("hash_strings", &hash_strings<int32_t>, nb::arg("data"),
             nb::arg("offsets").noconvert(), nb::arg("hashes").noconvert(), nb::arg("seed"),
             nb::arg("threads") = 0);
  module.def("hash_strings", &hash_strings<int64_t>, nb::arg("data"),
             nb::arg("offsets").noconvert(), nb::arg("hashes").noconvert(), nb::arg("seed"),
             nb::arg("threads") = 0);
}
