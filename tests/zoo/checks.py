"""What an architecture of the zoo comes to: how it runs, and whether that is right.

The oracle is plain transformers: the whole model, one row, no cache, greedy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch

from greater_fast.config import Config
from greater_fast.engine import Engine, Rollout, RolloutRequest
from greater_fast.gradients.gradient_pass import check_gradient
from greater_fast.memory.budget import RowLengths
from greater_fast.memory.plan import plan_memory
from greater_fast.memory.shapes import ModelShapes
from greater_fast.model.lm import LM, load_lm
from greater_fast.rollouts.choose import make_engine
from greater_fast.search.gradient import example_gradients
from greater_fast.search.nouns import Position
from tests.cases import layouts_of
from tests.zoo.models import CONTEXT

TAU = 0.2
NEAR = 1e-3  # of logits that differ by their standard deviation
LENGTHS = (5, 40, 62, 97)  # of prompts: before and past every window
NEW_TOKENS = 12


@dataclass(frozen=True)
class Outcome:
    """`way` is paged, generate or refused; `faults` are what went wrong."""

    way: str
    reason: str
    faults: tuple[str, ...] = ()


def outcome_of(model: Any, tokenizer: Any) -> Outcome:
    """Load a model, run it, and compare all that it gives with the oracle."""
    config = Config(
        max_new_tokens=NEW_TOKENS, kv_cache_bytes=1 << 22, max_step_tokens=48, temperature=TAU
    )
    try:
        lm = load_lm((model, tokenizer))
        engine, note = make_engine(lm, config, longest_sequence=CONTEXT)
    except ValueError as error:
        return Outcome("refused", str(error))
    way = note.removeprefix("engine: ").split(" ")[0].rstrip(",;")
    parts = re.search(r"rollout engine: (.*); use engine='generate'\)(.*)", note)
    reason = "".join(parts.groups()) if parts else ""
    faults = [*_rollout_faults(engine), *_plan_faults(lm, config)]
    try:
        check_gradient(engine)
    except ValueError as error:
        reason += f"; {error}"
    else:
        faults += _gradient_faults(engine, config)
    return Outcome(way, reason, tuple(faults))


def _rollout_faults(engine: Engine) -> list[str]:
    lm = engine.lm
    generator = torch.Generator().manual_seed(2)
    end = frozenset([1])
    asked = [
        RolloutRequest(
            prompt_ids=tuple(
                torch.randint(5, lm.vocab_size - 9, (n,), generator=generator).tolist()
            ),
            max_new_tokens=NEW_TOKENS,
            end_ids=end,
            prompt_span=(1, n),
            target_ids=tuple(range(40, 44 + n % 3)),
            num_scored=2,
        )
        for n in LENGTHS
    ]
    faults = []
    for request, rollout in zip(asked, engine.run(asked), strict=True):
        assert rollout is not None
        faults += _faults_of_one(lm, request, rollout)
    return faults


def oracle_logits(lm: LM, ids: list[int]) -> torch.Tensor:
    """Logits [T, V] of one row."""
    with torch.no_grad():
        logits: torch.Tensor = lm.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return logits.double()


def _faults_of_one(lm: LM, request: RolloutRequest, rollout: Rollout) -> list[str]:
    size = len(request.prompt_ids)
    ids = [*request.prompt_ids, *rollout.reasoning_ids, *request.target_ids]
    for place in range(size, size + request.max_new_tokens):
        logits = oracle_logits(lm, ids[:place])[-1]
        best = logits.topk(2).values
        own = ids[place] if place - size < len(rollout.reasoning_ids) else min(request.end_ids)
        if int(logits.argmax()) != own:
            if best[0] - logits[own] < NEAR * logits.std():
                break  # a near-tie
            return [f"token {place - size} of {size}: not the oracle's"]
        if own in request.end_ids:
            break
    logits = oracle_logits(lm, ids)
    scale = float(logits.std()) + 1e-9
    rows = range(len(ids) - request.num_scored, len(ids))
    found = torch.tensor(rollout.answer_logprobs).double()
    expected = torch.stack([(logits[i - 1] / TAU).log_softmax(-1)[ids[i]] for i in rows])
    if (found - expected).abs().max() > 20 * NEAR * max(1.0, scale):
        return [f"scores of {size}: off by {float((found - expected).abs().max()):.2g}"]
    start, stop = request.prompt_span
    plain = logits.log_softmax(-1)
    nll = -float(sum(plain[i - 1, ids[i]] for i in range(start, stop))) / (stop - start)
    if abs(nll - rollout.prompt_nll) > 10 * NEAR * max(1.0, scale):
        return [f"prompt NLL of {size}: off by {abs(nll - rollout.prompt_nll):.2g}"]
    return []


def _gradient_faults(engine: Engine, config: Config) -> list[str]:
    lm = engine.lm
    layouts = layouts_of(lm, 3, temperature=TAU)
    rollouts = [Rollout(tuple(range(60, 60 + 9 * n))) for n in range(1, 4)]
    position = Position(0, 2, layouts.prompt_ids)
    found = example_gradients(engine, layouts, rollouts, position, config)
    faults = []
    for row, rollout in enumerate(rollouts):
        expected = one_hot_gradient(lm, layouts, row, rollout, position, config)
        matrix = lm.embed(torch.arange(lm.vocab_size))
        own = matrix.double() @ found[row].double()
        cosine = float(torch.cosine_similarity(own, expected, dim=0))
        ratio = float(own.norm() / expected.norm())
        if not (cosine > 0.999 and 0.99 < ratio < 1.01):
            faults.append(f"gradient of row {row}: cosine {cosine:.4f}, length {ratio:.3f}")
    return faults


def one_hot_gradient(
    lm: LM, layouts: Any, row: int, rollout: Rollout, position: Position, config: Config
) -> torch.Tensor:
    """Gradient [V] by the one-hot row of the position's token, through the whole model."""
    context = layouts.context_ids(row, position.prompt_ids)
    answer = layouts.rows[row].answer_ids
    ids = torch.tensor([*context, *rollout.reasoning_ids, *layouts.target_ids(row)])
    start, stop = layouts.prompt_span(row, position.prompt_ids)
    matrix = lm.embed(torch.arange(lm.vocab_size)).detach()
    one_hot = torch.nn.functional.one_hot(ids, lm.vocab_size).to(matrix.dtype).requires_grad_()
    module = lm.model.get_input_embeddings()
    hook = module.register_forward_hook(lambda *_: (one_hot[:-1] @ matrix)[None])
    try:
        logits = lm.model(input_ids=ids[None, :-1], use_cache=False).logits[0]
    finally:
        hook.remove()
    logits = logits.double()
    nll = torch.nn.functional.cross_entropy
    loss = nll(logits[-len(answer) :] / config.temperature, ids[-len(answer) :])
    prompt = nll(logits[start - 1 : stop - 1], ids[start:stop])
    (gradient,) = torch.autograd.grad(loss + config.fluency_weight * prompt, one_hot)
    return gradient[start + position.index].double()


def _plan_faults(lm: LM, config: Config) -> list[str]:
    plan = plan_memory(ModelShapes.of(lm), RowLengths(4, 4, 100, 60), config, 1 << 34)
    return [] if plan.fits else ["a tiny model does not fit its plan"]
