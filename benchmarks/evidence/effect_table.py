"""What `effect` found, as tables: accuracy by arm, paired differences over seeds, and costs."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from benchmarks.evidence.effect_cells import ARMS, COMPARISONS, Budget, Cell, Outcome
from benchmarks.evidence.effect_intervals import Interval, bootstrap_interval, pooled_interval
from benchmarks.evidence.plots import Estimate

Outcomes = Mapping[Cell, Outcome]
LEAST_SEEDS = 8  # of each task, to conclude from
_LEAST_RESAMPLED = 5  # fewer seeds of a task say nothing of others by their spread
_NEEDED = 0.05  # half a width under which a difference of 5 points is resolved
_TESTED = ("ours", "random")


def budgets_of(outcomes: Outcomes) -> list[Budget]:
    """The budgets that searches were run with."""
    return sorted({cell.budget for cell in outcomes if cell.budget != Budget()})


def of_arm(outcomes: Outcomes, task: str, arm: str, budget: Budget) -> dict[int, Outcome]:
    """An arm's outcomes on a task by seed: with this budget, or with none."""
    found = {
        cell.seed: outcome
        for cell, outcome in outcomes.items()
        if (cell.task, cell.arm) == (task, arm) and cell.budget in (budget, Budget())
    }
    return dict(sorted(found.items()))


def differences(
    outcomes: Outcomes, task: str, arms: tuple[str, str], budget: Budget
) -> list[float]:
    """First arm's accuracy less the second's, for each seed that both are done with.

    Two searches by seconds are compared where machines of one name have run both: on others they
    are not the same seconds.
    """
    first, second = (of_arm(outcomes, task, arm, budget) for arm in arms)
    by_time = budget.kind == "seconds" and "initial" not in arms
    return [
        own.accuracy - second[seed].accuracy
        for seed, own in first.items()
        if seed in second and not (by_time and own.machine != second[seed].machine)
    ]


def estimates(outcomes: Outcomes, tasks: Sequence[str], budget: Budget) -> list[Estimate]:
    """The differences in points with their intervals, of all tasks and of each, for a figure."""
    found = []
    for arms in COMPARISONS:
        groups = {task: differences(outcomes, task, arms, budget) for task in tasks}
        intervals = {"all tasks": pooled_interval(list(groups.values()))}
        intervals |= {task: pooled_interval([group]) for task, group in groups.items()}
        for series, own in intervals.items():
            if own is not None:
                ends = (100 * own.mean, 100 * own.low, 100 * own.high)
                found.append(Estimate(_name(arms), *ends, series))
    return found


def gains(outcomes: Outcomes, tasks: Sequence[str], budget: Budget) -> list[Estimate]:
    """What each arm gained over the initial prompt, in points: ours, and its random control."""
    found = []
    for arm in _TESTED:
        groups = {task: differences(outcomes, task, (arm, "initial"), budget) for task in tasks}
        named = {task: [group] for task, group in groups.items()} | {"all": list(groups.values())}
        for name, own in named.items():
            if (interval := pooled_interval(own)) is not None:
                ends = (100 * interval.mean, 100 * interval.low, 100 * interval.high)
                found.append(Estimate(name, *ends, ARMS[arm]))
    return found


def report(outcomes: Outcomes, tasks: Sequence[str], title: str, *, with_costs: bool = True) -> str:
    """All tables, a part for each budget."""
    parts = [
        _part(outcomes, tasks, title, budget, with_costs=with_costs)
        for budget in budgets_of(outcomes)
    ]
    return "\n\n".join(parts) or f"{title}: no search is done"


def _part(
    outcomes: Outcomes, tasks: Sequence[str], title: str, budget: Budget, *, with_costs: bool
) -> str:
    head = f"{title}, {budget}"
    counts = {
        arm: [len(of_arm(outcomes, task, arm, budget)) for task in tasks]
        for arm in ARMS
        if arm != "initial"
    }
    few = {
        ARMS[arm]: min(own)
        for arm, own in counts.items()
        if min(own) < LEAST_SEEDS and (any(own) or arm in _TESTED)
    }
    pairs = min(len(differences(outcomes, task, _TESTED, budget)) for task in tasks)
    if min(min(counts[arm]) for arm in _TESTED) >= LEAST_SEEDS > pairs:
        few[f"pairs of {' and '.join(ARMS[arm] for arm in _TESTED)}"] = pairs
    if few:
        named = ", ".join(f"{name} ({count})" for name, count in few.items())
        head += f"\n\nToo few seeds of a task to conclude, {LEAST_SEEDS} are the least: {named}."
    tables = (_accuracies, _differences, *((_costs,) if with_costs else ()))
    return "\n\n".join([head, *(make(outcomes, tasks, budget) for make in tables)])


def _accuracies(outcomes: Outcomes, tasks: Sequence[str], budget: Budget) -> str:
    lines = []
    for arm, name in ARMS.items():
        groups = [[o.accuracy for o in of_arm(outcomes, t, arm, budget).values()] for t in tasks]
        shown = [f"{fmean(group):.1%} ({len(group)})" if group else "–" for group in groups]
        mean = f"{fmean(map(fmean, groups)):.1%}" if all(groups) else "–"
        lines.append([name, *shown, mean])
    return _table(["accuracy (seeds)", *tasks, "all"], lines)


def _differences(outcomes: Outcomes, tasks: Sequence[str], budget: Budget) -> str:
    lines = []
    spent = {cell: outcome for cell, outcome in outcomes.items() if not outcome.is_early}
    for arms in COMPARISONS:
        groups = [differences(outcomes, task, arms, budget) for task in tasks]
        own = [differences(spent, task, arms, budget) for task in tasks]
        pooled = pooled_interval(groups)
        lines.append(
            [
                _name(arms),
                *(_points(pooled_interval([group])) for group in groups),
                _points(pooled),
                _ends(_resampled(groups)),
                f"{_points(pooled_interval(own))} ({_sizes(own)})",
                _resolved(pooled, groups),
                _sizes(groups),
            ]
        )
    titles = ["points, 95% interval over seeds", *tasks, "all", "bootstrap"]
    return _table([*titles, "all, budgets spent (seeds)", "5 points resolved", "seeds"], lines)


def _resolved(pooled: Interval | None, groups: Sequence[Sequence[float]]) -> str:
    """Whether 5 points are seen; a narrow interval of few seeds may be narrow by luck."""
    if pooled is None:
        return "–"
    if min(map(len, groups)) < _LEAST_RESAMPLED:
        return "too few"
    return "yes" if pooled.half_width < _NEEDED else "no"


def _resampled(groups: Sequence[Sequence[float]]) -> Interval | None:
    return bootstrap_interval(groups) if min(map(len, groups)) >= _LEAST_RESAMPLED else None


def _costs(outcomes: Outcomes, tasks: Sequence[str], budget: Budget) -> str:
    lines = []
    for arm, name in ARMS.items():
        found = [o for task in tasks for o in of_arm(outcomes, task, arm, budget).values()]
        if arm == "initial" or not found:
            continue
        costs = [
            [
                (
                    *(o.search.tokens, o.finals.tokens, o.search.forward_tokens),
                    *(o.search.seconds, o.finals.seconds, o.num_steps_at_work, o.num_candidates),
                )
                for o in of_arm(outcomes, task, arm, budget).values()
            ]
            for task in tasks
        ]
        of_tasks = [[fmean(column) for column in zip(*own, strict=True)] for own in costs if own]
        means = [fmean(column) for column in zip(*of_tasks, strict=True)]
        shown = [f"{mean:,.{0 if mean >= 100 else 1}f}" for mean in means]
        speeds = [o.search.forward_tokens / max(o.search.seconds, 1e-9) for o in found]
        shown.insert(5, f"{min(speeds):,.0f} to {max(speeds):,.0f}")
        lines.append([name, *shown, f"{sum(o.is_early for o in found)} of {len(found)}"])
    titles = ["mean of the tasks' means", "tokens, search", "finals", "through the model, search"]
    titles += ["seconds, search", "finals", "through the model a second, of all cells"]
    titles += ["steps", "candidates", "ended before the budget"]
    return _table(titles, lines)


def _name(arms: tuple[str, str]) -> str:
    return " − ".join(ARMS[arm] for arm in arms)


def _sizes(groups: Sequence[Sequence[float]]) -> str:
    return "+".join(str(len(group)) for group in groups)


def _points(found: Interval | None) -> str:
    return "–" if found is None else f"{100 * found.mean:+.1f} {_ends(found)}"


def _ends(found: Interval | None) -> str:
    return "–" if found is None else f"[{100 * found.low:+.1f}, {100 * found.high:+.1f}]"


def _table(titles: list[str], lines: list[list[str]]) -> str:
    rows = [titles, ["---"] * len(titles), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
