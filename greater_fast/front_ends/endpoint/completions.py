"""Rows asked as a run lays them out, by `/completions`: token ids where the server takes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from greater_fast.config import Config
from greater_fast.examples.layout import SPARE_ANSWER_TOKENS, Layouts
from greater_fast.examples.rendering import name_of
from greater_fast.front_ends.endpoint.client import Client, RefusedError
from greater_fast.front_ends.endpoint.replies import Answered, Written, completion
from greater_fast.front_ends.endpoint.template import check_template
from greater_fast.model.lm import LM
from greater_fast.wording import quoted

_PATH = "/completions"
# Not OpenAI's: ids come back, and no default of the server's own changes what is likeliest.
_MORE = {"return_token_ids": True, "repetition_penalty": 1.0, "repeat_penalty": 1.0}
_NOT_TAKEN = frozenset({500})  # which llama_cpp.server says of a prompt that is no text
_ANY_VOCABULARY = 1 << 31  # another tokenizer is told of by what it makes of a row
_BY_CHAT = "by chat (--chat, tokenizer=None) it can be asked all the same, in another layout"


@dataclass(frozen=True, slots=True)
class _Wire:
    """How a prompt is sent: as ids or as a text, of which the server may write the BOS itself."""

    as_ids: bool
    bos: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)

    def prompt(self, ids: Sequence[int], text: str) -> list[int] | str:
        return list(ids) if self.as_ids else text.removeprefix(self.bos)


class Completions:
    """A prompt on rows, each in the tokens that a run lays it out in.

    How the server takes them is found out by the first row, of which it generates a token.

    Raises:
        ValueError: it does not take such prompts, reads a row as more or fewer tokens, or has
            another chat template than the tokenizer.
    """

    def __init__(self, client: Client, lm: LM, layouts: Layouts, config: Config) -> None:
        self._client, self._lm, self._layouts, self._config = client, lm, layouts, config
        self.examples = tuple(row.example for row in layouts.rows)
        self.prompt, self.extractor = layouts.prompt_text(layouts.prompt_ids), layouts.extractor
        vocabulary = layouts.vocabulary
        self._ends = lm.end_ids | layouts.end_ids
        self._behind = vocabulary.text(layouts.extractor_ids)
        self._answer_room = layouts.longest_answer + SPARE_ANSWER_TOKENS
        self._stop: dict[str, Any] = {}
        if layouts.end_ids:  # what closes a thought
            self._stop = {"stop": sorted(vocabulary.text([end]) for end in layouts.end_ids)}
        self._wire = self._agreed()
        sent = "token ids" if self._wire.as_ids else "text"
        if self._wire.bos:  # a count is all that there is to tell by
            sent += f", before which the server puts a token that is taken to be {self._wire.bos}"
        self.notes: tuple[str, ...] = (
            *layouts.notes,
            f"asked at {client.server.url}{_PATH} in the layout of {lm.name}, rows as {sent}",
            *check_template(client, lm, layouts, self.prompt, config),
        )

    def asked(self, row: int) -> dict[str, Any]:
        """All that the server is asked for a row."""
        return {
            "ids": list(self._ids(row)),
            "extractor": list(self._layouts.extractor_ids),
            "limits": [self._config.max_new_tokens, self._answer_room],
            "as_ids": self._wire.as_ids,
            **self._stop,
        }

    def answered(self, row: int) -> Answered:
        """A row's reasoning and answer.

        Raises:
            ValueError: the server reads the row as more or fewer tokens; as of `Client.post`.
        """
        layouts, ids = self._layouts, self._ids(row)
        text = layouts.rendered(row, layouts.prompt_ids)
        written = self._written(ids, text, self._config.max_new_tokens, self._stop)
        if problem := _miscounted(ids, written):
            raise ValueError(f"{problem}: {_BY_CHAT}")
        reasoning_ids, exact = self._reasoning(written)
        behind = (*ids, *reasoning_ids, *layouts.extractor_ids)
        whole = f"{text}{written.text}{self._behind}"
        answer = self._written(behind, whole, self._answer_room)
        return Answered(
            written.text.strip()
            if written.ids is None
            else layouts.vocabulary.plain_text(reasoning_ids),
            answer.text if answer.ids is None else layouts.vocabulary.text(self._ended(answer.ids)),
            cut_off=written.cut_off and (written.ids is None or reasoning_ids == written.ids),
            exact=exact and not _miscounted(behind, answer),
        )

    def _ids(self, row: int) -> tuple[int, ...]:
        return self._layouts.context_ids(row, self._layouts.prompt_ids)

    def _ended(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """Ids up to the first that ends the text."""
        return ids[: next((i for i, number in enumerate(ids) if number in self._ends), len(ids))]

    def _reasoning(self, written: Written) -> tuple[tuple[int, ...], bool]:
        """The reasoning's ids, and whether they are those that were generated, as far as is known.

        A server that does not say which they are may count them, with the end or without it.
        """
        if written.ids is not None:
            return self._ended(written.ids), True
        vocabulary = self._layouts.vocabulary
        ids = vocabulary.spelled((), written.text)
        if not ids and written.text:  # no place in a text has it: half a character, for one
            ids = tuple(vocabulary.encode([written.text], special_tokens=False)[0])
        return ids, written.num_tokens in (None, len(ids), len(ids) + 1)

    def _written(
        self, ids: Sequence[int], text: str, room: int, stop: Mapping[str, Any] | None = None
    ) -> Written:
        body = {**self._body(self._wire, ids, text, room), **(stop or {})}
        read = completion(room, self._layouts.vocab_size, self._client.without_key)
        return self._client.post(_PATH, body, read)

    def _body(self, wire: _Wire, ids: Sequence[int], text: str, room: int) -> dict[str, Any]:
        return {
            "model": self._client.server.model,
            "prompt": wire.prompt(ids, text),
            "max_tokens": room,
            "temperature": 0,
            **wire.more,
        }

    def _agreed(self) -> _Wire:
        """The first way of sending a prompt that the server takes, and reads as it is meant.

        Raises:
            ValueError: there is none; says what the server made of the last one.
        """
        ids, text = self._ids(0), self._layouts.rendered(0, self._layouts.prompt_ids)
        read = completion(1, _ANY_VOCABULARY, self._client.without_key)
        problem = ""
        for wire in self._wires(ids, text):
            try:
                written = self._client.post(_PATH, self._body(wire, ids, text, 1), read, _NOT_TAKEN)
            except RefusedError as error:
                if error.status in (401, 403) or 300 <= error.status < 400:
                    raise
                problem = str(error)
                if error.status in (404, 405):  # there is nothing to send anything to
                    break
                continue
            if not (miscounted := _miscounted(ids, written)):
                return wire
            problem = miscounted
        row = name_of(self.examples, 0)
        raise ValueError(
            f"the server cannot be asked at {self._client.server.url}{_PATH} in the layout of "
            f"{quoted(self._lm.name)}: on {row}, {problem}; {_BY_CHAT}"
        )

    def _wires(self, ids: Sequence[int], text: str) -> Iterator[_Wire]:
        """Ways of sending a prompt, those first that leave nothing to the server."""
        bos = self._lm.tokenizer.bos_token
        for as_ids in (True, False):
            for more in (_MORE, {}):
                yield _Wire(as_ids, "", more)
        if bos and ids[0] == self._lm.tokenizer.bos_token_id and text.startswith(bos):
            for more in (_MORE, {}):
                yield _Wire(False, bos, more)


def _miscounted(ids: Sequence[int], written: Written) -> str:
    """How a server read a prompt, if not as so many tokens; "" where it did, or does not say."""
    if written.num_prompt_tokens in (None, len(ids)):
        return ""
    return (
        f"the server read {written.num_prompt_tokens} tokens where there are {len(ids)}: its "
        "tokenizer is another one, or it puts a template or a BOS around the text"
    )
