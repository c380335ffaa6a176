"""Our ops beside plain torch: the same result, seconds and peak memory.

On a GPU ours is Triton, on a CPU the reference in torch, or csrc; the interpreter is never timed.
A side in a fresh process: python -m benchmarks.harness.op_sides ours --json '{"op": ..., ...}'
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.harness.machine import PeakMemory, best_seconds
from benchmarks.harness.measure import arguments_of, in_fresh_process
from benchmarks.harness.ops import BLOCK_SIZE, Arguments, OpCase, make_arguments, small_case
from benchmarks.harness.packed_op import (
    PackedArguments,
    csrc_attention,
    runner,
    torch_attention,
    triton_attention,
)
from greater_fast.kernels import dispatch
from greater_fast.model.cpu.extension import paged_attention as cpu_attention

Run = Callable[[], torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpFigures:
    """Seconds of the fastest run, and peak memory beyond the arguments."""

    seconds: float
    peak_memory_bytes: int


def ours(case: OpCase, arguments: Arguments) -> Run:
    """Our op on these arguments, ready to run."""
    backend = "triton" if case.device.type == "cuda" else "reference"
    if case.op == "paged_attention":
        return (_gpu_attention if backend == "triton" else _cpu_attention)(case, arguments)
    if case.op == "packed_attention":
        packed = PackedArguments(*arguments)
        attention = triton_attention if backend == "triton" else csrc_attention
        return runner(attention(packed), packed, case.backward)
    if case.op == "vocabulary_top_k":
        weight, rows, allowed, k, scale = arguments
        return lambda: dispatch.vocabulary_top_k(weight, rows, allowed, k, scale, backend)[1]

    def logprobs(
        hidden: torch.Tensor, targets: torch.Tensor, head: Any, temperatures: torch.Tensor
    ) -> torch.Tensor:
        return dispatch.target_logprob(hidden, targets, head, temperatures, backend)[0]

    return _with_backward(case, logprobs, arguments)


def plain_torch(case: OpCase, arguments: Arguments) -> Run:
    """The op as one would write it, in the precision of the arguments."""
    if case.op == "target_logprob":
        return _with_backward(case, _torch_logprob, arguments)
    if case.op == "paged_attention":
        return _torch_attention(case, arguments)
    if case.op == "packed_attention":
        packed = PackedArguments(*arguments)
        return runner(torch_attention(packed), packed, case.backward)
    weight, rows, allowed, k, _ = arguments

    def run() -> torch.Tensor:
        scores: torch.Tensor = (rows.to(weight.dtype) @ weight.T).float()  # [G, V]
        scores.masked_fill_(~allowed, torch.inf)
        lowest: torch.Tensor = scores.topk(k, largest=False).values
        return lowest

    return run


SIDES = {"ours": ours, "torch": plain_torch}


def check(case: OpCase) -> float:
    """Assert that ours errs at most twice as much as torch does; the largest error, relative.

    Both are held against torch in float32, where rounding alone is allowed for.
    """
    arguments = make_arguments(case)
    exact = plain_torch(case, _in_float32(arguments))().float()
    largest = float(exact.abs().max())
    errors = [
        float((side(case, arguments)().float() - exact).abs().max()) / largest
        for side in (ours, plain_torch)
    ]
    assert errors[0] <= 2 * errors[1] + 1e-5, (
        f"{case.op}: off by {errors[0]:.1e}, torch {errors[1]:.1e}"
    )
    return errors[0]


def _in_float32(arguments: Arguments) -> Arguments:
    def convert(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.float() if value.is_floating_point() else value
        if isinstance(value, tuple):
            parts = [convert(part) for part in value]
            return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
        return value

    return tuple(convert(value) for value in arguments)


def _with_backward(case: OpCase, op: Callable[..., torch.Tensor], arguments: Arguments) -> Run:
    """Log-probabilities, or the gradient of their sum by the hidden states."""
    hidden, *others = arguments

    def run() -> torch.Tensor:
        if not case.backward:
            with torch.no_grad():
                return op(hidden, *others)
        leaf = hidden.detach().requires_grad_()
        gradient: torch.Tensor = torch.autograd.grad(op(leaf, *others).sum(), leaf)[0]
        return gradient

    return run


def _torch_logprob(
    hidden: torch.Tensor, targets: torch.Tensor, head: Any, temperatures: torch.Tensor
) -> torch.Tensor:
    logits: torch.Tensor = (hidden @ head.weight.T).float() / temperatures[:, None]  # [R, V]
    found: torch.Tensor = logits.log_softmax(-1).gather(1, targets[:, None])
    return found[:, 0]


def _contiguous(case: OpCase, arguments: Arguments) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values [B, KV, context, D], as a cache without blocks holds them."""
    _, pool, ranges, _ = arguments
    keys, values = (
        part[ranges.block_tables.long()].transpose(1, 2).flatten(2, 3)[:, :, : case.context]
        for part in pool
    )
    return keys.contiguous(), values.contiguous()


def _torch_attention(case: OpCase, arguments: Arguments) -> Run:
    """One query a sequence over a cache that is contiguous already: torch at its best."""
    queries, _, _, scale = arguments
    keys, values = _contiguous(case, arguments)

    def run() -> torch.Tensor:
        found = scaled_dot_product_attention(
            queries[:, :, None], keys, values, scale=scale, enable_gqa=True
        )
        return found[:, :, 0]

    return run


def _gpu_attention(case: OpCase, arguments: Arguments) -> Run:
    from greater_fast.kernels.attention.paged import paged_attention

    return lambda: paged_attention(*arguments)


def _cpu_attention(case: OpCase, arguments: Arguments) -> Run:
    """csrc/attention/attention.cpp, which also writes the newest keys and values: here again."""
    queries, (keys, values), (starts, context_lens, tables), scale = arguments
    new_keys, new_values = (
        part[:, :, -1].contiguous().numpy() for part in _contiguous(case, arguments)
    )
    last = case.context - 1
    slots = tables[:, last // BLOCK_SIZE] * BLOCK_SIZE + last % BLOCK_SIZE
    output = torch.empty_like(queries)

    def run() -> torch.Tensor:
        cpu_attention(
            queries.numpy(),
            new_keys,
            new_values,
            keys.numpy(),
            values.numpy(),
            output.numpy(),
            slots.numpy(),
            starts.numpy(),
            context_lens.numpy(),
            tables.numpy(),
            case.num_rows,
            scale,
            0.0,
            0,
        )
        return output

    return run


def run_here(side: str, case: OpCase) -> OpFigures:
    """Measure a side in this process, which must be fresh for its memory to mean anything."""
    torch.set_num_threads(case.num_threads)
    small = replace(small_case(case.op), backward=case.backward)
    SIDES[side](small, make_arguments(small))()  # libraries set themselves up
    run = SIDES[side](case, make_arguments(case))
    memory = PeakMemory(case.device)
    memory.restart()
    run()
    peak = memory.peak_bytes()
    return OpFigures(seconds=best_seconds(run, case.device), peak_memory_bytes=peak)


def measure_op(side: str, case: OpCase) -> OpFigures:
    """Measure a side in a fresh process."""
    return OpFigures(**in_fresh_process("benchmarks.harness.op_sides", side, case))


if __name__ == "__main__":
    asked, fields_asked = arguments_of("benchmarks.harness.op_sides", SIDES)
    print(json.dumps(asdict(run_here(asked, OpCase(**fields_asked)))))
