"""The keys of a config: those that mean something, and those that are read and do nothing."""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from greater_fast.config import Config
from greater_fast.config_checks import guess
from greater_fast.runs.input import check_settings
from greater_fast.wording import listed, quoted

_PREFIX, _NO_PREFIX = "--config.", "--noconfig."
# Settings of ours that would be ignored, each with what decides it here.
_BY_KEYS = {
    "extractor": "config.extractor_text",
    "minutes": "config.n_steps",
    "num_train": "config.n_train_data",
    "num_dev": "config.n_test_data",
    "template": "the goals of config.train_data",
}
_LEAST = {"n_train_data": 1, "topk": 1, "topq": 1}  # of other numbers 0
# Without effect in the released code, or here: one model with its own template is enough.
_IDLE = (
    *("anneal", "attack", "batch_size", "control_weight", "conversation_templates", "data_seed"),
    *("dtypes", "filter_cand", "gbda_deterministic", "incr_control", "log_first", "logfile", "lr"),
    *("model_kwargs", "num_train_models", "progressive_goals", "progressive_models"),
    *("stop_on_success", "target_weight", "temp", "test_steps", "tokenizer_kwargs", "transfer"),
    "verbose",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a command was given, with the defaults of the released code's template.

    Raises:
        ValueError: a value is of the wrong kind or out of range, there is no model or no training
            rows, or more models than one.
    """

    train_data: str
    model_paths: Sequence[str]
    test_data: str = ""
    n_train_data: int = 50
    n_test_data: int = 0
    data_offset: int = 0
    control_init: str = (
        " proper logical reasoning and think step by step. Finally give the actual correct answer."
    )
    extractor_text: str = ""
    n_steps: int = 105
    topk: int = 10
    topq: int = 5
    seed: int = 0
    allow_non_ascii: bool = False
    devices: Sequence[str] = ()
    tokenizer_paths: Sequence[str] = ()
    result_prefix: str = "results/released"

    def __post_init__(self) -> None:
        for field in fields(self):
            value: Any = getattr(self, field.name)
            if field.type == "str":
                known = isinstance(value, str)
                wanted = "a text"
            elif field.type == "int":
                least = _LEAST.get(field.name, 0)
                known = type(value) is int and value >= least
                wanted = f"a whole number from {least} on"
            elif field.type == "bool":
                known = isinstance(value, bool)
                wanted = "True or False"
            else:
                known = isinstance(value, list | tuple) and all(isinstance(v, str) for v in value)
                wanted = "a list of texts, as ['NAME']"
            if not known:
                raise ValueError(f"config.{field.name}: got {quoted(value)}, expected {wanted}")
        if not self.train_data:
            raise ValueError("config.train_data: expected a file, got none")
        if len(set(self.model_paths)) != 1:
            raise ValueError(
                f"config.model_paths: got {quoted(list(self.model_paths))}, expected one model, "
                "which writes its own reasoning"
            )
        if not set(self.tokenizer_paths) <= set(self.model_paths):
            raise ValueError(
                f"config.tokenizer_paths: got {quoted(list(self.tokenizer_paths))}, expected the "
                "model's own: leave it out"
            )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> tuple[Given, tuple[str, ...]]:
        """What is given by keys and values, and those of the keys that have no effect.

        Raises:
            ValueError: as of the class.
        """
        for name in ("train_data", "model_paths"):
            if name not in values:
                raise ValueError(f"config.{name}: expected one, got none")
        idle = tuple(sorted(name for name in values if name not in _NAMES))
        return cls(**{name: values[name] for name in values if name in _NAMES}), idle

    @property
    def control(self) -> str:
        """The prompt to start from, as it stands behind ". Use"."""
        return self.control_init.strip()

    def config(self, num_rows: int, settings: Mapping[str, Any]) -> Config:
        """The settings of the search: the released rule, and what else a user names by our names.

        Raises:
            ValueError: as `Config.from_mapping`, or a setting is of what keys alone decide.
        """
        check_settings(settings, _BY_KEYS)
        device = self.devices[0] if self.devices and self.devices[0] != "auto" else None
        own = {
            "steps": self.n_steps,
            "top_k": self.topk,
            "num_draws": self.topq,
            "max_new_tokens": 1024,
            "num_train": max(num_rows, 2),
            "seed": self.seed,
            "allowed": "prompt" if self.allow_non_ascii else "ascii",
            "device": device,
        }
        return Config.paper(**{**own, **settings})


_NAMES = tuple(field.name for field in fields(Given))
_TEXTS = tuple(field.name for field in fields(Given) if field.type == "str")
KEYS = tuple(sorted((*_NAMES, *_IDLE)))
SWITCHES = (
    *("allow_non_ascii", "anneal", "filter_cand", "gbda_deterministic", "incr_control"),
    *("log_first", "progressive_goals", "progressive_models", "stop_on_success", "transfer"),
    "verbose",
)


def parse_overrides(
    arguments: Sequence[str],
    known: Collection[str] = KEYS,
    switches: Collection[str] = SWITCHES,
) -> dict[str, Any]:
    """Keys and values of arguments such as `--config.n_steps=20`, or `--config.n_steps 20`.

    A value is what Python reads it as, a list for one, or else text, as it is for keys of texts.
    As absl takes them, a key of `switches` is True without a value, and False as `--noconfig.KEY`.

    Raises:
        ValueError: another argument, a key that is not `known`, or one without a value.
    """
    values: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        negated = argument.removeprefix(_NO_PREFIX)
        if negated != argument and negated in switches:
            values[negated] = False
            continue
        name, equals, text = argument.removeprefix(_PREFIX).partition("=")
        if not argument.startswith(_PREFIX):
            raise ValueError(f"got {quoted(argument)}, expected --config.KEY=VALUE")
        if name not in known:
            hint = guess(name, tuple(known)) or f"; known are {listed(sorted(known), 40)}"
            raise ValueError(f"{_PREFIX}{name}: no such key{hint}")
        if not equals:
            others = "--" if name in switches else (_PREFIX, _NO_PREFIX)
            alone = not rest or rest[0].startswith(others)
            if alone and name in switches:
                values[name] = True
                continue
            if alone:
                raise ValueError(f"{_PREFIX}{name}: expected a value, got none")
            text = rest.pop(0)
        values[name] = text if name in _TEXTS else _literal(text)
    return values


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
