// One step: what of which sequence goes through the model, and what its answers come to.
#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <utility>

#include "scheduling/scheduler.h"

namespace greater_fast {

namespace {

// Requests that wait for a prefix being computed and are passed over in one step, at most.
constexpr size_t kMostPending = 64;

}  // namespace

int32_t Scheduler::goal(const Sequence& s) const {
  // Behind the last scored token nothing follows: its own K/V is not needed.
  return size_of(s.tokens) - (s.phase == Phase::kTarget ? 1 : 0);
}

float* Scheduler::wanted_at(Sequence& s, int32_t position) const {
  const int32_t next = position + 1;
  if (next >= s.request.span_start && next < s.request.span_stop) {
    float& nll = s.prompt_nll[next - s.request.span_start];
    return std::isnan(nll) ? &nll : nullptr;
  }
  const int32_t scored = next - s.first_scored;
  if (s.first_scored > 0 && scored >= 0 && scored < s.request.num_scored) {
    float& logprob = s.target_logprobs[scored];
    return std::isnan(logprob) ? &logprob : nullptr;
  }
  return nullptr;
}

bool Scheduler::scores_at_end(const Sequence& s) const {
  return s.phase == Phase::kReasoning && s.request.num_scored > 0 &&
         s.request.num_scored == size_of(s.request.target_ids);
}

PlanCounts Scheduler::plan(const PlanBuffers& buffers) {
  if (in_step_) throw std::invalid_argument("plan: the last step is not committed");
  int32_t budget = config_.max_tokens;
  for (const bool prefill : {false, true}) {
    for (size_t i = 0; i < running_.size(); ++i) {
      Sequence& s = *running_[i];
      const bool in_prompt = s.num_computed + 1 < size_of(s.request.prompt_ids);
      if (in_prompt != prefill || budget == 0) continue;
      budget -= schedule(s, budget);
    }
  }
  for (size_t i = 0; i < std::min(waiting_.size(), kMostPending) && budget > 0;) {
    if (static_cast<int32_t>(running_.size()) >= config_.max_sequences) break;
    const Admission admission = admit(*waiting_[i]);
    if (admission == Admission::kNoRoom) break;  // in order: nobody overtakes for want of room
    if (admission == Admission::kPrefixPending) {
      ++i;
      continue;
    }
    running_.push_back(std::move(waiting_[i]));
    waiting_.erase(waiting_.begin() + static_cast<ptrdiff_t>(i));
    budget -= schedule(*running_.back(), budget);
  }
  schedule_drafts(std::min(budget, config_.draft_tokens - (config_.max_tokens - budget)));

  PlanCounts counts;
  for (const SequencePtr& s : running_) {
    if (s->num_queries > 0) write(*s, buffers, counts);
  }
  if (counts.num_tokens == 0 && !idle()) throw std::logic_error("plan: no sequence can go on");
  buffers.query_starts[counts.num_sequences] = counts.num_tokens;
  statistics_.computed_tokens += counts.num_tokens;
  const int32_t least = config_.fixed_tokens ? config_.max_tokens : config_.min_tokens;
  if (config_.fixed_tokens) {
    for (int32_t i = counts.num_sequences; i < config_.max_sequences; ++i) {
      buffers.query_starts[i + 1] = counts.num_tokens;
      buffers.context_lens[i] = 0;
    }
  }
  for (; counts.num_tokens < least && counts.num_sequences > 0; ++counts.num_padding) {
    const int32_t i = counts.num_tokens++;
    buffers.tokens[i] = buffers.positions[i] = 0;
    buffers.slots[i] = counts.num_padding % config_.block_size;
  }
  for (const auto& [from, to] : copies_) {
    buffers.copies[2 * counts.num_copies] = from;
    buffers.copies[2 * counts.num_copies++ + 1] = to;
  }
  statistics_.padding_tokens += counts.num_padding;
  statistics_.logit_rows += counts.num_logit_rows;
  statistics_.steps += counts.num_sequences > 0;
  num_rows_ = counts.num_logit_rows;
  in_step_ = true;
  return counts;
}

int32_t Scheduler::schedule(Sequence& s, int32_t budget) {
  const int32_t wanted = std::min(goal(s) - s.num_computed, budget);
  const int32_t stop = s.num_computed + wanted;
  // With the block of the next known token: its NLL is kept there.
  while (!reserve(s, std::min(stop + 1, size_of(s.tokens)))) {
    Sequence& youngest = *running_.back();
    preempt_last();
    if (&youngest == &s) return 0;
  }
  s.num_queries = wanted;
  return wanted;
}

void Scheduler::preempt_last() {
  SequencePtr victim = std::move(running_.back());
  running_.pop_back();
  drop_blocks(*victim);
  victim->num_queries = 0;
  waiting_.push_front(std::move(victim));
  ++statistics_.preemptions;
}

void Scheduler::schedule_drafts(int32_t budget) {
  int32_t num_left = 0;
  const auto can_draft = [](const Sequence& s) {
    return s.phase == Phase::kReasoning && s.num_queries > 0 &&
           s.num_computed + s.num_queries == size_of(s.tokens);
  };
  for (const SequencePtr& s : running_) num_left += can_draft(*s);
  for (const SequencePtr& s : running_) {
    if (budget <= 0) return;
    if (!can_draft(*s)) continue;
    const int32_t share = std::max(1, budget / num_left--);
    const int32_t still = s->request.max_new_tokens - s->num_reasoning - 1;
    const Draft draft = s->drafter.propose(s->tokens, size_of(s->request.prompt_ids),
                                           std::min({share, budget, still}));
    if (draft.count == 0) continue;
    const int32_t needed = blocks_for(size_of(s->tokens) + draft.count);
    if (needed - size_of(s->blocks) > pool_.num_available()) continue;
    reserve(*s, size_of(s->tokens) + draft.count);
    // Without growing in memory: the draft may be a part of these very tokens.
    for (int32_t i = 0; i < draft.count; ++i) s->tokens.push_back(draft.ids[i]);
    s->num_drafted = draft.count;
    s->num_queries += draft.count;
    budget -= draft.count;
  }
}

void Scheduler::write(Sequence& s, const PlanBuffers& buffers, PlanCounts& counts) {
  const int32_t size = config_.block_size;
  const int32_t num_known = size_of(s.tokens) - s.num_drafted;
  const int32_t index = counts.num_sequences++;
  buffers.query_starts[index] = counts.num_tokens;
  buffers.context_lens[index] = s.num_computed + s.num_queries;
  std::copy(s.blocks.begin(), s.blocks.end(),
            buffers.block_tables + static_cast<ptrdiff_t>(index) * config_.table_width);
  s.first_row = counts.num_logit_rows;
  for (int32_t i = 0; i < s.num_queries; ++i) {
    const int32_t position = s.num_computed + i;
    const int32_t token = counts.num_tokens++;
    buffers.tokens[token] = s.tokens[position];
    buffers.positions[token] = position;
    // What others may read is not written again: that goes where padding goes.
    const BlockId block = position < s.num_shared ? 0 : s.blocks[position / size];
    buffers.slots[token] = block * size + position % size;
    const bool wanted = position + 1 < num_known && wanted_at(s, position) != nullptr;
    const bool generates = s.phase != Phase::kTarget && position >= num_known - 1;
    if (!wanted && !generates) continue;
    const int32_t row = counts.num_logit_rows++;
    buffers.logit_rows[row] = token;
    const bool may_end = !wanted && scores_at_end(s);
    buffers.targets[row] = wanted ? s.tokens[position + 1] : may_end ? s.request.target_ids[0] : -1;
    buffers.row_keys[row] = static_cast<int32_t>(s.request.key);
    buffers.target_kinds[row] = may_end || (wanted && position + 1 >= s.request.span_stop);
  }
}

void Scheduler::commit(const Answers& answers, int32_t num_rows) {
  if (!in_step_) throw std::invalid_argument("commit: there is no step to commit");
  if (num_rows != num_rows_) {
    throw std::invalid_argument("commit: got " + std::to_string(num_rows) + " rows, expected " +
                                std::to_string(num_rows_));
  }
  for (const int32_t* ids : {answers.argmax, answers.sampled}) {
    for (int32_t row = 0; ids != nullptr && row < num_rows; ++row) {
      if (ids[row] >= 0 && ids[row] < config_.vocab_size) continue;
      throw std::invalid_argument("commit: row " + std::to_string(row) + " says id " +
                                  std::to_string(ids[row]) + ", expected 0 to " +
                                  std::to_string(config_.vocab_size - 1));
    }
  }
  num_rows_ = -1;  // where a stop throws, no commit fits any more
  for (const BlockId id : copy_sources_) pool_.release(id);
  copy_sources_.clear();
  copies_.clear();
  for (const SequencePtr& s : running_) {
    if (s->num_queries > 0) commit_sequence(*s, answers);
  }
  running_.erase(std::remove_if(running_.begin(), running_.end(),
                                [](const SequencePtr& s) { return s->done; }),
                 running_.end());
  in_step_ = false;
}

void Scheduler::commit_sequence(Sequence& s, const Answers& answers) {
  const int32_t size = config_.block_size;
  const int32_t num_known = size_of(s.tokens) - s.num_drafted;
  drafts_.assign(s.tokens.begin() + num_known, s.tokens.end());
  s.tokens.resize(num_known);
  const int32_t stop = s.num_computed + s.num_queries - s.num_drafted;
  int32_t row = s.first_row;
  for (int32_t position = s.num_computed; position < stop; ++position) {
    if (position + 1 >= num_known) break;
    float* const wanted = wanted_at(s, position);
    if (wanted == nullptr) continue;
    const int32_t next = position + 1;
    if (next < s.request.span_stop) {
      *wanted = -answers.logprobs[row];
      pool_.nll(s.blocks[next / size] * size + next % size) = *wanted;
    } else {
      *wanted = answers.logprobs[row];
      s.target_hits[next - s.first_scored] = answers.argmax[row] == s.tokens[next];
    }
    ++row;
  }
  s.num_computed = stop;
  publish(s);
  const bool generates = s.phase != Phase::kTarget && stop == num_known;
  const int32_t num_drafted = std::exchange(s.num_drafted, 0);
  s.num_queries = 0;
  if (generates) {
    const int32_t* written = (answers.sampled ? answers.sampled : answers.argmax) + row;
    int32_t accepted = 0;
    const bool scores = scores_at_end(s);
    while (append_generated(s, written[accepted]) && accepted < num_drafted &&
           drafts_[accepted] == s.tokens.back()) {
      s.num_computed = num_known + ++accepted;
    }
    if (scores && s.phase != Phase::kReasoning && s.num_computed == s.first_scored) {
      s.target_logprobs[0] = answers.logprobs[row + accepted];
      s.target_hits[0] = answers.argmax[row + accepted] == s.request.target_ids[0];
    }
    s.drafter.learn(num_drafted, accepted);
    statistics_.drafted_tokens += num_drafted;
    statistics_.accepted_tokens += accepted;
  }
  if (s.phase == Phase::kTarget && s.num_computed >= goal(s)) s.done = true;
  if (s.done) finish(s);
}

}  // namespace greater_fast
