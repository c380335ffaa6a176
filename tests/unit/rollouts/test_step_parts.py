"""What a step is made of beside the model: arrays, sizes, places, the choice of who attends."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from greater_fast.config import KV_CACHE_BYTES, Config
from greater_fast.model import kv_cache
from greater_fast.model.checks import UnsupportedModelError
from greater_fast.model.kv_cache import default_pool_bytes
from greater_fast.model.lm import LM, load_lm
from greater_fast.rollouts import batch as rollout
from greater_fast.rollouts import paged
from greater_fast.rollouts.attention_backends import choose_backend
from greater_fast.rollouts.batch import RolloutEngine
from greater_fast.rollouts.choose import make_engine
from greater_fast.rollouts.invariance import is_batch_invariant
from greater_fast.rollouts.steps.row_reader import RowReader
from greater_fast.rollouts.steps.step_buffers import StepBuffers, step_shapes
from tests.tiny import tiny_model

CPU = torch.device("cpu")


def test_step_arrays_are_one_allocation() -> None:
    shapes = step_shapes(5, 3)
    buffers = StepBuffers(shapes, CPU)
    assert {name: a.shape for name, a in buffers.host.items()} == shapes
    first = min(tensor.data_ptr() for tensor in buffers.device.values())
    for number, (name, array) in enumerate(buffers.host.items()):
        array[...] = number
        assert array.dtype == np.int32
        assert buffers.device[name].data_ptr() == array.ctypes.data
        assert (array.ctypes.data - first) % 16 == 0
    buffers.upload(wait=False)
    for number, tensor in enumerate(buffers.device.values()):  # no array lies in another
        assert (tensor == number).all()


def test_the_pool_takes_two_thirds_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_pool_bytes(CPU) == KV_CACHE_BYTES
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(kv_cache, "free_bytes", lambda _: 9 << 30)
    assert default_pool_bytes(torch.device("cuda")) == 6 << 30


def test_rows_keep_their_bits_in_any_step(lm: LM, own_lm: LM) -> None:
    for sizes in ([1], [16], [16, 40, 64]):
        assert is_batch_invariant(lm, "csrc", sizes)
    assert is_batch_invariant(lm, "csrc", [64], 16)  # what stands beside it is no longer either
    assert not is_batch_invariant(lm, "reference", [16])
    layer = own_lm.model.model.layers[0].self_attn
    plain = layer.forward

    def sees_the_batch(*args: Any, **kwargs: Any) -> Any:
        output, weights = plain(*args, **kwargs)
        return output + 1e-3 * kwargs["hidden_states"].mean(1, keepdim=True), weights

    layer.forward = sees_the_batch
    assert not is_batch_invariant(own_lm, "csrc", [16])
    assert not is_batch_invariant(own_lm, "csrc", [16, 40])


def test_the_engine_says_what_it_is(lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(max_step_tokens=32, kv_cache_bytes=1 << 20)
    made, note = make_engine(lm, config)
    assert isinstance(made, RolloutEngine)
    assert (made.max_tokens, made.batch_invariant, note) == (32, True, "engine: paged")
    monkeypatch.setattr(rollout, "is_batch_invariant", lambda *_: False)
    made, note = make_engine(lm, config)
    assert isinstance(made, RolloutEngine)
    assert not made.batch_invariant
    assert note.startswith("engine: paged; a row's bits depend on what is computed beside it")


def test_sequences_may_be_limited(lm: LM) -> None:
    engine = RolloutEngine(lm, kv_cache_bytes=1 << 20, longest_sequence=33)
    assert engine.max_sequence_tokens == 48
    good = rollout.RolloutRequest(tuple(range(3, 40)), 11, lm.end_ids)
    assert engine.run([good]) == RolloutEngine(lm, kv_cache_bytes=1 << 20).run([good])
    with pytest.raises(ValueError, match="49 tokens does not fit a table of 3 blocks"):
        engine.run([rollout.RolloutRequest(tuple(range(3, 40)), 12, lm.end_ids)])


class Far(torch.Tensor):
    """A tensor on a GPU, as numpy sees it."""

    def __array__(self, *_: Any) -> Any:
        raise TypeError("its memory is not the host's")

    def cpu(self) -> torch.Tensor:  # type: ignore[override]
        return self.as_subclass(torch.Tensor)


def test_answers_are_handed_over_to_the_host(lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = RolloutEngine(lm, kv_cache_bytes=1 << 20, kernels="reference")
    asked = [rollout.RolloutRequest((5, 6, 7), 3, lm.end_ids, target_ids=(8,), num_scored=1)]
    expected, read = engine.run(asked), RowReader.read
    monkeypatch.setattr(
        RowReader, "read", lambda *given: tuple(x.as_subclass(Far) for x in read(*given))
    )
    assert engine.run(asked) == expected


def test_who_attends(lm: LM, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    double = load_lm((tiny_model("llama", len(tokenizer), dtype=torch.float64), tokenizer))
    assert (choose_backend(lm), choose_backend(lm, "triton")) == ("csrc", "triton")
    assert choose_backend(double) == "csrc"
    assert choose_backend(double, "reference") == "reference"
    with pytest.raises(ValueError, match="kernels: got 'csrc', expected one of auto, triton, refe"):
        choose_backend(lm, "csrc")
    with pytest.raises(ValueError, match=r"no paged attention for torch.float64 on cpu"):
        choose_backend(double, "triton")
    with monkeypatch.context() as patch:
        patch.setattr("triton.knobs.runtime.interpret", False)
        text = "kernels='triton' there is no paged attention: got tensors on cpu, expected a GPU"
        with pytest.raises(ValueError, match=text):
            choose_backend(lm, "triton")
    with monkeypatch.context() as patch:
        patch.setattr(LM, "device", torch.device("mps"))
        assert choose_backend(lm, "reference") == "reference"
        with pytest.raises(ValueError, match=r"no paged attention for torch.float32 on mps"):
            choose_backend(lm)
    monkeypatch.setattr(LM, "device", torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 9))
    monkeypatch.setattr("greater_fast.kernels.trial.build_obstacle", lambda _: None)
    assert choose_backend(lm) == "triton"
    assert choose_backend(lm, "reference") == "reference"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    with pytest.raises(ValueError, match=r"compute capability \(7, 5\)"):
        choose_backend(lm)
    monkeypatch.setattr(torch.version, "hip", "7.0")
    waves_of_32 = SimpleNamespace(warp_size=32)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: waves_of_32)
    with pytest.raises(UnsupportedModelError, match="an AMD GPU with waves of 32"):
        choose_backend(lm)
    assert choose_backend(lm, "triton") == "triton"


@pytest.mark.parametrize("fixed", [True, False])
def test_a_plan_has_been_sent_before_the_next_is_written(lm: LM, fixed: bool) -> None:
    """A fixed step ends with its results; another may end without any, and waits beforehand."""
    engine = RolloutEngine(lm, kv_cache_bytes=1 << 20, max_tokens=16, fixed=fixed)
    buffers: Any = engine._model_step._buffers
    waited: list[bool] = []

    class OnGPU:
        def copy_(self, _: torch.Tensor, non_blocking: bool) -> None:
            waited.append(not non_blocking)

    buffers._received = OnGPU()
    engine.run([rollout.RolloutRequest(tuple(range(3, 40)), 2, lm.end_ids)])
    assert set(waited) == {not fixed}


def test_a_probe_fills_blocks_of_its_own(lm: LM) -> None:
    (plan,) = paged.probe_steps(lm, "csrc", [(17, 2, 16)])
    slots = plan.slots.tolist()
    assert len(set(slots)) == 35
    assert min(slots) >= 16  # block 0 is for padding
    assert plan.block_tables.tolist() == [[1, 2], [3, 0], [4, 0]]
    assert plan.query_starts.tolist() == [0, 17, 19, 35]
