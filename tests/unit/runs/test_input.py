import functools
import math
from collections.abc import Callable
from typing import Any

import pytest

from greater_fast.config import Config
from greater_fast.runs.input import InputError, checking_input, notes_on_texts
from greater_fast.search.checks import check_callable


def test_errors_of_input_get_their_class_and_keep_their_frames() -> None:
    def read() -> None:
        raise ValueError("no rows") from KeyError("cause")

    with pytest.raises(InputError, match=r"^no rows$") as caught, checking_input():
        read()
    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.traceback[-1].name == "read"
    with pytest.raises(InputError) as again, checking_input():
        raise caught.value
    assert again.value is caught.value


@pytest.mark.parametrize("error", [KeyError("a"), OSError("b"), KeyboardInterrupt()])
def test_other_errors_pass(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, checking_input():
        raise error
    assert caught.value is error


class Watcher:
    def __call__(self, step: Any) -> None:
        pass

    def method(self, step: Any, verbose: bool = False) -> None:
        pass


@pytest.mark.parametrize(
    "given",
    [
        print,
        math.sqrt,
        dict.update,
        lambda step: None,
        lambda *args: None,
        Watcher(),
        Watcher().method,
        functools.partial(Watcher.method, Watcher()),
        [].append,
    ],
)
def test_what_takes_one_value(given: Callable[..., Any]) -> None:
    check_callable("on_step", given, ("a step",))


async def later(step: Any) -> None:
    pass


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (5, "on_step: got 5, expected a function of a step"),
        ("print", "on_step: got 'print', expected"),
        ([1] * 10_000, "on_step: got [1, 1"),
        (lambda: None, "on_step: got one that takes (), expected a function of a step"),
        (lambda a, b: None, "on_step: got one that takes (a, b), expected"),
        (lambda *, step: None, "on_step: got one that takes (*, step), expected"),
        (Watcher.method, "on_step: got one that takes (self, step: Any, verbose"),
        (Watcher, "on_step: got one that takes (), expected"),
        (later, "on_step: got an async function, expected"),
    ],
)
def test_what_does_not(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match="on_step") as caught:
        check_callable("on_step", given, ("a step",))
    assert str(caught.value).startswith(message)
    assert len(str(caught.value)) < 400


def test_two_values() -> None:
    check_callable("loss", lambda logits, ids: None, ("logits", "ids"))
    with pytest.raises(ValueError, match="expected a function of logits and ids"):
        check_callable("loss", lambda logits: None, ("logits", "ids"))


@pytest.mark.parametrize(
    ("prompt", "placement", "told"),
    [
        (r"Think.\nAnswer.", "after", r"prompt: \n stays in it as a backslash and an n: write"),
        (r"Find $\nabla f$ and $\nu \neq b$.", "after", None),
        (r"A row of a matrix: 1 \\n 2", "after", None),
        ("Think.\nAnswer.", "after", None),
        ("Answer:\n", "after", None),  # as a file ends
        (
            "Answer:\n\n",
            "before",
            "prompt: the line break at its end, beside the question, is left out",
        ),
        (
            "\nThink.",
            "after",
            "prompt: the line break at its beginning, beside the question, is left out",
        ),
        ("\nThink.", "before", None),
        ("Put it in {}.", "after", "prompt: {} stays in it as it is written"),
    ],
)
def test_what_may_be_meant_otherwise_is_told(prompt: str, placement: str, told: str | None) -> None:
    notes = notes_on_texts([prompt, "Think."], Config(prompt_placement=placement))
    assert [note.startswith(told or "") for note in notes] == ([True] if told else [])


def test_written_line_breaks_of_other_texts_are_told() -> None:
    config = Config(system_prompt=r"Be brief.\n", extractor=r"\n\nAnswer: {answer}")
    names = [note.partition(":")[0] for note in notes_on_texts(["Think."], config)]
    assert names == ["system_prompt", "extractor"]
