// Packed attention as Python sees it.
#include <pybind11/stl.h>

#include <cstdint>
#include <stdexcept>
#include <tuple>
#include <utility>

#include "attention/packed_attention.h"
#include "bindings/arrays.h"

namespace greater_fast {

namespace {

// Queries [M, H, D], and keys and values [M, KV, D].
using States = std::tuple<py::array, py::array, py::array>;

// Set a segment's prefix: (keys [num_blocks, KV, S, D], values, block ids, number of tokens).
template <typename T>
void set_prefix(const py::tuple& prefix, const PackedAttentionArgs<T>& args,
                PackedSegment<T>& segment) {
  const py::array keys = array_of(prefix[0], "prefixes' keys");
  const py::array values = array_of(prefix[1], "prefixes' values");
  segment.block_ids = prefix[2].cast<std::vector<int64_t>>();
  segment.prefix_len = prefix[3].cast<int64_t>();
  if (keys.ndim() != 4 || keys.shape(2) < 1) {
    throw std::invalid_argument("prefixes: expected keys [num_blocks, KV, S, D]");
  }
  segment.block_size = keys.shape(2);
  const std::vector<int64_t> shape = {keys.shape(0), args.num_kv_heads, segment.block_size,
                                      args.head_size};
  expect_shape(keys, shape, "prefixes' keys");
  expect_shape(values, shape, "prefixes' values");
  segment.prefix_keys = data_of<const T>(keys, keys.size(), "prefixes' keys");
  segment.prefix_values = data_of<const T>(values, values.size(), "prefixes' values");
  const int64_t num_slots = static_cast<int64_t>(segment.block_ids.size()) * segment.block_size;
  if (segment.prefix_len < 0 || segment.prefix_len > num_slots) {
    throw std::invalid_argument("prefixes: more tokens than their blocks hold");
  }
  for (const int64_t block : segment.block_ids) {
    if (block < 0 || block >= shape[0]) throw std::invalid_argument("prefixes: no such block");
  }
}

template <typename T>
PackedAttentionArgs<T> packed_args(const States& states, const py::list& starts,
                                   const py::list& prefixes, const py::tuple& options) {
  const auto& [queries, keys, values] = states;
  if (queries.ndim() != 3 || keys.ndim() != 3) {
    throw std::invalid_argument("attention: expected queries [M, H, D] and keys [M, KV, D]");
  }
  PackedAttentionArgs<T> args;
  args.num_tokens = queries.shape(0);
  args.num_heads = queries.shape(1);
  args.head_size = queries.shape(2);
  args.num_kv_heads = keys.shape(1);
  expect_shape(keys, {args.num_tokens, args.num_kv_heads, args.head_size}, "keys");
  expect_shape(values, {args.num_tokens, args.num_kv_heads, args.head_size}, "values");
  if (args.head_size < 1) throw std::invalid_argument("queries: expected heads of 1 at least");
  if (args.num_kv_heads < 1 || args.num_heads < 1 || args.num_heads % args.num_kv_heads != 0) {
    throw std::invalid_argument("keys: their heads do not divide those of the queries");
  }
  args.queries = data_of<const T>(queries, queries.size(), "queries");
  args.keys = data_of<const T>(keys, keys.size(), "keys");
  args.values = data_of<const T>(values, values.size(), "values");
  args.scale = options[0].cast<T>();
  args.soft_cap = options[1].cast<T>();
  args.window = options[2].cast<int64_t>();
  if (starts.size() != prefixes.size()) {
    throw std::invalid_argument("starts: expected one for each prefix");
  }
  for (size_t i = 0; i < prefixes.size(); ++i) {
    PackedSegment<T> segment{};
    segment.start = starts[i].cast<int64_t>();
    segment.stop = i + 1 < starts.size() ? starts[i + 1].cast<int64_t>() : args.num_tokens;
    if (segment.start < 0 || segment.start > segment.stop || segment.stop > args.num_tokens) {
      throw std::invalid_argument("starts: expected to rise, to the number of queries at most");
    }
    if (!prefixes[i].is_none()) set_prefix(prefixes[i].cast<py::tuple>(), args, segment);
    args.segments.push_back(std::move(segment));
  }
  if (args.num_tokens > 0 && (args.segments.empty() || args.segments[0].start != 0)) {
    throw std::invalid_argument("starts: expected 0 for the first, so that each token has one");
  }
  return args;
}

template <typename T>
void packed_attention_of(const States& states, const py::list& starts, const py::list& prefixes,
                         const py::array& outputs, const py::tuple& options) {
  const auto args = packed_args<T>(states, starts, prefixes, options);
  expect_shape(outputs, {args.num_tokens, args.num_heads, args.head_size}, "outputs");
  T* const data = data_of<T>(outputs, outputs.size(), "outputs");
  py::gil_scoped_release release;
  packed_attention(args, data);
}

template <typename T>
void packed_attention_backward_of(const States& states, const py::list& starts,
                                  const py::list& prefixes, const py::array& output_gradients,
                                  const States& gradients, const py::tuple& options) {
  const auto args = packed_args<T>(states, starts, prefixes, options);
  expect_shape(output_gradients, {args.num_tokens, args.num_heads, args.head_size},
               "output_gradients");
  const auto take = [&args](const py::array& array, int64_t heads, const char* name) {
    expect_shape(array, {args.num_tokens, heads, args.head_size}, name);
    return data_of<T>(array, array.size(), name);
  };
  const PackedAttentionGradients<T> by_states{
      take(std::get<0>(gradients), args.num_heads, "gradients of queries"),
      take(std::get<1>(gradients), args.num_kv_heads, "gradients of keys"),
      take(std::get<2>(gradients), args.num_kv_heads, "gradients of values")};
  const T* const by_outputs =
      data_of<const T>(output_gradients, output_gradients.size(), "output_gradients");
  py::gil_scoped_release release;
  packed_attention_backward(args, by_outputs, by_states);
}

}  // namespace

void bind_packed_attention(py::module_& module) {
  using namespace py::literals;
  const auto is_double = [](const States& states) {
    return py::isinstance<py::array_t<double>>(std::get<0>(states));
  };
  module.def(
      "packed_attention",
      [is_double](const States& states, const py::list& starts, const py::list& prefixes,
                  const py::array& outputs, const py::tuple& options) {
        const auto run =
            is_double(states) ? packed_attention_of<double> : packed_attention_of<float>;
        run(states, starts, prefixes, outputs, options);
      },
      "states"_a, "starts"_a, "prefixes"_a, "outputs"_a, "options"_a);
  module.def(
      "packed_attention_backward",
      [is_double](const States& states, const py::list& starts, const py::list& prefixes,
                  const py::array& output_gradients, const States& gradients,
                  const py::tuple& options) {
        const auto run = is_double(states) ? packed_attention_backward_of<double>
                                           : packed_attention_backward_of<float>;
        run(states, starts, prefixes, output_gradients, gradients, options);
      },
      "states"_a, "starts"_a, "prefixes"_a, "output_gradients"_a, "gradients"_a, "options"_a);
}

}  // namespace greater_fast
