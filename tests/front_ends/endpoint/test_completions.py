"""Rows in a run's layout: what comes back is what our engine says, or a note tells."""

from pathlib import Path
from typing import Any

import pytest

from greater_fast import evaluate
from greater_fast.model.lm import LM, load_lm
from greater_fast.model.text.vocabulary import Vocabulary
from greater_fast.runs.result import Report
from tests.cases import examples
from tests.front_ends.endpoint.asking import CONFIG, OTHER, Rows, layouts_of, measured
from tests.front_ends.served import Handler, Served, serving
from tests.tiny import LLAMA3_TEMPLATE, PROMPT, boolean_rows, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.front_ends


@pytest.mark.parametrize("kind", ["vllm", "llama.cpp", "neither"])
def test_rows_are_those_of_our_engine(lm: LM, kind: str, right_rows: Rows, here: Report) -> None:
    with serving(lm, kind=kind) as served:
        report = measured(served, right_rows, against=OTHER)
    assert report.evaluation.rows == here.evaluation.rows
    assert report.against == here.against
    assert report.comparison == here.comparison
    assert report.interval == here.interval
    assert 0.5 < report.accuracy < 1
    assert report.comparison is not None
    assert report.comparison.num_only_first > 0
    unchecked = [note for note in report.notes if "that is not checked" in note]
    assert len(unchecked) == (kind == "neither")
    prompts = [body["prompt"] for body in served.completions()]
    assert len(prompts) == 4 * len(right_rows)
    assert all(isinstance(prompt, list) for prompt in prompts)


def test_ids_that_do_not_come_back_are_noted(lm: LM, right_rows: Rows, here: Report) -> None:
    """A strict server refuses what OpenAI does not know; what it wrote is then encoded again."""
    with serving(lm, strict=True) as served:
        report = measured(served, right_rows)
    reasonings = [row.reasoning for row in report.evaluation.rows]
    assert reasonings == [row.reasoning for row in here.evaluation.rows]
    assert [row.cut_off for row in report.evaluation.rows] == [
        row.cut_off for row in here.evaluation.rows
    ]
    layouts, room = layouts_of(lm, right_rows), CONFIG["max_new_tokens"]
    contexts = [layouts.context_ids(row, layouts.prompt_ids) for row in range(len(layouts))]
    generated = [served._written(ids, room)[0] for ids in contexts]
    assert [len(ids) for ids in generated] == [room] * len(contexts)  # no end is counted
    prompts = [tuple(body["prompt"]) for body in served.completions()]
    behind = [
        prompt[len(ids) : -len(layouts.extractor_ids)]
        for ids in contexts
        for prompt in prompts
        if prompt[: len(ids)] == ids and prompt != ids
    ]
    # A random model writes few texts that are read as the tokens that they were written in.
    num_others = sum(len(ids) != room for ids in behind)
    assert 0 < num_others < len(contexts)
    (note,) = [note for note in report.notes if "came back as text" in note]
    assert note.startswith(f"of {num_others} rows the reasoning came back as text, and was read as")
    kept = [list(ids) == own for ids, own in zip(behind, generated, strict=True)]
    right = [own for own, k in zip(report.evaluation.rows, kept, strict=True) if k]
    assert right == [own for own, k in zip(here.evaluation.rows, kept, strict=True) if k]


@pytest.mark.parametrize(
    ("more", "reason", "note"),
    [
        (0, "stop", ""),
        (1, "stop", ""),  # the end is counted
        (2, "stop", "was read as other tokens than were generated"),
        (-1, "stop", "was read as other tokens than were generated"),
        (0, "length", ""),
        (1, "length", "was read as other tokens than were generated"),
        (-1, "length", "was read as other tokens than were generated"),
        (None, "stop", "could not be checked"),
        (None, "length", "could not be checked"),
    ],
)
def test_a_text_is_the_generated_tokens_where_it_has_as_many(
    served: Served, tmp_path: Path, more: int | None, reason: str, note: str
) -> None:
    """By the server's count; of recorded rows too."""
    text = " True and so on"
    (ids,) = served.lm.vocabulary.encode([text], special_tokens=False)

    def says(handler: Handler, path: str, body: Any) -> bool:
        if path != "/v1/completions":
            return False
        usage = {"prompt_tokens": len(body["prompt"])}
        if more is not None:
            usage["completion_tokens"] = len(ids) + more
        choice = {"text": text, "finish_reason": reason}
        handler.send(200, {"choices": [choice], "usage": usage})
        return True

    served.fault = says
    for _ in range(2):
        report = measured(served, examples(3), records=tmp_path / "rows.jsonl")
        told = [line for line in report.notes if "came back as text" in line]
        assert len(told) == bool(note)
        assert all(line.startswith("of 3 rows ") and note in line for line in told)
    assert len(served.completions()) == 2 * 3


def test_a_text_that_has_no_place_is_encoded_as_it_is(
    lm: LM, right_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer then follows other tokens than were generated, perhaps, but not none."""
    monkeypatch.setattr(Vocabulary, "spelled", lambda *_: ())
    with serving(lm, says_ids=False) as served:
        measured(served, right_rows[:1], num_concurrent=1)
        first, second = served.completions()
        _, text, _ = served._written(first["prompt"], CONFIG["max_new_tokens"])
        (ids,) = lm.vocabulary.encode([text], special_tokens=False)
    extractor_ids = list(layouts_of(lm, right_rows).extractor_ids)
    assert second["prompt"] == [*first["prompt"], *ids, *extractor_ids]


def test_a_tokenizer_without_a_template(right_rows: Rows) -> None:
    found = tiny_tokenizer("llama3", chat_template=False)
    lm = load_lm((tiny_model("llama", len(found)), found))
    own = evaluate(lm, right_rows, prompt=PROMPT, config=CONFIG, progress=False)
    for kind in ("vllm", "llama.cpp"):
        with serving(lm, kind=kind) as served:
            report = measured(served, right_rows)
            assert report.evaluation == own.evaluation
            assert not any("not checked" in note for note in report.notes)


@pytest.mark.parametrize("kind", ["vllm", "llama.cpp"])
def test_a_template_with_one_more_token_is_refused(lm: LM, kind: str) -> None:
    layouts = layouts_of(lm, [{"question": q, "answer": a} for q, a in boolean_rows(2)])
    length = len(layouts.context_ids(0, layouts.prompt_ids))
    with serving(lm, kind=kind, more="<|pad|>") as served:
        message = (
            rf"chat template makes {length + 1} tokens of row 0 \('Question 1: .*'\) where .* "
            rf"makes {length}: from token {length} on it reads '.*<\|pad\|>', not "
        )
        with pytest.raises(ValueError, match=message):
            measured(served, examples(2))
        assert served.completions() == []


def test_what_closes_a_thought_ends_the_reasoning() -> None:
    found = tiny_tokenizer("llama3")
    found.chat_template = LLAMA3_TEMPLATE + "{{ '<think>\n' }}"
    found.add_tokens(["<think>", "</think>"])
    lm = load_lm((tiny_model("llama", len(found)), found))
    own = evaluate(lm, examples(4), prompt=PROMPT, config=CONFIG, progress=False)
    with serving(lm) as served:
        report = measured(served, examples(4))
    assert report.evaluation == own.evaluation
    stops = [body.get("stop") for body in served.completions()]
    assert stops.count(["</think>"]) == 4  # the reasonings', and not the answers'
    assert stops.count(None) == 4
    assert any("behind '</think>'" in note for note in report.notes)


def test_rows_of_special_names_are_asked_as_they_are_read(lm: LM, served: Served) -> None:
    rows = [{"question": f"What is <|eot_id|> {i}?", "answer": "True"} for i in range(2)]
    own = evaluate(lm, rows, prompt=PROMPT, config=CONFIG, progress=False)
    report = measured(served, rows)
    assert report.evaluation == own.evaluation
    assert any("all rows name special tokens" in note for note in report.notes)
