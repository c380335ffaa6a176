"""What cannot be searched, found before any expensive work: settings, models and functions."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from greater_fast.config import Config
from greater_fast.engine import Engine
from greater_fast.gradients.example_loss import AnswerLoss
from greater_fast.search.judge import Judge
from greater_fast.search.optimizer import OnStep
from greater_fast.wording import quoted


def check_callable(name: str, given: Any, takes: tuple[str, ...]) -> None:
    """Refuse what cannot be called with so many values.

    Raises:
        ValueError: says what it is, or takes.
    """
    wanted = f"a function of {' and '.join(takes)}"
    if not callable(given):
        raise ValueError(f"{name}: got {quoted(given)}, expected {wanted}")
    if inspect.iscoroutinefunction(given):
        raise ValueError(f"{name}: got an async function, expected {wanted} that is not")
    try:
        signature = inspect.signature(given)
    except (TypeError, ValueError):  # some of C tell nothing
        return
    try:
        signature.bind(*takes)
    except TypeError as error:
        raise ValueError(f"{name}: got one that takes {signature}, expected {wanted}") from error


def other_decoding(engine: Engine, config: Config) -> str | None:
    """What an engine was made with otherwise than it is to search with; None for nothing.

    Temperatures are in what it computes, and a seed and draws where it samples.
    """
    samples = config.sampling_temperature > 0 or config.draws_reasonings
    for name in ("temperature", "sampling_temperature", *(("seed",) if samples else ())):
        if engine.decoding[name] != getattr(config, name):
            made_with = engine.decoding[name]
            return (
                f"{name}: got {getattr(config, name)} for an engine that was made with {made_with}"
            )
    if config.draws_reasonings and not engine.decoding["draws"]:
        return "reasonings: got 'sampled' for an engine that was made without draws"
    return None


def check_engines(engines: Sequence[Engine], config: Config) -> None:
    """Raise ValueError where an engine was made with other settings than it is to search with."""
    for engine in engines:
        if (what := other_decoding(engine, config)) is not None:
            raise ValueError(f"{what}: make one with these settings, make_engine(lm, config)")


def check_no_race(num_models: int, config: Config) -> None:
    """Raise ValueError where candidates of several models are to race.

    A race counts rows as so many independent bets; answers of two models to one question are not.
    """
    if num_models > 1 and config.race:
        raise ValueError(
            f"race: got {config.race} with {num_models} models, whose answers to one question are "
            "no independent rows: set race to 0, or give one model"
        )


def check_functions(
    on_step: OnStep | None, loss: AnswerLoss | None, config: Config, judge: Judge | None = None
) -> None:
    """Raise ValueError where one cannot be called, or goes with no such settings."""
    if on_step is not None:
        check_callable("on_step", on_step, ("a step",))
    if judge is not None:
        check_callable("judge", judge, ("the texts of prompts",))
    if loss is None:
        return
    check_callable("loss", loss, ("an answer's logits [A, V]", "its ids [A]"))
    if config.gradient == "reasoning":
        raise ValueError(
            "loss: got a function with gradient 'reasoning', which is of no answer's loss: "
            "expected gradient 'answer' or 'both'"
        )


def check_stop_texts(stop: object, config: Config) -> None:
    """Raise ValueError where reasonings that stop texts end are to be made likelier or less likely.

    Of these the ids of the text before the stop text are known, not those that the model chose: an
    id in which the stop text begins is spelled anew, and what completed it is left out.
    """
    if stop is not None and config.asks_for_reasonings:
        raise ValueError(
            f"stop_texts: got some with gradient {quoted(config.gradient)}, which needs reasonings "
            "to their last token: set gradient to 'answer', or give no stop texts"
        )
