"""What attention over a packed row costs away from csrc: calls, and what the way back writes."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from greater_fast.gradients.segments import Segment
from greater_fast.gradients.suffix_forward import computed_prefixes, packed
from greater_fast.model.cpu import attention as cpu_attention
from greater_fast.model.lm import LM
from tests.cases import tiny_lm


class Counted(TorchDispatchMode):
    """Calls of each operator, and the bytes that are filled with zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.zero_bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.calls[name] += 1
        if "zero" in name or name == "slice_backward":
            self.zero_bytes += output.numel() * output.element_size()
        return output


def gradient_counts(lm: LM, num_segments: int) -> Counted:
    """Of a forward and backward pass over segments of 6 tokens behind prefixes of 3."""
    contexts = [[(11 * k + i) % 1000 + 5 for i in range(3)] for k in range(num_segments)]
    prefixes = computed_prefixes(lm, contexts, [None] * num_segments)
    segments = [Segment(6, prefix, (2, 5)) for prefix in prefixes]
    leaf = lm.embed(torch.arange(5, 5 + 6 * num_segments)).detach().requires_grad_()
    with Counted() as counted, packed(lm, segments) as forward:
        torch.autograd.grad(forward(leaf).square().sum(), leaf)
    return counted


@pytest.fixture
def lm(monkeypatch: pytest.MonkeyPatch) -> LM:
    monkeypatch.setattr(cpu_attention, "takes", lambda _: False)
    return tiny_lm()


def test_the_way_back_writes_each_state_a_few_times_however_many_segments_there_are(lm: LM) -> None:
    few, many = gradient_counts(lm, 2), gradient_counts(lm, 16)
    assert many.calls["slice_backward"] == few.calls["slice_backward"]
    assert many.zero_bytes <= 8.5 * few.zero_bytes  # eight times the tokens


def test_torch_attends_once_for_a_segment_in_a_layer(
    lm: LM, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    own = functional.scaled_dot_product_attention
    monkeypatch.setattr(
        functional,
        "scaled_dot_product_attention",
        lambda *states, **options: calls.append(states[0].shape) or own(*states, **options),  # type: ignore[func-returns-value]
    )
    gradient_counts(lm, 5)
    prefixes_too = 5 * 1  # none in the last layer, where no row of a prefix is read
    assert len(calls) == 5 * lm.model.config.num_hidden_layers + prefixes_too
