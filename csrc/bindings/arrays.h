// What the files that know pybind11 share: checks of arrays; nothing is converted or copied.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

namespace greater_fast {

namespace py = pybind11;

// Define the CPU kernels in the module.
void bind_kernels(py::module_& module);
void bind_layers(py::module_& module);
void bind_rows(py::module_& module);
void bind_packed_attention(py::module_& module);

inline bool is_double(const py::array& array) { return py::isinstance<py::array_t<double>>(array); }

inline void expect_shape(const py::array& array, const std::vector<int64_t>& shape,
                         const char* name) {
  if (std::vector<int64_t>(array.shape(), array.shape() + array.ndim()) == shape) return;
  std::string message = std::string(name) + ": expected shape [";
  for (const int64_t size : shape) message += std::to_string(size) + ", ";
  throw std::invalid_argument(message.substr(0, message.size() - 2) + "]");
}

// An object that is an array; one that could be made into an array would be gone with it.
inline py::array array_of(const py::handle& object, const char* name) {
  if (!py::isinstance<py::array>(object)) {
    throw std::invalid_argument(std::string(name) + ": expected an array");
  }
  return py::reinterpret_borrow<py::array>(object);
}

// The data of an array that must be what it is said to be; nothing is converted or copied. It must
// be writable unless T is const.
template <typename T>
T* data_of(const py::array& array, int64_t least, const char* name) {
  using Value = std::remove_const_t<T>;
  if (!py::isinstance<py::array_t<Value>>(array)) {
    throw std::invalid_argument(std::string(name) + ": got dtype " +
                                std::string(py::str(array.dtype())) + ", expected " +
                                std::string(py::str(py::dtype::of<Value>())));
  }
  if (!std::is_const_v<T> && !array.writeable()) {
    throw std::invalid_argument(std::string(name) + ": expected a writable array");
  }
  if (!(array.flags() & py::array::c_style)) {
    throw std::invalid_argument(std::string(name) + ": expected a contiguous array");
  }
  if (!(array.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_)) {
    throw std::invalid_argument(std::string(name) + ": expected an aligned array");
  }
  if (array.size() < least) {
    throw std::invalid_argument(std::string(name) + ": got " + std::to_string(array.size()) +
                                " elements, expected at least " + std::to_string(least));
  }
  return static_cast<T*>(const_cast<void*>(array.data()));
}

}  // namespace greater_fast
