// PyTorch's tensors without PyTorch's headers, which would tie the core to one version of it: through
// DLPack's C exchange API (https://dmlc.github.io/dlpack/latest/c_api.html, version 1).
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

#include "cores.h"

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

// A contiguous tensor's memory, with the description of it in front.
class OwnTensor {
 public:
  static constexpr int kMostDims = 8;
  struct Remover {
    void operator()(OwnTensor* made) const { remove(&made->managed_); }
  };
  using Pointer = std::unique_ptr<OwnTensor, Remover>;

  // shape: IN dims numbers. Numbers are not set.
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
    ::operator delete(static_cast<void*>(managed), kAligned);  // the first member of its tensor
  }

  static constexpr size_t kHead = 256;
  static constexpr std::align_val_t kAligned{64};

  ManagedTensor managed_;
  int64_t shape_[kMostDims], strides_[kMostDims];
};
static_assert(sizeof(OwnTensor) <= 256);

// What the core uses of PyTorch.
class Exchange {
 public:
  Exchange(nb::object tensor, nb::object learns, nb::object threads)
      : tensor_(std::move(tensor)), learns_(std::move(learns)), threads_(std::move(threads)) {
    nb::object capsule = nb::getattr(tensor_, "__dlpack_c_exchange_api__", nb::none());
    if (capsule.is_none()) return;
    const void* api = PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api");
    if (!api) throw nb::python_error();
    api_ = static_cast<const ExchangeApi*>(api);
    while (api_ && api_->major != 1) api_ = api_->previous;
    if (api_ && !api_->view_object) api_ = nullptr;
  }

  // Whether this PyTorch has the API; older ones have not.
  bool has_api() const { return api_ != nullptr; }

  // Whether gradients are recorded.
  bool learns() const {
    const nb::object answer = learns_();
    return answer.ptr() == Py_True;
  }

  // As many threads as torch.get_num_threads() says, which does not know of quotas, but no more than
  // there are cores.
  int threads() const {
    return static_cast<int>(std::min(nb::cast<size_t>(threads_()), saec::usable_cores()));
  }

  // A tensor in memory, and not of a subclass, which may hold its numbers elsewhere.
  bool view_plain(nb::handle object, TensorView& view) const {
    return Py_TYPE(object.ptr()) == type() && view_any(object, view);
  }

  // Address of the numbers of a tensor or parameter in memory; 0 if there is none.
  uintptr_t address(nb::handle object) const {
    TensorView view;
    if (!PyObject_TypeCheck(object.ptr(), type()) || !view_any(object, view)) return 0;
    return reinterpret_cast<uintptr_t>(view.data) + view.byte_offset;
  }

  // As an object of Python, whose memory it is from now on.
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

  const ExchangeApi* api_ = nullptr;
  nb::object tensor_, learns_, threads_;
};
