// What the fuzzer runs the scheduler in: a language model that is a hash, and a store of K/V.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <set>
#include <stdexcept>
#include <vector>

#include "scheduling/plan_memory.h"
#include "scheduling/scheduler.h"

namespace greater_fast {

using Ids = std::vector<int32_t>;
inline constexpr int32_t kVocab = 7;

inline void check(bool condition, const char* what) {
  if (!condition) throw std::logic_error(what);
}

inline uint64_t mix(uint64_t a, uint64_t b) {
  uint64_t x = (a ^ (b * 0x9e3779b97f4a7c15)) + 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

class Random {
 public:
  explicit Random(uint64_t seed) : seed_(seed) {}
  int32_t between(int32_t least, int32_t most) {
    return least + static_cast<int32_t>(mix(seed_, ++count_) % (most - least + 1));
  }
  bool one_in(int32_t n) { return between(1, n) == 1; }
  Ids ids(int32_t count, int32_t vocab = kVocab) {
    Ids drawn(count);
    for (int32_t& id : drawn) id = between(0, vocab - 1);
    return drawn;
  }

 private:
  uint64_t seed_;
  uint64_t count_ = 0;
};

// ---- The language model, and what a request comes to by itself -----------------------------

struct Prefix {
  uint64_t whole = 0;
  int32_t before = 0;
  int32_t last = 0;

  Prefix with(int32_t token) const { return {mix(whole, token + 1), last, token}; }
  int32_t likeliest() const {
    return static_cast<int32_t>((whole % 3 ? mix(before, last) : mix(whole, 99)) % kVocab);
  }
  // What is written: another word now and then where text is sampled.
  int32_t next(bool samples) const {
    return samples && whole % 5 == 0 ? static_cast<int32_t>(mix(whole, 98) % kVocab) : likeliest();
  }
  float logprob(int32_t token, int32_t kind) const {
    return -static_cast<float>(mix(mix(whole, token), kind) % 10007) / 997;
  }
  static Prefix of(const Ids& tokens, size_t count) {
    Prefix prefix;
    for (size_t i = 0; i < count; ++i) prefix = prefix.with(tokens[i]);
    return prefix;
  }
};

// Ends a text at some tokens, now and then: a few of the last ones go, others may take their place.
inline std::shared_ptr<const Stop> random_stop(Random& random) {
  Stop stop;
  stop.last_ids = random.ids(random.between(1, 3));
  std::sort(stop.last_ids.begin(), stop.last_ids.end());
  const int32_t seed = random.between(0, 1000);
  stop.cut = [seed](const Ids& ids, int32_t limit) -> std::optional<Cut> {
    const Prefix prefix = Prefix::of(ids, ids.size());
    if (mix(prefix.whole, seed) % 3 == 0) return std::nullopt;
    Random inner(mix(prefix.whole, seed + 1));
    Cut cut;
    cut.num_kept = std::max(size_of(ids) - inner.between(0, 6), 0);
    const int32_t room = limit - cut.num_kept;
    if (inner.one_in(2)) cut.ids = inner.ids(std::min(inner.between(0, 3), room));
    cut.number = inner.between(0, 9);
    return cut;
  };
  return std::make_shared<const Stop>(stop);
}

inline Ids generate(Ids* text, int32_t limit, const Ids& ends, const Stop* stop, bool samples,
                    Outcome* outcome) {
  const auto start = static_cast<ptrdiff_t>(text->size());
  while (size_of(*text) - start < limit) {
    const int32_t token = Prefix::of(*text, text->size()).next(samples);
    if (std::count(ends.begin(), ends.end(), token) > 0) {
      outcome->end_id = token;
      break;
    }
    text->push_back(token);
    if (!stop || std::count(stop->last_ids.begin(), stop->last_ids.end(), token) == 0) continue;
    const std::optional<Cut> cut = stop->cut({text->begin() + start, text->end()}, limit);
    if (!cut) continue;
    text->resize(start + cut->num_kept);
    text->insert(text->end(), cut->ids.begin(), cut->ids.end());
    outcome->stop = cut->number;
    break;
  }
  return {text->begin() + start, text->end()};
}

inline Outcome expected(const Request& r, bool samples) {
  Outcome o;
  Ids text = r.prompt_ids;
  for (int32_t i = r.span_start; i < r.span_stop; ++i) {
    o.prompt_nll.push_back(-Prefix::of(text, i).logprob(text[i], 0));
  }
  o.reasoning_ids = generate(&text, r.max_new_tokens, r.end_ids, r.stop.get(), samples, &o);
  if (r.num_scored == 0 && r.max_answer_tokens == 0) return o;
  text.insert(text.end(), r.target_ids.begin(), r.target_ids.end());
  for (size_t i = text.size() - r.num_scored; i < text.size(); ++i) {
    const Prefix prefix = Prefix::of(text, i);
    o.target_logprobs.push_back(prefix.logprob(text[i], 1));
    o.target_hits.push_back(prefix.likeliest() == text[i]);
  }
  Outcome of_answer;  // what ended the answer is not told
  o.answer_ids =
      generate(&text, r.max_answer_tokens, r.end_ids, r.answer_stop.get(), samples, &of_answer);
  return o;
}

inline Request random_request(Random& random, const std::vector<Ids>& texts, int64_t key) {
  Request r;
  r.key = key;
  r.group = random.between(0, 3);
  const Ids& text = texts[random.between(0, size_of(texts) - 1)];
  r.prompt_ids.assign(text.begin(), text.begin() + random.between(1, 40));
  const Ids more = random.ids(random.between(0, 3));
  r.prompt_ids.insert(r.prompt_ids.end(), more.begin(), more.end());
  const int32_t num_prompt = size_of(r.prompt_ids);
  if (random.one_in(2)) {
    r.span_start = random.between(1, num_prompt);
    r.span_stop = random.between(r.span_start, num_prompt);
  }
  r.target_ids = random.ids(random.between(0, 5));
  r.num_scored = random.between(0, size_of(r.target_ids));
  if (!r.target_ids.empty() && random.one_in(3)) r.max_answer_tokens = random.between(1, 5);
  const bool may_be_silent = r.num_scored > 0 || r.max_answer_tokens > 0;
  r.max_new_tokens = random.between(may_be_silent ? 0 : 1, random.one_in(2) ? 4 : 30);
  if (random.one_in(2)) r.end_ids = random.ids(random.between(1, 2));
  if (random.one_in(3)) r.stop = random_stop(random);
  if (random.one_in(3)) r.answer_stop = random_stop(random);
  r.draft_ids =
      random.one_in(3) ? random.ids(random.between(0, 20)) : expected(r, false).reasoning_ids;
  if (!r.draft_ids.empty() && random.one_in(2)) {
    r.draft_ids[random.between(0, size_of(r.draft_ids) - 1)] = 0;
  }
  return r;
}

inline SchedulerConfig random_config(Random& random, const std::vector<Request>& requests) {
  SchedulerConfig c;
  size_t longest = 0;
  for (const Request& r : requests) {
    longest = std::max(longest, r.prompt_ids.size() + r.target_ids.size() + r.max_new_tokens +
                                    r.max_answer_tokens);
  }
  c.block_size = random.between(1, 16);
  c.table_width = (static_cast<int32_t>(longest) + c.block_size - 1) / c.block_size;
  c.num_blocks = 1 + c.table_width + random.between(0, 2) * random.between(0, 20);
  c.max_tokens = random.between(1, random.one_in(2) ? 8 : 64);
  c.max_sequences = random.between(1, c.max_tokens);
  c.min_tokens = random.between(0, c.max_tokens);
  c.draft_tokens = random.one_in(3) ? 0 : random.between(0, c.max_tokens);
  c.fixed_tokens = random.one_in(4);
  c.share_prefixes = !random.one_in(5);
  return c;
}

// A scheduler, and the model that answers its plans. The model's state is a hash of the whole
// prefix, read back through the plan's block tables: a wrong slot anywhere changes what comes out.
class World {
 public:
  World(const SchedulerConfig& c, bool samples)
      : scheduler(c),
        samples_(samples),
        config_(c),
        memory_(c),
        plan_(memory_.buffers()),
        store_(size_t(c.num_blocks) * c.block_size) {}

  void step() {
    const PlanCounts counts = scheduler.plan(plan_);
    scheduler.check_integrity();
    copy(counts.num_copies);
    const std::vector<Prefix> prefixes = compute(counts);
    Ids argmax(counts.num_logit_rows);
    Ids sampled(counts.num_logit_rows);
    std::vector<float> logprobs(counts.num_logit_rows);
    for (int32_t row = 0; row < counts.num_logit_rows; ++row) {
      const Prefix& prefix = prefixes.at(plan_.logit_rows[row]);
      argmax[row] = prefix.likeliest();
      sampled[row] = prefix.next(samples_);
      const int32_t target = plan_.targets[row];
      if (target >= 0) logprobs[row] = prefix.logprob(target, plan_.target_kinds[row]);
    }
    scheduler.commit({argmax.data(), logprobs.data(), samples_ ? sampled.data() : nullptr},
                     counts.num_logit_rows);
    scheduler.check_integrity();
  }

  Scheduler scheduler;

 private:
  struct Entry {
    int32_t token;
    Prefix prefix;  // with the token
  };

  void copy(int32_t count) {
    const std::vector<std::optional<Entry>> before = store_;
    for (int32_t i = 0; i < count; ++i) {
      for (int32_t j = 0; j < config_.block_size; ++j) {
        store_.at(plan_.copies[2 * i + 1] * config_.block_size + j) =
            before.at(plan_.copies[2 * i] * config_.block_size + j);
      }
    }
  }

  std::vector<Prefix> compute(const PlanCounts& counts) {
    std::vector<Prefix> prefixes;
    std::set<int32_t> written;
    for (int32_t b = 0; b < counts.num_sequences; ++b) {
      const int32_t* table = plan_.block_tables + size_t(b) * config_.table_width;
      const auto slot_of = [&](int32_t position) {
        const int32_t size = config_.block_size;
        check(table[position / size] > 0, "a sequence holds block 0");
        return table[position / size] * size + position % size;
      };
      const int32_t num_queries = plan_.query_starts[b + 1] - plan_.query_starts[b];
      const int32_t before = plan_.context_lens[b] - num_queries;
      Prefix prefix;
      for (int32_t i = 0; i < before; ++i) {
        const std::optional<Entry>& entry = store_.at(slot_of(i));
        check(entry.has_value(), "a slot is read that was never written");
        prefix = prefix.with(entry->token);
        check(prefix.whole == entry->prefix.whole, "a slot holds another prefix");
      }
      for (int32_t i = 0; i < num_queries; ++i) {
        const int32_t token = plan_.query_starts[b] + i;
        check(plan_.positions[token] == before + i, "a token is at a wrong position");
        prefix = prefix.with(plan_.tokens[token]);
        prefixes.push_back(prefix);
        std::optional<Entry>& entry = store_.at(slot_of(before + i));
        if (plan_.slots[token] < config_.block_size) {  // only its logits are wanted
          check(entry.has_value() && entry->prefix.whole == prefix.whole, "K/V is not written");
          continue;
        }
        check(plan_.slots[token] == slot_of(before + i), "a token is in a wrong slot");
        check(written.insert(plan_.slots[token]).second, "a slot is written twice");
        entry = Entry{plan_.tokens[token], prefix};
      }
    }
    for (int32_t i = counts.num_tokens - counts.num_padding; i < counts.num_tokens; ++i) {
      check(plan_.slots[i] >= 0 && plan_.slots[i] < config_.block_size, "padding left block 0");
    }
    return prefixes;
  }

  bool samples_;
  SchedulerConfig config_;
  PlanMemory memory_;
  const PlanBuffers& plan_;
  std::vector<std::optional<Entry>> store_;
};

}  // namespace greater_fast
