"""Callers of several threads in one batch; how long the first one waits is the test's to say."""

import functools
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import pytest

from greater_fast.config import Config
from greater_fast.rollouts.choose import make_engine
from greater_fast.texts.generation import generate
from greater_fast.texts.together import SharedGeneration, Together
from tests.cases import tiny_lm


class Callers:
    """Threads that call at the same time: the first one waits until all others have called."""

    def __init__(self, serve: Callable[[Any, Sequence[Any]], Sequence[Any]]) -> None:
        self.batches: list[tuple[Any, list[Any]]] = []
        self.outcomes: dict[int, Any] = {}
        self._serve = serve
        self._all_there = threading.Event()
        self._first_waits = threading.Event()
        self.together = Together(self._recorded, self.wait)

    def wait(self) -> None:
        self._first_waits.set()
        assert self._all_there.wait(120)

    def _recorded(self, key: Any, items: Sequence[Any]) -> Sequence[Any]:
        self.batches.append((key, list(items)))
        return self._serve(key, items)

    def run(self, *calls: tuple[Any, Sequence[Any]], ask: Callable[..., Any] | None = None) -> None:
        self._all_there.clear()

        def call(number: int) -> None:
            try:
                self.outcomes[number] = (ask or self.together)(*calls[number])
            except BaseException as error:
                self.outcomes[number] = error

        threads = [threading.Thread(target=call, args=(n,)) for n in range(len(calls))]
        self._first_waits.clear()
        threads[0].start()
        assert self._first_waits.wait(120)
        for thread in threads[1:]:
            thread.start()
        while len(self.together._waiting) < len(calls):
            threading.Event().wait(0.001)
        self._all_there.set()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive()


def squares(key: Any, items: Sequence[Any]) -> list[Any]:
    return [(key, item, item * item) for item in items]


def test_calls_of_one_time_are_one_batch() -> None:
    callers = Callers(squares)
    calls = [("a", list(range(n, n + 3))) for n in range(8)]
    callers.run(*calls)
    assert [callers.outcomes[n] for n in range(8)] == [squares(*call) for call in calls]
    assert len(callers.batches) == 1
    assert sorted(callers.batches[0][1]) == sorted(i for _, items in calls for i in items)
    callers.run(("a", [5]))
    assert callers.outcomes[0] == squares("a", [5])
    assert len(callers.batches) == 2


def test_each_key_is_served_by_itself() -> None:
    callers = Callers(squares)
    calls = [("ab"[n % 2], [n]) for n in range(6)] + [("c", [])]
    callers.run(*calls)
    assert [callers.outcomes[n] for n in range(7)] == [squares(*call) for call in calls]
    assert {key for key, _ in callers.batches} == {"a", "b", "c"}
    assert len(callers.batches) == 3


def test_an_error_is_its_callers_alone() -> None:
    def picky(key: Any, items: Sequence[Any]) -> list[Any]:
        if 3 in items:
            raise ValueError("three")
        return squares(key, items)

    callers = Callers(picky)
    callers.run(*(("a", [n]) for n in range(5)))
    assert [callers.outcomes[n] for n in (0, 1, 2, 4)] == [squares("a", [n]) for n in (0, 1, 2, 4)]
    assert isinstance(callers.outcomes[3], ValueError)


def test_who_serves_and_is_interrupted_is_followed_by_another() -> None:
    errors = iter([SystemExit(), None])

    def interrupted(key: Any, items: Sequence[Any]) -> list[Any]:
        if error := next(errors):
            raise error
        return squares(key, items)

    callers = Callers(interrupted)
    callers.run(("a", [1]), ("a", [2]))
    assert isinstance(callers.outcomes[0], SystemExit)
    assert callers.outcomes[1] == squares("a", [2])
    callers._serve = squares
    callers.run(("a", [3]))
    assert callers.outcomes[0] == squares("a", [3])


def interrupted_at(together: Together[Any, Any, Any], number: int) -> bool:
    """Call, with Ctrl-C as the n-th function of the module begins; whether there is an n-th."""
    left = number

    def interrupt(frame: FrameType, event: str, arg: object) -> None:
        nonlocal left
        if frame.f_code.co_filename.endswith("texts/together.py"):
            left -= 1
            if left == -1:
                raise KeyboardInterrupt

    before = sys.gettrace()
    sys.settrace(interrupt)
    try:
        together("a", [1])
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def test_ctrl_c_at_any_call_inside_leaves_nobody_waiting() -> None:
    together = Together(squares, lambda: None)
    number = 0
    while interrupted_at(together, number):
        found: list[Any] = []
        ask = functools.partial(together, "b", [2])
        thread = threading.Thread(target=lambda own, ask: own.extend(ask()), args=(found, ask))
        thread.daemon = True
        thread.start()
        thread.join(120)
        assert found == squares("b", [2]), number
        number += 1
    assert number > 5


def test_threads_that_generate_share_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, _ = make_engine(tiny_lm(), Config())
    texts = [f"Please count the {word}." for word in ("apple", "book", "house", "list")]
    expected = [generate(engine, [text], 6, ["."]) for text in texts]
    sizes: list[int] = []
    run = engine.run

    def counted(requests: Sequence[Any]) -> Any:
        sizes.append(len(requests))
        return run(requests)

    monkeypatch.setattr(engine, "run", counted)
    callers = Callers(squares)
    shared = SharedGeneration(engine, callers.wait)
    callers.together = shared._together  # it is what the threads wait with
    callers.run(*((text, 6) for text in texts), ask=lambda text, n: shared([text], n, ["."]))
    assert [callers.outcomes[n] for n in range(4)] == expected
    assert sizes == [4]


def test_arguments_are_those_of_generate() -> None:
    engine, _ = make_engine(tiny_lm(), Config())
    shared = SharedGeneration(engine, lambda: None)
    texts = ["Please count the apple.", "The old man"]
    for more in (True, False, None):
        assert shared(texts, 4, special_tokens=more) == generate(
            engine, texts, 4, special_tokens=more
        )
    assert shared([texts[0]], 4, special_tokens=True) != shared([texts[0]], 4, special_tokens=False)


@pytest.mark.parametrize(
    ("texts", "limit", "stops", "message"),
    [
        ("Hello", 20, (), "texts: expected a list of texts"),
        (["Hello"], 20, "\n\n", "stop_texts: got .+, expected a list of texts"),
        (["Hello"], 20, "", "stop_texts: got .+, expected a list of texts"),
        (["Hello"], 20, [None], "stop_texts: got None, expected a text"),
        (["Hello"], 0, (), "max_new_tokens: got 0"),
    ],
)
def test_what_generate_refuses_is_never_queued(
    texts: Any, limit: int, stops: Any, message: str
) -> None:
    engine, _ = make_engine(tiny_lm(), Config())
    shared = SharedGeneration(engine, lambda: pytest.fail("it was queued"))
    for ask in (shared, functools.partial(generate, engine)):
        with pytest.raises(ValueError, match=message):
            ask(texts, limit, stops)


@pytest.mark.parametrize("name", ["paged", "generate"])
def test_what_is_sampled_does_not_depend_on_who_else_calls(name: str) -> None:
    engine, _ = make_engine(tiny_lm(), Config(engine=name, sampling_temperature=1.0))
    text = "Please count the apple."
    alone = generate(engine, [text, text], 8)
    assert alone[0] != alone[1]
    callers = Callers(squares)
    shared = SharedGeneration(engine, callers.wait)
    callers.together = shared._together
    callers.run(*([([text, text], 8)] * 3), ask=shared)
    assert [callers.outcomes[n] for n in range(3)] == [alone] * 3
