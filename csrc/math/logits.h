// What is read from rows of logits on the CPU: the highest one's id, and a target's
// log-probability.
#pragma once

#include <cstdint>

namespace greater_fast {

// T is float or double, and so is the arithmetic but for sums.
template <typename T>
struct LogitArgs {
  const T* logits;         // [R, V]
  const int32_t* targets;  // [R] below V; none where negative
  const T* temperatures;   // [R] divide the logits of a row's target
  int64_t num_rows;        // R
  int64_t num_ids;         // V
};

// argmax [R]: the first of equals, or the first NaN; logprobs [R]: 0 where there is no target. A
// row's result is a function of its own numbers alone.
template <typename T>
void read_logits(const LogitArgs<T>& args, int32_t* argmax, float* logprobs);

}  // namespace greater_fast
