"""Heads are turned as models turn them, in one rounding, into rows or a pool, and back."""

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from greater_fast.kernels import reference
from greater_fast.kernels.layers.rotary import States, turn_and_store, turned
from greater_fast.kernels.reference import HeadNorm, Turns

pytestmark = pytest.mark.usefixtures("gpu_if_any")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# Heads, K/V heads, head size, of which are turned, pairs of neighbours, normed.
SHAPES = [
    (4, 2, 64, 64, False, False),
    (3, 1, 80, 32, False, True),
    (2, 2, 12, 12, True, True),
    (7, 1, 96, 18, True, False),
    (1, 1, 2, 2, False, True),
    (2, 1, 256, 256, False, True),
]
FORMS = pytest.mark.parametrize("shape", SHAPES, ids=str)
KINDS = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def random(*sizes: int) -> torch.Tensor:
    generator = torch.Generator("cpu").manual_seed(sum(sizes))
    return torch.randn(*sizes, generator=generator, device="cpu").to(torch.get_default_device())


def make(
    shape: tuple[int, int, int, int, bool, bool], dtype: torch.dtype, num_tokens: int = 3
) -> tuple[torch.Tensor, Turns]:
    """States [M, H + 2 KV, D], and turns that are no rotations, so that each factor counts."""
    heads, kv_heads, size, width, interleaved, has_norm = shape
    states = 3 * random(num_tokens, heads + 2 * kv_heads, size).to(dtype)
    weights = random(2, size).to(dtype)
    norm = HeadNorm((weights[0], weights[1]), 1e-3, 1.0) if has_norm else None
    cos, sin = random(2, num_tokens, width).to(dtype)
    return states, Turns(cos, sin, interleaved, norm)


def parts(states: torch.Tensor, kv_heads: int) -> States:
    return (states[:, : -2 * kv_heads], states[:, -2 * kv_heads : -kv_heads], states[:, -kv_heads:])


def exact(states: torch.Tensor, kv_heads: int, turns: Turns, dtype: torch.dtype) -> States:
    """Pair by pair, each operation rounded to a type: float64, or that of a model's own code."""
    width, step = turns.cos.shape[1], 2 if turns.interleaved else 1
    cos, sin = turns.cos.to(dtype)[:, None], turns.sin.to(dtype)[:, None]
    found = []
    for part, heads in enumerate(parts(states.to(dtype), kv_heads)[:2]):
        if turns.norm:
            wide = heads.to(torch.promote_types(dtype, torch.float32))
            root = (wide.square().mean(-1, keepdim=True) + turns.norm.epsilon).rsqrt()
            weights = turns.norm.weights[part].to(dtype)
            heads = (wide * root).to(dtype) * (turns.norm.offset + weights)
        columns = list(heads.unbind(-1))
        for pair in range(width // 2):
            x_at = pair * step
            y_at = x_at + (1 if turns.interleaved else width // 2)
            x, y = heads[..., x_at], heads[..., y_at]
            columns[x_at] = x * cos[..., x_at] - y * sin[..., x_at]
            columns[y_at] = y * cos[..., y_at] + x * sin[..., y_at]
        found.append(torch.stack(columns, -1))
    return found[0], found[1], parts(states, kv_heads)[2].to(dtype)


def check(found: torch.Tensor, plain: torch.Tensor, wanted: torch.Tensor) -> None:
    """At most half a unit of the largest more than twice the error of plain torch in the type."""
    assert found.dtype == plain.dtype
    unit = torch.finfo(found.dtype).eps * wanted.abs().max()
    error, allowed = ((x.double() - wanted).abs().max() for x in (found, plain))
    assert error <= 2 * allowed + unit / 2


@FORMS
@KINDS
def test_values(shape: Any, dtype: torch.dtype) -> None:
    states, turns = make(shape, dtype)
    found = turned(states, shape[1], turns)
    plain = exact(states, shape[1], turns, dtype)
    for ours, own, wanted in zip(
        found, plain, exact(states, shape[1], turns, torch.float64), strict=True
    ):
        check(ours, own, wanted)
    assert torch.equal(found[2], plain[2])


@FORMS
@KINDS
def test_gradients(shape: Any, dtype: torch.dtype) -> None:
    """By states alone, from gradients that lie in memory as they come."""
    states, turns = make(shape, dtype)
    states.requires_grad_()
    by_turned = parts(random(shape[0] + 2 * shape[1], 3, shape[2]).to(dtype).transpose(0, 1), 1)
    by_turned = parts(torch.cat(by_turned, 1), shape[1])

    def gradient(kind: torch.dtype | None) -> torch.Tensor:
        outputs = exact(states, shape[1], turns, kind) if kind else turned(states, shape[1], turns)
        by_outputs = [x.to(outputs[0].dtype) for x in by_turned]
        (found,) = torch.autograd.grad(outputs, states, by_outputs)
        return found

    wide = states.detach().double().requires_grad_()
    outputs = exact(wide, shape[1], turns, torch.float64)
    (wanted,) = torch.autograd.grad(outputs, wide, [x.double() for x in by_turned])
    check(gradient(None), gradient(dtype), wanted)


def test_a_part_without_a_gradient_gives_none_to_the_others() -> None:
    states, turns = make(SHAPES[0], torch.float32)
    states.requires_grad_()
    (found,) = torch.autograd.grad(turned(states, 2, turns)[1].sum(), states)
    assert found[:, 4:6].all()
    assert not found[:, :4].any()
    assert not found[:, 6:].any()


@FORMS
@KINDS
def test_the_pool_gets_what_rows_get(shape: Any, dtype: torch.dtype) -> None:
    """To the bit, in its slots, and nothing else of it changes."""
    states, turns = make(shape, dtype)
    pool = torch.full((2, 7, shape[1], 16, shape[2]), torch.nan, dtype=dtype)
    wanted, slots = pool.clone(), torch.tensor([40, 3, 111], dtype=torch.int32)
    rows = turned(states, shape[1], turns)
    found = turn_and_store(parts(states, shape[1]), turns, (pool[0], pool[1]), slots)
    assert torch.equal(found, rows[0])
    reference.store_kv(rows[1:], (wanted[0], wanted[1]), slots)
    torch.testing.assert_close(pool, wanted, rtol=0, atol=0, equal_nan=True)
    assert (~pool.isnan()).sum() == rows[1].numel() + rows[2].numel()


def test_padding_shares_a_slot_that_is_never_read() -> None:
    """Several tokens of the reserved block's first slot: one of them is there."""
    states, turns = make(SHAPES[0], torch.float32)
    pool = torch.full((2, 2, 2, 16, 64), torch.nan)
    turn_and_store(parts(states, 2), turns, (pool[0], pool[1]), torch.zeros(3, dtype=torch.int32))
    assert (pool[:, 0, :, 0].isfinite()).all()
    assert pool[:, 0, :, 1:].isnan().all()
    assert pool[:, 1].isnan().all()


@KINDS
def test_a_token_does_not_depend_on_the_others(dtype: torch.dtype) -> None:
    """Alone, in another order, as views of heads before tokens: the same bits."""
    states, turns = make(SHAPES[1], dtype, num_tokens=5)
    together = turned(states, 1, turns)
    slots = torch.arange(5, dtype=torch.int32)
    for chosen in ([3], [4, 0, 1]):
        some = turns._replace(cos=turns.cos[chosen], sin=turns.sin[chosen])
        for found, expected in zip(turned(states[chosen], 1, some), together, strict=True):
            assert torch.equal(found, expected[chosen])
        pool = torch.full((2, 1, 1, 16, 80), torch.nan, dtype=dtype)
        views = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in parts(states[chosen], 1)]
        given = (views[0], views[1], views[2])
        found = turn_and_store(given, some, (pool[0], pool[1]), slots[: len(chosen)])
        assert torch.equal(found, together[0][chosen])


def test_turns_may_be_more_precise_than_states() -> None:
    states, turns = make(SHAPES[0], torch.float16)
    exactly = turns._replace(cos=random(3, 64), sin=random(3, 64))
    wanted = exact(states, 2, exactly, torch.float64)[0]
    found = turned(states, 2, exactly)[0]
    assert_close(found, wanted.to(found.dtype), rtol=1e-3, atol=0)  # its last bit: a GPU fuses
    rounded = exactly._replace(cos=exactly.cos.half(), sin=exactly.sin.half())
    assert not torch.equal(found, turned(states, 2, rounded)[0])


WRONG: dict[str, dict[str, Any]] = {
    "queries: got": {"queries": lambda x: x.double()},
    "expected a multiple": {"queries": lambda x: x[:, :3]},
    "keys: got": {"keys": lambda x: x[1:]},
    "values: got": {"values": lambda x: x.half()},
    "queries: got .* strides": {"queries": lambda x: x.repeat_interleave(2, 2)[..., ::2]},
    "cos: got .* of width 6": {"cos": lambda x: x[:, :6].repeat(1, 11)[:, :66]},
    "cos: got .* of width 7": {"cos": lambda x: x[:, :7]},
    "sin: got": {"sin": lambda x: x[1:]},
    "cos: expected a contiguous": {"cos": lambda x: x.repeat(1, 2)[:, :64]},
    "slots: got": {"slots": lambda x: x.long()},
    "expected contiguous|contiguous pool": {"pool": lambda x: x.transpose(1, 2)},
    "got tensors on": {"slots": lambda x: x.to("meta")},
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_arguments(message: str) -> None:
    states, turns = make(SHAPES[0], torch.float32)
    queries, keys, values = parts(states, 2)
    given = {
        "queries": queries,
        "keys": keys,
        "values": values,
        "cos": turns.cos,
        "sin": turns.sin,
        "pool": torch.zeros(2, 3, 2, 16, 64),
        "slots": torch.zeros(3, dtype=torch.int32),
    }
    given |= {name: change(given[name]) for name, change in WRONG[message].items()}
    with pytest.raises(ValueError, match=message):
        turn_and_store(
            (given["queries"], given["keys"], given["values"]),
            Turns(given["cos"], given["sin"]),
            (given["pool"][0], given["pool"][1]),
            given["slots"],
        )
    with pytest.raises(ValueError, match="states: expected"):
        turned(states.transpose(0, 1).contiguous().transpose(0, 1), 2, turns)
