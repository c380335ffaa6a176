"""What a run takes of a device's memory, told from shapes and lengths before weights are read.

    needed = weights + gradient + logits + overhead + K/V pool

The pool takes what the others leave, up to what could be in use at once; one sequence must fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from greater_fast.config import KV_CACHE_BYTES, Config
from greater_fast.examples.layout import Layouts
from greater_fast.memory.activations import EFFICIENT_TOKENS, GPU_SHARE, GPU_TOKENS
from greater_fast.memory.shapes import ModelShapes
from greater_fast.model.byte_sizes import CONTEXT_BYTES, format_bytes
from greater_fast.model.kv_cache import BLOCK_SIZE
from greater_fast.model.lm import LOGIT_FLOATS

LOGIT_COPIES = 3  # as the model makes them, in float32, divided by a temperature
NOISE_COPIES = 1  # beside them, where any reasoning is sampled
OVERHEAD_BYTES = {"cpu": 1 << 29}  # interpreter and libraries
# The context, workspaces of products (8 of 32 MiB), a step's states and its graph's, fragments.
GPU_OVERHEAD_BYTES = CONTEXT_BYTES + (1 << 30)
_GRADIENT_PART = 3  # of what a GPU has left, the gradient takes one part of so many
_FEW_TOKENS = 1024  # where layers are computed twice for the pool's sake: more would gain little
_POOL_GAIN = 1.25


@dataclass(frozen=True, slots=True)
class RowLengths:
    """What a plan needs to know of the rows: how many are searched on, and tokens of a sequence.

    `num_rows` counts the largest set, `mean` and `longest` are over all; prompt and reasoning count
    at their longest.
    """

    num_train: int
    num_rows: int
    mean: int
    longest: int

    @classmethod
    def of(cls, layouts: Mapping[str, Layouts], config: Config) -> RowLengths:
        """The lengths of the rows of each set; the one that is searched on is `train`."""
        longest = max(rows.longest_sequence(config) for rows in layouts.values())
        around = [len(r.head_ids) + len(r.tail_ids) for rows in layouts.values() for r in rows.rows]
        return cls(
            num_train=len(layouts["train"]),
            num_rows=max(map(len, layouts.values())),
            mean=longest - max(around) + round(sum(around) / len(around)),
            longest=longest,
        )

    def num_sequences(self, config: Config) -> int:
        """Sequences at a time: those of a step, or of a set."""
        return max(self.step_sequences(config), self.num_rows)

    def step_sequences(self, config: Config) -> int:
        """A shortlist's or draws on the training rows."""
        draws = config.num_reasonings if config.draws_reasonings else 0
        return max(config.shortlist_size, draws) * self.num_train

    def shortened(self, num_tokens: int) -> RowLengths:
        """The same with that many tokens less in each sequence."""
        return replace(self, mean=self.mean - num_tokens, longest=self.longest - num_tokens)


@dataclass(frozen=True, slots=True)
class Need:
    """One part of the memory, and how its size comes about."""

    name: str
    num_bytes: int
    how: str


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The parts, all that there is, and what to change where it is not enough.

    `pool_bytes` is the K/V pool (None for an engine that has none), of several models their sum,
    with each one's own in `pools`; `checkpointing` says whether the gradient computes layers twice,
    `gradient_tokens` how many it takes at a time.
    """

    needs: tuple[Need, ...]
    total_bytes: int
    pool_bytes: int | None
    checkpointing: bool
    gradient_tokens: int
    advice: tuple[str, ...] = ()
    pools: tuple[int | None, ...] = ()

    @property
    def needed_bytes(self) -> int:
        """The sum of the parts."""
        return sum(need.num_bytes for need in self.needs)

    @property
    def fits(self) -> bool:
        """Whether there is enough."""
        return self.needed_bytes <= self.total_bytes

    @property
    def verdict(self) -> str:
        """The plan in one line."""
        relation = "fit into" if self.fits else "do not fit into"
        parts = " + ".join(f"{n.name} {format_bytes(n.num_bytes)}" for n in self.needs)
        return (
            f"memory: {parts} = {format_bytes(self.needed_bytes)} {relation} "
            f"{format_bytes(self.total_bytes)}"
        )

    @property
    def table(self) -> tuple[str, ...]:
        """A line for each part."""
        return tuple(
            f"{need.name:<14} {format_bytes(need.num_bytes):>11}  {need.how}" for need in self.needs
        )

    def settled(self, config: Config, model: int = 0) -> Config:
        """The settings of a model, by its number, with the plan's pool where they name none."""
        pool_bytes = self.pools[model] if self.pools else self.pool_bytes
        if config.kv_cache_bytes is not None or pool_bytes is None:
            return config
        return replace(config, kv_cache_bytes=pool_bytes)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values, for JSON."""
        return {
            **asdict(self),
            "needed_bytes": self.needed_bytes,
            "fits": self.fits,
            "verdict": self.verdict,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is planned for: a model and rows, settings, and a device's kind and memory."""

    shapes: ModelShapes
    lengths: RowLengths
    config: Config
    total_bytes: int
    device_type: str = "cuda"

    @property
    def has_pool(self) -> bool:
        """Whether there is a K/V pool: of the paged engine, unless the model keeps none."""
        return self.config.engine != "generate" and self.shapes.kv_token_bytes > 0

    @property
    def sequence_bytes(self) -> int:
        """Blocks of keys and values of the longest sequence."""
        num_blocks = -(-self.lengths.longest // BLOCK_SIZE)
        return num_blocks * BLOCK_SIZE * self.shapes.kv_token_bytes

    @property
    def gradient_tokens(self) -> int:
        """Tokens of a gradient micro-batch at most; one example always goes through whole."""
        if not self.config.takes_gradients:
            return 0
        lengths, given = self.lengths, self.config.gradient_batch_tokens
        most = given or (GPU_TOKENS if self.device_type == "cuda" else EFFICIENT_TOKENS)
        return max(
            lengths.longest, min(most, self.num_passed * lengths.num_train * lengths.longest)
        )

    @property
    def num_passed(self) -> int:
        """Sequences of a row that go through a gradient's pass at most: its reasonings, or one."""
        return self.config.num_reasonings if self.config.asks_for_reasonings else 1

    @property
    def logit_copies(self) -> int:
        """How often a chunk of logits is there at once."""
        samples = self.config.sampling_temperature > 0 or self.config.draws_reasonings
        return LOGIT_COPIES + NOISE_COPIES * samples

    def gradient_bytes(self, num_tokens: int, *, checkpointing: bool) -> int:
        """What the gradient of so many tokens takes, as `plan_pass` will count it."""
        kept = self.shapes.activation_bytes(num_tokens, checkpointing=checkpointing)
        return math.ceil(kept / GPU_SHARE) if self.device_type == "cuda" else kept


def budget(load: Workload) -> MemoryPlan:
    """The plan of a run as it is, without advice.

    Raises:
        ValueError: `kv_cache_bytes` is set, and too small for one sequence.
    """
    asked = load.config.gradient_checkpointing if load.config.takes_gradients else "off"
    either = (False, True) if load.shapes.recomputable else (False,)
    ways = {"off": (False,), "on": (True,), "auto": either}[asked]
    plans = [_budget(load, checkpointing=way) for way in ways]
    first, last = plans[0], plans[-1]
    return last if not first.fits or _gains_sequences(load, first, last) else first


def _gains_sequences(load: Workload, plan: MemoryPlan, other: MemoryPlan) -> bool:
    """Whether another plan of a GPU fits, and its pool holds many more of a step's sequences.

    Then computing layers twice is worth it: it costs half as much again of the gradient, which is a
    fifth of a step, while a pool that is too small costs as much of the rollouts as it lacks.
    """
    if load.device_type != "cuda" or not other.fits or not plan.pool_bytes:
        return False
    enough = load.lengths.step_sequences(load.config) * load.sequence_bytes
    return min(other.pool_bytes or 0, enough) >= _POOL_GAIN * min(plan.pool_bytes, enough)


def _budget(load: Workload, *, checkpointing: bool) -> MemoryPlan:
    shapes, sharing = load.shapes, load.shapes.num_ranks
    part = "all parameters once" if sharing == 1 else f"the part of one of {sharing} ranks"
    weights, logits, overhead = (
        Need("weights", shapes.weight_bytes, f"{part}, embeddings in {8 * shapes.itemsize} bits"),
        Need(
            "logits",
            load.logit_copies * 4 * LOGIT_FLOATS,
            f"{LOGIT_FLOATS // shapes.vocab_size} rows of {shapes.vocab_size} in float32, "
            f"{load.logit_copies} times",
        ),
        Need(
            "overhead",
            OVERHEAD_BYTES.get(load.device_type, GPU_OVERHEAD_BYTES),
            "libraries" if load.device_type == "cpu" else "context, kernels, the allocator's gaps",
        ),
    )
    left = load.total_bytes - sum(need.num_bytes for need in (weights, logits, overhead))
    tokens = _gradient_tokens(load, left, checkpointing=checkpointing)
    kept = "layer inputs, one layer in full" if checkpointing else "what autograd keeps"
    rough = " (roughly: some are recurrent)" if shapes.is_rough else ""
    spare = ", and for the way back" if load.device_type == "cuda" else ""
    # Of a token they take next to nothing more: a last state and its gradient, beside all layers'.
    more = f"; reasonings too, up to {load.num_passed} of a row" if load.num_passed > 1 else ""
    how = f"{kept} of {tokens} tokens in {shapes.num_layers} layers{rough}{spare}{more}"
    gradient = Need(
        "gradient",
        load.gradient_bytes(tokens, checkpointing=checkpointing) if tokens else 0,
        how if tokens else "none: the shortlist is random",
    )
    left -= gradient.num_bytes
    cache, pool_bytes = _pool(load, left) if load.has_pool else _generate_cache(load)
    needs = (weights, gradient, logits, overhead, cache)
    return MemoryPlan(needs, load.total_bytes, pool_bytes, checkpointing, tokens)


def _gradient_tokens(load: Workload, left: int, *, checkpointing: bool) -> int:
    """Tokens of a micro-batch: of a GPU as many as fit beside the pool, and one example at least.

    A pool that is still to be sized gains more by what is left: where it holds few sequences at a
    time, weights are read more often. So the gradient has a third of it.
    """
    most = load.gradient_tokens
    if load.device_type != "cuda" or load.config.gradient_batch_tokens or not most:
        return most
    if not load.has_pool:
        room = left - _generate_cache(load)[0].num_bytes
    elif load.config.kv_cache_bytes:
        room = left - load.config.kv_cache_bytes
    else:
        room = left // _GRADIENT_PART
        most = min(most, _FEW_TOKENS) if checkpointing else most
    fitting = room // load.gradient_bytes(1, checkpointing=checkpointing)
    return max(load.lengths.longest, min(most, fitting))


def _pool(load: Workload, left: int) -> tuple[Need, int]:
    """The K/V pool of the paged engine: as set, or what is left, up to what could be in use."""
    least, lengths, given = load.sequence_bytes, load.lengths, load.config.kv_cache_bytes
    num_sequences = lengths.num_sequences(load.config)
    wanted = num_sequences * least
    if given is not None and given < least:
        raise ValueError(
            f"kv_cache_bytes: the pool of {given} bytes is too small for a sequence of "
            f"{lengths.longest} tokens: give it {least} at least, or lower max_new_tokens or "
            "max_prompt_tokens"
        )
    if given is None:
        most = KV_CACHE_BYTES if load.device_type == "cpu" else wanted
        given = max(least, min(wanted, left, most))
    room = min(num_sequences, given // least)
    how = (
        f"{load.shapes.kv_token_bytes} bytes a token, {room} of {num_sequences} sequences of "
        f"{lengths.longest} tokens (mean {lengths.mean})"
    )
    return Need("K/V pool", given, how), given


def _generate_cache(load: Workload) -> tuple[Need, None]:
    """Keys and values of a batch of transformers' generate, where a layer at a time is copied."""
    num_rows, longest, shapes = load.config.batch_size, load.lengths.longest, load.shapes
    num_bytes = num_rows * longest * (shapes.kv_token_bytes + shapes.kv_layer_bytes)
    how = f"{num_rows} sequences of {longest} tokens, a layer of them twice as it grows"
    return Need("K/V of a batch", num_bytes, how), None
