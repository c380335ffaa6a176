"""`greater-fast released`: the command of GReaTer's released code, by its own keys."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
from typing import Any

from greater_fast.cli.options import add_debug_option, add_setting
from greater_fast.config import Config
from greater_fast.runs.input import checking_input
from greater_fast.runs.visible import visible

_OVERRIDES = "overrides"


def add_released_command(commands: Any) -> None:
    """Add the parser of the command to those of the others."""
    command = commands.add_parser(
        "released",
        rest=_OVERRIDES,
        usage="greater-fast released [--config FILE] [--config.KEY=VALUE ...] [SETTING ...]",
        help="GReaTer's own command, main.py, with its config files and keys",
    )
    command.set_defaults(command=_released, before="the first score")
    command.add_argument(
        "--config",
        metavar="FILE",
        help="a config file of GReaTer's, which is executed; --config.KEY=VALUE sets a key of it",
    )
    add_debug_option(command)
    group = command.add_argument_group(
        "settings, in place of those of keys and released rule; rows and extractor are keys' alone"
    )
    for setting in dataclasses.fields(Config):
        add_setting(group, setting, default="the released rule's")


def _released(options: argparse.Namespace) -> int:
    from greater_fast.front_ends.released import KEYS, SWITCHES, parse_overrides, read_config, run

    with checking_input():
        values = read_config(options.config) if options.config else {}
        switches = {*SWITCHES, *(name for name, value in values.items() if isinstance(value, bool))}
        values |= parse_overrides(vars(options)[_OVERRIDES], {*KEYS, *values}, switches)
    settings = {
        name.removeprefix("config."): value
        for name, value in vars(options).items()
        if name.startswith("config.")
    }
    run(values, settings, say=lambda line: print(visible(line), flush=True), tell=_tell)
    return 0


def _tell(line: str) -> None:
    """A line on standard error; where nobody can be told, the search goes on."""
    with contextlib.suppress(OSError, ValueError):
        print(f"greater-fast: {visible(line)}", file=sys.stderr, flush=True)
