// Access to PyTorch's tensors through DLPack's C exchange API (https://dmlc.github.io/dlpack/latest/c_api.html,
// version 1). PyTorch's own headers would tie the core to one version of PyTorch.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "system/cores.h"

namespace nb = nanobind;

using TensorView = nb::dlpack::dltensor;

struct ManagedTensor {
  uint32_t major, minor;
  void* context;
  void (*deleter)(ManagedTensor*);
  uint64_t flags;
  TensorView view;
};

struct ExchangeApi {
  uint32_t major, minor;
  const ExchangeApi* previous;
  void* allocate;
  void* from_object;
  int (*to_object)(ManagedTensor*, void** object);
  int (*view_object)(void* object, TensorView*);
  void* stream;
};

// The memory of a contiguous tensor, after its description.
class OwnTensor {
 public:
  static constexpr int kMostDims = 8;
  struct Remover {
    void operator()(OwnTensor* made) const { remove(&made->managed_); }
  };
  using Pointer = std::unique_ptr<OwnTensor, Remover>;

  // shape: IN dims numbers. The elements are not initialised.
  static Pointer make(nb::dlpack::dtype type, const int64_t* shape, int dims) {
    size_t count = 1;
    for (int i = 0; i < dims; ++i) count *= static_cast<size_t>(shape[i]);
    void* memory = ::operator new(kHead + count * type.bits / 8, kAligned);
    auto* made = new (memory) OwnTensor;
    for (int64_t i = dims - 1, stride = 1; i >= 0; stride *= shape[i--]) {
      made->shape_[i] = shape[i];
      made->strides_[i] = stride;
    }
    made->managed_ = {1, 0, nullptr, &OwnTensor::remove, 0,
                      {made->data(), {nb::device::cpu::value, 0}, dims, type, made->shape_,
                       made->strides_, 0}};
    return Pointer(made);
  }

  uint8_t* data() { return reinterpret_cast<uint8_t*>(this) + kHead; }
  ManagedTensor* managed() { return &managed_; }

 private:
  static void remove(ManagedTensor* managed) {
    ::operator delete(static_cast<void*>(managed), kAligned);  // it is the first member of its OwnTensor
  }

  static constexpr size_t kHead = 256;
  static constexpr std::align_val_t kAligned{64};

  ManagedTensor managed_;
  int64_t shape_[kMostDims], strides_[kMostDims];
};
static_assert(sizeof(OwnTensor) <= 256);

// Address, type, shape and strides of a tensor. Tensors of a table have at most kMostDims dimensions.
struct Form {
  static constexpr int kMostDims = 4;

  uintptr_t address = 0;
  intptr_t type = 0;  // a different number for each dtype
  size_t item_bytes = 0;
  int dims = 0;
  int64_t shape[kMostDims], strides[kMostDims];

  const uint8_t* data() const { return reinterpret_cast<const uint8_t*>(address); }

  bool same_shape(const Form& other) const {
    return type == other.type && dims == other.dims && std::equal(shape, shape + dims, other.shape) &&
           std::equal(strides, strides + dims, other.strides);
  }

  // Bytes from the first element to the end of the last one; strides are not negative.
  size_t span() const {
    size_t last = 0;
    for (int i = 0; i < dims; ++i) {
      if (shape[i] == 0) return 0;
      last += static_cast<size_t>((shape[i] - 1) * strides[i]);
    }
    return (last + 1) * item_bytes;
  }

  bool contiguous() const {
    int64_t expected = 1;
    bool in_order = true;
    for (int i = dims - 1; i >= 0; expected *= shape[i--])
      in_order &= shape[i] == 1 || strides[i] == expected;
    return in_order || span() == 0;
  }
};

// The parts of PyTorch that the core uses.
class Exchange {
 public:
  // recorders: callables without arguments. If one returns a true value, PyTorch records operations, so they must not
  // be replaced.
  Exchange(nb::object tensor, std::vector<nb::object> recorders, nb::object threads)
      : tensor_(std::move(tensor)), recorders_(std::move(recorders)), threads_(std::move(threads)) {
    nb::object capsule = nb::getattr(tensor_, "__dlpack_c_exchange_api__", nb::none());
    if (capsule.is_none()) return;
    const void* api = PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api");
    if (!api) throw nb::python_error();
    api_ = static_cast<const ExchangeApi*>(api);
    while (api_ && api_->major != 1) api_ = api_->previous;
    if (api_ && !api_->view_object) api_ = nullptr;
  }

  // Whether this PyTorch has the API; older versions lack it.
  bool has_api() const { return api_ != nullptr; }

  // Whether PyTorch records gradients or operations.
  bool recorded() const {
    for (const nb::object& recorder : recorders_) {
      PyObject* answer = PyObject_CallNoArgs(recorder.ptr());
      if (!answer) throw nb::python_error();
      const int yes = PyObject_IsTrue(answer);
      Py_DECREF(answer);
      if (yes != 0) return true;
    }
    return false;
  }

  // torch.get_num_threads(), limited to the usable cores: PyTorch ignores quotas.
  int threads() const {
    return static_cast<int>(std::min(nb::cast<size_t>(threads_()), saec::usable_cores()));
  }

  // Views a tensor in CPU memory; returns false for others, and for subclasses, which may store elements elsewhere.
  bool view_plain(nb::handle object, TensorView& view) const {
    return Py_TYPE(object.ptr()) == type() && view_any(object, view);
  }

  // form: OUT that of a tensor or parameter in CPU memory; returns false for other tensors and objects.
  bool form(nb::handle object, Form& form) const {
    if (!api_) return form_by_attributes(object, form);
    TensorView view;
    if (!PyObject_TypeCheck(object.ptr(), type()) || !view_any(object, view)) return false;
    if (view.ndim > Form::kMostDims) return false;
    form.address = reinterpret_cast<uintptr_t>(view.data) + view.byte_offset;
    form.type = view.dtype.code << 8 | view.dtype.bits;
    form.item_bytes = view.dtype.bits / 8;
    form.dims = view.ndim;
    std::copy_n(view.shape, view.ndim, form.shape);
    std::copy_n(view.strides, view.ndim, form.strides);
    return true;
  }

  // A Python tensor, which takes over the memory.
  nb::object object_of(OwnTensor::Pointer made) const {
    void* object = nullptr;
    if (api_->to_object(made.release()->managed(), &object)) throw nb::python_error();
    return nb::steal(static_cast<PyObject*>(object));
  }

 private:
  PyTypeObject* type() const { return reinterpret_cast<PyTypeObject*>(tensor_.ptr()); }

  bool view_any(nb::handle object, TensorView& view) const {
    if (api_->view_object(object.ptr(), &view)) {
      PyErr_Clear();
      return false;
    }
    return view.device.device_type == nb::device::cpu::value;
  }

  // The same for versions of PyTorch without the API.
  bool form_by_attributes(nb::handle object, Form& form) const {
    if (!PyObject_IsInstance(object.ptr(), tensor_.ptr())) return false;
    if (!nb::cast<bool>(object.attr("is_cpu"))) return false;
    const auto shape = nb::cast<std::vector<int64_t>>(nb::tuple(object.attr("shape")));
    const auto strides = nb::cast<std::vector<int64_t>>(object.attr("stride")());
    if (shape.size() > Form::kMostDims) return false;
    form.address = nb::cast<uintptr_t>(object.attr("data_ptr")());
    form.type = reinterpret_cast<intptr_t>(object.attr("dtype").ptr());  // there is one object for each dtype
    form.item_bytes = nb::cast<size_t>(object.attr("element_size")());
    form.dims = static_cast<int>(shape.size());
    std::copy(shape.begin(), shape.end(), form.shape);
    std::copy(strides.begin(), strides.end(), form.strides);
    return true;
  }

  const ExchangeApi* api_ = nullptr;
  nb::object tensor_;
  std::vector<nb::object> recorders_;
  nb::object threads_;
};
