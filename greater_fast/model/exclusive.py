"""One thread at a time for each model: what runs it changes it for a while."""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

from greater_fast.model.attention.kernels import without_cudnn
from greater_fast.model.parallel.lockstep import lockstep

if TYPE_CHECKING:
    from greater_fast.model.lm import LM

P = ParamSpec("P")
R = TypeVar("R")


class HasLM(Protocol):
    """What runs a model: an engine."""

    lm: LM


E = TypeVar("E", bound=HasLM)


def exclusive(function: Callable[Concatenate[E, P], R]) -> Callable[Concatenate[E, P], R]:
    """A method of an engine, or a function of one, that holds the lock of the engine's model.

    All that runs a model does, and so this is where cuDNN's attention is kept out of it, and where
    ranks that share a model begin together.
    """

    @functools.wraps(function)
    def locked(engine: E, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with engine.lm.lock, without_cudnn(), lockstep(engine.lm.ranks):
            return function(engine, *args, **kwargs)

    return locked


class Locks:
    """A lock for each object, the same as long as the object is there."""

    def __init__(self) -> None:
        self._own = threading.Lock()
        self._known: dict[int, tuple[weakref.ref[Any], threading.RLock]] = {}

    def of(self, thing: Any) -> threading.RLock:
        """The lock of an object; the thread that holds it may take it again."""
        with self._own:
            if id(thing) not in self._known:
                gone = functools.partial(self._forget, id(thing))
                self._known[id(thing)] = weakref.ref(thing, gone), threading.RLock()
            return self._known[id(thing)][1]

    def _forget(self, key: int, _: Any) -> None:
        del self._known[key]


# Two modules that wrap one model (compiled, with an adapter, or the same one given twice) share its
# configuration, which names the attention: the lock is found by it. It cannot lie in transformers'
# objects, which are copied and pickled.
MODELS = Locks()
