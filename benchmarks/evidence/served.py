"""Does a prompt do on a server what it does here? Row by row, beside llama.cpp's server.

    pip install 'llama-cpp-python[server]'                               # built in minutes
    python -m benchmarks.evidence.served --out served.json               # a server of one's own
    python -m benchmarks.evidence.served --url http://HOST/v1 --name NAME --model FOLDER

Without --url, the demonstration model's GGUF file is served by `llama_cpp.server` on this machine,
its weights in float32 as ours, or as they are in the file (--quantised). Both sides have as many
threads, and come one after the other; seconds are those of all rows, loading aside.
"""

import argparse
import contextlib
import dataclasses
import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.baselines.llama_cpp import float32_gguf
from benchmarks.harness.machine import device_name
from greater_fast import Example, evaluate, load_lm
from greater_fast.examples.tasks import generate
from greater_fast.front_ends.endpoint import Server, evaluate_endpoint
from greater_fast.model.lm import LM
from greater_fast.model.smollm2 import SMOLLM2, smollm2_gguf
from greater_fast.runs.result import Report

PROMPT = "Use proper logical reasoning and think step by step. Finally give the correct answer."
EXTRACTOR = "Therefore, the final answer is {answer}."
CONTEXT_TOKENS = 2048
STARTS_WITHIN_S = 120


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of how many rows both sides wrote the same, and how long each took for all."""

    num_rows: int
    same_reasoning: int
    same_answer: int
    both_right: int
    only_served: int
    only_here: int
    served_seconds: float
    here_seconds: float
    notes: tuple[str, ...]
    device: str

    @classmethod
    def of(cls, served: Report, here: Report, seconds: tuple[float, float]) -> "Agreement":
        """That of two reports on the same rows."""
        pairs = list(zip(served.evaluation.rows, here.evaluation.rows, strict=True))
        assert all(theirs.question == own.question for theirs, own in pairs)
        return cls(
            num_rows=len(pairs),
            same_reasoning=sum(theirs.reasoning == own.reasoning for theirs, own in pairs),
            same_answer=sum(theirs.predicted == own.predicted for theirs, own in pairs),
            both_right=sum(theirs.correct and own.correct for theirs, own in pairs),
            only_served=sum(theirs.correct and not own.correct for theirs, own in pairs),
            only_here=sum(own.correct and not theirs.correct for theirs, own in pairs),
            served_seconds=seconds[0],
            here_seconds=seconds[1],
            notes=served.notes,
            device=device_name(torch.device("cpu")),
        )

    def describe(self) -> str:
        """A few lines for a reader."""
        return "\n".join(
            (
                f"{self.num_rows} rows on {self.device}",
                f"the same reasoning on {self.same_reasoning}, the same answer on "
                f"{self.same_answer}",
                f"right on both {self.both_right}, on the server alone {self.only_served}, here "
                f"alone {self.only_here}",
                f"server {self.served_seconds:.1f} s, here {self.here_seconds:.1f} s",
                *self.notes,
            )
        )


def compared(
    server: Server, lm: LM, rows: list[Example], prompt: str, max_new_tokens: int
) -> Agreement:
    """A prompt on rows by a server, then by our engine."""
    config = {"max_new_tokens": max_new_tokens, "extractor": EXTRACTOR}
    start = time.perf_counter()
    served = evaluate_endpoint(server, rows, prompt=prompt, tokenizer=lm, config=config)
    middle = time.perf_counter()
    here = evaluate(lm, rows, prompt=prompt, config=config)
    end = time.perf_counter()
    return Agreement.of(served, here, (middle - start, end - middle))


@contextlib.contextmanager
def llama_cpp_server(model: Path, num_threads: int) -> Iterator[str]:
    """The address of `llama_cpp.server` with a GGUF file, until the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {
        "model": model,
        "model_alias": SMOLLM2,
        "host": "127.0.0.1",
        "port": port,
        "n_ctx": CONTEXT_TOKENS,
        "n_threads": num_threads,
        "n_threads_batch": num_threads,
        "verbose": False,
        "interrupt_requests": False,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    process = subprocess.Popen([sys.executable, "-m", "llama_cpp.server", *words])
    try:
        url = f"http://127.0.0.1:{port}/v1"
        _wait_for(f"{url}/models", process)
        yield url
    finally:
        process.terminate()
        process.wait()


def _wait_for(url: str, process: "subprocess.Popen[bytes]") -> None:
    """Wait until a server answers.

    Raises:
        RuntimeError: it has ended, or did not answer in time.
    """
    for _ in range(2 * STARTS_WITHIN_S):
        with contextlib.suppress(OSError), urllib.request.urlopen(url):  # noqa: S310 (http, here)
            return
        if process.poll() is not None:
            break
        time.sleep(0.5)
    raise RuntimeError("llama_cpp.server does not answer: is llama-cpp-python[server] installed?")


def main(arguments: list[str] | None = None) -> None:
    """Compare, print, and write down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", help="a server that runs already")
    parser.add_argument("--name", default=SMOLLM2, help="the model's name there (%(default)s)")
    parser.add_argument("--model", default=SMOLLM2, help="the same model here (%(default)s)")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--task", default="object_counting")
    parser.add_argument("--num-rows", type=int, default=48)
    parser.add_argument("--max-new-tokens", type=int, default=96)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--num-concurrent", type=int, default=1)
    parser.add_argument("--quantised", action="store_true", help="serve the file as it is")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    rows = generate(asked.task, asked.num_rows, seed=0)
    with contextlib.ExitStack() as stack:
        url = asked.url
        if url is None:
            model = smollm2_gguf()
            if not asked.quantised:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                model = float32_gguf(model, folder)
            url = stack.enter_context(llama_cpp_server(model, asked.threads))
        server = Server(url, asked.name, num_concurrent=asked.num_concurrent)
        lm = load_lm(asked.model, device="cpu")
        agreement = compared(server, lm, rows, asked.prompt, asked.max_new_tokens)
    print(agreement.describe())
    if asked.out:
        settings: dict[str, Any] = {n: str(v) for n, v in vars(asked).items() if v is not None}
        values = {"asked": settings, **dataclasses.asdict(agreement)}
        asked.out.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
