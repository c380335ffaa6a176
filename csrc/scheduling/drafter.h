// Guesses at what a sequence will write next: from its sibling's reasoning, then from n-grams.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace greater_fast {

// Tokens that may come next, in the memory of the text they are copied from.
struct Draft {
  const int32_t* ids = nullptr;
  int32_t count = 0;
};

// Drafts for one sequence. A draft is the sibling's text while it agrees; after a difference the
// last tokens written are looked up in the sibling's text, then in the sequence's own.
class Drafter {
 public:
  Drafter() = default;
  explicit Drafter(std::vector<int32_t> sibling) : sibling_(std::move(sibling)) {}

  // At most `limit` tokens that may follow written[first, ...); none where there is no good guess.
  Draft propose(const std::vector<int32_t>& written, int32_t first, int32_t limit) const;
  // How many of the proposed tokens were right: doubles the length, or halves it.
  void learn(int32_t num_proposed, int32_t num_accepted);
  int32_t length() const { return length_; }

 private:
  static constexpr int32_t kFirstLength = 8;
  static constexpr int32_t kLongest = 64;
  std::vector<int32_t> sibling_;
  int32_t length_ = kFirstLength;
};

}  // namespace greater_fast
