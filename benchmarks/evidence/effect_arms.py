"""An arm of `effect`: a search that its budget ends, then finals as of `optimize`."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from benchmarks.evidence.effect_cells import (
    EXACT,
    MOST_IDLE_STEPS,
    NO_MORE,
    NOTHING_NEW,
    Budget,
    Cost,
    Settings,
)
from benchmarks.evidence.random_prompts import score_random
from benchmarks.harness.machine import synchronize
from greater_fast import Config
from greater_fast.api import DEFAULT_PROMPT
from greater_fast.engine import Engine
from greater_fast.examples.layout import Layouts
from greater_fast.examples.metrics import named_metric
from greater_fast.gradients.gradient_pass import check_gradient
from greater_fast.model.kv_cache import BLOCK_SIZE, block_bytes, default_pool_bytes
from greater_fast.model.lm import LM
from greater_fast.rollouts.choose import make_engine
from greater_fast.runs.evaluation import Evaluation, evaluate_prompt
from greater_fast.runs.prepare import prepare
from greater_fast.search.nouns import Step
from greater_fast.search.optimizer import run, start
from greater_fast.search.state import LoopState

Prompt = tuple[int, ...]
_SPENT = "budget spent"


class Meter:
    """What was spent since it was made."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._before, self._begun = self._tokens(), self._now()

    def cost(self) -> Cost:
        """The cost until now."""
        (tokens, forward), (tokens_before, forward_before) = self._tokens(), self._before
        return Cost(
            tokens=tokens - tokens_before,
            forward_tokens=forward - forward_before,
            seconds=self._now() - self._begun,
        )

    def is_over(self, budget: Budget) -> bool:
        """Whether a budget is spent."""
        cost = self.cost()
        return (cost.tokens if budget.kind == "tokens" else cost.seconds) >= budget.amount

    def _tokens(self) -> tuple[int, int]:
        return self._engine.num_generated_tokens, self._engine.num_forward_tokens

    def _now(self) -> float:
        synchronize(self._engine.lm.device)
        return time.perf_counter()


@dataclass(frozen=True, slots=True, repr=False)
class Found:
    """What a search came to."""

    state: LoopState
    cost: Cost
    num_steps: int
    stopped: str

    @property
    def num_candidates(self) -> int:
        """Prompts that were tried on the training rows beside the initial one."""
        state = self.state
        return len({*state.scored, *state.given_up, *state.dropped}) - 1


def search(engine: Engine, layouts: Layouts, config: Config, arm: str, budget: Budget) -> Found:
    """Search on the training rows until the budget is spent: no step begins after that.

    It ends before where `MOST_IDLE_STEPS` in a row have nothing new to try. The initial prompt's
    training rows are a part of the cost.
    """
    meter = Meter(engine)
    state = start(engine, layouts, config)
    if arm == "best_of_n":
        num_rounds = score_random(engine, layouts, state, config, lambda: meter.is_over(budget))
        ended = _SPENT if meter.is_over(budget) else NO_MORE
        return Found(state, meter.cost(), num_rounds, ended)
    num_steps, num_idle = 0, 0

    def on_step(step: Step) -> str | None:
        nonlocal num_steps, num_idle
        num_steps += 1
        num_idle = 0 if step.num_generated_tokens else num_idle + 1
        if meter.is_over(budget):
            return _SPENT
        return NOTHING_NEW if num_idle >= MOST_IDLE_STEPS else None

    stopped = _SPENT
    if not meter.is_over(budget):
        stopped = run(engine, layouts, config, state, on_step)
    return Found(state, meter.cost(), num_steps, stopped)


@dataclass(slots=True, repr=False)
class Place:
    """A task's rows for one seed. What was evaluated once is not again: its cost counts again."""

    engine: Engine
    settings: Settings
    layouts: Mapping[str, Mapping[str, Layouts]]  # by arm and split
    _known: dict[tuple[str, Prompt], tuple[Evaluation, Cost]] = field(default_factory=dict)

    @property
    def initial(self) -> Prompt:
        """The prompt that all arms begin with."""
        return next(iter(self.layouts.values()))["train"].prompt_ids

    def ids_of(self, prompt: str) -> Prompt:
        """The ids of a prompt that a cell wrote down."""
        return next(iter(self.layouts.values()))["test"].with_prompt(prompt).prompt_ids

    def evaluated(self, split: str, prompt_ids: Prompt) -> tuple[Evaluation, Cost]:
        """Accuracy of a prompt on the rows of a split, and what it takes to find out."""
        if (split, prompt_ids) not in self._known:
            layouts = next(iter(self.layouts.values()))  # arms have the same rows
            config, meter = self.settings.config("initial", 0), Meter(self.engine)
            found = evaluate_prompt(self.engine, layouts[split], prompt_ids, config)
            self._known[split, prompt_ids] = found, meter.cost()
        return self._known[split, prompt_ids]

    def best(self, state: LoopState, config: Config) -> tuple[Prompt, Cost]:
        """The finalist that does best on the development rows, and what the finals cost.

        As `optimize` chooses: of equals the better one in training, but the initial prompt before
        all others.
        """
        finalists = [s.prompt_ids for s in state.best(config.num_finalists, config)]
        entrants = list(dict.fromkeys((self.initial, *finalists)))
        found = {ids: self.evaluated("dev", ids) for ids in entrants}
        best = max(entrants, key=lambda ids: found[ids][0].num_correct)
        costs = [cost for _, cost in found.values()]
        cost = Cost(
            tokens=sum(c.tokens for c in costs),
            forward_tokens=sum(c.forward_tokens for c in costs),
            seconds=sum(c.seconds for c in costs),
        )
        return best, cost


class Workbench:
    """A loaded model with its engine, made once for all cells of a process.

    What `optimize` tries and measures at each start is tried once here.
    """

    def __init__(self, lm: LM, settings: Settings) -> None:
        self._lm, self._settings = lm, settings
        self._engine: Engine | None = None
        self._warmed: Engine | None = None
        self._longest = 0

    def place(self, task: str, seed: int, arms: list[str]) -> Place:
        """A task's rows for a seed, laid out for each arm; test rows have the settings' metric.

        Raises:
            ValueError: the metric is not for the task's answers.
        """
        splits = self._settings.splits(task, seed)
        laid_out = {
            arm: prepare([self._lm], splits, DEFAULT_PROMPT, config).layouts
            for arm, config in ((arm, self._settings.config(arm, seed)) for arm in arms)
        }
        if self._settings.metric != EXACT:
            metric = named_metric(self._settings.metric, splits.test)
            laid_out = {
                arm: {**sets, "test": replace(sets["test"], metric=metric)}
                for arm, sets in laid_out.items()
            }
        longest = max(
            rows.longest_sequence(self._settings.config(arm, seed))
            for arm, sets in laid_out.items()
            for rows in sets.values()
        )
        return Place(self._engine_for(longest), self._settings, laid_out)

    def warm_up(self, place: Place, arm: str) -> None:
        """A step that nobody counts: an engine compiles kernels, and asks for memory, but once."""
        if place.engine is self._warmed:
            return
        config, layouts = self._settings.config(arm, 0), place.layouts[arm]["train"]
        run(place.engine, layouts, config, start(place.engine, layouts, config), lambda _: "warm")
        self._warmed = place.engine

    def _engine_for(self, longest: int) -> Engine:
        """The engine; another one only where sequences are longer than those until now."""
        if self._engine is None or longest > self._longest:
            self._engine = self._warmed = None  # its pool goes before the next one comes
            self._longest = 64 * -(-longest // 64)
            self._engine, _ = make_engine(self._lm, self._own_config(), self._longest)
            check_gradient(self._engine)
        return self._engine

    def _own_config(self) -> Config:
        """Settings of the engine, with a pool that leaves a GPU to others where it can."""
        config = self._settings.config("ours", 0).to_dict()
        num_blocks = 2 * self._settings.max_step_tokens * -(-self._longest // BLOCK_SIZE)
        most = default_pool_bytes(self._lm.device)
        return Config(**config | {"kv_cache_bytes": min(num_blocks * block_bytes(self._lm), most)})
