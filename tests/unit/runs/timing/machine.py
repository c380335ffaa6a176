"""A run whose work is made up, on a clock that only that work moves."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from unittest import mock

from greater_fast.config import Config
from greater_fast.examples.layout import Layouts
from greater_fast.ranks import ALONE, Ranks
from greater_fast.runs.directory import RunDirectory
from greater_fast.runs.evaluation import Evaluation, RowLog, RowRecord
from greater_fast.runs.on_ranks import NoDirectory
from greater_fast.runs.progress import Teller
from greater_fast.runs.result import Result
from greater_fast.runs.sitting import finals
from greater_fast.runs.sitting import run as run_module
from greater_fast.runs.sitting.functions import Functions
from greater_fast.runs.sitting.run import Run
from greater_fast.runs.timing.time_budget import TimeBudget
from greater_fast.search.judge import Judge
from greater_fast.search.nouns import Scored, Step, objective_of
from greater_fast.search.optimizer import OnStep
from greater_fast.search.state import LoopState
from tests.cases import FakeEngine, as_engine, made_up, table_layouts

PROMPT_IDS = (1, 2, 3)
ANSWERED = (2 + 1 + 8) / 2  # tokens that a row is evaluated with, as many times those of a score


def scored(prompt_ids: tuple[int, ...], num_rows: int, nll: float = 1.0) -> Scored:
    """A prompt with two tokens of reasoning on each row, the first of which is wrong."""
    rollouts = tuple(made_up(row == 0, nll=nll) for row in range(num_rows))
    return Scored(prompt_ids, objective_of(rollouts, num_rows), rollouts)


class Lines(Teller):
    """What stays of what is told."""

    def __init__(self) -> None:
        self.kept: list[str] = []

    def keep(self, text: str) -> None:
        self.kept.append(text)


@dataclass(kw_only=True)
class Machine:
    """Does a run's work in so many seconds: each is multiplied by the next of `luck`.

    The score of the initial prompt takes `score`, a step `step`, and rows are evaluated in
    proportion to their number and tokens.
    """

    score: float = 10.0
    step: float = 30.0
    sizes: dict[str, int] = field(default_factory=lambda: {"train": 5, "dev": 10, "test": 20})
    luck: Callable[[], float] = lambda: 1.0
    time: float = 0.0
    evaluated: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)
    told: Lines = field(default_factory=Lines)

    def clock(self) -> float:
        return self.time

    def seconds_of(self, split: str) -> float:
        """Seconds of one evaluation, by no luck."""
        return self.score * ANSWERED * self.sizes[split] / self.sizes["train"]

    def works(self, seconds: float) -> None:
        self.time += seconds * self.luck()

    def run(
        self,
        minutes: float | None,
        on_step: OnStep | None = None,
        ranks: Ranks = ALONE,
        directory: RunDirectory | None = None,
        judge: Judge | None = None,
        **settings: Any,
    ) -> Result:
        """A run that begins at 0; every step scores as many prompts as the shortlist has.

        One that a `directory` holds goes on, and began as long ago as that says.
        """
        values = {"max_prompt_tokens": len(PROMPT_IDS), **settings}
        config = Config.from_mapping({"minutes": minutes, **values})
        layouts = {
            name: table_layouts(number, PROMPT_IDS) for name, number in self.sizes.items() if number
        }
        engine = FakeEngine(lambda ids, row: made_up(False))
        engine.lm.machine = self
        directory = directory or NoDirectory()
        before = directory.saved.clock["seconds"] if directory.saved else 0.0
        budget = TimeBudget(minutes, -before, ranks, self.clock)
        functions = Functions(on_step, judge=judge)
        job = Run(as_engine(engine), layouts, config, directory, (), functions)
        return job.result(self.told, budget, ranks)

    def start(self, *_: Any) -> LoopState:
        self.works(self.score)
        return LoopState(scored(PROMPT_IDS, self.sizes["train"]))

    def search(self, layouts: Any, config: Config, state: LoopState, on_step: Any, _: Any) -> str:
        token = count(100)
        while (position := state.next_position(layouts, config)) is not None:
            self.works(self.step)
            for _place in range(config.shortlist_size):
                better = state.incumbent.objective.prompt_nll / 2
                winner = scored(position.with_token(next(token)), len(layouts), better)
                state.scored[winner.prompt_ids] = winner
            state.accept(winner)
            if stop := on_step(self._record(position.step, winner)):
                return stop if isinstance(stop, str) else "stopped by on_step"
        return "all steps done"

    def _record(self, step: int, winner: Scored) -> Step:
        return Step(
            step=step,
            index=0,
            grows=False,
            prompt="",
            prompt_ids=winner.prompt_ids,
            objective=0.0,
            error_rate=0.0,
            candidate_ids=(),
            candidate_top_k=10,
            trials=(),
            changed=True,
            seconds={"propose": 0.0, "gradient": self.step / 4, "select": self.step / 2},
        )

    def evaluate(
        self, layouts: Layouts, prompt_ids: Sequence[int], _: Any, log: RowLog
    ) -> Evaluation:
        known = log.known.get("", {})
        self.evaluated.append((len(layouts) - len(known), tuple(prompt_ids)))
        is_new = tuple(prompt_ids) != PROMPT_IDS  # and all right
        rows = []
        for n, row in enumerate(layouts.rows):
            question = row.example.question
            rows.append(RowRecord(question, "g", "p", is_new or n > 0, "r"))
            if n not in known:
                self.works(self.score * ANSWERED / self.sizes["train"])
                log.write(n, rows[n], {})
        return Evaluation("p", tuple(rows))


@contextmanager
def machines_work() -> Iterator[None]:
    """Within, what a run does is done by the machine that it runs on."""
    with (
        mock.patch.object(Layouts, "round_trips", lambda _, prompts: [True] * len(prompts)),
        mock.patch.object(run_module, "start", lambda e, *given: e.lm.machine.start(*given)),
        mock.patch.object(run_module, "run", lambda e, *given: e.lm.machine.search(*given)),
        mock.patch.object(
            finals, "evaluate_models", lambda e, *given: e.lm.machine.evaluate(*given)
        ),
    ):
        yield
