"""A served model for the tests: the plain engine behind HTTP, as several servers answer."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from greater_fast.engine import RolloutRequest
from greater_fast.model.lm import LM
from greater_fast.model.text.stop_texts import StopTexts
from greater_fast.rollouts.plain import PlainRolloutEngine

Reply = tuple[int, Any]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        served: Served = self.server.served  # type: ignore[attr-defined]
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with served.lock:
            served.asked.append((self.path, body, dict(self.headers)))
            served.num_under_way += 1
            served.most_under_way = max(served.most_under_way, served.num_under_way)
        is_done = served.fault(self, self.path, body)
        reply = None if is_done else served.reply(self.path, body)
        with served.lock:  # before the reply: the next request may come right after it
            served.num_under_way -= 1
        if reply is not None:
            self.send(*reply)

    def send(self, status: int, value: Any, **headers: str) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""


@dataclass
class Served:
    """A server over a model: what it takes and says, and what it was asked."""

    lm: LM
    takes_ids: bool = True
    refusal: int = 422  # of ids
    strict: bool = False  # refuses what OpenAI does not know
    says_ids: bool = True
    writes_bos: bool = False  # before a text
    kind: str = "vllm"
    more: str = ""  # what its chat template writes behind ours
    limit: str = "max_tokens"  # of a chat; OpenAI's models of today take another one
    fault: Callable[[Handler, str, Any], bool] = lambda *_: False
    url: str = ""
    asked: list[tuple[str, Any, dict[str, str]]] = field(default_factory=list)
    lock: Any = field(default_factory=threading.Lock)
    num_under_way: int = 0
    most_under_way: int = 0

    def __post_init__(self) -> None:
        self.engine = PlainRolloutEngine(self.lm)

    def completions(self, *, rows: bool = True) -> list[Any]:
        """Bodies of requests for completions; of rows alone, the first one's trial left out."""
        bodies = [body for path, body, _ in self.asked if path == "/v1/completions"]
        return [body for body in bodies if not rows or body["max_tokens"] > 1]

    def reply(self, path: str, body: Any) -> Reply:
        routes: dict[str, Callable[[Any], Reply]] = {"/v1/completions": self._completion}
        routes["/v1/chat/completions"] = self._chat
        if self.kind == "vllm":
            routes["/tokenize"] = self._tokenize
        if self.kind == "llama.cpp":
            routes["/tokenize"] = self._tokenize_content
            routes["/apply-template"] = lambda body: (200, {"prompt": self._render(body)})
        return routes[path](body) if path in routes else (404, {"detail": "Not Found"})

    def _completion(self, body: Any) -> Reply:
        unknown = set(body) - {"model", "prompt", "max_tokens", "temperature", "stop"}
        if self.strict and unknown:
            return 400, {"error": {"message": f"unknown: {sorted(unknown)}"}}
        ids = body["prompt"]
        if isinstance(ids, str):
            (ids,) = self.lm.vocabulary.encode([ids], special_tokens=self.writes_bos)
        elif not self.takes_ids:
            return self.refusal, {"detail": [{"msg": "Input should be a valid string"}]}
        found, text, reason = self._written(ids, body["max_tokens"], body.get("stop", ()))
        choice = {"index": 0, "text": text, "finish_reason": reason}
        if self.says_ids and body.get("return_token_ids"):
            choice["token_ids"] = found
        return 200, {
            "choices": [choice],
            "usage": {"prompt_tokens": len(ids), "completion_tokens": len(found)},
        }

    def _written(
        self, ids: Sequence[int], most: int, stop: Sequence[str] = ()
    ) -> tuple[list[int], str, str]:
        vocabulary = self.lm.vocabulary
        request = RolloutRequest(
            tuple(ids), most, self.lm.end_ids, stop=StopTexts.of(vocabulary, list(stop))
        )
        (rollout,) = self.engine.run([request])
        assert rollout is not None
        end = [] if rollout.end_id is None else [rollout.end_id]
        reason = "length" if rollout.is_cut_off(most) else "stop"
        return [*rollout.reasoning_ids, *end], vocabulary.text(rollout.reasoning_ids), reason

    def _render(self, body: Any) -> str:
        text: str = self.lm.tokenizer.apply_chat_template(
            body["messages"], tokenize=False, add_generation_prompt=True
        )
        if self.kind == "llama.cpp":
            text = text.removeprefix(self.lm.tokenizer.bos_token)
        return text + self.more

    def _chat(self, body: Any) -> Reply:
        for other in {"max_tokens", "max_completion_tokens"} & set(body) - {self.limit}:
            said = f"'{other}' is not supported with this model. Use '{self.limit}' instead."
            error = {"message": f"Unsupported parameter: {said}", "param": other}
            return 400, {"error": {**error, "code": "unsupported_parameter"}}
        (ids,) = self.lm.vocabulary.encode([self._render(body)], special_tokens=False)
        _, text, reason = self._written(ids, body[self.limit])
        return 200, {"choices": [{"message": {"content": text}, "finish_reason": reason}]}

    def _tokenize(self, body: Any) -> Reply:
        if "content" in body:
            return 400, {"error": {"message": "extra fields"}}
        text = self._render(body) if "messages" in body else body["prompt"]
        special = body.get("add_special_tokens", False)
        (ids,) = self.lm.vocabulary.encode([text], special_tokens=special)
        return 200, {"tokens": ids, "count": len(ids)}

    def _tokenize_content(self, body: Any) -> Reply:
        text, special = body.get("content"), body.get("add_special", False)
        if text is None:
            return 200, {"tokens": []}
        return 200, {"tokens": self.lm.vocabulary.encode([text], special_tokens=special)[0]}


@contextmanager
def serving(lm: LM, **options: Any) -> Iterator[Served]:
    """A server on a port of this machine, until the block ends."""
    served = Served(lm, **options)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.served = served  # type: ignore[attr-defined]
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        served.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()
