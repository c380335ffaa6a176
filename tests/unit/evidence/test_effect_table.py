from dataclasses import replace

import pytest

from benchmarks.evidence.effect_cells import ARMS, NO_MORE, NOTHING_NEW, Budget, Cell, Cost, Outcome
from benchmarks.evidence.effect_table import budgets_of, differences, estimates, gains, report

TASKS = ("counting", "logic")
TOKENS, SECONDS = Budget("tokens", 1000.0), Budget("seconds", 60.0)


def outcome(num_right, num_rows=10, tokens=1000):
    rows = "1" * num_right + "0" * (num_rows - num_right)
    return Outcome(prompt="p", rows=rows, search=Cost(tokens=tokens, seconds=2.0), num_steps=3)


def cells(arm, by_task, budget=TOKENS):
    own = Budget() if arm == "initial" else budget
    return {
        Cell(task=task, seed=seed, arm=arm, budget=own): outcome(num_right)
        for task, counts in by_task.items()
        for seed, num_right in enumerate(counts)
    }


FOUND = {
    **cells("initial", {"counting": [4, 5, 3], "logic": [5, 5]}),
    **cells("ours", {"counting": [6, 5, 6], "logic": [5, 7]}),
    **cells("random", {"counting": [5, 5], "logic": [6, 6]}),
    **cells("ours", {"counting": [9], "logic": []}, SECONDS),
}


def line_of(text, name):
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def part(text, budget):
    return next(part for part in text.split("title, ") if part.startswith(str(budget)))


def test_differences_are_of_the_same_seeds():
    assert differences(FOUND, "counting", ("ours", "initial"), TOKENS) == pytest.approx(
        [0.2, 0, 0.3]
    )
    assert differences(FOUND, "counting", ("ours", "random"), TOKENS) == pytest.approx([0.1, 0])
    assert differences(FOUND, "logic", ("ours", "initial"), SECONDS) == []
    assert differences(FOUND, "counting", ("ours", "initial"), SECONDS) == pytest.approx([0.5])


def test_seconds_of_other_machines_are_not_compared():
    """But for the initial prompt, whose accuracy has nothing to do with time; tokens are tokens."""
    one, other = (
        cells("ours", {"counting": [6, 5]}, SECONDS),
        cells("random", {"counting": [5, 5]}, SECONDS),
    )
    moved = {
        cell: replace(o, machine="another" if cell.seed else "unknown") for cell, o in other.items()
    }
    found = {**FOUND, **one, **moved}
    assert differences(found, "counting", ("ours", "random"), SECONDS) == pytest.approx([0.1])
    assert len(differences(found, "counting", ("random", "initial"), SECONDS)) == 2
    tokens = {cell: replace(o, machine=cell.arm) for cell, o in FOUND.items()}
    assert len(differences(tokens, "counting", ("ours", "random"), TOKENS)) == 2


def test_budgets_are_never_mixed():
    assert budgets_of(FOUND) == [SECONDS, TOKENS]
    text = report(FOUND, TASKS, "title")
    assert text.count("title, ") == 2
    ours = line_of(part(text, SECONDS).split("mean of the tasks")[0].split("points")[0], "ours")
    assert ours == ["ours", "90.0% (1)", "–", "–"]


def test_means_and_intervals_are_those_of_hand():
    tokens = part(report(FOUND, TASKS, "title"), TOKENS)
    accuracies, others = tokens.split("| points")
    assert line_of(accuracies, ARMS["initial"])[1:] == ["40.0% (3)", "50.0% (2)", "45.0%"]
    assert line_of(accuracies, ARMS["paper"])[1:] == ["–", "–", "–"]
    # counting: 0.2, 0, 0.3: mean 1/6, deviation 0.1528, t of 2 degrees 4.303
    # logic: 0, 0.2: mean 0.1, deviation 0.1414, t of 1 degree 12.706
    # both: mean 0.1333, √(0.02333/3 + 0.02/2) / 2 = 0.0667, 2.43 degrees, so 4.303 again
    line = line_of(others, "ours − initial prompt")
    assert line[1:4] == ["+16.7 [-21.3, +54.6]", "+10.0 [-117.1, +137.1]", "+13.3 [-15.4, +42.0]"]
    assert line[5:] == ["+13.3 [-15.4, +42.0] (3+2)", "too few", "3+2"]
    assert line_of(others, "ours − the paper's rule")[1:] == [
        *["–"] * 4,
        "– (0+0)",
        "–",
        "0+0",
    ]


def test_a_figure_has_the_differences_of_the_table_in_points():
    found = {(e.name, e.series): e for e in estimates(FOUND, TASKS, TOKENS)}
    whole = found["ours − initial prompt", "all tasks"]
    assert (whole.mean, whole.low, whole.high) == pytest.approx((13.3, -15.4, 42.0), abs=0.05)
    assert found["ours − initial prompt", "logic"].high == pytest.approx(137.1, abs=0.05)
    assert not [name for name, _ in found if ARMS["paper"] in name]
    assert estimates(FOUND, TASKS, SECONDS) == []


def test_gains_are_over_the_initial_prompt_by_task_and_the_control_has_its_own():
    found = {(e.name, e.series): e for e in gains(FOUND, TASKS, TOKENS)}
    every = {(n, ARMS[a]) for n in (*TASKS, "all") for a in ("ours", "random")}
    assert found.keys() == every - {("logic", ARMS["random"])}  # 10 points twice: no interval
    whole = found["all", ARMS["ours"]]
    assert (whole.mean, whole.low, whole.high) == pytest.approx((13.3, -15.4, 42.0), abs=0.05)
    assert found["counting", ARMS["random"]].mean == pytest.approx(5.0)  # 10 and 0 points
    assert gains(FOUND, TASKS, SECONDS) == []


def test_costs_are_means_of_the_tasks_means():
    """As accuracies are: a task with more seeds weighs no more."""
    dear = {c: replace(o, search=Cost(tokens=4000)) for c, o in FOUND.items() if c.task == "logic"}
    text = part(report(FOUND | dear, TASKS, "title"), TOKENS).split("mean of")[1]
    assert line_of(text, "ours")[1] == "2,500"
    assert line_of(part(report(FOUND, TASKS, "title"), TOKENS).split("mean of")[1], "ours") == [
        "ours",
        "1,000",
        "0.0",
        "0.0",
        "2.0",
        "0.0",
        "0 to 0",
        "3.0",
        "0.0",
        "0 of 5",
    ]


def test_searches_that_ended_early_are_counted_and_differences_stand_without_them_too():
    cell = Cell(task="counting", seed=1, arm="ours", budget=TOKENS)
    early = replace(FOUND[cell], num_steps=3 + 60, stopped=NOTHING_NEW)
    assert replace(early, stopped=f"{NOTHING_NEW}; 9 tokens by the meta model").is_early
    tokens = part(report({**FOUND, cell: early}, TASKS, "title"), TOKENS)
    differences, costs = tokens.split("| mean of the tasks")
    # the idle steps that it ended for are no steps: 3 in each cell
    assert line_of(costs, "ours")[-3:] == ["3.0", "0.0", "1 of 5"]
    assert line_of(costs, ARMS["random"])[-1] == "0 of 4"
    line = line_of(differences, "ours − initial prompt")
    assert line[3] == "+13.3 [-15.4, +42.0]"
    # counting: 0.2, 0.3: deviation 0.0707; logic: 0, 0.2: deviation 0.1414
    # mean 0.175, √(0.005/2 + 0.02/2) / 2 = 0.0559, 1.47 degrees, so t of 1: 12.706
    assert line[5] == "+17.5 [-53.5, +88.5] (2+2)"
    assert line[-1] == "3+2"


def test_prompts_that_run_out_end_early_without_idle_steps():
    cell = Cell(task="counting", seed=1, arm="random", budget=TOKENS)
    found = {**FOUND, cell: replace(FOUND[cell], stopped=NO_MORE)}
    line = line_of(report(found, TASKS, "title").split("| mean of the tasks")[-1], ARMS["random"])
    assert line[-3:] == ["3.0", "0.0", "1 of 4"]


@pytest.mark.parametrize(
    ("gained", "resolved"),
    [((0, 1, 2, 1, 1), "yes"), ((0, 20, 40, 20, 20), "no"), ((1, 2, 1, 2), "too few")],
)
def test_five_points_are_resolved_by_a_half_width_under_them_and_not_by_luck(gained, resolved):
    found = {}
    for arm in ("initial", "ours"):
        for seed, gain in enumerate(gained):
            own = Budget() if arm == "initial" else TOKENS
            right = 50 + (gain if arm == "ours" else 0)
            found[Cell(task="logic", seed=seed, arm=arm, budget=own)] = outcome(right, 100)
    line = line_of(report(found, ["logic"], "title").split("| points")[1], "ours − initial prompt")
    assert line[-2] == resolved


@pytest.mark.parametrize(("num_seeds", "says_so"), [(7, True), (8, False)])
def test_fewer_seeds_than_are_needed_are_headed_so(num_seeds, says_so):
    counts = {task: [5] * num_seeds for task in TASKS}
    found = cells("ours", counts) | cells("random", counts) | cells("initial", counts)
    head = "Too few seeds of a task to conclude, 8 are the least: "
    text = report(found, TASKS, "title")
    assert (f"{head}ours (7), random shortlist (7).\n" in text) == says_so
    assert ("Too few" in text) == says_so
    text = report(found | cells("paper", {"counting": [5] * 8, "logic": [5]}), TASKS, "title")
    named = (
        "the paper's rule (1), ours (7), random shortlist (7)"
        if says_so
        else ("the paper's rule (1)")
    )
    assert f"{head}{named}.\n" in text


def test_few_seeds_are_not_drawn_anew():
    """Their bootstrap would be far too narrow: a dash stands there."""
    for num_seeds, is_shown in ((4, False), (5, True)):
        counts = {task: [5, 6, 7, 5, 6][:num_seeds] for task in TASKS}
        found = cells("ours", counts) | cells("initial", {task: [4] * num_seeds for task in TASKS})
        line = line_of(report(found, TASKS, "title").split("| points")[1], "ours − initial prompt")
        assert (line[4] != "–") == is_shown


def test_nothing_done_is_said():
    assert report({}, TASKS, "title") == "title: no search is done"
