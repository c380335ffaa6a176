"""Rollouts on a GPU: tokens a second of 8B shapes, and a real model's texts beside the CPU's."""

import os
from dataclasses import asdict

import torch
from transformers import GenerationConfig

from benchmarks.gpu.model import GIB, Found, GpuCase, model_bytes, random_lm, timed
from benchmarks.harness.machine import copy_rate
from benchmarks.harness.measure import StepCase, lay_out
from greater_fast.engine import RolloutRequest
from greater_fast.model.lm import LM, load_lm
from greater_fast.rollouts.batch import RolloutEngine
from greater_fast.search import optimizer

MODEL_VARIABLE = "GREATER_FAST_MODEL"  # a folder or GGUF file for the part `texts`


def rollouts(case: GpuCase, smoke: bool) -> Found:
    """Tokens a second of the engine, its share of the floor, and `generate` beside it."""
    lm = random_lm(smoke)
    requests = rollout_requests(lm, case)
    longest = max(len(r.prompt_ids) + r.max_new_tokens for r in requests)
    engine = RolloutEngine(
        lm,
        kv_cache_bytes=case.kv_cache_bytes,
        longest_sequence=longest,
        num_sequences=len(requests),
    )
    few = engine.run(requests[:2])  # warm, and alone: what else is in the batch must not matter
    before = engine.statistics
    seconds, found = timed(lm.device, lambda: engine.run(requests))
    steps = engine.statistics["steps"] - before["steps"]
    tokens = sum(len(rollout.reasoning_ids) for rollout in found if rollout)
    generated = [by_generate(lm, requests, *sizes) for sizes in case.generated.items()]
    work = {
        "case": asdict(case),
        "same_alone": [a == b for a, b in zip(few, found, strict=False)],
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "ms_a_step": 1e3 * seconds / steps,
        "steps": steps,
        "share_of_floor": floor_seconds(lm, case, steps, smoke) / seconds,
        "generate": generated,
    }
    others = "; ".join(
        f"generate in a batch of {other['batch']}, {other['new_tokens']} tokens each: "
        f"{other['tokens_per_second']:,.0f} tokens/s"
        for other in generated
    )
    return work, (
        f"{work['tokens_per_second']:,.0f} tokens/s, {work['ms_a_step']:.1f} ms a step, "
        f"{work['share_of_floor']:.0%} of the floor; {others}"
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


def floor_seconds(lm: LM, case: GpuCase, steps: int, smoke: bool) -> float:
    """Reading all weights in each step, and every sequence's keys and values for each token."""
    read, length = model_bytes(lm), case.head_tokens + case.prompt_tokens
    contexts = sum(range(length, length + case.new_tokens))
    kv = case.num_heads * case.num_prompts * contexts * read.kv_per_token
    rate = copy_rate(lm.device, 1 << (20 if smoke else 30))
    return (steps * read.weights + kv) / rate


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
