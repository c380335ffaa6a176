"""Cells of the paper's table: a search of a task with a seed, what it came to, and their log."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from benchmarks.evidence.lines import append_line
from benchmarks.evidence.paper.tasks import BENCHMARKS, Sizes
from greater_fast import Config
from greater_fast.runs.read import read_lines

_A_DAY = "2026-01-01"  # that templates write which write one: cells of other days have its text
SEARCHES = {"greater": "gradient", "random": "random"}  # how each makes its shortlist


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A search of one task with one seed, or, by `transferred_to`, its prompt on another model.

    `rows` is the digest of the task's files.
    """

    benchmark: str
    task: str
    seed: int
    search: str
    rows: str = ""
    transferred_to: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Test rows right by the initial prompt and by the one that was found, and what it took.

    `extractor` is the text that asked for the answer; None where older lines do not say.
    """

    prompt: str
    initial_correct: int
    num_correct: int
    num_rows: int
    num_steps: int = 0
    seconds: float = 0.0
    shortfalls: tuple[str, ...] = ()
    extractor: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the cells of a table share; lines of other settings are left alone.

    `device` is the kind of device: in other numbers the same prompt reasons otherwise.
    """

    model: str
    device: str = "cpu"
    objective: str = "error"
    steps: int = 105
    max_new_tokens: int = 512
    max_rows: int | None = None  # of a split, for a trial run

    def sizes(self, benchmark: str) -> Sizes:
        """The paper's splits, or so much of them as a trial takes."""
        sizes = BENCHMARKS[benchmark].sizes
        most = self.max_rows or max(sizes.train, sizes.dev, sizes.test)
        return Sizes(**{name: min(most, number) for name, number in asdict(sizes).items()})

    @property
    def departures(self) -> tuple[str, ...]:
        """Where these are not the paper's: a trial's, or the objective of its text."""
        paper = asdict(Settings(model=self.model, device=self.device))
        return tuple(
            f"{name} {value}" if paper[name] is None else f"{name} {value} for {paper[name]}"
            for name, value in asdict(self).items()
            if value != paper[name]
        )

    def config(self, cell: Cell) -> Config:
        """The paper's rule, with the released objective or that of its text."""
        sizes = self.sizes(cell.benchmark)
        return Config.paper(
            self.objective,
            steps=self.steps,
            max_new_tokens=self.max_new_tokens,
            num_train=sizes.train,
            num_dev=sizes.dev,
            shortlist=SEARCHES[cell.search],
            template_date=_A_DAY,
            seed=cell.seed,
        )


@dataclass(slots=True)
class Log:
    """Finished cells, in a file of JSON lines to which several processes may append.

    `damage` says which lines cannot be read; a last one that a kill cut off is none.
    """

    path: Path
    settings: Settings
    outcomes: dict[Cell, Outcome] = field(default_factory=dict)
    damage: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for line in read_lines(self.path, self.damage):
            if line["settings"] == asdict(self.settings):
                outcome = line["outcome"] | {"shortfalls": tuple(line["outcome"]["shortfalls"])}
                self.outcomes[Cell(**line["cell"])] = Outcome(**outcome)

    @property
    def of_devices(self) -> list[Log]:
        """The cells of each kind of device that the file has some of with these settings."""
        kinds = {line["settings"]["device"] for line in read_lines(self.path, [])}
        logs = [Log(self.path, replace(self.settings, device=kind)) for kind in sorted(kinds)]
        return [log for log in logs if log.outcomes]

    @property
    def of_any_device(self) -> dict[Cell, Outcome]:
        """Outcomes by cell, those of another kind of device where this one has none."""
        known: dict[Cell, Outcome] = {}
        for log in self.of_devices:
            known |= log.outcomes
        return known | self.outcomes

    def add(self, cell: Cell, outcome: Outcome) -> None:
        """Write a cell down at once."""
        self.outcomes[cell] = outcome
        parts = {"cell": asdict(cell), "settings": asdict(self.settings)}
        append_line(self.path, parts | {"outcome": asdict(outcome)})
