import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from greater_fast import ranks
from greater_fast.ctrl_c import interrupts_later
from greater_fast.ranks import ALONE, RankLostError, Ranks, is_first
from greater_fast.runs.interrupts import Terminated, signals_heard

ROOT = Path(__file__).resolve().parents[2]


def test_alone_everything_is_ones_own() -> None:
    rows = torch.ones(2, 3)
    assert (ALONE.rank, ALONE.size, ALONE.is_first) == (0, 1, True)
    assert ALONE.from_first("a") == "a"
    assert ALONE.gathered([1]) == [[1]]
    assert ALONE.gathered_rows(rows)[0] is rows
    with pytest.raises(KeyError), ALONE.together():
        raise KeyError("mine")
    assert ALONE.num_bytes == 0


def test_a_process_alone_imports_no_torch() -> None:
    script = (
        "import sys; from greater_fast.ranks import join; r = join(); "
        "assert (r.size, r.place('cpu')) == (1, 'cpu'); r.gathered(1); "
        "assert 'torch' not in sys.modules"
    )
    environ = {k: v for k, v in os.environ.items() if k != "WORLD_SIZE"}
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, env=environ)


class WithPlaces(Ranks):
    """One of several that exchange nothing: what others have is like one's own."""

    def gathered(self, value: Any) -> list[Any]:
        return [value] * self.size

    def gathered_rows(self, rows: torch.Tensor) -> list[torch.Tensor]:
        return [rows]


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """As torch tells it; the ones that were chosen."""
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    properties = SimpleNamespace(uuid="the only one")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(torch, "zeros", lambda *_, device: torch.empty(1))
    return chosen


@pytest.mark.parametrize("device", [None, "cuda"])
def test_each_process_of_a_machine_takes_its_own_gpu(
    two_gpus: list[int], monkeypatch: pytest.MonkeyPatch, device: str | None
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert WithPlaces(5, 8).place(device) == "cuda:1"
    assert two_gpus == [1]
    assert WithPlaces(5, 8).place("cpu") == "cpu"
    assert ALONE.place(device) == device


def test_a_process_may_be_shown_its_own_gpu_alone(
    two_gpus: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a scheduler's `CUDA_VISIBLE_DEVICES` does: then it is the first, whatever the rank."""

    class OnOtherCards(WithPlaces):
        def gathered(self, value: Any) -> list[Any]:
            fits, machine, card = value
            return [(fits or n == 0, machine, f"{card} {n}") for n in range(self.size)]

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert OnOtherCards(3, 4).place("cuda") == "cuda:0"
    assert two_gpus == [0]
    with pytest.raises(ValueError, match=r"more processes than GPUs \(this one has 1\)"):
        WithPlaces(3, 4).place("cuda")

    class BesideOneWithout(WithPlaces):
        def gathered(self, value: Any) -> list[Any]:
            return [value, (False, "elsewhere", 0)]

    with pytest.raises(ValueError, match="more processes than GPUs"):
        BesideOneWithout(0, 2).place("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.delattr(torch.cuda, "get_device_properties")
    with pytest.raises(ValueError, match=r"more processes than GPUs \(this one has 0\)"):
        WithPlaces(0, 4).place("cuda")


@pytest.mark.parametrize(
    ("local_rank", "device", "message"),
    [
        ("2", "cuda", r"\(this one has 2\): start one for each \(torchrun"),
        ("0", "cuda:1", "got 'cuda:1' for 4 processes: leave it out, or write cuda"),
    ],
)
def test_a_device_for_each_process_must_be_there(
    two_gpus: list[int],
    monkeypatch: pytest.MonkeyPatch,
    local_rank: str,
    device: str,
    message: str,
) -> None:
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    with pytest.raises(ValueError, match=message):
        WithPlaces(2, 4).place(device)


def test_away_from_gpus_the_device_is_the_one_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Ranks(1, 2).place(None) is None
    assert Ranks(1, 2).place("cpu") == "cpu"


def test_who_tells_is_known_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    for name in names:
        monkeypatch.setenv(name, "1")
    assert is_first()  # the only one
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not is_first()
    monkeypatch.setenv("RANK", "0")
    assert is_first()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("MASTER_PORT")
    assert is_first()  # variables of something else


class Done:
    """An exchange that has ended."""

    def is_completed(self) -> bool:
        return True

    def wait(self) -> None: ...


def test_host_memory_has_a_group_of_its_own_where_the_first_is_of_gpus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where transformers has shared a model out before ranks are joined."""
    groups: list[str] = []
    used: list[str | None] = []

    def new_group(backend: str, **_: object) -> str:
        groups.append(backend)
        return f"of {backend}"

    def broadcast(tensor: torch.Tensor, rank: int, group: str | None, async_op: bool) -> Done:
        used.append(group)
        return Done()

    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    made = {"is_initialized": True, "get_rank": 1, "get_world_size": 2}
    for name, value in made.items():
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    monkeypatch.setattr(torch.distributed, "new_group", new_group)
    monkeypatch.setattr(torch.distributed, "broadcast", broadcast)
    for backends, group in (("cpu:gloo,cuda:nccl", None), ("cuda:nccl", "of gloo")):
        monkeypatch.setattr(torch.distributed, "get_backend_config", lambda found=backends: found)
        ranks._host_group.cache_clear()
        joined = ranks.join()
        ranks.join()
        joined._fill([torch.zeros(1), torch.zeros(1)])
        joined._fill([torch.zeros(1, device="meta")])
        assert used == [group, group, None]
        used.clear()
    ranks._host_group.cache_clear()
    assert groups == ["gloo"]


class Hanging(Done):
    """One that does not end: a signal comes while it is waited for."""

    def __init__(self, number: int) -> None:
        self.number, self.waited = number, 0

    def is_completed(self) -> bool:
        self.waited += 1
        if self.waited == 2:
            signal.raise_signal(self.number)
        return self.waited > 1000


@pytest.fixture
def hangs(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Hanging]:
    """Lets exchanges hang, and a signal come meanwhile."""

    def call(number: int) -> Hanging:
        exchange = Hanging(number)
        monkeypatch.setattr(ranks, "_PATIENCE", 0.0)
        monkeypatch.setattr(ranks.time, "sleep", lambda seconds: None)
        monkeypatch.setattr(torch.distributed, "broadcast", lambda *_, **__: exchange)
        return exchange

    return call


PAIR = [torch.ones(2), torch.ones(2)]


@pytest.mark.parametrize("depth", [1, 2])
def test_who_is_to_end_waits_for_no_rank_that_hangs(
    hangs: Callable[[int], Hanging], depth: int
) -> None:
    exchange = hangs(signal.SIGTERM)
    exchanged = Ranks(0, 2)._fill
    for _ in range(depth):  # blocks within each other
        exchanged = interrupts_later()(exchanged)
    with pytest.raises(Terminated) as caught, signals_heard():
        exchanged(PAIR)
    assert exchange.waited < 1000
    assert isinstance(caught.value.__cause__, RankLostError)
    assert "a signal ends this one" in str(caught.value.__cause__)


def test_ctrl_c_is_heard_when_the_exchange_is_done(hangs: Callable[[int], Hanging]) -> None:
    exchange = hangs(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), signals_heard(), interrupts_later():
        Ranks(0, 2)._fill(PAIR)
    assert exchange.waited > 1000


def test_a_signal_that_a_program_only_notes_ends_no_exchange(
    hangs: Callable[[int], Hanging], monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange, noted = hangs(signal.SIGHUP), list[int]()
    before = signal.signal(signal.SIGHUP, lambda number, frame: noted.append(number))
    try:
        with interrupts_later():
            Ranks(0, 2)._fill(PAIR)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (exchange.waited > 1000, noted) == (True, [signal.SIGHUP])


def test_rows_are_exchanged_once_all_have_room_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one that has none would tell others who wait for its bytes, and not for its words."""
    done: list[str] = []

    class First(Ranks):
        def _exchange(self, own: Any) -> list[Any]:
            done.append("told")
            return [own, own]

        def _fill(self, tensors: list[torch.Tensor]) -> None:
            done.append("filled")

    First(0, 2).gathered_rows(torch.ones(2, 3))
    assert done == ["told", "told", "filled"]

    def refuse(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch, "empty", refuse)
    first = First(0, 2)
    with pytest.raises(torch.OutOfMemoryError), first.together():
        first.gathered_rows(torch.ones(2, 3))
    assert done[3:] == ["told", "told"]
