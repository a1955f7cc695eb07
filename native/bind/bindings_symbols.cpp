// Symbols of fields with keys: levels of their coordinates, and lengths of codewords; see bindings.h.
#include "bind/bindings.h"
#include "codes/code_lengths.h"
#include "nearest/lattice_levels.h"

namespace {

template <typename T>
nb::ndarray<nb::numpy, T, nb::ndim<1>> array_of(std::vector<T>&& values) {
  auto* kept = new std::vector<T>(std::move(values));
  const nb::capsule owner(kept, [](void* old) noexcept { delete static_cast<std::vector<T>*>(old); });
  return {kept->data(), {kept->size()}, owner};
}

// Per axis: low, step, numbers, counts and means of its levels.
nb::list lattices(Matrix<float> values, Vector<double> shares, Vector<double> nats, double rows, double bit_nats,
                  double step_bits, size_t most, size_t rounds, OutMatrix<uint16_t> levels, int threads) {
  const size_t count = values.shape(0), axes = nats.shape(0);
  expect(count > 0, "there are no values");
  expect_equal(shares.shape(0), count, "shares and values differ in length");
  expect(axes <= values.shape(1), axes, " axes of ", values.shape(1));
  expect(levels.shape(0) == axes && levels.shape(1) == count, "levels must be of shape (", axes, ", ", count, ")");
  expect(most > 0 && most < (1u << 15), most, " points on either side, not 1 to 2^15 - 1");
  std::vector<saec::Lattice> found;
  {
    const WithoutGil released;
    constexpr size_t kWorth = size_t{1} << 14;  // values that a thread is worth
    found = saec::lattices(values.data(), count, values.shape(1), shares.data(), nats.data(), axes,
                           {rows, bit_nats, step_bits, most, rounds},
                           used_threads(threads, 1 + count * axes / kWorth), levels.data());
  }
  nb::list result;
  for (saec::Lattice& own : found)
    result.append(nb::make_tuple(own.low, own.step, array_of(std::move(own.numbers)),
                                 array_of(std::move(own.counts)), array_of(std::move(own.means))));
  return result;
}

void code_lengths(Vector<double> counts, Vector<double> harm, double price, double room, int most,
                  OutVector<int64_t> lengths) {
  expect_equal(harm.shape(0), counts.shape(0), "harm and counts differ in length");
  expect_equal(lengths.shape(0), counts.shape(0), "lengths and counts differ in length");
  expect(most > 0 && most < 64, "codewords of at most ", most, " bits, not 1 to 63");
  const WithoutGil released;
  saec::CodeLengths(counts.data(), harm.data(), counts.shape(0), price, room, most).find(lengths.data());
}

}  // namespace

void bind_symbols(nb::module_& module) {
  module.def("lattices", &lattices, nb::arg("values"), nb::arg("shares"), nb::arg("nats"), nb::arg("rows"),
             nb::arg("bit_nats"), nb::arg("step_bits"), nb::arg("most"), nb::arg("rounds"),
             nb::arg("levels").noconvert(), nb::arg("threads") = 0);
  module.def("code_lengths", &code_lengths, nb::arg("counts"), nb::arg("harm"), nb::arg("price"), nb::arg("room"),
             nb::arg("most"), nb::arg("lengths").noconvert());
}
