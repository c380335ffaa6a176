"""A chain collected with a model: at each place every candidate is run on every row of the pool."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from benchmarks.evidence.chains import Chain, Ids, Outcomes, Place
from benchmarks.evidence.places.chain_state import ChainState, rollouts_of, written_ids
from benchmarks.evidence.places.row_scores import (
    first_order,
    reasoning_scores,
    rescored,
    sampled_reasonings,
)
from greater_fast.api import DEFAULT_PROMPT
from greater_fast.config import Config
from greater_fast.examples.extractor import derive_extractor
from greater_fast.examples.layout import Layouts, build_layouts
from greater_fast.examples.tasks import TASKS, generate
from greater_fast.model.kv_cache import BLOCK_SIZE, block_bytes, default_pool_bytes
from greater_fast.model.lm import LM
from greater_fast.rollouts.choose import make_engine
from greater_fast.search.gradient import example_gradients
from greater_fast.search.nouns import TIE, Candidates, Position
from greater_fast.search.propose import propose
from greater_fast.search.reasonings import draw_reasonings
from greater_fast.search.score import score
from greater_fast.search.selection import score_prompts

_SEQUENCES = 256  # at a time: a GPU's K/V pools have room for so many, and for more short ones
# Of a step on a GPU: there are always more sequences, and it may be shared, where none is measured.
_STEP_TOKENS = 512
_A_DAY = "2026-01-01"  # that templates write which write one: a chain goes on tomorrow
# What a chain says of the noise of its sampled reasonings: 1 where each place has its own, 2 where
# no other chain has it either; those that do not say so share one among their places.
_NOISE = "noise_by_place"
_CHAINS_OF_A_TASK, _PLACES_OF_A_CHAIN = 1_000, 1_000  # more than there are
_LONGEST_PROMPT = 32  # tokens: more than the default prompt has, which stays as long as it is


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What all chains of a folder share, beside the model.

    The first `num_selection` of the pool's `num_rows` are those that a change is accepted on, as a
    search of that many rows would. The first `num_scored` get scores, so that signals can be made
    of any of them; the others are there for the truth. Candidates are `num_proposals` drawn from
    the model's proposals, so that no signal's range is cut, and the `num_lowest` of the vocabulary
    by the gradient. The first place of a chain has no reasonings of earlier prompts: it is there to
    write some.
    """

    num_rows: int = 160
    num_selection: int = 50
    num_scored: int = 64
    num_places: int = 7
    num_proposals: int = 7
    num_lowest: int = 3
    max_new_tokens: int = 64
    num_reasonings: int = 4

    def __post_init__(self) -> None:
        if not 0 < self.num_selection <= self.num_scored <= self.num_rows:
            raise ValueError(
                f"got {self.num_selection} rows of selection, {self.num_scored} with scores and "
                f"{self.num_rows} in all, expected none of these to be more than the next"
            )

    def made(self, chain: Chain) -> bool:
        """Whether a chain was collected with these."""
        return shared_settings(chain) == asdict(self)

    def is_whole(self, chain: Chain) -> bool:
        """Whether a chain has all its places."""
        return len(chain.places) >= self.num_places

    def config(self, seed: int = 0) -> Config:
        """Settings of the search's stages."""
        return Config(
            num_train=self.num_selection,
            max_new_tokens=self.max_new_tokens,
            max_prompt_tokens=_LONGEST_PROMPT,
            num_reasonings=self.num_reasonings,
            template_date=_A_DAY,
            seed=seed,
        )


class Collector:
    """Chains of one model: their rows are laid out, and the engines made, once."""

    def __init__(self, lm: LM, settings: Settings, keys: Sequence[tuple[str, int]]) -> None:
        self._lm, self._settings, self.made_on = lm, settings, kind_of_numbers(lm)
        self._layouts = {key: lay_out(lm, settings, *key) for key in keys}
        self._config = settings.config()
        longest = max(rows.longest_sequence(self._config) for rows in self._layouts.values())
        num_blocks = _SEQUENCES * (1 + longest // BLOCK_SIZE)
        room = min(num_blocks * block_bytes(lm), default_pool_bytes(lm.device) // 3)
        tokens = _STEP_TOKENS if lm.device.type == "cuda" else None
        config = replace(self._config, kv_cache_bytes=room, max_step_tokens=tokens)
        num_prompts = settings.num_proposals + settings.num_lowest
        self._engine, self.note = make_engine(lm, config, longest, settings.num_rows * num_prompts)
        config = replace(config, sampling_temperature=1.0)
        self._sampler, _ = make_engine(
            lm, config, longest, settings.num_scored * settings.num_reasonings
        )

    def places(self, chain: Chain) -> Iterator[Chain]:
        """The chain with one place more each time, until it is whole.

        Raises:
            ValueError: it was begun on another kind of device, or in other numbers.
        """
        if chain.made_on and chain.made_on != self.made_on:
            raise ValueError(
                f"the chain of {chain.task}, seed {chain.seed}, was begun on {chain.made_on}: got "
                f"{self.made_on}, on which the same prompt reasons otherwise: name another --out"
            )
        layouts = self._layouts[chain.task, chain.seed]
        config = replace(self._config, seed=chain.seed)
        if chain.places:
            first = chain.places[0].outcomes.of(0)
        else:
            first = self._run(layouts, [layouts.prompt_ids], config)
        end_ids = self._lm.end_ids | layouts.end_ids
        state = ChainState(layouts.prompt_ids, first, end_ids, self._settings.num_scored)
        state.keep(layouts.prompt_ids, first, config)
        for place in chain.places:
            state.add(place, config)
        while not self._settings.is_whole(chain):
            position = self._position(chain, state)
            place = self._place(chain, layouts, state, position, config)
            state.add(place, config)
            chain = replace(chain, places=(*chain.places, place))
            yield chain

    def begin(self, model: str, task: str, seed: int) -> Chain:
        """A chain without places."""
        settings = asdict(self._settings) | {_NOISE: 2}
        return Chain(model, task, seed, self._settings.num_selection, (), settings, self.made_on)

    def _position(self, chain: Chain, state: ChainState) -> Position:
        """Each seed starts where the one before it ends."""
        number = len(chain.places)
        place = chain.seed * self._settings.num_places + number
        return Position(number, place % len(state.prompt_ids), state.prompt_ids)

    def _place(
        self,
        chain: Chain,
        layouts: Layouts,
        state: ChainState,
        position: Position,
        config: Config,
    ) -> Place:
        scored = replace(layouts, rows=layouts.rows[: self._settings.num_scored])
        rollouts = rollouts_of(state.outcomes, state.end_ids)
        own = rollouts[: len(scored)]
        gradients = example_gradients(self._engine, scored, own, position, config)  # [S, D]
        proposed, drawn, lowest = self._candidates(layouts, gradients, position, config)
        ids = tuple(sorted({*drawn, *lowest}))
        prompts = [position.with_token(token_id) for token_id in ids]
        drafts = [rollout.reasoning_ids for rollout in rollouts]
        outcomes = _joined(state.outcomes, self._run(layouts, prompts, config, drafts))
        stored = state.store.chosen(own, config.num_reasonings)
        draw = draw_reasonings if _NOISE in chain.settings else sampled_reasonings
        drawn_at = replace(position, step=_step_of_draws(chain, position))
        sampled = draw(self._sampler, scored, drawn_at, config)
        by_kind = {"stored": stored, "sampled": sampled}
        by_gradient = reasoning_scores(self._engine, scored, by_kind, position, ids, config)
        read, num_effective = rescored(
            self._engine, scored, stored, [position.prompt_ids, *prompts], state.writers
        )
        answer = first_order(self._engine, gradients, position, ids)
        logprobs = dict(zip(proposed.ids, proposed.logprobs, strict=True))
        return Place(
            index=position.index,
            prompt_ids=position.prompt_ids,
            candidate_ids=ids,
            logprobs=np.array([logprobs.get(i, np.nan) for i in ids], np.float32),
            from_lm=np.isin(ids, drawn),
            from_vocabulary=np.isin(ids, lowest),
            outcomes=outcomes,
            scores={"answer": answer, **by_gradient, **read},
            num_effective=num_effective,
            winner=winner_of(outcomes, self._settings.num_selection, config),
        )

    def _candidates(
        self, layouts: Layouts, gradients: torch.Tensor, position: Position, config: Config
    ) -> tuple[Candidates, list[int], list[int]]:
        """All proposals, those drawn of them, and the lowest of the vocabulary.

        They are what a search would have that has the rows of selection alone.
        """
        settings, num = self._settings, self._settings.num_selection
        few = replace(layouts, rows=layouts.rows[:num])
        enough = replace(config, shortlist_size=-(-settings.num_proposals // 2))
        proposed = propose(self._engine, few, position, enough)  # twice as many, where there are
        source = random.Random(f"{config.seed}/candidates/{position.step}")
        drawn = source.sample(proposed.ids, min(settings.num_proposals, len(proposed.ids)))
        whole = replace(config, candidates="vocabulary", shortlist_size=settings.num_lowest)
        lowest = score([gradients[:num].sum(0)], [self._lm], few, proposed, position, whole)
        return proposed, drawn, list(lowest)

    def _run(
        self,
        layouts: Layouts,
        prompts: Sequence[Ids],
        config: Config,
        drafts: Sequence[Ids] = (),
    ) -> Outcomes:
        scored = score_prompts(self._engine, layouts, prompts, config, drafts=drafts)
        rollouts = [prompt.rollouts for prompt in scored if prompt]
        losses, nll = (
            np.array([[getattr(r, name) for r in own] for own in rollouts], np.float16)
            for name in ("answer_loss", "prompt_nll")
        )
        return Outcomes(
            is_right=np.array([[not r.is_wrong for r in own] for own in rollouts]),
            answer_loss=losses.astype(np.float32),
            prompt_nll=nll.astype(np.float32),
            reasonings=tuple(tuple(written_ids(r) for r in own) for own in rollouts),
        )


def shared_settings(chain: Chain) -> dict[str, Any]:
    """A chain's settings, but for what chains of one folder may differ in."""
    return {name: value for name, value in chain.settings.items() if name != _NOISE}


def _step_of_draws(chain: Chain, position: Position) -> int:
    """The step that a place's sampled reasonings are drawn for: no other chain's, if it says so."""
    if chain.settings.get(_NOISE, 0) < 2:
        return position.step
    number = list(TASKS).index(chain.task) * _CHAINS_OF_A_TASK + chain.seed
    return number * _PLACES_OF_A_CHAIN + position.step


def kind_of_numbers(lm: LM) -> str:
    """The kind of device that a model is on, and the numbers that it computes in."""
    on_gpu = lm.device.type == "cuda"
    device = torch.cuda.get_device_name(lm.device) if on_gpu else lm.device.type
    kind = f"{device}, {str(lm.dtype).removeprefix('torch.')}"
    return f"{kind}, TF32" if on_gpu and torch.get_float32_matmul_precision() != "highest" else kind


def lay_out(lm: LM, settings: Settings, task: str, seed: int) -> Layouts:
    """The pool of a chain around the default prompt, which no place makes longer."""
    rows = generate(task, settings.num_rows, seed)
    extractor = derive_extractor([row.answer for row in rows])
    return build_layouts(lm, rows, DEFAULT_PROMPT, extractor, settings.config(seed))


def winner_of(outcomes: Outcomes, num_selection: int, config: Config) -> int:
    """Which prompt a search keeps: the lowest, ties to the incumbent, then to the lower id."""
    values = outcomes.objectives(slice(num_selection), config)
    return int(np.flatnonzero(values <= values.min() + TIE)[0])


def _joined(first: Outcomes, others: Outcomes) -> Outcomes:
    return Outcomes(
        np.concatenate([first.is_right, others.is_right]),
        np.concatenate([first.answer_loss, others.answer_loss]),
        np.concatenate([first.prompt_nll, others.prompt_nll]),
        (*first.reasonings, *others.reasonings),
    )
