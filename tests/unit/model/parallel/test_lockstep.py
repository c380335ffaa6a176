"""Ranks that share a model begin each piece of work together, or not at all."""

import signal
from typing import Any, TypeVar

import pytest
import torch

from greater_fast.model.byte_sizes import callers_errors, memory_errors_explained
from greater_fast.model.checks import check_model
from greater_fast.model.exclusive import exclusive
from greater_fast.model.lm import LM
from greater_fast.model.parallel.lockstep import check_alone, differ
from greater_fast.ranks import ALONE, RankLostError, Ranks

T = TypeVar("T")


class WithOther(Ranks):
    """Rank 0 of two; the other one says `other`, or ends with it where it is an error."""

    def __init__(self, other: Any = None) -> None:
        super().__init__(0, 2)
        self.other = other

    def gathered(self, value: T) -> list[T]:
        if isinstance(self.other, BaseException):
            raise self.other
        return [value, self.other]


class Engine:
    """It runs whatever it is given."""

    def __init__(self, lm: LM) -> None:
        self.lm = lm

    @exclusive
    def run(self, work: Any) -> Any:
        return work()


def engine_of(lm: LM, ranks: Ranks) -> Engine:
    return Engine(LM(lm.model, lm.tokenizer, lm.name, lm.vocabulary, lm.end_ids, ranks=ranks))


def failing(error: BaseException) -> Any:
    def work() -> None:
        raise error

    return work


def test_what_ended_another_rank_is_raised_before_the_work(lm: LM) -> None:
    with pytest.raises(KeyError, match="theirs"):
        engine_of(lm, WithOther(KeyError("theirs"))).run(failing(AssertionError("was run")))


def test_an_error_of_torch_ends_this_rank_without_asking_the_others(lm: LM) -> None:
    error = RuntimeError("CUDA error:\nan illegal address")
    with pytest.raises(RankLostError, match=r"rank 0 cannot go on, .* CUDA error: an ill") as found:
        engine_of(lm, WithOther()).run(failing(error))
    assert found.value.__cause__ is error
    with pytest.raises(RuntimeError) as kept:
        engine_of(lm, ALONE).run(failing(error))
    assert kept.value is error


def of_caller(error: Exception) -> Exception:
    with pytest.raises(type(error)), callers_errors():
        raise error
    return error


@pytest.mark.parametrize(
    "error", [ValueError("a request"), RankLostError("gone"), of_caller(RuntimeError("a metric"))]
)
def test_what_all_ranks_raise_stays_as_it_is(lm: LM, error: Exception) -> None:
    with pytest.raises(type(error)) as found:
        engine_of(lm, WithOther()).run(failing(error))
    assert found.value is error


def test_ctrl_c_is_heard_when_the_work_is_done(lm: LM) -> None:
    done = []

    def work() -> None:
        signal.raise_signal(signal.SIGINT)
        done.append(True)

    with pytest.raises(KeyboardInterrupt):
        engine_of(lm, WithOther()).run(work)
    assert done == [True]
    with pytest.raises(KeyboardInterrupt):
        engine_of(lm, ALONE).run(work)
    assert done == [True]


def test_memory_that_ends_on_one_rank_ends_it() -> None:
    error = torch.OutOfMemoryError("1 GiB")
    check_alone(ALONE, error)
    with pytest.raises(RankLostError, match=r"memory of rank 0 has ended \(1 GiB\)") as caught:
        check_alone(WithOther(), error)
    assert caught.value.__cause__ is error
    device = torch.device("cpu")
    with pytest.raises(RankLostError, match="or take more ranks"), memory_errors_explained(device):
        raise caught.value  # it says what to change, and is told to nobody


def test_other_bits_on_another_rank_are_seen() -> None:
    numbers = torch.tensor([[1.0, -0.0]], dtype=torch.bfloat16)
    same = numbers.view(torch.uint8).numpy().tobytes()
    assert not differ(WithOther([same]), [numbers])
    assert differ(WithOther([same]), [-numbers])
    assert differ(WithOther([same]), [numbers.abs()])  # equal numbers, and other bits
    assert not differ(ALONE, [numbers])


def test_a_model_whose_ranks_come_to_other_numbers_is_refused(lm: LM) -> None:
    with pytest.raises(ValueError, match=r"the ranks that share .* come to different"):
        check_model(engine_of(lm, WithOther([b"", b""])).lm)
