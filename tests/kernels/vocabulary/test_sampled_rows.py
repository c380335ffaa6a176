"""Sampling inside the log-probability kernels: noise by its bits, samples against float64."""

import pytest
import torch
import triton
import triton.language as tl

from greater_fast.kernels.dispatch import target_logprob, target_logprob_and_sample
from greater_fast.kernels.reference import Head
from greater_fast.kernels.vocabulary import head_logits, noise
from greater_fast.kernels.vocabulary.noise import Noise
from tests.kernels.arithmetic import DTYPES, all_products, random_ids, random_matrix
from tests.kernels.vocabulary.test_target_logprob import HEADS, problem

pytestmark = pytest.mark.usefixtures("gpu_if_any")
KEYS = [0, 1, 2, 3, 2**31 - 1, 2**31, 2**40 + 5, 2**63 - 1]
PLACES = [0, 1, 255, 2**31 - 1]


def exact_noise(bits: torch.Tensor) -> torch.Tensor:
    """Gumbel noise in float64, of the float32 numbers that the bits stand for."""
    uniform = ((bits.float() + 0.5) * 2**-31).clamp(max=1 - 2**-24).double()
    return -torch.log(-torch.log1p(-uniform))


@triton.jit
def noise_kernel(keys, places, bits, values, num_tokens, block: tl.constexpr):
    """Noise of the rows [4] as a launch makes it, for a block of tokens."""
    row = tl.arange(0, 4)
    token = tl.program_id(0) * block + tl.arange(0, block)
    words = head_logits.row_words(tl.load(keys + row), tl.load(places + row))
    at = row[:, None] * num_tokens + token[None, :]
    inside = (token < num_tokens)[None, :]
    tl.store(bits + at, head_logits.noise_bits(words[0], words[1], token), mask=inside)
    tl.store(values + at, head_logits.gumbel_noise(words[0], words[1], token), mask=inside)


@pytest.mark.parametrize("seed", [0, 7, 2**40 + 3, -1])
@pytest.mark.parametrize("first", range(0, len(KEYS), 4))
def test_the_uniform_numbers_are_the_same_bits(seed: int, first: int) -> None:
    num_tokens = 3000
    examples, places = torch.tensor(KEYS[first : first + 4]), torch.tensor(PLACES)
    bits = torch.empty(4, num_tokens, dtype=torch.int32)
    values = torch.empty(4, num_tokens)
    keys = noise.noise_keys(seed, examples)
    noise_kernel[(triton.cdiv(num_tokens, 512),)](keys, places, bits, values, num_tokens, block=512)
    assert torch.equal(bits, noise.noise_bits(seed, examples, places, num_tokens))
    expected = exact_noise(bits)
    for found in (values, noise.gumbel_noise(seed, examples, places, num_tokens)):
        assert ((found - expected).abs() <= 1e-6 * (1 + expected.abs())).all()


@triton.jit
def extremes_kernel(bits, values):
    at = tl.arange(0, 8)
    tl.store(values + at, head_logits.gumbel_of(tl.load(bits + at)))


def test_noise_is_finite_at_both_ends() -> None:
    """Also where 1 - u is 1 in float32, and where u is 1."""
    bits = torch.tensor([0, 1, 2, 127, 128, 2**30, 2**31 - 65, 2**31 - 1], dtype=torch.int32)
    values = torch.empty(8)
    extremes_kernel[(1,)](bits, values)
    expected = exact_noise(bits)
    assert ((values - expected).abs() <= 1e-6 * (1 + expected.abs())).all()
    assert values[0] > 22
    assert values[-1] < -2.8


def noise_of(num_rows: int, temperature: float, seed: int = 5) -> Noise:
    """Every third row is not sampled."""
    rows = torch.arange(num_rows)
    return Noise(seed, 2**33 + rows * 7, torch.where(rows % 3 == 2, -1, rows // 2), temperature)


def noisy_logits(hidden: torch.Tensor, head: Head, given: Noise) -> torch.Tensor:
    """Logits and noise in float64, [R, V]."""
    logits = torch.tensor(all_products(hidden, head.weight, head.scale), dtype=torch.float64)
    if cap := head.soft_cap:
        logits = cap * torch.tanh(logits / cap)
    bits = noise.noise_bits(given.seed, given.examples, given.places, len(head.weight))
    return logits + given.temperature * exact_noise(bits)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 130, 33), (6, 1100, 8)])
@pytest.mark.parametrize("options", HEADS[:2])
def test_samples_against_float64(
    shape: tuple[int, int, int], dtype: torch.dtype, options: tuple[float, float]
) -> None:
    hidden, targets, head, temperatures = problem(shape, dtype, options)
    given = noise_of(shape[0], 1.3)
    found = target_logprob_and_sample(hidden, targets, head, temperatures, given, "triton")
    logprobs, argmax, sampled = found
    assert sampled is not None
    expected = noisy_logits(hidden, head, given)
    sampled_rows = given.places >= 0
    assert (sampled[~sampled_rows] == 0).all()
    chosen, best = expected.gather(1, sampled[:, None])[:, 0], expected.amax(1)
    assert (best - chosen)[sampled_rows].max() < 1e-5  # the same, but for near-ties
    plain_logprobs, plain_argmax = target_logprob(hidden, targets, head, temperatures, "triton")
    assert torch.equal(argmax, plain_argmax)
    torch.testing.assert_close(logprobs, plain_logprobs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES[:2])
def test_a_sample_does_not_depend_on_the_other_rows(dtype: torch.dtype) -> None:
    hidden, targets, head, temperatures = problem((130, 100, 8), dtype, (1.0, 5.0))
    given = noise_of(130, 0.8)
    whole = target_logprob_and_sample(hidden, targets, head, temperatures, given, "triton")
    for rows in ([0], [129, 7, 128]):
        own = given._replace(examples=given.examples[rows], places=given.places[rows])
        some = target_logprob_and_sample(
            hidden[rows], targets[rows], head, temperatures[rows], own, "triton"
        )
        for found, expected in zip(some, whole, strict=True):
            assert found is not None
            assert expected is not None
            assert torch.equal(found, expected[rows])


def test_equals_the_reference() -> None:
    hidden, targets, head, temperatures = problem((40, 700, 16), torch.float32, (0.5, 6.0))
    given = noise_of(40, 0.7)
    found, expected = (
        target_logprob_and_sample(hidden, targets, head, temperatures, given, backend)
        for backend in ("triton", "reference")
    )
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-5)
    assert torch.equal(found[1], expected[1])
    assert found[2] is not None
    assert expected[2] is not None
    assert torch.equal(found[2], expected[2])
    assert len(set(found[2].tolist())) > 20  # they are samples
    assert not torch.equal(found[2], found[1])


def test_without_noise_nothing_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, targets, head, temperatures = problem((5, 600, 8), torch.float32)
    expected = target_logprob(hidden, targets, head, temperatures, "triton")
    monkeypatch.setattr(noise, "noise_keys", lambda *_: pytest.fail("noise was made"))
    hidden.requires_grad_()
    for backend in ("triton", "reference"):
        found = target_logprob_and_sample(hidden, targets, head, temperatures, None, backend)
        assert found[2] is None
        assert not found[0].requires_grad
        torch.testing.assert_close(found[:2], expected, rtol=1e-5, atol=1e-5)


def test_a_temperature_of_nothing_samples_the_lowest_of_equals() -> None:
    """Also where equals lie in several parts of the vocabulary."""
    weight = torch.tensor([1.0, 3.0, 3.0, 2.0]).repeat(300)[1:, None]
    hidden = torch.tensor([[1.0], [-1.0], [0.0], [1.0]])
    places = torch.tensor([0, 1, 2, -1])
    given = Noise(0, torch.arange(4), places, 0.0)
    targets = torch.zeros(4, dtype=torch.int64)
    *_, sampled = target_logprob_and_sample(hidden, targets, Head(weight), 1.0, given, "triton")
    assert sampled is not None
    assert sampled.tolist() == [0, 3, 0, 0]


@pytest.mark.filterwarnings("ignore:All-NaN|invalid value:RuntimeWarning")
def test_a_row_that_is_not_finite_leaves_the_others_alone() -> None:
    hidden, targets, head, temperatures = problem((4, 600, 8), torch.float32)
    given = noise_of(4, 1.0)._replace(places=torch.arange(4))
    expected = target_logprob_and_sample(hidden, targets, head, temperatures, given, "triton")
    hidden[2] = torch.nan
    found = target_logprob_and_sample(hidden, targets, head, temperatures, given, "triton")
    assert found[2] is not None
    assert 0 <= int(found[2][2]) < 600
    for one, other in zip(found, expected, strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one[[0, 1, 3]], other[[0, 1, 3]])


def test_no_rows_and_wrong_arguments() -> None:
    head = Head(random_matrix(50, 8, torch.float32))
    nothing = torch.arange(0)
    given = Noise(0, nothing, nothing, 1.0)
    for backend in ("triton", "reference"):
        found = target_logprob_and_sample(torch.zeros(0, 8), nothing, head, 1.0, given, backend)
        assert [None if x is None else x.shape for x in found] == [(0,)] * 3
    rows, ids = torch.zeros(2, 8), random_ids(50, 2)
    with pytest.raises(ValueError, match=r"examples: got \[0\] torch.int64"):
        target_logprob_and_sample(rows, ids, head, 1.0, given)
    with pytest.raises(ValueError, match=r"places: got \[2\] torch.int32"):
        target_logprob_and_sample(rows, ids, head, 1.0, Noise(0, ids, ids.int(), 1.0))
    with pytest.raises(ValueError, match="temperature: got 0"):
        target_logprob_and_sample(rows, ids, head, 0.0)
