// What plan() and commit() cost while sequences decode: time and heap allocations of a step, as
// JSON: bench_scheduler [SEQUENCES [ROUNDS]].
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <vector>

#include "scheduling/plan_memory.h"
#include "scheduling/scheduler.h"

namespace {

int64_t num_allocations = 0;

}  // namespace

void* operator new(size_t size) {
  ++num_allocations;
  if (void* memory = std::malloc(size > 0 ? size : 1)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace greater_fast {
namespace {

using Ids = std::vector<int32_t>;
using Clock = std::chrono::steady_clock;
using Microseconds = std::chrono::duration<double, std::micro>;

constexpr int32_t kVocab = 1 << 15;
constexpr int32_t kHead = 64;       // prompt tokens that all sequences share
constexpr int32_t kPrompt = 80;     // all of them
constexpr int32_t kWritten = 256;   // tokens each writes
constexpr int32_t kBlockSize = 16;  // as in kv_cache.py
constexpr int32_t kWarmUp = 16;     // steps before it is measured
constexpr int32_t kAgreed = 15;     // of 16 words siblings say the same

enum class Siblings { kNone, kAlike, kStrange };

// The word of a sequence at a place: it does not depend on any other.
int32_t word(int64_t key, int32_t position) {
  uint64_t x = static_cast<uint64_t>(key + 5000) * 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 31) ^ static_cast<uint64_t>(position)) * 0xbf58476d1ce4e5b9;
  return static_cast<int32_t>((x ^ (x >> 29)) % kVocab);
}

Request request_of(int32_t key, Siblings siblings) {
  Request request;
  request.key = key;
  request.max_new_tokens = kWritten;
  for (int32_t i = 0; i < kPrompt; ++i) {
    request.prompt_ids.push_back(word(i < kHead ? -1 : key, i));
  }
  for (int32_t i = kPrompt; siblings != Siblings::kNone && i < kPrompt + kWritten; ++i) {
    const bool agrees = siblings == Siblings::kAlike && i % 16 < kAgreed;
    request.draft_ids.push_back(word(agrees ? key : -2 - key, i));
  }
  return request;
}

struct Figures {
  int32_t steps = 0;
  Microseconds time{};
  double tokens = 0;
  int64_t allocations = 0;
};

// Add up the steps in which all sequences decode, from the one after the warm-up on.
void measure(int32_t num_sequences, Siblings siblings, Figures* sum) {
  SchedulerConfig config;
  config.block_size = kBlockSize;
  config.table_width = (kPrompt + kWritten) / kBlockSize;
  config.num_blocks = 1 + num_sequences * config.table_width;
  config.max_tokens = 2 * num_sequences;
  config.max_sequences = num_sequences;
  config.vocab_size = kVocab;
  config.draft_tokens = siblings == Siblings::kNone ? 0 : config.max_tokens;
  Scheduler scheduler(config);
  const PlanMemory memory(config);
  const PlanBuffers& plan = memory.buffers();
  for (int32_t key = 0; key < num_sequences; ++key) scheduler.submit(request_of(key, siblings));

  Ids argmax(config.max_tokens);
  const std::vector<float> logprobs(config.max_tokens);
  for (int32_t decoding = 0; !scheduler.idle();) {
    const int64_t before = num_allocations;
    const Clock::time_point start = Clock::now();
    const PlanCounts counts = scheduler.plan(plan);
    const Microseconds planning = Clock::now() - start;
    int32_t num_generating = 0;
    for (int32_t row = 0; row < counts.num_logit_rows; ++row) {
      const int32_t position = plan.positions[plan.logit_rows[row]];
      num_generating += row == 0 || plan.row_keys[row] != plan.row_keys[row - 1];
      argmax[row] = word(plan.row_keys[row], position + 1);
    }
    const Clock::time_point answered = Clock::now();
    scheduler.commit({argmax.data(), logprobs.data()}, counts.num_logit_rows);
    const Microseconds committing = Clock::now() - answered;
    const bool all = num_generating == num_sequences && scheduler.num_running() == num_sequences;
    if (!all || ++decoding <= kWarmUp) continue;
    ++sum->steps;
    sum->time += planning + committing;
    sum->tokens += counts.num_tokens;
    sum->allocations += num_allocations - before;
  }
  for (const Outcome& outcome : scheduler.take_finished()) {
    for (int32_t i = 0; i < kWritten; ++i) {
      if (outcome.reasoning_ids.at(i) == word(outcome.key, kPrompt + i)) continue;
      throw std::logic_error("a sequence says a wrong word");
    }
  }
}

void print(const char* name, const Figures& sum, const char* end) {
  std::printf(
      "  \"%s\": {\"microseconds\": %.2f, \"allocations\": %.3f, \"tokens\": %.1f, \"steps\": "
      "%d}%s",
      name, sum.time.count() / sum.steps, static_cast<double>(sum.allocations) / sum.steps,
      sum.tokens / sum.steps, sum.steps, end);
}

int run(int32_t num_sequences, int32_t num_rounds) {
  Figures off, alike, strange;
  for (int32_t round = 0; round < num_rounds; ++round) {
    measure(num_sequences, Siblings::kNone, &off);
    measure(num_sequences, Siblings::kAlike, &alike);
    measure(num_sequences, Siblings::kStrange, &strange);
  }
  std::printf("{\n");
  print("drafts off", off, ",\n");
  print("siblings alike", alike, ",\n");
  print("siblings strange", strange, "\n}\n");
  return 0;
}

}  // namespace
}  // namespace greater_fast

int main(int argc, char** argv) {
  return greater_fast::run(argc > 1 ? std::atoi(argv[1]) : 256, argc > 2 ? std::atoi(argv[2]) : 5);
}
