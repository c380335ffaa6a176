"""Which server is asked, how often, and with which key."""

from __future__ import annotations

import ipaddress
import math
import os
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from greater_fast.wording import quoted

_MOST_CONCURRENT = 1024
_VERSION = re.compile(r"v\d")  # v1, v1beta


@dataclass(frozen=True, slots=True)
class Server:
    """An OpenAI-compatible server, and how it is asked.

    `url` is what stands before `/completions`, mostly `http://host:port/v1`; `model` the name that
    the server gives the model. `key_variable` names the environment variable that holds the key,
    which is read when it is needed and kept nowhere; without it none is sent. `num_concurrent`
    requests at most are under way. One that fails as it may pass (no connection, 429, 5xx, a reply
    cut off) is sent again, up to `num_retries` times, after `wait_s` seconds, then twice that, and
    so on, or when the server says. `timeout_s` is for one request.

    Raises:
        ValueError: no such address, a password in it, or a number out of range.
    """

    url: str
    model: str
    key_variable: str | None = None
    num_concurrent: int = 8
    num_retries: int = 4
    timeout_s: float = 600.0
    wait_s: float = 1.0

    def __post_init__(self) -> None:
        parts = _split(self.url)
        if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(
                f"endpoint: got {quoted(_without_password(self.url))}, expected an address such as "
                "http://127.0.0.1:8000/v1"
            )
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError(
                "endpoint: got an address with a name, a password or a query in it: leave them "
                "out; a key is read from an environment variable (key_variable)"
            )
        model: object = self.model
        if not isinstance(model, str) or not model.strip():
            raise ValueError(
                f"model: got {quoted(self.model)}, expected the name that the server gives it"
            )
        value: object
        for name, low, high in (("num_concurrent", 1, _MOST_CONCURRENT), ("num_retries", 0, 100)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise ValueError(f"{name}: got {quoted(value)}, expected {low} to {high}")
        for name in ("timeout_s", "wait_s"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name}: got {quoted(value)}, expected seconds, more than 0")
        object.__setattr__(self, "url", self.url.rstrip("/"))

    @property
    def root(self) -> str:
        """The address without its version: where servers tokenise."""
        return self.url.removesuffix("/v1")

    @property
    def hint(self) -> str:
        """What to try where nothing is found at an address without a version; "" with one."""
        if any(_VERSION.match(part) for part in urlsplit(self.url).path.split("/")):
            return ""
        return f"; such an address mostly ends with /v1: try {self.url}/v1"

    @property
    def is_here(self) -> bool:
        """Whether the server is on this machine: no proxy then stands between."""
        host = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    @property
    def is_open(self) -> bool:
        """Whether what is sent, a key too, can be read on the way."""
        return urlsplit(self.url).scheme == "http" and not self.is_here

    def key(self) -> str | None:
        """The key, or None where no variable is named.

        Raises:
            ValueError: the variable holds none, or one that no header can have.
        """
        if self.key_variable is None:
            return None
        key = os.environ.get(self.key_variable, "").strip()
        if not key:
            raise ValueError(
                f"key_variable: the environment variable {quoted(self.key_variable)} holds no key: "
                "set it, or name another one"
            )
        if not (key.isascii() and key.isprintable()):
            raise ValueError(
                f"key_variable: what the environment variable {quoted(self.key_variable)} holds is "
                "no key: a header takes printable ASCII alone"
            )
        return key


def _split(url: object) -> SplitResult | None:
    """The parts of an address; None where it is none."""
    if not isinstance(url, str) or not url.isascii() or not url.isprintable() or " " in url:
        return None
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts


def _without_password(url: object) -> object:
    return url.rpartition("@")[2] if isinstance(url, str) else url
