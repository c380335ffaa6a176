"""A language model that is a hash, and what a request comes to in it without any scheduler."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

import numpy as np

VOCAB = 7
State = tuple[int, int, int]  # a hash of the whole prefix, and its last two tokens
EMPTY: State = (0, 0, 0)
TEXTS = [tuple((i * i * seed + i) % VOCAB for i in range(40)) for seed in (1, 3)]
Outcome = tuple[
    int,
    tuple[int, ...],
    tuple[int, ...],
    tuple[float, ...],
    tuple[float, ...],
    tuple[int, ...],
    int | None,
    int | None,
]


class Stop(NamedTuple):
    """Ends a text at some tokens, now and then: its last ones go, others may take their place."""

    last_ids: tuple[int, ...]
    seed: int

    def cut(self, ids: Iterable[int], limit: int) -> tuple[int, tuple[int, ...], int] | None:
        ids = tuple(ids)
        draw = hash((ids, self.seed)) % 1000
        if draw % 3 == 0:
            return None
        kept = max(len(ids) - draw % 7, 0)
        more = tuple(i % VOCAB for i in range(draw % 4))[: limit - kept]
        return kept, more, draw % 5


def extend(state: State, token: int) -> State:
    """The prefix with one more token (the hash of integers is the same in every process)."""
    return (hash((state[0], token)), state[2], token)


def state_of(tokens: Iterable[int]) -> State:
    state = EMPTY
    for token in tokens:
        state = extend(state, token)
    return state


def next_id(state: State) -> int:
    """The model's choice: often by the last two tokens, so that n-grams come back."""
    whole, before, last = state
    return hash((before, last, 1) if whole % 3 else (whole, 1)) % VOCAB


def sampled_id(state: State) -> int:
    """What is written where text is sampled: now and then another id than the model's choice."""
    return hash((state[0], 2)) % VOCAB if state[0] % 4 == 0 else next_id(state)


def logprob(state: State, token: int, kind: int) -> float:
    """A float32, another one for each kind of target."""
    return float(np.float32(-(hash((state[0], token, kind)) % 10007) / 997))


class Request(NamedTuple):
    key: int
    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    group: int = 0
    prompt_span: tuple[int, int] = (0, 0)
    draft_ids: tuple[int, ...] = ()
    target_ids: tuple[int, ...] = ()
    num_scored: int = 0
    max_answer_tokens: int = 0
    end_ids: tuple[int, ...] = ()
    stop: Stop | None = None
    answer_stop: Stop | None = None

    @property
    def longest(self) -> int:
        written = self.max_new_tokens + len(self.target_ids) + self.max_answer_tokens
        return len(self.prompt_ids) + written


class Expected(NamedTuple):
    outcome: Outcome
    num_generated: int  # end ids included
    num_computed: int  # tokens whose K/V somebody reads, or whose logits are needed


class Written(NamedTuple):
    ids: tuple[int, ...]
    num_generated: int
    end_id: int | None = None
    stop: int | None = None


def _generate(
    text: list[int], limit: int, end_ids: Collection[int], stop: Stop | None, samples: bool
) -> Written:
    """What is written behind `text`, and appended to it; the end id, or the stop, if one came."""
    start, state = len(text), state_of(text)
    while (count := len(text) - start) < limit:
        token = sampled_id(state) if samples else next_id(state)
        if token in end_ids:
            return Written(tuple(text[start:]), count + 1, end_id=token)
        text.append(token)
        state = extend(state, token)
        if stop and token in stop.last_ids and (cut := stop.cut(text[start:], limit)):
            kept, more, number = cut
            text[start + kept :] = more
            return Written(tuple(text[start:]), count + 1, stop=number)
    return Written(tuple(text[start:]), limit)


def expected(request: Request, samples: bool = False) -> Expected:
    """What a request comes to, one token after the other."""
    text = list(request.prompt_ids)
    nll = tuple(-logprob(state_of(text[:i]), text[i], 0) for i in range(*request.prompt_span))
    num_before = len(text)
    written = _generate(text, request.max_new_tokens, request.end_ids, request.stop, samples)
    reasoning, num_generated, end_id, stop = written
    answer: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    hits: tuple[int, ...] = ()
    if request.num_scored or request.max_answer_tokens:
        text += request.target_ids
        scored = range(len(text) - request.num_scored, len(text))
        logprobs = tuple(logprob(state_of(text[:i]), text[i], 1) for i in scored)
        hits = tuple(int(next_id(state_of(text[:i])) == text[i]) for i in scored)
        num_before = len(text)
        limit, stops = request.max_answer_tokens, request.answer_stop
        written = _generate(text, limit, request.end_ids, stops, samples)
        answer = written.ids
        num_generated += written.num_generated
    outcome = (request.key, reasoning, answer, nll, logprobs, hits, end_id, stop)
    # The last id that was written is read by nobody, whether it ends the text or is cut off.
    return Expected(outcome, num_generated, num_before + written.num_generated - 1)
