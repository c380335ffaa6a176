"""The step as a GPU runs it: Triton attention, fixed shape. Interpreted where there is no GPU."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from greater_fast.engine import RolloutRequest
from greater_fast.model.lm import LM, load_lm
from greater_fast.rollouts.batch import RolloutEngine
from tests.parity.test_rollout_engine import check, tiny_lm
from tests.tiny import tiny_model, tiny_tokenizer

# What a captured step cannot do: wait for numbers, for shapes, or for a copy of a host's scalar.
FORBIDDEN = {"_local_scalar_dense", "item", "nonzero", "masked_select", "scalar_tensor", "unique"}


def requests(lm: LM) -> list[RolloutRequest]:
    """Two prompts that part inside a block, behind a head of more than one block."""
    head = tuple(range(20, 41))
    return [
        RolloutRequest(
            prompt_ids=(*head, own, 50, 51),
            max_new_tokens=4,
            end_ids=lm.end_ids,
            prompt_span=(len(head), len(head) + 2),
            target_ids=(7, 8, 9),
            num_scored=2,
        )
        for own in (60, 61)
    ]


def make(lm: LM, **options: Any) -> RolloutEngine:
    given = {"kv_cache_bytes": 1 << 18, "poisoned": True, "temperature": 0.2, "max_tokens": 16}
    return RolloutEngine(lm, **given | options)


def fixed_triton(lm: LM, **options: Any) -> RolloutEngine:
    return make(lm, kernels="triton", fixed=True, **options)


@pytest.mark.parametrize(("family", "kind"), [("llama", "llama3"), ("gemma2", "sentencepiece")])
def test_equals_attention_by_csrc(family: str, kind: str) -> None:
    lm = tiny_lm(family, kind)
    asked = requests(lm)
    engine = fixed_triton(lm)
    found = engine.run(asked)
    check(found, make(lm).run(asked))
    assert engine.batch_invariant
    assert engine.statistics["shared_tokens"] == 16
    assert engine.run(asked[1:]) == found[1:]  # alone, from stored prefixes: to the bit
    assert engine.statistics["shared_tokens"] > 32  # a block, and part of another by copy
    engine.check_integrity()


def test_sampled_text_is_that_of_csrc() -> None:
    """With noise from the kernel that reads the rows; scores are those without it."""
    lm = tiny_lm("llama", "llama3")
    asked = [replace(r, sample_key=key) for key, r in enumerate(requests(lm))]
    sampling = {"sampling_temperature": 1.5, "seed": 3}
    found = fixed_triton(lm, **sampling).run(asked)
    check(found, make(lm, **sampling).run(asked))
    assert [r and r.reasoning_ids for r in found] != [
        r and r.reasoning_ids for r in make(lm).run(asked)
    ]


def test_weights_of_16_bits() -> None:
    """The model is accepted, and its logits behind two contexts are its own."""
    tokenizer = tiny_tokenizer("llama3")
    lm = load_lm((tiny_model("llama", len(tokenizer), torch.bfloat16), tokenizer))
    contexts = [tuple(range(3, 3 + length)) for length in (2, 21)]
    found = fixed_triton(lm).next_logits(contexts)
    with torch.inference_mode():
        own = torch.cat([lm.model(torch.tensor([ids])).logits[0, -1:] for ids in contexts])
    assert ((found - own).norm(dim=-1) < 0.03 * own.norm(dim=-1)).all()


class Recorder(TorchDispatchMode):
    """Names of the operations that run within."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **kwargs or {})


@pytest.mark.parametrize(
    ("family", "kind"),
    [("llama", "llama3"), ("gemma2", "sentencepiece"), ("gemma3", "sentencepiece")],
)
def test_a_fixed_step_never_waits(family: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a CUDA graph is captured from; attention and its copies are kernels of their own."""
    lm = tiny_lm(family, kind)
    engine = make(lm, fixed=True, sampling_temperature=1.0)
    step: Any = engine._model_step
    engine.run(requests(lm)[:1])
    without_copies: Callable[..., None] = lambda *_: None  # noqa: E731
    monkeypatch.setattr(step._plan.cache, "copy", without_copies)
    pairs = step._arrays["copies"]
    monkeypatch.setitem(step._arrays, "copies", pairs[:0])
    with Recorder() as recorder, engine._own_layers():
        step._launch()
    assert "argmax" in recorder.names
    assert not recorder.names & FORBIDDEN


@pytest.mark.filterwarnings("ignore:All-NaN|invalid value:RuntimeWarning")
def test_no_token_is_written_from_logits_that_are_not_finite(own_lm: LM) -> None:
    own_lm.model.model.embed_tokens.weight.data[60] = torch.nan
    asked = [replace(request, target_ids=(), num_scored=0) for request in requests(own_lm)]
    with pytest.raises(FloatingPointError, match="logits of example 0 are not finite"):
        fixed_triton(own_lm).run(asked)
