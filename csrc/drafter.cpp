#include "drafter.h"

#include <algorithm>
#include <cstdlib>

namespace greater_fast {

namespace {

// Where in text[begin, end) the `gram` tokens before `tail` stand too: the place behind them,
// nearest to `expected`; -1 where they do not.
int32_t find_behind(const std::vector<int32_t>& text, int32_t begin, int32_t end,
                    const int32_t* tail, int32_t gram, int32_t expected) {
  int32_t nearest = -1;
  for (int32_t behind = begin + gram; behind < end; ++behind) {
    if (!std::equal(tail - gram, tail, text.begin() + (behind - gram))) continue;
    if (nearest < 0 || std::abs(behind - expected) < std::abs(nearest - expected)) nearest = behind;
  }
  return nearest;
}

}  // namespace

std::vector<int32_t> Drafter::propose(const std::vector<int32_t>& written, int32_t first,
                                      int32_t limit) {
  const int32_t count = std::min(length_, limit);
  const int32_t size = static_cast<int32_t>(written.size());
  const int32_t num_written = size - first;
  if (count <= 0) return {};
  const int32_t num_sibling = static_cast<int32_t>(sibling_.size());
  const int32_t* tail = written.data() + size;
  if (num_written == 0) {
    return {sibling_.begin(), sibling_.begin() + std::min(count, num_sibling)};
  }
  for (int32_t gram = std::min(kGram, num_written); gram >= std::min(2, num_written); --gram) {
    const int32_t behind = find_behind(sibling_, 0, num_sibling, tail, gram, num_written);
    if (behind >= 0) {
      return {sibling_.begin() + behind, sibling_.begin() + std::min(behind + count, num_sibling)};
    }
    const int32_t own = find_behind(written, first, size, tail, gram, size);
    if (own >= 0) return {written.begin() + own, written.begin() + std::min(own + count, size)};
  }
  return {};
}

void Drafter::learn(int32_t num_proposed, int32_t num_accepted) {
  if (num_proposed == 0) return;
  if (num_accepted == num_proposed) {
    length_ = std::min(2 * length_, kLongest);
  } else {
    length_ = std::max(1, std::max(length_ / 2, num_accepted));
  }
}

}  // namespace greater_fast
