"""`greater-fast resume`: a run that ended, gone on with."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from greater_fast.cli.log_option import add_log_option, trackers
from greater_fast.cli.options import add_debug_option, add_model_option, add_setting, one_or_all
from greater_fast.cli.printing import print_result
from greater_fast.config import Config
from greater_fast.resuming import resume
from greater_fast.runs.input import checking_input
from greater_fast.runs.on_ranks import on_all_ranks
from greater_fast.runs.saved.differences import CHANGEABLE


def add_resume_command(commands: Any) -> None:
    """Add the parser of the command to those of the others."""
    command = commands.add_parser(
        "resume",
        help="go on with a run where it ended, or was ended",
        usage="greater-fast resume RUN [--model MODEL [MODEL ...]] [options]",  # RUN comes first
    )
    command.set_defaults(command=_resume, before="the run was gone on with")
    command.add_argument("run", metavar="RUN", help="run directory")
    add_model_option(command, otherwise="that of the run")
    command.add_argument("--json", action="store_true", help="print the outcome as JSON alone")
    add_log_option(command)
    add_debug_option(command)
    group = command.add_argument_group("settings that may be others than before")
    for setting in dataclasses.fields(Config):
        if setting.name in CHANGEABLE:
            add_setting(group, setting, default="the run's")


@on_all_ranks
def _resume(options: argparse.Namespace) -> int:
    given = vars(options)
    with checking_input():
        on_step = trackers(options)
    result = resume(
        options.run,
        model=one_or_all(options.model) if options.model else None,
        config={
            name.removeprefix("config."): value
            for name, value in given.items()
            if name.startswith("config.")
        },
        on_step=on_step,
    )
    return print_result(result, as_json=options.json)
