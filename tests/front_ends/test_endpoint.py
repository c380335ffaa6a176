"""A prompt on a served model: a loopback server over our engine, well and badly behaved."""

import json
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.evidence.served import compared
from greater_fast import Config, Example, evaluate
from greater_fast.cli import main as cli
from greater_fast.examples.extractor import make_extractor
from greater_fast.examples.layout import build_layouts
from greater_fast.front_ends.endpoint import Server, client, evaluate_endpoint
from greater_fast.front_ends.endpoint.threads import in_threads
from greater_fast.model.lm import LM, load_lm
from greater_fast.model.text.vocabulary import Vocabulary
from greater_fast.runs.result import Report
from tests.cases import examples, tiny_lm
from tests.front_ends.served import Handler, Served, serving
from tests.tiny import LLAMA3_TEMPLATE, PROMPT, boolean_rows, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.front_ends
OTHER = "Think step by step and answer."
EXTRACTOR = "The answer is"
CONFIG = {"max_new_tokens": 6, "max_prompt_tokens": 40, "extractor": EXTRACTOR}
ROOT = Path(__file__).resolve().parents[2]
KEY = "sk-only-for-this-test"
Rows = list[dict[str, str]]


@pytest.fixture(scope="module")
def right_rows(labelled_rows: Callable[[str], Rows]) -> Rows:
    """Rows on which the tiny model is right with the prompt, but for two of them."""
    found = labelled_rows(PROMPT)[:8]
    return [*found, *({**row, "question": f"{row['question']} Really?"} for row in found[:2])]


@pytest.fixture(scope="module")
def here(lm: LM, right_rows: Rows) -> Report:
    return evaluate(lm, right_rows, prompt=PROMPT, against=OTHER, config=CONFIG, progress=False)


@pytest.fixture
def served(lm: LM) -> Iterator[Served]:
    with serving(lm) as found:
        yield found


def server(served: Served, **options: Any) -> Server:
    return Server(**{"url": served.url, "model": "tiny", "wait_s": 0.001, **options})


def measured(served: Served, rows: Any, **options: Any) -> Report:
    """The report of the served model, in the tokenizer's layout unless told otherwise."""
    asked = {name: options.pop(name) for name in list(options) if name in Server.__slots__}
    given = {"prompt": PROMPT, "tokenizer": served.lm, "config": CONFIG, "progress": False}
    return evaluate_endpoint(server(served, **asked), rows, **{**given, **options})


def fails(times: int, status: int = 500, **headers: str) -> Callable[[Handler, str, Any], bool]:
    """A fault: completions of rows fail so many times."""
    left = [times]

    def fault(handler: Handler, path: str, body: Any) -> bool:
        if path != "/v1/completions" or body["max_tokens"] == 1 or left[0] <= 0:
            return False
        left[0] -= 1
        handler.send(status, {"error": {"message": "try\x1b[31m again"}}, **headers)
        return True

    return fault


def replies(content: bytes) -> Callable[[Handler, str, Any], bool]:
    """A fault: completions of rows have that content."""

    def fault(handler: Handler, path: str, body: Any) -> bool:
        if path != "/v1/completions" or body["max_tokens"] == 1:
            return False
        handler.send(200, content)
        return True

    return fault


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
    given = {tuple(b["prompt"]) for b in served.completions() if "return_token_ids" not in b}
    layouts = _layouts(lm, right_rows)
    room = CONFIG["max_new_tokens"]
    generated = [
        served._written(layouts.context_ids(row, layouts.prompt_ids), room)[0]
        for row in range(len(layouts))
    ]
    ends = [ids[:-1] if ids[-1] in lm.end_ids else ids for ids in generated]
    kept = [
        (*layouts.context_ids(row, layouts.prompt_ids), *ids, *layouts.extractor_ids) in given
        for row, ids in enumerate(ends)
    ]
    # A random model writes few texts that are read as the tokens that they were written in.
    (note,) = [note for note in report.notes if "came back as text" in note]
    num_noted = int(note.split()[1])
    assert 0 < num_noted <= len(kept) - sum(kept)
    right = [own for own, k in zip(report.evaluation.rows, kept, strict=True) if k]
    assert right == [own for own, k in zip(here.evaluation.rows, kept, strict=True) if k]


def _layouts(lm: LM, rows: Rows, prompt: str = PROMPT) -> Any:
    config = Config.from_mapping(CONFIG)
    return build_layouts(
        lm, [Example(**row) for row in rows], prompt, make_extractor(EXTRACTOR), config
    )


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
    extractor_ids = list(_layouts(lm, right_rows).extractor_ids)
    assert second["prompt"] == [*first["prompt"], *ids, *extractor_ids]


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
        ids = list(_layouts(served.lm, right_rows, prompt).prompt_ids)
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
    layouts = _layouts(lm, [{"question": q, "answer": a} for q, a in boolean_rows(2)])
    length = len(layouts.context_ids(0, layouts.prompt_ids))
    with serving(lm, kind=kind, more="<|pad|>") as served:
        message = (
            rf"chat template makes {length + 1} tokens of row 0 \('Question 1: .*'\) where .* "
            rf"makes {length}: from token {length} on it reads '.*<\|pad\|>', not "
        )
        with pytest.raises(ValueError, match=message):
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


def test_failures_that_pass_are_tried_again(served: Served, right_rows: Rows, here: Report) -> None:
    served.fault = fails(7)
    report = measured(served, right_rows)
    assert report.evaluation == here.evaluation
    assert len(served.completions()) == 2 * len(right_rows) + 7


def test_failures_that_do_not_pass_name_the_row(served: Served) -> None:
    served.fault = fails(1000)
    with pytest.raises(ValueError, match=r"^row 0 \('Question 1: ") as caught:
        measured(served, examples(3), num_concurrent=1, num_retries=2)
    assert str(caught.value).endswith(
        f"the server answered 500: try\\x1b[31m again (3 tries at {served.url}/completions)"
    )
    assert len(served.completions()) == 3  # no other row was begun


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"choices": [', "no JSON, or was cut off"),
        (b"[" * 100_000, "no JSON, or was cut off"),
        (b"[]", "no JSON object"),
        (b'{"error": "no"}', r"no choices, but \['error'\]"),
        (b'{"choices": []}', "no choices"),
        (b'{"choices": [{"text": null}]}', "no text, but None"),
        (b'{"choices": [{"text": "a\\ud83d b"}]}', r"half a character in its text: '\\ud83d b'"),
        (b'{"choices": [{"text": "a", "token_ids": [5, true]}]}', "token ids that are none"),
        (b'{"choices": [{"text": "a", "token_ids": [-1]}]}', "token ids that are none"),
        (b'{"choices": [{"text": "a", "token_ids": [1, 1, 1, 1, 1, 1, 1]}]}', "more than 6"),
    ],
)
def test_replies_that_are_none_name_the_row(served: Served, content: bytes, message: str) -> None:
    served.fault = replies(content)
    with pytest.raises(ValueError, match=rf"^row 0 \('Question 1: .*{message}.*2 tries"):
        measured(served, examples(1), num_retries=1)


@pytest.mark.parametrize("begun", [None, b"", b'{"choices": [{"te'])
def test_a_connection_that_is_cut(served: Served, begun: bytes | None) -> None:
    def cuts(handler: Handler, path: str, body: Any) -> bool:
        if path != "/v1/completions" or body["max_tokens"] == 1:
            return False
        if begun is not None:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + begun)
        handler.close_connection = True
        return True

    served.fault = cuts
    message = "no JSON, or was cut off" if begun is not None else "not reached, or hung up: "
    with pytest.raises(ValueError, match=rf"^row 0 \('Question 1: .*{message}.* \(2 tries"):
        measured(served, examples(1), num_retries=1)
    assert len(served.completions()) == 2


def test_a_server_that_is_not_there(served: Served) -> None:
    served.url = "http://127.0.0.1:9/v1"  # discard: nobody listens
    with pytest.raises(ValueError, match=r"not reached, .*refused \(2 tries at http://127.0.0.1:9"):
        measured(served, examples(1), num_retries=1)


def test_a_reply_that_does_not_come_or_end_in_time(served: Served) -> None:
    gone = threading.Event()

    def drips(handler: Handler, path: str, body: Any) -> bool:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")
        while not gone.wait(0.02):
            handler.wfile.write(b" ")
        return True

    served.fault = drips
    with pytest.raises(ValueError, match="did not end in time"):
        measured(served, examples(1), timeout_s=0.1, num_retries=0)
    served.fault = lambda *_: gone.wait(30)
    with pytest.raises(ValueError, match=r"did not answer within 0\.1 seconds"):
        measured(served, examples(1), timeout_s=0.1, num_retries=0)
    gone.set()


def test_a_reply_is_read_up_to_a_bound(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_MOST_BYTES", 1000)
    served.fault = replies(b" " * 1001)
    with pytest.raises(ValueError, match=r"^row 0 .* more than 1,000 bytes \(at "):
        measured(served, examples(1), num_retries=0)


def test_waits_grow_up_to_a_bound_and_hear_the_server(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    found = client.Client(server(served, wait_s=8.0, num_retries=4))
    monkeypatch.setattr(found.stop, "wait", waited.append)
    served.fault = fails(4, 429)
    body = {"model": "tiny", "prompt": [5], "max_tokens": 2, "temperature": 0}
    assert found.post("/completions", body, lambda reply: len(reply["choices"])) == 1
    assert len(waited) == 4
    for wait, most in zip(waited, (8, 16, 30, 30), strict=True):
        assert most / 2 <= wait <= most
    for text, expected in (("100", 100), ("1e9", 120), ("-5", 4), ("nan", 4), ("soon", 4)):
        waited.clear()
        served.fault = fails(1, 429, Retry_After=text)
        found.post("/completions", body, len)
        assert len(waited) == 1
        assert waited[0] == expected or 4 <= waited[0] <= 8 < expected + 5, text
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 60))
    served.fault = fails(1, 503, Retry_After=date)
    waited.clear()
    found.post("/completions", body, len)
    assert 50 < waited[0] <= 61


def test_once_stopped_nothing_is_asked(served: Served) -> None:
    found = client.Client(server(served))
    found.stop.set()
    with pytest.raises(client.StoppedError):
        found.post("/completions", {}, len)
    assert served.asked == []


def test_what_the_server_refuses_is_not_tried_again(served: Served) -> None:
    served.fault = fails(1000, 400)
    with pytest.raises(ValueError, match=r"^row 0 .* the server answered 400: try"):
        measured(served, examples(1))
    assert len(served.completions()) == 1


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
@pytest.mark.parametrize("has_path", [False, True])
def test_an_address_without_a_version_is_told_of_it(
    served: Served, *, has_path: bool, chat: bool
) -> None:
    """The server has nothing there, or something of its own, as llama.cpp's `/completions`."""
    url = served.url
    served.url = url.removesuffix("/v1")
    if has_path:
        served.fault = lambda handler, *_: (
            handler.send(200, {"content": "so", "tokens": []}) or True
        )
    said = r"has no choices, but \['content', 'tokens'\]" if has_path else "answered 404"
    with pytest.raises(ValueError, match=said) as caught:
        measured(served, examples(1), tokenizer=None if chat else served.lm)
    told = str(caught.value)
    assert f"; such an address mostly ends with /v1: try {url}" in told
    assert "--chat" not in told
    if has_path and not chat:  # of each of the four to six ways two requests
        assert 8 <= len(served.asked) <= 12
    for address in (url, f"{url}beta/openai", "https://host/api/v2"):
        assert Server(address, "m").hint == ""


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


def test_a_redirect_is_not_followed(
    served: Served, lm: LM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    with serving(lm) as other:
        for status in (301, 302, 303, 307, 308):
            place = f"{other.url}/completions?key={KEY}"

            def sends(
                handler: Handler, path: str, body: Any, status: int = status, place: str = place
            ) -> bool:
                handler.send(status, {}, Location=place)
                return True

            served.fault = sends
            with pytest.raises(ValueError, match=f"answered {status}.*sends us to") as caught:
                measured(served, examples(1), key_variable="SOME_KEY")
            assert f"'{other.url}/completions?key=[key]'" in str(caught.value)
        assert other.asked == []


def test_the_key_is_sent_and_never_told(
    served: Served,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Not even where the server writes it into all that it says."""
    monkeypatch.setenv("SOME_KEY", KEY)

    def echoes(handler: Handler, path: str, body: Any) -> bool:
        if path != "/v1/completions" or body["max_tokens"] == 1:
            return False
        handler.send(200, {"choices": [{"text": f"so {handler.headers['Authorization']}."}]})
        return True

    served.fault = echoes
    records = tmp_path / "rows.jsonl"
    report = measured(served, examples(2), key_variable="SOME_KEY", records=records, progress=True)
    assert {h.get("Authorization") for _, _, h in served.asked} == {f"Bearer {KEY}"}
    assert report.evaluation.rows[0].reasoning == "so Bearer [key]."
    told = [str(report), records.read_text(), *capsys.readouterr()]

    def refuses(handler: Handler, path: str, body: Any) -> bool:
        handler.send(401, {"error": {"message": f"wrong: {handler.headers['Authorization']}"}})
        return True

    served.fault = refuses
    with pytest.raises(ValueError, match="does it want a key") as caught:
        measured(served, examples(2), key_variable="SOME_KEY")
    told += [str(caught.value), str(server(served, key_variable="SOME_KEY"))]
    assert not [text for text in told if KEY in text]
    assert not any("unencrypted" in note for note in report.notes)  # it stays on this machine


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"choices": [{"text": {"auth": "Bearer KEY"}, "message": {"content": ["KEY"]}}]},
            "has no (text|content)",
        ),
        (
            {"choices": [{"text": ["x" * 60 + "KEY"], "message": {"content": ["x" * 60 + "KEY"]}}]},
            "xx",
        ),
        ({"KEY": 1, "other": ["KEY"]}, r"no choices, but \['\[key\]', 'other'\]"),
        ({"choices": [{"text": "", "token_ids": ["KEY"], "message": {"content": 1}}]}, "has "),
    ],
)
def test_a_reply_that_is_none_does_not_tell_the_key(
    served: Served, monkeypatch: pytest.MonkeyPatch, content: Any, message: str, *, chat: bool
) -> None:
    """Nor a part of it, where what the server says is shortened; nor how JSON may write it."""
    monkeypatch.setenv("SOME_KEY", KEY)
    written = json.dumps(content).replace("KEY", "\\u0073" + KEY[1:])

    def fault(handler: Handler, path: str, body: Any) -> bool:
        handler.send(200, written.encode())
        return True

    served.fault = fault
    tokenizer = None if chat else served.lm
    with pytest.raises(ValueError, match=message) as caught:
        measured(served, examples(1), num_retries=0, key_variable="SOME_KEY", tokenizer=tokenizer)
    assert KEY[:8] not in str(caught.value)


@pytest.mark.parametrize("content", ['{"detail": "\\u0073KEY"}', '"\\u0073KEY"', "no: sKEY"])
def test_an_error_does_not_tell_the_key(
    served: Served, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    said = content.replace("KEY", KEY[1:]).encode()
    served.fault = lambda handler, *_: handler.send(400, said) or True
    with pytest.raises(ValueError, match=r"the server answered 400: .*\[key\]") as caught:
        measured(served, examples(1), key_variable="SOME_KEY")
    assert KEY[1:] not in str(caught.value)


def test_no_key_is_sent_that_is_not_named(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    measured(served, examples(1))
    assert not [headers for _, _, headers in served.asked if "Authorization" in headers]


@pytest.mark.parametrize("value", ["", "  ", "sk-\x01", "ключ"])
def test_a_key_that_is_none(served: Served, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", value)
    with pytest.raises(ValueError, match=r"key_variable: .*'SOME_KEY'") as caught:
        measured(served, examples(1), key_variable="SOME_KEY")
    assert "sk-" not in str(caught.value)
    assert served.asked == []


def test_a_key_without_encryption_is_noted(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    monkeypatch.setattr(Server, "is_open", True)
    report = measured(served, examples(1), key_variable="SOME_KEY")
    assert f"the key went to {served.url} unencrypted: https keeps it from others" in report.notes


@pytest.mark.parametrize(
    ("url", "is_here", "is_open"),
    [
        ("http://localhost:8000/v1/", True, False),
        ("http://[::1]:8000/v1", True, False),
        ("http://example.org/v1", False, True),
        ("https://example.org/v1", False, False),
    ],
)
def test_where_a_server_is(url: str, is_here: bool, is_open: bool) -> None:
    found = Server(url, "m")
    assert (found.is_here, found.is_open) == (is_here, is_open)
    assert found.url == url.rstrip("/")
    assert f"{found.root}/v1" == found.url


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "127.0.0.1:8000"}, "endpoint: got '127.0.0.1:8000', expected an address"),
        ({"url": "ftp://host/v1"}, "endpoint: got 'ftp://host/v1'"),
        ({"url": "file:///etc/passwd"}, "endpoint: got 'file:///etc/passwd'"),
        ({"url": "http://host:x/v1"}, "endpoint: got"),
        ({"url": "http://host/v1\r\nX: y"}, "endpoint: got"),
        ({"url": None}, "endpoint: got None"),
        ({"url": "http://me:secret@host/v1"}, "with a name, a password or a query"),
        ({"url": "http://host/v1?key=secret"}, "with a name, a password or a query"),
        ({"url": "me:secret@host"}, "endpoint: got 'host'"),
        ({"model": " "}, "model: got ' '"),
        ({"num_concurrent": 0}, "num_concurrent: got 0, expected 1 to 1024"),
        ({"num_concurrent": True}, "num_concurrent: got True"),
        ({"num_retries": -1}, "num_retries: got -1"),
        ({"timeout_s": 0}, "timeout_s: got 0"),
        ({"wait_s": float("inf")}, "wait_s: got inf"),
    ],
)
def test_a_server_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Server(**{"url": "http://host/v1", "model": "m", **options})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("most", [1, 3])
def test_so_many_requests_are_under_way(served: Served, most: int) -> None:
    full = threading.Barrier(most)

    def waits(handler: Handler, path: str, body: Any) -> bool:
        if path == "/v1/completions" and body["max_tokens"] == CONFIG["max_new_tokens"]:
            full.wait(30)  # is left once so many are there
        return False

    served.fault = waits
    report = measured(served, examples(6), num_concurrent=most)
    assert report.evaluation.num_rows == 6
    assert served.most_under_way == most


def test_rows_that_were_answered_are_taken(
    served: Served, tmp_path: Path, right_rows: Rows, here: Report
) -> None:
    records = tmp_path / "folder" / "rows.jsonl"
    served.fault = _fails_from(5, lm=served.lm, rows=right_rows)
    with pytest.raises(ValueError, match=r"^row 5 \("):
        measured(served, right_rows, records=records, num_concurrent=1)
    lines = records.read_text().splitlines()
    assert [json.loads(line)["row"] for line in lines] == [0, 1, 2, 3, 4]
    with records.open("a") as file:  # as a kill leaves it
        file.write(lines[0][: len(lines[0]) // 2])
    served.fault = lambda *_: False
    served.asked.clear()
    report = measured(served, right_rows, records=records)
    assert report.evaluation == here.evaluation
    (note,) = [note for note in report.notes if "were taken" in note]
    assert note.startswith("5 rows were taken from the records, where the same was asked of 'tiny'")
    assert note.endswith("if other weights are served there by now, name another file (records)")
    assert len(served.completions()) == 2 * (len(right_rows) - 5)
    told = [json.loads(line) for line in records.read_text().splitlines()]
    assert sorted(line["row"] for line in told) == list(range(len(right_rows)))
    assert [line["predicted"] for line in sorted(told, key=lambda line: line["row"])] == [
        row.predicted for row in here.evaluation.rows
    ]
    served.asked.clear()
    assert measured(served, right_rows, records=records).evaluation == here.evaluation
    assert served.completions() == []


CHILD = """
import sys
from greater_fast.front_ends.endpoint import Server, evaluate_endpoint
url, rows, records, tokenizer, prompt, config = map(eval, sys.argv[1:])
server = Server(url, "tiny", num_concurrent=1)
evaluate_endpoint(
    server, rows, prompt=prompt, tokenizer=tokenizer, config=config, records=records
)
"""


def test_what_a_killed_process_has_written_is_taken(
    served: Served, model_folder: Path, tmp_path: Path, right_rows: Rows, here: Report
) -> None:
    records, go_on = tmp_path / "rows.jsonl", threading.Event()

    def hangs(handler: Handler, path: str, body: Any) -> bool:
        return len(served.completions()) > 5 and go_on.wait(60)

    served.fault = hangs
    given = (served.url, right_rows, str(records), str(model_folder), PROMPT, CONFIG)
    words = [sys.executable, "-c", CHILD, *map(repr, given)]
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL) as child:
        while child.poll() is None and len(served.completions()) < 6:
            time.sleep(0.02)
        while child.poll() is None and records.read_bytes().count(b"\n") < 2:
            time.sleep(0.02)
        child.kill()
    assert child.returncode == -signal.SIGKILL
    go_on.set()
    served.fault = lambda *_: False
    num_known = len(records.read_text().splitlines())
    assert num_known == 2
    served.asked.clear()
    report = measured(served, right_rows, records=records)
    assert report.evaluation == here.evaluation
    assert len(served.completions()) == 2 * (len(right_rows) - num_known)


def _fails_from(row: int, lm: LM, rows: Rows) -> Callable[[Handler, str, Any], bool]:
    layouts = _layouts(lm, rows)
    ids = list(layouts.context_ids(row, layouts.prompt_ids))

    def fault(handler: Handler, path: str, body: Any) -> bool:
        if path != "/v1/completions" or body["prompt"][: len(ids)] != ids:
            return False
        if body["max_tokens"] == 1:
            return False
        handler.send(400, {"message": "no more"})
        return True

    return fault


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": OTHER},
        {"model": "another"},
        {"config": {**CONFIG, "max_new_tokens": 5}},
        {"config": {**CONFIG, "extractor": "So the answer is"}},
        {"config": {**CONFIG, "system_prompt": "Be brief."}},
        {"tokenizer": None},
    ],
)
def test_rows_of_which_another_thing_was_asked_are_not_taken(
    served: Served, tmp_path: Path, change: dict[str, Any]
) -> None:
    records = tmp_path / "rows.jsonl"
    measured(served, examples(2), records=records)
    served.asked.clear()
    report = measured(served, examples(2), records=records, **change)
    assert "0 rows were taken from the records, where the same was asked" in report.notes
    assert len([path for path, body, _ in served.asked if "completions" in path]) >= 4
    assert len(records.read_text().splitlines()) == 4


def test_lines_that_another_process_adds_stay(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it may right after the file was read."""
    records, opened = tmp_path / "rows.jsonl", Path.open
    measured(served, examples(1), records=records)
    line = records.read_bytes()

    def adding(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        file = opened(path, mode, *args, **options)
        if path == records and mode == "ab+":
            read = file.read

            def reads() -> bytes:
                content = read()
                with opened(records, "ab") as other:
                    other.write(line)
                return content

            file.read = reads
        return file

    monkeypatch.setattr(Path, "open", adding)
    measured(served, examples(1), records=records)
    assert records.read_bytes() == line + line


def test_another_server_is_asked_anew(served: Served, lm: LM, tmp_path: Path) -> None:
    records = tmp_path / "rows.jsonl"
    measured(served, examples(2), records=records)
    with serving(lm) as other:
        measured(other, examples(2), records=records)
        assert len(other.completions()) == 4


def test_a_gold_answer_or_a_metric_may_change(served: Served, tmp_path: Path) -> None:
    """What the server wrote is the same; what it is worth is told anew."""
    records = tmp_path / "rows.jsonl"
    rows = [{"question": q, "answer": "True"} for q, _ in boolean_rows(3)]
    first = measured(served, rows, records=records)
    served.asked.clear()
    changed = [{**row, "answer": "False"} for row in rows]
    again = measured(served, changed, records=records, metric=lambda predicted, example: 0.25)
    assert served.completions() == []
    assert [row.predicted for row in again.evaluation.rows] == [
        row.predicted for row in first.evaluation.rows
    ]
    assert again.accuracy == 0.25
    assert any(note.startswith("answers are measured by: ") for note in again.notes)


@pytest.mark.parametrize(
    "content", [b"question,answer\n1,2\n", b'{"question": "a", "answer": "b"}\n', b"text", b"{}\n"]
)
def test_a_file_that_is_no_record_is_left_alone(
    served: Served, tmp_path: Path, content: bytes
) -> None:
    records = tmp_path / "rows.jsonl"
    records.write_bytes(content)
    with pytest.raises(ValueError, match="holds something else than rows of a served model"):
        measured(served, examples(1), records=records)
    assert records.read_bytes() == content
    assert served.asked == []


def test_records_that_cannot_be_written(served: Served, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"records: .* cannot be written \(Is a directory\)"):
        measured(served, examples(1), records=tmp_path)
    served.fault = fails(1000, 400)
    with pytest.raises(ValueError, match="row 0"):
        measured(served, examples(1), records=tmp_path / "new" / "rows.jsonl")
    assert list(tmp_path.iterdir()) == []  # what no row came to is taken back


def test_a_disk_that_takes_nothing_is_told_of(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = tmp_path / "rows.jsonl"
    opened = Path.open

    def full(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        if path == records and options.get("buffering") == 0:
            raise OSError(28, "No space left on device")
        return opened(path, mode, *args, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.warns(RuntimeWarning, match="could not be written: No space left"):
        report = measured(served, examples(2), records=records)
    assert report.evaluation.num_rows == 2
    assert any("could not be written" in note for note in report.notes)


@pytest.mark.parametrize("num_concurrent", [1, 4])
def test_a_metric_that_fails_ends_it(served: Served, tmp_path: Path, num_concurrent: int) -> None:
    """Once rows under way have ended; what the server has answered is not asked for again."""
    records, under_way = tmp_path / "rows.jsonl", threading.Barrier(num_concurrent)

    def metric(predicted: str, example: Example) -> float:
        raise KeyError("mine")

    def waits(handler: Handler, path: str, body: Any) -> bool:
        if path == "/v1/completions" and body["max_tokens"] == CONFIG["max_new_tokens"]:
            under_way.wait(30)
        return False

    served.fault = waits
    options = {"records": records, "num_concurrent": num_concurrent}
    with pytest.raises(KeyError, match="mine") as caught:
        measured(served, examples(4), metric=metric, **options)
    assert "raised by the metric" in caught.value.__notes__[0]
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    num_asked = len(served.completions()) // 2
    assert len(lines) == num_asked >= num_concurrent
    assert not any("correct" in line for line in lines)
    served.fault = lambda *_: False
    served.asked.clear()
    report = measured(served, examples(4), **options)
    assert len(served.completions()) == 2 * (4 - num_asked)
    assert report.evaluation == measured(served, examples(4)).evaluation


def test_an_interruption_waits_for_no_thread() -> None:
    stop, release = threading.Event(), threading.Event()
    begun: list[int] = []

    def ask(row: int) -> int:
        begun.append(row)
        if row:
            release.wait(30)
        return row

    def heard(row: int, answer: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_threads(range(20), ask, heard, 2, stop)
    assert stop.is_set()
    release.set()
    time.sleep(0.05)
    assert len(begun) <= 4


def test_after_an_error_rows_under_way_are_heard_of() -> None:
    both = threading.Barrier(2)
    heard: list[tuple[int, int]] = []

    def ask(row: int) -> int:
        both.wait(30)
        if row == 0:
            raise ValueError("row 0")
        time.sleep(0.05)
        return row

    with pytest.raises(ValueError, match="row 0"):
        in_threads(range(20), ask, lambda *item: heard.append(item), 2, threading.Event())
    assert heard == [(1, 1)]


def test_after_an_error_of_who_hears_rows_under_way_are_heard_of() -> None:
    both, begun, heard = threading.Barrier(2), list[int](), list[int]()

    def ask(row: int) -> int:
        begun.append(row)
        if row < 2:
            both.wait(30)
        time.sleep(0.02)
        return row

    def hears(row: int, answer: int) -> None:
        heard.append(row)
        raise ValueError(f"row {row}")

    with pytest.raises(ValueError, match="row ") as caught:
        in_threads(range(100), ask, hears, 2, threading.Event())
    assert str(caught.value) == f"row {heard[0]}"
    assert sorted(heard) == sorted(begun)
    assert len(begun) < 100


def test_threads_that_do_not_start_end_those_that_did(monkeypatch: pytest.MonkeyPatch) -> None:
    stop, begun, start, started = (
        threading.Event(),
        list[int](),
        threading.Thread.start,
        list[Any](),
    )

    def starts(thread: threading.Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    def ask(row: int) -> int:
        begun.append(row)
        stop.wait(30)
        return row

    monkeypatch.setattr(threading.Thread, "start", starts)
    with pytest.raises(RuntimeError, match="can't start"):
        in_threads(range(20), ask, lambda *_: None, 4, stop)
    assert stop.is_set()
    started[0].join(30)
    assert len(begun) <= 1


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
    ],
)
def test_an_answer_by_chat_may_repeat_what_asks_for_it(
    served: Served, reply: str, expected: str
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


def test_settings_of_our_engine_are_without_effect(served: Served) -> None:
    report = measured(served, examples(1), config={**CONFIG, "batch_size": 3, "steps": 7})
    assert "steps: without effect on an evaluation" in report.notes
    assert "batch_size: without effect on a served model" in report.notes
    with pytest.raises(ValueError, match=r"sampling_temperature: got 0.7, expected 0"):
        measured(served, examples(1), config={**CONFIG, "sampling_temperature": 0.7})


def test_rows_of_special_names_are_asked_as_they_are_read(lm: LM, served: Served) -> None:
    rows = [{"question": f"What is <|eot_id|> {i}?", "answer": "True"} for i in range(2)]
    own = evaluate(lm, rows, prompt=PROMPT, config=CONFIG, progress=False)
    report = measured(served, rows)
    assert report.evaluation == own.evaluation
    assert any("all rows name special tokens" in note for note in report.notes)


def test_a_tokenizer_is_read_without_its_weights(
    served: Served, model_folder: Path, tmp_path: Path, right_rows: Rows, here: Report
) -> None:
    for file in model_folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    report = measured(served, right_rows, tokenizer=str(tmp_path))
    assert report.evaluation == here.evaluation


def test_another_tokenizer_is_refused(served: Served) -> None:
    """Its ids would mean other words to the server."""
    other = tiny_lm(kind="sentencepiece")
    with pytest.raises(ValueError, match="the server's chat template makes"):
        measured(served, examples(1), tokenizer=other)


def command(*words: str) -> int:
    return cli.main(["evaluate", *words])


@pytest.fixture
def data(tmp_path: Path, right_rows: Rows) -> str:
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in right_rows[:4]))
    return str(path)


def test_the_command_takes_a_runs_prompt(
    served: Served, finished_run: Path, data: str, tmp_path: Path, capsys: Any
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for file in finished_run.iterdir():
        (run / file.name).write_bytes(file.read_bytes())
    shared = ["--run", str(run), "--data", data, "--json"]
    assert command(*shared) == 0
    own = json.loads(capsys.readouterr().out)
    asked = [*shared, "--endpoint", served.url, "--model", "tiny", "--num-concurrent", "2"]
    assert command(*asked) == 0
    report = json.loads(capsys.readouterr().out)
    assert {**report, "notes": []} == {**own, "notes": []}
    rows = (run / "served.jsonl").read_text().splitlines()
    assert len(rows) == own["num_rows"] * (2 if own["against"] else 1)
    served.asked.clear()
    assert command(*asked) == 0
    assert served.completions() == []
    assert cli.main(["show", str(run)]) == 0


def test_the_command_asks_by_chat(served: Served, data: str, capsys: Any) -> None:
    asked = ["--endpoint", served.url, "--model", "tiny", "--data", data, "--prompt", PROMPT]
    settings = ["--max-new-tokens", "6", "--extractor", EXTRACTOR]
    assert command(*asked, *settings, "--chat", "--timeout", "30") == 0
    assert "not the same layout" in capsys.readouterr().out


def test_the_example_runs(model_folder: Path, tmp_path: Path, capsys: Any) -> None:
    example = runpy.run_path(str(ROOT / "examples" / "served_model.py"))
    example["main"](str(model_folder), num_rows=4, max_new_tokens=6)
    told = capsys.readouterr().out
    assert "the same answers" in told


def test_the_benchmark_holds_rows_against_rows(served: Served, lm: LM) -> None:
    found = compared(server(served), lm, examples(3), PROMPT, 6)
    assert (found.num_rows, found.same_reasoning, found.same_answer) == (3, 3, 3)
    assert found.only_served == found.only_here == 0
    assert found.served_seconds > 0 < found.here_seconds
    assert found.describe().startswith("3 rows on ")
    assert "the same reasoning on 3, the same answer on 3" in found.describe()
