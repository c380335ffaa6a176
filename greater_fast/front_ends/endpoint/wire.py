"""How a server takes rows that are laid out in tokens: found out once, for all prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from greater_fast.examples.layout import Layouts
from greater_fast.examples.rendering import name_of
from greater_fast.front_ends.endpoint.client import MALFORMED, Client, RefusedError
from greater_fast.front_ends.endpoint.replies import Written, completion
from greater_fast.model.lm import LM
from greater_fast.wording import quoted

PATH = "/completions"
BY_CHAT = "by chat (--chat, tokenizer=None) it can be asked all the same, in another layout"
# Not OpenAI's: ids come back, and no default of the server's own changes what is likeliest.
_MORE = {"return_token_ids": True, "repetition_penalty": 1.0, "repeat_penalty": 1.0}
_ANY_VOCABULARY = 1 << 31  # another tokenizer is told of by what it makes of a row


@dataclass(frozen=True, slots=True)
class Wire:
    """How a row is sent: as ids or as a text, of which the server may write the BOS itself."""

    as_ids: bool
    bos: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)
    is_counted: bool = True  # the server says how many tokens it has read

    def body(self, model: str, ids: Sequence[int], text: str, room: int) -> dict[str, Any]:
        """A request for at most `room` greedy tokens behind a row."""
        return {
            "model": model,
            "prompt": list(ids) if self.as_ids else text.removeprefix(self.bos),
            "max_tokens": room,
            "temperature": 0,
            **self.more,
        }

    def is_read(self, ids: Sequence[int], written: Written) -> bool | None:
        """Whether the server read a row as so many tokens; None where it cannot be told.

        Ids need no count; what is made of a text shows in nothing else.
        """
        if written.num_prompt_tokens is None:
            return True if self.as_ids else None
        return written.num_prompt_tokens == len(ids)

    def misread(self, ids: Sequence[int], written: Written) -> str:
        """How the server read a row, if not as so many tokens, or not surely; "" where it did."""
        is_read, count = self.is_read(ids, written), written.num_prompt_tokens
        if is_read:
            return ""
        if is_read is None:
            return (
                "the server takes a text but does not say as how many tokens it reads it "
                "(usage.prompt_tokens): it may put a template or a BOS around it unseen"
            )
        return (
            f"the server read {count} tokens where there are {len(ids)}: its tokenizer is another "
            "one, or it puts a template or a BOS around the text"
        )

    def describe(self) -> str:
        """What rows are sent as, for a note."""
        sent = "token ids" if self.as_ids else "text"
        if not self.is_counted:
            sent += ", which the server does not count"
        if self.bos:  # a count is all that there is to tell by
            sent += f", before which the server puts a token that is taken to be {self.bos}"
        return sent


def agreed(client: Client, lm: LM, layouts: Layouts) -> Wire:
    """The first way of sending a row that the server takes, and reads as it is meant.

    The first row is sent, of which the server generates a token.

    Raises:
        ValueError: there is no such way; says what the server made of the last one.
    """
    ids = layouts.context_ids(0, layouts.prompt_ids)
    text = layouts.rendered(0, layouts.prompt_ids)
    read = completion(1, _ANY_VOCABULARY)
    problem = ""
    for wire in _wires(lm, ids, text):
        body = wire.body(client.server.model, ids, text, 1)
        try:
            written = client.post(PATH, body, read, is_trial=True)
        except RefusedError as error:
            if error.status in (401, 403) or 300 <= error.status < 400 or error.lacks_model:
                raise  # asked otherwise it says the same
            elsewhere = error.status in (MALFORMED, 404, 405) and client.server.hint
            problem = str(error) if elsewhere else f"{error}; {BY_CHAT}"
            if error.status in (404, 405):  # there is nothing to send anything to
                break
            continue
        if not (misread := wire.misread(ids, written)):
            return replace(wire, is_counted=written.num_prompt_tokens is not None)
        problem = f"{misread}; {BY_CHAT}"
    row = name_of([row.example for row in layouts.rows], 0)
    raise ValueError(
        f"the server cannot be asked at {client.server.url}{PATH} in the layout of "
        f"{quoted(lm.name)}: on {row}, {problem}"
    )


def _wires(lm: LM, ids: Sequence[int], text: str) -> Iterator[Wire]:
    """Ways of sending a row, those first that leave nothing to the server."""
    bos = lm.tokenizer.bos_token
    for as_ids in (True, False):
        for more in (_MORE, {}):
            yield Wire(as_ids, "", more)
    if bos and ids[0] == lm.tokenizer.bos_token_id and text.startswith(bos):
        for more in (_MORE, {}):
            yield Wire(False, bos, more)
