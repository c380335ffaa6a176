"""Steps that rank candidates by reasonings are the oracle's: what is kept, chosen and weighed."""

from typing import Any

import pytest

from greater_fast.search.ensemble import Ensemble
from tests.oracle import OracleStep
from tests.parity.paper_rule import answering_lm
from tests.parity.test_oracle_parity import Case, check_scores, config, settings_of
from tests.reasoning_oracle import ReasoningOracle

pytestmark = pytest.mark.filterwarnings("ignore:all .* training rows are:RuntimeWarning")
SENTENCE, GROWING = "Think step by step.", "Think step by"
BEST, OUTCOMES = {"accept": "best"}, (True, False)


class ReasoningCase(Case):
    """A case whose oracle ranks by reasonings."""

    oracle: ReasoningOracle

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


@pytest.mark.parametrize(
    "given",
    [{"gradient": "both", **BEST}, {"gradient": "reasoning", "reasonings": "sampled"}],
    ids=["both", "sampled"],
)
def test_scores_of_two_models_are_those_of_their_oracles_added_up(given: dict[str, Any]) -> None:
    """Each in units of its own spread; each model with reasonings and outcomes of its own.

    What is proposed is taken as it is: test_ensemble_parity has it.
    """
    settings = {"max_new_tokens": 6, "num_draws": 2, "extractor": "The answer is", **given}
    lms = [answering_lm(times=12), answering_lm(seed=1, times=14)]
    cases = [ReasoningCase(lm, SENTENCE, config(**settings), num_rows=6) for lm in lms]
    steps, state = cases[0].search(4, models=Ensemble([case.engine for case in cases]))
    oracles, p = [case.oracle for case in cases], cases[0].prompt_ids
    contrasted = []
    for step in steps:
        scores = dict.fromkeys(step.candidate_ids, 0.0)
        for oracle in oracles:
            oracle.remember(p)
            gradient = oracle.gradient(p, step.index, oracle.reasonings(p)).double()
            spread = gradient[sorted(oracle.allowed)].std(correction=0)
            scores = {v: score + float(gradient[v] / spread) for v, score in scores.items()}
        shortlist = sorted(scores, key=lambda v: (scores[v], v))[:3]
        each = [o.select(p, step.index, shortlist, o.reasonings(p))[0] for o in oracles]
        objectives = {ids: sum(own[ids] for own in each) / len(each) for ids in each[0]}
        winner = oracles[0].winner(objectives)
        assert list(step.prompt_ids) == winner
        expected = OracleStep(list(scores), scores, shortlist, objectives, winner)
        check_scores(step, expected)
        cases[0].check_objectives(step, state, objectives)
        contrasted.append([oracle.num_contrasted for oracle in oracles])
        assert step.num_contrasted == sum(contrasted[-1])
        for oracle in oracles:
            oracle.take_in(p, step.index, expected)
        p = winner
    assert any(all(numbers) for numbers in contrasted)
