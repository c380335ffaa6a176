"""What a run found, in words: a headline, what to make of it, and how the run ended."""

from __future__ import annotations

from dataclasses import dataclass

from greater_fast.report.run_view import Compared, RunView
from greater_fast.report.wording import many
from greater_fast.runs.statistics import is_sure, p_text, points_text

_AS_PLANNED = ("all steps done", "a whole sweep without a change")


@dataclass(frozen=True, slots=True)
class Verdict:
    """`tone` is good, bad, calm or open (not known); `split` has the rows that it is about."""

    headline: str
    tone: str
    explanation: str
    split: str | None = None
    compared: Compared | None = None

    @property
    def is_proven(self) -> bool:
        """Whether its number may be set large: beyond chance, on rows that chose nothing."""
        return self.tone in ("good", "bad") and self.split == "test"


def verdict(view: RunView) -> Verdict:
    """What is to be said first of a run."""
    known = {s: c for s, c in view.comparisons.items() if view.initial and view.new}
    summary = view.result.text("summary") or _unknown(view)
    if not known:
        if view.failure is None or view.result:
            return Verdict("Not known yet", "open", summary)
        what = "the final comparison" if view.steps else "its first step was done"
        return Verdict(f"The run failed before {what}", "bad", summary)
    split = "test" if "test" in known else "dev"
    compared = known[split]
    if view.is_same:
        so_far = " so far" if view.num_compared < len(view.finalists) else ""
        return Verdict(f"Nothing was gained{so_far}", "calm", summary, split, compared)
    headline, tone = _headline(compared, split, view.is_judged)
    if tone == "good" and view.result.count("test_seen_after") is not None:
        headline, tone = "A gain on rows that were tested on before", "open"
    return Verdict(headline, tone, summary, split, compared)


def _headline(compared: Compared, split: str, is_judged: bool) -> tuple[str, str]:
    sure = is_sure(compared.p_value)
    if compared.difference <= 0:
        worse = sure and compared.difference < 0
        return ("The new prompt is worse", "bad") if worse else ("Nothing was gained", "calm")
    if split == "dev":
        which = "development rows" if is_judged else "rows it was chosen by"
        if not sure:
            return f"No gain is shown on the {which}", "calm"
        return f"A gain on the {which}, not tried on others", "open"
    return ("The new prompt is better", "good") if sure else ("A gain that may be chance", "open")


def _unknown(view: RunView) -> str:
    """For a run without a summary."""
    if not view.has_begun:
        return "The run has not begun: it loads its model still, or was ended before that."
    if not view.steps:
        return "The run has no step that is done" + (
            ": this is what its files have." if view.failure else " yet, or was ended before that."
        )
    how = "it failed" if view.failure else "it goes on still, or was ended,"
    return (
        f"After {many(len(view.steps), 'step')}, the run has no result: {how} before the final "
        "comparison of the new and the initial prompt on rows that the search had not seen."
    )


def ending(view: RunView) -> str | None:
    """Where a run did not end as planned: how it did, in a sentence; None where it did."""
    stopped = view.result.text("stopped")
    if stopped is None or stopped in _AS_PLANNED:
        return None
    planned = view.run.object("config").count("steps")
    steps = f"{len(view.steps)} of {planned}" if planned is not None else str(len(view.steps))
    is_compared = view.initial and view.new and view.comparisons
    before = ", before the final comparison" if view.steps and not is_compared else ""
    return f"The run ended early, after {steps} steps{before}: {stopped}."


def cautions(view: RunView) -> list[str]:
    """What was noted of the outcome, and was not known when the run began: of how much to believe.

    Reasonings that were cut off, rows that the two ways of counting see differently, and so on.
    """
    before = set(view.run.texts("notes"))
    return [note for note in view.result.texts("notes") if note not in before]


def can_go_on(view: RunView) -> bool:
    """Whether there is a run to go on with: begun, and not at its planned end."""
    return bool(view.run) and view.has_begun and (not view.result or ending(view) is not None)


def significance(compared: Compared) -> str:
    """The test's p and its name, and how many rows differ."""
    parts = []
    if compared.p_value is not None:
        parts.append(f"{p_text(compared.p_value)} ({compared.test})")
    if compared.num_only_new is not None and compared.num_only_initial is not None:
        what = "right with the new prompt alone" if compared.is_exact else "better with the new one"
        parts.append(
            f"{many(compared.num_only_new, 'row')} {what}, {compared.num_only_initial} with the "
            "initial one"
        )
    return "; ".join(parts)


def gain(compared: Compared) -> tuple[str, str]:
    """The difference in points, and its 95% interval."""
    ends = map(points_text, compared.interval or ())
    return points_text(compared.difference), " to ".join(ends) or "not known"
