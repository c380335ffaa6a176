"""What `effect` runs: settings, arms, budgets, cells; and the log of what came out of them."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.evidence.lines import append_line
from greater_fast import Config
from greater_fast.examples.metrics import named_metric
from greater_fast.examples.splits import Splits, make_splits
from greater_fast.examples.tasks import generate
from greater_fast.model.smollm2 import SMOLLM2
from greater_fast.runs.read import read_lines

ARMS = {
    "initial": "initial prompt",
    "paper": "the paper's rule",
    "ours": "ours",
    "random": "random shortlist",
    "best_of_n": "best of n random prompts",
}
COMPARISONS = (
    ("ours", "initial"),
    ("ours", "random"),
    ("ours", "paper"),
    ("ours", "best_of_n"),
    ("random", "initial"),
    ("paper", "initial"),
    ("best_of_n", "initial"),
)
# Tasks with few questions at their default difficulty: development rows make room for the others.
_NUM_QUESTIONS = {"multistep_arithmetic": 12 * 12 * 2}
_MOST_STEPS = 10_000  # a budget ends a search, not its steps
MOST_IDLE_STEPS = 60  # in a row without a token: all that is proposed is known
EXACT = "exact"  # the metric that is equality with the gold answer
NOTHING_NEW = "nothing new is proposed"  # how a search ends then, before its budget
NO_MORE = "no further prompt is proposed"  # the same of prompts that are made without a search
_A_DAY = "2026-01-01"  # that templates write which write one: rows are the same tomorrow
# What a cell does not depend on, or names itself.
_NOT_COMPARED = ("seed", "steps", "device", "kv_cache_bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What all cells share; `device` is the kind of device, as "cpu" or a GPU's name.

    `metric` says which test rows are right; searches and finals go by equality.
    """

    model: str = SMOLLM2
    device: str = "cpu"
    num_train: int = 50
    num_dev: int = 100
    num_test: int = 200
    num_finalists: int = 4
    max_new_tokens: int = 64
    max_step_tokens: int = 256  # not measured: rows have the same bits in all processes
    metric: str = EXACT

    def config(self, arm: str, seed: int) -> Config:
        """Settings of an arm's search: what is not named here is the package's, or the paper's."""
        shared: dict[str, Any] = {
            "steps": _MOST_STEPS,
            "stop_unchanged": False,
            "num_train": self.num_train,
            "num_dev": self.num_dev,
            "num_finalists": self.num_finalists,
            "max_new_tokens": self.max_new_tokens,
            "max_step_tokens": self.max_step_tokens,
            "template_date": _A_DAY,
            "seed": seed,
        }
        if arm == "paper":
            return Config.paper(**shared)
        if arm == "random":
            shared["shortlist"] = "random"
        return Config(**shared)

    def is_measured(self, task: str) -> bool:
        """Whether the metric is for a task's answers."""
        try:
            named_metric(self.metric, self.splits(task, 0).test)
        except ValueError:
            return False
        return True

    def splits(self, task: str, seed: int) -> Splits:
        """Rows of a task for a seed, no question in two of the sets.

        Raises:
            ValueError: the task has fewer questions than that.
        """
        used = self.num_train + self.num_test
        num_dev = min(self.num_dev, _NUM_QUESTIONS.get(task, used + self.num_dev) - used)
        if num_dev < 1:
            raise ValueError(
                f"{task} has {_NUM_QUESTIONS[task]} questions, and training and test rows alone "
                f"are {used}: lower num_test, or leave the task out"
            )
        rows = generate(task, used + num_dev, seed)
        first, second = self.num_train, self.num_train + num_dev
        return make_splits(
            rows[:first],
            rows[first:second],
            rows[second:],
            num_train=self.num_train,
            num_dev=num_dev,
            seed=seed,
        )


@dataclass(frozen=True, slots=True, order=True)
class Budget:
    """What a search may spend: so many generated "tokens", or "seconds"; "none" for no search."""

    kind: str = "none"
    amount: float = 0.0

    def __str__(self) -> str:
        unit = "generated tokens" if self.kind == "tokens" else self.kind
        return f"{self.amount:,.0f} {unit} a search"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One arm on one task with one seed."""

    task: str
    seed: int
    arm: str
    budget: Budget = field(default_factory=Budget)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Cell":
        """The cell that `asdict` wrote."""
        return cls(**{**values, "budget": Budget(**values["budget"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Tokens generated, tokens through the model (a GPU's padding included), seconds."""

    tokens: int = 0
    forward_tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a cell came to: `rows` has a 1 for each test row that is right, a 0 for each other.

    `finals` are the development rows. Test rows are no part of a cost: nobody needs them to find a
    prompt.
    """

    prompt: str
    rows: str
    search: Cost = field(default_factory=Cost)
    finals: Cost = field(default_factory=Cost)
    num_steps: int = 0
    num_candidates: int = 0
    stopped: str = ""
    commit: str = "unknown"
    machine: str = "unknown"  # what seconds are of: processor or GPU, and threads

    @property
    def accuracy(self) -> float:
        """Share of the test rows that are right."""
        return self.rows.count("1") / len(self.rows)

    @property
    def is_early(self) -> bool:
        """Whether the search ended before its budget was spent; peers add what they spent on it."""
        return self.stopped.startswith((NOTHING_NEW, NO_MORE))

    @property
    def num_steps_at_work(self) -> int:
        """Steps less the idle ones that ended a search; other idle ones stand in no log."""
        return self.num_steps - MOST_IDLE_STEPS * self.stopped.startswith(NOTHING_NEW)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Outcome":
        """The outcome that `asdict` wrote."""
        costs = {name: Cost(**values[name]) for name in ("search", "finals")}
        return cls(**{**values, **costs})


class Log:
    """Finished cells, in a folder of JSON lines: a file for each task and kind of device.

    Several processes may work beside each other, each on cells of its own. A line counts where its
    settings are these, and where the search's own settings are those that its arm has now, of those
    that were known when it was written: one that came later had its default, or was off then.
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder, self.settings = folder, settings
        self.damage: list[str] = []
        self.outcomes: dict[Cell, Outcome] = {}
        for path in sorted(folder.glob("*.jsonl")):
            for line in read_lines(path, self.damage):
                cell = Cell.from_dict(line["cell"])
                written = asdict(Settings()) | line["settings"]
                if written == asdict(settings) and _is_as_now(line["config"], cell, settings):
                    self.outcomes.setdefault(cell, Outcome.from_dict(line["outcome"]))

    @property
    def device(self) -> str:
        """The kind of device, as a part of a file's name."""
        return "-".join(self.settings.device.lower().split())

    @property
    def about(self) -> str:
        """Model and kind of device, as a part of a figure's name."""
        return f"{self.settings.model.lower()}-{self.device}"

    def add(self, cell: Cell, outcome: Outcome) -> None:
        """Write a cell down at once."""
        line = {
            "cell": asdict(cell),
            "settings": asdict(self.settings),
            "config": _compared(self.settings, cell.arm),
            "outcome": asdict(outcome),
        }
        append_line(self.folder / f"{cell.task}.{self.device}.jsonl", line)
        self.outcomes[cell] = outcome


def kinds_of_device(folder: Path) -> list[str]:
    """Kinds of devices that a folder has lines of."""
    return sorted({settings["device"] for settings in _settings_in(folder)})


def other_metrics(folder: Path) -> list[str]:
    """Metrics beside equality that a folder has lines of."""
    return sorted({settings.get("metric", EXACT) for settings in _settings_in(folder)} - {EXACT})


def _settings_in(folder: Path) -> list[dict[str, Any]]:
    """The settings that lines of a folder say."""
    paths = folder.glob("*.jsonl")
    return [line["settings"] for path in paths for line in read_lines(path, [])]


def arms_first_to_last(arms: Iterable[str]) -> list[str]:
    """Arms in the order of `ARMS`."""
    return sorted(set(arms), key=list(ARMS).index)


@cache
def _compared(settings: Settings, arm: str) -> dict[str, Any]:
    values = settings.config(arm, 0).to_dict()
    return {name: value for name, value in values.items() if name not in _NOT_COMPARED}


def _is_as_now(written: dict[str, Any], cell: Cell, settings: Settings) -> bool:
    now = _compared(settings, cell.arm)
    return all(now.get(name, value) == value for name, value in written.items())
