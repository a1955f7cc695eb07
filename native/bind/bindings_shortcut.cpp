// Fast lookups from PyTorch tensors to PyTorch tensors. For a few ids, the usual path through Python and PyTorch takes
// several times as long as the lookup itself.
#include "bind/bindings.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bind/exchange.h"
#include "lookup/lookup_kept.h"

namespace {

// How a table uses one of the tensors from which it was made. The bool, in_place: every lookup reads the tensor's
// present elements. Ranges: bytes [first, last) that the table has copied; no value: all bytes. A tensor that is not
// read in place and has no copied bytes is not checked again.
using Ranges = std::vector<std::pair<size_t, size_t>>;
using Use = std::tuple<bool, std::optional<Ranges>>;

// Checks whether tensors are unchanged since a table was made from them. Autograd's version counters are not enough:
// they miss writes through a parameter's `data` or through NumPy. So every copied byte is compared. Elements that are
// read in place may change, but not their address and shape.
class Watch {
 public:
  Watch(nb::object exchange, const std::vector<nb::object>& tensors, const std::vector<Use>& uses)
      : exchange_(nb::cast<const Exchange*>(exchange)), kept_(std::move(exchange)) {
    expect_equal(tensors.size(), uses.size(), "tensors and uses differ in length");
    for (size_t i = 0; i < tensors.size(); ++i) {
      Seen seen;
      expect(exchange_->form(tensors[i], seen.form), "tensor ", i, " is not a tensor in memory");
      auto [in_place, ranges] = uses[i];
      // A table copies tensors that are not contiguous.
      const size_t bytes = seen.form.span();
      if (!ranges || (in_place && !seen.form.contiguous())) ranges = {{0, bytes}};
      seen.in_place = in_place;
      seen.used = in_place || !ranges->empty();
      contiguous_ &= !seen.used || seen.form.contiguous();
      for (const auto& [first, last] : *ranges) {
        expect(first <= last && last <= bytes, "bytes ", first, " to ", last, " go beyond tensor ", i, " of ",
               bytes, " bytes");
        const uint8_t* data = seen.form.data();
        seen.firsts.push_back(first);
        seen.copies.emplace_back(data + first, data + last);
        seen.copied_bytes += last - first;
      }
      seen_.push_back(std::move(seen));
    }
  }

  const Exchange& exchange() const { return *exchange_; }
  size_t size() const { return seen_.size(); }

  size_t copied_bytes() const {
    size_t bytes = 0;
    for (const Seen& seen : seen_) bytes += seen.copied_bytes;
    return bytes;
  }
  size_t copied_bytes(size_t i) const { return seen_[i].copied_bytes; }
  const std::vector<std::vector<uint8_t>>& copies(size_t i) const { return seen_[i].copies; }

  // Whether all tensors that the table uses are contiguous.
  bool contiguous() const { return contiguous_; }

  // Whether the table uses the i-th tensor at all.
  bool uses(size_t i) const { return seen_[i].used; }

  // Whether a tensor has the shape of the i-th one and, if this is read in place, its address. now: OUT its form.
  bool fits(size_t i, nb::handle tensor, Form& now) const {
    const Seen& seen = seen_[i];
    return exchange().form(tensor, now) && now.same_shape(seen.form) &&
           (!seen.in_place || now.address == seen.form.address);
  }

  // Whether the copied bytes of the i-th tensor are unchanged; `now` fits it.
  bool same_numbers(size_t i, const Form& now) const {
    const Seen& seen = seen_[i];
    for (size_t j = 0; j < seen.copies.size(); ++j)
      if (std::memcmp(now.data() + seen.firsts[j], seen.copies[j].data(), seen.copies[j].size()) != 0)
        return false;
    return true;
  }

  // Whether `tensor` can stand for the i-th one: it fits, and copied bytes are equal.
  bool holds(size_t i, nb::handle tensor) const {
    Form now;
    return !uses(i) || (fits(i, tensor, now) && same_numbers(i, now));
  }

 private:
  struct Seen {
    Form form;
    bool in_place, used;
    std::vector<size_t> firsts;  // of the bytes that were copied
    std::vector<std::vector<uint8_t>> copies;
    size_t copied_bytes = 0;
  };

  const Exchange* exchange_;
  nb::object kept_;
  bool contiguous_ = true;
  std::vector<Seen> seen_;
};

// Checks that calling a module still means just a lookup: that given dictionaries (of hooks) are empty, and that given
// entries of other dictionaries are the same objects as before. None as the object means None or no entry.
class Guards {
 public:
  using Entry = std::tuple<nb::dict, nb::object, nb::object>;

  Guards(std::vector<nb::dict> empty, std::vector<Entry> entries)
      : empty_(std::move(empty)), entries_(std::move(entries)) {}

  bool hold() const {
    for (const nb::dict& dict : empty_)
      if (PyDict_Size(dict.ptr()) != 0) return false;
    for (const auto& [dict, name, expected] : entries_) {
      PyObject* found = PyDict_GetItemWithError(dict.ptr(), name.ptr());
      if ((found ? found : Py_None) != expected.ptr()) return false;
    }
    return true;
  }

 private:
  std::vector<nb::dict> empty_;
  std::vector<Entry> entries_;
};

nb::dlpack::dtype type_of(saec::Element element) {
  using Code = nb::dlpack::dtype_code;
  const auto code = element == saec::Element::kBfloat16 ? Code::Bfloat : Code::Float;
  const uint8_t bits = element == saec::Element::kFloat32 ? 32 : 16;
  return {static_cast<uint8_t>(code), bits, 1};
}

// A tensor of ids that the core can read in place.
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

constexpr size_t kBrief = 64;  // ids: with fewer, releasing the GIL would take as long as the lookup

// Returns whether the lookup succeeded.
bool pool(const std::vector<saec::Request>& requests, size_t ids, saec::Element element,
          const Exchange& exchange) {
  const saec::LookupKernels* kernels = saec::choose_lookup("auto");
  if (!kernels) return false;
  if (ids < kBrief) {
    for (const saec::Request& request : requests)
      if (kernels->pool(request, 0, request.count, element).fault != saec::Fault::kNone)
        return false;
    return true;
  }
  const saec::Team& team = saec::pytorch_team();
  const int most = lookup_threads(2, ids, team) > 1 ? exchange.threads() : 1;
  const int used = lookup_threads(most, ids, team);
  const WithoutGil released;
  return saec::pool(requests, element, used, *kernels, team).fault == saec::Fault::kNone;
}

// The positions of the named tensors of a table in tiers; kNone if there is no such tensor, as in other tables.
class Roles {
 public:
  static constexpr size_t kNone = ~size_t{0};
  static constexpr size_t kStarts = 5, kCodes = 6;

  explicit Roles(const std::vector<std::string>& names) {
    static const char* const kNames[kCount] = {"values", "extents", "axes", "mean",
                                               "pads", "starts", "codes"};
    for (size_t role = 0; role < kCount; ++role) {
      const auto found = std::find(names.begin(), names.end(), kNames[role]);
      at_[role] = found == names.end() ? kNone : static_cast<size_t>(found - names.begin());
    }
  }

  size_t at(size_t role) const { return at_[role]; }

  saec::LiveNumbers of(const Form* forms) const {
    const void* found[kCount];
    for (size_t role = 0; role < kCount; ++role)
      found[role] = at_[role] == kNone ? nullptr : forms[at_[role]].data();
    const auto floats = [&](size_t role) { return static_cast<const float*>(found[role]); };
    return {floats(0), floats(1), floats(2), floats(3), floats(4),
            static_cast<const int64_t*>(found[kStarts])};
  }

 private:
  static constexpr size_t kCount = 7;
  size_t at_[kCount];
};

// Checking the codes of one row, or its position among starts, takes as long as comparing so many consecutive bytes.
constexpr size_t kBytesPerCodes = 384, kBytesPerStart = 1024;

// Decoding one row takes as long as comparing so many copied bytes.
constexpr size_t kBytesPerRow = 8192;

// Looks up rows of one table. A few rows are decoded from the present tensors. For more rows, the rows decoded before
// are used, if the tensors are unchanged.
class Shortcut {
 public:
  // A dictionary and the name of a tensor in it, which each lookup reads anew.
  using Place = std::pair<nb::dict, nb::str>;
  static constexpr size_t kMostPlaces = 9;
  using Forms = std::array<Form, kMostPlaces>;

  // places: of the tensors in `watch`, in its order. names: their roles.
  Shortcut(nb::object table, nb::object watch, std::vector<Place> places,
           const std::vector<std::string>& names, int element)
      : table_(nb::cast<const BoundTable*>(table)),
        watch_(nb::cast<const Watch*>(watch)),
        kept_{std::move(table), std::move(watch)},
        places_(std::move(places)),
        roles_(names),
        element_(static_cast<saec::Element>(element)) {
    expect_equal(places_.size(), watch_->size(), "places and tensors differ in length");
    expect_equal(names.size(), watch_->size(), "names and tensors differ in length");
    expect(places_.size() <= kMostPlaces, "a table has at most ", kMostPlaces, " tensors, not ", places_.size());
    expect(0 <= element && element <= 2, "the element type is a number from 0 to 2, not ", element);
    expect(exchange().has_api(), "this PyTorch has no C exchange API");
    if (this->table().tiers.empty() || !watch_->contiguous()) return;
    if (this->table().levels.empty()) {
      most_codes_ = bytes_of(Roles::kCodes) / kBytesPerCodes;
      most_starts_ = bytes_of(Roles::kStarts) / kBytesPerStart;
    }
    if (element_ == saec::Element::kFloat32) most_live_ = watch_->copied_bytes() / kBytesPerRow;
  }

  const saec::Table& table() const { return table_->table; }
  const Exchange& exchange() const { return watch_->exchange(); }
  saec::Element element() const { return element_; }
  size_t dim() const { return table().dim; }
  size_t row_bytes() const { return dim() * type_of(element_).bits / 8; }

  // Whether the present tensors still fit the table; forms: OUT their forms.
  bool look(Forms& forms) const {
    for (size_t i = 0; i < places_.size(); ++i) {
      if (!watch_->uses(i)) continue;
      const auto& [dict, name] = places_[i];
      PyObject* tensor = PyDict_GetItemWithError(dict.ptr(), name.ptr());
      if (!tensor || !watch_->fits(i, tensor, forms[i])) return false;
    }
    return true;
  }

  // Whether decoding `count` rows from the present tensors is faster than checking the copies.
  bool few(size_t count) const { return count <= most_live_; }

  // Returns whether the lookup succeeded.
  bool decode(const saec::Request& request, const Forms& forms) const {
    const saec::LookupKernels* kernels = saec::choose_lookup("auto");
    return kernels && kernels->live(request, roles_.of(forms.data()));
  }

  // Whether everything from which the request's rows were decoded is unchanged: the numbers that all rows share, and
  // codes and starts. For few rows, only their own codes and starts are compared.
  bool same_numbers(const saec::Request& request, const Forms& forms) const {
    const size_t codes = roles_.at(Roles::kCodes), starts = roles_.at(Roles::kStarts);
    const bool own_codes = request.count < most_codes_, own_starts = request.count < most_starts_;
    for (size_t i = 0; i < places_.size(); ++i) {
      const bool later = (own_codes && i == codes) || (own_starts && i == starts);
      if (watch_->uses(i) && !later && !watch_->same_numbers(i, forms[i])) return false;
    }
    if (!own_codes && !own_starts) return true;
    saec::KeptSources sources{};
    if (own_codes) sources.codes = &watch_->copies(codes);
    if (own_starts) {
      sources.starts = reinterpret_cast<const int64_t*>(watch_->copies(starts)[0].data());
      sources.starts_now = reinterpret_cast<const int64_t*>(forms[starts].data());
    }
    return saec::holds_of(saec::KeptCheck(table(), sources), request);
  }

  saec::Request request(const uint8_t* ids, bool wide, ptrdiff_t id_stride, size_t count,
                        uint8_t* out, size_t stride) const {
    return {&table(), ids,    wide, count, nullptr, count, nullptr, saec::Mode::kSum, -1, out,
            stride,   id_stride};
  }

  // Rows (..., dim) of ids (...), or None if the usual path must be taken: if gradients or operations are recorded, if
  // tensors have changed, or if ids are invalid or of another type.
  nb::object rows(nb::handle given) const {
    const std::optional<Ids> ids = Ids::of(given, exchange());
    Forms forms;
    if (!ids || exchange().recorded() || !look(forms)) return nb::none();
    const int dims = ids->view.ndim;
    const ptrdiff_t id_stride = dims == 1 ? ids->view.strides[0] : 1;
    if (dims != 1 && !ids->contiguous()) return nb::none();
    int64_t shape[OwnTensor::kMostDims];
    std::copy_n(ids->view.shape, dims, shape);
    shape[dims] = static_cast<int64_t>(dim());
    OwnTensor::Pointer out = OwnTensor::make(type_of(element_), shape, dims + 1);
    const size_t count = ids->count();
    const saec::Request wanted =
        request(ids->data, ids->wide, id_stride, count, out->data(), row_bytes());
    const bool done = few(count) ? decode(wanted, forms)
                                 : same_numbers(wanted, forms) && pool({wanted}, count, element_, exchange());
    return done ? exchange().object_of(std::move(out)) : nb::none();
  }

 private:
  size_t bytes_of(size_t role) const {
    const size_t i = roles_.at(role);
    return i == Roles::kNone ? 0 : watch_->copied_bytes(i);
  }

  const BoundTable* table_;
  const Watch* watch_;
  nb::object kept_[2];
  std::vector<Place> places_;
  Roles roles_;
  saec::Element element_;
  size_t most_live_ = 0;    // the most rows that are decoded from the present tensors
  size_t most_codes_ = 0;   // with fewer rows, only their own codes are compared
  size_t most_starts_ = 0;  // with fewer rows, only their own starts are compared
};

// Looks up rows of several tables at once.
class Shortcuts {
 public:
  // tables: all of one dim and element type. guards: of the modules of these tables.
  Shortcuts(std::vector<nb::object> tables, nb::object guards)
      : guards_(nb::cast<const Guards*>(guards)), kept_(std::move(tables)) {
    expect(!kept_.empty(), "there are no tables");
    for (const nb::object& table : kept_) tables_.push_back(nb::cast<const Shortcut*>(table));
    for (const Shortcut* table : tables_) {
      expect_equal(table->dim(), first().dim(), "tables differ in dim");
      expect(table->element() == first().element(), "tables differ in element type");
    }
    kept_.push_back(std::move(guards));
  }

  // Rows (n, tables, dim) of ids (n, tables), or None; see Shortcut::rows.
  nb::object rows(nb::handle given) const {
    const std::optional<Ids> ids = Ids::of(given, first().exchange());
    const auto fields = static_cast<int64_t>(tables_.size());
    if (!ids || ids->view.ndim != 2 || ids->view.shape[1] != fields) return nb::none();
    if (first().exchange().recorded() || !guards_->hold()) return nb::none();
    const int64_t shape[] = {ids->view.shape[0], fields, static_cast<int64_t>(first().dim())};
    OwnTensor::Pointer out = OwnTensor::make(type_of(first().element()), shape, 3);
    return fill(*ids, out->data()) ? first().exchange().object_of(std::move(out)) : nb::none();
  }

 private:
  const Shortcut& first() const { return *tables_[0]; }

  // Returns whether the lookup succeeded.
  bool fill(const Ids& ids, uint8_t* out) const {
    const auto count = static_cast<size_t>(ids.view.shape[0]);
    const size_t row_bytes = first().row_bytes(), stride = row_bytes * tables_.size();
    const ptrdiff_t column_bytes = ids.view.strides[1] * (ids.wide ? 8 : 4);
    std::vector<saec::Request> requests;
    requests.reserve(tables_.size());
    for (size_t i = 0; i < tables_.size(); ++i) {
      const Shortcut& table = *tables_[i];
      Shortcut::Forms forms;
      if (!table.look(forms)) return false;
      const uint8_t* column = ids.data + static_cast<ptrdiff_t>(i) * column_bytes;
      const saec::Request wanted = table.request(column, ids.wide, ids.view.strides[0], count,
                                                 out + i * row_bytes, stride);
      if (table.few(count)) {
        if (!table.decode(wanted, forms)) return false;
      } else {
        if (!table.same_numbers(wanted, forms)) return false;
        requests.push_back(wanted);
      }
    }
    return requests.empty() ||
           pool(requests, count * requests.size(), first().element(), first().exchange());
  }

  const Guards* guards_;
  std::vector<nb::object> kept_;
  std::vector<const Shortcut*> tables_;
};

}  // namespace

void bind_shortcuts(nb::module_& module) {
  nb::class_<Exchange>(module, "Exchange")
      .def(nb::init<nb::object, std::vector<nb::object>, nb::object>(), nb::arg("tensor"),
           nb::arg("recorders"), nb::arg("threads"))
      .def_prop_ro("has_api", &Exchange::has_api);
  nb::class_<Watch>(module, "Watch")
      .def(nb::init<nb::object, const std::vector<nb::object>&, const std::vector<Use>&>(),
           nb::arg("exchange"), nb::arg("tensors"), nb::arg("uses"))
      .def(
          "holds",
          [](const Watch& self, const std::vector<nb::object>& tensors) {
            if (tensors.size() != self.size()) return false;
            for (size_t i = 0; i < tensors.size(); ++i)
              if (!self.holds(i, tensors[i])) return false;
            return true;
          },
          nb::arg("tensors"));
  nb::class_<Guards>(module, "Guards")
      .def(nb::init<std::vector<nb::dict>, std::vector<Guards::Entry>>(), nb::arg("empty"),
           nb::arg("entries"))
      .def("hold", &Guards::hold);
  nb::class_<Shortcut>(module, "Shortcut")
      .def(nb::init<nb::object, nb::object, std::vector<Shortcut::Place>,
                    const std::vector<std::string>&, int>(),
           nb::arg("table"), nb::arg("watch"), nb::arg("places"), nb::arg("names"),
           nb::arg("element"))
      .def_prop_ro("dim", &Shortcut::dim)
      .def_prop_ro("element", [](const Shortcut& self) { return static_cast<int>(self.element()); })
      .def("rows", &Shortcut::rows, nb::arg("ids").none());
  nb::class_<Shortcuts>(module, "Shortcuts")
      .def(nb::init<std::vector<nb::object>, nb::object>(), nb::arg("tables"), nb::arg("guards"))
      .def("rows", &Shortcuts::rows, nb::arg("ids").none());
}
