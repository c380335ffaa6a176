"""A prompt checked on a served model: here a small server over our own engine, on this machine.

The server answers `/v1/completions` as vLLM, SGLang and llama.cpp's server do; in its place goes
the address of any of these. (Ollama puts a template of its own around every text: it is asked by
chat, without a tokenizer, which is another layout.) The prompt is measured there as it was searched
for: the same text up to the reasoning, the same extractor behind it, the same intervals and paired
test.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from greater_fast import Config, SharedGeneration, evaluate, load_lm, make_engine
from greater_fast.examples.tasks import generate
from greater_fast.front_ends.endpoint import Server, evaluate_endpoint

NEW = "Use proper logical reasoning and think step by step. Give just the actual correct answer."
INITIAL = "Use proper logical reasoning and think step by step. Finally give the correct answer."


class Completions(BaseHTTPRequestHandler):
    """Answers one request; the server has `generate`, which makes one batch of several."""

    def do_POST(self) -> None:
        """A text's completion, with the counts of tokens."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/completions" or not isinstance(asked["prompt"], str):
            self.send_error(400, "completions of one text alone")
            return
        server: Any = self.server
        (written,) = server.generate([asked["prompt"]], asked["max_tokens"])
        choice = {"text": written.text, "finish_reason": "stop" if written.finished else "length"}
        counts = {
            "prompt_tokens": written.num_prompt_tokens,
            "completion_tokens": written.num_tokens,
        }
        reply = json.dumps({"choices": [choice], "usage": counts}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""


@contextmanager
def serving(lm: Any) -> Iterator[str]:
    """The address of a server over a loaded model, until the block ends."""
    engine, _ = make_engine(lm, Config())
    with ThreadingHTTPServer(("127.0.0.1", 0), Completions) as server:
        server.generate = SharedGeneration(engine)  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        server.shutdown()


def main(model: str = "smollm2-135m", num_rows: int = 12, max_new_tokens: int = 96) -> None:
    """Measure two prompts on the server, and on the engine itself."""
    rows = generate("object_counting", num_rows, seed=1)
    config = {"max_new_tokens": max_new_tokens, "max_prompt_tokens": 64}
    asked: dict[str, Any] = {
        "prompt": NEW,
        "against": INITIAL,
        "config": config,
        "progress": False,
    }
    lm = load_lm(model)
    with serving(lm) as url:
        server = Server(url, "served", num_concurrent=num_rows)
        report = evaluate_endpoint(server, rows, tokenizer=model, **asked)
    for note in report.notes:
        print(note)
    for measured in (report.evaluation, report.against):
        assert measured is not None
        low, high = measured.interval
        print(f"{measured.accuracy:.0%} [{low:.0%}, {high:.0%}] of {num_rows} rows right")
        print(f"    {measured.prompt}")
    assert report.comparison is not None
    print(f"the same rows with both: McNemar p = {report.comparison.p_value:.3f}")
    here = evaluate(lm, rows, **asked)
    pairs = zip(report.evaluation.rows, here.evaluation.rows, strict=True)
    same = sum(served.predicted == own.predicted for served, own in pairs)
    print(f"the engine itself gives the same answers on {same} of {num_rows} rows")


if __name__ == "__main__":
    main()
