// What goes over rows of numbers as Python sees it, norms and logits: arrays are checked, then the
// kernel runs without the GIL.
#include <pybind11/stl.h>

#include <cstdint>
#include <stdexcept>
#include <tuple>

#include "bindings/arrays.h"
#include "math/logits.h"
#include "math/rms_norm.h"

namespace greater_fast {

namespace {

using Pair = std::tuple<py::array, py::array>;

template <typename T>
NormArgs<T> norm_args(const py::array& inputs, const py::array& weights, double epsilon,
                      double offset) {
  if (inputs.ndim() != 2) throw std::invalid_argument("rms_norm: expected inputs [M, D]");
  expect_shape(weights, {inputs.shape(1)}, "weights");
  return {data_of<const T>(inputs, inputs.size(), "inputs"),
          data_of<const T>(weights, weights.size(), "weights"),
          inputs.shape(0),
          inputs.shape(1),
          static_cast<T>(epsilon),
          static_cast<T>(offset)};
}

template <typename T>
void rms_norm_of(const py::array& inputs, const py::array& weights, const py::array& outputs,
                 double epsilon, double offset) {
  const auto args = norm_args<T>(inputs, weights, epsilon, offset);
  expect_shape(outputs, {args.num_rows, args.width}, "outputs");
  T* const data = data_of<T>(outputs, outputs.size(), "outputs");
  py::gil_scoped_release release;
  rms_norm(args, data);
}

template <typename T>
void rms_norm_backward_of(const py::array& inputs, const py::array& weights, const Pair& gradients,
                          double epsilon, double offset) {
  const auto args = norm_args<T>(inputs, weights, epsilon, offset);
  const auto& [by_outputs, by_inputs] = gradients;
  expect_shape(by_outputs, {args.num_rows, args.width}, "output_gradients");
  expect_shape(by_inputs, {args.num_rows, args.width}, "input_gradients");
  const T* const from = data_of<const T>(by_outputs, by_outputs.size(), "output_gradients");
  T* const to = data_of<T>(by_inputs, by_inputs.size(), "input_gradients");
  py::gil_scoped_release release;
  rms_norm_backward(args, from, to);
}

template <typename T>
void read_logits_of(const py::array& logits, const py::array& targets,
                    const py::array& temperatures, const py::array& argmax,
                    const py::array& logprobs) {
  if (logits.ndim() != 2 || logits.shape(1) < 1) {
    throw std::invalid_argument("logits: expected [R, V] with at least one column");
  }
  const LogitArgs<T> args{data_of<const T>(logits, logits.size(), "logits"),
                          data_of<const int32_t>(targets, logits.shape(0), "targets"),
                          data_of<const T>(temperatures, logits.shape(0), "temperatures"),
                          logits.shape(0), logits.shape(1)};
  for (int64_t i = 0; i < args.num_rows; ++i) {
    if (args.targets[i] >= args.num_ids) throw std::invalid_argument("targets: no such column");
  }
  int32_t* const ids = data_of<int32_t>(argmax, args.num_rows, "argmax");
  float* const values = data_of<float>(logprobs, args.num_rows, "logprobs");
  py::gil_scoped_release release;
  read_logits(args, ids, values);
}

}  // namespace

void bind_rows(py::module_& module) {
  using namespace py::literals;
  module.def(
      "rms_norm",
      [](const py::array& inputs, const py::array& weights, const py::array& outputs,
         double epsilon, double offset) {
        (is_double(inputs) ? rms_norm_of<double> : rms_norm_of<float>)(inputs, weights, outputs,
                                                                       epsilon, offset);
      },
      "inputs"_a, "weights"_a, "outputs"_a, "epsilon"_a, "offset"_a);
  module.def(
      "rms_norm_backward",
      [](const py::array& inputs, const py::array& weights, const Pair& gradients, double epsilon,
         double offset) {
        (is_double(inputs)
             ? rms_norm_backward_of<double>
             : rms_norm_backward_of<float>)(inputs, weights, gradients, epsilon, offset);
      },
      "inputs"_a, "weights"_a, "gradients"_a, "epsilon"_a, "offset"_a);
  module.def(
      "read_logits",
      [](const py::array& logits, const py::array& targets, const py::array& temperatures,
         const py::array& argmax, const py::array& logprobs) {
        (is_double(logits) ? read_logits_of<double> : read_logits_of<float>)(logits, targets,
                                                                             temperatures, argmax,
                                                                             logprobs);
      },
      "logits"_a, "targets"_a, "temperatures"_a, "argmax"_a, "logprobs"_a);
}

}  // namespace greater_fast
