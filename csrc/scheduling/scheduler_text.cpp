// What is generated: token by token, to an end id, a stop or the limit, and what follows then.
#include <algorithm>
#include <optional>
#include <stdexcept>
#include <utility>

#include "scheduling/scheduler.h"

namespace greater_fast {

bool Scheduler::append_generated(Sequence& s, int32_t token) {
  ++statistics_.generated_tokens;
  const std::vector<int32_t>& ends = s.request.end_ids;
  const bool ended = std::find(ends.begin(), ends.end(), token) != ends.end();
  const bool reasons = s.phase == Phase::kReasoning;
  int32_t& count = reasons ? s.num_reasoning : s.num_answer;
  if (!ended) {
    s.tokens.push_back(token);
    ++count;
  } else if (reasons) {
    s.end_id = token;
  }
  const int32_t limit = reasons ? s.request.max_new_tokens : s.request.max_answer_tokens;
  if (!ended && !cut_at_stop(s) && count < limit) return true;
  end_generation(s);
  return false;
}

bool Scheduler::cut_at_stop(Sequence& s) {
  const bool reasons = s.phase == Phase::kReasoning;
  const Stop* const stop = (reasons ? s.request.stop : s.request.answer_stop).get();
  if (stop == nullptr ||
      !std::binary_search(stop->last_ids.begin(), stop->last_ids.end(), s.tokens.back())) {
    return false;
  }
  int32_t& count = reasons ? s.num_reasoning : s.num_answer;
  const int32_t limit = reasons ? s.request.max_new_tokens : s.request.max_answer_tokens;
  const int32_t start = size_of(s.tokens) - count;
  const std::optional<Cut> cut = stop->cut({s.tokens.begin() + start, s.tokens.end()}, limit);
  if (!cut) return false;
  const bool fits =
      cut->num_kept >= 0 && cut->num_kept <= count && size_of(cut->ids) <= limit - cut->num_kept;
  const bool are_ids = std::all_of(cut->ids.begin(), cut->ids.end(), [this](int32_t id) {
    return id >= 0 && id < config_.vocab_size;
  });
  if (!fits || !are_ids) throw std::invalid_argument("stop: a cut that no text can be");
  const int32_t kept = start + cut->num_kept;
  s.tokens.resize(kept);
  s.tokens.insert(s.tokens.end(), cut->ids.begin(), cut->ids.end());
  count = size_of(s.tokens) - start;
  if (reasons) s.stop = cut->number;
  if (kept < s.num_computed) {
    // The row of the last kept token is wanted once more: what follows it is another now.
    s.num_computed = kept - 1;
    s.num_shared = kept;
  }
  return true;
}

void Scheduler::end_generation(Sequence& s) {
  const bool reasons = s.phase == Phase::kReasoning;
  const std::vector<int32_t>& target = s.request.target_ids;
  if (reasons && (s.request.num_scored > 0 || s.request.max_answer_tokens > 0)) {
    s.tokens.insert(s.tokens.end(), target.begin(), target.end());
    s.first_scored = size_of(s.tokens) - s.request.num_scored;
    s.phase = s.request.max_answer_tokens > 0 ? Phase::kAnswer : Phase::kTarget;
  } else {
    s.done = true;
  }
}

void Scheduler::finish(Sequence& s) {
  Outcome outcome;
  outcome.key = s.request.key;
  const auto reasoning = s.tokens.begin() + size_of(s.request.prompt_ids);
  outcome.reasoning_ids.assign(reasoning, reasoning + s.num_reasoning);
  outcome.end_id = s.end_id;
  outcome.stop = s.stop;
  outcome.answer_ids.assign(s.tokens.end() - s.num_answer, s.tokens.end());
  outcome.prompt_nll = std::move(s.prompt_nll);
  outcome.target_logprobs = std::move(s.target_logprobs);
  outcome.target_hits = std::move(s.target_hits);
  finished_.push_back(std::move(outcome));
  drop_blocks(s);
}

}  // namespace greater_fast
