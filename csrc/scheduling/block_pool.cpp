#include "scheduling/block_pool.h"

#include <algorithm>
#include <cassert>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

namespace greater_fast {

BlockPool::BlockPool(int32_t num_blocks, int32_t block_size)
    : block_size_(block_size),
      blocks_(num_blocks),
      nll_(static_cast<size_t>(num_blocks) * block_size, std::numeric_limits<float>::quiet_NaN()) {
  free_.reserve(num_blocks);
  for (BlockId id = num_blocks - 1; id >= 1; --id) free_.push_back(id);
  for (Block& block : blocks_) block.tokens.reserve(block_size);
  blocks_[0].num_holders = 1;
}

int32_t BlockPool::num_available() const {
  return static_cast<int32_t>(free_.size() + idle_.size());
}

BlockId BlockPool::allocate() {
  if (free_.empty()) {
    if (idle_.empty()) return -1;
    forget(idle_.front());
  }
  const BlockId id = free_.back();
  free_.pop_back();
  blocks_[id].num_holders = 1;
  std::fill_n(nll_.begin() + static_cast<ptrdiff_t>(id) * block_size_, block_size_,
              std::numeric_limits<float>::quiet_NaN());
  return id;
}

void BlockPool::retain(BlockId id) {
  Block& block = blocks_[id];
  if (block.num_holders++ == 0) idle_.erase(block.idle_place);
}

void BlockPool::release(BlockId id) {
  Block& block = blocks_[id];
  if (--block.num_holders > 0) return;
  if (block.stored && block.computed) {
    block.idle_place = idle_.insert(idle_.end(), id);
  } else if (block.stored) {
    forget(id);
  } else {
    free_.push_back(id);
  }
}

PrefixMatch BlockPool::match(const int32_t* tokens, int32_t num_tokens, PrefixMatch old) const {
  PrefixMatch found{std::move(old.shared)};
  found.shared.clear();
  BlockId parent = -1;
  int32_t start = 0;
  while (start < num_tokens) {
    const int32_t room = std::min(block_size_, num_tokens - start);
    BlockId best = -1;
    int32_t longest = 0;
    for (const BlockId id : siblings(parent)) {
      const Block& block = blocks_[id];
      const int32_t limit = std::min<int32_t>(room, static_cast<int32_t>(block.tokens.size()));
      int32_t common = 0;
      while (common < limit && block.tokens[common] == tokens[start + common]) ++common;
      if (!block.computed && common == block_size_) {
        found.pending = true;
        return found;
      }
      if (block.computed && common > longest) {
        best = id;
        longest = common;
      }
    }
    if (best < 0) return found;
    if (longest < block_size_) {
      found.copy_from = best;
      found.copy_tokens = longest;
      return found;
    }
    found.shared.push_back(best);
    parent = best;
    start += block_size_;
  }
  return found;
}

bool BlockPool::announce(BlockId id, BlockId parent, const int32_t* tokens, int32_t num_tokens) {
  for (const BlockId other : siblings(parent)) {
    const Block& block = blocks_[other];
    if (static_cast<int32_t>(block.tokens.size()) >= num_tokens &&
        std::equal(tokens, tokens + num_tokens, block.tokens.begin())) {
      return false;
    }
  }
  Block& block = blocks_[id];
  block.stored = true;
  block.computed = false;
  block.parent = parent;
  block.tokens.assign(tokens, tokens + num_tokens);
  siblings(parent).push_back(id);
  return true;
}

void BlockPool::forget(BlockId id) {
  Block& block = blocks_[id];
  assert(block.children.empty());
  std::vector<BlockId>& row = siblings(block.parent);
  row.erase(std::find(row.begin(), row.end(), id));
  if (block.computed) idle_.erase(block.idle_place);
  free_.push_back(id);
  block.stored = block.computed = false;
  block.parent = -1;
  block.tokens.clear();
}

std::vector<BlockId>& BlockPool::siblings(BlockId parent) {
  return parent < 0 ? roots_ : blocks_[parent].children;
}

const std::vector<BlockId>& BlockPool::siblings(BlockId parent) const {
  return parent < 0 ? roots_ : blocks_[parent].children;
}

void BlockPool::check_integrity(const std::vector<int32_t>& expected_holders) const {
  const auto fail = [](const std::string& what, BlockId id) {
    throw std::logic_error("block " + std::to_string(id) + ": " + what);
  };
  std::vector<int32_t> places(blocks_.size(), 0);
  for (const BlockId id : free_) {
    ++places[id];
    if (blocks_[id].stored || blocks_[id].num_holders != 0) fail("free, but held or stored", id);
  }
  std::vector<bool> is_evicted(blocks_.size(), false);
  for (const BlockId id : idle_) {
    ++places[id];
    is_evicted[id] = true;
    for (const BlockId child : blocks_[id].children) {
      if (!is_evicted[child]) fail("would be evicted before what is below it", id);
    }
    const Block& block = blocks_[id];
    if (!block.stored || !block.computed || block.num_holders != 0) fail("wrongly idle", id);
  }
  size_t num_stored = 0;
  size_t num_reachable = roots_.size();
  for (BlockId id = 0; id < num_blocks(); ++id) {
    const Block& block = blocks_[id];
    const int32_t expected = id == 0 ? 1 : expected_holders[id];
    if (block.num_holders != expected) {
      fail("held " + std::to_string(block.num_holders) + " times, expected " +
               std::to_string(expected),
           id);
    }
    if (places[id] + (block.num_holders > 0 ? 1 : 0) != 1) fail("in two places, or in none", id);
    num_reachable += block.children.size();
    for (const BlockId child : block.children) {
      if (blocks_[child].parent != id || !blocks_[child].stored) fail("has a wrong child", id);
    }
    if (!block.stored) {
      if (!block.children.empty() || !block.tokens.empty()) fail("not stored, but in the trie", id);
      continue;
    }
    ++num_stored;
    if (block.tokens.empty() || static_cast<int32_t>(block.tokens.size()) > block_size_) {
      fail("stores a wrong number of tokens", id);
    }
    if (!block.children.empty() && static_cast<int32_t>(block.tokens.size()) != block_size_) {
      fail("partly filled, but has children", id);
    }
    if (block.computed && block.parent >= 0 && !blocks_[block.parent].computed) {
      fail("computed before its parent", id);
    }
    const std::vector<BlockId>& row = siblings(block.parent);
    if (std::count(row.begin(), row.end(), id) != 1) fail("not among its parent's children", id);
  }
  if (num_stored != num_reachable) throw std::logic_error("the trie has a loop or an orphan");
}

}  // namespace greater_fast
