// The extension module, and the scheduler as Python sees it.
#include <pybind11/functional.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/arrays.h"
#include "scheduling/scheduler.h"

namespace greater_fast {

namespace {

py::object number_or_none(int32_t number) {
  return number < 0 ? py::object(py::none()) : py::object(py::int_(number));
}

// Python's word on a text: how many of its ids stay, what follows them, and a number; or None.
using PyCut = std::optional<std::tuple<int32_t, std::vector<int32_t>, int32_t>>;

std::shared_ptr<Stop> make_stop(
    std::vector<int32_t> last_ids,
    const std::function<PyCut(const std::vector<int32_t>&, int32_t)>& cut) {
  if (!cut) throw std::invalid_argument("cut: expected a function, got None");
  std::sort(last_ids.begin(), last_ids.end());
  // The caster of `cut` takes the GIL for each call, and to be dropped.
  return std::make_shared<Stop>(
      Stop{std::move(last_ids), [cut](const std::vector<int32_t>& ids, int32_t limit) {
             const PyCut found = cut(ids, limit);
             std::optional<Cut> made;
             if (found) made = Cut{std::get<0>(*found), std::get<1>(*found), std::get<2>(*found)};
             return made;
           }});
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
    const Busy busy(*this);
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
    const Busy busy(*this);
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
    for (Outcome& o : scheduler().take_finished()) {
      finished.append(py::make_tuple(
          o.key, py::tuple(py::cast(o.reasoning_ids)), py::tuple(py::cast(o.answer_ids)),
          py::tuple(py::cast(o.prompt_nll)), py::tuple(py::cast(o.target_logprobs)),
          py::tuple(py::cast(o.target_hits)), number_or_none(o.end_id), number_or_none(o.stop)));
    }
    return finished;
  }

  py::tuple cached_prefix(const std::vector<int32_t>& ids) {
    PrefixMatch found = scheduler().stored_prefix(ids);
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

  // For whoever changes or walks it: not while a step is planned or committed, which gives up the
  // GIL, and calls Python for texts.
  Scheduler& scheduler() {
    if (is_busy_) throw std::invalid_argument("scheduler: it is at work on a step");
    return scheduler_;
  }
  const Scheduler& counts() const { return scheduler_; }

 private:
  // Held while a step is planned or committed; made and dropped under the GIL.
  class Busy {
   public:
    explicit Busy(PyScheduler& owner) : owner_(owner) {
      owner.scheduler();
      owner_.is_busy_ = true;
    }
    ~Busy() { owner_.is_busy_ = false; }
    Busy(const Busy&) = delete;
    Busy& operator=(const Busy&) = delete;

   private:
    PyScheduler& owner_;
  };

  Scheduler scheduler_;
  py::dict buffers_;  // keeps the arrays alive, whatever becomes of the caller's
  PlanBuffers plan_;
  bool is_busy_ = false;
};

}  // namespace

PYBIND11_MODULE(_core, module) {
  module.doc() = "Scheduler, block pool and CPU attention of greater_fast's rollout engine.";
  using namespace py::literals;

  py::class_<Stop, std::shared_ptr<Stop>>(module, "Stop")
      .def(py::init(&make_stop), "last_ids"_a, "cut"_a);

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
             int32_t max_answer_tokens, std::vector<int32_t> end_ids, std::shared_ptr<Stop> stop,
             std::shared_ptr<Stop> answer_stop) {
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
            request.stop = std::move(stop);
            request.answer_stop = std::move(answer_stop);
            self.scheduler().submit(std::move(request));
          },
          py::kw_only(), "key"_a, "group"_a = 0, "prompt_ids"_a,
          "prompt_span"_a = std::pair<int32_t, int32_t>{0, 0},
          "draft_ids"_a = std::vector<int32_t>{}, "target_ids"_a = std::vector<int32_t>{},
          "num_scored"_a = 0, "max_new_tokens"_a, "max_answer_tokens"_a = 0,
          "end_ids"_a = std::vector<int32_t>{}, "stop"_a = nullptr, "answer_stop"_a = nullptr)
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
      .def_property_readonly("idle", [](PyScheduler& self) { return self.counts().idle(); })
      .def_property_readonly("num_running",
                             [](PyScheduler& self) { return self.counts().num_running(); })
      .def_property_readonly("num_waiting",
                             [](PyScheduler& self) { return self.counts().num_waiting(); })
      .def_property_readonly("num_free_blocks",
                             [](PyScheduler& self) { return self.counts().num_free_blocks(); });

  bind_kernels(module);
}

}  // namespace greater_fast
