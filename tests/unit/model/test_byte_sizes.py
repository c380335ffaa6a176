from pathlib import Path

import numpy as np
import pytest
import torch

from greater_fast.model import byte_sizes
from greater_fast.model.byte_sizes import (
    format_bytes,
    free_bytes,
    is_out_of_memory,
    memory_bytes,
    parse_bytes,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("24GiB", 24 * 1024**3),
        ("24 GB", 24 * 1000**3),
        (" 1.5kib ", 1536),
        ("512MB", 512 * 10**6),
        ("0.5TiB", 1 << 39),
        ("8e9", 8 * 10**9),
        ("2.5E3", 2500),
        ("17", 17),
        ("17 b", 17),
        (".5 kB", 500),
    ],
)
def test_sizes_are_read(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize(
    "text", ["", "GiB", "24G", "-1GiB", "1e9GiB", "1,5 GB", "inf", "nan", "8e"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected a size such as 24GiB") as caught:
        parse_bytes(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", ["0", "0GiB", "0.2", "0.4B"])
def test_a_size_is_one_byte_at_least(text: str) -> None:
    with pytest.raises(ValueError, match="expected at least one byte"):
        parse_bytes(text)


@pytest.mark.parametrize("text", ["1e400", "1e19", "9e99", "9" * 5000, "2000000TiB"])
def test_a_size_is_one_that_there_can_be(text: str) -> None:
    with pytest.raises(ValueError, match="expected at least one byte and at most") as caught:
        parse_bytes(text)
    assert len(str(caught.value)) < 120


def test_the_end_of_memory_is_known_by_its_words() -> None:
    with pytest.raises(RuntimeError) as of_torch:
        torch.empty(1 << 60, dtype=torch.uint8)
    with pytest.raises(MemoryError) as of_numpy:
        np.empty(1 << 60, np.uint8)
    assert is_out_of_memory(of_torch.value)
    assert is_out_of_memory(of_numpy.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"))
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))


@pytest.mark.parametrize(("index", "kept"), [(None, 30), (0, 30), (1, 5)])
@pytest.mark.parametrize(("share", "free"), [(1.0, 400), (0.6, 300)])
def test_what_graphs_keep_to_themselves_is_not_free(
    index: int | None, kept: int, share: float, free: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    segments = [
        (0, (0, 0), 300, 200),
        (0, (1, 0), 40, 20),  # a graph's pool: what it does not use now is for its next replay
        (0, (0, 7), 15, 5),
        (1, (1, 1), 5, 0),
    ]
    names = ("device", "segment_pool_id", "total_size", "allocated_size")
    for name, value in {
        "mem_get_info": (300, 1000),
        "memory_allocated": 300,
        "memory_reserved": 400,
        "get_per_process_memory_fraction": share,
        "memory_snapshot": [dict(zip(names, s, strict=True)) for s in segments],
        "current_device": 0,
        "get_allocator_backend": "native",
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    device = torch.device("cuda") if index is None else torch.device("cuda", index)
    assert free_bytes(device) == free - kept
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: "cudaMallocAsync")
    monkeypatch.delattr(torch.cuda, "memory_snapshot")  # of which it tells nothing
    assert free_bytes(device) == free


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.50 KiB"),
        (3 << 19, "1.50 MiB"),
        (24 << 30, "24.00 GiB"),
    ],
)
def test_sizes_are_written(size: int, expected: str) -> None:
    assert format_bytes(size) == expected


def test_a_limit_of_the_control_group_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = (tmp_path / "max", tmp_path / "limit")
    monkeypatch.setattr(byte_sizes, "_CGROUP_LIMITS", files)
    ram = memory_bytes(torch.device("cpu"))
    lines = Path("/proc/meminfo").read_text().splitlines()
    assert ram == 1024 * int(lines[0].split()[1])
    files[0].write_text("max\n")
    assert memory_bytes(torch.device("cpu")) == ram
    files[1].write_text("1000000\n")
    assert memory_bytes(torch.device("cpu")) == 1000000
    files[1].write_text(f"{1 << 63}\n")
    assert memory_bytes(torch.device("cpu")) == ram


class FakeCuda:
    """A GPU of 24 GiB on which others hold some, and this process some."""

    def __init__(self, others: int, reserved: int, allocated: int, share: float = 1.0) -> None:
        self.total = 24 << 30
        self.free = self.total - others - reserved - (byte_sizes.CONTEXT_BYTES)
        self.reserved, self.allocated, self.share = reserved, allocated, share

    def mem_get_info(self, _: torch.device) -> tuple[int, int]:
        return self.free, self.total

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch, "get_device_module", lambda _: self)
        monkeypatch.setattr(torch.cuda, "mem_get_info", self.mem_get_info)
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: self.reserved)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: self.allocated)
        monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda _: self.share)


GIB = 1 << 30


@pytest.mark.parametrize(
    ("others", "reserved", "allocated", "own", "share", "expected"),
    [
        (0, 0, 0, 0, 1.0, 24 * GIB),
        (GIB, 0, 0, 0, 1.0, 23 * GIB),  # a desktop's
        (0, 17 * GIB, 16 * GIB, 16 * GIB, 1.0, 24 * GIB),  # the run's own weights, loaded
        (0, 17 * GIB, 16 * GIB, 0, 1.0, 8 * GIB),  # another model of the same process
        (2 * GIB, 4 * GIB, 3 * GIB, GIB, 1.0, 20 * GIB),
        (GIB, 0, 0, 0, 0.5, 12 * GIB),  # a share that others do not touch
    ],
)
def test_what_others_hold_of_a_gpu_is_not_there(
    others: int,
    reserved: int,
    allocated: int,
    own: int,
    share: float,
    expected: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    FakeCuda(others, reserved, allocated, share).install(monkeypatch)
    assert memory_bytes(torch.device("cuda"), own) == expected


@pytest.mark.parametrize(
    ("limit", "used", "stat", "files"),
    [
        ("memory.max", "memory.current", "anon 5\ninactive_file 90\nactive_file 10\n", 100),
        (
            "limit_in_bytes",
            "memory.usage_in_bytes",
            "inactive_file 1\ntotal_inactive_file 70\n",
            70,
        ),
        ("memory.max", "memory.current", "anon 5\n", 0),
    ],
)
def test_what_a_control_group_has_left_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, used: str, stat: str, files: int
) -> None:
    monkeypatch.setattr(byte_sizes, "_CGROUP_LIMITS", (tmp_path / limit,))
    free = free_bytes(torch.device("cpu"))
    assert free is not None
    (tmp_path / limit).write_text("1000000\n")
    assert free_bytes(torch.device("cpu")) > 1000000  # what is used is not known
    (tmp_path / used).write_text("400000\n")
    (tmp_path / "memory.stat").write_text(stat)
    assert free_bytes(torch.device("cpu")) == 600000 + files
    (tmp_path / used).write_text("4000000\n")
    assert free_bytes(torch.device("cpu")) == 0
    (tmp_path / limit).write_text("max\n")
    assert free_bytes(torch.device("cpu")) > 1000000
