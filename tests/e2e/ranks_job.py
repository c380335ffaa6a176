"""Runs of a tiny model, the same in a test's own process and on each of several ranks.

`python -m tests.e2e.ranks_job FOLDER NAME ...` runs those of that name one after the other, and
writes what came out on its rank.
"""

import contextlib
import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

from greater_fast import Example, evaluate, optimize, ranks, resume
from greater_fast.memory.activations import PassPlan
from greater_fast.search import optimizer
from greater_fast.search.gradient import StepGradient
from greater_fast.search.nouns import Step
from tests.cases import tiny_lm
from tests.tiny import PROMPT, boolean_rows
from tests.waiting import until

ROWS = [{"question": question, "answer": answer} for question, answer in boolean_rows(18)]
SETTINGS = {
    "steps": 3,
    "max_new_tokens": 8,
    "max_prompt_tokens": 40,
    "num_train": 5,
    "num_dev": 4,
    "num_finalists": 2,
    "num_proposal_examples": 2,
    "num_draws": 3,
}
RANK = int(os.environ.get("RANK", "0"))
LAST = int(os.environ.get("WORLD_SIZE", "1")) - 1


class MishapError(Exception):
    """Something of the caller's own."""

    def __init__(self, first: str, second: str) -> None:  # as nothing that pickle can make again
        super().__init__(f"{first} {second}")


def search(
    folder: Path,
    family: str = "gemma2",
    rows: Any = ROWS[:12],
    on_step: Any = None,
    loss: Any = None,
    metric: Any = None,
    **settings: Any,
) -> dict[str, Any]:
    """A run of a tiny model; its result as it is written."""
    lm = tiny_lm(family, "sentencepiece" if family.startswith("gemma") else "llama3")
    result = optimize(
        lm,
        rows,
        prompt=PROMPT,
        test=ROWS[12:],
        config={**SETTINGS, **settings},
        run_dir=folder,
        on_step=on_step,
        loss=loss,
        metric=metric,
        progress=False,
    )
    return result.to_dict()


def gemma2(folder: Path) -> dict[str, Any]:
    """A run with all its parts."""
    return search(folder)


def sampled(folder: Path) -> dict[str, Any]:
    """Another model, sampled, with a shortlist of both kinds."""
    given = {"sampling_temperature": 0.7, "candidates": "both", "objective": "loss"}
    return search(folder, "gemma3", **given, accept="best", gradient_norm="example")


def drawn(folder: Path) -> dict[str, Any]:
    """By both gradients, with reasonings that are drawn for each step."""
    given = {"gradient": "both", "reasonings": "sampled", "num_reasonings": 2}
    return search(folder, "llama", **given, metric=length, steps=2, num_dev=2)


def stored(folder: Path) -> dict[str, Any]:
    """By both gradients, with reasonings of prompts that were scored."""
    given = {"gradient": "both", "num_reasonings": 2, "accept": "best"}
    return search(folder, "llama", **given, metric=length, steps=4, num_dev=2)


def control(folder: Path) -> dict[str, Any]:
    """With a shortlist that is drawn."""
    return search(folder, "llama", shortlist="random", steps=2, num_dev=2)


def fewer_rows(folder: Path) -> dict[str, Any]:
    """Of training and development than there are ranks."""
    return search(folder, num_train=2, num_dev=1)


def plain(folder: Path) -> dict[str, Any]:
    """By transformers' `generate`."""
    return search(folder, "llama", engine="generate", batch_size=2)


def measured(folder: Path) -> dict[str, Any]:
    """By a metric of the caller's own."""
    return search(folder, metric=length)


def length(predicted: str, row: Example) -> float:
    """How much of forty characters an answer has."""
    return min(len(predicted), 40) / 40


def raced(folder: Path) -> dict[str, Any]:
    """With rows in a drawn order, in batches."""
    return search(folder, steps=2, engine="generate", batch_size=2, race=0.5)


def uneven(folder: Path) -> dict[str, Any]:
    """By a plan of the first rank's, whatever memory others have for a gradient pass."""
    plan = PassPlan(60 if RANK else 200, checkpointing=False)
    with mock.patch("greater_fast.gradients.micro_batches.plan_pass", return_value=plan):
        return search(folder)


def rows_of_first(folder: Path) -> dict[str, Any]:
    """From a file that rank 0 alone has."""
    file = folder.with_suffix(".jsonl")
    if RANK == 0:
        file.write_text("".join(json.dumps(row) + "\n" for row in ROWS[:12]))
    return search(folder, rows=str(file if RANK == 0 else folder / "nowhere.jsonl"), steps=1)


def no_rows(folder: Path) -> dict[str, Any]:
    """From a file that other ranks alone have."""
    return search(folder, rows=ROWS[:12] if RANK else "nowhere.jsonl")


def stopped(folder: Path) -> dict[str, Any]:
    """By a callback, of which rank 0 has the say."""
    return search(folder, on_step=lambda step: (step.step == 1) == (RANK == 0))


def limited(folder: Path) -> dict[str, Any]:
    """With a limit of minutes, which is long over by the clocks of all ranks but the first."""
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() - (1e9 if RANK else 0))
    with mock.patch("greater_fast.api.time", clock):
        return search(folder, minutes=1e6)


def resumed(folder: Path) -> dict[str, Any]:
    """Stopped after its first step, and gone on with by what rank 0 alone reads."""
    search(folder, "llama", on_step=lambda step: True, steps=2, num_dev=2)
    lm = tiny_lm("llama", "llama3")
    on_step = (lambda step: False) if RANK == 0 else None
    return resume(folder, model=lm, on_step=on_step, progress=False).to_dict()


def raising(folder: Path) -> dict[str, Any]:
    """From the callback of rank 0."""

    def fail(step: Step) -> None:
        if step.step == 1:
            raise MishapError("of", "mine")

    return search(folder, on_step=fail)


@contextlib.contextmanager
def in_second_step(act: Callable[[], object]) -> Iterator[None]:
    """Let the last rank do something before the second step's gradient."""
    plain, calls = optimizer.step_gradient, []

    def gradient(*arguments: Any) -> StepGradient:
        calls.append(1)
        if RANK == LAST and len(calls) == 2:
            act()
        return plain(*arguments)

    with mock.patch.object(optimizer, "step_gradient", gradient):
        yield


def failing(folder: Path) -> dict[str, Any]:
    """On the last rank alone."""

    def fail() -> None:
        raise MishapError("of", "the last")

    with in_second_step(fail):
        return search(folder)


def interrupted(folder: Path) -> dict[str, Any]:
    """By a Ctrl-C that all ranks are sent; that of others does nothing."""

    def interrupt(step: Step | None = None) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    return search(folder, on_step=interrupt, loss=in_each(interrupt))


def in_each(act: Callable[[], None]) -> Callable[..., torch.Tensor]:
    """A loss by which all ranks but the first do something."""

    def loss(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        if RANK:
            act()
        return torch.nn.functional.cross_entropy(logits, ids)

    return loss


def evaluated(folder: Path) -> dict[str, Any]:
    """Two prompts on rows."""
    lm = tiny_lm("gemma2", "sentencepiece")
    config = {"max_new_tokens": 8, "max_prompt_tokens": 40}
    given = {"prompt": PROMPT, "against": "Think about it.", "config": config, "progress": False}
    return evaluate(lm, ROWS[:7], records=folder / "records.jsonl", **given).to_dict()


def killed(folder: Path) -> dict[str, Any]:
    """The last rank, without a word."""
    with in_second_step(lambda: os._exit(9)):
        return search(folder)


def hanging(folder: Path) -> dict[str, Any]:
    """The last rank, for longer than others wait."""
    number, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    (folder.parent / f"ready-{number}").touch()
    until(lambda: len([*folder.parent.glob("ready-*")]) == count, "all ranks have imported all")
    ranks.TIMEOUT = 20.0
    with in_second_step(lambda: time.sleep(600)):
        return search(folder)


def outcome(name: str, folder: Path) -> dict[str, Any]:
    """What a run came to: its result, or its error."""
    try:
        return globals()[name](folder / name)  # type: ignore[no-any-return]
    except Exception as error:
        return {
            "error": type(error).__name__,
            "message": str(error),
            "notes": getattr(error, "__notes__", []),
        }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for name in sys.argv[2:]:
        found = outcome(name, Path(sys.argv[1]))
        (Path(sys.argv[1]) / f"{name}-{RANK}.json").write_text(json.dumps(found))
