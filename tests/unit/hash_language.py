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
]


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

    @property
    def longest(self) -> int:
        written = self.max_new_tokens + len(self.target_ids) + self.max_answer_tokens
        return len(self.prompt_ids) + written


class Expected(NamedTuple):
    outcome: Outcome
    num_generated: int  # end ids included
    num_computed: int  # tokens whose K/V somebody reads, or whose logits are needed


def _generate(
    text: list[int], limit: int, end_ids: Collection[int], samples: bool
) -> tuple[tuple[int, ...], int | None]:
    """What is written behind `text`, and appended to it; the end id, if one came."""
    start, state = len(text), state_of(text)
    while len(text) < start + limit:
        token = sampled_id(state) if samples else next_id(state)
        if token in end_ids:
            return tuple(text[start:]), token
        text.append(token)
        state = extend(state, token)
    return tuple(text[start:]), None


def expected(request: Request, samples: bool = False) -> Expected:
    """What a request comes to, one token after the other."""
    text = list(request.prompt_ids)
    nll = tuple(-logprob(state_of(text[:i]), text[i], 0) for i in range(*request.prompt_span))
    reasoning, end_id = _generate(text, request.max_new_tokens, request.end_ids, samples)
    ended = end_id is not None
    num_generated = len(reasoning) + ended
    answer: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    hits: tuple[int, ...] = ()
    if request.num_scored or request.max_answer_tokens:
        text += request.target_ids
        scored = range(len(text) - request.num_scored, len(text))
        logprobs = tuple(logprob(state_of(text[:i]), text[i], 1) for i in scored)
        hits = tuple(int(next_id(state_of(text[:i])) == text[i]) for i in scored)
        answer, last_id = _generate(text, request.max_answer_tokens, request.end_ids, samples)
        ended = last_id is not None
        num_generated += len(answer) + ended
    outcome = (request.key, reasoning, answer, nll, logprobs, hits, end_id)
    return Expected(outcome, num_generated, len(text) - (not ended))
