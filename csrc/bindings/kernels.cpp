// The CPU kernels as Python sees them: arrays are checked, then the kernel runs without the GIL.
#include <cstdint>
#include <stdexcept>

#include "attention/attention.h"
#include "bindings/arrays.h"
#include "math/simd.h"

namespace greater_fast {

namespace {

// No plan may lead outside the arrays.
template <typename T>
void check_plan(const AttentionArgs<T>& args, int64_t num_blocks) {
  const auto require = [](bool condition, const char* message) {
    if (!condition) throw std::invalid_argument(message);
  };
  for (int32_t i = 0; i < args.num_tokens; ++i) {
    require(args.slots[i] >= 0 && args.slots[i] / args.block_size < num_blocks,
            "slots: outside the pool");
  }
  require(args.query_starts[0] == 0, "query_starts: expected to start at 0");
  for (int32_t b = 0; b < args.num_sequences; ++b) {
    const int64_t num_queries = int64_t{args.query_starts[b + 1]} - args.query_starts[b];
    require(num_queries >= 0 && args.query_starts[b + 1] <= args.num_tokens,
            "query_starts: expected to rise, to the number of queries at most");
    require(args.context_lens[b] >= num_queries, "context_lens: less than the queries");
    const int64_t needed = (int64_t{args.context_lens[b]} + args.block_size - 1) / args.block_size;
    require(needed <= args.table_width, "context_lens: more than the block table holds");
    const int32_t* table = args.block_tables + int64_t{b} * args.table_width;
    for (int64_t i = 0; i < needed; ++i) {
      require(table[i] >= 0 && table[i] < num_blocks, "block_tables: outside the pool");
    }
  }
}

template <typename T>
void attention(const py::array& queries, const py::array& new_keys, const py::array& new_values,
               const py::array& keys, const py::array& values, const py::array& output,
               const py::array& slots, const py::array& query_starts, const py::array& context_lens,
               const py::array& block_tables, int32_t num_sequences, double scale, double soft_cap,
               int32_t window) {
  if (queries.ndim() != 3 || new_keys.ndim() != 3 || keys.ndim() != 4 || block_tables.ndim() != 2) {
    throw std::invalid_argument(
        "attention: expected queries [M, H, D], new_keys [M, KV, D], keys [blocks, KV, S, D] and "
        "block_tables [B, T]");
  }
  AttentionArgs<T> args;
  args.num_tokens = static_cast<int32_t>(queries.shape(0));
  args.num_heads = static_cast<int32_t>(queries.shape(1));
  args.head_size = static_cast<int32_t>(queries.shape(2));
  args.num_kv_heads = static_cast<int32_t>(keys.shape(1));
  args.block_size = static_cast<int32_t>(keys.shape(2));
  args.table_width = static_cast<int32_t>(block_tables.shape(1));
  args.num_sequences = num_sequences;
  args.window = window;
  args.scale = static_cast<T>(scale);
  args.soft_cap = static_cast<T>(soft_cap);
  if (args.head_size < 1 || args.head_size > kMaxHeadSize || args.num_kv_heads < 1 ||
      args.block_size < 1 || args.num_heads % args.num_kv_heads != 0) {
    throw std::invalid_argument("attention: head sizes or counts do not fit together");
  }
  expect_shape(new_keys, {args.num_tokens, args.num_kv_heads, args.head_size}, "new_keys");
  expect_shape(new_values, {args.num_tokens, args.num_kv_heads, args.head_size}, "new_values");
  expect_shape(keys, {keys.shape(0), args.num_kv_heads, args.block_size, args.head_size}, "keys");
  expect_shape(values, {keys.shape(0), args.num_kv_heads, args.block_size, args.head_size},
               "values");
  expect_shape(output, {args.num_tokens, args.num_heads, args.head_size}, "output");
  if (num_sequences < 0 || num_sequences > block_tables.shape(0)) {
    throw std::invalid_argument("num_sequences: expected 0 to the rows of block_tables");
  }
  args.queries = data_of<const T>(queries, queries.size(), "queries");
  args.new_keys = data_of<const T>(new_keys, new_keys.size(), "new_keys");
  args.new_values = data_of<const T>(new_values, new_values.size(), "new_values");
  args.keys = data_of<T>(keys, keys.size(), "keys");
  args.values = data_of<T>(values, keys.size(), "values");
  args.output = data_of<T>(output, queries.size(), "output");
  args.slots = data_of<const int32_t>(slots, args.num_tokens, "slots");
  args.query_starts =
      data_of<const int32_t>(query_starts, int64_t{num_sequences} + 1, "query_starts");
  args.context_lens = data_of<const int32_t>(context_lens, num_sequences, "context_lens");
  args.block_tables = data_of<const int32_t>(block_tables, block_tables.size(), "block_tables");
  check_plan(args, keys.shape(0));
  py::gil_scoped_release release;
  paged_attention(args);
}

void any_attention(const py::array& queries, const py::array& new_keys, const py::array& new_values,
                   const py::array& keys, const py::array& values, const py::array& output,
                   const py::array& slots, const py::array& query_starts,
                   const py::array& context_lens, const py::array& block_tables,
                   int32_t num_sequences, double scale, double soft_cap, int32_t window) {
  const auto run =
      py::isinstance<py::array_t<double>>(queries) ? attention<double> : attention<float>;
  run(queries, new_keys, new_values, keys, values, output, slots, query_starts, context_lens,
      block_tables, num_sequences, scale, soft_cap, window);
}

}  // namespace

void bind_kernels(py::module_& module) {
  using namespace py::literals;
  module.def("paged_attention", &any_attention, "queries"_a, "new_keys"_a, "new_values"_a, "keys"_a,
             "values"_a, "output"_a, "slots"_a, "query_starts"_a, "context_lens"_a,
             "block_tables"_a, "num_sequences"_a, "scale"_a, "soft_cap"_a, "window"_a);
  module.def("limit_vectors", [](int32_t num_bytes) { vector_limit_bytes = num_bytes; });
  bind_layers(module);
  bind_rows(module);
  bind_packed_attention(module);
}

}  // namespace greater_fast
