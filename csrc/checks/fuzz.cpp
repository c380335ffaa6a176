// A fuzzer of scheduler, block pool and drafter, without Python: fuzz SECONDS [SEED [THREADS]].
// Zero seconds run one seed a thread. Threads share nothing, which TSan proves.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <map>
#include <thread>
#include <utility>
#include <vector>

#include "checks/fuzz_world.h"
#include "scheduling/block_pool.h"
#include "scheduling/drafter.h"

namespace greater_fast {
namespace {

void add(const Statistics& s, Statistics* total) {
  total->steps += s.steps;
  total->computed_tokens += s.computed_tokens;
  total->shared_tokens += s.shared_tokens;
  total->accepted_tokens += s.accepted_tokens;
  total->preemptions += s.preemptions;
}

void fuzz_scheduler(uint64_t seed, Statistics* total) {
  Random random(seed);
  const std::vector<Ids> texts = {random.ids(40), random.ids(40), Ids(40, 1)};
  std::map<int64_t, Request> asked;
  std::vector<Request> requests(random.between(1, 30));
  for (Request& r : requests) {
    r = random_request(random, texts, static_cast<int64_t>(asked.size()));
    asked[r.key] = r;
  }
  const bool samples = random.one_in(3);
  World world(random_config(random, requests), samples);
  const bool cancels = random.one_in(2);
  size_t num_finished = 0;
  int32_t num_cancelled = 0;
  int64_t left = 0;
  while (!requests.empty() || !world.scheduler.idle()) {
    while (!requests.empty() && (world.scheduler.idle() || random.one_in(3))) {
      left += 1000 + 20 * static_cast<int64_t>(requests.back().prompt_ids.size());
      world.scheduler.submit(std::move(requests.back()));
      requests.pop_back();
    }
    world.step();
    if (cancels && random.one_in(6)) num_cancelled += world.scheduler.cancel(random.between(0, 29));
    if (cancels && random.one_in(60)) num_cancelled += world.scheduler.cancel_group(0);
    for (const Outcome& o : world.scheduler.take_finished()) {
      const Outcome e = expected(asked.at(o.key), samples);
      check(o.reasoning_ids == e.reasoning_ids && o.answer_ids == e.answer_ids, "wrong tokens");
      check(o.end_id == e.end_id && o.stop == e.stop, "a wrong end");
      check(o.prompt_nll == e.prompt_nll, "a wrong prompt NLL");
      check(o.target_logprobs == e.target_logprobs, "a wrong log-probability");
      check(o.target_hits == e.target_hits, "a wrong hit");
      ++num_finished;
    }
    check(--left > 0, "a request does not end");
    if (cancels && random.one_in(200)) {
      num_cancelled += world.scheduler.num_running() + world.scheduler.num_waiting();
      world.scheduler.abort();
    }
  }
  check(num_finished + num_cancelled == asked.size(), "a request is lost");
  const Statistics& s = world.scheduler.statistics();
  check(s.accepted_tokens <= s.drafted_tokens, "more drafts accepted than proposed");
  add(s, total);
}

// Sequences that take, announce, publish and drop blocks, and a list of all prefixes beside them.
class PoolWorld {
 public:
  PoolWorld(Random* random, int32_t num_blocks, int32_t block_size)
      : random_(*random), pool_(num_blocks, block_size) {}

  void step() {
    if (sequences_.empty() || random_.one_in(2)) {
      start(random_.ids(random_.between(1, 6 * pool_.block_size()), 2));
    } else if (random_.one_in(2)) {
      publish(&sequences_[random_.between(0, size_of(sequences_) - 1)]);
    } else {
      drop(random_.between(0, size_of(sequences_) - 1));
    }
    Ids holders(pool_.num_blocks(), 0);
    for (const Sequence& s : sequences_) {
      for (const BlockId id : s.blocks) ++holders[id];
      if (s.copied >= 0) ++holders[s.copied];
    }
    pool_.check_integrity(holders);
  }

 private:
  struct Sequence {
    std::vector<BlockId> blocks;
    int32_t num_announced = 0;  // of the first blocks
    BlockId copied = -1;        // held without its parents
  };
  struct Stored {
    Ids prefix;  // from the very first token
    bool computed = false;
  };

  void start(const Ids& text) {
    const int32_t size = pool_.block_size();
    const PrefixMatch found = pool_.match(text.data(), size_of(text));
    const int32_t most = longest(text, true);
    // Waiting pays for whole blocks alone.
    check(found.pending == (longest(text, false) / size > most / size), "a wrong pending prefix");
    if (found.pending) return;
    check(size_of(found.shared) * size + found.copy_tokens == most, "not the longest prefix");
    Sequence s{found.shared, size_of(found.shared), found.copy_from};
    for (const BlockId id : s.blocks) pool_.retain(id);
    if (s.copied >= 0) pool_.retain(s.copied);
    bool announcing = true;
    while (size_of(s.blocks) * size < size_of(text)) {
      const BlockId id = pool_.allocate();
      check(id > 0 || pool_.num_available() == 0, "a block is refused");
      if (id < 0) break;
      drop_evicted(id);
      const int32_t first = size_of(s.blocks) * size;
      const int32_t count = std::min(size, size_of(text) - first);
      announcing = announcing && pool_.announce(id, s.blocks.empty() ? -1 : s.blocks.back(),
                                                text.data() + first, count);
      s.blocks.push_back(id);
      if (!announcing) continue;
      s.num_announced = size_of(s.blocks);
      stored_[id].prefix.assign(text.begin(), text.begin() + first + count);
    }
    sequences_.push_back(std::move(s));
  }

  void publish(Sequence* s) {
    const int32_t count = random_.between(0, s->num_announced);
    for (int32_t i = 0; i < count; ++i) {
      pool_.publish(s->blocks[i]);
      stored_.at(s->blocks[i]).computed = true;
    }
  }

  void drop(int32_t index) {
    const Sequence s = std::move(sequences_[index]);
    sequences_.erase(sequences_.begin() + index);
    if (s.copied >= 0) pool_.release(s.copied);
    for (auto id = s.blocks.rbegin(); id != s.blocks.rend(); ++id) pool_.release(*id);
    drop_evicted(-1);
  }

  void drop_evicted(BlockId reused) {
    stored_.erase(reused);
    for (auto entry = stored_.begin(); entry != stored_.end();) {
      const auto& [id, stored] = *entry;
      const bool there = stored.computed ? pool_.is_published(id) : pool_.num_holders(id) > 0;
      entry = there ? std::next(entry) : stored_.erase(entry);
    }
  }

  // The most tokens that `text` has in common with a stored prefix.
  int32_t longest(const Ids& text, bool computed_alone) const {
    int32_t most = 0;
    for (const auto& [id, stored] : stored_) {
      if (computed_alone && !stored.computed) continue;
      const int32_t limit = std::min(size_of(text), size_of(stored.prefix));
      int32_t common = 0;
      while (common < limit && text[common] == stored.prefix[common]) ++common;
      most = std::max(most, common);
    }
    return most;
  }

  Random& random_;
  BlockPool pool_;
  std::vector<Sequence> sequences_;
  std::map<BlockId, Stored> stored_;
};

void fuzz_pool(uint64_t seed) {
  Random random(mix(seed, 1));
  const int32_t num_blocks = random.between(2, 40);
  PoolWorld world(&random, num_blocks, random.between(1, 5));
  for (int32_t i = 0; i < 60; ++i) world.step();
}

void fuzz_drafter(uint64_t seed) {
  Random random(mix(seed, 2));
  const int32_t vocab = random.between(1, 5);
  const Ids sibling = random.ids(random.between(0, 40), vocab);
  Drafter drafter(sibling);
  for (int32_t i = 0; i < 20; ++i) {
    const int32_t first = random.between(0, 10);
    const int32_t agreed = random.between(0, size_of(sibling));
    const Ids other = random.ids(random.one_in(2) ? 0 : random.between(1, 20), vocab);
    Ids written = random.ids(first, vocab);
    written.insert(written.end(), sibling.begin(), sibling.begin() + agreed);
    written.insert(written.end(), other.begin(), other.end());
    const int32_t limit = random.between(-1, 70);
    const Draft proposed = drafter.propose(written, first, limit);
    const Ids draft(proposed.ids, proposed.ids + proposed.count);
    const int32_t most = std::max(0, std::min(limit, drafter.length()));
    check(size_of(draft) <= most, "a draft is too long");
    if (other.empty()) {
      const int32_t left = std::min(most, size_of(sibling) - agreed);
      const bool follows = std::equal(draft.begin(), draft.end(), sibling.begin() + agreed,
                                      sibling.begin() + agreed + std::min(left, size_of(draft)));
      check(left == 0 || (size_of(draft) == left && follows), "the sibling is not followed");
    }
    drafter.learn(size_of(draft), random.between(0, size_of(draft)));
    check(drafter.length() >= 1 && drafter.length() <= 64, "a wrong length of drafts");
  }
}

int run(double seconds, uint64_t first_seed, int num_threads) {
  using Clock = std::chrono::steady_clock;
  const auto stop = Clock::now() + std::chrono::duration<double>(seconds);
  std::atomic<uint64_t> next_seed{first_seed};
  std::atomic<int> num_failed{0};
  std::vector<Statistics> totals(num_threads);
  std::vector<std::thread> threads;
  for (int t = 0; t < num_threads; ++t) {
    threads.emplace_back([&, t] {
      do {
        const uint64_t seed = next_seed++;
        try {
          fuzz_scheduler(seed, &totals[t]);
          fuzz_pool(seed);
          fuzz_drafter(seed);
        } catch (const std::exception& error) {
          ++num_failed;
          std::fprintf(stderr, "fuzz: seed %llu: %s\n", static_cast<unsigned long long>(seed),
                       error.what());
        }
      } while (Clock::now() < stop && num_failed == 0);
    });
  }
  for (std::thread& thread : threads) thread.join();
  Statistics all;
  for (const Statistics& s : totals) add(s, &all);
  std::printf(
      "fuzz: seeds %llu to %llu: %lld steps, %lld tokens, %lld shared, %lld drafts accepted, "
      "%lld preemptions, %d failed\n",
      static_cast<unsigned long long>(first_seed),
      static_cast<unsigned long long>(next_seed.load() - 1), static_cast<long long>(all.steps),
      static_cast<long long>(all.computed_tokens), static_cast<long long>(all.shared_tokens),
      static_cast<long long>(all.accepted_tokens), static_cast<long long>(all.preemptions),
      num_failed.load());
  return num_failed > 0;
}

}  // namespace
}  // namespace greater_fast

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 5;
  const uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1;
  return greater_fast::run(seconds, seed, argc > 3 ? std::atoi(argv[3]) : 1);
}
