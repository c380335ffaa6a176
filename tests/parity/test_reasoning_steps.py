"""Steps that rank candidates by reasonings are the oracle's: what is kept, chosen and weighed."""

from typing import Any

import pytest

from tests.parity.paper_rule import answering_lm
from tests.parity.reasoning_oracle import ReasoningOracle
from tests.parity.test_oracle_parity import Case, check_scores, config, settings_of

pytestmark = pytest.mark.filterwarnings("ignore:all .* training rows are:RuntimeWarning")
SENTENCE, GROWING = "Think step by step.", "Think step by"
BEST, OUTCOMES = {"accept": "best"}, (True, False)


class ReasoningCase(Case):
    """A case whose oracle ranks by reasonings."""

    def oracle_of(self, rows: list[tuple[str, str]], letters: str) -> ReasoningOracle:
        """The oracle on the same rows."""
        return ReasoningOracle(
            self.lm.model,
            self.lm.tokenizer,
            rows,
            self.config.extractor or "",
            settings_of(self.config, self.lm),
            letters=letters,
            kind=self.config.gradient,
            num_reasonings=self.config.num_reasonings,
            weight=self.config.reasoning_weight,
            norm=self.config.gradient_norm,
            are_drawn=self.config.reasonings == "sampled",
        )


@pytest.mark.parametrize(
    ("prompt", "given"),
    [
        (SENTENCE, {"gradient": "both", "reasoning_weight": 0.3, **BEST}),
        (SENTENCE, {"gradient": "reasoning", "gradient_norm": "example", "engine": "generate"}),
        (GROWING, {"gradient": "both", "gradient_norm": "example", "num_reasonings": 2, **BEST}),
        (GROWING, {"gradient": "reasoning", "num_reasonings": 3, **BEST}),
        (SENTENCE, {"gradient": "both", "reasonings": "sampled"}),
    ],
    ids=["both", "reasoning", "both growing", "reasoning growing", "sampled"],
)
def test_steps_are_the_oracles(prompt: str, given: dict[str, Any]) -> None:
    settings = {"max_new_tokens": 6, "num_draws": 2, "extractor": "The answer is", **given}
    case = ReasoningCase(answering_lm(times=12), prompt, config(**settings), num_rows=6)
    oracle, (steps, state) = case.oracle, case.search(4)
    assert isinstance(oracle, ReasoningOracle)
    prompt_ids, contrasted = case.prompt_ids, list[int]()
    for step in steps:
        expected = oracle.step(prompt_ids, step.index, case.draw(step.step))
        check_scores(step, expected)
        case.check_objectives(step, state, expected.objectives)
        assert step.num_contrasted == oracle.num_contrasted
        contrasted.append(oracle.num_contrasted)
        prompt_ids = expected.winner
        assert list(step.prompt_ids) == prompt_ids
    assert any(step.grows for step in steps) is (prompt == GROWING)
    assert sum(number > 0 for number in contrasted) > 1
    if case.config.reasonings == "stored":
        assert contrasted[0] == 0  # there is one reasoning of each row
        assert oracle.stored == [
            {outcome: [r.written_ids for r in row if r.is_right is outcome] for outcome in OUTCOMES}
            for row in state.reasonings.rows
        ]
