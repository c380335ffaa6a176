// From a request to its outcome: who is let in, and what blocks it holds until it leaves.
#include "scheduling/scheduler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

namespace greater_fast {

namespace {

constexpr float kUnknown = std::numeric_limits<float>::quiet_NaN();

void require(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument(message);
}

void require_ids(const std::vector<int32_t>& ids, int32_t vocab_size, const char* name) {
  for (const int32_t id : ids) {
    if (id >= 0 && id < vocab_size) continue;
    throw std::invalid_argument(std::string(name) + " holds the id " + std::to_string(id) +
                                ", expected 0 to " + std::to_string(vocab_size - 1));
  }
}

SchedulerConfig checked(const SchedulerConfig& config) {
  require(config.block_size >= 1, "block_size: expected at least 1");
  require(config.num_blocks >= 2, "num_blocks: expected at least 2, block 0 is kept for padding");
  require(int64_t{config.num_blocks} * config.block_size <= INT32_MAX,
          "num_blocks: expected as many slots as an int32 counts, at most");
  require(config.table_width >= 1, "table_width: expected at least 1");
  require(config.max_tokens >= 1, "max_tokens: expected at least 1");
  require(config.min_tokens >= 0 && config.min_tokens <= config.max_tokens,
          "min_tokens: expected 0 to max_tokens");
  require(config.max_sequences >= 1 && config.max_sequences <= config.max_tokens,
          "max_sequences: expected 1 to max_tokens");
  require(config.vocab_size >= 1, "vocab_size: expected at least 1");
  require(config.draft_tokens >= 0 && config.draft_tokens <= config.max_tokens,
          "draft_tokens: expected 0 to max_tokens");
  return config;
}

}  // namespace

Scheduler::Scheduler(const SchedulerConfig& config)
    : config_(checked(config)), pool_(config.num_blocks, config.block_size) {
  // What steps use, so that none of them allocates.
  running_.reserve(config.max_sequences);
  copies_.reserve(config.max_sequences);
  copy_sources_.reserve(config.max_sequences);
  drafts_.reserve(config.draft_tokens);
}

int32_t Scheduler::blocks_for(int64_t num_tokens) const {
  return static_cast<int32_t>((num_tokens + config_.block_size - 1) / config_.block_size);
}

void Scheduler::submit(Request request) {
  const int32_t num_prompt = size_of(request.prompt_ids);
  require(request.key == static_cast<int32_t>(request.key), "key: expected an int32");
  require(num_prompt >= 1, "prompt_ids is empty");
  require_ids(request.prompt_ids, config_.vocab_size, "prompt_ids");
  require_ids(request.draft_ids, config_.vocab_size, "draft_ids");
  require_ids(request.target_ids, config_.vocab_size, "target_ids");
  require(request.span_start <= request.span_stop && request.span_stop <= num_prompt &&
              (request.span_start >= 1 || request.span_stop == request.span_start),
          "prompt span: expected 1 <= start <= stop <= length of the prompt");
  require(request.num_scored >= 0 && request.num_scored <= size_of(request.target_ids),
          "num_scored: expected 0 to the length of target_ids");
  require(request.max_new_tokens >= 0 && request.max_answer_tokens >= 0,
          "max_new_tokens and max_answer_tokens: expected 0 or more");
  require(request.max_answer_tokens == 0 || !request.target_ids.empty(),
          "max_answer_tokens: an answer needs target_ids before it");
  require(request.max_new_tokens > 0 || request.num_scored > 0 || request.max_answer_tokens > 0,
          "max_new_tokens: nothing to generate and nothing to score");
  const int64_t longest = static_cast<int64_t>(num_prompt) + request.max_new_tokens +
                          size_of(request.target_ids) + request.max_answer_tokens;
  const int64_t room = static_cast<int64_t>(config_.num_blocks - 1) * config_.block_size;
  require(longest <= room, "a sequence of up to " + std::to_string(longest) +
                               " tokens does not fit the K/V pool of " + std::to_string(room) +
                               " tokens: raise kv_cache_bytes");
  require(blocks_for(longest) <= config_.table_width,
          "a sequence of up to " + std::to_string(longest) + " tokens does not fit a table of " +
              std::to_string(config_.table_width) + " blocks: make the engine for longer ones");

  auto sequence = std::make_unique<Sequence>();
  Sequence& s = *sequence;
  s.tokens = request.prompt_ids;
  s.tokens.reserve(longest);
  s.blocks.reserve(blocks_for(longest));
  s.prompt_nll.assign(request.span_stop - request.span_start, kUnknown);
  s.target_logprobs.assign(request.num_scored, kUnknown);
  s.target_hits.assign(request.num_scored, 0);
  s.drafter = Drafter(std::move(request.draft_ids));
  s.request = std::move(request);
  if (s.request.max_new_tokens == 0) end_generation(s);
  waiting_.push_back(std::move(sequence));
}

int32_t Scheduler::cancel(int64_t key) {
  return cancel_if([key](const Request& request) { return request.key == key; });
}

int32_t Scheduler::cancel_group(int64_t group) {
  return cancel_if([group](const Request& request) { return request.group == group; });
}

template <typename Predicate>
int32_t Scheduler::cancel_if(Predicate matches) {
  if (in_step_) throw std::invalid_argument("cancel: the step is not committed");
  const auto dropped = [&](const SequencePtr& s) { return matches(s->request); };
  const size_t before = waiting_.size() + running_.size();
  waiting_.erase(std::remove_if(waiting_.begin(), waiting_.end(), dropped), waiting_.end());
  for (const SequencePtr& s : running_) {
    if (dropped(s)) drop_blocks(*s);
  }
  running_.erase(std::remove_if(running_.begin(), running_.end(), dropped), running_.end());
  return static_cast<int32_t>(before - waiting_.size() - running_.size());
}

void Scheduler::abort() {
  in_step_ = false;
  for (const BlockId id : copy_sources_) pool_.release(id);
  copy_sources_.clear();
  copies_.clear();
  waiting_.clear();
  for (const SequencePtr& s : running_) drop_blocks(*s);
  running_.clear();
  finished_.clear();
}

Scheduler::Admission Scheduler::admit(Sequence& s) {
  const int32_t size = config_.block_size;
  const int32_t num_known = size_of(s.tokens);
  // The last token is computed in any case, and so is the row of the first scored one: their
  // logits are what is asked for.
  int32_t limit =
      s.request.num_scored > 0 && s.first_scored > 0 ? s.first_scored - 1 : num_known - 1;
  // What may be cut is not shared: other ids would be written there.
  if (s.request.stop) limit = std::min(limit, size_of(s.request.prompt_ids) - 1);
  if (config_.share_prefixes) found_ = pool_.match(s.tokens.data(), limit, std::move(found_));
  const PrefixMatch& found = found_;
  if (found.pending) return Admission::kPrefixPending;
  int32_t shared = static_cast<int32_t>(found.shared.size()) * size + found.copy_tokens;
  for (int32_t i = s.request.span_start; i < std::min(shared, s.request.span_stop); ++i) {
    const BlockId block = i / size < static_cast<int32_t>(found.shared.size())
                              ? found.shared[i / size]
                              : found.copy_from;
    float& nll = s.prompt_nll[i - s.request.span_start];
    if (std::isnan(nll)) nll = pool_.nll(block * size + i % size);
  }
  // The row before the first unknown NLL is computed again, for its logits.
  const auto unknown = std::find_if(s.prompt_nll.begin(), s.prompt_nll.end(),
                                    [](float nll) { return std::isnan(nll); });
  const int32_t first_row =
      unknown == s.prompt_nll.end()
          ? limit
          : s.request.span_start - 1 + static_cast<int32_t>(unknown - s.prompt_nll.begin());
  const int32_t num_whole = shared / size;
  BlockId copy_from = found.copy_from;
  for (int32_t i = 0; i < num_whole; ++i) pool_.retain(found.shared[i]);
  if (copy_from >= 0) pool_.retain(copy_from);
  const int32_t missing = blocks_for(num_known + 1) - num_whole;
  if (copy_from >= 0 && running_.empty() && missing > pool_.num_available()) {
    pool_.release(copy_from);  // alone, a sequence must get in: without the copy it does
    copy_from = -1;
    shared = num_whole * size;
  }
  if (std::min(missing, config_.num_blocks - 1 - num_whole) > pool_.num_available()) {
    if (copy_from >= 0) pool_.release(copy_from);
    for (int32_t i = num_whole - 1; i >= 0; --i) pool_.release(found.shared[i]);
    return Admission::kNoRoom;
  }
  s.blocks.assign(found.shared.begin(), found.shared.begin() + num_whole);
  s.num_announced = s.num_published = num_whole;
  s.announcing = config_.share_prefixes;
  s.num_computed = std::min(shared, first_row);
  s.num_shared = shared;
  if (copy_from >= 0) {
    reserve(s, shared);
    const BlockId to = s.blocks.back();
    for (int32_t i = 0; i < shared % size; ++i) {
      pool_.nll(to * size + i) = pool_.nll(copy_from * size + i);
    }
    copies_.emplace_back(copy_from, to);
    copy_sources_.push_back(copy_from);
  }
  statistics_.prompt_tokens += num_known;
  statistics_.shared_tokens += s.num_computed;
  return Admission::kAdmitted;
}

bool Scheduler::reserve(Sequence& s, int32_t num_tokens) {
  const int32_t size = config_.block_size;
  const int32_t num_prompt = size_of(s.request.prompt_ids);
  while (static_cast<int32_t>(s.blocks.size()) < blocks_for(num_tokens)) {
    const BlockId id = pool_.allocate();
    if (id < 0) return false;
    const int32_t index = static_cast<int32_t>(s.blocks.size());
    const int32_t start = index * size;
    s.blocks.push_back(id);
    // Known already, they are not asked for again; whoever shares the block needs them.
    const int32_t span_start = s.request.span_start;
    for (int32_t i = std::max(start, span_start); i < std::min(start + size, s.request.span_stop);
         ++i) {
      pool_.nll(id * size + i % size) = s.prompt_nll[i - span_start];
    }
    if (s.announcing && start < num_prompt) {
      const BlockId parent = index > 0 ? s.blocks[index - 1] : -1;
      s.announcing =
          pool_.announce(id, parent, s.tokens.data() + start, std::min(size, num_prompt - start));
      if (s.announcing) s.num_announced = index + 1;
    }
  }
  return true;
}

void Scheduler::publish(Sequence& s) {
  const int32_t num_prompt = size_of(s.request.prompt_ids);
  while (s.num_published < s.num_announced &&
         std::min((s.num_published + 1) * config_.block_size, num_prompt) <= s.num_computed) {
    pool_.publish(s.blocks[s.num_published++]);
  }
}

void Scheduler::drop_blocks(Sequence& s) {
  // Last block first: the far end of a prefix is the first to be evicted.
  for (auto id = s.blocks.rbegin(); id != s.blocks.rend(); ++id) pool_.release(*id);
  s.blocks.clear();
  s.num_computed = s.num_announced = s.num_published = 0;
}

std::vector<Outcome> Scheduler::take_finished() { return std::exchange(finished_, {}); }

void Scheduler::check_integrity() const {
  std::vector<int32_t> holders(pool_.num_blocks(), 0);
  for (const BlockId id : copy_sources_) ++holders[id];
  for (const SequencePtr& s : running_) {
    for (const BlockId id : s->blocks) ++holders[id];
    if (s->num_computed + s->num_queries >
        static_cast<int32_t>(s->blocks.size()) * config_.block_size) {
      throw std::logic_error("a sequence has tokens without a block");
    }
    if (s->num_computed > size_of(s->tokens)) throw std::logic_error("computed unknown tokens");
    if (s->done) throw std::logic_error("a finished sequence is still running");
  }
  for (const SequencePtr& s : waiting_) {
    if (!s->blocks.empty() || s->num_computed != 0) {
      throw std::logic_error("a waiting sequence holds blocks");
    }
  }
  if (!in_step_ && !copies_.empty()) throw std::logic_error("copies outlive their step");
  pool_.check_integrity(holders);
}

}  // namespace greater_fast