// Memory for rows of numbers, whose content is not set; compiled once for each instruction set.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

namespace {

class RowNumbers {
 public:
  explicit RowNumbers(size_t numbers)
      : numbers_(static_cast<float*>(::operator new(numbers * sizeof(float) + kLineBytes, kAligned))) {}

  float* row(size_t number, size_t stride) { return numbers_.get() + number * stride; }

 private:
  static constexpr size_t kLineBytes = 64;
  static constexpr std::align_val_t kAligned{kLineBytes};  // rows of 16 numbers are lines of the cache
  struct Remover {
    void operator()(float* made) const { ::operator delete(made, kAligned); }
  };

  std::unique_ptr<float, Remover> numbers_;
};

}  // namespace
