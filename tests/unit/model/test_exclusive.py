"""One model in two threads: as one after the other, and left as it was found."""

import copy
import gc
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from transformers import LlamaForCausalLM

from greater_fast import evaluate, optimize
from greater_fast.api import plan
from greater_fast.model.exclusive import Locks, exclusive
from greater_fast.model.forwards import replaced_forwards
from greater_fast.model.lm import LM, load_lm
from tests.tiny import PROMPT, tiny_model


class State(NamedTuple):
    """What others see of a model."""

    attention: str
    forwards: list[str]
    hooks: int
    trained: bool
    training: bool
    settings: dict[str, Any]
    logits: list[float]


def state(model: Any) -> State:
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        logits = model(ids).logits[0, -1].tolist()
    modules = list(model.modules())
    return State(
        attention=model.config._attn_implementation,
        forwards=[type(m).__name__ for m in modules if "forward" in vars(m)],
        hooks=sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules),
        trained=any(p.requires_grad for p in model.parameters()),
        training=any(m.training for m in modules),
        settings=model.generation_config.to_dict(),
        logits=logits,
    )


def together(*calls: Callable[[], Any]) -> list[Any]:
    """Results of calls that start at the same time, one in each thread."""
    barrier = threading.Barrier(len(calls))

    def started(call: Callable[[], Any]) -> Any:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(started, call) for call in calls]]


@pytest.fixture
def source(tokenizer: Any) -> tuple[Any, Any]:
    return tiny_model("llama", len(tokenizer)), tokenizer


@pytest.mark.parametrize("engine", ["paged", "generate"])
def test_runs_of_one_model_in_threads_are_as_one_after_the_other(
    engine: str, source: Any, rows: list[Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    before = state(load_lm(source).model)
    config = {**settings, "engine": engine, "objective": "loss"}

    def search(name: str, seed: int) -> list[dict[str, Any]]:
        found = optimize(
            source, rows, prompt=PROMPT, config={**config, "seed": seed}, run_dir=tmp_path / name
        )
        return [{**step.to_dict(), "seconds": 0, "peak_memory_bytes": 0} for step in found.steps]

    def measure() -> dict[str, Any]:
        return evaluate(source, rows[:4], prompt=PROMPT, config=config).to_dict()

    def planned() -> int:
        return plan(source, rows, prompt=PROMPT, config=config).needed_bytes

    alone = [search("a", 0), search("b", 1), measure(), planned()]
    found = together(lambda: search("c", 0), lambda: search("d", 1), measure, planned)
    assert found == alone
    assert state(source[0]) == before


def test_different_models_in_threads_do_not_meet(
    tokenizer: Any, rows: list[Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    """What is the process's own (registered attention, filters of warnings) they share."""

    def search(family: str, name: str) -> list[float]:
        pair = (tiny_model(family, len(tokenizer)), tokenizer)
        config = {**settings, "objective": "loss"}
        found = optimize(pair, rows, prompt=PROMPT, config=config, run_dir=tmp_path / name)
        return [step.objective for step in found.steps]

    alone = [search("llama", "a"), search("gemma2", "b")]
    filters = list(warnings.filters)
    found = together(lambda: search("llama", "c"), lambda: search("gemma2", "d"))
    assert found == alone
    assert warnings.filters == filters


def test_another_module_around_the_same_model_waits_too(source: Any) -> None:
    model, tokenizer = source
    lm = load_lm(source)
    around = [load_lm(source), load_lm((LlamaForCausalLM(model.config), tokenizer))]
    assert all(other.lock is lm.lock for other in around)
    assert load_lm((copy.deepcopy(model), tokenizer)).lock is not lm.lock
    compiled = load_lm((torch.compile(model, backend="eager"), tokenizer))
    assert compiled.lock is lm.lock


def test_a_thread_waits_for_the_one_that_runs_the_model(own_lm: LM) -> None:
    class Engine:
        lm = own_lm
        inside = 0

        @exclusive
        def run(self, then: Callable[[], Any]) -> None:
            self.inside += 1
            assert self.inside == 1
            then()
            self.inside -= 1

        @exclusive
        def again(self) -> str:
            return "the thread that has it may take it again"

    engine = Engine()
    entered, leave = threading.Event(), threading.Event()

    def wait() -> None:
        entered.set()
        assert leave.wait(60)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(engine.run, wait)
        assert entered.wait(60)
        second = pool.submit(engine.run, lambda: None)
        assert not second.done()
        assert not own_lm.lock.acquire(blocking=False)
        leave.set()
        first.result(60)
        second.result(60)
    engine.run(lambda: None)
    assert own_lm.lock.acquire(blocking=False)
    assert engine.again()
    own_lm.lock.release()


class Interrupted(list[tuple[Any, Any]]):
    """Pairs at whose second reading Ctrl-C comes behind the first one."""

    num_read = 0

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        self.num_read += 1
        for pair in super().__iter__():
            yield pair
            if self.num_read == 2:
                raise KeyboardInterrupt


def test_replaced_forwards_go_back_however_far_they_came() -> None:
    one, other = torch.nn.Identity(), torch.nn.Identity()
    vars(other)["forward"] = own = torch.abs
    pairs = Interrupted([(one, torch.neg), (other, torch.neg)])
    with pytest.raises(KeyboardInterrupt), replaced_forwards(pairs):
        pass
    assert "forward" not in vars(one)
    assert vars(other)["forward"] is own


def test_a_lock_is_an_objects_own_and_goes_with_it() -> None:
    class Thing:
        __hash__ = None  # type: ignore[assignment]  # as configurations have none

    locks = Locks()
    one, other = Thing(), Thing()
    assert locks.of(one) is locks.of(one)
    assert locks.of(one) is not locks.of(other)
    assert len(locks._known) == 2
    del one
    gc.collect()
    assert len(locks._known) == 1


@pytest.mark.parametrize("engine", ["paged", "generate"])
def test_a_failure_leaves_the_model_as_it_was(
    engine: str, source: Any, rows: list[Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    """In every call of the model, one run after the other, until one is not interrupted."""
    model, _ = source
    before = state(load_lm(source).model)

    class LayerError(Exception):
        pass

    calls = left = 0

    def fail(*_: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise LayerError

    was_interrupted = True
    while was_interrupted:
        calls += max(1, calls // 2)
        left = calls
        hook = model.model.layers[1].register_forward_pre_hook(fail)
        try:
            optimize(
                *(source, rows),
                prompt=PROMPT,
                config={**settings, "engine": engine, "steps": 1, "objective": "loss"},
                run_dir=tmp_path / str(calls),
            )
        except (LayerError, ValueError):  # while the model is tried, it is said in words
            pass
        finally:
            hook.remove()
        assert state(model) == before
        was_interrupted = left <= 0
    assert calls > 4


def test_a_model_that_is_refused_is_as_it_was(tokenizer: Any) -> None:
    model = tiny_model("llama", len(tokenizer)).train()
    model.requires_grad_(True)
    model.model.norm.eval()
    model.model.norm.weight.requires_grad_(False)
    with torch.no_grad():
        model.model.embed_tokens.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="not finite"):
        load_lm((model, tokenizer))
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["model.norm.weight"]
    assert [n for n, m in model.named_modules() if not m.training] == ["model.norm"]
