// The continuous batch: which tokens of which sequences go through the model in each step.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <vector>

#include "scheduling/block_pool.h"
#include "scheduling/drafter.h"

namespace greater_fast {

template <typename T>
int32_t size_of(const std::vector<T>& values) {
  return static_cast<int32_t>(values.size());
}

struct SchedulerConfig {
  int32_t num_blocks = 0;
  int32_t block_size = 16;
  int32_t table_width = 0;      // T: blocks of one sequence at most
  int32_t max_tokens = 256;     // M: token slots of a step
  int32_t min_tokens = 1;       // a step is padded to this many
  bool fixed_tokens = false;    // pad every step to M (one CUDA graph)
  int32_t max_sequences = 256;  // B: sequences of a step
  int32_t vocab_size = std::numeric_limits<int32_t>::max();
  int32_t draft_tokens = 0;  // drafts fill a step up to this many tokens; 0 turns them off
  bool share_prefixes = true;
};

// What stays of a generated text that ends: its first ids, then others, and what ended it.
struct Cut {
  int32_t num_kept = 0;
  std::vector<int32_t> ids;
  int32_t number = 0;
};

// What ends a generated text beside end ids: asked of the whole of it, with the most ids that it
// may have, whenever one of `last_ids` was written.
struct Stop {
  std::vector<int32_t> last_ids;  // sorted
  std::function<std::optional<Cut>(const std::vector<int32_t>&, int32_t)> cut;
};

// One sequence: prompt -> reasoning, then forced target tokens, then perhaps a generated answer.
struct Request {
  int64_t key = 0;  // an int32, as the plan's row_keys are
  int64_t group = 0;
  std::vector<int32_t> prompt_ids;
  int32_t span_start = 0;  // prompt tokens [start, stop) whose -log p is wanted
  int32_t span_stop = 0;
  std::vector<int32_t> draft_ids;
  std::vector<int32_t> target_ids;  // appended when the reasoning has ended
  int32_t num_scored = 0;           // the last of them, whose log p is wanted
  int32_t max_new_tokens = 0;
  int32_t max_answer_tokens = 0;  // generated behind the target
  std::vector<int32_t> end_ids;
  std::shared_ptr<const Stop> stop;         // of the reasoning
  std::shared_ptr<const Stop> answer_stop;  // of the generated answer
};

// What a finished request came to.
struct Outcome {
  int64_t key = 0;
  std::vector<int32_t> reasoning_ids;
  int32_t end_id = -1;  // what ended them, -1 where another thing did
  int32_t stop = -1;    // the number of the cut that ended them, -1 where there was none
  std::vector<int32_t> answer_ids;
  std::vector<float> prompt_nll;  // one a span token
  std::vector<float> target_logprobs;
  std::vector<uint8_t> target_hits;
};

// Buffers of one step, allocated by the caller once. Tokens past the last query range are padding.
struct PlanBuffers {
  int32_t* tokens;        // [M] token ids
  int32_t* positions;     // [M] places in their sequences
  int32_t* slots;         // [M] K/V slots to write, block * block_size + offset
  int32_t* query_starts;  // [B + 1] first token of each sequence
  int32_t* context_lens;  // [B] tokens each sequence has after this step's are in
  int32_t* block_tables;  // [B, T]
  int32_t* logit_rows;    // [M] tokens whose logits are needed
  int32_t* targets;       // [M] id whose log p is wanted there, or -1
  int32_t* target_kinds;  // [M] 1 where it is an answer's (the temperature of the loss), else 0
  int32_t* row_keys;      // [M] key of the request each logit row belongs to
  int32_t* copies;        // [B, 2] blocks (from, to), all read before any is written
};

struct PlanCounts {
  int32_t num_tokens = 0;  // with padding
  int32_t num_sequences = 0;
  int32_t num_logit_rows = 0;
  int32_t num_copies = 0;
  int32_t num_padding = 0;
};

// What the model says at the logit rows, [R] each.
struct Answers {
  const int32_t* argmax = nullptr;
  const float* logprobs = nullptr;   // of the targets
  const int32_t* sampled = nullptr;  // what is written where text is generated, unless the argmax
};

struct Statistics {
  int64_t steps = 0;
  int64_t computed_tokens = 0;  // went through the model, without padding
  int64_t padding_tokens = 0;
  int64_t prompt_tokens = 0;     // known of sequences as they are admitted, or are so again
  int64_t shared_tokens = 0;     // of those, not computed
  int64_t generated_tokens = 0;  // end ids included
  int64_t drafted_tokens = 0;
  int64_t accepted_tokens = 0;
  int64_t preemptions = 0;
  int64_t logit_rows = 0;
};

class Scheduler {
 public:
  explicit Scheduler(const SchedulerConfig& config);

  // Throws std::invalid_argument for a request that can never run.
  void submit(Request request);
  // Drop a request, or all of a group, wherever they are; how many there were. Throws
  // std::invalid_argument before the last step is committed.
  int32_t cancel(int64_t key);
  int32_t cancel_group(int64_t group);

  // Drop everything, and a step that was planned but will not be committed.
  void abort();

  // Fill the buffers for one step. Throws std::invalid_argument before the last one is committed.
  PlanCounts plan(const PlanBuffers& buffers);
  // Take the model's answers. Throws std::invalid_argument where they cannot be such, and then
  // waits for better ones. What a stop throws comes through: then `abort` alone helps.
  void commit(const Answers& answers, int32_t num_rows);
  // Outcomes since the last call, in the order they finished.
  std::vector<Outcome> take_finished();

  bool idle() const { return waiting_.empty() && running_.empty(); }
  int32_t num_running() const { return static_cast<int32_t>(running_.size()); }
  int32_t num_waiting() const { return static_cast<int32_t>(waiting_.size()); }
  int32_t blocks_for(int64_t num_tokens) const;
  // The longest stored prefix of some ids. Nobody holds its blocks: they are sure until the next
  // plan.
  PrefixMatch stored_prefix(const std::vector<int32_t>& ids) const {
    return pool_.match(ids.data(), static_cast<int32_t>(ids.size()));
  }
  const Statistics& statistics() const { return statistics_; }
  int32_t block_size() const { return config_.block_size; }
  int32_t num_free_blocks() const { return pool_.num_available(); }
  // Throws std::logic_error at the first contradiction.
  void check_integrity() const;

 private:
  // kTarget has nothing to generate any more; the other two do.
  enum class Phase { kReasoning, kTarget, kAnswer };

  struct Sequence {
    Request request;
    Phase phase = Phase::kReasoning;
    std::vector<int32_t> tokens;  // all that are known, and between plan and commit the drafts
    int32_t num_computed = 0;     // whose K/V is in the cache
    int32_t num_shared = 0;       // of the first ones, which were there when it was admitted
    int32_t num_reasoning = 0;    // generated, without the end id
    int32_t end_id = -1;          // of the reasoning
    int32_t stop = -1;            // the number of its cut
    int32_t num_answer = 0;
    int32_t first_scored = 0;  // place of the first scored token, once it is known
    std::vector<BlockId> blocks;
    bool announcing = false;
    int32_t num_announced = 0;           // of the first blocks, in the trie
    int32_t num_published = 0;           // of those, computed
    std::vector<float> prompt_nll;       // NaN until known
    std::vector<float> target_logprobs;  // NaN until known
    std::vector<uint8_t> target_hits;
    Drafter drafter;
    bool done = false;
    // Between plan and commit.
    int32_t num_queries = 0;  // drafts included
    int32_t num_drafted = 0;
    int32_t first_row = 0;  // of its logit rows
  };
  using SequencePtr = std::unique_ptr<Sequence>;

  template <typename Predicate>
  int32_t cancel_if(Predicate matches);
  // Tokens that need to be computed.
  int32_t goal(const Sequence& s) const;
  // Where the log p of the token behind `position` goes, if it is wanted and unknown.
  float* wanted_at(Sequence& s, int32_t position) const;
  // Whether the first scored token follows the reasoning at once: the row of the end id is its row.
  bool scores_at_end(const Sequence& s) const;
  enum class Admission { kAdmitted, kPrefixPending, kNoRoom };
  Admission admit(Sequence& s);
  bool reserve(Sequence& s, int32_t num_tokens);
  void publish(Sequence& s);
  void drop_blocks(Sequence& s);
  int32_t schedule(Sequence& s, int32_t budget);
  void preempt_last();
  void schedule_drafts(int32_t budget);
  void write(Sequence& s, const PlanBuffers& buffers, PlanCounts& counts);
  void commit_sequence(Sequence& s, const Answers& answers);
  bool append_generated(Sequence& s, int32_t token);
  bool cut_at_stop(Sequence& s);
  void end_generation(Sequence& s);
  void finish(Sequence& s);

  SchedulerConfig config_;
  BlockPool pool_;
  std::deque<SequencePtr> waiting_;
  std::vector<SequencePtr> running_;  // oldest first
  std::vector<std::pair<BlockId, BlockId>> copies_;
  std::vector<BlockId> copy_sources_;  // held until the copies are made
  std::vector<Outcome> finished_;
  std::vector<int32_t> drafts_;  // of the sequence that is being committed
  PrefixMatch found_;            // of the sequence that is being admitted
  bool in_step_ = false;
  int32_t num_rows_ = 0;
  Statistics statistics_;
};

}  // namespace greater_fast
