"""Rows asked as a run lays them out, by `/completions`: token ids where the server takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from greater_fast.config import Config
from greater_fast.examples.layout import Layouts
from greater_fast.front_ends.endpoint.client import Client
from greater_fast.front_ends.endpoint.replies import Answered, Written, completion
from greater_fast.front_ends.endpoint.template import check_template
from greater_fast.front_ends.endpoint.wire import BY_CHAT, PATH, Wire
from greater_fast.model.lm import LM


class Completions:
    """A prompt on rows, each in the tokens that a run lays it out in.

    Raises:
        ValueError: the server has another chat template than the tokenizer.
    """

    def __init__(
        self, client: Client, wire: Wire, lm: LM, layouts: Layouts, config: Config
    ) -> None:
        self._client, self._wire, self._layouts, self._config = client, wire, layouts, config
        self.examples = tuple(row.example for row in layouts.rows)
        self.prompt, self.extractor = layouts.prompt_text(layouts.prompt_ids), layouts.extractor
        vocabulary = layouts.vocabulary
        self._ends = lm.end_ids | layouts.end_ids
        self._behind = vocabulary.text(layouts.extractor_ids)
        self._answer_room = layouts.answer_limit
        self._stop: dict[str, Any] = {}
        if layouts.end_ids:  # what closes a thought
            self._stop = {"stop": sorted(vocabulary.text([end]) for end in layouts.end_ids)}
        self.notes: tuple[str, ...] = (
            *layouts.notes,
            f"asked at {client.server.url}{PATH} in the layout of {lm.name}, "
            f"rows as {wire.describe()}",
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
        if problem := self._wire.misread(ids, written):
            raise ValueError(f"{problem}: {BY_CHAT}")
        reasoning_ids, is_same = self._reasoning(written)
        behind = (*ids, *reasoning_ids, *layouts.extractor_ids)
        whole = f"{text}{written.text}{self._behind}"
        answer = self._written(behind, whole, self._answer_room)
        checks = (is_same, self._wire.is_read(behind, answer))
        return Answered(
            written.text.strip()
            if written.ids is None
            else layouts.vocabulary.plain_text(reasoning_ids),
            answer.text if answer.ids is None else layouts.vocabulary.text(self._ended(answer.ids)),
            cut_off=written.cut_off and (written.ids is None or reasoning_ids == written.ids),
            exact=False if False in checks else None if None in checks else True,
        )

    def _ids(self, row: int) -> tuple[int, ...]:
        return self._layouts.context_ids(row, self._layouts.prompt_ids)

    def _ended(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """Ids up to the first that ends the text."""
        return ids[: next((i for i, number in enumerate(ids) if number in self._ends), len(ids))]

    def _reasoning(self, written: Written) -> tuple[tuple[int, ...], bool | None]:
        """The reasoning's ids, and whether they are as many as were generated; None: not told.

        A server that does not say which they are may count them, with the end or without it; what
        the token limit has cut off has no end.
        """
        if written.ids is not None:
            return self._ended(written.ids), True
        vocabulary = self._layouts.vocabulary
        ids = vocabulary.spelled((), written.text)
        if not ids and written.text:  # no place in a text has it: half a character, for one
            ids = tuple(vocabulary.encode([written.text], special_tokens=False)[0])
        if written.num_tokens is None:
            return ids, None
        num_ends = written.num_tokens - len(ids)
        return ids, num_ends == 0 or (num_ends == 1 and not written.cut_off)

    def _written(
        self, ids: Sequence[int], text: str, room: int, stop: Mapping[str, Any] | None = None
    ) -> Written:
        body = {**self._wire.body(self._client.server.model, ids, text, room), **(stop or {})}
        read = completion(room, self._layouts.vocab_size)
        return self._client.post(PATH, body, read)
