"""The last evaluations of a run, on development and test rows."""

from collections.abc import Sequence
from typing import Any

import pytest

from greater_fast import evaluate, optimize
from greater_fast.engine import RolloutRequest
from greater_fast.examples.layout import SPARE_ANSWER_TOKENS, Layouts
from greater_fast.model.lm import LM
from greater_fast.rollouts.batch import RolloutEngine
from tests.tiny import PROMPT, boolean_rows

pytestmark = pytest.mark.filterwarnings("ignore:all .* training rows are:RuntimeWarning")
LONG = "the first and the second and then the third and then the fourth and the fifth"


def test_an_answer_may_be_as_long_as_those_of_its_own_rows(
    lm: LM, rows: Any, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else none of long ones among them could be right; `evaluate` has the same limit."""
    asked: list[RolloutRequest] = []
    plain = RolloutEngine.run

    def watched(self: Any, requests: Sequence[RolloutRequest], *rest: Any) -> Any:
        asked.extend(requests)
        return plain(self, requests, *rest)

    monkeypatch.setattr(RolloutEngine, "run", watched)
    test = [{"question": question, "answer": gold} for question, gold in boolean_rows(18)[14:]]
    test[0]["answer"] = LONG
    config = {**settings, "steps": 0, "extractor": "The answer is"}
    optimize(lm, rows, test=test, prompt=PROMPT, config=config)
    short, long = (
        len(lm.vocabulary.ids(f" {gold}")) + SPARE_ANSWER_TOKENS for gold in ("False", LONG)
    )
    limits = [request.max_answer_tokens for request in asked if request.max_answer_tokens]
    assert set(limits) == {short, long}
    assert limits.count(long) == len(test)
    asked.clear()
    evaluate(lm, test, prompt=PROMPT, config=config)
    assert {request.max_answer_tokens for request in asked} == {long}


@pytest.mark.parametrize("num_rows", [3, 2], ids=["dev", "test"])
def test_a_prompt_that_other_rows_take_apart_is_no_finalist(
    lm: LM,
    rows: Any,
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    num_rows: int,
) -> None:
    """Its text, pasted there, would be other tokens than those that it was found with."""
    config = {**settings, "steps": 4, "accept": "best", "num_dev": 3}
    given: dict[str, Any] = {"test": rows[-2:], "prompt": PROMPT, "config": config}
    found = optimize(lm, rows[:-2], **given)
    assert len(found.finalists) > 2
    bad = found.finalists[0].prompt_ids
    assert bad != found.baseline.prompt_ids
    own = Layouts.round_trips

    def taken_apart(self: Layouts, prompts: Sequence[Sequence[int]]) -> list[bool]:
        whole = zip(prompts, own(self, prompts), strict=True)
        return [ok and not (len(self) == num_rows and tuple(ids) == bad) for ids, ok in whole]

    monkeypatch.setattr(Layouts, "round_trips", taken_apart)
    without = optimize(lm, rows[:-2], **given)
    assert bad not in [finalist.prompt_ids for finalist in without.finalists]
    assert any(note.startswith("1 of the best prompts by the training") for note in without.notes)
