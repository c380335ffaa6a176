"""How a server takes rows is found out once, and how it reads them is counted."""

from typing import Any

import pytest

from greater_fast.model.lm import LM
from greater_fast.runs.result import Report
from tests.cases import examples
from tests.front_ends.endpoint.asking import OTHER, Rows, layouts_of, measured
from tests.front_ends.served import Handler, Served, serving
from tests.tiny import PROMPT

pytestmark = pytest.mark.front_ends


@pytest.mark.parametrize("writes_bos", [False, True])
def test_a_server_that_takes_texts_alone(
    lm: LM, writes_bos: bool, right_rows: Rows, here: Report
) -> None:
    """`llama_cpp.server` answers 500 to ids; in each way they are then sent twice."""
    options = {"takes_ids": False, "writes_bos": writes_bos, "refusal": 500 if writes_bos else 422}
    with serving(lm, **options) as served:
        report = measured(served, right_rows)
    tried = [body["prompt"] for body in served.completions(rows=False)]
    num_as_ids = 4 if options["refusal"] == 500 else 2
    assert [isinstance(prompt, str) for prompt in tried[: num_as_ids + 1]] == [
        *([False] * num_as_ids),
        True,
    ]
    first = served.completions()[0]["prompt"]
    assert first.startswith("<|begin_of_text|>") != writes_bos
    assert [row.reasoning for row in report.evaluation.rows] == [
        row.reasoning for row in here.evaluation.rows
    ]
    (note,) = [note for note in report.notes if "rows as text" in note]
    assert note.endswith("a token that is taken to be <|begin_of_text|>") == writes_bos


@pytest.mark.parametrize("prompt", [PROMPT, OTHER])
def test_both_prompts_are_sent_in_one_way(
    served: Served, right_rows: Rows, here: Report, prompt: str
) -> None:
    """A failure that passes, while it is found out, does not part them."""
    left = [1]

    def fault(handler: Handler, path: str, body: Any) -> bool:
        is_trial = path == "/v1/completions" and body["max_tokens"] == 1
        ids = list(layouts_of(served.lm, right_rows, prompt).prompt_ids)
        text = ",".join(map(str, body.get("prompt", ())))
        if not (is_trial and left[0] and ",".join(map(str, ids)) in text):
            return False
        left[0] -= 1
        handler.send(500, {"error": {"message": "out of memory"}})
        return True

    served.fault = fault
    report = measured(served, right_rows, against=OTHER)
    assert (report.evaluation, report.against) == (here.evaluation, here.against)
    assert all(isinstance(body["prompt"], list) for body in served.completions())
    ways = [note for note in report.notes if note.startswith("asked at ")]
    assert len(ways) == 1
    assert ways[0].endswith("rows as token ids")
    assert len(served.completions(rows=False)) == len(served.completions()) + (
        2 if prompt == PROMPT else 1
    )


def test_no_default_of_the_server_is_left_on(lm: LM, served: Served, right_rows: Rows) -> None:
    """Each request is greedy, and penalties are off where the server knows them."""
    plain = {"model": "tiny", "temperature": 0}
    switched = {"repetition_penalty": 1.0, "repeat_penalty": 1.0}
    with serving(lm, strict=True) as strict:
        for server, more in ((served, {**switched, "return_token_ids": True}), (strict, {})):
            measured(server, right_rows)
            sent = [
                {
                    name: value
                    for name, value in body.items()
                    if name not in ("prompt", "max_tokens")
                }
                for body in server.completions()
            ]
            assert sent == [plain | more] * (2 * len(right_rows))


def _without_usage(handler: Handler, path: str, body: Any) -> bool:
    if path != "/v1/completions":
        return False
    status, reply = handler.server.served.reply(path, body)  # type: ignore[attr-defined]
    reply.pop("usage", None)
    handler.send(status, reply)
    return True


def test_ids_that_are_not_counted_are_noted(served: Served, right_rows: Rows, here: Report) -> None:
    served.fault = _without_usage
    report = measured(served, right_rows)
    assert report.evaluation == here.evaluation
    (note,) = [note for note in report.notes if note.startswith("asked at ")]
    assert note.endswith("rows as token ids, which the server does not count")


@pytest.mark.parametrize("writes_bos", [False, True])
@pytest.mark.parametrize("kind", ["vllm", "neither"])
def test_a_text_that_is_not_counted_is_refused(lm: LM, kind: str, writes_bos: bool) -> None:
    """Two BOS would be read, or a template, and nobody would know."""
    options = {"takes_ids": False, "writes_bos": writes_bos, "kind": kind}
    with serving(lm, **options, fault=_without_usage) as served:
        with pytest.raises(ValueError, match=r"does not say as how many tokens .*; by chat"):
            measured(served, examples(2))
        assert served.completions() == []


@pytest.mark.parametrize("more", [-1, 2])
def test_a_text_that_is_read_as_other_tokens_is_refused(lm: LM, more: int) -> None:
    def counts_more(handler: Handler, path: str, body: Any) -> bool:
        if path == "/v1/completions":
            status, reply = handler.server.served.reply(path, body)  # type: ignore[attr-defined]
            if status == 200:
                reply["usage"]["prompt_tokens"] += more
            handler.send(status, reply)
        return path == "/v1/completions"

    message = r"in the layout of .*: on row 0 .* the server read"
    with (
        serving(lm, takes_ids=False, kind="neither", fault=counts_more) as served,
        pytest.raises(ValueError, match=message),
    ):
        measured(served, examples(2))


def test_a_text_is_counted_on_each_row(lm: LM) -> None:
    """What counted the first row may leave another out."""

    def fault(handler: Handler, path: str, body: Any) -> bool:
        return body.get("max_tokens") != 1 and _without_usage(handler, path, body)

    with (
        serving(lm, takes_ids=False, fault=fault) as served,
        pytest.raises(
            ValueError, match=r"^row 0 \('Question 1: .*does not say as how many .*--chat"
        ),
    ):
        measured(served, examples(2), num_concurrent=1)


def test_each_row_is_counted(served: Served) -> None:
    """Only some may be read as others, as one with a special token's name in its question."""

    def fault(handler: Handler, path: str, body: Any) -> bool:
        if path != "/v1/completions" or body["max_tokens"] == 1:
            return False
        status, reply = handler.server.served.reply(path, body)  # type: ignore[attr-defined]
        reply["usage"]["prompt_tokens"] -= 1
        handler.send(status, reply)
        return True

    served.fault = fault
    with pytest.raises(ValueError, match=r"^row 0 \('Question 1: .*--chat"):
        measured(served, examples(2), num_concurrent=1)


def test_a_server_without_completions_is_told_of_chat(served: Served) -> None:
    def none(handler: Handler, path: str, body: Any) -> bool:
        if path == "/v1/completions":
            handler.send(404, b"<html>" + b"x" * 1000)
        return path == "/v1/completions"

    served.fault = none
    with pytest.raises(ValueError, match=r"answered 404: <html>x+…; by chat \(--chat"):
        measured(served, examples(1))
    assert len(served.asked) == 1


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize(
    ("said", "lacks_model"),
    [
        ("The model `tiny` does not exist.", True),
        ("The model `tiny` does not exist or you do not have access to it.", True),
        ('model "tiny" not found, try pulling it first', True),
        ("This is a chat model and not supported in the v1/completions endpoint.", False),
        ("Not Found", False),
    ],
)
def test_a_model_that_is_not_there_is_no_reason_to_chat(
    served: Served, said: str, *, lacks_model: bool, chat: bool
) -> None:
    served.fault = lambda handler, *_: handler.send(404, {"error": {"message": said}}) or True
    with pytest.raises(ValueError, match=f"answered 404: {said}") as caught:
        measured(served, examples(1), tokenizer=None if chat else served.lm)
    told = str(caught.value)
    assert ("by the name that the server has for it (model, --model)" in told) == lacks_model
    assert ("--chat" in told) == (not chat and not lacks_model)
    assert len(served.asked) == 1


def test_ids_that_a_reply_refuses_are_sent_as_text(lm: LM, right_rows: Rows, here: Report) -> None:
    """Some servers answer 200, and put the error into the reply."""

    def fault(handler: Handler, path: str, body: Any) -> bool:
        if path != "/v1/completions" or isinstance(body["prompt"], str):
            return False
        handler.send(200, {"error": {"message": "prompt: expected a string"}})
        return True

    with serving(lm, fault=fault) as served:
        report = measured(served, right_rows)
        num_trials = len(served.completions(rows=False)) - len(served.completions())
    assert [row.reasoning for row in report.evaluation.rows] == [
        row.reasoning for row in here.evaluation.rows
    ]
    assert num_trials == 5
