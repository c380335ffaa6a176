import io
from typing import Any

import pytest
from rich.console import Console

from greater_fast.cli import display
from greater_fast.search.nouns import Step, Trial


def step(**fields: Any) -> Step:
    values: dict[str, Any] = {
        "step": 1,
        "index": 2,
        "grows": False,
        "prompt": "Think well.",
        "prompt_ids": (1, 2),
        "objective": 0.31254,
        "error_rate": 0.25,
        "candidate_ids": (5, 6),
        "candidate_top_k": 10,
        "trials": (
            Trial(5, " well", -0.5, 0.31254, 0.25),
            Trial(6, " ", 0.25, None, None),
            Trial(7, " try", 0.5, None, None, 12),
        ),
        "changed": True,
        "seconds": {"propose": 0.5, "select": 1.25},
    }
    return Step(**{**values, **fields})


def prompt_result(prompt: str, num_correct: int | None, ids: list[int]) -> dict[str, Any]:
    dev = {"accuracy": (num_correct or 0) / 4, "interval": [0.1, 0.9], "num_rows": 4}
    return {
        "prompt": prompt,
        "prompt_ids": ids,
        "objective": 0.5,
        "train_error_rate": 0.25,
        "dev": None if num_correct is None else {**dev, "num_correct": num_correct},
        "test": None,
    }


def result(best: dict[str, Any], baseline: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "best": best,
        "baseline": baseline,
        "finalists": [best, baseline] if best is not baseline else [baseline],
        "stopped": "all steps done",
        "num_steps": 7,
        "run_dir": "runs/a",
        "summary": "Whether anything was gained.",
        "dev_comparison": None,
        "test_comparison": None,
        **fields,
    }


OLD, NEW = prompt_result("Think.", 1, [1]), prompt_result("Think well.", 3, [1, 2])


BRACKETS = (
    "Use [b] and end with [/INST] please.",
    "answer in the form [yes] or [no].",
    "Say :smile: and [bold red]stop[/].",
)


def rendered(table: Any, width: int = 200, terminal: bool = False) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal, no_color=True)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def column(text: str, place: int) -> str:
    """What stands in a column of a table, its lines put together, without white space."""
    cells = [line.split("│")[place] for line in text.splitlines() if "│" in line]
    return "".join("".join(cells).split())


def test_steps_table() -> None:
    steps = [
        step().to_dict(),
        step(step=2, grows=True, changed=False, trials=(), objective=0.2).to_dict(),
    ]
    text = rendered(display.steps_table(steps))
    first, second, third, fourth = [line for line in text.splitlines() if "│" in line]
    assert [part.strip() for part in first.split("│")] == [
        "2",
        "2",
        "0.3125",
        "25.0%",
        "'well' -0.500 -> 0.3125",
        "Think well.",
        "1.8",
    ]
    assert "' ' +0.250 -> pruned" in second
    assert "'try' +0.500 -> dropped after 12 rows" in third
    assert "2+" in fourth
    assert "no candidates" in fourth
    assert "unchanged" in fourth


def test_steps_of_a_log_without_races() -> None:
    old = step().to_dict()
    for trial in old["trials"]:
        del trial["dropped_after"]
    assert "'try' +0.500 -> pruned" in rendered(display.steps_table([old]))


def test_finalists_table() -> None:
    text = rendered(display.finalists_table(result(NEW, OLD)))
    best, initial = [line for line in text.splitlines() if "│" in line]
    assert best.startswith("best ")
    assert "75.0%" in best
    assert "10.0% to 90.0%" in best
    assert initial.startswith("initial ")
    text = rendered(display.finalists_table(result(OLD, OLD)))
    assert column(text, 0) == "bestinitial"
    text = rendered(display.finalists_table(result(prompt_result("New.", None, [3]), OLD)))
    assert " - " in text


def test_outcome_of_a_gain() -> None:
    comparison = {"num_only_first": 2, "num_only_second": 0, "p_value": 0.5}
    lines = display.outcome(result(NEW, OLD, dev_comparison=comparison))
    assert lines == [
        "stopped: all steps done (7 steps)",
        "initial prompt: Think.",
        "  dev accuracy 25.0% of 4 rows (95% interval 10.0% to 90.0%)",
        "best prompt: Think well.",
        "  dev accuracy 75.0% of 4 rows (95% interval 10.0% to 90.0%)",
        "dev rows right with only the best prompt: 2, only the initial: 0 (McNemar p = 0.500)",
        "the best prompt was chosen among 2 on these dev rows, so its dev accuracy is optimistic; "
        "an unbiased one: --test, or greater-fast evaluate --run runs/a --data with other rows",
        "run directory: runs/a",
        "Whether anything was gained.",
    ]


@pytest.mark.parametrize(
    ("stopped", "more"),
    [
        (
            "interrupted",
            " (greater-fast resume goes on with it; with --steps 1, to its finals)",
        ),
        ("out of time", " (greater-fast resume goes on with it, with more --minutes)"),
        ("all steps done", ""),
    ],
)
def test_outcome_says_how_a_run_that_was_cut_off_goes_on(stopped: str, more: str) -> None:
    lines = display.outcome(result(NEW, OLD, stopped=stopped, num_steps=1))
    assert lines[0] == f"stopped: {stopped} (1 step)"
    assert f"run directory: runs/a{more}" in lines


def test_outcome_compares_no_prompt_with_itself() -> None:
    comparison = {"num_only_first": 0, "num_only_second": 0, "p_value": 1.0}
    lines = display.outcome(result(OLD, OLD, dev_comparison=comparison))
    assert lines[-1] == "Whether anything was gained."
    assert not any("only the best" in line for line in lines)


def test_outcome_of_an_interrupted_run() -> None:
    best, baseline = prompt_result("New.", None, [3]), prompt_result("Old.", None, [4])
    lines = display.outcome(result(best, baseline, stopped="interrupted"))
    assert "stopped: interrupted (7 steps)" in lines
    assert lines[-3] == (
        "no prompt was measured on the development rows: the run ended before, so the best prompt "
        "is that of the training rows"
    )
    assert not any("optimistic" in line for line in lines)
    assert display.outcome(result(baseline, baseline, stopped="interrupted"))[-3] == lines[-3]


def test_outcome_of_a_run_interrupted_before_the_initial_prompt_was_measured() -> None:
    baseline = prompt_result("Old.", None, [4])
    lines = display.outcome(result(NEW, baseline, stopped="interrupted"))
    assert lines == [
        "stopped: interrupted (7 steps)",
        "initial prompt: Old.",
        "best prompt: Think well.",
        "  dev accuracy 75.0% of 4 rows (95% interval 10.0% to 90.0%)",
        "the run ended early: 1 of 2 prompts were measured on the development rows",
        "run directory: runs/a (greater-fast resume goes on with it; with --steps 7, to its "
        "finals)",
        "Whether anything was gained.",
    ]
    finalists = [NEW, prompt_result("Think hard.", 2, [2]), baseline]
    lines = display.outcome(result(NEW, baseline, stopped="interrupted", finalists=finalists))
    assert "the run ended early: 2 of 3 prompts" in "\n".join(lines)
    assert "chosen among 2 on these dev rows" in "\n".join(lines)


def test_outcome_of_a_run_interrupted_after_the_initial_prompt_was_measured() -> None:
    unmeasured = prompt_result("New.", None, [3])
    lines = display.outcome(result(OLD, OLD, stopped="interrupted", finalists=[OLD, unmeasured]))
    assert "the run ended early: 1 of 2 prompts were measured" in "\n".join(lines)


def test_outcome_calls_a_figure_optimistic_unless_there_was_a_test() -> None:
    tested = {**NEW, "test": NEW["dev"]}
    assert "optimistic" in "\n".join(display.outcome(result(NEW, OLD)))
    assert "optimistic" not in "\n".join(display.outcome(result(tested, OLD)))
    assert "optimistic" not in "\n".join(display.outcome(result(OLD, OLD, finalists=[OLD, NEW])))
    lines = display.outcome(result(NEW, OLD, run_dir="my runs/a"))
    assert "--run 'my runs/a' --data" in "\n".join(lines)


@pytest.mark.parametrize("prompt", [*BRACKETS, "Think. " * 20, "x" * 200])
def test_tables_show_prompts_whole_on_80_columns(prompt: str) -> None:
    token = Trial(5, "[/b]", -0.5, 0.3, 0.25)
    table = display.steps_table([step(prompt=prompt, trials=(token,)).to_dict()])
    text = rendered(table, width=80, terminal=True)
    assert column(text, 5) == "".join(prompt.split())
    assert column(text, 4) == "'[/b]'-0.500->0.3000"
    table = display.finalists_table(result(prompt_result(prompt, 3, [1]), OLD))
    text = rendered(table, width=80, terminal=True)
    assert column(text, 5) == "".join(prompt.split()) + "Think."
    assert column(text, 2) == "10.0%to90.0%" * 2
    assert max(len(line) for line in text.splitlines() if "│" in line) <= 80


def test_nothing_in_a_table_steers_the_terminal() -> None:
    wild = "Think\x1b]0;owned\x07 \u202ewell\r."
    token = Trial(5, " \x9b2J", -0.5, 0.3, 0.25)
    table = display.steps_table([step(prompt=wild, trials=(token,)).to_dict()])
    text = rendered(table)
    assert "Think\\u001b]0;owned\\u0007 \\u202ewell\\u000d." in text
    assert "\\x9b2J" in text
    text += rendered(display.finalists_table(result(prompt_result(wild, 3, [1]), OLD)))
    assert not {"\x1b", "\x07", "\u202e", "\r", "\x9b"} & set(text)


def test_the_training_rows_by_both_measures() -> None:
    train = {"accuracy": 0.5, "interval": [0.2, 0.8], "num_rows": 8}
    lines = display.outcome(result(NEW, {**OLD, "train": train}))
    assert lines[2:4] == [
        "  train accuracy 50.0% of 8 rows (95% interval 20.0% to 80.0%)",
        "  dev accuracy 25.0% of 4 rows (95% interval 10.0% to 90.0%)",
    ]
    assert lines[4] == "  train accuracy token by token, as the search counts it: 75.0%"
    assert not any("train accuracy" in line for line in display.outcome(result(NEW, OLD)))


def test_report_of_two_prompts() -> None:
    figures = {"accuracy": 0.75, "interval": [0.5, 0.9], "num_rows": 8, "prompt": "Think."}
    comparison = {"num_only_first": 3, "num_only_second": 1, "p_value": 0.625}
    comparison |= {"difference": 0.25, "interval": [-0.2, 0.6]}  # type: ignore[dict-item]
    report = {**figures, "extractor": "It is", "against": figures, "comparison": comparison}
    assert display.report_lines(report) == [
        "extractor: It is",
        *["75.0% (50.0% to 90.0%) of 8 rows", "  Think."] * 2,
        "only the first right 3, only the second 1, McNemar p = 0.625",
        "the first is better by 25.0 points, which may be chance (first less second: 95% interval "
        "−20.0 to +60.0)",
    ]
    sure = {**report, "comparison": {**comparison, "p_value": 0.01}}
    assert "better by 25.0 points (first less" in display.report_lines(sure)[-1]
    assert len(display.report_lines({**report, "against": None, "comparison": None})) == 3


def test_a_metric_that_gave_no_value_between_has_rows_that_are_right() -> None:
    """As several models have shares between without any metric: the test says what was counted."""
    figures = {"accuracy": 0.75, "interval": [0.5, 0.9], "num_rows": 8, "prompt": "Think."}
    comparison = {"num_only_first": 3, "num_only_second": 1, "p_value": 0.625}
    comparison |= {"difference": 0.25, "interval": [-0.2, 0.6]}  # type: ignore[dict-item]
    report = {**figures, "extractor": "It is", "against": figures, "comparison": comparison}
    assert "only the first right 3, only the second 1, McNemar p = 0.625" in display.report_lines(
        {**report, "metric": "numeric"}
    )
    by_flips = {**report, "comparison": {**comparison, "test": "sign flips"}}
    counts = "the first better on 3, the second on 1, sign flips p = 0.625"
    assert counts in display.report_lines(by_flips)
    given = {"num_only_first": 2, "num_only_second": 1, "p_value": 0.5, "test": "sign flips"}
    lines = display.outcome(result(NEW, OLD, dev_comparison=given))
    assert any("better with the best prompt: 2, with the initial: 1" in line for line in lines)


def test_values_between_are_better_where_others_are_right() -> None:
    comparison = {
        "num_only_first": 2,
        "num_only_second": 1,
        "p_value": 0.5,
        "difference": 0.25,
        "interval": [-0.1, 0.4],
        "test": "sign flips",
    }
    train = {"accuracy": 0.5, "interval": [0.2, 0.8], "num_rows": 8, "metric": "mine"}
    best = {**NEW, "dev": {**NEW["dev"], "metric": "mine"}}
    lines = display.outcome(result(best, {**OLD, "train": train}, dev_comparison=comparison))
    assert (
        "dev rows better with the best prompt: 2, with the initial: 1 (sign flips p = 0.500)"
        in lines
    )
    assert not any("token by token" in line for line in lines)
    figures = {"accuracy": 0.75, "interval": [0.5, 0.9], "num_rows": 8, "prompt": "Think."}
    report = {**figures, "extractor": "So:", "against": figures, "comparison": comparison}
    assert display.report_lines({**report, "metric": "mine"})[-2:] == [
        "the first better on 2, the second on 1, sign flips p = 0.500",
        "the first is better by 25.0 points, which may be chance (first less second: 95% interval "
        "−10.0 to +40.0)",
    ]
