"""How a step of fixed shape reads its rows: by a kernel that stores no logits, or from logits."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from greater_fast.kernels.vocabulary import target_logprob as kernels
from greater_fast.model.kv_cache import KVCache
from greater_fast.model.lm import LM, load_lm
from greater_fast.rollouts.batch import RolloutEngine
from greater_fast.rollouts.sampling import Sampler
from greater_fast.rollouts.steps import fixed_step
from greater_fast.rollouts.steps.fixed_step import FixedStep
from greater_fast.rollouts.steps.row_reader import RowReader
from greater_fast.rollouts.steps.step_buffers import StepBuffers, step_shapes
from tests.tiny import tiny_model, tiny_tokenizer

NUM_SLOTS = 24
INTERPRETED = pytest.mark.skipif(
    torch.cuda.is_available(), reason="no interpreter where there is a GPU"
)


def tiny_lm(family: str) -> LM:
    tokenizer = tiny_tokenizer("sentencepiece" if family == "gemma2" else "llama3")
    return load_lm((tiny_model(family, len(tokenizer)), tokenizer))


def filled_step(lm: LM, sampler: Sampler | None) -> FixedStep:
    """A step of which only the reading is left: states, and rows that ask for all there is."""
    buffers = StepBuffers(step_shapes(NUM_SLOTS, 1), lm.device)
    reader = RowReader(0.3, sampler, lm.device)
    step: Any = FixedStep(lm, KVCache(lm, 2), buffers, "triton", reader)
    generator = torch.Generator().manual_seed(0)
    step._hidden = torch.randn(NUM_SLOTS, 48, generator=generator)
    rows, numbers = buffers.host, np.arange(NUM_SLOTS)
    rows["logit_rows"][:] = numbers[::-1] // 2  # some twice, as rows of padding are
    rows["targets"][:] = np.where(numbers % 4 == 1, -1, 31 * numbers)
    rows["target_kinds"][:] = numbers % 3 == 0
    rows["sample_places"][:] = np.where(numbers % 5 == 2, -1, numbers)
    rows["sample_keys"][:] = (2**33 + 5 * numbers)[:, None].view(np.int32)
    return step  # type: ignore[no-any-return]


@INTERPRETED
@pytest.mark.parametrize("sampler", [None, Sampler(1.5, seed=2**35)], ids=["greedy", "sampled"])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_rows_are_read_as_from_logits(
    family: str, sampler: Sampler | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the number of rows that would have been read at a time."""
    lm = tiny_lm(family)
    monkeypatch.setattr(fixed_step, "LOGIT_FLOATS", 10 * lm.vocab_size)
    step: Any = filled_step(lm, sampler)
    assert len(step._chunks()) == 3
    with torch.inference_mode():
        for rows in step._chunks():
            step._read(rows)
        expected = step._results.clone()
        step._results.fill_(-7)
        monkeypatch.setattr(LM, "logits", lambda *_: pytest.fail("logits were made"))
        step._read_states(step._head)
    found = step._results
    assert torch.equal(found[0], expected[0])
    logprobs, known = found[1].view(torch.float32), expected[1].view(torch.float32)
    torch.testing.assert_close(logprobs, known, rtol=1e-4, atol=1e-4)
    unknown = step._arrays["targets"] < 0
    assert (logprobs[unknown] == 0).all()
    assert (logprobs[~unknown] < 0).all()
    if sampler is None:
        assert (found[2] == -7).all()
        return
    assert torch.equal(found[2], expected[2])
    placed = step._arrays["sample_places"] >= 0
    assert (found[2][~placed] == 0).all()
    assert (found[2] != found[0])[placed].any()


@INTERPRETED
def test_rows_are_read_without_a_place_in_the_batch() -> None:
    """To the bit: a row says the same in a step of another number of slots."""
    lm = tiny_lm("llama")
    whole: Any = filled_step(lm, Sampler(1.5, seed=3))
    whole._read_states(whole._head)
    buffers = StepBuffers(step_shapes(3, 1), lm.device)
    few: Any = FixedStep(lm, KVCache(lm, 2), buffers, "triton", whole._reader)
    few._hidden = whole._hidden
    for name, tensor in buffers.device.items():
        if name not in ("query_starts", "block_tables"):
            tensor.copy_(whole._arrays[name][7:10])
    few._read_states(few._head)
    assert torch.equal(few._results, whole._results[:, 7:10])


class Recorder(TorchDispatchMode):
    """Names of the operations that run within, and the most numbers that one of them made."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **kwargs or {})
        self.names.append(func.overloadpacket.__name__)
        if isinstance(found, torch.Tensor) and not func.is_view:
            self.most = max(self.most, found.numel())
        return found


class Nothing:
    """A kernel that is launched and does nothing."""

    def __init__(self) -> None:
        self.grids: list[tuple[int, ...]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        self.grids.append(grid)
        return lambda *_, **__: None


@INTERPRETED
@pytest.mark.parametrize("sampler", [None, Sampler(1.5, seed=3)], ids=["greedy", "sampled"])
def test_a_step_stores_no_logits_and_waits_for_nothing(
    sampler: Sampler | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm, (partial, merge) = tiny_lm("llama"), (Nothing(), Nothing())
    step: Any = filled_step(lm, sampler)
    step._read_states(step._head)
    monkeypatch.setattr(kernels, "partial_logsumexp_kernel", partial)
    monkeypatch.setattr(kernels, "merge_logsumexp_kernel", merge)
    with Recorder() as recorder, torch.inference_mode():
        step._read_states(step._head)
    assert recorder.most == NUM_SLOTS * 48  # the states that are asked for
    assert len(partial.grids) == len(merge.grids) == 1  # one reading of the head
    waiting = {"_local_scalar_dense", "item", "nonzero", "masked_select", "scalar_tensor", "unique"}
    assert not waiting & set(recorder.names)


@INTERPRETED
def test_who_reads_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel does where Triton attends and the head is one matrix."""
    lm = tiny_lm("llama")
    buffers, reader = StepBuffers(step_shapes(16, 1), lm.device), RowReader(1.0, None, lm.device)

    def head_of(lm: LM, backend: str) -> Any:
        step: Any = FixedStep(lm, KVCache(lm, 2), buffers, backend, reader)
        return step._head

    assert head_of(lm, "triton") is lm.head
    assert head_of(lm, "csrc") is None
    assert head_of(lm, "reference") is None
    monkeypatch.setitem(lm.__dict__, "head", None)
    assert head_of(lm, "triton") is None


@pytest.mark.parametrize("fixed", [True, False], ids=["fixed", "ragged"])
def test_next_logits_keep_what_was_asked_for_alone(
    fixed: bool, lm: LM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of steps of 64 rows, in which one context ends, or a few."""
    engine = RolloutEngine(lm, kv_cache_bytes=1 << 20, max_tokens=64, fixed=fixed)
    contexts = [tuple(range(3 + n, 40 + n)) for n in range(5)]
    kept: list[torch.Tensor] = []
    made: list[int] = []
    step: Any = engine._model_step
    own, own_logits = step.logits, LM.logits

    def keep(num_rows: int) -> torch.Tensor:
        monkeypatch.setattr(LM, "logits", counted)
        kept.append(own(num_rows))
        monkeypatch.setattr(LM, "logits", own_logits)
        return kept[-1]

    def counted(self: LM, hidden: torch.Tensor) -> torch.Tensor:
        made.append(len(hidden))
        return own_logits(self, hidden)

    monkeypatch.setattr(step, "logits", keep)
    found = engine.next_logits(contexts)
    assert len(kept) > 2
    assert sum(logits.untyped_storage().nbytes() for logits in kept) == 4 * found.numel()
    assert max(made) <= 16
    for ids, logits in zip(contexts, found, strict=True):
        with torch.inference_mode():
            expected = lm.logits(lm.hidden(input_ids=torch.tensor([ids]))[0, -1:])
        torch.testing.assert_close(logits[None], expected, rtol=1e-4, atol=1e-4)


def test_more_contexts_than_are_read_at_a_time(lm: LM) -> None:
    """The bits of each are those it has alone."""
    contexts = [(3 + n, 5, 6) for n in range(20)]
    engine = RolloutEngine(lm, kv_cache_bytes=1 << 20, max_tokens=64, fixed=True)
    together = engine.next_logits(contexts)
    for number in (0, 15, 16, 19):
        assert torch.equal(engine.next_logits([contexts[number]])[0], together[number])
    assert engine.next_logits(contexts[:1]).shape == (1, lm.vocab_size)
