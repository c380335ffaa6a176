"""The mean of several models' evaluations, beside sums written out by hand."""

import itertools

import pytest

from greater_fast.config import Config
from greater_fast.rollouts.plain import PlainRolloutEngine
from greater_fast.runs.evaluation import (
    Comparison,
    Evaluation,
    RowLog,
    RowRecord,
    compare,
    evaluate_prompt,
)
from greater_fast.runs.models.mean_evaluation import (
    MeanComparison,
    MeanEvaluation,
    compare_models,
    evaluate_models,
)
from greater_fast.runs.result import accuracy_text
from greater_fast.search.ensemble import Ensemble
from tests.cases import layouts_of, tiny_lm


def evaluation(marks: str) -> Evaluation:
    """Rows that are right where a mark is x."""
    rows = [RowRecord(f"q{n}", "a", "", mark == "x", "") for n, mark in enumerate(marks)]
    return Evaluation("Think.", tuple(rows))


def mean(*marks: str) -> MeanEvaluation:
    by_model = {f"m{n}": evaluation(own) for n, own in enumerate(marks)}
    rows = tuple(row for own in by_model.values() for row in own.rows)
    return MeanEvaluation("Think.", rows, by_model=by_model)


def test_figures_of_a_mean() -> None:
    found = mean("xx-x", "x---")
    assert found.values == [1.0, 0.5, 0.0, 0.5]
    assert (found.accuracy, found.num_rows, found.num_correct) == (0.5, 4, 4)
    low, high = found.interval
    assert 0 < low < 0.5 < high < 1
    wide_low, wide_high = evaluation("xx--").interval
    assert wide_low < low
    assert high < wide_high
    values = found.to_dict()
    assert values["by_model"]["m0"] == evaluation("xx-x").to_dict()
    assert values["accuracy"] == 0.5
    each = [own["num_correct"] for own in values["by_model"].values()]
    assert (values["num_correct"], each) == (4, [3, 1])
    assert (values["num_answers"], values["num_rows"]) == (8, 4)
    assert "num_answers" not in values["by_model"]["m0"]
    assert accuracy_text(found).endswith("(mean of m0 75.0%, m1 25.0%)")


def test_the_mean_of_copies_is_as_sure_as_one_of_them() -> None:
    """Two models that answer alike are no more evidence than one."""
    alone, twice = evaluation("xx-x-x"), mean("xx-x-x", "xx-x-x")
    assert twice.accuracy == alone.accuracy
    assert twice.interval == pytest.approx(alone.interval)
    other = "x--x--"
    once = compare(alone, evaluation(other))
    found = compare_models(twice, mean(other, other))
    assert (found.num_only_first, found.num_only_second) == (2, 0)
    assert found.p_value == pytest.approx(once.p_value)
    assert found.difference == once.difference


def test_a_comparison_of_means() -> None:
    first, second = mean("xxxx-", "xx-x-"), mean("x-x--", "-x-x-")
    found = compare_models(first, second)
    assert isinstance(found, MeanComparison)
    differences = [0.5, 0.5, 0.0, 0.5, 0.0]
    assert (found.num_only_first, found.num_only_second) == (3, 0)
    assert found.difference == pytest.approx(0.3)
    signs = list(itertools.product((1, -1), repeat=3))
    far = sum(abs(sum(s * 0.5 for s in ways)) >= 1.5 for ways in signs)
    assert found.p_value == far / len(signs)
    low, high = found.interval
    assert low < found.difference < high
    own = found.by_model["m0"]
    assert own == compare(evaluation("xxxx-"), evaluation("x-x--"))
    assert found.to_dict()["by_model"]["m1"]["difference"] == pytest.approx(0.2)
    assert sum(differences) / 5 == pytest.approx(found.difference)


def test_evaluations_of_other_models_are_not_compared() -> None:
    with pytest.raises(ValueError, match="of different models"):
        compare_models(mean("x", "x"), mean("x", "x", "x"))
    assert type(compare_models(evaluation("x-"), evaluation("-x"))) is Comparison


@pytest.mark.parametrize("number", [1, 2])
def test_each_model_is_evaluated_by_itself(number: int) -> None:
    lms = [tiny_lm(), tiny_lm("qwen2")][:number]
    engines = [PlainRolloutEngine(lm, 3) for lm in lms]
    layouts, config = layouts_of(lms[0], 3), Config(max_new_tokens=6)
    own = [evaluate_prompt(engine, layouts, layouts.prompt_ids, config) for engine in engines]
    told: list[tuple[str, str]] = []
    found = evaluate_models(
        engines[0] if number == 1 else Ensemble(engines),
        layouts,
        layouts.prompt_ids,
        config,
        log=RowLog(lambda _, row, model: told.append((row.predicted, model.get("model", "")))),
    )
    assert [predicted for predicted, _ in told] == [r.predicted for e in own for r in e.rows]
    if number == 1:
        assert found == own[0]
        assert {name for _, name in told} == {""}
    else:
        assert isinstance(found, MeanEvaluation)
        assert list(found.by_model.values()) == own
        names = ["LlamaForCausalLM"] * 3 + ["Qwen2ForCausalLM"] * 3
        assert [name for _, name in told] == names
        assert own[0] != own[1]
