"""Evaluated rows of the initial and the new prompt, side by side: those that changed come first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from greater_fast.report.fields import Fields


@dataclass(frozen=True, slots=True)
class Row:
    """An evaluated row as it was written down; `value` is what it counts, in [0, 1]."""

    split: str
    prompt: str
    model: str
    question: str
    gold: str
    predicted: str
    reasoning: str
    is_correct: bool
    is_cut_off: bool
    metric: float | None

    @classmethod
    def of(cls, values: Fields) -> Row:
        """From a line of `rows.jsonl`."""
        return cls(
            split=values.text("split") or "",
            prompt=values.text("prompt") or "",
            model=values.text("model") or "",
            question=values.text("question") or "",
            gold=values.text("gold") or "",
            predicted=values.text("predicted") or "",
            reasoning=values.text("reasoning") or "",
            is_correct=values.flag("correct"),
            is_cut_off=values.flag("cut_off"),
            metric=values.number("metric"),
        )

    @property
    def value(self) -> float:
        """Its metric, or without one whether it is correct."""
        return float(self.is_correct) if self.metric is None else self.metric


@dataclass(frozen=True, slots=True)
class Pair:
    """A row with either prompt; None where it was not evaluated with it."""

    initial: Row | None
    new: Row | None

    @property
    def either(self) -> Row:
        """One of the two, for what they share."""
        row = self.initial or self.new
        assert row is not None
        return row

    @property
    def change(self) -> float:
        """How much better the row is with the new prompt; 0 where one of them is missing."""
        return self.new.value - self.initial.value if self.initial and self.new else 0.0


@dataclass(frozen=True, slots=True)
class Group:
    """Rows to which the same happened; `num_left_out` of them are not shown."""

    title: str
    tone: str
    pairs: Sequence[Pair]
    num_left_out: int

    @property
    def num_rows(self) -> int:
        """All rows to which this happened."""
        return len(self.pairs) + self.num_left_out


def paired(
    rows: Sequence[Row], split: str, prompts: tuple[str, str], num_examples: int
) -> list[Pair]:
    """The rows of a split, each with the initial and the new prompt (`prompts`), in their order.

    Of rows that were evaluated more than once, by a run that went on, the last count.
    """
    found: dict[str, dict[tuple[str, int, str], Row]] = {}
    for prompt in dict.fromkeys(prompts):
        of_model: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            if row.split == split and row.prompt == prompt:
                of_model[row.model].append(row)
        found[prompt] = {}
        for model, own in of_model.items():
            seen: dict[str, int] = defaultdict(int)  # a question may be there twice
            for row in own[-num_examples:] if num_examples else own:
                found[prompt][model, seen[row.question], row.question] = row
                seen[row.question] += 1
    initial, new = (found[prompt] for prompt in prompts)
    if prompts[0] == prompts[1]:
        return [Pair(row, None) for row in initial.values()]
    return [Pair(initial.get(key), new.get(key)) for key in dict.fromkeys((*initial, *new))]


def grouped(pairs: Sequence[Pair], most: int) -> list[Group]:
    """Rows by what became of them, those that changed first; of each group at most so many."""
    has_metric = any(pair.either.metric is not None for pair in pairs)
    titles = _OF_METRIC if has_metric else _OF_ANSWERS
    groups: dict[str, list[Pair]] = {name: [] for name in titles}
    for pair in pairs:
        groups[_what_became_of(pair, has_metric)].append(pair)
    for name in ("better", "worse"):
        groups[name].sort(key=lambda pair: -abs(pair.change))
    return [
        Group(title, name, groups[name][:most], max(0, len(groups[name]) - most))
        for name, title in titles.items()
        if groups[name]
    ]


def when_right(named: str | None, metric: str | None) -> str:
    """When an answer counts, in a sentence; `named` is the metric of the settings, if any."""
    if metric is not None and metric != named:
        return f"An answer counts what the function {metric} makes of it, from 0 to 1."
    return _WHEN_RIGHT.get(named, f"An answer counts by metric {named}.")


def _what_became_of(pair: Pair, has_metric: bool) -> str:
    if pair.initial is None or pair.new is None:
        return "right" if pair.either.is_correct else "wrong"
    if pair.change:
        return "better" if pair.change > 0 else "worse"
    if has_metric:
        return "same"
    return "both_right" if pair.new.is_correct else "both_wrong"


_EXACT = (
    "An answer is right where it equals a gold one, but for case, marks around it and how a number "
    "is written: 7 + 11 = 18 is not 18 unless --metric numeric is given."
)
_WHEN_RIGHT: Mapping[str | None, str] = {
    None: _EXACT,
    "exact": _EXACT,
    "numeric": "An answer is right where its number is that of a gold one (metric numeric): "
    "7 + 11 = 18 is 18.",
    "contains": "An answer is right where a gold one stands in it (metric contains).",
    "choice": "An answer is right where it chooses the letter of a gold one (metric choice).",
}
_ONE: Mapping[str, str] = {"wrong": "Wrong", "right": "Right"}  # with the only prompt there is
_OF_ANSWERS: Mapping[str, str] = {
    "better": "Right with the new prompt alone",
    "worse": "Right with the initial prompt alone",
    "both_wrong": "Wrong with both",
    "both_right": "Right with both",
    **_ONE,
}
_OF_METRIC: Mapping[str, str] = {
    "better": "Better with the new prompt",
    "worse": "Better with the initial prompt",
    "same": "As good with either",
    "wrong": "Below a half",
    "right": "A half or more",
}
