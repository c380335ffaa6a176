// Parts of a model's layers as Python sees them: arrays are checked, then the kernel runs without
// the GIL.
#include <pybind11/stl.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "bindings/arrays.h"
#include "math/gated_mlp.h"
#include "math/linear.h"
#include "math/rotary.h"

namespace greater_fast {

namespace {

using Parameters = std::tuple<py::array, py::object>;        // weights, bias or None
using Layer = std::tuple<py::array, py::object, py::array>;  // and outputs
using Pair = std::tuple<py::array, py::array>;

template <typename T>
LinearArgs<T> linear_args(const py::array& inputs, const py::array& weights, const py::object& bias,
                          const py::array& outputs) {
  if (inputs.ndim() != 2 || weights.ndim() != 2) {
    throw std::invalid_argument("linear: expected inputs [M, K] and weights [N, K]");
  }
  LinearArgs<T> args;
  args.num_rows = inputs.shape(0);
  args.num_inputs = inputs.shape(1);
  args.num_outputs = weights.shape(0);
  if (args.num_inputs < 1) throw std::invalid_argument("inputs: expected at least one column");
  expect_shape(weights, {args.num_outputs, args.num_inputs}, "weights");
  expect_shape(outputs, {args.num_rows, args.num_outputs}, "outputs");
  args.inputs = data_of<const T>(inputs, inputs.size(), "inputs");
  args.weights = data_of<const T>(weights, weights.size(), "weights");
  args.outputs = data_of<T>(outputs, outputs.size(), "outputs");
  args.bias = nullptr;
  if (!bias.is_none()) {
    const py::array terms = array_of(bias, "bias");
    expect_shape(terms, {args.num_outputs}, "bias");
    args.bias = data_of<const T>(terms, terms.size(), "bias");
  }
  return args;
}

template <typename T>
void linear_of(const py::array& inputs, const py::array& weights, const py::object& bias,
               const py::array& outputs) {
  const std::vector<LinearArgs<T>> layers{linear_args<T>(inputs, weights, bias, outputs)};
  py::gil_scoped_release release;
  linears(layers);
}

template <typename T>
void linears_backward_of(const std::vector<Pair>& layers, const py::array& input_gradients) {
  std::vector<ProductArgs<T>> products;
  for (const auto& [gradients, weights] : layers) {
    if (gradients.ndim() != 2 || weights.ndim() != 2) {
      throw std::invalid_argument("linears_backward: expected gradients [M, N] and weights [N, K]");
    }
    const int64_t num_rows = gradients.shape(0), depth = gradients.shape(1);
    const int64_t width = weights.shape(1);
    if (depth < 1) throw std::invalid_argument("gradients: expected at least one column");
    expect_shape(weights, {depth, width}, "weights");
    expect_shape(input_gradients, {num_rows, width}, "input_gradients");
    products.push_back(
        {{data_of<const T>(gradients, gradients.size(), "gradients"), depth},
         {data_of<const T>(weights, weights.size(), "weights"), width},
         {data_of<T>(input_gradients, input_gradients.size(), "input_gradients"), width},
         num_rows,
         depth,
         width,
         !products.empty()});
  }
  py::gil_scoped_release release;
  linears_backward(products);
}

Activation activation_of(const std::string& name) {
  if (name == "silu") return Activation::kSilu;
  if (name == "gelu_tanh") return Activation::kGeluTanh;
  throw std::invalid_argument("activation: got " + name + ", expected silu or gelu_tanh");
}

template <typename T>
void gated_mlp_of(const py::array& inputs, const std::vector<Parameters>& parameters,
                  const std::vector<py::array>& states, const py::array& outputs,
                  const std::string& activation) {
  if (parameters.size() != 3 || states.size() != 3) {
    throw std::invalid_argument("gated_mlp: expected gate, up and down, and gate, up and hidden");
  }
  const auto layer = [&](int which, const py::array& from, const py::array& to) {
    return linear_args<T>(from, std::get<0>(parameters[which]), std::get<1>(parameters[which]), to);
  };
  const GatedMLPArgs<T> args{
      layer(0, inputs, states[0]), layer(1, inputs, states[1]), layer(2, states[2], outputs),
      data_of<T>(states[2], states[2].size(), "hidden"), activation_of(activation)};
  expect_shape(states[1], {args.gate.num_rows, args.gate.num_outputs}, "up");
  expect_shape(states[2], {args.gate.num_rows, args.gate.num_outputs}, "hidden");
  py::gil_scoped_release release;
  gated_mlp(args);
}

template <typename T>
void gate_backward_of(const py::array& gate, const py::array& up, const py::array& hidden_gradients,
                      const py::array& gate_gradients, const std::string& activation) {
  if (gate.ndim() != 2) throw std::invalid_argument("gate_backward: expected gate [M, H]");
  const std::vector<int64_t> shape = {gate.shape(0), gate.shape(1)};
  expect_shape(up, shape, "up");
  expect_shape(hidden_gradients, shape, "hidden_gradients");
  expect_shape(gate_gradients, shape, "gate_gradients");
  const GateArgs<T> args{data_of<const T>(gate, gate.size(), "gate"),
                         data_of<const T>(up, up.size(), "up"),
                         data_of<T>(hidden_gradients, gate.size(), "hidden_gradients"),
                         data_of<T>(gate_gradients, gate.size(), "gate_gradients"),
                         shape[0],
                         shape[1],
                         activation_of(activation)};
  py::gil_scoped_release release;
  gate_backward(args);
}

// cos and sin [M, D] for states of whole heads.
template <typename T>
Turns<T> turns_of(const Pair& turns, int64_t num_rows) {
  const auto& [cos, sin] = turns;
  if (cos.ndim() != 2 || cos.shape(1) < 2 || cos.shape(1) % 2 != 0) {
    throw std::invalid_argument("turns: expected cos and sin [M, D] with an even D");
  }
  expect_shape(cos, {num_rows, cos.shape(1)}, "cos");
  expect_shape(sin, {num_rows, cos.shape(1)}, "sin");
  return {data_of<const T>(cos, cos.size(), "cos"), data_of<const T>(sin, sin.size(), "sin"),
          cos.shape(1)};
}

void expect_heads(int64_t width, int64_t head_size) {
  if (width % head_size != 0) throw std::invalid_argument("turns: expected states of whole heads");
}

template <typename T>
void turned_linears_of(const py::array& inputs, const std::vector<Layer>& layers,
                       int64_t num_turned, const Pair& turns) {
  if (layers.empty() || num_turned < 0 || num_turned > static_cast<int64_t>(layers.size())) {
    throw std::invalid_argument("turned_linears: expected layers, and how many of them to turn");
  }
  std::vector<LinearArgs<T>> args;
  for (const auto& [weights, bias, outputs] : layers) {
    args.push_back(linear_args<T>(inputs, weights, bias, outputs));
  }
  const Turns<T> by = turns_of<T>(turns, inputs.shape(0));
  for (int64_t i = 0; i < num_turned; ++i) expect_heads(args[i].num_outputs, by.head_size);
  py::gil_scoped_release release;
  turned_linears(args, num_turned, by);
}

template <typename T>
void turn_back_of(const std::vector<Pair>& states, const Pair& turns) {
  const int64_t num_rows = std::get<0>(turns).ndim() == 2 ? std::get<0>(turns).shape(0) : 0;
  const Turns<T> by = turns_of<T>(turns, num_rows);
  std::vector<Turned<T>> args;
  for (const auto& [from, to] : states) {
    if (from.ndim() != 2) throw std::invalid_argument("turn_back: expected states [M, width]");
    expect_shape(from, {num_rows, from.shape(1)}, "gradients");
    expect_shape(to, {num_rows, from.shape(1)}, "outputs");
    expect_heads(from.shape(1), by.head_size);
    args.push_back({data_of<const T>(from, from.size(), "gradients"),
                    data_of<T>(to, to.size(), "outputs"), from.shape(1)});
  }
  py::gil_scoped_release release;
  turn_back(args, num_rows, by);
}

}  // namespace

void bind_layers(py::module_& module) {
  using namespace py::literals;
  module.def(
      "linear",
      [](const py::array& inputs, const py::array& weights, const py::object& bias,
         const py::array& outputs) {
        (is_double(inputs) ? linear_of<double> : linear_of<float>)(inputs, weights, bias, outputs);
      },
      "inputs"_a, "weights"_a, "bias"_a, "outputs"_a);
  module.def(
      "linears_backward",
      [](const std::vector<Pair>& layers, const py::array& input_gradients) {
        if (layers.empty()) throw std::invalid_argument("linears_backward: expected a layer");
        (is_double(std::get<0>(layers[0])) ? linears_backward_of<double>
                                           : linears_backward_of<float>)(layers, input_gradients);
      },
      "layers"_a, "input_gradients"_a);
  module.def(
      "gated_mlp",
      [](const py::array& inputs, const std::vector<Parameters>& parameters,
         const std::vector<py::array>& states, const py::array& outputs,
         const std::string& activation) {
        (is_double(inputs) ? gated_mlp_of<double> : gated_mlp_of<float>)(inputs, parameters, states,
                                                                         outputs, activation);
      },
      "inputs"_a, "parameters"_a, "states"_a, "outputs"_a, "activation"_a);
  module.def(
      "gate_backward",
      [](const py::array& gate, const py::array& up, const py::array& hidden_gradients,
         const py::array& gate_gradients, const std::string& activation) {
        (is_double(gate)
             ? gate_backward_of<double>
             : gate_backward_of<float>)(gate, up, hidden_gradients, gate_gradients, activation);
      },
      "gate"_a, "up"_a, "hidden_gradients"_a, "gate_gradients"_a, "activation"_a);
  module.def(
      "turned_linears",
      [](const py::array& inputs, const std::vector<Layer>& layers, int64_t num_turned,
         const Pair& turns) {
        (is_double(inputs) ? turned_linears_of<double>
                           : turned_linears_of<float>)(inputs, layers, num_turned, turns);
      },
      "inputs"_a, "layers"_a, "num_turned"_a, "turns"_a);
  module.def(
      "turn_back",
      [](const std::vector<Pair>& states, const Pair& turns) {
        (is_double(std::get<0>(turns)) ? turn_back_of<double> : turn_back_of<float>)(states, turns);
      },
      "states"_a, "turns"_a);
}

}  // namespace greater_fast
