"""Accuracy: the answer is generated behind the extractor, cut, and compared with gold."""

import dataclasses
import json
from typing import Any

import pytest

from greater_fast.config import Config
from greater_fast.engine import Rollout, RolloutRequest
from greater_fast.examples.data import Example
from greater_fast.examples.layout import Layouts
from greater_fast.rollouts.plain import PlainRolloutEngine
from greater_fast.runs.evaluation import (
    Comparison,
    Evaluation,
    RowRecord,
    compare,
    cut_off_notes,
    evaluate_prompt,
    record_rollouts,
)
from greater_fast.runs.statistics import (
    mcnemar_exact,
    mean_interval,
    newcombe_interval,
    sign_flip_test,
    wilson_interval,
)
from tests.cases import layouts_of, plain_logits, small_config, tiny_lm, tokenizer, tokenizer_lm
from tests.tiny import EXTRACTOR, PROMPT

SPACED = EXTRACTOR + " "
REASONING = " First count it."


class Script:
    """Writes the same reasoning on every row, and a given answer behind each row's extractor."""

    def __init__(self, layouts: Layouts, answers: list[str]) -> None:
        self.lm, self.layouts, self.answers = tokenizer_lm("llama3"), layouts, answers
        self.calls: list[list[RolloutRequest]] = []

    def run(self, requests: list[RolloutRequest]) -> list[Rollout]:
        """Reasonings with their answers."""
        self.calls.append(list(requests))
        ids = self.layouts.vocabulary.ids
        return [
            Rollout(ids(REASONING), answer_ids=ids(text) if text else ())
            for _, text in zip(requests, self.answers, strict=True)
        ]


def evaluate(
    generated: list[str], gold: list[str], extractor: str = SPACED
) -> tuple[Evaluation, Script]:
    rows = [Example(f"Question {n}?", answer) for n, answer in enumerate(gold)]
    layouts = layouts_of(tokenizer_lm("llama3"), rows, extractor=extractor)
    script = Script(layouts, generated)
    engine: Any = script
    config = Config(max_new_tokens=77, extractor=extractor)
    return evaluate_prompt(engine, layouts, layouts.prompt_ids, config), script


@pytest.mark.parametrize(
    ("generated", "gold", "predicted", "correct"),
    [
        (" True $ and so on", "True", "True", True),
        (" true $", "True", "true", True),
        (" False $ True", "True", "False", False),
        (" True\nFalse", "True", "True", True),
        (" (A) $", "A", "(A)", True),
        (" 1,000 $", "1000.0", "1,000", True),
        (" 180 $", "18", "180", False),
        (" 18 and more", "18", "18 and more", False),
        (" $ True $", "True", "True", True),
        (": $ True $", "True", "True", True),
        (":\n\nTrue $", "True", "True", True),
        (" **(A) yes** $", "A", "**(A) yes**", True),
        ("", "True", "", False),
    ],
)
def test_answers_are_cut_and_compared(
    generated: str, gold: str, predicted: str, correct: bool
) -> None:
    found, _ = evaluate([generated], [gold])
    assert found.rows == (
        RowRecord("Question 0?", gold, predicted, correct, "First count it."),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("extractor", "generated", "predicted"),
    [
        ("It is (", " B) or (A)", "B"),
        ("The answer is", " B) or\nso", "B) or"),
        ('They say "', ' yes" twice', "yes"),
    ],
)
def test_the_mark_or_the_line_ends_the_answer(
    extractor: str, generated: str, predicted: str
) -> None:
    found, _ = evaluate([generated], ["B"], extractor)
    assert found.rows[0].predicted == predicted


def test_any_of_several_gold_answers_is_right() -> None:
    rows = [Example("Who?", "Ann Lee", ("Lee", "A. Lee")), Example("Who?", "Bo")]
    layouts = layouts_of(tokenizer_lm("llama3"), rows, extractor=SPACED)
    engine: Any = Script(layouts, [" lee $", " Lee $"])
    found = evaluate_prompt(engine, layouts, layouts.prompt_ids, Config())
    assert [(row.gold, row.correct) for row in found.rows] == [("Lee", True), ("Bo", False)]


def test_reasoning_that_the_limit_ended_is_counted() -> None:
    """The script's reasoning has a known number of tokens: at that limit, it was cut off."""
    layouts = layouts_of(tokenizer_lm("llama3"), 3, extractor=SPACED)
    num_tokens = len(layouts.vocabulary.ids(REASONING))
    found = []
    for limit in (num_tokens, num_tokens + 1):
        engine: Any = Script(layouts, [" True $"] * 3)
        config = Config(max_new_tokens=limit)
        evaluation = evaluate_prompt(engine, layouts, layouts.prompt_ids, config)
        number = evaluation.num_cut_off
        found.append((number, cut_off_notes("dev", number, 3, config)))
    line = f"dev: 3 of 3 reasonings were cut off at {num_tokens} tokens (max_new_tokens)"
    assert found == [(3, (line,)), (0, ())]


def test_reasoning_that_ended_with_the_last_token_allowed_was_not_cut_off() -> None:
    layouts = layouts_of(tokenizer_lm("llama3"), 3, extractor=SPACED)
    ids = tuple(layouts.vocabulary.ids(REASONING))
    config = Config(max_new_tokens=len(ids))
    ends: list[dict[str, Any]] = [{"stop_text": "Answer"}, {"end_id": 2}, {}]
    rollouts = [Rollout(ids, **end) for end in ends]
    found = record_rollouts(layouts, layouts.prompt_ids, rollouts, config)
    assert [row.cut_off for row in found.rows] == [False, False, True]


def test_figures() -> None:
    found, _ = evaluate([" True $"] * 3 + [" False $"], ["True", "True", "False", "True"])
    assert (found.num_rows, found.num_correct, found.accuracy) == (4, 2, 0.5)
    assert found.interval == wilson_interval(2, 4)
    assert found.prompt == PROMPT
    figures = found.to_dict()
    assert figures == {
        "prompt": PROMPT,
        "accuracy": 0.5,
        "interval": list(wilson_interval(2, 4)),
        "num_correct": 2,
        "num_rows": 4,
        "num_cut_off": 0,
    }
    assert json.loads(json.dumps(figures)) == figures


def test_requests_follow_the_layout() -> None:
    gold = ["True", "the old man counts it", "False"]
    _, script = evaluate([" True $"] * 3, gold)
    (requests,) = script.calls
    layouts = script.layouts
    longest = max(len(row.answer_ids) for row in layouts.rows)
    assert longest == layouts.longest_answer > len(layouts.rows[0].answer_ids)
    for row, request in enumerate(requests):
        assert request.prompt_ids == layouts.context_ids(row, layouts.prompt_ids)
        assert request.max_new_tokens == 77
        assert request.target_ids == layouts.extractor_ids
        assert request.num_scored == 0
        assert request.max_answer_tokens == longest + 8
        assert request.end_ids == script.lm.end_ids
        assert request.sample_key == row


def test_an_answer_may_be_as_long_as_those_of_the_search() -> None:
    layouts = dataclasses.replace(layouts_of(tokenizer_lm("llama3"), 2), answer_room=30)
    script: Any = Script(layouts, [" True $"] * 2)
    evaluate_prompt(script, layouts, layouts.prompt_ids, Config())
    assert {r.max_answer_tokens for r in script.calls[0]} == {38}


def test_with_a_model() -> None:
    """Reasoning and answer are the model's greedy tokens, and no end id is in either."""
    lm, config = tiny_lm(), small_config(max_new_tokens=6)
    layouts = layouts_of(lm, 4, max_new_tokens=6)
    found = evaluate_prompt(PlainRolloutEngine(lm, 3), layouts, layouts.prompt_ids, config)
    limit = layouts.longest_answer + 8
    for number, record in enumerate(found.rows):
        ids = list(layouts.context_ids(number, layouts.prompt_ids))
        reasoning = greedy(ids, config.max_new_tokens)
        answer = greedy([*ids, *reasoning, *layouts.extractor_ids], limit)
        text = lm.vocabulary.text(answer)
        assert record.predicted == text.strip(" ").split("\n")[0].split("$")[0].strip()
        assert record.reasoning == lm.vocabulary.plain_text(reasoning)
        assert record.question == layouts.rows[number].example.question
    right = [
        dataclasses.replace(r.example, answer=w.predicted)
        for r, w in zip(layouts.rows, found.rows, strict=True)
    ]
    assert any(e.answer for e in right)
    kept = [e for e in right if e.answer]
    again = dataclasses.replace(layouts_of(lm, kept, max_new_tokens=6), answer_room=limit - 8)
    sure = evaluate_prompt(PlainRolloutEngine(lm, 3), again, again.prompt_ids, config)
    assert sure.accuracy == 1.0


def greedy(ids: list[int], limit: int) -> list[int]:
    found: list[int] = []
    while len(found) < limit:
        token = int(plain_logits(tiny_lm(), [*ids, *found])[-1].argmax())
        if token in tiny_lm().end_ids:
            break
        found.append(token)
    return found


def test_an_evaluation_is_repeatable() -> None:
    lm, config = tiny_lm(), small_config()
    layouts, engine = layouts_of(lm, 3), PlainRolloutEngine(lm, 2)
    first = evaluate_prompt(engine, layouts, layouts.prompt_ids, config)
    other = (*layouts.prompt_ids[:3], 500, *layouts.prompt_ids[4:])
    changed = evaluate_prompt(engine, layouts, other, config)
    assert changed.prompt != first.prompt
    assert evaluate_prompt(engine, layouts, layouts.prompt_ids, config) == first


def length(predicted: str, row: Example) -> float:
    """A metric: how much of eight characters an answer has."""
    return len(predicted) / 8


def measured(generated: list[str], gold: list[str]) -> tuple[Evaluation, Evaluation]:
    """An evaluation by length, and the same made of the rollouts that were measured."""
    rows = [Example(f"Question {n}?", answer) for n, answer in enumerate(gold)]
    layouts = layouts_of(tokenizer_lm("llama3"), rows, extractor=SPACED)
    layouts = dataclasses.replace(layouts, metric=length)
    kept: list[Rollout] = []

    class Measuring(Script):
        def run(self, requests: list[RolloutRequest], on_finished: Any = None) -> list[Rollout]:
            for request, rollout in zip(requests, super().run(requests), strict=True):
                assert request.measure is not None
                value = request.measure(rollout.answer_ids)
                kept.append(dataclasses.replace(rollout, metric=value))
            return kept

    engine: Any = Measuring(layouts, generated)
    found = evaluate_prompt(engine, layouts, layouts.prompt_ids, Config())
    return found, record_rollouts(layouts, layouts.prompt_ids, kept, Config())


def test_a_metric_measures_each_answer() -> None:
    found, again = measured([" True $ and", " no $", " maybe $", ""], ["True", "yes", "yes", "no"])
    assert [(row.predicted, row.metric, row.correct, row.gold) for row in found.rows] == [
        ("True", 0.5, True, "True"),
        ("no", 0.25, False, "yes"),
        ("maybe", 0.625, True, "yes"),
        ("", 0.0, False, "no"),
    ]
    assert found.accuracy == (0.5 + 0.25 + 0.625) / 4
    assert found.interval == mean_interval([0.5, 0.25, 0.625, 0.0])
    assert found.num_correct == 2
    assert again == found
    figures = found.to_dict()
    assert (figures["metric"], figures["accuracy"]) == ("length", found.accuracy)
    assert found.rows[0].to_dict()["metric"] == 0.5


def test_without_a_metric_none_is_written_down() -> None:
    found, _ = evaluate([" True $"], ["True"])
    assert not {"metric", "test"} & {*found.to_dict(), *found.rows[0].to_dict()}
    assert "test" not in compare(found, found).to_dict()


def graded(values: list[float]) -> Evaluation:
    rows = [RowRecord(f"q{n}", "g", "p", v >= 0.5, "r", metric=v) for n, v in enumerate(values)]
    return Evaluation("p", tuple(rows), "mine")


def test_a_metric_of_yes_and_no_is_compared_as_without_one() -> None:
    first, second = evaluation("1111100010"), evaluation("1100000001")
    as_metric = [graded([row.value for row in e.rows]) for e in (first, second)]
    assert compare(*as_metric) == compare(first, second)
    assert [e.interval for e in as_metric] == [first.interval, second.interval]
    assert [e.accuracy for e in as_metric] == [first.accuracy, second.accuracy]


def test_values_between_are_compared_by_their_differences() -> None:
    first, second = graded([0.5, 1.0, 0.25, 0.5, 1.0]), graded([0.25, 1.0, 0.5, 0.0, 0.0])
    differences = [0.25, 0.0, -0.25, 0.5, 1.0]
    low, high = mean_interval([(1 + d) / 2 for d in differences])
    assert compare(first, second) == Comparison(
        3, 1, sign_flip_test(differences), 0.3, (2 * low - 1, 2 * high - 1), "sign flips"
    )
    assert compare(first, second).to_dict()["test"] == "sign flips"
    turned = compare(second, first)
    assert (turned.num_only_first, turned.p_value) == (1, sign_flip_test(differences))
    assert turned.difference == -0.3
    assert compare(graded([1.0, 0.0]), graded([0.5, 0.5])).test == "sign flips"


def evaluation(correct: str, prefix: str = "q") -> Evaluation:
    rows = [RowRecord(f"{prefix}{n}", "g", "p", c == "1", "r") for n, c in enumerate(correct)]
    return Evaluation("p", tuple(rows))


def test_two_prompts_are_compared_row_by_row() -> None:
    first, second = evaluation("1111100010"), evaluation("1100000001")
    found = compare(first, second)
    interval = newcombe_interval(2, 4, 1, 3)
    assert found == Comparison(4, 1, mcnemar_exact(4, 1), pytest.approx(0.3), interval)
    assert found.to_dict() == {
        "num_only_first": 4,
        "num_only_second": 1,
        "p_value": found.p_value,
        "difference": found.difference,
        "interval": interval,
    }
    assert found.p_value == pytest.approx(0.375)
    turned = compare(second, first)
    assert (turned.num_only_first, turned.num_only_second) == (1, 4)
    assert turned.p_value == found.p_value
    assert turned.difference == -found.difference
    assert turned.interval == pytest.approx((-interval[1], -interval[0]))
    same = compare(first, first)
    assert (same.num_only_first, same.num_only_second, same.p_value) == (0, 0, 1.0)
    assert same.difference == 0.0


def test_evaluations_of_different_rows_are_not_compared() -> None:
    for other in (evaluation("11", "other"), evaluation("111")):
        with pytest.raises(ValueError, match="of different rows"):
            compare(evaluation("11"), other)


def test_special_tokens_are_left_out_of_the_written_reasoning() -> None:
    layouts = layouts_of(tokenizer_lm("llama3"), [Example("Is it?", "True")], extractor=SPACED)
    pad = tokenizer("llama3").pad_token_id

    class Padded(Script):
        def run(self, requests: list[RolloutRequest]) -> list[Rollout]:
            return [Rollout((pad, *r.reasoning_ids, pad)) for r in super().run(requests)]

    engine: Any = Padded(layouts, [" True $"])
    found = evaluate_prompt(engine, layouts, layouts.prompt_ids, Config())
    assert found.rows[0].reasoning == "First count it."
