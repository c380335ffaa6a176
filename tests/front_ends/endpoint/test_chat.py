"""Rows asked by chat: the server's own template, and the answer by a second turn."""

from pathlib import Path
from typing import Any

import pytest

from greater_fast import Config, Example
from greater_fast.examples.extractor import make_extractor
from greater_fast.front_ends.endpoint import client
from greater_fast.front_ends.endpoint.chat import Chat
from greater_fast.model.lm import LM
from tests.cases import examples
from tests.front_ends.endpoint.asking import CONFIG, EXTRACTOR, OTHER, Rows, measured, server
from tests.front_ends.served import Handler, Served, serving
from tests.tiny import PROMPT

pytestmark = pytest.mark.front_ends


def test_by_chat_nothing_is_known_of_tokens(served: Served, right_rows: Rows) -> None:
    config = {**CONFIG, "system_prompt": "Be brief.", "chat_template_kwargs": {"tools": None}}
    report = measured(served, right_rows, tokenizer=None, config=config, against=OTHER)
    assert report.notes[0].startswith("not the same layout as a run's: rows are asked by chat")
    assert report.evaluation.num_rows == len(right_rows)
    bodies = [body for path, body, _ in served.asked if path == "/v1/chat/completions"]
    assert len(bodies) == len(served.asked) == 4 * len(right_rows)
    question = right_rows[0]["question"]
    system = {"role": "system", "content": "Be brief."}
    user = {"role": "user", "content": f"{question} {PROMPT}"}
    (first,) = [body for body in bodies if body["messages"] == [system, user]]
    assert first["max_tokens"] == CONFIG["max_new_tokens"]
    assert first["chat_template_kwargs"] == {"tools": None}
    (second,) = [b for b in bodies if b["messages"][:2] == [system, user] and b is not first]
    assert [turn["role"] for turn in second["messages"]] == ["system", "user", "assistant", "user"]
    assert second["messages"][3]["content"] == f"{EXTRACTOR} ..."
    assert report.evaluation.rows[0].reasoning == second["messages"][2]["content"].strip()


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Therefore, the answer is $ 18 $. Done.", "18"),
        ("18 $", "18"),
        ("$18$", "18"),
        ("So it is: Therefore, the answer is $18", "18"),
        ("<think>\nIs it $17$?\n</think>\n\n$18$", "18"),
        ("as the template has opened it: 17\n</think>\n18", "18"),
        ([{"type": "text", "text": "1"}, {"type": "image"}, {"type": "text", "text": "8"}], "18"),
    ],
)
def test_an_answer_by_chat_may_repeat_what_asks_for_it(
    served: Served, reply: Any, expected: str
) -> None:
    def says(handler: Handler, path: str, body: Any) -> bool:
        asked = body["messages"][-1]["content"]
        thinks = {"content": None, "reasoning_content": "9 + 9"}
        message = {"content": reply} if asked.endswith("...") else thinks
        handler.send(200, {"choices": [{"message": message, "finish_reason": "stop"}]})
        return True

    served.fault = says
    rows = [{"question": "What is 9 plus 9?", "answer": "18"}]
    config = {**CONFIG, "extractor": "Therefore, the answer is $ "}
    report = measured(served, rows, tokenizer=None, config=config)
    assert report.evaluation.rows[0].predicted == expected
    assert report.evaluation.rows[0].reasoning == "9 + 9"
    assert report.accuracy == 1


@pytest.mark.parametrize(
    ("message", "reason", "note"),
    [
        ({"content": None, "reasoning_content": "18"}, "length", "2 answers were empty"),
        ({"content": "", "reasoning": "18"}, "length", "2 answers were empty"),
        ({"content": ""}, "content_filter", "2 answers were empty"),
        ({"content": None, "refusal": "18"}, "stop", "2 answers were empty"),
        ({"content": f"{EXTRACTOR} "}, "length", "2 answers were empty"),
        ({"content": "<think>\nIt is 18"}, "length", "2 answers were empty"),
        ({"content": "<think>\n18\n</think>\n"}, "stop", "2 answers were empty"),
        ({"content": "18 is what"}, "length", "2 answers were cut off"),
        ({"content": "18"}, "stop", ""),
    ],
)
def test_a_thought_is_no_answer(
    served: Served, tmp_path: Path, message: dict[str, Any], reason: str, note: str
) -> None:
    """And where there is none, or a part of one, that is said; of recorded rows too."""

    def says(handler: Handler, path: str, body: Any) -> bool:
        is_second = body["messages"][-1]["content"].endswith("...")
        reply = message if is_second else {"content": "9 + 9"}
        choice = {"message": reply, "finish_reason": reason if is_second else "stop"}
        handler.send(200, {"choices": [choice]})
        return True

    served.fault = says
    rows = [{"question": f"What is 9 plus 9, {i}?", "answer": "18"} for i in range(2)]
    asked = {"tokenizer": None, "records": tmp_path / "rows.jsonl"}
    for _ in range(2):
        report = measured(served, rows, **asked)
        predicted = "" if "empty" in note else message["content"]
        assert [row.predicted for row in report.evaluation.rows] == [predicted] * 2
        told = [line for line in report.notes if "answers were" in line]
        assert len(told) == bool(note)
        assert all(line.startswith(note) for line in told)
    assert len(served.asked) == 4


@pytest.mark.parametrize(
    "message", [{"content": None}, {"content": ""}, {"content": []}, {}, {"refusal": "no"}], ids=str
)
def test_a_reasoning_that_is_kept_back_is_a_wrong_row(
    served: Served, message: dict[str, Any]
) -> None:
    """As of hidden thoughts that came to their limit: nothing can be asked behind it."""
    choice = {"message": message, "finish_reason": "length"}
    served.fault = lambda handler, *_: handler.send(200, {"choices": [choice]}) or True
    report = measured(served, examples(2), tokenizer=None)
    assert [(row.predicted, row.cut_off) for row in report.evaluation.rows] == [("", True)] * 2
    assert len(served.asked) == 2
    assert any(note.startswith("2 answers were empty") for note in report.notes)


def test_settings_of_a_layout_do_nothing_by_chat(served: Served) -> None:
    config = {**CONFIG, "on_long": "drop", "max_prompt_tokens": 50}
    notes = measured(served, examples(1), tokenizer=None, config=config).notes
    assert "max_prompt_tokens and on_long: without effect on a served model" in notes
    assert not any("without effect" in note for note in measured(served, examples(1)).notes)


def test_a_chat_without_a_message(served: Served) -> None:
    def says(**choice: Any) -> None:
        served.fault = lambda handler, *_: handler.send(200, {"choices": [choice]}) or True

    says(text="a")
    with pytest.raises(ValueError, match=r"^row 0 .* has no message"):
        measured(served, examples(1), tokenizer=None, num_retries=0)
    for name in ("content", "reasoning_content"):
        says(message={name: "a\ud83d"})
        with pytest.raises(ValueError, match=rf"^row 0 .* half a character in its {name}"):
            measured(served, examples(1), tokenizer=None, num_retries=0)


@pytest.mark.parametrize("num_concurrent", [1, 4])
def test_a_model_may_take_the_later_limit_alone(
    lm: LM, served: Served, right_rows: Rows, num_concurrent: int
) -> None:
    """It refuses the other at the first request of each thread, of both prompts together."""
    asked = {"tokenizer": None, "against": OTHER, "num_concurrent": num_concurrent}
    own = measured(served, right_rows, **asked)
    assert not any("max_completion_tokens" in body for _, body, _ in served.asked)
    with serving(lm, limit="max_completion_tokens") as other:
        report = measured(other, right_rows, **asked)
    assert (report.evaluation, report.against) == (own.evaluation, own.against)
    refused = [body for _, body, _ in other.asked if "max_tokens" in body]
    taken = [body for _, body, _ in other.asked if "max_completion_tokens" in body]
    assert 1 <= len(refused) <= num_concurrent
    assert len(other.asked) == len(refused) + len(taken)
    assert len(taken) == len(served.asked) == 4 * len(right_rows)
    rooms = sorted(body["max_tokens"] for _, body, _ in served.asked)
    assert sorted(body["max_completion_tokens"] for body in taken) == rooms
    for body in refused:
        again = {**body, "max_completion_tokens": body["max_tokens"]}
        del again["max_tokens"]
        assert again in taken


@pytest.mark.parametrize(
    ("status", "said", "num_asked"),
    [
        (400, "the prompt is too long", 1),
        (422, "Use 'max_completion_tokens' instead.", 1),
        (400, "'max_tokens' or 'max_completion_tokens' is too large: 9", 2),  # as vLLM says
        (400, f"{'so ' * 200} max_completion_tokens", 2),
    ],
)
def test_a_chat_that_is_refused(served: Served, status: int, said: str, num_asked: int) -> None:
    """It is asked again where the later limit is named, and told of by what is said then."""
    told = iter([said, f"still: {said}"])
    served.fault = lambda handler, *_: handler.send(status, {"error": next(told)}) or True
    with pytest.raises(ValueError, match=rf"^row 0 .* the server answered {status}: ") as caught:
        measured(served, examples(1), tokenizer=None)
    assert len(served.asked) == num_asked
    assert ("still: " in str(caught.value)) == (num_asked == 2)


def test_what_names_the_later_limit_by_the_way_changes_nothing(served: Served) -> None:
    """Only a limit that is taken is kept: the next row is asked as before."""
    config = Config.from_mapping(CONFIG)
    asked = client.Client(server(served))
    extractor = make_extractor(EXTRACTOR)
    chat = Chat(asked, [Example("Is it?", "True")], PROMPT, extractor, config)
    served.fault = lambda handler, *_: handler.send(400, b"max_completion_tokens") or True
    with pytest.raises(ValueError, match="answered 400"):
        chat.answered(0)
    served.fault = lambda *_: False
    served.asked.clear()
    chat.answered(0)
    assert ["max_tokens" in body for _, body, _ in served.asked] == [True, True]


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize(
    "said",
    [
        "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) "
        "value is supported.",
        "Unsupported parameter: 'temperature' is not supported with this model.",
    ],
)
def test_a_model_that_draws_alone_cannot_be_measured(served: Served, limit: str, said: str) -> None:
    served.limit = limit

    def fault(handler: Handler, path: str, body: Any) -> bool:
        if limit in body:
            handler.send(400, {"error": {"message": said, "param": "temperature"}})
        return limit in body

    served.fault = fault
    with pytest.raises(ValueError, match=r"^row 0 ") as caught:
        measured(served, examples(1), tokenizer=None)
    assert str(caught.value).endswith(
        f"the server answered 400: {said}; rows are asked at temperature 0, for the likeliest "
        "tokens: a model that refuses it cannot be measured, name another one (model, --model)"
    )
    assert all(body["temperature"] == 0 for _, body, _ in served.asked)
    assert len(served.asked) == (1 if limit == "max_tokens" else 2)
