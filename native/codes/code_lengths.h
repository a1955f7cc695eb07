// Lengths of codewords, given that unknown keys read random bits; saec.codecs.axes.code_lengths has the objective.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

namespace saec {

class CodeLengths {
 public:
  // counts: IN symbols, positive; harm: IN symbols, nats if every unknown key were decoded to the symbol; price: nats
  // per bit; room: the largest share of the code space; most: bits of a codeword.
  CodeLengths(const double* counts, const double* harm, size_t symbols, double price, double room, int most)
      : counts_(counts), harm_(harm), symbols_(symbols), price_(price), room_(room),
        least_(symbols == 1 && room == 1.0 ? 0 : 1), most_(most) {}

  // lengths: OUT symbols.
  void find(int64_t* lengths) const {
    best(0.0, lengths);
    if (space(lengths) <= room_) return;
    // Codewords of log2(rows / rows with the symbol) bits, or one more, fit into all of the space.
    double high = 4 * price_ * std::accumulate(counts_, counts_ + symbols_, 0.0) / room_, low = high / 1024;
    std::vector<int64_t> shorter(lengths, lengths + symbols_), middle(symbols_);
    best(high, lengths);
    for (int halving = 0; halving < kHalvings; ++halving) {
      if (total(lengths) - total(shorter.data()) <= 1) break;  // no multiplier between gives other lengths
      const double multiplier = std::sqrt(low * high);
      best(multiplier, middle.data());
      if (space(middle.data()) <= room_) {
        high = multiplier;
        std::copy(middle.begin(), middle.end(), lengths);
      } else {
        low = multiplier;
        shorter = middle;
      }
    }
    fill(lengths);
  }

 private:
  static constexpr int kHalvings = 30;

  // The least length for which another bit saves no more than its price, with `multiplier` added to every harm.
  void best(double multiplier, int64_t* lengths) const {
    for (size_t j = 0; j < symbols_; ++j) {
      const double ratio = (harm_[j] + multiplier) / (2 * price_ * counts_[j]);
      int length = most_;  // ceil(log2(ratio))
      if (!(ratio >= std::ldexp(1.0, most_)) && std::frexp(ratio, &length) == 0.5) --length;
      lengths[j] = ratio > 0 ? std::clamp(length, least_, most_) : least_;
    }
  }

  double space(const int64_t* lengths) const {
    double sum = 0;
    for (size_t j = 0; j < symbols_; ++j) sum += std::ldexp(1.0, -static_cast<int>(lengths[j]));
    return sum;
  }

  int64_t total(const int64_t* lengths) const { return std::accumulate(lengths, lengths + symbols_, int64_t{0}); }

  // Shortens codewords while the code space allows it and that lowers the cost, those first that save most.
  void fill(int64_t* lengths) const {
    double left = room_ - space(lengths);
    for (;;) {
      double most = 0, taken = 0;
      size_t chosen = symbols_;
      for (size_t j = 0; j < symbols_; ++j) {
        const double size = std::ldexp(1.0, -static_cast<int>(lengths[j]));
        const double gain = price_ * counts_[j] - harm_[j] * size;
        if (size <= left && gain > most && lengths[j] > least_) most = gain, taken = size, chosen = j;
      }
      if (chosen == symbols_) return;
      left -= taken;
      --lengths[chosen];
    }
  }

  const double *counts_, *harm_;
  size_t symbols_;
  double price_, room_;
  int least_, most_;
};

}  // namespace saec
