"""One part of what run_gpu.sh measures, in a process of its own; results/<device>.json takes it in.

    python -m benchmarks.gpu PART [--smoke] [--out FOLDER]

No pytest here: a GPU machine may have none. --smoke takes tiny shapes, on a CPU too.
"""

import argparse
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from transformers import GenerationConfig

from benchmarks.gpu_model import model_bytes, random_lm
from benchmarks.machine import best_seconds, copy_rate, device_name, synchronize, versions
from benchmarks.measure import ROOT, StepCase, StepInputs, lay_out, ours_step, reference_step
from benchmarks.op_sides import check, ours, plain_torch
from benchmarks.ops import floors, full_case, make_arguments, small_case
from benchmarks.report import merge
from greater_fast import optimizer
from greater_fast.lm import LM, load_lm
from greater_fast.meter import Meter
from greater_fast.rollout import RolloutEngine, RolloutRequest

GIB = 1 << 30
CAP_BYTES = 24 * GIB
MODEL_VARIABLE = "GREATER_FAST_MODEL"  # a folder or GGUF file for the part `texts`


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuCase:
    """Sizes of the rollouts, and of a step; generated tokens by size of a batch of `generate`."""

    num_heads: int = 50
    head_tokens: int = 150
    num_prompts: int = 3
    prompt_tokens: int = 20
    new_tokens: int = 256
    generated: dict[int, int]
    num_rows: int = 50
    reference_rows: int = 4
    kv_cache_bytes: int = 14 * GIB
    capped_kv_cache_bytes: int = 2 * GIB


FULL = GpuCase(generated={9: 64, 150: 64})
SMOKE = GpuCase(
    num_heads=3,
    head_tokens=20,
    prompt_tokens=4,
    new_tokens=5,
    generated={2: 3, 9: 2},
    num_rows=3,
    reference_rows=2,
    kv_cache_bytes=4 << 20,
    capped_kv_cache_bytes=4 << 20,
)
# What a part found: figures, and a line of text for the table.
Found = tuple[dict[str, Any], str]


def kernels(case: GpuCase, smoke: bool) -> Found:
    """Each op: no further from float32 than torch is, then seconds and shares of the rates."""
    work = {}
    for op, backward in (
        ("vocabulary_top_k", False),
        ("target_logprob", False),
        ("target_logprob", True),
        ("paged_attention", False),
    ):
        of_op = replace((small_case if smoke else full_case)(op), backward=backward)
        error, arguments = check(of_op), make_arguments(of_op)
        seconds = best_seconds(ours(of_op, arguments), of_op.device)
        work[f"{op} backward" if backward else op] = {
            "error": error,
            "seconds": seconds,
            "torch_seconds": best_seconds(plain_torch(of_op, arguments), of_op.device),
            **floors(of_op, smoke).shares(of_op, seconds),
        }
    lines = [
        f"{op} {found['seconds'] * 1e6:.0f} µs, torch {found['torch_seconds'] * 1e6:.0f} µs, "
        f"{max(found['share_of_copy_rate'], found['share_of_product_rate']):.0%} of the rate"
        for op, found in work.items()
    ]
    return work, "; ".join(lines)


def rollouts(case: GpuCase, smoke: bool) -> Found:
    """Tokens a second of the engine, its share of the floor, and `generate` beside it."""
    lm = random_lm(smoke)
    requests = rollout_requests(lm, case)
    engine = RolloutEngine(lm, kv_cache_bytes=case.kv_cache_bytes)
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


def step(case: GpuCase, smoke: bool) -> Found:
    """A whole step of ours: seconds and peak memory, stage by stage."""
    return whole_step(random_lm(smoke), case, case.kv_cache_bytes)


def capped(case: GpuCase, smoke: bool) -> Found:
    """The same under a cap of 24 GiB."""
    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, CAP_BYTES / total))
    return whole_step(random_lm(smoke), case, case.capped_kv_cache_bytes)


def whole_step(lm: LM, case: GpuCase, kv_cache_bytes: int) -> Found:
    """Run one step after the incumbent was scored."""
    inputs = step_inputs(lm, case, case.num_rows, kv_cache_bytes)
    with stage_peaks(lm.device) as peaks:
        run = ours_step(inputs)
        peaks.clear()
        seconds, outcome = timed(lm.device, run)
    stages = {
        name: {"seconds": outcome.stage_seconds[name], "peak_bytes": peak}
        for name, peak in peaks.items()
    }
    work = {
        "rows": case.num_rows,
        "new_tokens": case.new_tokens,
        "seconds": seconds,
        "device_bytes": device_bytes(lm.device),
        "stages": stages,
        "generated_tokens": outcome.generated_tokens,
    }
    each = ", ".join(
        f"{name} {found['seconds']:.2f} s {found['peak_bytes'] / GIB:.1f} GiB"
        for name, found in stages.items()
    )
    return work, f"{seconds:.2f} s, {work['device_bytes'] / GIB:.1f} GiB of the device; {each}"


def step_inputs(lm: LM, case: GpuCase, num_rows: int, kv_cache_bytes: int) -> StepInputs:
    """Rows laid out; the end id is one that a random model hardly ever says."""
    of_step = StepCase(
        task="boolean_expressions",
        num_rows=num_rows,
        max_new_tokens=case.new_tokens,
        end_id=lm.vocab_size - 1,
    )
    inputs = lay_out(lm, of_step)
    return replace(inputs, config=replace(inputs.config, kv_cache_bytes=kv_cache_bytes))


@contextmanager
def stage_peaks(device: torch.device) -> Iterator[dict[str, int]]:
    """Peak memory of each stage, by name, while the loop runs; 0 where there is no GPU."""
    peaks: dict[str, int] = {}

    class StageMeter(Meter):
        @contextmanager
        def __call__(self, stage: str) -> Iterator[None]:
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            with super().__call__(stage):
                yield
            peaks[stage] = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0

    with patch.object(optimizer, "Meter", StageMeter):
        yield peaks


def reference(case: GpuCase, smoke: bool) -> Found:
    """One step of the reference procedure on few rows, and ours on the same."""
    lm = random_lm(smoke)
    inputs = step_inputs(lm, case, case.reference_rows, case.capped_kv_cache_bytes)
    seconds, _ = timed(lm.device, ours_step(inputs))
    reference_seconds, _ = timed(lm.device, reference_step(inputs))
    work = {
        "rows": case.reference_rows,
        "new_tokens": case.new_tokens,
        "seconds": seconds,
        "reference_seconds": reference_seconds,
        "ratio": reference_seconds / seconds,
    }
    return work, (
        f"{case.reference_rows} rows: {reference_seconds:.1f} s → {seconds:.2f} s, "
        f"{work['ratio']:.1f}×"
    )


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


def timed(device: torch.device, run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a call, and what it gave."""
    synchronize(device)
    start = time.perf_counter()
    result = run()
    synchronize(device)
    return time.perf_counter() - start, result


def device_bytes(device: torch.device) -> int:
    """Most of the device that this process had: torch's reserve, and the context beside it."""
    if device.type != "cuda":
        return 0
    free, total = torch.cuda.mem_get_info(device)
    beside = total - free - torch.cuda.memory_reserved(device)
    return beside + torch.cuda.max_memory_reserved(device)


PARTS: dict[str, Callable[[GpuCase, bool], Found]] = {
    part.__name__: part for part in (kernels, rollouts, step, capped, reference, texts)
}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--smoke", action="store_true", help="tiny shapes: shows that it runs")
    parser.add_argument("--out", type=Path, required=True, help="folder of <device>.json")
    asked = parser.parse_args()
    work, text = PARTS[asked.part](SMOKE if asked.smoke else FULL, asked.smoke)
    print(f"{asked.part}: {text}")
    found = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "versions": versions(),
        "text": text,
        "work": work,
    }
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    threads = None if device.type == "cuda" else torch.get_num_threads()
    merge(asked.out, device_name(device), threads, {f"gpu/{asked.part}": found})


def commit() -> str:
    """What was measured, where git is there to say it."""
    try:
        command = ["git", "rev-parse", "HEAD"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


if __name__ == "__main__":
    main()
