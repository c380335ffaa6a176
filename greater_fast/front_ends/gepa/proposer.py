"""Steps of GReaTer as a proposal of GEPA: called as its `ProposalFn` is."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from greater_fast.config import Config
from greater_fast.engine import Engine
from greater_fast.examples.layout import Layouts
from greater_fast.runs.input import check_settings
from greater_fast.search.checks import check_engines, check_stop_texts
from greater_fast.search.found import find_prompts
from greater_fast.search.nouns import TIE, Scored
from greater_fast.search.state import LoopState
from greater_fast.wording import quoted

_log = logging.getLogger("greater_fast")

Candidate = Mapping[str, str]

# Settings that would be ignored, each with what decides it here.
DECIDED = {
    "steps": "the proposer's steps=",
    "minutes": "GEPA's max_metric_calls",
    "num_finalists": "GEPA's pool",
}


class GReaTerProposer:
    """Proposes what some steps of GReaTer make of a candidate's text, on rows of its own.

    Each call goes on in the parent's text at the place where the last one stopped. The best prompt
    of all that were scored, for any parent, is proposed, and each once. Rows of the reflective
    dataset are not asked for: they carry no gold answers.

    Args:
        engine: made by `make_engine`.
        layouts: the rows to search on, as `build_layouts` lays them out around any prompt.
        config: settings of the search, without those of its length.
        component: the component of a candidate that is the prompt; by default its only one.
        steps: of GReaTer for a proposal.

    Raises:
        ValueError: no step, or no row; settings that do not go with the rows' stop texts, that the
            engine was not made with, or that something else decides.
    """

    def __init__(
        self,
        engine: Engine,
        layouts: Layouts,
        config: Config,
        *,
        component: str | None = None,
        steps: int = 4,
    ) -> None:
        if steps < 1:
            raise ValueError(f"steps: got {steps}, expected 1 or more")
        if not len(layouts):
            raise ValueError("layouts: got no row, expected some to search on")
        check_settings(config, DECIDED)
        check_engines([engine], config)
        check_stop_texts(layouts.stop, config)
        self.num_generated_tokens = 0  # by these searches, which GEPA's budget knows nothing of
        self._engine, self._layouts, self._component = engine, layouts, component
        self._config = replace(config, steps=steps)
        self._known: dict[tuple[int, ...], Scored] = {}
        self._proposed: set[tuple[int, ...]] = set()  # and parents, which GEPA has already
        self._has_warned = False
        self._given_up: dict[tuple[int, ...], float] = {}
        self._stopped: dict[tuple[int, ...], LoopState] = {}  # by parent: where its search stopped

    def __call__(
        self,
        candidate: Candidate,
        reflective_dataset: Mapping[str, Sequence[Mapping[str, Any]]],
        components_to_update: Sequence[str],
        **context: Any,
    ) -> dict[str, str]:
        """The component's new text; an empty mapping where nothing new is better on the rows.

        Then GEPA goes on without asking for an evaluation. `context` is what later versions of GEPA
        hand over too; it is not looked at. What is raised is warned of once, too: GEPA only logs
        it, and spends its budget.

        Raises:
            ValueError: the candidate lacks the component, or its text cannot be laid out.
        """
        try:
            return self._proposal(candidate, components_to_update)
        except Exception as error:
            if not self._has_warned:
                self._has_warned = True
                warnings.warn(
                    f"GEPA: no proposal was made: {type(error).__name__}: {error}. GEPA logs this "
                    "and goes on: end it, unless some proposals are enough",
                    RuntimeWarning,
                    stacklevel=2,
                )
            raise

    def _proposal(
        self, candidate: Candidate, components_to_update: Sequence[str]
    ) -> dict[str, str]:
        component = self._component_of(candidate)
        if component not in components_to_update:
            return {}
        layouts = self._layouts.with_prompt(candidate[component])
        num_tokens = self._engine.num_generated_tokens
        least = self._objective(self._search(layouts)) - TIE
        num_tokens = self._engine.num_generated_tokens - num_tokens
        self.num_generated_tokens += num_tokens
        _log.info("GEPA: a proposal took %d generated tokens", num_tokens)
        new = [scored for ids, scored in self._known.items() if ids not in self._proposed]
        best = min(new, key=self._objective, default=None)
        if best is None or self._objective(best) >= least:
            return {}
        self._proposed.add(best.prompt_ids)
        return {component: layouts.prompt_text(best.prompt_ids)}

    def _search(self, layouts: Layouts) -> Scored:
        """Take some steps from the prompt of `layouts`, which is returned as it was scored."""
        parent = layouts.prompt_ids
        self._proposed.add(parent)
        if parent not in self._known:
            begun = find_prompts(self._engine, layouts, replace(self._config, steps=0))
            self._known |= begun.state.scored
        incumbent = self._known[parent]
        state = LoopState(incumbent)
        state.add(incumbent, self._config)  # its reasonings, too, where the gradient is of them
        state = replace(
            self._stopped.get(parent, state),
            incumbent=incumbent,
            scored=self._known,
            given_up=self._given_up,
        )
        after = find_prompts(self._engine, layouts, self._config, state=state).state
        self._known, self._given_up = after.scored, after.given_up
        # What was dropped lost to a better incumbent, it may be.
        self._stopped[parent] = replace(after, scored={}, given_up={}, dropped={})
        return incumbent

    def _objective(self, scored: Scored) -> float:
        return scored.objective.value(self._config)

    def _component_of(self, candidate: Candidate) -> str:
        if self._component is None and len(candidate) == 1:
            return next(iter(candidate))
        if self._component is None or self._component not in candidate:
            raise ValueError(
                f"component: got {self._component!r}, and the candidate has "
                f"{quoted(list(candidate))}: name the one whose text is the prompt of the rows"
            )
        return self._component
