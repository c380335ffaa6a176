// The Python side of the extension; the only file that knows pybind11.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "attention.h"
#include "linear.h"
#include "scheduler.h"
#include "simd.h"

namespace py = pybind11;

namespace greater_fast {

namespace {

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
  if (array.size() < least) {
    throw std::invalid_argument(std::string(name) + ": got " + std::to_string(array.size()) +
                                " elements, expected at least " + std::to_string(least));
  }
  return static_cast<T*>(const_cast<void*>(array.data()));
}

// A scheduler and the buffers it plans into, which Python allocated and reads.
class PyScheduler {
 public:
  PyScheduler(const SchedulerConfig& config, const py::dict& buffers)
      : scheduler_(config), buffers_(buffers.attr("copy")()) {
    const int64_t tokens = config.max_tokens;
    const int64_t sequences = config.max_sequences;
    const auto buffer = [this](const char* name, int64_t size) {
      if (!buffers_.contains(name)) {
        throw std::invalid_argument(std::string("buffers: ") + name + " is missing");
      }
      if (!py::isinstance<py::array>(buffers_[name])) {
        throw std::invalid_argument(std::string(name) + ": expected a numpy array");
      }
      return data_of<int32_t>(buffers_[name].cast<py::array>(), size, name);
    };
    plan_ = {
        buffer("tokens", tokens),          buffer("positions", tokens),
        buffer("slots", tokens),           buffer("query_starts", sequences + 1),
        buffer("context_lens", sequences), buffer("block_tables", sequences * config.table_width),
        buffer("logit_rows", tokens),      buffer("targets", tokens),
        buffer("target_kinds", tokens),    buffer("row_keys", tokens),
        buffer("copies", 2 * sequences)};
  }

  py::tuple plan() {
    PlanCounts counts;
    {
      py::gil_scoped_release release;
      counts = scheduler_.plan(plan_);
    }
    return py::make_tuple(counts.num_tokens, counts.num_sequences, counts.num_logit_rows,
                          counts.num_copies, counts.num_padding);
  }

  void commit(const py::array& argmax, const py::array& logprobs,
              const std::optional<py::array>& sampled) {
    const int64_t num_rows = argmax.size();
    Answers answers;
    answers.argmax = data_of<const int32_t>(argmax, num_rows, "argmax");
    answers.logprobs = data_of<const float>(logprobs, num_rows, "logprobs");
    if (sampled) answers.sampled = data_of<const int32_t>(*sampled, num_rows, "sampled");
    py::gil_scoped_release release;
    scheduler_.commit(answers, static_cast<int32_t>(num_rows));
  }

  py::list take_finished() {
    py::list finished;
    for (Outcome& o : scheduler_.take_finished()) {
      finished.append(py::make_tuple(
          o.key, py::tuple(py::cast(o.reasoning_ids)), py::tuple(py::cast(o.answer_ids)),
          py::tuple(py::cast(o.prompt_nll)), py::tuple(py::cast(o.target_logprobs)),
          py::tuple(py::cast(o.target_hits))));
    }
    return finished;
  }

  py::tuple cached_prefix(const std::vector<int32_t>& ids) const {
    PrefixMatch found = scheduler_.stored_prefix(ids);
    const auto num_whole = static_cast<int32_t>(found.shared.size());
    if (found.copy_from >= 0) found.shared.push_back(found.copy_from);
    return py::make_tuple(num_whole * scheduler_.block_size() + found.copy_tokens, found.shared);
  }

  py::dict statistics() const {
    const Statistics& s = scheduler_.statistics();
    py::dict values;
    values["steps"] = s.steps;
    values["computed_tokens"] = s.computed_tokens;
    values["padding_tokens"] = s.padding_tokens;
    values["prompt_tokens"] = s.prompt_tokens;
    values["shared_tokens"] = s.shared_tokens;
    values["generated_tokens"] = s.generated_tokens;
    values["drafted_tokens"] = s.drafted_tokens;
    values["accepted_tokens"] = s.accepted_tokens;
    values["preemptions"] = s.preemptions;
    values["logit_rows"] = s.logit_rows;
    return values;
  }

  Scheduler& scheduler() { return scheduler_; }

 private:
  Scheduler scheduler_;
  py::dict buffers_;  // keeps the arrays alive, whatever becomes of the caller's
  PlanBuffers plan_;
};

void expect_shape(const py::array& array, const std::vector<int64_t>& shape, const char* name) {
  if (std::vector<int64_t>(array.shape(), array.shape() + array.ndim()) == shape) return;
  std::string message = std::string(name) + ": expected shape [";
  for (const int64_t size : shape) message += std::to_string(size) + ", ";
  throw std::invalid_argument(message.substr(0, message.size() - 2) + "]");
}

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

template <typename T>
void linear_of(const py::array& inputs, const py::array& weights, const py::object& bias,
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
    const py::array terms = bias.cast<py::array>();
    expect_shape(terms, {args.num_outputs}, "bias");
    args.bias = data_of<const T>(terms, terms.size(), "bias");
  }
  py::gil_scoped_release release;
  linear(args);
}

void any_linear(const py::array& inputs, const py::array& weights, const py::object& bias,
                const py::array& outputs) {
  const auto run =
      py::isinstance<py::array_t<double>>(inputs) ? linear_of<double> : linear_of<float>;
  run(inputs, weights, bias, outputs);
}

}  // namespace

PYBIND11_MODULE(_core, module) {
  module.doc() = "Scheduler, block pool and CPU attention of greater_fast's rollout engine.";
  using namespace py::literals;

  py::class_<PyScheduler>(module, "Scheduler")
      .def(py::init([](const py::dict& buffers, int32_t num_blocks, int32_t block_size,
                       int32_t table_width, int32_t max_tokens, int32_t min_tokens,
                       bool fixed_tokens, int32_t max_sequences, int32_t vocab_size,
                       int32_t draft_tokens, bool share_prefixes) {
             SchedulerConfig config;
             config.num_blocks = num_blocks;
             config.block_size = block_size;
             config.table_width = table_width;
             config.max_tokens = max_tokens;
             config.min_tokens = min_tokens;
             config.fixed_tokens = fixed_tokens;
             config.max_sequences = max_sequences;
             config.vocab_size = vocab_size;
             config.draft_tokens = draft_tokens;
             config.share_prefixes = share_prefixes;
             return std::make_unique<PyScheduler>(config, buffers);
           }),
           "buffers"_a, py::kw_only(), "num_blocks"_a, "block_size"_a, "table_width"_a,
           "max_tokens"_a, "min_tokens"_a = 1, "fixed_tokens"_a = false, "max_sequences"_a,
           "vocab_size"_a = SchedulerConfig().vocab_size, "draft_tokens"_a = 0,
           "share_prefixes"_a = true)
      .def(
          "submit",
          [](PyScheduler& self, int64_t key, int64_t group, std::vector<int32_t> prompt_ids,
             std::pair<int32_t, int32_t> prompt_span, std::vector<int32_t> draft_ids,
             std::vector<int32_t> target_ids, int32_t num_scored, int32_t max_new_tokens,
             int32_t max_answer_tokens, std::vector<int32_t> end_ids) {
            Request request;
            request.key = key;
            request.group = group;
            request.prompt_ids = std::move(prompt_ids);
            request.span_start = prompt_span.first;
            request.span_stop = prompt_span.second;
            request.draft_ids = std::move(draft_ids);
            request.target_ids = std::move(target_ids);
            request.num_scored = num_scored;
            request.max_new_tokens = max_new_tokens;
            request.max_answer_tokens = max_answer_tokens;
            request.end_ids = std::move(end_ids);
            self.scheduler().submit(std::move(request));
          },
          py::kw_only(), "key"_a, "group"_a = 0, "prompt_ids"_a,
          "prompt_span"_a = std::pair<int32_t, int32_t>{0, 0},
          "draft_ids"_a = std::vector<int32_t>{}, "target_ids"_a = std::vector<int32_t>{},
          "num_scored"_a = 0, "max_new_tokens"_a, "max_answer_tokens"_a = 0,
          "end_ids"_a = std::vector<int32_t>{})
      .def(
          "cancel", [](PyScheduler& self, int64_t key) { return self.scheduler().cancel(key); },
          "key"_a)
      .def(
          "cancel_group",
          [](PyScheduler& self, int64_t group) { return self.scheduler().cancel_group(group); },
          "group"_a)
      .def("abort", [](PyScheduler& self) { self.scheduler().abort(); })
      .def("plan", &PyScheduler::plan)
      .def("commit", &PyScheduler::commit, "argmax"_a, "logprobs"_a, "sampled"_a = std::nullopt)
      .def("take_finished", &PyScheduler::take_finished)
      .def("cached_prefix", &PyScheduler::cached_prefix, "ids"_a)
      .def("statistics", &PyScheduler::statistics)
      .def("check_integrity", [](PyScheduler& self) { self.scheduler().check_integrity(); })
      .def_property_readonly("idle", [](PyScheduler& self) { return self.scheduler().idle(); })
      .def_property_readonly("num_running",
                             [](PyScheduler& self) { return self.scheduler().num_running(); })
      .def_property_readonly("num_waiting",
                             [](PyScheduler& self) { return self.scheduler().num_waiting(); })
      .def_property_readonly("num_free_blocks",
                             [](PyScheduler& self) { return self.scheduler().num_free_blocks(); });

  module.def("paged_attention", &any_attention, "queries"_a, "new_keys"_a, "new_values"_a, "keys"_a,
             "values"_a, "output"_a, "slots"_a, "query_starts"_a, "context_lens"_a,
             "block_tables"_a, "num_sequences"_a, "scale"_a, "soft_cap"_a, "window"_a);
  module.def("limit_vectors", [](int32_t num_bytes) { vector_limit_bytes = num_bytes; });
  module.def("linear", &any_linear, "inputs"_a, "weights"_a, "bias"_a, "outputs"_a);
}

}  // namespace greater_fast
