"""What all benchmarks share: smoke mode, the model, and the number of threads."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.harness.measure import StepCase
from greater_fast.model.smollm2 import SMOLLM2, smollm2_folder

NUM_THREADS = 2


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --smoke."""
    parser.addoption(
        "--smoke",
        action="store_true",
        help="tiny sizes on a tiny random model: shows that the benchmarks run, measures nothing",
    )


@pytest.fixture(scope="session")
def smoke(pytestconfig: pytest.Config) -> bool:
    """Whether sizes are tiny and targets are not asked for."""
    return bool(pytestconfig.getoption("--smoke"))


@pytest.fixture(scope="session")
def model_source(smoke: bool, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What load_lm takes: SmolLM2, or in smoke mode the folder of a tiny random Llama."""
    if smoke:
        return str(_tiny_llama(tmp_path_factory.mktemp("tiny")))
    try:
        smollm2_folder()
    except ValueError as error:
        pytest.skip(str(error))
    return SMOLLM2


@pytest.fixture(scope="session")
def case(smoke: bool, model_source: str) -> StepCase:
    """16 rows of object counting and 96 new tokens, or in smoke mode 3 and 8."""
    full = StepCase(model=model_source, task="object_counting")
    return replace(full, num_rows=3, max_new_tokens=8) if smoke else full


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """Fix torch's threads, as every figure is quoted for that many."""
    before = torch.get_num_threads()
    torch.set_num_threads(NUM_THREADS)
    yield
    torch.set_num_threads(before)


def _tiny_llama(folder: Path) -> Path:
    from tests.tiny import tiny_model, tiny_tokenizer

    tokenizer = tiny_tokenizer("llama3")
    tokenizer.save_pretrained(folder)
    tiny_model("llama", len(tokenizer)).save_pretrained(folder)
    return folder
