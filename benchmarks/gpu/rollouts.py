"""Rollouts on a GPU: tokens a second of 8B shapes, and a real model's texts beside the CPU's."""

import os
from dataclasses import asdict
from typing import Any

import torch
from transformers import GenerationConfig

from benchmarks.gpu.floors import ModelWork, Rates, contexts_of, describe_share, rates_text
from benchmarks.gpu.model import (
    GIB,
    Found,
    GpuCase,
    engine_text,
    planned_pool,
    random_lm,
    timed,
)
from benchmarks.harness.measure import StepCase, lay_out
from greater_fast.config import Config
from greater_fast.engine import RolloutRequest
from greater_fast.memory.budget import RowLengths
from greater_fast.model.lm import LM, load_lm
from greater_fast.rollouts.batch import RolloutEngine
from greater_fast.search import optimizer

MODEL_VARIABLE = "GREATER_FAST_MODEL"  # a folder or GGUF file for the part `texts`


def rollouts(case: GpuCase, smoke: bool) -> Found:
    """Tokens a second of the engine, with drafts and without, and `generate` beside it."""
    lm = random_lm(smoke)
    requests = rollout_requests(lm, case)
    rates = Rates.measured(lm, smoke)
    drafting = engine_rollouts(lm, requests, case, rates, None)
    without = engine_rollouts(lm, requests, case, rates, 0)
    generated = [by_generate(lm, requests, *sizes) for sizes in case.generated.items()]
    work = {
        "case": asdict(case),
        "rates": asdict(rates),
        **drafting,
        "without_drafts": without,
        "generate": generated,
    }
    others = "; ".join(
        f"generate in a batch of {other['batch']}, {other['new_tokens']} tokens each: "
        f"{other['tokens_per_second']:,.0f} tokens/s"
        for other in generated
    )
    return work, (
        f"{rollouts_text(drafting)}; draft_tokens=0: {rollouts_text(without)}; {others}; "
        f"{drafting['engine_text']}; {rates_text(rates)}"
    )


def engine_rollouts(
    lm: LM,
    requests: list[RolloutRequest],
    case: GpuCase,
    rates: Rates,
    draft_tokens: int | None,
) -> dict[str, Any]:
    """All requests in one batch: what it takes, beside the floor of its steps."""
    mean = case.head_tokens + case.prompt_tokens + case.new_tokens
    lengths = RowLengths(num_train=case.num_heads, num_rows=case.num_heads, mean=mean, longest=mean)
    config = Config(shortlist_size=case.num_prompts, max_new_tokens=case.new_tokens)
    engine = RolloutEngine(
        lm,
        kv_cache_bytes=planned_pool(lm, lengths, config),
        longest_sequence=mean,
        num_sequences=len(requests),
        draft_tokens=draft_tokens,
    )
    few = engine.run(requests[:2])  # warm, and alone: what else is in the batch must not matter
    before = engine.facts().steps
    seconds, found = timed(lm.device, lambda: engine.run(requests))
    facts = engine.facts()
    steps = facts.steps - before
    tokens = sum(len(rollout.reasoning_ids) for rollout in found if rollout)
    contexts = contexts_of(mean - case.new_tokens, case.new_tokens, len(requests))
    floor = ModelWork.of(lm).rollout_seconds(rates, steps, contexts)
    return {
        "same_alone": [a == b for a, b in zip(few, found, strict=False)],
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "ms_a_step": 1e3 * seconds / steps,
        "steps": steps,
        "floor_seconds": floor,
        "engine": asdict(facts),
        "engine_text": engine_text(facts),
    }


def rollouts_text(found: dict[str, Any]) -> str:
    """The figures of one batch."""
    return (
        f"{found['tokens_per_second']:,.0f} tokens/s, {found['steps']} steps of "
        f"{found['ms_a_step']:.1f} ms, {describe_share(found['seconds'], found['floor_seconds'])}"
    )


def rollout_requests(lm: LM, case: GpuCase) -> list[RolloutRequest]:
    """Every head with every prompt, of random ids, in no need of an end."""
    generator = torch.Generator().manual_seed(0)
    heads, prompts = (
        torch.randint(lm.vocab_size, shape, generator=generator).tolist()
        for shape in ((case.num_heads, case.head_tokens), (case.num_prompts, case.prompt_tokens))
    )
    nothing: frozenset[int] = frozenset()
    pairs = ((*head, *prompt) for prompt in prompts for head in heads)
    return [RolloutRequest(ids, case.new_tokens, nothing) for ids in pairs]


def by_generate(
    lm: LM, requests: list[RolloutRequest], batch: int, new_tokens: int
) -> dict[str, float]:
    """One batch of transformers' generate, so many tokens each; nothing is extrapolated."""
    ids = torch.tensor([r.prompt_ids for r in requests[:batch]], device=lm.device)
    config = GenerationConfig(
        do_sample=False, max_new_tokens=new_tokens, eos_token_id=[-1], pad_token_id=0
    )

    def run() -> torch.Tensor:
        with torch.inference_mode():
            output: torch.Tensor = lm.model.generate(
                ids, attention_mask=torch.ones_like(ids), generation_config=config
            )
        return output

    run()
    seconds, output = timed(lm.device, run)
    tokens = len(ids) * (output.shape[1] - ids.shape[1])
    return {
        "batch": len(ids),
        "new_tokens": new_tokens,
        "tokens_per_second": tokens / seconds,
    }


def texts(case: GpuCase, smoke: bool) -> Found:
    """Greedy texts of a real model on the GPU beside those of the same model on the CPU."""
    path = os.environ.get(MODEL_VARIABLE)
    if path is None:
        return {}, f"not run: {MODEL_VARIABLE} names no model"
    of_step = StepCase(task="object_counting", num_rows=8, max_new_tokens=5 if smoke else 48)
    on = "cuda" if torch.cuda.is_available() else "cpu"
    written = {}
    for name, device, dtype in (
        ("cpu", "cpu", "float32"),
        ("gpu", on, "float32"),
        ("bf16", on, None),
    ):
        inputs = lay_out(load_lm(path, device, dtype), of_step)
        engine = RolloutEngine(inputs.lm, kv_cache_bytes=GIB)
        incumbent = optimizer.start(engine, inputs.layouts, inputs.config).incumbent
        written[name] = [rollout.reasoning_ids for rollout in incumbent.rollouts]
    same = {
        name: sum(a == b for a, b in zip(written["cpu"], written[name], strict=True))
        for name in ("gpu", "bf16")
    }
    work = {"rows": of_step.num_rows, "new_tokens": of_step.max_new_tokens, "same": same}
    return (
        work,
        f"of {of_step.num_rows} texts, float32 {same['gpu']} as on the CPU, bf16 {same['bf16']}",
    )
