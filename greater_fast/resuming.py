"""`resume`: from the folder of a run that ended, for whatever reason, to its result."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from greater_fast.config import Config
from greater_fast.examples.metrics import Metric
from greater_fast.gradients.example_loss import AnswerLoss
from greater_fast.ranks import join
from greater_fast.runs.directory import RunDirectory, read_run
from greater_fast.runs.input import check_mapping, checking_input, with_metric
from greater_fast.runs.interrupts import signals_heard
from greater_fast.runs.models.alike import as_models
from greater_fast.runs.on_ranks import NoDirectory, on_all_ranks
from greater_fast.runs.result import Result
from greater_fast.runs.sitting.functions import Functions
from greater_fast.runs.sitting.sit import Asked, saved_splits, sit
from greater_fast.search.judge import Judge
from greater_fast.search.optimizer import OnStep


@on_all_ranks
def resume(  # noqa: PLR0913 (one entry point, all but the first by keyword)
    run_dir: str | os.PathLike[str],
    *,
    steps: int | None = None,
    model: Any = None,
    config: Mapping[str, Any] | None = None,
    on_step: OnStep | None = None,
    loss: AnswerLoss | None = None,
    metric: Metric | None = None,
    judge: Judge | None = None,
    progress: bool = True,
) -> Result:
    """Go on with a run where it ended, for whatever reason, by what its folder holds.

    The result is that of a run in one go, bit for bit but for times; where that cannot be promised
    its notes say so. No row is evaluated twice, and no finished step is taken again.

    Args:
        run_dir: the run's folder.
        steps: that many in all, where they are to be more than were planned, or fewer. Finals and
            test are done anew then; test rows that were evaluated before are told of in the result.
        model: the model again, where it was a loaded one, or lies elsewhere now.
        config: settings that are others now: steps, stop_unchanged, minutes, device, dtype and
            those of memory (`CHANGEABLE` in `greater_fast.runs.saved.differences`); no others may
            be. On another device the model must come to the same dtype.
        on_step: as of `optimize`: called with steps that are finished from now on.
        loss: the function that the run was begun with, if there was one.
        metric: the function that the run was begun with, if there was one.
        judge: the function that the run was begun with, if there was one. It is asked again only
            where there are other prompts to judge than before; where not, a note says so.
        progress: as of `optimize`.

    Raises:
        ValueError: there is no run that has begun, another process is at work on it, files of it
            are damaged, or model, rows, dtype, functions or other settings are not those it was
            begun with. Libraries, machine and device may be others, which is noted.
    """
    begun = time.monotonic()
    ranks = join()
    functions = Functions(on_step, loss, metric, judge)
    with checking_input():
        if ranks.is_first:
            read_run(run_dir)  # there is one, and it has begun
        directory = RunDirectory(run_dir, resume=True) if ranks.is_first else NoDirectory()
    with signals_heard(), directory:
        saved = ranks.from_first(directory.saved)
        with checking_input():
            assert saved is not None
            check_mapping(config)
            changed = {**(config or {}), **({} if steps is None else {"steps": steps})}
            given = Config.from_mapping({**saved.run["config"], **changed})
            given = with_metric(given, metric)
            functions.check(given)
            sources = as_models(saved.model if model is None else model, ranks)
        asked = Asked(
            *(sources, lambda _: saved_splits(saved), saved.run["prompt"], given, functions),
            progress,
        )
        return sit(asked, directory, begun, ranks)
