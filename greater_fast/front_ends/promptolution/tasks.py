"""A task of promptolution as rows of a search, and whether its predictor can read the answers."""

from __future__ import annotations

import warnings

from promptolution.predictors import FirstOccurrencePredictor, MarkerBasedPredictor
from promptolution.predictors.base_predictor import BasePredictor
from promptolution.tasks import ClassificationTask
from promptolution.tasks.base_task import BaseTask

from greater_fast.examples.data import Example
from greater_fast.wording import listed, quoted


def rows_of(task: BaseTask) -> list[Example]:
    """A task's inputs with their gold answers."""
    if not task.xs:
        raise ValueError("task: it has no rows: give its frame some")
    if not task.has_y or not all(isinstance(y, str) and y.strip() for y in task.ys):
        raise ValueError(
            "task: its rows have no gold answers, which the gradient is of: give it a y_column"
        )
    if len(task.xs) != len(task.ys):
        raise ValueError(
            f"task: got {len(task.xs)} inputs and {len(task.ys)} answers, for rows with the same "
            "input were dropped and their answers were not: drop them before the task is made"
        )
    return [Example(x, y) for x, y in zip(task.xs, task.ys, strict=True)]


def check_classes(predictor: BasePredictor, task: BaseTask) -> None:
    """Warn of rows that are wrong whatever the predictor reads; raise ValueError if all are."""
    if not isinstance(predictor, FirstOccurrencePredictor | MarkerBasedPredictor):
        return
    if predictor.classes is None or not isinstance(task, ClassificationTask):
        return
    begin, end = "", ""
    if isinstance(predictor, MarkerBasedPredictor):
        begin, end = predictor.begin_marker, predictor.end_marker
    written = [f"{begin}{name}{end}" for name in predictor.classes]
    read = dict.fromkeys(predictor._extract_preds(written))  # not all classes can be one word
    golds = dict.fromkeys(task.ys)
    never = [gold for gold in golds if not any(task.metric([gold], [name]) > 0 for name in read)]
    if not never:
        return
    number = sum(gold in never for gold in task.ys)
    problem = (
        f"task: {number} of {len(task.ys)} rows have gold answers that the predictor never reads, "
        f"the first is {quoted(never[0])}; of its classes it reads {listed(read)}"
    )
    if number == len(task.ys):
        raise ValueError(f"{problem}: no prompt can be right: give it the task's classes")
    warnings.warn(f"{problem}: such rows count as wrong", RuntimeWarning, stacklevel=3)
