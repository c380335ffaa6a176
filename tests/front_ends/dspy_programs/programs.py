"""Programs, adapters, a metric and rows that the tests of this folder share."""

import zlib
from typing import Any

import dspy
import pytest

from greater_fast.front_ends.dspy import GReaTer, InstructionLast
from tests.tiny import PROMPT, boolean_rows

SEARCH = {
    "objective": "loss",
    "steps": 2,
    "num_train": 4,
    "num_dev": 4,
    "num_finalists": 3,
    "num_proposal_examples": 2,
    "num_draws": 3,
    "max_prompt_tokens": 40,
}
LIMIT = 10  # tokens of a reply
HEADER = "\n\n[[ ## answer ## ]]\n"


class Lenient(dspy.ChatAdapter):
    """Reads whatever the tiny model writes: the last word is the answer."""

    def __init__(self, use_json_adapter_fallback: bool = False) -> None:
        super().__init__(use_json_adapter_fallback=use_json_adapter_fallback)

    def parse(self, signature: Any, completion: str) -> dict[str, Any]:
        *_, last = ["nothing", *completion.split()]
        return dict.fromkeys(signature.output_fields, completion) | {"answer": last}


class LenientLast(Lenient, InstructionLast):
    """The same, instructions last."""


def odd(example: Any, prediction: Any, trace: Any = None) -> float:
    """A metric that different replies get different values of."""
    return zlib.crc32(f"{example.question}{prediction.answer}".encode()) % 7 / 6


def examples(number: int, first: int = 0) -> list[Any]:
    pairs = boolean_rows(first + number)[first:]
    return [dspy.Example(question=q, answer=a).with_inputs("question") for q, a in pairs]


def thought(instructions: str = PROMPT, fields: str = "question -> answer") -> Any:
    return dspy.ChainOfThought(dspy.Signature(fields, instructions))


def compiled(student: Any, train: int = 6, val: int = 6, **given: Any) -> tuple[Any, GReaTer]:
    """The program found on boolean rows, and what found it."""
    optimizer = GReaTer(**{"metric": odd, "config": SEARCH, **given})
    rows = examples(train + val)
    return optimizer.compile(student, trainset=rows[:train], valset=rows[train:]), optimizer


class Recording(list[tuple[Any, Any]]):
    """All that an engine was asked, with what it gave."""

    def __init__(self, engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        run = engine.run

        def recorded(requests: Any, on_finished: Any = None) -> Any:
            found = run(requests, on_finished)
            self.extend(zip(requests, found, strict=True))
            return found

        monkeypatch.setattr(engine, "run", recorded)


def sent(program: Any, row: Any, asked: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the engine is asked, and gives, when a program is called."""
    with monkeypatch.context() as patch:
        recording = Recording(asked.engine.engine, patch)
        program(**row.inputs())
    return recording
