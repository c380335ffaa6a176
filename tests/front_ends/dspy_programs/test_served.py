"""A model that is served elsewhere, searched with by its weights."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import dspy
import pytest
from dspy import lm15

from greater_fast.model.lm import LM
from tests.front_ends.dspy_programs.programs import LIMIT, SEARCH, LenientLast, compiled, thought
from tests.tiny import PROMPT

pytestmark = pytest.mark.front_ends


class Server(ThreadingHTTPServer):
    """Completes chats as OpenAI's servers do, by an engine of ours."""

    def __init__(self, asked: Any) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked, self.bodies = asked, list[Any]()
        self.num_more: int | None = 0  # tokens told of beside those read; None tells of none


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        body = {key: value for key, value in body.items() if key != "stream"}
        response = self.server.asked.engine.complete(lm15.request_from_openai_chat(body))
        message = {"role": "assistant", "content": response.text}
        choice = {"index": 0, "message": message, "finish_reason": response.finish_reason}
        told = {"id": "1", "object": "chat.completion", "model": "m", "choices": [choice]}
        if self.server.num_more is not None:
            number = response.usage.input_tokens + self.server.num_more
            told["usage"] = {"prompt_tokens": number, "completion_tokens": 1, "total_tokens": 1}
        payload = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing."""


@pytest.fixture
def server(asked: Any) -> Iterator[Server]:
    with Server(asked) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def served(server: Server) -> Iterator[Any]:
    place = f"http://127.0.0.1:{server.server_port}/v1"
    lm = dspy.LM("openai/tiny", api_base=place, api_key="local", temperature=0.0, max_tokens=LIMIT)
    with dspy.context(lm=lm, adapter=LenientLast()):
        yield lm
    lm.close()


def test_a_served_model_is_searched_with_by_its_weights(
    attentive: LM, server: Server, served: Any
) -> None:
    better, optimizer = compiled(thought(), model=attentive)
    assert server.bodies[0]["messages"][-1]["content"].endswith(PROMPT)
    assert [value for key, value in server.bodies[0].items() if "max" in key] == [1]
    assert len(server.bodies) == 1 + 6 * len(better.candidate_programs)
    assert optimizer.report["score"] >= optimizer.report["initial_score"]
    assert better.predict.signature.instructions == optimizer.report["prompt"]


def test_another_layout_at_the_server_is_refused(
    attentive: LM, server: Server, served: Any
) -> None:
    server.num_more = 1
    with pytest.raises(ValueError, match=r"reads \d+ tokens in a conversation that is \d+ tokens"):
        compiled(thought(), model=attentive)
    assert len(server.bodies) == 1


def test_what_a_server_does_otherwise_is_noted(attentive: LM, server: Server, served: Any) -> None:
    server.num_more = None
    config = {**SEARCH, "steps": 0}
    with dspy.context(lm=served.copy(temperature=None)):
        _, optimizer = compiled(thought(), 4, 2, model=attentive, config=config)
    notes = " ".join(optimizer.report["notes"])
    assert "does not say how many tokens it reads" in notes
    assert "at temperature None" in notes
