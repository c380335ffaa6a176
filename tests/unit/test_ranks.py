import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from greater_fast.ranks import ALONE, Ranks, is_first

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
    """One of several that exchange nothing."""

    def gathered_rows(self, rows: torch.Tensor) -> list[torch.Tensor]:
        return [rows]


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """As torch tells it; the ones that were chosen."""
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
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


@pytest.mark.parametrize(
    ("local_rank", "device", "message"),
    [
        ("2", "cuda", r"more processes on this machine than GPUs: start 2 \(torchrun"),
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
