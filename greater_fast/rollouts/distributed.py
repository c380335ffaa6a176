"""Rollouts over several ranks: each has the model, and a share of the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from greater_fast.config import Config
from greater_fast.engine import Engine, Layers, OnFinished, Rollout, RolloutRequest
from greater_fast.model.exclusive import exclusive
from greater_fast.model.kv_cache import PrefixKV
from greater_fast.model.lm import LM
from greater_fast.ranks import Ranks
from greater_fast.rollouts.batch import RolloutEngine
from greater_fast.rollouts.choose import make_engine


@dataclass(frozen=True, slots=True)
class _Share:
    """What a rank hands over: rollouts by their request's number, and its work until now.

    `asked` is a hash of all requests: where ranks ask for different things, one has gone astray.
    """

    asked: int
    rollouts: dict[int, Rollout]
    num_generated_tokens: int
    num_forward_tokens: int


class DistributedEngine:
    """An engine on every rank, as one: each runs its rows, and all get all rollouts.

    The i-th request of a group goes to rank i modulo their number, so that what a row's prompts
    share stays stored where it was computed; where the local engine's bits depend on the rows of a
    batch, whole batches of `rows_together` are dealt in place of single rows.

    A group is dropped by each rank as its own rows show it. Who drops it on some of its rows must
    do so on all: then every rank comes to the same, whoever was first.
    """

    def __init__(self, local: Engine, ranks: Ranks, rows_together: int = 1) -> None:
        self.lm, self.ranks = local.lm, ranks
        self.local, self._rows_together = local, rows_together
        self.num_generated_tokens = 0
        self.num_forward_tokens = 0

    @cached_property
    def can_pack(self) -> bool:
        """Whether the model runs over packed suffixes, on all ranks."""
        return all(self.ranks.gathered(self.local.can_pack))

    @property
    def decoding(self) -> Mapping[str, Any]:
        """Temperatures, seed and draws that the engine of each rank was made with."""
        return self.local.decoding

    @property
    def layers(self) -> Layers:
        """What of the model's layers can run by our kernels on this rank."""
        return self.local.layers

    @exclusive
    def run(
        self, requests: Sequence[RolloutRequest], on_finished: OnFinished | None = None
    ) -> list[Rollout | None]:
        """Rollouts in the order of the requests; None where `on_finished` dropped the group.

        It sees this rank's rollouts as they end, and the others' when all have ended.

        Raises:
            RuntimeError: other ranks were asked for something else.
        """
        own = self._own_requests(requests)
        done: dict[int, Rollout] = {}

        def finished(number: int, rollout: Rollout) -> Sequence[int]:
            done[own[number]] = rollout
            return tuple(on_finished(own[number], rollout)) if on_finished else ()

        if own:
            self.local.run([requests[number] for number in own], finished)
        rollouts: list[Rollout | None] = [None] * len(requests)
        for number, rollout in sorted(self._gathered(requests, done).items()):
            rollouts[number] = rollout
            if on_finished and number not in done:
                on_finished(number, rollout)
        return rollouts

    @exclusive
    def next_logits(self, contexts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Logits [C, V], in at least float32, of the token after each context.

        A context goes to the rank that has most of it stored.
        """
        owners = self._nearest(contexts)
        pairs = zip(contexts, owners, strict=True)
        own = [context for context, owner in pairs if owner == self.ranks.rank]
        nothing = torch.empty(0, device=self.lm.device)
        shares = self.ranks.gathered_rows(self.local.next_logits(own) if own else nothing)
        rows = [iter(share) for share in shares]
        return torch.stack([next(rows[owner]) for owner in owners])

    @property
    def prefix_capacity(self) -> int:
        """Tokens of prefixes that each rank has room for."""
        return self.local.prefix_capacity

    @property
    def max_sequence_tokens(self) -> int | None:
        """Tokens of a sequence for which the engine of each rank was made."""
        return self.local.max_sequence_tokens

    def store(self, contexts: Sequence[Sequence[int]]) -> None:
        """Compute on this rank what `prefix_kv` is to find of the contexts."""
        self.local.store(contexts)

    def prefix_kv(self, ids: Sequence[int]) -> PrefixKV | None:
        """Keys and values of the longest prefix of `ids` that this rank has stored."""
        return self.local.prefix_kv(ids)

    def _own_requests(self, requests: Sequence[RolloutRequest]) -> list[int]:
        """Numbers of the requests that this rank runs."""
        places = Counter[int]()  # of a group's requests until then
        own = []
        for number, request in enumerate(requests):
            if self._in_turn(places[request.group]) == self.ranks.rank:
                own.append(number)
            places[request.group] += 1
        return own

    def _in_turn(self, place: int) -> int:
        """The rank whose turn a place in a list is."""
        return place // self._rows_together % self.ranks.size

    def _nearest(self, contexts: Sequence[Sequence[int]]) -> list[int]:
        """The rank of each context: the one that has most of it stored, else the one in turn."""
        found = [self.local.prefix_kv(context) for context in contexts]
        lengths = self.ranks.gathered([kv.num_tokens if kv else 0 for kv in found])  # [ranks][C]
        return [
            max(
                range(self.ranks.size), key=lambda r: (lengths[r][place], r == self._in_turn(place))
            )
            for place in range(len(contexts))
        ]

    def _gathered(
        self, requests: Sequence[RolloutRequest], done: dict[int, Rollout]
    ) -> dict[int, Rollout]:
        """All ranks' rollouts by their request's number; counts their work."""
        local = self.local
        asked = hash(tuple(requests))
        shares = self.ranks.gathered(
            _Share(asked, done, local.num_generated_tokens, local.num_forward_tokens)
        )
        if {share.asked for share in shares} != {asked}:
            raise RuntimeError(
                "the ranks have come to different prompts: are model, devices and versions of "
                "the libraries the same on all?"
            )
        self.num_generated_tokens = sum(share.num_generated_tokens for share in shares)
        self.num_forward_tokens = sum(share.num_forward_tokens for share in shares)
        return {number: rollout for share in shares for number, rollout in share.rollouts.items()}


def make_engine_of(
    ranks: Ranks, lm: LM, config: Config, longest_sequence: int, num_sequences: int
) -> tuple[Engine, str]:
    """`make_engine` on every rank, with the choices and sizes of rank 0, and all of them as one.

    Alone it is just that, and so it is on each of the ranks that share a model. The line says,
    where it is so, how the result may differ from that of one process.
    """
    if ranks.size == 1:
        return make_engine(lm, config, longest_sequence, num_sequences)
    if lm.ranks.size > 1:  # each rank runs all rows, with its part of the model
        engine, note = make_engine(lm, config, longest_sequence, num_sequences)
        shared = f"{lm.ranks.size} ranks share the model and every rollout"
        return engine, f"{note}; {shared}: as in one process but for rounding"
    # Of a rank with one row more than others, in all groups.
    num_sequences = (num_sequences + config.shortlist_size * (ranks.size - 1)) // ranks.size
    if ranks.is_first:
        local, note = make_engine(lm, config, longest_sequence, num_sequences)
    settled = ranks.by_first(lambda: _settled(config, local))
    if not ranks.is_first:
        local, note = make_engine(lm, settled, longest_sequence, num_sequences)
    notes = ranks.gathered(note)
    note = "; ".join(
        [notes[0], *(f"on rank {r}: {n}" for r, n in enumerate(notes) if n != notes[0])]
    )
    if lm.device.type != "cpu":
        note += f"; {ranks.size} ranks: gradients are those of one process but for rounding"
    rows_together = 1 if isinstance(local, RolloutEngine) else config.batch_size
    return DistributedEngine(local, ranks, rows_together), note


def _settled(config: Config, engine: Engine) -> Config:
    """Settings by which other ranks make the engine that one has made."""
    return replace(config, **choices_of(engine))


def choices_of(engine: Engine) -> dict[str, Any]:
    """Settings by which an engine is made again as it is, whatever is free or measured then."""
    local = engine.local if isinstance(engine, DistributedEngine) else engine
    if not isinstance(local, RolloutEngine):
        return {"engine": "generate"}
    return {
        "engine": "paged",
        "kv_cache_bytes": local.kv_cache_bytes,
        "max_step_tokens": local.max_tokens,
    }


def is_batch_invariant(engine: Engine) -> bool:
    """Whether a row's bits are its own, whatever is computed beside it."""
    local = engine.local if isinstance(engine, DistributedEngine) else engine
    return isinstance(local, RolloutEngine) and local.batch_invariant
