"""Two ranks that share a model find what one process finds that has all of it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from greater_fast.engine import Rollout
from greater_fast.model.lm import load_lm
from tests.cases import tokenizer
from tests.e2e import sharing
from tests.e2e.sharing import CASES, Found
from tests.ports import free_port
from tests.tiny import tiny_model

ROOT = Path(__file__).resolve().parents[2]
NUM_RANKS = 2
NEAR = 1e-4  # two logits that close may change places in float32
KINDS = {"llama": "llama3", "gemma2": "sentencepiece", "phi3": "llama3"}

All = dict[tuple[str, str], Found]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiny models in safetensors."""
    folder = tmp_path_factory.mktemp("models")
    for family, kind in KINDS.items():
        vocabulary = tokenizer(kind)
        tiny_model(family, len(vocabulary)).save_pretrained(folder / family)
        vocabulary.save_pretrained(folder / family)
    return folder


@pytest.fixture(scope="module")
def out(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what each of the ranks found."""
    out = tmp_path_factory.mktemp("found")
    environ = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(NUM_RANKS),
    }
    command = [sys.executable, "-m", "tests.e2e.sharing", str(models), str(out)]
    ranks = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=environ | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(NUM_RANKS)
    ]
    try:
        said = [rank.communicate(timeout=1800)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0] * NUM_RANKS, said
    return out


@pytest.fixture(scope="module")
def shared(out: Path) -> list[All]:
    """What each of the ranks found."""
    return [torch.load(out / f"{rank}.pt", weights_only=False) for rank in range(NUM_RANKS)]


@pytest.fixture(scope="module")
def whole(models: Path) -> Iterator[All]:
    """What one process found."""
    num_threads = torch.get_num_threads()
    yield sharing.find_all(models, None)
    torch.set_num_threads(num_threads)


def test_ranks_find_the_same_bits(shared: list[All]) -> None:
    first, second = shared
    for case in CASES:
        assert first[case].rollouts == second[case].rollouts
        for name, numbers in first[case].numbers.items():
            assert torch.equal(numbers, second[case].numbers[name]), (case, name)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_in_float64_they_find_what_one_process_finds(
    shared: list[All], whole: All, family: str
) -> None:
    found, expected = (each[family, "float64"] for each in (shared[0], whole))
    for engine, rollouts in expected.rollouts.items():
        for ours, own in zip(found.rollouts[engine], rollouts, strict=True):
            assert ours.reasoning_ids == own.reasoning_ids
            assert ours.answer_hits == own.answer_hits
            # The paged engine's log-probabilities are float32 when they leave it.
            rel = 1e-10 if engine == "generate" else 1e-6
            assert ours.answer_logprobs == pytest.approx(own.answer_logprobs, rel=rel)
            assert ours.prompt_nll == pytest.approx(own.prompt_nll, rel=rel)
    for name, numbers in expected.numbers.items():
        assert relative(found.numbers[name], numbers) < 1e-10, name


@pytest.mark.parametrize("family", list(KINDS))
def test_in_float32_they_write_the_same_but_for_near_ties(
    shared: list[All], whole: All, models: Path, family: str
) -> None:
    found, expected = (each[family, "float32"] for each in (shared[0], whole))
    num_near_ties = 0
    for engine, rollouts in expected.rollouts.items():
        for row, (ours, own) in enumerate(zip(found.rollouts[engine], rollouts, strict=True)):
            if ours.reasoning_ids != own.reasoning_ids:
                assert gap(models / family, row, ours, own) < NEAR
                num_near_ties += 1
                continue
            assert ours.answer_hits == own.answer_hits
            assert ours.answer_logprobs == pytest.approx(own.answer_logprobs, rel=1e-4, abs=1e-4)
            assert ours.prompt_nll == pytest.approx(own.prompt_nll, rel=1e-4)
    assert num_near_ties <= 1  # of eight
    if num_near_ties == 0:
        for name, numbers in expected.numbers.items():
            assert relative(found.numbers[name], numbers) < 1e-4, name


def test_a_rank_has_its_part_of_weights_and_keys(shared: list[All], whole: All) -> None:
    """As the plan of the memory says before the weights are there, and half of what one has."""
    for case in CASES:
        full = whole[case]
        for part in (found[case] for found in shared):
            assert part.bytes_of_weights == part.bytes_of_plan
            assert 0.45 < part.bytes_of_weights / full.bytes_of_weights < 0.55
            heads = 1 if case[0] == "phi3" else NUM_RANKS  # gathered by its plan, so all of them
            assert part.bytes_of_block * heads == full.bytes_of_block


def test_a_search_ends_as_in_one_process(
    out: Path, whole: All, models: Path, tmp_path: Path
) -> None:
    expected = sharing.search(models / "llama", tmp_path / "run")
    for rank in range(NUM_RANKS):
        found = torch.load(out / f"result-{rank}.pt", weights_only=False)
        assert found["prompt"] == expected["prompt"]
        for (prompt, objective), (other, value) in zip(
            found["finalists"], expected["finalists"], strict=True
        ):
            assert prompt == other
            assert objective == pytest.approx(value, rel=1e-5)
    notes = json.loads((out / "run" / "run.json").read_text())["notes"]
    assert any(f"{NUM_RANKS} ranks share the model and every rollout" in note for note in notes)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest distance of two rows, in lengths of the expected one."""
    found, expected = (x.double().reshape(-1, x.shape[-1]) for x in (found, expected))
    return float(((found - expected).norm(dim=1) / expected.norm(dim=1)).max())


def gap(folder: Path, row: int, ours: Rollout, own: Rollout) -> float:
    """The distance of the two likeliest logits where two reasonings part."""
    lm = load_lm(folder, "cpu", "float32")
    layouts = sharing.layouts_of(lm, 4)
    pairs = enumerate(zip(ours.reasoning_ids, own.reasoning_ids, strict=False))
    shorter = min(len(ours.reasoning_ids), len(own.reasoning_ids))
    place = next((i for i, (a, b) in pairs if a != b), shorter)
    ids = (*layouts.context_ids(row, layouts.prompt_ids), *own.reasoning_ids[:place])
    best = sharing.PlainRolloutEngine(lm).next_logits([ids])[0].topk(2).values
    return float(best[0] - best[1])
