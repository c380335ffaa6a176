"""cuDNN's attention is off wherever a model runs, and as it was found everywhere else."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.backends.cuda import cudnn_sdp_enabled, enable_cudnn_sdp
from torch.nn import functional

from greater_fast import evaluate, optimize
from greater_fast.gradients.gradient_pass import check_gradient
from greater_fast.model.attention.kernels import without_cudnn
from greater_fast.model.cpu import attention as cpu_attention
from greater_fast.model.lm import LM, load_lm
from greater_fast.rollouts.batch import RolloutEngine
from greater_fast.rollouts.plain import PlainRolloutEngine
from greater_fast.search.gradient import prompt_gradient
from greater_fast.search.nouns import Position
from tests.cases import layouts_of, made_up, small_config
from tests.tiny import PROMPT


@pytest.fixture
def own_lm(own_lm: LM) -> LM:
    """A model whose own attention is torch's, as that of most models."""
    own_lm.model.set_attn_implementation("sdpa")
    return own_lm


@pytest.fixture(autouse=True)
def enabled() -> Iterator[None]:
    """On, as torch has it, before and after."""
    enable_cudnn_sdp(True)
    yield
    assert cudnn_sdp_enabled()


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether cuDNN might have been taken at each call of torch's attention, forward or back."""
    found: list[bool] = []
    own = functional.scaled_dot_product_attention

    class Recorded(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, states: torch.Tensor) -> torch.Tensor:
            return states.view_as(states)

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            found.append(cudnn_sdp_enabled())
            return gradient

    def recorded(*arguments: Any, **named: Any) -> torch.Tensor:
        found.append(cudnn_sdp_enabled())
        return Recorded.apply(own(*arguments, **named))  # type: ignore[no-any-return,no-untyped-call]

    monkeypatch.setattr(functional, "scaled_dot_product_attention", recorded)
    monkeypatch.setattr(cpu_attention, "takes", lambda _: False)  # as on a GPU
    return found


def test_a_search_by_generate(
    seen: list[bool], own_lm: LM, rows: list[Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    config = {**settings, "engine": "generate", "objective": "loss"}
    optimize(own_lm, rows, prompt=PROMPT, config=config, run_dir=tmp_path)
    assert len(seen) > 100
    assert not any(seen)


def test_an_evaluation(seen: list[bool], own_lm: LM, rows: list[Any]) -> None:
    config = {"engine": "generate", "max_new_tokens": 4}
    evaluate(own_lm, rows[:2], prompt=PROMPT, config=config)
    assert seen
    assert not any(seen)


def test_what_is_tried_when_a_model_is_loaded(seen: list[bool], own_lm: LM) -> None:
    load_lm((own_lm.model, own_lm.tokenizer))
    assert seen
    assert not any(seen)


@pytest.mark.parametrize("make", [RolloutEngine, PlainRolloutEngine])
def test_what_is_tried_before_a_gradient(
    seen: list[bool], own_lm: LM, make: Callable[[LM], Any]
) -> None:
    engine = make(own_lm)
    seen.clear()  # `make_engine` is who keeps it off before
    check_gradient(engine)
    assert seen
    assert not any(seen)


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("checkpointing", ["on", "off"])
def test_a_gradient(seen: list[bool], own_lm: LM, packs: bool, checkpointing: str) -> None:
    engine = PlainRolloutEngine(own_lm)
    engine.can_pack = packs
    layouts = layouts_of(own_lm, 2)
    config = small_config(gradient_checkpointing=checkpointing)
    position = Position(0, 3, layouts.prompt_ids)
    seen.clear()
    prompt_gradient(engine, layouts, [made_up(False)] * 2, position, config)
    assert len(seen) >= 2 * own_lm.model.config.num_hidden_layers
    assert not any(seen)


def test_it_stays_off_until_the_last_thread_leaves() -> None:
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with without_cudnn():
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=other)
    with without_cudnn():
        thread.start()
        assert inside.wait(60)
    assert not cudnn_sdp_enabled()
    leave.set()
    thread.join(60)
    assert cudnn_sdp_enabled()


def test_it_is_as_it_was_found_whatever_happens() -> None:
    with pytest.raises(KeyboardInterrupt), without_cudnn(), without_cudnn():
        raise KeyboardInterrupt
    assert cudnn_sdp_enabled()
    enable_cudnn_sdp(False)
    with without_cudnn():
        assert not cudnn_sdp_enabled()
    assert not cudnn_sdp_enabled()
    enable_cudnn_sdp(True)
