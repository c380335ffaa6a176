"""What is tried when an engine is made is what then runs: the same kernels, cut in the same way."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from greater_fast.engine import RolloutRequest
from greater_fast.kernels.attention import paged as kernel
from greater_fast.model.lm import LM
from greater_fast.rollouts import invariance, paged
from greater_fast.rollouts.batch import RolloutEngine
from greater_fast.rollouts.invariance import is_batch_invariant
from greater_fast.rollouts.paged import longest_of, split_size, why_not

SPLIT = 64  # keys: of the kernel's 512 an interpreter is long at work
LONGEST = 80


@pytest.fixture
def lm(own_lm: LM) -> LM:
    """A model of one layer."""
    del own_lm.model.model.layers[1:]
    own_lm.model.config.num_hidden_layers = 1
    return own_lm


@pytest.fixture
def short_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "SPLIT", SPLIT)


class Spy:
    """A kernel; `before` and `after` are called with what it is launched with."""

    def __init__(self, own: Any, before: Any = None, after: Any = None) -> None:
        self.own, self.before, self.after = own, before, after

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        def launch(*args: Any, **options: Any) -> None:
            if self.before:
                self.before(args, options)
            self.own[grid](*args, **options)
            if self.after:
                self.after(args, options)

        return launch


def test_probes_launch_what_the_engine_launches(lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "SPLIT", SPLIT // 2)  # more programs than a probe's length asks for
    stage, seen = "why_not", {}
    own_steps = {"why_not": paged.why_not, "invariance": invariance.is_batch_invariant}

    def record(args: Any, options: Any) -> None:
        context_lens = args[7]
        workers, longest = seen.setdefault(stage, (set(), []))
        workers.add(options["WORKERS"])
        longest.append(int(context_lens.max()))

    def staged(name: str) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            nonlocal stage
            stage = name
            found = own_steps[name](*args)
            stage = "engine"
            return found

        return run

    monkeypatch.setattr(
        kernel, "paged_attention_kernel", Spy(kernel.paged_attention_kernel, record)
    )
    monkeypatch.setattr("greater_fast.rollouts.paged.why_not", staged("why_not"))
    monkeypatch.setattr("greater_fast.rollouts.batch.is_batch_invariant", staged("invariance"))
    given: dict[str, Any] = {"kernels": "triton", "fixed": True, "max_tokens": 16}
    engine = RolloutEngine(lm, kv_cache_bytes=1 << 18, longest_sequence=LONGEST, **given)
    assert engine.batch_invariant
    engine.run([RolloutRequest((3, 4, 5), 2, frozenset())])
    workers = -(-LONGEST // (SPLIT // 2))
    assert {name: found for name, (found, _) in seen.items()} == {
        "why_not": {workers},
        "invariance": {workers},
        "engine": {workers},
    }
    assert all(max(seen[name][1]) > SPLIT // 2 for name in ("why_not", "invariance"))


def test_a_kernel_that_loses_a_split_is_refused(
    lm: LM, short_splits: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(args: Any, _: Any) -> None:
        stats = args[1]
        stats[:, :, 1] = torch.tensor([-torch.inf, 0.0])

    monkeypatch.setattr(kernel, "merge_splits_kernel", Spy(kernel.merge_splits_kernel, lose))
    assert why_not(lm, "triton", LONGEST) == "a packed forward pass differs from its own"


def test_far_rows_that_see_their_batch_are_found(
    lm: LM, short_splits: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shift(args: Any, _: Any) -> None:
        """What a row gets from keys beyond one program's changes with its place in the step."""
        output, starts, context_lens = args[2:5]
        for sequence, context in enumerate(context_lens.tolist()):
            if context > SPLIT:
                output[int(starts[sequence + 1]) - 1] += 1e-3 * int(starts[sequence])

    monkeypatch.setattr(kernel, "merge_splits_kernel", Spy(kernel.merge_splits_kernel, after=shift))
    assert not is_batch_invariant(lm, "triton", [16], LONGEST)
    assert is_batch_invariant(lm, "triton", [16], SPLIT)  # no sequence is so long


def test_csrc_has_no_splits(lm: LM) -> None:
    """There a sequence of a few tokens shows what a long one does, in a fraction of the time."""
    assert split_size("csrc") is None
    assert split_size("triton") == 512


def test_the_longest_sequence(lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [longest_of(lm, given) for given in (None, 40, 600)] == [512, 40, 512]
    monkeypatch.setattr(LM, "max_context", None)
    assert [longest_of(lm, given) for given in (None, 40)] == [1 << 17, 40]


def test_steps_of_a_probe_meet_in_its_pool(lm: LM) -> None:
    first, second = paged.probe_steps(lm, "csrc", [(3, 0), (4, 20)], table_width=9)
    assert first.block_tables.shape == (2, 9)
    assert first.cache is second.cache
    assert second.positions.tolist() == [3, *range(20)]
    assert second.query_starts.tolist() == [0, 1, 21]
    assert second.context_lens.tolist() == [4, 20]
