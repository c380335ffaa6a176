#include "scheduling/drafter.h"

#include <algorithm>
#include <cstdlib>

namespace greater_fast {

namespace {

constexpr int32_t kLongGram = 3;
constexpr int32_t kShortGram = 2;

struct Text {
  const int32_t* ids;
  int32_t size;

  Draft from(int32_t start, int32_t limit) const {
    return {ids + start, std::min(limit, size - start)};
  }
};

// Places in a text behind the tokens that were written last, -1 where they do not stand.
struct Places {
  int32_t long_gram = -1;
  int32_t short_gram = -1;
};

// The places nearest to `expected`; a start shorter than a gram is looked up as a whole.
Places find_behind(const Text& text, const Text& written, int32_t expected) {
  const int32_t longest = std::min(kLongGram, written.size);
  const int32_t shortest = std::min(kShortGram, written.size);
  const int32_t* last = written.ids + written.size - 1;
  const auto nearer = [expected](int32_t place, int32_t than) {
    return than < 0 || std::abs(place - expected) < std::abs(than - expected);
  };
  Places found;
  for (int32_t behind = shortest; behind < text.size; ++behind) {
    const int32_t* end = text.ids + behind - 1;
    if (*end != *last) continue;
    int32_t common = 1;
    while (common < std::min(longest, behind) && end[-common] == last[-common]) ++common;
    if (common >= shortest && nearer(behind, found.short_gram)) found.short_gram = behind;
    if (common >= longest && nearer(behind, found.long_gram)) found.long_gram = behind;
  }
  return found;
}

}  // namespace

Draft Drafter::propose(const std::vector<int32_t>& written, int32_t first, int32_t limit) const {
  const int32_t count = std::min(length_, limit);
  const Text own{written.data() + first, static_cast<int32_t>(written.size()) - first};
  const Text sibling{sibling_.data(), static_cast<int32_t>(sibling_.size())};
  if (count <= 0) return {};
  if (own.size == 0) return sibling.from(0, count);
  const Places theirs = find_behind(sibling, own, own.size);
  if (theirs.long_gram >= 0) return sibling.from(theirs.long_gram, count);
  const Places ours = find_behind(own, own, own.size);
  if (ours.long_gram >= 0) return own.from(ours.long_gram, count);
  if (theirs.short_gram >= 0) return sibling.from(theirs.short_gram, count);
  if (ours.short_gram >= 0) return own.from(ours.short_gram, count);
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
