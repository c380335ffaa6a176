"""The kernels' ops: arguments at full size and small, and the floors under their seconds."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks.harness.machine import copy_rate, product_rate
from benchmarks.harness.packed_op import PackedArguments
from greater_fast.kernels import reference
from greater_fast.kernels.attention.packed_reference import Segments

BLOCK_SIZE = 16
Arguments = tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpCase:
    """An op and its sizes: vocabulary, width, and rows, or sequences for attention.

    A sequence of `length` tokens stands behind `context` others in a packed row.
    """

    op: str
    vocab_size: int = 0
    width: int
    num_rows: int
    num_heads: int = 1
    num_kv_heads: int = 1
    context: int = 0
    length: int = 0
    backward: bool = False
    top_k: int = 10
    num_threads: int = 2

    @property
    def device(self) -> torch.device:
        """A GPU where there is one."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and keys."""
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    @property
    def bytes_read(self) -> int:
        """The least that must be read: the matrix, or all keys and values, once."""
        if self.op == "paged_attention":
            numbers = 2 * self.num_rows * self.context * self.num_kv_heads * self.width
        elif self.op == "packed_attention":
            stored = 2 * self.num_rows * (self.context + self.length) * self.num_kv_heads
            numbers = (self.num_rows * self.length * self.num_heads + stored) * self.width
        else:
            numbers = self.vocab_size * self.width
        return numbers * self.dtype.itemsize * (2 if self.backward else 1)

    @property
    def flops(self) -> int:
        """Multiplications and additions of the products."""
        if self.op == "paged_attention":
            return 4 * self.num_rows * self.context * self.num_heads * self.width
        if self.op == "packed_attention":
            own = self.length * (self.length + 1) // 2
            pairs = self.length * self.context + own
            # Scores and outputs; on the way back scores, dp and dq, and of own keys dk and dv.
            products = 5 * pairs + 2 * own if self.backward else 2 * pairs
            return 2 * self.num_rows * products * self.num_heads * self.width
        products = (
            3 if self.backward else 1
        )  # the logits again, and their gradient times the matrix
        return 2 * products * self.num_rows * self.vocab_size * self.width


def full_case(op: str) -> OpCase:
    """Sizes of SmolLM2-135M on a CPU, of Llama-3-8B on a GPU."""
    on_gpu = torch.cuda.is_available()
    vocab_size, width = (128256, 4096) if on_gpu else (49152, 576)
    heads, kv_heads, size = (32, 8, 128) if on_gpu else (9, 3, 64)
    if op == "packed_attention":
        return OpCase(
            op=op,
            width=size,
            num_rows=16,
            num_heads=heads,
            num_kv_heads=kv_heads,
            context=100,
            length=256 if on_gpu else 64,
        )
    if op == "paged_attention":
        return OpCase(
            op=op,
            width=size,
            num_rows=150,
            num_heads=heads,
            num_kv_heads=kv_heads,
            context=400 if on_gpu else 200,
        )
    rows = 256 if op == "target_logprob" else 64
    return OpCase(op=op, vocab_size=vocab_size, width=width, num_rows=rows)


def small_case(op: str) -> OpCase:
    """Sizes that only show that it runs."""
    if op == "paged_attention":
        return OpCase(
            op=op, width=16, num_rows=3, num_heads=4, num_kv_heads=2, context=21, num_threads=1
        )
    if op == "packed_attention":
        return replace(small_case("paged_attention"), op=op, length=5)
    return OpCase(op=op, vocab_size=500, width=48, num_rows=5, top_k=4, num_threads=1)


def make_arguments(case: OpCase) -> Arguments:
    """Random arguments of an op, the same every time."""
    generator = torch.Generator(case.device).manual_seed(0)

    def random(*shape: int, dtype: torch.dtype = case.dtype) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=case.device).to(dtype)

    if case.op in ("paged_attention", "packed_attention"):
        width = -(-case.context // BLOCK_SIZE)
        pool = random(2, 1 + case.num_rows * width, case.num_kv_heads, BLOCK_SIZE, case.width)
        tables = torch.randperm(case.num_rows * width, generator=generator, device=case.device)
        starts = torch.arange(case.num_rows + 1, device=case.device)
        ranges = reference.Ranges(
            starts=starts.int(),
            context_lens=torch.full_like(starts[1:], case.context).int(),
            block_tables=(1 + tables).view(case.num_rows, width).int(),
        )
        if case.op == "packed_attention":
            lengths, sizes = [case.length] * case.num_rows, [case.context] * case.num_rows
            segments = Segments(lengths, sizes, ranges.block_tables.tolist(), case.device)
            queries, keys, values, gradient = (
                random(segments.num_tokens, heads, case.width)
                for heads in (case.num_heads, case.num_kv_heads, case.num_kv_heads, case.num_heads)
            )
            states = queries, keys, values
            return PackedArguments(states, (pool[0], pool[1]), segments, gradient)
        queries = random(case.num_rows, case.num_heads, case.width)
        return queries, (pool[0], pool[1]), ranges, case.width**-0.5
    weight = random(case.vocab_size, case.width)
    rows = random(case.num_rows, case.width, dtype=torch.float32)
    if case.op == "vocabulary_top_k":
        allowed = torch.arange(case.vocab_size, device=case.device) % 3 > 0
        return weight, rows, allowed, case.top_k, 1.0
    targets = torch.arange(case.num_rows, device=case.device) * 7 % case.vocab_size
    temperatures = torch.full((case.num_rows,), 0.2, device=case.device)
    hidden = (rows / case.width**0.5).to(case.dtype)
    return hidden, targets, reference.Head(weight), temperatures


@dataclass(frozen=True, slots=True, kw_only=True)
class Floors:
    """The least number of seconds for an op: of its reading alone, and of its products alone."""

    copy: float
    product: float

    def shares(self, case: OpCase, seconds: float) -> dict[str, float]:
        """How near the floors an op is."""
        return {
            "gigabytes_per_second": case.bytes_read / seconds / 1e9,
            "share_of_copy_rate": self.copy / seconds,
            "share_of_product_rate": self.product / seconds,
        }


def floors(case: OpCase, small: bool = False) -> Floors:
    """At the rates of a large copy and of a large product, measured here and now."""
    copied = copy_rate(case.device, 1 << (20 if small else 28))
    multiplied = product_rate(case.device, case.dtype, 64 if small else 2048)
    return Floors(copy=case.bytes_read / copied, product=case.flops / multiplied)
