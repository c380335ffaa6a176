"""What is compiled, on which rows, and what is told of it."""

import re
from dataclasses import replace
from typing import Any

import dspy
import pytest

from greater_fast.engine import RolloutRequest
from greater_fast.front_ends.dspy import GReaTer
from greater_fast.front_ends.gepa import GReaTerProposer
from greater_fast.search.found import find_prompts
from tests.front_ends.dspy_programs.programs import (
    HEADER,
    LIMIT,
    SEARCH,
    Recording,
    compiled,
    examples,
    odd,
    sent,
    thought,
)
from tests.tiny import PROMPT

pytestmark = pytest.mark.front_ends


@pytest.mark.usefixtures("context")
def test_a_program_is_compiled() -> None:
    student = thought()
    before = student.dump_state()
    seen: list[Any] = []
    better, optimizer = compiled(student, on_step=seen.append)
    assert isinstance(better, dspy.ChainOfThought)
    assert better is not student
    assert student.dump_state() == before
    state = better.dump_state()
    assert better.predict.signature.instructions == optimizer.report["prompt"]
    state["predict"]["signature"]["instructions"] = PROMPT
    assert state == before
    assert len(seen) == optimizer.report["num_steps"] == optimizer.result.num_steps == 2
    assert (optimizer.report["num_train"], optimizer.report["num_val"]) == (4, 6)


@pytest.mark.usefixtures("context")
def test_the_report_has_both_figures(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that are right where the header is forced, beside what the metric says of replies."""
    rows, student, local = examples(40), thought(), asked.engine
    words = []
    for row in rows:
        ((request, rollout),) = sent(student, row, asked, monkeypatch)
        header = local.lm.vocabulary.ids(HEADER.rstrip())
        asking = (*request.prompt_ids, *rollout.reasoning_ids, *header)
        (answer,) = local.engine.run([RolloutRequest(asking, 8, local.lm.end_ids)])
        line, *_ = local.lm.vocabulary.text(answer.reasoning_ids).strip().split("\n")
        words += re.findall(r"(?<!\S)[A-Za-z]{2,}(?!\S)", line)[:1] or ["zebra"]
    known = [number for number, word in enumerate(words) if word != "zebra"]
    train, val = known[:4], known[4:8]
    right = {*train[:2], *val[:3]}
    labelled = [
        dspy.Example(question=row.question, answer=word if number in right else "zebra")
        for number, (row, word) in enumerate(zip(rows, words, strict=True))
    ]
    labelled = [row.with_inputs("question") for row in labelled]
    config = {**SEARCH, "objective": "error", "metric": "contains", "steps": 0}
    optimizer = GReaTer(lambda example, prediction, trace=None: 0.25, config=config)
    optimizer.compile(
        student, trainset=[labelled[n] for n in train], valset=[labelled[n] for n in val]
    )
    report = optimizer.report
    assert optimizer.result.initial.error_rate == 0.5
    assert report["initial_forced_accuracy"] == report["forced_accuracy"] == 75.0
    assert report["initial_score"] == report["score"] == 25.0


@pytest.mark.usefixtures("context")
def test_a_valset_is_judged_on_whole() -> None:
    """Its repeated rows too, and those of the trainset, which are not searched on."""
    rows = examples(8)
    val = [*rows[4:], rows[5], *rows[:2], rows[7]]
    better = (optimizer := GReaTer(odd, config=SEARCH)).compile(
        thought(), trainset=rows[:6], valset=val
    )
    report = optimizer.report
    assert (report["num_train"], report["num_val"]) == (2, 8)
    evaluate = dspy.Evaluate(devset=val, metric=odd, num_threads=1)
    assert evaluate(better).score == report["score"]
    assert evaluate(thought()).score == report["initial_score"]
    told = ["train: 2 of 2 rows used, 4 more are in the valset", "val: all 8 rows used"]
    assert report["notes"][:2] == told


@pytest.mark.usefixtures("context")
def test_without_a_valset_rows_are_drawn_and_not_searched_on() -> None:
    judged: set[str] = set()

    def metric(example: Any, prediction: Any, trace: Any = None) -> bool:
        judged.add(example.question)
        return True

    rows = examples(10)
    optimizer = GReaTer(metric, config={**SEARCH, "seed": 3})
    optimizer.compile(thought(), trainset=rows)
    assert len(judged) == 4
    assert judged < {row.question for row in rows}
    assert optimizer.report["num_train"] == 4
    assert "drawn from the train source" in " ".join(optimizer.report["notes"])
    first = set(judged)
    judged.clear()
    GReaTer(metric, config=SEARCH).compile(thought(), trainset=rows)
    assert judged != first


@pytest.mark.usefixtures("context")
def test_another_engine_searches_where_settings_of_it_differ(
    asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The LM's own answers calls alone then; limits are the LM's, or those that are given."""
    limits: dict[float, list[set[int]]] = {}
    for temperature, more in ((1.0, {}), (0.2, {"max_new_tokens": 3})):
        with monkeypatch.context() as patch:
            recording = Recording(asked.engine.engine, patch)
            config = {**SEARCH, **more, "temperature": temperature}
            compiled(thought(), 4, 2, config=config)
        searched = {r.max_new_tokens for r, _ in recording if r.target_ids}
        limits[temperature] = [searched, {r.max_new_tokens for r, _ in recording} - searched]
    assert limits == {1.0: [set(), {LIMIT}], 0.2: [{3}, {LIMIT}]}


@pytest.mark.usefixtures("context")
def test_a_search_of_ones_own_has_what_is_sent(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the instructions as they are, and with those that are found."""
    rows, student = examples(4), thought()
    optimizer = GReaTer(odd, config=SEARCH)
    engine, layouts, config = optimizer.prepare(student, rows)
    assert (config.max_new_tokens, config.steps) == (LIMIT, 2)
    assert optimizer.report["num_train"] == len(layouts) == 4
    assert optimizer.report["notes"] == []
    optimizer.prepare(student, examples(5))
    assert optimizer.report["notes"] == ["num_train: without effect: all 5 rows are laid out"]
    requests = [sent(student, row, asked, monkeypatch)[0][0] for row in rows]
    contexts = [layouts.context_ids(number, layouts.prompt_ids) for number in range(4)]
    assert [request.prompt_ids for request in requests] == contexts
    found = find_prompts(engine, layouts, config)
    better = layouts.with_prompt(found.best.prompt)
    student.predict.signature = student.predict.signature.with_instructions(found.best.prompt)
    (request, _), *_ = sent(student, rows[3], asked, monkeypatch)
    assert request.prompt_ids == better.context_ids(3, better.prompt_ids)


@pytest.mark.usefixtures("context")
def test_gepa_is_proposed_what_is_found_in_the_programs_rows() -> None:
    def metric(
        gold: Any, pred: Any, trace: Any = None, name: Any = None, seen: Any = None
    ) -> float:
        return odd(gold, pred)

    settings = {name: SEARCH[name] for name in ("objective", "num_draws", "max_prompt_tokens")}
    optimizer, rows, student = GReaTer(metric, config=settings), examples(8), thought()
    engine, layouts, config = optimizer.prepare(student, rows[:4])
    proposer = GReaTerProposer(engine, layouts, config, steps=2)
    proposed: list[str] = []

    def proposals(candidate: Any, reflective_dataset: Any, components_to_update: Any) -> Any:
        found = proposer(candidate, reflective_dataset, components_to_update)
        proposed.extend(found.values())
        return found

    search = dspy.GEPA(
        metric=metric, instruction_proposer=proposals, max_metric_calls=16, num_threads=1
    )
    better = search.compile(student, trainset=rows[:4], valset=rows[4:])
    expected = find_prompts(engine, layouts, replace(config, steps=2)).best
    assert expected.prompt != PROMPT
    assert proposed[0] == expected.prompt
    assert better.predict.signature.instructions in (PROMPT, *proposed)


@pytest.mark.usefixtures("context")
def test_what_cannot_be_prepared() -> None:
    with pytest.raises(ValueError, match=r"predict have several lines, expected one.*one line"):
        GReaTer(odd).prepare(thought("Read it.\nThink step by step."), examples(3))
    with pytest.raises(ValueError, match="trainset: got no rows"):
        GReaTer(odd).prepare(thought(), [])
