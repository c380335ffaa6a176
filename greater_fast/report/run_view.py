"""What a report knows of a run: its files read, whatever they lack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from greater_fast.report.fields import Fields
from greater_fast.report.rows import Row
from greater_fast.runs.directory import failure_of
from greater_fast.runs.read import read_lines, read_object
from greater_fast.wording import shortened

SPLITS = ("test", "dev", "train")
_FILES = ("run.json", "steps.jsonl", "result.json", "rows.jsonl", "state.json", "examples.jsonl")


@dataclass(frozen=True, slots=True)
class Measured:
    """A prompt's accuracy on rows (with a metric, its mean), and its 95% interval, in [0, 1]."""

    accuracy: float
    interval: tuple[float, float] | None
    num_rows: int | None
    num_cut_off: int | None
    metric: str | None
    by_model: Mapping[str, Measured]

    @classmethod
    def of(cls, values: Fields) -> Measured | None:
        """From `Evaluation.to_dict`; None where there is no accuracy."""
        accuracy = values.number("accuracy")
        if accuracy is None:
            return None
        each = values.object("by_model")
        own = {name: cls.of(each.object(name)) for name in each.values}
        return cls(
            accuracy=accuracy,
            interval=values.interval("interval"),
            num_rows=values.count("num_rows"),
            num_cut_off=values.count("num_cut_off"),
            metric=values.text("metric"),
            by_model={name: measured for name, measured in own.items() if measured},
        )


@dataclass(frozen=True, slots=True)
class Compared:
    """The new prompt's accuracy less the initial one's, on the same rows; all in [-1, 1]."""

    difference: float
    interval: tuple[float, float] | None
    p_value: float | None
    num_only_new: int | None
    num_only_initial: int | None
    test: str

    @property
    def is_exact(self) -> bool:
        """Whether rows were right or wrong, and nothing between."""
        return self.test == "McNemar"

    @classmethod
    def of(cls, values: Fields) -> Compared | None:
        """From `Comparison.to_dict`; None where there is no difference."""
        difference = values.number("difference")
        if difference is None:
            return None
        return cls(
            difference=difference,
            interval=values.interval("interval"),
            p_value=values.number("p_value"),
            num_only_new=values.count("num_only_first"),
            num_only_initial=values.count("num_only_second"),
            test=values.text("test") or "McNemar",
        )


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt that was tried on rows the search had not seen; `ids` are None where unknown."""

    text: str
    ids: tuple[int, ...] | None
    objective: float | None
    train_error_rate: float | None
    judged: float | None
    measured: Mapping[str, Measured]

    @classmethod
    def of(cls, values: Fields) -> Prompt | None:
        """From `PromptResult.to_dict`; None where there is no text."""
        text = values.text("prompt")
        if text is None:
            return None
        found = {split: Measured.of(values.object(split)) for split in SPLITS}
        return cls(
            text=text,
            ids=values.counts("prompt_ids"),
            objective=values.number("objective"),
            train_error_rate=values.number("train_error_rate"),
            judged=values.number("judged"),
            measured={split: one for split, one in found.items() if one},
        )

    def is_same_as(self, other: Prompt | None) -> bool:
        """Whether they are one prompt: by their ids, as the search counts, else by their texts."""
        if other is None:
            return False
        if self.ids is None or other.ids is None:
            return self.text == other.text
        return self.ids == other.ids


@dataclass(frozen=True, slots=True)
class Trial:
    """A candidate of a step; it has no objective where it was given up, or dropped by a race."""

    token_id: int | None
    token: str
    score: float | None
    objective: float | None
    error_rate: float | None
    dropped_after: int | None


@dataclass(frozen=True, slots=True)
class Step:
    """A step as it was logged; the objective is the incumbent's after it, as is `token_id`.

    `number` counts from 1, as everything that people read does; the log counts from 0.
    """

    number: int
    index: int | None
    token_id: int | None
    grows: bool
    prompt: str
    objective: float | None
    error_rate: float | None
    trials: tuple[Trial, ...]
    changed: bool
    seconds: Mapping[str, float]
    num_tokens: int | None
    peak_bytes: int | None

    @classmethod
    def of(cls, values: Fields, place: int) -> Step:
        """From `search.nouns.Step.to_dict`; `place` is its own in the log."""
        number, index = values.count("step"), values.count("index")
        return cls(
            number=1 + (place if number is None else number),
            index=index,
            token_id=values.count_in("prompt_ids", index),
            grows=values.flag("grows"),
            prompt=values.text("prompt") or "",
            objective=values.number("objective"),
            error_rate=values.number("error_rate"),
            trials=tuple(
                Trial(
                    token_id=trial.count("token_id"),
                    token=trial.text("token") or "",
                    score=trial.number("score"),
                    objective=trial.number("objective"),
                    error_rate=trial.number("error_rate"),
                    dropped_after=trial.count("dropped_after"),
                )
                for trial in values.objects("trials")
            ),
            changed=values.flag("changed"),
            seconds=values.numbers("seconds"),
            num_tokens=values.count("num_generated_tokens"),
            peak_bytes=values.count("peak_memory_bytes"),
        )


@dataclass(frozen=True, slots=True)
class RunView:
    """A run as its files have it. `new` is the best prompt, or the last one of an unfinished run.

    `number` counts the runs of a report from 0; `damage` says, a line each, what is not whole.
    """

    number: int
    folder: Path
    run: Fields
    result: Fields
    initial: Prompt | None
    new: Prompt | None
    finalists: tuple[Prompt, ...]
    comparisons: Mapping[str, Compared]
    steps: tuple[Step, ...]
    rows: tuple[Row, ...]
    examples: tuple[Fields, ...]
    failure: str | None
    damage: tuple[str, ...]

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name or str(self.folder)

    @property
    def models(self) -> list[str]:
        """Names of the models that the prompt was searched for."""
        return self.run.texts("model")

    @property
    def sources(self) -> list[str | None]:
        """Where each of these is found, wherever one is; None of one that the user had loaded."""
        found = self.run.values.get("source")  # runs of before do not say
        if not isinstance(found, list) or len(found) != len(self.models):
            return [*self.models]
        return [source if isinstance(source, str) else None for source in found]

    @property
    def is_judged(self) -> bool:
        """Whether a judge chose the new prompt."""
        return self.new is not None and self.new.judged is not None

    @property
    def num_compared(self) -> int:
        """Finalists of which a value is known, by development rows or judge; time may run out."""
        judged = self.is_judged
        return sum(f.judged is not None if judged else "dev" in f.measured for f in self.finalists)

    @property
    def is_same(self) -> bool:
        """Whether the best prompt is the initial one, as far as both are known."""
        return bool(self.initial and self.initial.is_same_as(self.new))

    @property
    def has_begun(self) -> bool:
        """Whether its model was loaded, and its settings written down."""
        return not self.run.values.get("claimed")

    @property
    def accepted(self) -> list[Step]:
        """Steps that changed the prompt."""
        return [step for step in self.steps if step.changed]

    def num_examples(self, split: str) -> int:
        """Rows of a split."""
        return sum(example.text("split") == split for example in self.examples)


def read_run_view(folder: Path, number: int) -> RunView:
    """Read a run's files, as many as there are.

    Raises:
        ValueError: there is no such folder, or none of a run's files in it.
    """
    if not any((folder / name).is_file() for name in _FILES):
        raise ValueError(
            f"{shortened(folder, 200)} holds no run (none of {', '.join(_FILES)}): name the folder "
            "given as run_dir"
        )
    damage: list[str] = []
    run = Fields(read_object(folder / "run.json", damage))
    if not run and not damage:
        damage.append("there is no run.json: settings, model and first prompt are not known")
    result = Fields(read_object(folder / "result.json", damage))
    lines = [Fields(line) for line in read_lines(folder / "steps.jsonl", damage)]
    steps = tuple(Step.of(line, place) for place, line in enumerate(lines))
    first = run.text("prompt")
    initial = Prompt.of(result.object("baseline")) or _bare(first)
    last = steps[-1] if steps else None
    last_prompt = _bare(last.prompt, last.objective, last.error_rate) if last else None
    comparisons = {s: Compared.of(result.object(f"{s}_comparison")) for s in ("test", "dev")}
    return RunView(
        number=number,
        folder=folder,
        run=run,
        result=result,
        initial=initial,
        new=Prompt.of(result.object("best")) or last_prompt or initial,
        finalists=tuple(p for values in result.objects("finalists") if (p := Prompt.of(values))),
        comparisons={split: one for split, one in comparisons.items() if one},
        steps=steps,
        rows=tuple(Row.of(Fields(line)) for line in read_lines(folder / "rows.jsonl", damage)),
        examples=tuple(map(Fields, read_lines(folder / "examples.jsonl", damage))),
        failure=failure_of(folder / "traceback.txt"),
        damage=tuple(line.replace(f"{folder}/", "") for line in damage),
    )


def _bare(text: Any, objective: float | None = None, error: float | None = None) -> Prompt | None:
    """A prompt of which no more is known."""
    return Prompt(text, None, objective, error, None, {}) if text else None
