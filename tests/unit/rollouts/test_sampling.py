"""Sampling: noise that is a pure function, with the distribution it should have."""

import math

import numpy as np
import pytest
import torch

from greater_fast.kernels.vocabulary.noise import gumbel_noise
from greater_fast.rollouts.sampling import Sampler, make_sampler, sample_keys

EULER = 0.5772156649


def noise(seed: int, examples: list[int], places: list[int], vocab_size: int) -> torch.Tensor:
    return gumbel_noise(seed, torch.tensor(examples), torch.tensor(places), vocab_size)


def test_an_entry_depends_on_its_keys_alone() -> None:
    examples = [e for e in range(7) for _ in range(9)]
    places = list(range(9)) * 7
    whole = noise(5, examples, places, 1000)
    for row in (0, 17, 62):
        alone = noise(5, [examples[row]], [places[row]], 1000)
        assert torch.equal(alone[0], whole[row])
        assert torch.equal(noise(5, [examples[row]], [places[row]], 33)[0], whole[row, :33])
    order = torch.randperm(63, generator=torch.Generator().manual_seed(0)).tolist()
    mixed = noise(5, [examples[i] for i in order], [places[i] for i in order], 1000)
    assert torch.equal(mixed, whole[order])


def test_every_key_changes_the_noise() -> None:
    rows = [
        noise(seed, [example], [place], 500)[0]
        for seed, example, place in [
            (0, 0, 0),
            (1, 0, 0),
            (0, 1, 0),
            (0, 0, 1),
            (1, 1, 0),
            (0, 1, 1),
            (2**40, 0, 0),
            (0, 2**40, 0),
            (0, 0, 2**31),
        ]
    ]
    for i, row in enumerate(rows):
        for other in rows[:i]:
            assert not (row == other).any()


def test_the_noise_is_gumbels() -> None:
    found = noise(3, list(range(40)), [0] * 40, 5000).double()
    assert found.mean().item() == pytest.approx(EULER, abs=4 * 1.28 / math.sqrt(found.numel()))
    assert found.var().item() == pytest.approx(math.pi**2 / 6, rel=0.02)
    uniform = torch.exp(-torch.exp(-found))
    counts = torch.histc(uniform, 64, 0, 1)
    expected = found.numel() / 64
    assert (counts - expected).abs().max().item() < 5 * math.sqrt(expected)


@pytest.mark.parametrize("step", [(0, 1), (1, 0)], ids=["rows", "ids"])
@pytest.mark.parametrize("key", ["examples", "places"])
def test_neighbours_are_independent(step: tuple[int, int], key: str) -> None:
    rows = list(range(200))
    found = noise(0, rows, [3] * 200, 500) if key == "examples" else noise(0, [3] * 200, rows, 500)
    own = found[: 200 - step[1], : 500 - step[0]].flatten()
    other = found[step[1] :, step[0] :].flatten()
    correlation = np.corrcoef(own.numpy(), other.numpy())[0, 1]
    assert abs(correlation) < 4 / math.sqrt(len(own))


def test_the_noise_is_finite_and_reaches_far() -> None:
    found = noise(1, [0] * 400, list(range(400)), 20_000)
    assert found.isfinite().all()
    assert found.min() < -2.5
    assert found.max() > 13  # of eight million, about 16


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_frequencies_are_those_of_softmax(temperature: float) -> None:
    num_draws = 20_000
    logits = torch.tensor([2.0, 1.5, 0.0, -1.0, -3.0, 1.5, 0.7])
    examples, places = torch.arange(num_draws) % 100, torch.arange(num_draws) // 100
    sampler = Sampler(temperature, seed=11)
    drawn = sampler.perturbed(logits.expand(num_draws, -1), examples, places).argmax(-1)
    found = torch.bincount(drawn, minlength=7) / num_draws
    expected = (logits / temperature).softmax(-1)
    spread = (expected * (1 - expected) / num_draws).sqrt()
    assert ((found - expected).abs() <= 4 * spread + 1 / num_draws).all()


def test_at_temperature_zero_the_sample_is_the_argmax() -> None:
    logits = torch.randn(300, 50, generator=torch.Generator().manual_seed(0))
    logits[:, 7] = logits[:, 30] = logits.max() + 1  # ties go to the lower id
    rows = torch.arange(300)
    for temperature in (1e-12, 1e-30):
        drawn = Sampler(temperature, 0).perturbed(logits, rows, rows).argmax(-1)
        assert torch.equal(drawn, logits.argmax(-1))
    assert make_sampler(0.0, 0) is None
    with pytest.raises(ValueError, match=r"sampling_temperature: got -1.0, expected 0 or more"):
        make_sampler(-1.0, 0)


def test_the_temperature_is_taken_as_given() -> None:
    assert make_sampler(0.7, 3) == Sampler(0.7, 3)


def test_any_whole_number_is_a_key() -> None:
    device = torch.device("cpu")
    assert sample_keys([0, 5, 2**63 + 5], device).tolist() == [0, 5, 5]
    assert sample_keys([-1], device).tolist() == [2**63 - 1]
    with pytest.raises(ValueError, match="sample_key: "):
        sample_keys([1.5], device)  # type: ignore[list-item]


def test_zero_is_a_key_like_any_other() -> None:
    assert noise(0, [0], [0], 200).max() < 12
    assert noise(0, [0] * 50, list(range(50)), 1).abs().max() < 8
    assert noise(0, list(range(50)), [0] * 50, 1).abs().max() < 8


def test_a_seed_gives_the_same_noise_in_every_version() -> None:
    known = [[-0.478419244, -0.134011760, 2.606440306], [0.790618539, 2.708232880, 1.800847530]]
    torch.testing.assert_close(noise(0, [0, 1], [0, 2], 3), torch.tensor(known))
