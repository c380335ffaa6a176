"""Which engine runs, what it refuses, and that a refusal leaves nothing behind."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from greater_fast import optimize
from greater_fast.config import Config
from greater_fast.engine import RolloutRequest
from greater_fast.model.checks import UnsupportedModelError
from greater_fast.model.lm import LM, load_lm
from greater_fast.rollouts import attention_backends, choose, paged
from greater_fast.rollouts.batch import RolloutEngine
from greater_fast.rollouts.choose import make_engine
from greater_fast.rollouts.paged import why_not
from greater_fast.rollouts.plain import PlainRolloutEngine
from tests.tiny import PROMPT, tiny_model
from tests.unit.model.attention.test_far_attention import zoo_lm


def half(tokenizer: Any) -> LM:
    return load_lm((tiny_model("llama", len(tokenizer), dtype=torch.bfloat16), tokenizer))


@pytest.mark.parametrize(("engine", "kind"), [("auto", "paged"), ("paged", "paged")])
def test_the_paged_engine_is_taken_where_it_runs(lm: LM, engine: str, kind: str) -> None:
    made, note = make_engine(lm, Config(engine=engine))
    assert isinstance(made, RolloutEngine)
    assert note == f"engine: {kind}"


@pytest.mark.parametrize("engine", ["paged", "generate"])
def test_sampling_is_as_configured(lm: LM, engine: str) -> None:
    request = RolloutRequest(tuple(range(5, 25)), 20, frozenset({4}), sample_key=2)
    sampled = {
        seed: make_engine(lm, Config(engine=engine, sampling_temperature=1.0, seed=seed))[0]
        for seed in (0, 7)
    }
    (expected,) = RolloutEngine(lm, sampling_temperature=1.0, seed=7).run([request])
    assert expected is not None
    found = {seed: made.run([request])[0] for seed, made in sampled.items()}
    assert found[7] is not None
    assert found[7].reasoning_ids == expected.reasoning_ids
    assert found[0] != found[7]


def test_auto_falls_back_and_says_why(tokenizer: Any) -> None:
    made, note = make_engine(half(tokenizer), Config())
    assert isinstance(made, PlainRolloutEngine)
    assert note.startswith("engine: generate (")
    assert "no paged attention for torch.bfloat16 on cpu" in note


def test_the_fallback_is_said_before_it_runs(
    tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    make_engine(half(tokenizer), Config(engine="generate"))
    assert not caplog.records
    _, note = make_engine(half(tokenizer), Config())
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [("WARNING", note)]


def test_a_fallback_in_a_models_own_words_is_logged_fit_to_be_seen(
    lm: LM, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise UnsupportedModelError("it said \x1b[2J")

    monkeypatch.setattr(choose, "RolloutEngine", refuse)
    make_engine(lm, Config())
    (line,) = caplog.messages
    assert "it said \\x1b[2J" in line


@pytest.mark.parametrize("engine", ["auto", "paged"])
def test_a_pool_that_cannot_be_had_is_refused(lm: LM, engine: str) -> None:
    """No slow engine stands in: it is the setting that asks for too much, not the model."""
    with pytest.raises(ValueError, match=r"kv_cache_bytes: a K/V pool of \d+\.\d\d GiB is"):
        make_engine(lm, Config(engine=engine, kv_cache_bytes=1 << 50))


@pytest.mark.parametrize("end", [torch.OutOfMemoryError, MemoryError])
def test_memory_that_ends_while_the_engine_is_made(
    lm: LM, end: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise end

    for part in ("StepBuffers", "is_batch_invariant"):
        monkeypatch.setattr(f"greater_fast.rollouts.batch.{part}", fail)
        with pytest.raises(ValueError, match="does not fit the memory of cpu: lower kv_cache_byt"):
            make_engine(lm, Config())
        monkeypatch.undo()


def test_memory_that_ends_while_the_model_is_tried(lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        torch.empty(1 << 60, dtype=torch.uint8)

    monkeypatch.setattr("greater_fast.rollouts.paged.forward", fail)
    with pytest.raises(ValueError, match="the engine does not fit the memory of cpu: lower kv"):
        make_engine(lm, Config())


def test_the_engine_that_was_named_is_not_replaced(tokenizer: Any, lm: LM) -> None:
    with pytest.raises(ValueError, match=r"no paged attention .*; use engine='generate'"):
        make_engine(half(tokenizer), Config(engine="paged"))
    made, note = make_engine(lm, Config(engine="generate"))
    assert isinstance(made, PlainRolloutEngine)
    assert note == "engine: generate"


@pytest.mark.parametrize("kernels", ["auto", "reference", "triton"])
def test_the_setting_chooses_who_attends(
    lm: LM, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    for name, own in list(attention_backends._BACKENDS.items()):

        def attend(*given: Any, name: str = name, own: Any = own) -> torch.Tensor:
            asked.append(name)
            found: torch.Tensor = own.attend(*given)
            return found

        monkeypatch.setitem(attention_backends._BACKENDS, name, own._replace(attend=attend))
    made, note = make_engine(
        lm, Config(kernels=kernels, max_step_tokens=16, kv_cache_bytes=1 << 18)
    )
    assert isinstance(made, RolloutEngine)
    assert set(asked) == {"csrc" if kernels == "auto" else kernels}
    assert ("a row's bits depend" in note) == (kernels == "reference")
    assert ("layers in Triton: norms 5 of 5, MLPs 2 of 2" in note) == (kernels == "triton")


@pytest.mark.parametrize("engine", ["auto", "paged", "generate"])
def test_kernels_that_are_forced_and_cannot_run_are_refused(
    lm: LM, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything runs, and no engine stands in."""
    monkeypatch.setattr("triton.knobs.runtime.interpret", False)
    text = r"kernels='triton' cannot be used here: got tensors on \w+, expected a GPU; use kernels="
    with pytest.raises(ValueError, match=text):
        make_engine(lm, Config(engine=engine, kernels="triton"))


def test_models_that_would_go_wrong_are_refused(tokenizer: Any) -> None:
    dynamic = load_lm((tiny_model("llama", len(tokenizer)), tokenizer))
    dynamic.model.config.rope_parameters = {
        "rope_type": "dynamic",
        "rope_theta": 1e4,
        "factor": 2.0,
    }
    assert "rotary embedding depends on the length" in str(why_not(dynamic, "csrc"))

    calls_nothing = load_lm((tiny_model("llama", len(tokenizer)), tokenizer))
    layer = calls_nothing.model.model.layers[1].self_attn
    layer.forward = lambda hidden_states, **_: (hidden_states, None)
    assert why_not(calls_nothing, "csrc") == "1 of its 2 layers use the attention interface"

    sinks = load_lm((tiny_model("llama", len(tokenizer)), tokenizer))
    plain = sinks.model.model.layers[0].self_attn.forward
    sinks.model.model.layers[0].self_attn.forward = lambda *a, **k: plain(*a, **k, s_aux=1.0)
    assert why_not(sinks, "csrc") == "its attention takes what is not understood here: s_aux"

    other = load_lm((tiny_model("llama", len(tokenizer)), tokenizer))
    own = other.model.model.layers[0].self_attn.forward

    def sees_the_batch(*args: Any, **kwargs: Any) -> Any:
        output, weights = own(*args, **kwargs)
        return output + kwargs["hidden_states"].mean(1, keepdim=True), weights

    other.model.model.layers[0].self_attn.forward = sees_the_batch
    assert why_not(other, "csrc") == "a packed forward pass differs from its own"

    fails = load_lm((tiny_model("llama", len(tokenizer)), tokenizer))
    nothing: Any = None
    fails.model.model.layers[0].self_attn.forward = lambda *_, **__: nothing.to(1)
    assert why_not(fails, "csrc") == (
        "its forward pass of packed tokens ends in AttributeError: 'NoneType' object has no "
        "attribute 'to'"
    )


def test_a_state_between_steps_is_refused(own_lm: LM) -> None:
    """A layer that reads the token before: right in one step, where nothing is kept for the next.

    It knows where a sequence starts, so that whole sequences packed into one step come out right.
    """
    attention = own_lm.model.model.layers[0].self_attn
    own = attention.forward

    def shifted(hidden_states: torch.Tensor, position_ids: Any = None, **options: Any) -> Any:
        before = torch.nn.functional.pad(hidden_states, (0, 0, 1, 0))[:, :-1]
        if position_ids is not None:
            before = before * (position_ids[..., None] > 0)
        return own(hidden_states=hidden_states + before, position_ids=position_ids, **options)

    attention.forward = shifted
    (plan,) = paged.probe_steps(own_lm, "csrc", [(3, 20)])
    for ids, states in zip(
        plan.tokens.split([3, 20]), paged.forward(own_lm, plan).split([3, 20]), strict=True
    ):
        with torch.no_grad():
            whole = own_lm.hidden(input_ids=ids.long()[None])[0]
        torch.testing.assert_close(states, whole, rtol=1e-3, atol=1e-3)
    assert why_not(own_lm, "csrc") == "a packed forward pass differs from its own"


def test_layers_that_attend_twice_under_one_index_are_refused(own_lm: LM) -> None:
    own_lm.model.model.layers[1].self_attn.layer_idx = 0
    assert why_not(own_lm, "csrc") == (
        "its layers attend more than once each, where a pool holds the keys of one time"
    )


def test_what_only_far_tokens_show_is_refused_if_they_are_reached() -> None:
    lm = zoo_lm("phimoe")
    assert "at token 42 the mask of layer 0" in str(why_not(lm, "csrc"))
    assert "at token 42 the mask of layer 0" in str(why_not(lm, "csrc", 100))
    assert why_not(lm, "csrc", 40) is None


def test_a_pool_too_small_says_what_it_needs(
    lm: LM, rows: list[Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    config = {**settings, "kv_cache_bytes": 1}
    with pytest.raises(ValueError, match=r"kv_cache_bytes: .* give it (\d+) at least") as caught:
        optimize(lm, rows, config=config, prompt=PROMPT, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    needed = int(str(caught.value).split("give it ")[1].split()[0])
    config = {**settings, "steps": 0, "kv_cache_bytes": needed}
    optimize(lm, rows, config=config, prompt=PROMPT, run_dir=tmp_path / "run")


def test_a_refused_engine_leaves_no_run_behind(
    tokenizer: Any, rows: list[Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    config = {**settings, "engine": "paged"}
    with pytest.raises(ValueError, match="cannot use the rollout engine"):
        optimize(half(tokenizer), rows, config=config, prompt=PROMPT, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_device_that_is_not_there_is_refused(model_folder: Path) -> None:
    for device in ("gpu", "cuda:99"):
        with pytest.raises(ValueError, match=f"device: got '{device}', which is not to be had"):
            load_lm(str(model_folder), device=device)


@pytest.mark.parametrize("engine", ["auto", "generate"])
def test_a_row_that_just_fits_is_searched_and_measured(
    lm: LM, rows: list[Any], settings: dict[str, Any], tmp_path: Path, engine: str
) -> None:
    """The finals generate answers longer than the gold ones: there is room for that too."""
    given = {**settings, "steps": 0, "max_prompt_tokens": 17, "engine": engine, "num_dev": 2}
    words = 400
    while True:
        long = {"question": "very " * words + "long?", "answer": "True"}
        try:
            found = optimize(
                *(lm, rows[:4], [rows[5], long]),
                prompt=PROMPT,
                config=given,
                run_dir=tmp_path / f"run{words}",
            )
        except ValueError as error:
            assert "do not fit the context" in str(error)  # noqa: PT017
            words -= 1
            continue
        break
    assert found.dev_accuracy is not None


def test_requests_that_cannot_run_leave_the_engine_usable(lm: LM) -> None:
    engine = RolloutEngine(lm, kv_cache_bytes=4 * RolloutEngine(lm, kv_cache_bytes=1).block_bytes)
    good = RolloutRequest((3, 4, 5), 4, lm.end_ids)
    expected = engine.run([good])
    for bad, message in (
        ({"prompt_ids": tuple(range(3, 90))}, "request 1: .* raise kv_cache_bytes"),
        ({"prompt_ids": (3, -1)}, "request 1: prompt_ids holds the id -1"),
        ({"prompt_span": (2, 9)}, "request 1: prompt span"),
    ):
        with pytest.raises(ValueError, match=message):
            engine.run([good, dataclasses.replace(good, **bad)])
        engine.check_integrity()
        assert engine.run([good]) == expected

    def fail(number: int, rollout: object) -> list[int]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.run([good, good], fail)
    assert engine.run([good]) == expected


def test_groups_that_are_dropped_are_run_no_further(lm: LM) -> None:
    engine = RolloutEngine(lm)
    asked = [
        RolloutRequest((3, 4, 5 + i), 1 if group == 0 else 20, frozenset(), group=group)
        for group in (0, 1)
        for i in range(3)
    ]
    found = engine.run(asked, lambda number, _: [1] if number < 3 else [])
    assert all(found[:3])
    assert found[3:] == [None] * 3
    engine.check_integrity()


def test_the_same_bits_whatever_else_is_in_the_batch(lm: LM) -> None:
    """Alone, together, from stored prefixes, with drafts and in a fixed step: equal to the bit."""
    asked = [
        RolloutRequest(
            prompt_ids=(*range(3, 3 + length), 40, 41),
            max_new_tokens=12,
            end_ids=lm.end_ids,
            prompt_span=(length, length + 2),
            target_ids=(7, 8, 9),
            num_scored=2,
        )
        for length in (2, 9, 17, 18, 33)
    ]
    together = RolloutEngine(lm, temperature=0.2, poisoned=True, kv_cache_bytes=1 << 24)
    expected = together.run(asked)
    assert together.run(asked) == expected
    assert [RolloutEngine(lm, temperature=0.2).run([one])[0] for one in asked] == expected
    drafted = [
        dataclasses.replace(r, draft_ids=e.reasoning_ids)
        for r, e in zip(asked, expected, strict=True)
        if e
    ]
    assert RolloutEngine(lm, temperature=0.2, draft_tokens=64).run(drafted) == expected
    assert RolloutEngine(lm, temperature=0.2, max_tokens=32, fixed=True).run(asked) == expected


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("None", "import of greater_fast._core halted; None in sys.modules"),
        ("types.ModuleType('greater_fast._core')", "cannot import name 'Scheduler' from"),
    ],
)
def test_an_extension_that_cannot_be_imported_says_why_and_how_to_build_it(
    module: str, reason: str
) -> None:
    code = (
        f"import sys, types; sys.modules['greater_fast._core'] = {module}; "
        "from greater_fast import optimize"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    (last,) = [line for line in done.stderr.splitlines() if "the C++ extension" in line]
    assert last.startswith("ImportError: the C++ extension of greater_fast cannot be imported")
    assert reason in last
    assert "pip install -e ." in last


def test_drafts_are_as_many_as_configured(lm: LM) -> None:
    asked = RolloutRequest(tuple(range(5, 25)), 12, frozenset())
    (whole,) = make_engine(lm, Config())[0].run([asked])
    assert whole is not None
    drafted = dataclasses.replace(asked, draft_ids=whole.reasoning_ids)
    for num_drafted in (0, 64):
        engine, _ = make_engine(lm, Config(draft_tokens=num_drafted))
        assert isinstance(engine, RolloutEngine)
        assert engine.run([drafted]) == [whole]
        assert (engine.statistics["accepted_tokens"] > 0) == (num_drafted > 0)
