"""Ranks that share a model take every step together: what they find must be the same on all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch

from greater_fast.ctrl_c import interrupts_later
from greater_fast.model.byte_sizes import is_callers
from greater_fast.ranks import RankLostError, Ranks
from greater_fast.wording import in_one_line


def differ(ranks: Ranks, tensors: Iterable[torch.Tensor]) -> bool:
    """Whether any of the tensors has other bits on another rank."""
    own = [t.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() for t in tensors]
    return any(found != own for found in ranks.gathered(own))


@contextlib.contextmanager
def lockstep(ranks: Ranks) -> Iterator[None]:
    """A piece of work that ranks which share a model begin and end together; alone, it is nothing.

    Where one of them has ended with an error, or by Ctrl-C, that is raised on the others before
    they begin, for they would wait for it in the midst of a layer. Ctrl-C is heard at the end.

    Raises:
        RankLostError: what torch raised on this rank, perhaps alone. A metric's own stays as it is.
    """
    if ranks.size == 1:
        yield
        return
    ranks.gathered(None)
    with interrupts_later():
        try:
            yield
        except RankLostError:
            raise
        except (RuntimeError, MemoryError) as error:
            if is_callers(error):  # all hear of it, and none is in the midst of a layer
                raise
            raise RankLostError(
                f"rank {ranks.rank} cannot go on, nor can the others that share its model: "
                f"{in_one_line(error)}"
            ) from error


def check_alone(ranks: Ranks, error: BaseException) -> None:
    """Let an error that a process could go on after end this rank where others share its model.

    It may be this rank's alone: the others wait in the midst of a layer, and cannot be told.

    Raises:
        RankLostError: several ranks share the model.
    """
    if ranks.size > 1:
        raise RankLostError(
            f"the memory of rank {ranks.rank} has ended ({in_one_line(error)}), and the ranks that "
            "share its model cannot go on without it: lower kv_cache_bytes, gradient_batch_tokens "
            "or max_new_tokens, or take more ranks"
        ) from error
