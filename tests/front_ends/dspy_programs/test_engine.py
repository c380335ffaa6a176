"""The engine as an LM of DSPy."""

import asyncio
import copy
import re
import threading
from typing import Any

import dspy
import pytest
from dspy import lm15

from greater_fast.front_ends.dspy import AsyncGreaterEngine, GreaterEngine
from greater_fast.model.lm import LM
from greater_fast.texts.generation import generate
from tests.front_ends.dspy_programs.programs import LIMIT, examples, odd, thought

pytestmark = pytest.mark.front_ends


def request_of(asked: Any, text: str = "Say something.", **config: Any) -> Any:
    messages = (lm15.Message.user(text),)
    return lm15.Request(model=asked.model, messages=messages, config=lm15.Config(**config))


def test_the_engine_writes_what_generate_writes(asked: Any, attentive: LM) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is it?"},
        {"role": "assistant", "content": "It is."},
        {"role": "user", "content": "What?"},
    ]
    text = attentive.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    (expected,) = generate(asked.engine.engine, [text], LIMIT)
    request = lm15.request_from_openai_chat({"model": asked.model, "messages": messages})
    response = asked(request)
    assert asked.engine.text(request) == text
    assert response.text == expected.text
    assert response.finish_reason == ("stop" if expected.finished else "length")
    assert response.usage.input_tokens == expected.num_prompt_tokens
    assert response.usage.output_tokens == expected.num_tokens
    assert asked("What is it?") == [asked(request_of(asked, "What is it?")).text]


def test_a_conversation_goes_through_the_template_once(
    asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered: list[Any] = []
    text = GreaterEngine.text
    monkeypatch.setattr(GreaterEngine, "text", lambda self, r: rendered.append(r) or text(self, r))
    request = request_of(asked, max_tokens=2)
    asked.engine.complete(request)
    assert rendered == [request]


def test_limit_and_stop_texts_are_honoured(asked: Any) -> None:
    whole = asked(request_of(asked, "What is it?", max_tokens=30)).text
    short = asked(request_of(asked, "What is it?", max_tokens=2, temperature=0.0))
    assert (short.finish_reason, short.usage.output_tokens) == ("length", 2)
    assert whole.startswith(short.text)
    stop = re.findall("[A-Za-z]{2}", whole)[-1]
    stopped = asked(request_of(asked, "What is it?", max_tokens=30, stop=(stop,)))
    assert (stopped.text, stopped.finish_reason) == (whole.partition(stop)[0], "stop")


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"temperature": 0.7}, "temperature"),
        ({"top_p": 0.9}, "top_p"),
        ({"seed": 0}, "seed"),
        ({"logprobs": 0}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"extensions": {"logit_bias": {"5": 1}}}, "extensions"),
    ],
)
def test_what_it_cannot_honour_it_refuses(asked: Any, config: dict[str, Any], name: str) -> None:
    with pytest.raises(lm15.UnsupportedFeatureError, match=f"config.{name}: this engine takes"):
        asked.engine.complete(request_of(asked, **config))
    with pytest.raises(dspy.LMUnsupportedFeatureError):
        asked(request_of(asked, **config))


def test_messages_that_are_no_text_are_refused(asked: Any) -> None:
    image = lm15.ImagePart(url="memory:picture.png")
    picture = lm15.Request(model=asked.model, messages=(lm15.Message.user(["What is it?", image]),))
    late = lm15.Request(
        model=asked.model, messages=(lm15.Message.user("So?"), lm15.Message.developer("Be brief."))
    )
    for request, role in ((picture, "0 of role user"), (late, "1 of role developer")):
        with pytest.raises(lm15.UnsupportedFeatureError, match=f"message {role}: .* reads text of"):
            asked.engine.complete(request)
    tools = lm15.Request(
        model=asked.model,
        messages=(lm15.Message.user("So?"),),
        tools=(lm15.FunctionTool(name="look", description="", parameters={"type": "object"}),),
    )
    with pytest.raises(lm15.UnsupportedFeatureError, match="tools: this engine"):
        asked.engine.complete(tools)


def test_what_does_not_fit_the_context_is_refused(asked: Any) -> None:
    with pytest.raises(dspy.ContextWindowExceededError, match="fit the model's context of 2048"):
        asked(request_of(asked, "word " * 2100))
    with pytest.raises(lm15.ContextLengthError, match="which with 2040 behind them"):
        asked.engine.complete(request_of(asked, max_tokens=2040))


def test_what_the_pool_or_the_template_refuses_is_told(attentive: LM) -> None:
    small = GreaterEngine(attentive, {"kv_cache_bytes": 1 << 16})
    request = lm15.Request(model="m", messages=(lm15.Message.user("word " * 500),))
    with pytest.raises(lm15.ContextLengthError, match="this engine was made for: raise kv_ca"):
        small.complete(request)
    tokenizer = copy.deepcopy(attentive.tokenizer)
    tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    refusing = GreaterEngine((attentive.model, tokenizer))
    with pytest.raises(lm15.InvalidRequestError, match="refused the messages: System role"):
        refusing.complete(request)
    tokenizer.chat_template = "{% for turn in messages[1:] %}{{ turn.content }}{% endfor %}"
    dropped = lm15.Request(model="m", system="Be brief.", messages=(lm15.Message.user("So?"),))
    with pytest.raises(lm15.InvalidRequestError, match="changes the system message 'Be brief"):
        refusing.complete(dropped)


def test_threads_are_served_together(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    questions = [f"What is {number}?" for number in range(8)]
    expected = [asked(request_of(asked, question)).text for question in questions]
    found: dict[str, str] = {}
    sizes: list[int] = []
    run = asked.engine.engine.run
    monkeypatch.setattr(
        asked.engine.engine, "run", lambda r, *rest: sizes.append(len(r)) or run(r, *rest)
    )
    start = threading.Barrier(8)

    def ask(question: str) -> None:
        start.wait()
        found[question] = asked(request_of(asked, question)).text

    threads = [threading.Thread(target=ask, args=(question,)) for question in questions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[question] for question in questions] == expected
    assert sum(sizes) == 8
    assert max(sizes) > 1


@pytest.mark.usefixtures("context")
def test_eight_threads_evaluate_as_one() -> None:
    program, rows = thought(), examples(12)
    one, eight = (
        dspy.Evaluate(devset=rows, metric=odd, num_threads=number)(program) for number in (1, 8)
    )
    assert one.score == eight.score
    for (_, first, value), (_, second, other) in zip(one.results, eight.results, strict=True):
        assert (first.reasoning, first.answer, value) == (second.reasoning, second.answer, other)


@pytest.mark.usefixtures("context")
def test_it_streams_and_is_awaited(asked: Any) -> None:
    request = request_of(asked)
    engine, awaited = asked.engine, AsyncGreaterEngine(asked.engine)
    expected = engine.complete(request)
    assert lm15.materialize_response(engine.stream(request), request).text == expected.text

    async def events() -> list[Any]:
        return [event async for event in awaited.stream(request)]

    assert asyncio.run(events()) == list(engine.stream(request))
    assert asyncio.run(awaited.complete(request)) == expected
    program, row = thought(), examples(1)[0]
    assert asyncio.run(program.acall(**row.inputs())).answer == program(**row.inputs()).answer


def test_copies_share_the_engine(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    program = thought()
    program.set_lm(asked)
    for copied in (program.deepcopy(), copy.deepcopy(program)):
        assert copied.predict.lm is not asked
        assert copied.predict.lm.engine is asked.engine
    assert asked.copy(max_tokens=5).engine is asked.engine
