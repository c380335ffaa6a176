"""Requests to a server that is not trusted: bounded, repeated where that helps, errors in short."""

from __future__ import annotations

import email.utils
import http.client
import json
import math
import random
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from typing import IO, Any, TypeVar
from urllib.error import HTTPError, URLError

from greater_fast.front_ends.endpoint.server import Server
from greater_fast.version import __version__
from greater_fast.wording import in_one_line, quoted

Found = TypeVar("Found")
_MOST_BYTES = 1 << 24  # of a reply
_LONGEST_WAIT_S, _LONGEST_ASKED_S = 30.0, 120.0  # between two tries; where the server says so
_PASSING = frozenset({408, 409, 425, 429})  # and of the server's own failures all but these
_LASTING = frozenset({501, 505})
MALFORMED = 200  # the status of a reply that cannot be read
# llama_cpp.server says 500 of a prompt that is no text; others put the error into a reply.
_NOT_TAKEN, _TRIAL_TRIES = frozenset({MALFORMED, 500}), 2
_SHORTEST_SECRET = 8  # characters: what is shorter ("EMPTY") guards nothing, and is a word
# A chat's limit, and its name at OpenAI's models of today, which refuse the older one.
LIMIT, LATER_LIMIT = "max_tokens", "max_completion_tokens"
# As OpenAI, vLLM and Ollama say it with a 404; of a model that is for chat alone none does.
_NO_MODEL = re.compile(r"\bmodel\b.*(does not exist|not found)", re.IGNORECASE)


class MalformedError(ValueError):
    """A reply that is not what was asked for."""


class RefusedError(ValueError):
    """A request that the server refuses, and would again.

    It `names_later_limit` where the server's own words, of which the message may be a part, do, and
    `lacks_model` where they say that it has no such model.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        names_later_limit: bool = False,
        lacks_model: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.names_later_limit, self.lacks_model = names_later_limit, lacks_model


class StoppedError(Exception):
    """Somebody has set `stop`: nothing more is asked."""


class _PassingError(Exception):
    """What may be over at the next try; `wait_s` is what the server asks for, by a status."""

    def __init__(self, message: str, status: int = 0, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.status, self.wait_s = status, wait_s


class Client:
    """One server's replies; used by many threads. No redirect is followed: the key stays here.

    Once `stop` is set, no request begins. `limit` is the name of a chat's limit that the server
    takes, as far as is known. `tell` is told of waits between tries, a line of all that wait at the
    same time.
    """

    def __init__(self, server: Server) -> None:
        self.server, self.stop, self.limit = server, threading.Event(), LIMIT
        self.tell: Callable[[str], object] = lambda text: None
        self._telling, self._told_until = threading.Lock(), 0.0
        self._key = server.key()
        handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
        if server.is_here:
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)

    def post(
        self,
        path: str,
        body: Mapping[str, Any],
        read: Callable[[Mapping[str, Any]], Found],
        *,
        is_trial: bool = False,
    ) -> Found:
        """What `read` makes of the reply at a path behind the server's address.

        A trial finds out whether the server takes such a request: a status 500 refuses it, and so
        does a reply that cannot be read, where it comes twice.

        Raises:
            RefusedError: the server refuses the request.
            ValueError: no reply that can be read came, however often it was asked.
        """
        tries = self.server.num_retries + 1
        for number in range(tries):
            try:
                return read(self._reply(f"{self.server.url}{path}", body))
            except MalformedError as error:
                failure, asked, status = f"{error}{self.server.hint}", 0.0, MALFORMED
            except _PassingError as error:
                failure, asked, status = str(error), error.wait_s, error.status
            if is_trial and status in _NOT_TAKEN and number + 1 >= min(tries, _TRIAL_TRIES):
                raise RefusedError(status, failure)
            if number + 1 < tries:
                self._wait(number, asked, failure)
        raise ValueError(
            f"{failure} ({tries} tries at {self.server.url}{path})"
            if tries > 1
            else f"{failure} (at {self.server.url}{path})"
        )

    def offered(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The reply at a path of the server's root, which not every server has; {} for none."""
        try:
            return self._reply(f"{self.server.root}{path}", body)
        except (_PassingError, MalformedError, RefusedError):
            return {}

    def _without_key(self, said: Any) -> Any:
        """What the server says without the key, wherever it says it.

        All that it says passes here before it is read, shortened or quoted.
        """
        if self._key is None or len(self._key) < _SHORTEST_SECRET:
            return said
        if isinstance(said, str):
            return said.replace(self._key, "[key]")
        if isinstance(said, list):
            return [self._without_key(part) for part in said]
        if isinstance(said, dict):
            return {self._without_key(name): self._without_key(v) for name, v in said.items()}
        return said

    def _wait(self, number: int, asked_s: float, failure: str) -> None:
        """Wait before the next try; others that failed at the same time come at another."""
        own = min(self.server.wait_s * 2**number, _LONGEST_WAIT_S) * random.uniform(0.5, 1.0)
        seconds = max(own, min(asked_s, _LONGEST_ASKED_S))
        with self._telling:
            if is_new := (now := time.monotonic()) >= self._told_until:
                self._told_until = now + seconds
        if is_new:
            self.tell(f"{failure}: asked again in {seconds:.1f} s")
        self.stop.wait(seconds)

    def _reply(self, url: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The JSON object that one request brings."""
        if self.stop.is_set():
            raise StoppedError
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "User-Agent": f"greater-fast/{__version__}",  # urllib's own is barred by many hosts
        }
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        data = json.dumps(body).encode()
        request = urllib.request.Request(url, data, headers)  # noqa: S310 (http and https alone)
        until = time.monotonic() + self.server.timeout_s
        try:
            with self._opener.open(request, timeout=self.server.timeout_s) as response:
                content = _read(response, until)
        except HTTPError as error:
            with error:
                raise self._of_status(error, until) from None
        except (OSError, http.client.HTTPException) as error:
            raise _PassingError(self._unreached(error)) from None
        try:
            value = self._without_key(json.loads(content))
        except (ValueError, RecursionError):
            raise MalformedError("the server's reply is no JSON, or was cut off") from None
        if not isinstance(value, dict):
            raise MalformedError("the server's reply is no JSON object")
        return value

    def _of_status(self, error: HTTPError, until: float) -> RefusedError | _PassingError:
        """What a status other than 200 comes to."""
        try:
            content = _read(error, until)
        except (OSError, http.client.HTTPException, _PassingError):
            content = b""
        status, headers, said = error.code, error.headers, self._said(content)
        message = f"the server answered {status}" + (f": {said}" if said else "")
        if status in _PASSING or (status >= 500 and status not in _LASTING):
            return _PassingError(message, status, _seconds(headers.get("Retry-After", "")))
        if 300 <= status < 400:
            place = quoted(self._without_key(headers.get("Location", "")))
            return RefusedError(
                status, f"{message}; it sends us to {place}: give that address, if you trust it"
            )
        if status in (401, 403):
            message += (
                "; does it want a key? name the environment variable that holds it "
                "(key_variable, --key-variable)"
                if self._key is None
                else f"; the key was sent that stands in {self.server.key_variable}"
            )
        lacks_model = status == 404 and _NO_MODEL.search(said) is not None
        if lacks_model:
            message += "; give the model by the name that the server has for it (model, --model)"
        elif status in (404, 405):
            message += self.server.hint
        if status == 400 and "temperature" in said:
            message += (
                "; rows are asked at temperature 0, for the likeliest tokens: a model that refuses "
                "it cannot be measured, name another one (model, --model)"
            )
        names_later_limit = LATER_LIMIT.encode() in content
        return RefusedError(
            status, message, names_later_limit=names_later_limit, lacks_model=lacks_model
        )

    def _said(self, content: bytes) -> str:
        """What the server says in an error, in one line: its message, else all of it."""
        text = content.decode("utf-8", "replace")
        try:
            value = self._without_key(json.loads(text))
            text = json.dumps(value, ensure_ascii=False)
            inner = value.get("error", value)
            found = inner if isinstance(inner, str) else inner.get("message")
            text = found if isinstance(found, str) else text
        except (AttributeError, ValueError, RecursionError):
            pass
        return in_one_line(self._without_key(text))

    def _unreached(self, error: Exception) -> str:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, TimeoutError):
            seconds = f"{self.server.timeout_s:g} seconds (timeout_s, --timeout)"
            return f"the server did not answer within {seconds}"
        said = in_one_line(self._without_key(str(reason))) or type(reason).__name__
        return f"the server was not reached, or hung up: {said}"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Redirects are errors: urllib would take the key along, and turn the request into another."""

    def redirect_request(self, *_: Any) -> None:
        """No request in place of one that was redirected."""


def _read(response: IO[bytes] | http.client.HTTPResponse, until: float) -> bytes:
    """A reply's content, if it is not too long and comes in time."""
    content = bytearray()
    while part := response.read1(1 << 16):  # type: ignore[union-attr]
        content += part
        if len(content) > _MOST_BYTES:
            raise _PassingError(f"the server's reply has more than {_MOST_BYTES:,} bytes")
        if time.monotonic() > until:
            raise _PassingError("the server's reply did not end in time (timeout_s, --timeout)")
    return bytes(content)


def _seconds(retry_after: str) -> float:
    """What a Retry-After header asks for: seconds, or a date; 0 for what is neither."""
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time()
        except (ValueError, OverflowError):
            return 0.0
    return max(seconds, 0.0) if math.isfinite(seconds) else 0.0
