"""Errors of input, told apart from errors inside by their class; what a user gives, and in vain."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from greater_fast.config import Config
from greater_fast.examples.layout import Layouts
from greater_fast.examples.metrics import Metric, name_of_metric
from greater_fast.examples.placeholders import WRITTEN_LINE_BREAK, empty_place_notes
from greater_fast.search.checks import check_callable
from greater_fast.wording import quoted


class InputError(ValueError):
    """Input that cannot work, found before any expensive work; the message says what to change."""


@contextlib.contextmanager
def checking_input() -> Iterator[None]:
    """Where input is read and checked: every ValueError from within is an `InputError`."""
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        told = InputError(str(error)).with_traceback(error.__traceback__)
        raise told from error.__cause__


def changed_settings(config: Config | Mapping[str, Any]) -> dict[str, Any]:
    """Those of the settings that are not the defaults; names of none are left out."""
    given = config.to_dict() if isinstance(config, Config) else config
    defaults = Config().to_dict()
    return {k: v for k, v in given.items() if k in defaults and v != defaults[k]}


def check_mapping(config: object) -> None:
    """Refuse a whole `Config` where some settings are to differ from others.

    Raises:
        ValueError: it is one.
    """
    if isinstance(config, Config):
        raise ValueError(
            "config: got a Config, expected a mapping of those settings that are to differ, such "
            "as {'num_train': 100}"
        )


def check_settings(config: Config | Mapping[str, Any] | None, decided: Mapping[str, str]) -> None:
    """Refuse a setting that would be ignored: `decided` says by name what decides it.

    A whole `Config`, which other calls may share, is warned of. Defaults ask for nothing.

    Raises:
        ValueError: a mapping asks for one of these.
    """
    given = changed_settings(config or {})
    for name in (name for name in decided if name in given):
        got, decides = f"{name}: got {quoted(given[name])}", f"here {decided[name]} decides"
        if not isinstance(config, Config):
            raise ValueError(f"{got}, expected none: {decides}")
        warnings.warn(f"{got}, without effect: {decides}", RuntimeWarning, stacklevel=3)


def with_metric(config: Config, metric: Metric | str | None) -> Config:
    """The settings, with the metric that is given beside them if it is one of a name.

    Raises:
        ValueError: it is neither a name nor a function of a text and an example, or there are two.
    """
    if metric is None:
        return config
    if not isinstance(metric, str):
        check_callable("metric", metric, ("the predicted answer", "its example"))
    name = metric if isinstance(metric, str) else name_of_metric(metric)
    if config.metric not in (None, metric):
        raise ValueError(
            f"metric: got {quoted(name)} beside {quoted(config.metric)} in the settings: leave one "
            "of the two out"
        )
    return replace(config, metric=metric) if isinstance(metric, str) else config


def measured_by(metric: Metric | str | None, layouts: Layouts) -> Layouts:
    """The rows with a metric of a user's own where one is given; that of the settings they have."""
    return replace(layouts, metric=metric) if callable(metric) else layouts


def metric_note(layouts: Layouts) -> tuple[str, ...]:
    """A line that names what measures answers, if anything does."""
    name = name_of_metric(layouts.metric)
    return () if name is None else (f"answers are measured by: {name}",)


def notes_on_texts(prompts: Sequence[str], config: Config) -> tuple[str, ...]:
    """Lines on what may be meant otherwise in texts that are sent as they are written.

    That is "{}" and the like, and line breaks: as a shell hands them on, or beside the question.
    """
    texts = [*(("prompt", text) for text in prompts), ("system_prompt", config.system_prompt or "")]
    instead = "the question is put beside the prompt (prompt_placement says where)"
    notes = [note for name, text in texts for note in empty_place_notes(name, text, instead)]
    notes += [
        f"{name}: \\n stays in it as a backslash and an n: write a line break itself ($'…\\n…' in "
        "a shell)"
        for name, text in (*texts, ("extractor", config.extractor or ""))
        if WRITTEN_LINE_BREAK.search(text)
    ]
    first = config.prompt_placement == "before"
    if any((text[-1:] if first else text[:1]) in ("\r", "\n") for text in prompts):
        end = "end" if first else "beginning"
        notes.append(f"prompt: the line break at its {end}, beside the question, is left out")
    return tuple(dict.fromkeys(notes))


# What an evaluation reads of the settings.
OF_EVALUATION = frozenset(
    {
        *("max_new_tokens", "max_prompt_tokens", "sampling_temperature", "seed", "on_long"),
        *("prompt_placement", "extractor", "template", "system_prompt", "chat_template_kwargs"),
        *("template_date", "metric", "engine", "kernels", "kv_cache_bytes", "max_step_tokens"),
        *("draft_tokens", "batch_size", "device", "dtype", "tensor_parallel"),
    }
)


def for_evaluation(config: Config) -> tuple[Config, tuple[str, ...]]:
    """The settings with those of a search at their defaults, and a line on those that were not."""
    defaults: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(config)}
    idle = {
        name: default
        for name, default in defaults.items()
        if name not in OF_EVALUATION and getattr(config, name) != default
    }
    if not idle:
        return config, ()
    return replace(config, **idle), (f"{' and '.join(idle)}: without effect on an evaluation",)


def idle_settings(
    config: Config, engines: Collection[str] = (), on: str = "the search"
) -> tuple[str, ...]:
    """Settings that are not the defaults and change nothing, with the reason, a line each.

    `engines` are those that were made, `paged` or `generate`; by default the one of the settings.
    """
    engines = set(engines or (config.engine,))
    changed = {f.name for f in dataclasses.fields(config) if getattr(config, f.name) != f.default}
    of_reasonings = {"reasonings", "num_reasonings", "reasoning_weight"}
    of_gradients = {"gradient", "gradient_norm", "gradient_batch_tokens", "gradient_checkpointing"}
    of_pages = {"kv_cache_bytes", "max_step_tokens", "draft_tokens"}
    of_errors = {"error_fluency_weight", "metric"}
    by_error = config.objective == "error" and not config.takes_gradients
    cases = (
        (not config.takes_gradients, of_gradients, "a random shortlist takes none"),
        (not config.asks_for_reasonings, of_reasonings, "no gradient of reasonings is taken"),
        (config.gradient == "reasoning", {"reasoning_weight"}, "there is no other gradient"),
        (config.objective == "loss", of_errors, "objective 'loss' selects; evaluation measures"),
        (by_error, {"fluency_weight"}, "a random shortlist and objective 'error' take no loss"),
        (engines == {"generate"}, of_pages, "engine 'generate' has no pages"),
        (engines == {"paged"}, {"batch_size"}, "engine 'paged' fills its own steps"),
    )
    return tuple(
        f"{' and '.join(sorted(idle))}: without effect on {on}, as {why}"
        for applies, names, why in cases
        if applies and (idle := names & changed)
    )
