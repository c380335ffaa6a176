"""A step that finds no memory."""

from __future__ import annotations

from collections.abc import Callable

import torch

from greater_fast.model.byte_sizes import is_out_of_memory
from greater_fast.model.parallel.lockstep import check_alone
from greater_fast.ranks import Ranks
from greater_fast.rollouts.steps.row_reader import Answers


def again_without_memory(step: Callable[[], Answers], ranks: Ranks) -> Answers:
    """What a planned step says of its rows; run again where its memory is not to be had.

    The allocator gives back what it kept before. Nothing was committed meanwhile, and what the step
    wrote is written again.

    Raises:
        RankLostError: `ranks` share the model, and the others wait within the step.
    """
    try:
        return step()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        check_alone(ranks, error)
    torch.cuda.empty_cache()
    return step()
