// Lookups from PyTorch's tensors to PyTorch's tensors in as short a time as can be. For a few ids all
// that Python and PyTorch do on the way would take several times as long as the rows.
#include "bindings.h"

#include <nanobind/stl/vector.h>

#include <cstring>
#include <optional>

#include "exchange.h"

namespace {

// Where a table's parameters are, autograd's counts of writes to them, and some of their numbers, to
// see whether they still are what a table was made of. Counts do not tell of what is written to
// a parameter's data; that seldom leaves the numbers alone that are compared.
class Watch {
 public:
  // counted: whether counts matter; copied: whether numbers do.
  Watch(nb::object exchange, const std::vector<nb::object>& parameters, bool counted, bool copied)
      : exchange_(nb::cast<const Exchange*>(exchange)), kept_(std::move(exchange)), counted_(counted) {
    for (const nb::object& parameter : parameters) {
      const auto address = nb::cast<uintptr_t>(parameter.attr("data_ptr")());
      const size_t bytes = copied ? nb::cast<size_t>(parameter.attr("nbytes")) : 0;
      const auto* first = reinterpret_cast<const uint8_t*>(address);
      seen_.push_back({address, counted ? version(parameter) : 0, {first, first + bytes}});
    }
  }

  const Exchange& exchange() const { return *exchange_; }
  size_t size() const { return seen_.size(); }

  // Whether the i-th parameter is this one, unchanged.
  bool holds(size_t i, nb::handle parameter) const {
    const Seen& seen = seen_[i];
    return address(parameter) == seen.address &&
           (!counted_ || version(parameter) == seen.version) && same_numbers(seen);
  }

 private:
  struct Seen {
    uintptr_t address;
    int64_t version;
    std::vector<uint8_t> numbers;
  };

  static constexpr size_t kPieces = 4, kPiece = 64;

  static bool same_numbers(const Seen& seen) {
    const auto* now = reinterpret_cast<const uint8_t*>(seen.address);
    const size_t size = seen.numbers.size();
    const size_t step = size <= kPieces * kPiece ? kPiece : (size - kPiece) / (kPieces - 1);
    for (size_t at = 0; at < size; at += step)
      if (std::memcmp(seen.numbers.data() + at, now + at, std::min(kPiece, size - at)) != 0)
        return false;
    return true;
  }

  uintptr_t address(nb::handle parameter) const {
    if (exchange().has_api()) return exchange().address(parameter);
    return nb::cast<uintptr_t>(parameter.attr("data_ptr")());
  }

  // -1 if none is kept, as for tensors that inference mode made.
  static int64_t version(nb::handle parameter) {
    static PyObject* const name = PyUnicode_InternFromString("_version");
    PyObject* number = PyObject_GetAttr(parameter.ptr(), name);
    const int64_t version = number ? PyLong_AsLongLong(number) : -1;
    Py_XDECREF(number);
    PyErr_Clear();
    return version;
  }

  const Exchange* exchange_;
  nb::object kept_;
  bool counted_;
  std::vector<Seen> seen_;
};

nb::dlpack::dtype type_of(saec::Element element) {
  using Code = nb::dlpack::dtype_code;
  const auto code = element == saec::Element::kBfloat16 ? Code::Bfloat : Code::Float;
  const uint8_t bits = element == saec::Element::kFloat32 ? 32 : 16;
  return {static_cast<uint8_t>(code), bits, 1};
}

// A vector or an array of ids, as far as the core can read it where it is.
struct Ids {
  const uint8_t* data;
  TensorView view;
  bool wide;

  static std::optional<Ids> of(nb::handle object, const Exchange& exchange) {
    Ids ids;
    if (!exchange.view_plain(object, ids.view)) return {};
    const nb::dlpack::dtype type = ids.view.dtype;
    const bool integers = type.code == static_cast<uint8_t>(nb::dlpack::dtype_code::Int);
    if (!integers || type.bits < 32 || ids.view.ndim >= OwnTensor::kMostDims) return {};
    ids.wide = type.bits == 64;
    ids.data = static_cast<const uint8_t*>(ids.view.data) + ids.view.byte_offset;
    return ids;
  }

  size_t count() const {
    size_t count = 1;
    for (int i = 0; i < view.ndim; ++i) count *= static_cast<size_t>(view.shape[i]);
    return count;
  }

  bool contiguous() const {
    int64_t expected = 1;
    for (int i = view.ndim - 1; i >= 0; expected *= view.shape[i--])
      if (view.shape[i] != 1 && view.strides[i] != expected) return count() == 0;
    return true;
  }
};

constexpr size_t kBrief = 64;  // ids for which handing the interpreter over would take as long

// Whether all went well.
bool pool(const std::vector<saec::Request>& requests, size_t ids, saec::Element element,
          const Exchange& exchange) {
  const saec::LookupKernels* kernels = saec::choose_lookup("auto");
  if (ids < kBrief) {
    for (const saec::Request& request : requests)
      if (kernels->pool(request, 0, request.count, element).fault != saec::Fault::kNone)
        return false;
    return true;
  }
  const int most = lookup_threads(2, ids) > 1 ? exchange.threads() : 1;
  const int used = lookup_threads(most, ids);
  const WithoutGil released;
  return saec::pool(requests, element, used, *kernels).fault == saec::Fault::kNone;
}

// Rows of one table.
class Shortcut {
 public:
  // parameters: by name, as they are at any time, in the order that the watch knows them in.
  Shortcut(nb::object table, nb::object watch, nb::dict parameters, int element)
      : table_(nb::cast<const BoundTable*>(table)),
        watch_(nb::cast<const Watch*>(watch)),
        kept_{std::move(table), std::move(watch)},
        parameters_(std::move(parameters)),
        element_(static_cast<saec::Element>(element)) {
    expect(0 <= element && element <= 2, "no such element");
    expect(exchange().has_api(), "this PyTorch has no C exchange API");
  }

  const saec::Table& table() const { return table_->table; }
  const Exchange& exchange() const { return watch_->exchange(); }
  saec::Element element() const { return element_; }
  size_t dim() const { return table().dim; }
  size_t row_bytes() const { return dim() * type_of(element_).bits / 8; }

  // From now on there is nothing to be had: what the table was made of is no more.
  void expire() { expired_ = true; }

  // Whether parameters are what they were.
  bool holds() const {
    if (expired_) return false;
    size_t i = 0;
    PyObject *name, *parameter;
    for (Py_ssize_t at = 0; PyDict_Next(parameters_.ptr(), &at, &name, &parameter); ++i)
      if (i == watch_->size() || !watch_->holds(i, parameter)) return false;
    return i == watch_->size();
  }

  saec::Request request(const uint8_t* ids, bool wide, ptrdiff_t id_stride, size_t count,
                        uint8_t* out, size_t stride) const {
    return {&table(), ids,    wide, count, nullptr, count, nullptr, saec::Mode::kSum, -1, out,
            stride,   id_stride};
  }

  // Rows (..., dim) of ids (...), or None where only the long way has the answer: gradients are
  // recorded, parameters are others now, ids are not as they should be.
  nb::object rows(nb::handle given) const {
    const std::optional<Ids> ids = Ids::of(given, exchange());
    if (!ids || exchange().learns() || !holds()) return nb::none();
    const int dims = ids->view.ndim;
    const ptrdiff_t id_stride = dims == 1 ? ids->view.strides[0] : 1;
    if (dims != 1 && !ids->contiguous()) return nb::none();
    int64_t shape[OwnTensor::kMostDims];
    std::copy_n(ids->view.shape, dims, shape);
    shape[dims] = static_cast<int64_t>(dim());
    OwnTensor::Pointer out = OwnTensor::make(type_of(element_), shape, dims + 1);
    const size_t count = ids->count();
    const bool done =
        pool({request(ids->data, ids->wide, id_stride, count, out->data(), row_bytes())}, count,
             element_, exchange());
    return done ? exchange().object_of(std::move(out)) : nb::none();
  }

 private:
  const BoundTable* table_;
  const Watch* watch_;
  nb::object kept_[2];
  nb::dict parameters_;
  saec::Element element_;
  bool expired_ = false;
};

// Rows of several tables at once, side by side.
class Shortcuts {
 public:
  // All of one dim and element.
  explicit Shortcuts(std::vector<nb::object> tables) : kept_(std::move(tables)) {
    expect(!kept_.empty(), "no tables");
    for (const nb::object& table : kept_) tables_.push_back(nb::cast<const Shortcut*>(table));
    for (const Shortcut* table : tables_)
      expect(table->dim() == first().dim() && table->element() == first().element(),
             "tables differ in dim or type");
  }

  // Rows (n, tables, dim) of ids (n, tables), or None; see Shortcut::rows.
  nb::object rows(nb::handle given) const {
    const std::optional<Ids> ids = Ids::of(given, first().exchange());
    const auto fields = static_cast<int64_t>(tables_.size());
    if (!ids || ids->view.ndim != 2 || ids->view.shape[1] != fields) return nb::none();
    if (first().exchange().learns()) return nb::none();
    for (const Shortcut* table : tables_)
      if (!table->holds()) return nb::none();
    const int64_t shape[] = {ids->view.shape[0], fields, static_cast<int64_t>(first().dim())};
    OwnTensor::Pointer out = OwnTensor::make(type_of(first().element()), shape, 3);
    return fill(*ids, out->data()) ? first().exchange().object_of(std::move(out)) : nb::none();
  }

 private:
  const Shortcut& first() const { return *tables_[0]; }

  bool fill(const Ids& ids, uint8_t* out) const {
    const auto count = static_cast<size_t>(ids.view.shape[0]);
    const size_t row_bytes = first().row_bytes(), stride = row_bytes * tables_.size();
    const ptrdiff_t column_bytes = ids.view.strides[1] * (ids.wide ? 8 : 4);
    std::vector<saec::Request> requests;
    for (size_t i = 0; i < tables_.size(); ++i) {
      const uint8_t* column = ids.data + static_cast<ptrdiff_t>(i) * column_bytes;
      requests.push_back(tables_[i]->request(column, ids.wide, ids.view.strides[0], count,
                                             out + i * row_bytes, stride));
    }
    return pool(requests, count * tables_.size(), first().element(), first().exchange());
  }

  std::vector<nb::object> kept_;
  std::vector<const Shortcut*> tables_;
};

}  // namespace

void bind_shortcuts(nb::module_& module) {
  nb::class_<Exchange>(module, "Exchange")
      .def(nb::init<nb::object, nb::object, nb::object>(), nb::arg("tensor"), nb::arg("learns"),
           nb::arg("threads"))
      .def_prop_ro("has_api", &Exchange::has_api);
  nb::class_<Watch>(module, "Watch")
      .def(nb::init<nb::object, const std::vector<nb::object>&, bool, bool>(),
           nb::arg("exchange"), nb::arg("parameters"), nb::arg("counted"), nb::arg("copied"))
      .def(
          "holds",
          [](const Watch& self, const std::vector<nb::object>& parameters) {
            if (parameters.size() != self.size()) return false;
            for (size_t i = 0; i < parameters.size(); ++i)
              if (!self.holds(i, parameters[i])) return false;
            return true;
          },
          nb::arg("parameters"));
  nb::class_<Shortcut>(module, "Shortcut")
      .def(nb::init<nb::object, nb::object, nb::dict, int>(), nb::arg("table"), nb::arg("watch"),
           nb::arg("parameters"), nb::arg("element"))
      .def_prop_ro("dim", &Shortcut::dim)
      .def_prop_ro("element", [](const Shortcut& self) { return static_cast<int>(self.element()); })
      .def("expire", &Shortcut::expire)
      .def("rows", &Shortcut::rows, nb::arg("ids").none());
  nb::class_<Shortcuts>(module, "Shortcuts")
      .def(nb::init<std::vector<nb::object>>(), nb::arg("tables"))
      .def("rows", &Shortcuts::rows, nb::arg("ids").none());
}
