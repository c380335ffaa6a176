"""The figures of a report; each has a sentence that says what it shows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from greater_fast.report.candidates import Outcome
from greater_fast.report.run_view import Compared, Measured, RunView, Step
from greater_fast.report.svg import SERIES, inline_svg, theme
from greater_fast.report.thinning import every_kth, mean_seconds, turns
from greater_fast.report.wording import interval, line, many, number, percent
from greater_fast.runs.statistics import points_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STAGES = ("propose", "gradient", "score", "select")
_SPLITS = {"test": "test", "dev": "development", "train": "training"}


def accuracies(view: RunView) -> str:
    """Accuracy with its interval of the initial and the new prompt, on each set of rows."""
    prompts = {"initial": view.initial, "new": None if view.is_same else view.new}
    found: list[tuple[str, str, Measured]] = [
        (split, role, prompt.measured[split])
        for split in ("test", "dev")
        for role, prompt in prompts.items()
        if prompt and split in prompt.measured
    ]
    if not found:
        return ""

    def draw(axes: Axes) -> None:
        for place, (_, role, measured) in enumerate(found):
            colour = theme("accent" if role == "new" else "muted")
            _estimate(axes, place, measured.accuracy, measured.interval, colour)
        names = [f"{_SPLITS[split]}, {role}" for split, role, _ in found]
        axes.set_yticks(range(len(found)), names)
        axes.set_ylim(len(found) - 0.4, -0.6)
        axes.set_xlabel("accuracy, %, with its 95% interval")
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)

    told = "; ".join(
        f"{_SPLITS[split]} rows, {role} prompt {percent(m.accuracy)} ({interval(m.interval)})"
        for split, role, m in found
    )
    height = 0.75 + 0.32 * len(found)
    return inline_svg(f"accuracies-{view.number}", f"Accuracies: {told}", draw, height)


def gains(views: Sequence[RunView], compared: Sequence[Compared | None]) -> str:
    """The gain of each run with its interval, one below the other; runs by their numbers.

    A run that kept its prompt is among them, at 0: leaving it out would flatter the others.
    """
    known = [(v, c) for v, c in zip(views, compared, strict=True) if c]
    if not known:
        return ""

    def draw(axes: Axes) -> None:
        axes.axvline(0, color=theme("muted"), linewidth=0.8)
        for place, (view, one) in enumerate(known):
            ends, colour = None if view.is_same else one.interval, _colour(view)
            _estimate(axes, place, one.difference, ends, colour)
        axes.set_yticks(range(len(known)), [f"run {view.number + 1}" for view, _ in known])
        axes.set_ylim(len(known) - 0.4, -0.6)
        axes.set_xlabel("gain in points, with its 95% interval")
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)

    told = "; ".join(
        f"run {view.number + 1}: {points_text(one.difference)} points" for view, one in known
    )
    return inline_svg("gains", f"Gains: {told}", draw, 0.75 + 0.3 * len(known))


def _colour(view: RunView) -> str:
    return theme(SERIES[view.number % len(SERIES)])


def _estimate(
    axes: Axes, place: int, value: float, ends: tuple[float, float] | None, colour: str
) -> None:
    low, high = ends or (value, value)
    axes.plot([100 * low, 100 * high], [place, place], color=colour, linewidth=2.4)
    axes.plot(100 * value, place, "o", color=colour, markersize=6)


def course(views: Sequence[RunView], what: str) -> str:
    """Objective or error (`what`) by step, a line a run; steps that changed the prompt as dots."""
    known = [(view, _values(view.steps, what)) for view in views]
    if not any(values for _, values in known):
        return ""
    is_error = what == "error"

    def draw(axes: Axes) -> None:
        for view, values in known:
            colour = _colour(view) if len(views) > 1 else theme("accent")
            style = "-" if view.number < len(SERIES) else "--"
            drawn = turns(values)
            axes.plot(
                list(drawn), list(drawn.values()), style, color=colour, drawstyle="steps-post"
            )
            accepted = every_kth([s.number for s in view.accepted if s.number in values])
            dots = [values[number] for number in accepted]
            axes.plot(accepted, dots, "o", color=colour, markersize=4.5)
            start = _start(view, what)
            if len(views) == 1 and start is not None:
                axes.axhline(start, color=theme("muted"), linewidth=0.9, linestyle=(0, (4, 3)))
        axes.set_xlabel("step")
        axes.set_ylabel("error on training rows, %" if is_error else "objective")
        _count_along(axes)
        axes.grid(axis="y")
        axes.margins(x=0.03, y=0.12)

    told = "; ".join(
        (f"run {view.number + 1}: " if len(views) > 1 else "")
        + _from_to(list(values.values()), view)
        for view, values in known
        if values
    )
    name = f"{what}-{'all' if len(views) > 1 else views[0].number}"
    title = "Error on training rows in percent by step" if is_error else "Objective by step"
    return inline_svg(name, f"{title}: {told}", draw)


def _start(view: RunView, what: str) -> float | None:
    """The initial prompt's value, where it is known."""
    if view.initial is None:
        return None
    if what == "objective":
        return view.initial.objective
    rate = view.initial.train_error_rate
    return None if rate is None else 100 * rate


def _from_to(values: Sequence[float], view: RunView) -> str:
    changes = many(len(view.accepted), "accepted change")
    first, last = number(values[0], 3), number(values[-1], 3)
    return f"from {first} to {last} in {many(len(values), 'step')}, {changes}"


def _count_along(axes: Axes) -> None:
    """Whole numbers below: a step is a step."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    first, last = axes.get_xlim()
    if last - first < 2:  # one step, or none: its number stands in the middle
        middle = round((first + last) / 2)
        axes.set_xlim(middle - 1, middle + 1)


def _values(steps: Sequence[Step], what: str) -> Mapping[int, float]:
    if what == "error":
        return {s.number: 100 * s.error_rate for s in steps if s.error_rate is not None}
    return {s.number: s.objective for s in steps if s.objective is not None}


def scatter(view: RunView, tried: Sequence[Outcome]) -> str:
    """Score and change of objective of each candidate that ran to the end."""
    if not tried:
        return ""

    def draw(axes: Axes) -> None:
        axes.axhline(0, color=theme("muted"), linewidth=0.8)
        for is_accepted, marker, colour in ((False, "o", "muted"), (True, "D", "accent")):
            own = every_kth([o for o in tried if o.is_accepted == is_accepted])
            axes.plot(
                [o.score for o in own],
                [o.change for o in own],
                marker,
                markerfacecolor=theme(colour) if is_accepted else "none",
                markeredgecolor=theme(colour),
                markersize=5,
            )
        axes.set_xlabel("score: the change that the gradient promises")
        axes.set_ylabel("change of objective")
        axes.locator_params(axis="x", nbins=5)
        axes.grid()

    num_better = sum(o.change < 0 for o in tried)
    told = f"{many(len(tried), 'candidate')}, of which {num_better} lower the objective"
    return inline_svg(f"scatter-{view.number}", f"Score and change of objective: {told}", draw)


def seconds(view: RunView) -> str:
    """Seconds of each step, by stage."""
    totals = total_seconds(view.steps)
    if not totals:
        return ""

    def draw(axes: Axes) -> None:
        size, means = mean_seconds(view.steps, list(totals))
        starts = [step.number - 0.5 for step in view.steps[::size]]
        edges = [*starts, view.steps[-1].number + 0.5]
        below = [0.0] * len(starts)
        for place, own in enumerate(means):
            top = [a + b for a, b in zip(below, own, strict=True)]
            colour = theme(SERIES[place % len(SERIES)])
            axes.stairs(top, edges, baseline=below, fill=True, color=colour, linewidth=0)
            below = top
        axes.set_xlabel("step")
        axes.set_ylabel("seconds" if size == 1 else f"seconds a step, means of {size}")
        _count_along(axes)
        axes.grid(axis="y")

    told = ", ".join(f"{line(stage, 40)} {total:.1f}" for stage, total in totals.items())
    return inline_svg(f"seconds-{view.number}", f"Seconds of each step; in all: {told}", draw)


def total_seconds(steps: Sequence[Step]) -> dict[str, float]:
    """Seconds of each stage in all steps, in the order in which they are gone through."""
    totals: dict[str, float] = defaultdict(float)
    for step in steps:
        for stage, spent in step.seconds.items():
            totals[stage] += spent
    known = [stage for stage in STAGES if stage in totals]
    return {stage: totals[stage] for stage in (*known, *sorted(totals.keys() - set(known)))}
