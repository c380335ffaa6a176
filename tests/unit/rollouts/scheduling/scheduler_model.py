"""A model of the scheduler's world, with K/V that is a dict.

`World` runs a scheduler's plans. It reconstructs each token's prefix from the plan's arrays alone,
following block tables into what earlier tokens wrote: a slot that was never written, or that holds
another prefix, fails at once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from greater_fast._core import Scheduler, Stop
from tests.unit.hash_language import (
    EMPTY,
    Outcome,
    Request,
    State,
    extend,
    logprob,
    next_id,
    sampled_id,
)

_GUARD, _UNTOUCHED = 3, -77  # elements behind each buffer, which nobody may write


class Counts(NamedTuple):
    num_tokens: int
    num_sequences: int
    num_logit_rows: int
    num_copies: int
    num_padding: int


def buffers_for(max_tokens: int, max_sequences: int, table_width: int) -> dict[str, Any]:
    """The plan's arrays, each a little too long: what lies behind must stay as it is."""
    by_token = ("tokens", "positions", "slots", "logit_rows", "targets", "target_kinds", "row_keys")
    sizes = dict.fromkeys(by_token, max_tokens)
    sizes |= {"query_starts": max_sequences + 1, "context_lens": max_sequences}
    sizes |= {"block_tables": max_sequences * table_width, "copies": 2 * max_sequences}
    return {name: np.full(size + _GUARD, _UNTOUCHED, np.int32) for name, size in sizes.items()}


class World:
    """A scheduler, the model that answers it, and all that came out."""

    def __init__(
        self,
        *,
        num_blocks: int,
        block_size: int = 4,
        max_tokens: int = 64,
        max_sequences: int | None = None,
        table_width: int | None = None,
        samples: bool = False,
        **config: Any,
    ) -> None:
        self.num_blocks, self.block_size, self.max_tokens = num_blocks, block_size, max_tokens
        self.max_sequences = max_sequences or max_tokens
        self.table_width = table_width or num_blocks
        self.min_tokens = config.get("min_tokens", 1)
        self.fixed = config.get("fixed_tokens", False)
        self.samples = samples
        self.buffers = buffers_for(max_tokens, self.max_sequences, self.table_width)
        self.scheduler = Scheduler(
            self.buffers,
            num_blocks=num_blocks,
            block_size=block_size,
            table_width=self.table_width,
            max_tokens=max_tokens,
            max_sequences=self.max_sequences,
            **config,
        )
        self.store: dict[int, tuple[int, State]] = {}  # slot -> token, and the prefix it ends
        self.requests: dict[int, Request] = {}  # submitted, and not finished
        self.finished: dict[int, Outcome] = {}
        self.counts = Counts(0, 0, 0, 0, 0)  # over all steps
        self.steps = 0

    def submit(self, *requests: Request) -> None:
        for request in requests:
            stops = {
                name: stop and Stop(stop.last_ids, stop.cut)
                for name, stop in (("stop", request.stop), ("answer_stop", request.answer_stop))
            }
            self.scheduler.submit(**{**request._asdict(), **stops})
            self.requests[request.key] = request

    def plan(self) -> Counts:
        counts = Counts(*self.scheduler.plan())
        self.scheduler.check_integrity()
        self.counts = Counts(*map(sum, zip(self.counts, counts, strict=True)))
        self.steps += counts.num_sequences > 0
        return counts

    def commit(self, counts: Counts) -> None:
        self.scheduler.commit(*self.answer(counts))
        self.scheduler.check_integrity()
        for outcome in self.scheduler.take_finished():
            self.requests.pop(outcome[0])
            self.finished[outcome[0]] = outcome

    def step(self) -> Counts:
        counts = self.plan()
        self.commit(counts)
        return counts

    def cancel(self, *, key: int | None = None, group: int | None = None) -> None:
        gone = [k for k, r in self.requests.items() if k == key or r.group == group]
        for k in gone:
            del self.requests[k]
        found = self.scheduler.cancel(key) if key is not None else 0
        found += self.scheduler.cancel_group(group) if group is not None else 0
        assert found == len(gone)
        self.scheduler.check_integrity()

    def abort(self) -> None:
        self.scheduler.abort()
        self.requests.clear()
        self.scheduler.check_integrity()

    def drain(self) -> None:
        """Steps until all is done; a request that never ends is a failure."""
        last = self.steps + 100 + 20 * sum(r.longest for r in self.requests.values())
        while not self.scheduler.idle:
            self.step()
            assert self.steps < last, "a request does not end"
        assert not self.requests
        assert self.scheduler.num_free_blocks == self.num_blocks - 1, "a block is lost"

    def run(self, *requests: Request) -> list[Outcome]:
        self.submit(*requests)
        self.drain()
        return [self.finished[request.key] for request in requests]

    def answer(
        self, counts: Counts
    ) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int32] | None]:
        """The model's answers to a plan, and every check a plan can be given."""
        self._check_shape(counts)
        self._copy(self.buffers["copies"][: 2 * counts.num_copies].reshape(-1, 2).tolist())
        states = self._compute(counts)
        rows, targets, kinds = (
            self.buffers[name][: counts.num_logit_rows].tolist()
            for name in ("logit_rows", "targets", "target_kinds")
        )
        assert rows == sorted(set(rows))
        assert not rows or rows[-1] < len(states), "logits of padding"
        argmax = np.array([next_id(states[row]) for row in rows], np.int32)
        logprobs = np.full(len(rows), np.nan, np.float32)  # where nothing is asked for
        for i, (row, target, kind) in enumerate(zip(rows, targets, kinds, strict=True)):
            assert self.buffers["row_keys"][i] in self.requests
            if target >= 0:
                logprobs[i] = logprob(states[row], target, kind)
        if not self.samples:
            return argmax, logprobs, None
        return argmax, logprobs, np.array([sampled_id(states[row]) for row in rows], np.int32)

    def _check_shape(self, counts: Counts) -> None:
        num_real = counts.num_tokens - counts.num_padding
        assert counts.num_sequences <= min(self.max_sequences, num_real)
        least = self.max_tokens if self.fixed else self.min_tokens
        assert num_real <= self.max_tokens
        assert counts.num_tokens == (max(num_real, least) if num_real else 0)
        padding = slice(num_real, counts.num_tokens)
        assert set(self.buffers["slots"][padding].tolist()) <= set(range(self.block_size))
        assert (self.buffers["tokens"][padding] == 0).all()
        assert (self.buffers["positions"][padding] == 0).all()
        if self.fixed:
            assert (self.buffers["query_starts"][counts.num_sequences : -_GUARD] == num_real).all()
            assert (self.buffers["context_lens"][counts.num_sequences : -_GUARD] == 0).all()
        assert all((array[-_GUARD:] == _UNTOUCHED).all() for array in self.buffers.values())

    def _copy(self, pairs: list[list[int]]) -> None:
        """All are read before any is written; what the source lacks, the target has no more."""
        targets = [to for _, to in pairs]
        assert len(set(targets)) == len(targets), "a block is copied to twice"
        offsets = range(self.block_size)
        read = [[self.store.get(of * self.block_size + i) for i in offsets] for of, _ in pairs]
        for to, entries in zip(targets, read, strict=True):
            assert 0 < to < self.num_blocks
            for i, entry in enumerate(entries):
                self.store.pop(to * self.block_size + i, None)
                if entry is not None:
                    self.store[to * self.block_size + i] = entry

    def _compute(self, counts: Counts) -> list[State]:
        """The prefix of each token, reading and writing K/V as attention does."""
        tokens, positions, slots, starts, lens = (
            self.buffers[name].tolist()
            for name in ("tokens", "positions", "slots", "query_starts", "context_lens")
        )
        tables = self.buffers["block_tables"][:-_GUARD].reshape(-1, self.table_width).tolist()
        states: list[State] = []
        owners: dict[int, list[int]] = {}  # block -> sequences that have it
        written: dict[int, int] = {}  # block -> the sequence that writes it
        assert starts[0] == 0 or not counts.num_sequences
        for b in range(counts.num_sequences):
            first, stop, size = starts[b], starts[b + 1], self.block_size
            table = tables[b][: -(-lens[b] // size)]
            assert all(0 < block < self.num_blocks for block in table)
            assert len(set(table)) == len(table)
            for block in table:
                owners.setdefault(block, []).append(b)
            before = lens[b] - (stop - first)
            assert 0 <= before < lens[b]
            state = self._read([table[i // size] * size + i % size for i in range(before)])
            for token, position in zip(range(first, stop), range(before, lens[b]), strict=True):
                block, slot = table[position // size], slots[token]
                assert positions[token] == position
                state = extend(state, tokens[token])
                states.append(state)
                own = block * size + position % size
                if slot < size:  # only its logits are wanted: its K/V must be there
                    assert self.store.get(own) == (tokens[token], state)
                    continue
                assert slot == own
                self.store[slot] = (tokens[token], state)
                written[block] = b
        for block, b in written.items():
            assert owners[block] == [b], "a shared block is written"
        assert len(states) == counts.num_tokens - counts.num_padding
        return states

    def _read(self, slots: list[int]) -> State:
        state = EMPTY
        for slot in slots:
            assert slot in self.store, "a slot is read that was never written"
            token, stored = self.store[slot]
            state = extend(state, token)
            assert stored == state, "a slot holds the K/V of another prefix"
        return state
