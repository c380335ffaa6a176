"""Who runs an op, and what is refused before anything runs."""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from greater_fast.config import CHOICES
from greater_fast.kernels import reference, trial
from greater_fast.kernels.dispatch import (
    BACKENDS,
    MAX_IDS,
    candidate_scores,
    device_obstacle,
    target_logprob,
    uses_triton,
    vocabulary_top_k,
)
from greater_fast.kernels.reference import Head

ROOT = Path(__file__).resolve().parents[2]
E, G = torch.ones(5, 3), torch.ones(2, 3)
ALL = torch.ones(5, dtype=torch.bool)
IDS, HIDDEN = torch.arange(2), torch.ones(2, 3)


def on_gpu(dtype: torch.dtype = torch.bfloat16, strides: tuple[int, int] = (8, 1)) -> Any:
    """As much of a matrix on a GPU as the decision looks at."""
    return SimpleNamespace(
        dtype=dtype,
        device=torch.device("cuda", 0),
        stride=lambda *at: strides[at[0]] if at else strides,
    )


@pytest.fixture
def capability(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Makes the GPU be of a compute capability."""

    def be(major: int, minor: int) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (major, minor))

    be(8, 0)
    monkeypatch.setattr(trial, "build_obstacle", lambda _: None)
    return be


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, for which kernels are built")
def test_a_gpu_for_which_no_kernel_can_be_built_is_an_obstacle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a C compiler, Python's headers or a driver: plain torch runs, and says why."""

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("Failed to find C compiler.\n Please specify via CC.")

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    monkeypatch.setattr(torch, "zeros", fails)
    device = torch.device("cuda", 0)
    trial._obstacle.cache_clear()
    found = device_obstacle(device, forced=False)
    trial._obstacle.cache_clear()
    assert found == (
        "Triton cannot build a kernel here (RuntimeError: Failed to find C compiler. Please "
        "specify via CC.)"
    )


def test_the_settings_name_the_same_backends() -> None:
    assert CHOICES["kernels"] == BACKENDS


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_auto_takes_triton_on_a_gpu(
    capability: Callable[[int, int], None], dtype: torch.dtype
) -> None:
    for version, expected in (((8, 0), True), ((9, 0), True), ((10, 3), True), ((7, 5), False)):
        capability(*version)
        assert uses_triton("auto", on_gpu(dtype), on_gpu()) is expected
        assert not uses_triton("reference", on_gpu(dtype), on_gpu())


def test_auto_takes_the_reference_elsewhere(
    capability: Callable[[int, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not uses_triton("auto", E, G)  # on a CPU, be it under the interpreter
    assert not uses_triton("auto", on_gpu(torch.float64), on_gpu())
    assert not uses_triton("auto", on_gpu(), on_gpu(torch.float64))
    assert not uses_triton("auto", on_gpu(strides=(1, 8)), on_gpu())
    assert not uses_triton("auto", on_gpu(), on_gpu(), obstacle="too many")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert not uses_triton("auto", on_gpu(), on_gpu())


@pytest.mark.parametrize(
    ("matrix", "reason"),
    [
        (on_gpu(torch.float64), "got torch.float64, expected bfloat16, float16 or float32"),
        (on_gpu(strides=(1, 8)), "got a matrix with strides (1, 8), expected rows without gaps"),
        (torch.ones(2, 2, device="meta"), "got tensors on meta, expected a GPU"),
    ],
)
def test_forced_triton_says_why_it_cannot_run(matrix: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"cannot be used here: {reason}")):
        uses_triton("triton", matrix, on_gpu())


@pytest.mark.parametrize(("warp_size", "runs"), [(64, True), (32, False)])
def test_amd_gpus_with_waves_that_were_not_tried_take_the_reference(
    capability: Callable[[int, int], None],
    monkeypatch: pytest.MonkeyPatch,
    warp_size: int,
    runs: bool,
) -> None:
    capability(11, 0)
    monkeypatch.setattr(torch.version, "hip", "7.0")
    properties = SimpleNamespace(warp_size=warp_size)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    assert uses_triton("auto", on_gpu(), on_gpu()) is runs
    assert uses_triton("triton", on_gpu(), on_gpu())
    obstacle = device_obstacle(torch.device("cuda"), forced=False)
    assert (obstacle is None) is runs
    assert runs or "waves of 32" in str(obstacle)


def test_forced_triton_needs_the_capability_and_the_package(
    capability: Callable[[int, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    capability(7, 5)
    with pytest.raises(ValueError, match=r"compute capability \(7, 5\), expected \(8, 0\) or more"):
        uses_triton("triton", on_gpu(), on_gpu())
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match="the package triton is not installed"):
        uses_triton("triton", on_gpu(), on_gpu())


def test_a_gpu_that_is_full_just_then_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("Triton Error [CUDA]: out of memory")

    monkeypatch.setattr(torch, "zeros", full)
    trial._obstacle.cache_clear()
    for _ in range(2):
        with pytest.raises(torch.OutOfMemoryError):
            trial.build_obstacle(torch.device("cuda", 0))
    assert trial._obstacle.cache_info().currsize == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="no interpreter where there is a GPU")
def test_forced_triton_on_a_cpu_needs_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    from triton import knobs

    assert uses_triton("triton", E, G)
    monkeypatch.setattr(knobs.runtime, "interpret", False)
    with pytest.raises(ValueError, match="got tensors on cpu, expected a GPU"):
        vocabulary_top_k(E, G, ALL, 1, backend="triton")


def test_on_a_cpu_the_reference_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("candidate_scores", "vocabulary_top_k", "target_logprob"):
        monkeypatch.setattr(reference, name, lambda *_, name=name: calls.append(name))
    candidate_scores(E, G, IDS)
    vocabulary_top_k(E, G, ALL, 65)
    target_logprob(HIDDEN, IDS, Head(E))
    assert calls == ["candidate_scores", "vocabulary_top_k", "target_logprob"]


WRONG: list[tuple[Callable[[], Any], str]] = [
    (lambda: candidate_scores(E, G, IDS, backend="cuda"), "backend: got 'cuda', expected one of"),
    (
        lambda: candidate_scores(E[0], G, IDS),
        "embeddings: got [3] torch.float32, expected a matrix",
    ),
    (lambda: candidate_scores(E, G.int(), IDS), "gradients: got [2, 3] torch.int32, expected a"),
    (lambda: candidate_scores(E, G[:, :2], IDS), "gradients: got width 2, expected that of embedd"),
    (lambda: candidate_scores(E, G.to("meta"), IDS), "gradients: got meta, expected that of embed"),
    (lambda: candidate_scores(E, G, IDS.int()), "ids: got [2] torch.int32 on cpu, expected [any]"),
    (lambda: candidate_scores(E, G, IDS[None]), "ids: got [1, 2] torch.int64 on cpu, expected [an"),
    (lambda: candidate_scores(E, G, IDS - 1), "ids: got -1 to 0, expected 0 to 4"),
    (
        lambda: candidate_scores(E, G, IDS[:1].expand(MAX_IDS + 1), backend="triton"),
        "cannot be used here: got 2097121 ids, expected at most 2097120",
    ),
    (lambda: candidate_scores(E, G, IDS + 4), "ids: got 4 to 5, expected 0 to 4"),
    (
        lambda: vocabulary_top_k(E, G, ALL[1:], 1),
        "allowed: got [4] torch.bool on cpu, expected [5]",
    ),
    (lambda: vocabulary_top_k(E, G, ALL.int(), 1), "allowed: got [5] torch.int32 on cpu, expected"),
    (lambda: vocabulary_top_k(E, G, ALL, 0), "k: got 0, expected at least 1"),
    (
        lambda: vocabulary_top_k(E, G, ALL, 65, backend="triton"),
        "cannot be used here: got k = 65, expected at most 64",
    ),
    (lambda: target_logprob(HIDDEN, IDS[1:], Head(E)), "targets: got [1] torch.int64 on cpu, expe"),
    (
        lambda: target_logprob(HIDDEN[:, 1:], IDS, Head(E)),
        "hidden: got width 2, expected that of w",
    ),
    (
        lambda: target_logprob(HIDDEN, IDS, Head(E), 0.0),
        "temperature: got 0.0, expected a number o",
    ),
    (
        lambda: target_logprob(HIDDEN, IDS, Head(E), torch.ones(3)),
        "temperature: got [3] torch.float",
    ),
    (
        lambda: target_logprob(HIDDEN, IDS, Head(E, 1.0, -1.0)),
        "head: got a soft_cap of -1.0, expect",
    ),
    (
        lambda: target_logprob(HIDDEN, IDS, Head(E.clone().requires_grad_())),
        "head: its weight asks for a gradient, expected a frozen one",
    ),
    (
        lambda: target_logprob(HIDDEN, IDS, Head(E.bfloat16()), backend="triton"),
        "cannot be used here: got torch.float32 and torch.bfloat16, expected one type",
    ),
]


@pytest.mark.parametrize(("call", "message"), WRONG)
def test_what_does_not_fit_is_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_the_package_works_without_triton() -> None:
    """In a process in which it cannot be imported."""
    program = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch\n"
        "from greater_fast import Config, optimize\n"
        "from greater_fast.kernels.dispatch import vocabulary_top_k\n"
        "allowed = torch.ones(9, dtype=torch.bool)\n"
        "print(vocabulary_top_k(torch.eye(9), -torch.eye(9)[4:5], allowed, 1)[0].tolist())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.returncode) == ("[[4]]", 0), done.stderr
