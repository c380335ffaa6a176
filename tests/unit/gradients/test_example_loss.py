"""Losses from states, in chunks of rows; losses of a user's own; examples weighed alike."""

from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from greater_fast import optimize
from greater_fast.cli.display import steps_table
from greater_fast.engine import Rollout
from greater_fast.examples.layout import Layouts
from greater_fast.gradients.example_loss import Terms, losses_and_gradient, try_loss
from greater_fast.model.lm import LM, load_lm
from greater_fast.rollouts.plain import PlainRolloutEngine
from greater_fast.runs.result import Result
from greater_fast.search.gradient import example_gradients, prompt_gradient
from greater_fast.search.nouns import Position
from tests.cases import layouts_of, small_config, tiny_lm, tokenizer
from tests.tiny import PROMPT, tiny_model

TERMS = [
    Terms((7, 8, 9), 0.1, (10, 11)),
    Terms((), 0.3, (12,)),
    Terms((13,), 0.2, (14, 15, 16)),
]
ROLLOUTS = [Rollout(tuple(range(20 + 9 * i, 20 + 11 * i))) for i in range(4)]


def plain_losses(lm: LM, states: torch.Tensor, temperature: float) -> list[torch.Tensor]:
    losses, first = [], 0
    logits = lm.logits(states)
    for term in TERMS:
        middle, last = first + len(term.text_ids), first + len(term.text_ids + term.answer_ids)
        answer, prompt = logits[middle:last] / temperature, logits[first:middle]
        loss = cross_entropy(answer, torch.tensor(term.answer_ids))
        if term.text_ids:
            ids = torch.tensor(term.text_ids)
            loss = loss + term.text_weight * cross_entropy(prompt, ids, reduction="sum")
        losses.append(loss)
        first = last
    return losses


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("rows", [1, 2, 100])
def test_it_is_autograds(family: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny_lm(family)
    monkeypatch.setattr(
        "greater_fast.gradients.example_loss._CPU_LOGIT_FLOATS", rows * lm.vocab_size
    )
    asked = []
    own = LM.logits
    monkeypatch.setattr(LM, "logits", lambda self, x: asked.append(len(x)) or own(self, x))
    states = torch.randn(10, 48, generator=torch.Generator().manual_seed(0)).requires_grad_()
    losses, gradient = losses_and_gradient(lm, states.detach(), TERMS, 0.4)
    assert max(asked) <= rows
    assert sum(asked) == 10
    expected = plain_losses(lm, states, 0.4)
    torch.testing.assert_close(losses, torch.stack(expected).detach(), rtol=1e-5, atol=1e-6)
    (by_states,) = torch.autograd.grad(sum(expected), states)
    torch.testing.assert_close(gradient, by_states, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("own_loss", [None, lambda logits, ids: cross_entropy(logits, ids)])
def test_scales_are_those_of_the_gradient_alone(own_loss: Any) -> None:
    """Of every example its own, of text and answer, with a loss of one's own too."""
    lm = tiny_lm("llama")
    states = torch.randn(10, 48, generator=torch.Generator().manual_seed(0))
    losses, gradient = losses_and_gradient(lm, states, TERMS, 0.4, own_loss)
    scales = [4096.0, 0.5, 16.0]
    scaled = [replace(term, scale=scale) for term, scale in zip(TERMS, scales, strict=True)]
    same, found = losses_and_gradient(lm, states, scaled, 0.4, own_loss)
    assert torch.equal(same, losses)
    rows = [len(term.text_ids) + len(term.answer_ids) for term in TERMS]
    factors = torch.tensor(scales).repeat_interleave(torch.tensor(rows))[:, None]
    torch.testing.assert_close(found, gradient * factors, rtol=1e-5, atol=0)


def test_nothing_is_added_in_an_order_that_a_gpu_chooses() -> None:
    names = set()

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            names.add(func.overloadpacket.__name__)
            return func(*args, **kwargs or {})

    with Recorder():
        losses_and_gradient(tiny_lm("llama"), torch.zeros(10, 48), TERMS, 0.4)
    assert "index_put_" in names
    assert "index_add_" not in names


@pytest.mark.skipif(torch.cuda.is_available(), reason="no interpreter where there is a GPU")
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_kernel_makes_the_same_losses_and_gradient(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the states, in one go: no logits exist. Under the interpreter here."""
    lm = tiny_lm(family)
    states = torch.randn(10, 48, generator=torch.Generator().manual_seed(0))
    expected = losses_and_gradient(lm, states, TERMS, 0.4, kernels="reference")
    asked = []
    own = LM.logprobs
    monkeypatch.setattr(LM, "logprobs", lambda *given: asked.append(len(given[1])) or own(*given))
    monkeypatch.setattr(LM, "logits", lambda *_: pytest.fail("logits were made"))
    found = losses_and_gradient(lm, states, TERMS, 0.4, kernels="triton")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert asked == [4, 6]  # the prompts' rows, and the answers'


@pytest.mark.skipif(torch.cuda.is_available(), reason="no interpreter where there is a GPU")
def test_the_setting_reaches_the_gradients_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny_lm("gemma2")
    layouts = layouts_of(lm, 1)
    expected = gradients(layouts, lm, kernels="reference")
    monkeypatch.setattr(LM, "logits", lambda *_: pytest.fail("logits were made"))
    found = gradients(layouts, lm, kernels="triton")
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def gradients(
    layouts: Layouts, lm: LM, function: Callable[..., Any] = example_gradients, **given: Any
) -> torch.Tensor:
    loss = given.pop("loss", None)
    position = Position(0, 3, layouts.prompt_ids)
    config = small_config(temperature=0.5, **given)
    rollouts = ROLLOUTS[: len(layouts)]
    return function(PlainRolloutEngine(lm), layouts, rollouts, position, config, loss)


def paper_loss(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return cross_entropy(logits / 0.5, ids)


def margin(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """How far the best other token is above the gold one."""
    gold = logits.gather(-1, ids[:, None]).squeeze(-1)
    return (logits.scatter(-1, ids[:, None], -torch.inf).amax(-1) - gold).mean()


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_papers_loss_given_as_a_function_changes_nothing(family: str) -> None:
    lm = tiny_lm(family)
    layouts = layouts_of(lm, 4)
    for weight in (0.0, 0.2):
        own = gradients(layouts, lm, fluency_weight=weight)
        given = gradients(layouts, lm, fluency_weight=weight, loss=paper_loss)
        torch.testing.assert_close(given, own, rtol=1e-4, atol=1e-6)


def test_another_loss_is_differentiated() -> None:
    lm = tiny_lm()
    layouts = layouts_of(lm, 4)
    found = gradients(layouts, lm, loss=margin, fluency_weight=0.0)
    for row, rollout in enumerate(ROLLOUTS):
        context = layouts.context_ids(row, layouts.prompt_ids)
        ids = torch.tensor([*context, *rollout.reasoning_ids, *layouts.target_ids(row)])
        shift = torch.zeros(len(ids), 48, requires_grad=True)
        logits = lm.model(inputs_embeds=(lm.embed(ids) + shift)[None], use_cache=False).logits[0]
        answer = ids[-len(layouts.rows[row].answer_ids) :]
        value = margin(logits[-len(answer) - 1 : -1], answer)
        (whole,) = torch.autograd.grad(value, shift)
        expected = whole[len(layouts.rows[row].head_ids) + 3]
        torch.testing.assert_close(found[row], expected, rtol=1e-3, atol=1e-5)


def test_examples_weigh_alike_if_asked_to() -> None:
    lm = tiny_lm()
    layouts = layouts_of(lm, 4)
    each = gradients(layouts, lm)
    assert each.norm(dim=1).max() > 1.5 * each.norm(dim=1).min()
    torch.testing.assert_close(gradients(layouts, lm, prompt_gradient), each.sum(0))
    found = gradients(layouts, lm, prompt_gradient, gradient_norm="example")
    torch.testing.assert_close(found, (each / each.norm(dim=1, keepdim=True)).sum(0))


def test_a_gradient_of_zero_stays_zero() -> None:
    lm = tiny_lm()
    layouts = layouts_of(lm, 4)
    settings = {"fluency_weight": 0.0, "gradient_norm": "example"}
    found = gradients(layouts, lm, prompt_gradient, loss=lambda x, _: 0 * x.sum(), **settings)
    assert torch.equal(found, torch.zeros(48))


BAD = {
    "no function": ("mean", "got 'mean', expected a function"),
    "a number": (
        lambda x, y: float(x.detach().sum()),
        "got float from it, expected a scalar tensor",
    ),
    "one loss a token": (
        lambda x, y: cross_entropy(x, y, reduction="none"),
        r"got a tensor of shape \[\d\] from it, expected a scalar tensor",
    ),
    "detached": (lambda x, y: x.detach().sum(), "its value has no gradient by the answer's logits"),
    "of another tensor": (
        lambda x, y: torch.ones(3, requires_grad=True).sum(),
        "its value has no gradient by the answer's logits",
    ),
}


@pytest.mark.parametrize(("loss", "text"), BAD.values(), ids=BAD)
def test_a_loss_that_cannot_work_is_refused_before_the_search(
    loss: Any, text: str, lm: LM, rows: list[Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"loss: {text}"):
        optimize(lm, rows, config=settings, prompt=PROMPT, run_dir=tmp_path / "run", loss=loss)
    assert not (tmp_path / "run").exists()
    if callable(loss):
        with pytest.raises(ValueError, match=f"loss: {text}"):
            gradients(layouts_of(lm, 4), lm, loss=loss)


def test_a_loss_is_refused_where_the_gradient_is_of_no_answer(
    lm: LM, rows: list[Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    config, run = {**settings, "gradient": "reasoning"}, tmp_path / "run"
    with pytest.raises(ValueError, match="loss: got a function with gradient 'reasoning'"):
        optimize(lm, rows, config=config, prompt=PROMPT, run_dir=run, loss=margin)
    assert not run.exists()


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        (lambda x, y: x.sum() * torch.nan, "value for an answer of 2 tokens"),
        (lambda x, y: x.sum() / (len(y) - 1), "value for an answer of 1 tokens"),
        (lambda x, y: (x - x.detach()).abs().sqrt().sum(), "gradient for an answer of 2 tokens"),
    ],
    ids=["always", "at one answer", "the gradient"],
)
def test_a_loss_that_is_not_finite_is_refused_before_the_search(loss: Any, text: str) -> None:
    with pytest.raises(ValueError, match=f"loss: its {text} is not finite"):
        try_loss(loss, tiny_lm(), [(7, 8), (9,), (7, 8)])


def test_a_loss_is_tried_at_logits_that_are_not_even(lm: LM) -> None:
    """Where all are equal, a standardised loss would be no number."""
    asked: list[list[int]] = []

    def standardised(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        asked.append(ids.tolist())
        centred = logits - logits.mean(-1, keepdim=True)
        return cross_entropy(centred / centred.std(-1, keepdim=True), ids)

    try_loss(standardised, lm, [(7, 8), (9,), (7, 8)])
    assert asked == [[7, 8], [9]]


def test_a_loss_that_is_not_finite_names_its_example() -> None:
    lm = tiny_lm()
    layouts = layouts_of(lm, 4)
    false = layouts.rows[1].answer_ids

    def loss(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return logits.sum() * (torch.inf if tuple(ids.tolist()) == false else 1.0)

    number = next(i for i, row in enumerate(layouts.rows) if row.answer_ids == false)
    text = f"loss of example {number} is -?(inf|nan): try dtype float32, or another loss function"
    with pytest.raises(FloatingPointError, match=text):
        gradients(layouts, lm, loss=loss, gradient_batch_tokens=10_000)


@pytest.mark.filterwarnings("ignore:all .* training rows are:RuntimeWarning")
def test_a_search_with_a_loss_of_its_own(
    lm: LM, rows: list[Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    """It changes the order of the shortlist, and the objective of no prompt."""

    def result(name: str, loss: Any) -> Result:
        return optimize(
            lm, rows, config=settings, prompt=PROMPT, run_dir=tmp_path / name, loss=loss
        )

    own, given = result("own", None), result("given", margin)
    assert own.steps[0].candidate_ids == given.steps[0].candidate_ids
    scores = [[trial.score for trial in r.steps[0].trials] for r in (own, given)]
    assert scores[0] != scores[1]
    assert own.baseline.objective == given.baseline.objective
    assert "gradient of: margin" in given.notes
    assert not any(note.startswith("gradient of") for note in own.notes)


@pytest.mark.filterwarnings("ignore:all .* training rows are:RuntimeWarning")
def test_a_loss_is_of_no_use_to_a_random_shortlist(
    lm: LM, rows: list[Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    given = {**settings, "shortlist": "random"}
    result = optimize(lm, rows, config=given, prompt=PROMPT, run_dir=tmp_path / "run", loss=margin)
    assert "gradient of: margin, without effect: the shortlist is random" in result.notes
    assert {trial.score for step in result.steps for trial in step.trials} == {None}
    shown = StringIO()
    Console(file=shown, width=200).print(steps_table([step.to_dict() for step in result.steps]))
    assert " drawn -> " in shown.getvalue()


def test_low_precision_logits_are_float32() -> None:
    model = tiny_model("llama", len(tokenizer("llama3")), torch.bfloat16)
    lm = load_lm((model, tokenizer("llama3")))
    kinds = []

    def loss(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        kinds.append((logits.dtype, ids.dtype))
        return cross_entropy(logits, ids)

    assert gradients(layouts_of(lm, 4), lm, loss=loss).dtype == torch.float32
    assert set(kinds) == {(torch.float32, torch.int64)}
