"""Our engine as a DSPy LM: conversations in, completions out, those of all threads in one batch."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import weakref
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import dspy
from dspy import lm15

from greater_fast.config import Config
from greater_fast.model.text.chat_template import has_template, render_as
from greater_fast.rollouts.choose import make_engine
from greater_fast.runs.input import changed_settings, check_settings
from greater_fast.runs.models.ready import load_model
from greater_fast.runs.prepare import checked_config, dated
from greater_fast.texts.generation import check_length
from greater_fast.texts.together import SharedGeneration

# Settings that would be ignored, each with what decides it here.
DECIDED = {
    **dict.fromkeys(("extractor", "prompt_placement", "system_prompt"), "the adapter"),
    "template": "the program",
    "minutes": "steps of GReaTer, or its on_step,",
}
_HONOURED = {"max_tokens", "temperature", "stop"}  # of a request's settings


class GreaterEngine:
    """A model of one's own behind `dspy.LM`, which asks it with several threads.

    What is asked for at the same time is one batch. Completions are greedy, as a search's
    reasonings are. A copy is the engine itself, for the weights are there once; so is one that is
    loaded from a saved program while an engine of the same model and settings is alive.

    Args:
        model: what `load_lm` takes.
        config: settings by name; those of the model and its engine have a say, and
            `max_new_tokens` where DSPy names no limit.

    Raises:
        ValueError: no such model, settings or engine; the model has no chat template; settings that
            sample, share the weights among processes, or that something else decides.
    """

    supports_function_calling = False
    supports_reasoning = False
    supports_response_schema = False
    _alive: ClassVar[weakref.WeakValueDictionary[str, GreaterEngine]] = (
        weakref.WeakValueDictionary()
    )

    def __init__(self, model: Any, config: Config | Mapping[str, Any] | None = None) -> None:
        self._given = checked_config(config)
        check_settings(config, DECIDED)
        self.config = dated(self._given)
        for name in ("sampling_temperature", "tensor_parallel"):
            if value := getattr(self.config, name):
                raise ValueError(
                    f"{name}: got {value}, but an LM of DSPy is greedy here, and in one process: "
                    "leave it out"
                )
        self.lm = load_model(model, self.config)
        if not has_template(self.lm.tokenizer):
            raise ValueError(
                f"{self.lm.name} has no chat template, and DSPy sends conversations: take an "
                "instruct model, or a tokenizer with a template"
            )
        self.engine, self.note = make_engine(self.lm, self.config)
        self._generate = SharedGeneration(self.engine)
        self._source = str(model) if isinstance(model, str | Path) else None
        if self._source is not None:
            self._alive[_key(self.dump_state())] = self

    def complete(self, request: Any) -> Any:
        """The response to a `dspy.lm15.Request`.

        Raises:
            dspy.lm15.UnsupportedFeatureError: it asks for more than text, limit and stop texts.
            dspy.lm15.ContextLengthError: it does not fit the model's context, with its limit.
            dspy.lm15.InvalidRequestError: the chat template or the engine refuses it.
        """
        _check_supported(request)
        limit = request.config.max_tokens or self.config.max_new_tokens
        try:
            text = self.text(request)
            self._check_length(len(self._ids(text)), limit)
            (found,) = self._generate([text], limit, request.config.stop)
        except ValueError as error:
            raise lm15.InvalidRequestError(str(error)) from error
        return lm15.Response(
            id=None,
            model=request.model,
            message=lm15.Message.assistant([lm15.TextPart(found.text)]),
            finish_reason="stop" if found.finished else "length",
            usage=lm15.Usage(input_tokens=found.num_prompt_tokens, output_tokens=found.num_tokens),
        )

    def stream(self, request: Any) -> Iterator[Any]:
        """The response's events, once it is complete."""
        yield from lm15.response_to_events(self.complete(request))

    def text(self, request: Any) -> str:
        """A request's conversation as the model reads it, up to the start of the reply.

        Raises:
            ValueError: the chat template refuses it, or leaves out or changes a message.
        """
        return render_as(self.lm, self.config, _messages(request))

    def ids(self, request: Any) -> list[int]:
        """The ids of that text."""
        return self._ids(self.text(request))

    def _ids(self, text: str) -> list[int]:
        (ids,) = self.lm.vocabulary.encode([text], special_tokens=False)
        return ids

    def _check_length(self, number: int, limit: int) -> None:
        try:
            check_length(self.engine, number, limit, f"the request to {self.lm.name}")
        except ValueError as error:
            raise lm15.ContextLengthError(str(error)) from error

    def __deepcopy__(self, memo: dict[int, Any]) -> GreaterEngine:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).load_state, (self.dump_state(),)

    def dump_state(self) -> dict[str, Any]:
        """The model's name and the settings, for a saved program.

        Raises:
            ValueError: the model was given as an object, which has no name to load it by.
        """
        if self._source is None:
            raise ValueError(
                f"the model of this LM, {self.lm.name}, was given as an object, which a saved "
                "program cannot name: make the LM from a name or a folder, or save the program "
                "without it, by set_lm(None)"
            )
        return {"model": self._source, "config": changed_settings(self._given)}

    @classmethod
    def load_state(cls, state: Mapping[str, Any]) -> GreaterEngine:
        """The engine of `dump_state`: one that is alive, or else made anew."""
        return cls._alive.get(_key(state)) or cls(state["model"], state["config"])


class AsyncGreaterEngine:
    """The same engine where DSPy awaits it: each call waits in a thread."""

    def __init__(self, engine: GreaterEngine) -> None:
        self.engine = engine

    async def complete(self, request: Any) -> Any:
        """The response, as of `GreaterEngine.complete`."""
        return await asyncio.to_thread(self.engine.complete, request)

    async def stream(self, request: Any) -> AsyncIterator[Any]:
        """The response's events, once it is complete."""
        for event in lm15.response_to_events(await self.complete(request)):
            yield event

    def dump_state(self) -> dict[str, Any]:
        """As of `GreaterEngine.dump_state`."""
        return self.engine.dump_state()

    @classmethod
    def load_state(cls, state: Mapping[str, Any]) -> AsyncGreaterEngine:
        """As of `GreaterEngine.load_state`."""
        return cls(GreaterEngine.load_state(state))


def local_lm(
    model: Any,
    *,
    max_tokens: int | None = None,
    config: Config | Mapping[str, Any] | None = None,
) -> Any:
    """A `dspy.LM` that is answered by our engine in this process.

    DSPy's cache is off: it would answer for other weights of the same name, from another day.

    Args:
        model: what `load_lm` takes: a hub name, a folder, a GGUF file, a loaded model.
        max_tokens: of a reply at most; by default `max_new_tokens` of the settings.
        config: settings by name, as of `GreaterEngine`.

    Raises:
        ValueError: as of `GreaterEngine`.
    """
    engine = GreaterEngine(model, config)
    return dspy.LM(
        f"greater-fast/{engine.lm.name}",
        temperature=0.0,
        max_tokens=max_tokens or engine.config.max_new_tokens,
        cache=False,
        num_retries=0,
        engine=engine,
        async_engine=AsyncGreaterEngine(engine),
    )


def _key(state: Mapping[str, Any]) -> str:
    return json.dumps(state, sort_keys=True)


def _check_supported(request: Any) -> None:
    """Raise `UnsupportedFeatureError` for what would be dropped in silence."""
    settings = {f.name: getattr(request.config, f.name) for f in dataclasses.fields(request.config)}
    given = [name for name, value in settings.items() if value not in (None, (), {})]
    asked = [f"config.{name}" for name in given if name not in _HONOURED]
    asked += ["config.temperature"] if settings["temperature"] else []
    asked += ["tools"] if request.tools else []
    if asked:
        raise lm15.UnsupportedFeatureError(
            f"{', '.join(asked)}: this engine takes text, max_tokens and stop alone, and is greedy",
            feature=asked[0],
        )


def _messages(request: Any) -> list[dict[str, str]]:
    """The conversation as a chat template takes it; errors as of `_check_supported`."""
    system = request.system
    parts = [("system", [lm15.TextPart(system)] if isinstance(system, str) else system)]
    parts = [*(parts if system else []), *((m.role, m.parts) for m in request.messages)]
    for number, (role, content) in enumerate(parts):
        is_text = all(isinstance(part, lm15.TextPart) for part in content)
        if role not in ("system", "user", "assistant") or not is_text:
            raise lm15.UnsupportedFeatureError(
                f"message {number} of role {role}: this engine reads text of system, user and "
                "assistant alone",
                feature=f"messages[{number}]",
            )
    return [
        {"role": role, "content": "\n".join(p.text for p in content)} for role, content in parts
    ]
