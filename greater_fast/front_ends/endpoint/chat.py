"""Rows asked by chat: the server's own template, and the answer by a second turn of the user."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from greater_fast.config import Config
from greater_fast.examples.data import Example
from greater_fast.examples.extractor import Extractor
from greater_fast.examples.layout import SPARE_ANSWER_TOKENS
from greater_fast.examples.placing.joint import Joint
from greater_fast.front_ends.endpoint.client import LATER_LIMIT, Client, RefusedError
from greater_fast.front_ends.endpoint.replies import Answered, Written, chat_answer, chat_reasoning

_PATH = "/chat/completions"


def messages_of(example: Example, prompt: str, config: Config) -> list[dict[str, str]]:
    """The conversation that a row is."""
    first, question = config.prompt_placement == "before", example.question.strip()
    joint = Joint(prompt_first=first).between(prompt)
    content = f"{prompt}{joint}{question}" if first else f"{question}{joint}{prompt}"
    user = {"role": "user", "content": content}
    if config.system_prompt is None:
        return [user]
    return [{"role": "system", "content": config.system_prompt}, user]


class Chat:
    """A prompt on rows, by `/chat/completions`: no tokenizer is needed, and no layout is kept.

    The model ends its turn, and is asked for the answer by the extractor's text, which it may
    repeat.
    """

    def __init__(
        self,
        client: Client,
        examples: Sequence[Example],
        prompt: str,
        extractor: Extractor,
        config: Config,
    ) -> None:
        self.examples, self.prompt, self.extractor = tuple(examples), prompt.strip(), extractor
        self._client, self._config = client, config
        self._asks = f"{extractor.text}{extractor.separator}..."
        golds = [gold for example in examples for gold in example.answers]
        texts = (self._asks, *map(extractor.answer_in_place, golds))
        # A token has a byte at least.
        self._room = len(self._asks.encode()) + max(len(text.encode()) for text in texts)
        self.notes: tuple[str, ...] = (
            f"not the same layout as a run's: rows are asked by chat ({client.server.url}{_PATH}), "
            "in the server's own template, and the answer by a second turn of the user",
        )

    def asked(self, row: int) -> dict[str, Any]:
        """All that the server is asked for a row."""
        thought = self._config.max_new_tokens  # some models think in each turn
        return {
            "messages": messages_of(self.examples[row], self.prompt, self._config),
            "answer": self._asks,
            "limits": [thought, thought + self._room + SPARE_ANSWER_TOKENS],
            "template": dict(self._config.chat_template_kwargs),
        }

    def answered(self, row: int) -> Answered:
        """A row's reasoning and answer; errors as of `Client.post`."""
        asked = self.asked(row)
        messages, (reasoning_room, answer_room) = asked["messages"], asked["limits"]
        reasoning = self._say(messages, reasoning_room, chat_reasoning)
        if not reasoning.text.strip():  # hidden or kept back: there is nothing to ask behind
            return Answered("", "", reasoning.cut_off, flaw="empty")
        turns = [
            {"role": "assistant", "content": reasoning.text},
            {"role": "user", "content": self._asks},
        ]
        reply = self._say([*messages, *turns], answer_room, chat_answer)
        _, repeats, behind = reply.text.partition(self.extractor.text)
        answer = behind if repeats else reply.text
        flaw = "" if answer.strip() else "empty"
        if reply.cut_off and not flaw:
            flaw = "cut off"
        return Answered(reasoning.text.strip(), answer, reasoning.cut_off, flaw=flaw)

    def _say(
        self,
        messages: Sequence[Mapping[str, str]],
        room: int,
        read: Callable[[Mapping[str, Any]], Written],
    ) -> Written:
        client = self._client
        limit = client.limit  # once: another thread may come to know better
        body = {"model": client.server.model, "messages": list(messages), "temperature": 0}
        if self._config.chat_template_kwargs:
            body["chat_template_kwargs"] = dict(self._config.chat_template_kwargs)
        try:
            return client.post(_PATH, {**body, limit: room}, read)
        except RefusedError as error:
            if error.status != 400 or limit == LATER_LIMIT or not error.names_later_limit:
                raise
        written = client.post(_PATH, {**body, LATER_LIMIT: room}, read)
        client.limit = LATER_LIMIT  # now that it is taken: some name it in other errors too
        return written
