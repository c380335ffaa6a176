// Blocks of the K/V cache: who holds them, and which prefixes they store.
#pragma once

#include <cstdint>
#include <list>
#include <vector>

namespace greater_fast {

using BlockId = int32_t;

// What `BlockPool::match` found: whole blocks to share, then a block to copy the first tokens of.
struct PrefixMatch {
  std::vector<BlockId> shared;
  BlockId copy_from = -1;
  int32_t copy_tokens = 0;
  // The next block is being computed right now, all of it: worth waiting for.
  bool pending = false;
};

// A fixed number of blocks of `block_size` tokens, ref-counted. Block 0 is never handed out:
// padding writes there. Blocks with a stored prefix form a trie: each knows its parent and its
// tokens, so a match is exact, without hashing. A block nobody holds stays findable until it is
// evicted, least recently released first. Who holds a block holds those above it too, and releases
// them after it: so what is evicted never has anything below it.
class BlockPool {
 public:
  BlockPool(int32_t num_blocks, int32_t block_size);

  int32_t block_size() const { return block_size_; }
  int32_t num_blocks() const { return static_cast<int32_t>(blocks_.size()); }
  // Blocks that `allocate` can still give, evictions included.
  int32_t num_available() const;

  // A block with one holder, or -1 when all are held.
  BlockId allocate();
  void retain(BlockId id);
  void release(BlockId id);
  int32_t num_holders(BlockId id) const { return blocks_[id].num_holders; }

  // The longest stored prefix of tokens[0, num_tokens), in the memory of an old match.
  PrefixMatch match(const int32_t* tokens, int32_t num_tokens, PrefixMatch old = {}) const;

  // Announce that `id`, whose parent is `parent` (-1 at the start), will hold these tokens (at most
  // a block). Returns false where the trie has them already: the block stays private.
  bool announce(BlockId id, BlockId parent, const int32_t* tokens, int32_t num_tokens);
  // The announced tokens are computed, and can be shared from now on.
  void publish(BlockId id) { blocks_[id].computed = true; }
  bool is_published(BlockId id) const { return blocks_[id].stored && blocks_[id].computed; }
  // -log p of the token in a slot given all before it, NaN where unknown; kept with the prefix.
  float& nll(int32_t slot) { return nll_[slot]; }

  // Throws std::logic_error at the first contradiction, given how often each block is held.
  void check_integrity(const std::vector<int32_t>& expected_holders) const;

 private:
  // Free a block that nobody holds, and nothing is below.
  void forget(BlockId id);

  struct Block {
    int32_t num_holders = 0;
    bool stored = false;    // in the trie
    bool computed = false;  // its tokens' K/V are written
    BlockId parent = -1;
    std::vector<int32_t> tokens;
    std::vector<BlockId> children;
    std::list<BlockId>::iterator idle_place;  // in idle_, while stored and not held
  };

  std::vector<BlockId>& siblings(BlockId parent);
  const std::vector<BlockId>& siblings(BlockId parent) const;

  int32_t block_size_;
  std::vector<Block> blocks_;
  std::vector<BlockId> free_;
  std::list<BlockId> idle_;  // stored, not held; least recently released first
  std::vector<BlockId> roots_;
  std::vector<float> nll_;
};

}  // namespace greater_fast
