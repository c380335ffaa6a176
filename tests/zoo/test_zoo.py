"""Every causal architecture of transformers runs rightly, or is refused in words.

A few run with the other tests; all of them with `pytest -m zoo`.
"""

import pytest

from tests.zoo.table import NAMES, outcome, row, table, written

pytestmark = pytest.mark.filterwarnings("ignore")  # models' own
QUICK = [
    "bart",
    "bert",
    "deepseek_v3",
    "gemma2",
    "gemma3n_text",
    "gemma4_text",
    "glm4_moe",
    "gpt2",
    "hrm_text",
    "lfm2_moe",
    "llama",
    "llama with dynamic RoPE",
    "llama4_text",
    "opt of 350M",
    "phi3 with long RoPE",
    "phimoe",
    "qwen2_moe",
    "qwen3_moe",
]
LEAST_PAGED = 72


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in QUICK else pytest.mark.zoo) for name in NAMES],
)
def test_a_model_is_right_or_refused_in_words(name: str) -> None:
    found = outcome(name)
    if found is None:
        assert name in written().split("Not built:")[1]
        return
    assert not found.faults
    assert found.way in ("paged", "generate", "refused")
    assert row(name, found) in written().splitlines()
    if found.way != "paged":
        assert len(found.reason.split()) > 4


@pytest.mark.zoo
def test_the_page_has_all_of_them() -> None:
    outcomes = {name: outcome(name) for name in NAMES}
    assert written() == table(outcomes)
    paged = [name for name, found in outcomes.items() if found and found.way == "paged"]
    assert len(paged) >= LEAST_PAGED
