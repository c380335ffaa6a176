"""`greater-fast evaluate --endpoint`: the prompt on a served model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from greater_fast.cli.evaluation_input import EvaluationInput, evaluation_input
from greater_fast.ranks import join
from greater_fast.runs.input import checking_input
from greater_fast.runs.result import Report

SERVED_ROWS = "served.jsonl"  # in the run's folder
_OF_ENDPOINT = ("tokenizer", "chat", "key_variable", "num_concurrent", "num_retries", "timeout")


def add_endpoint_options(command: argparse.ArgumentParser) -> None:
    """Options of `evaluate` that have a server generate."""
    group = command.add_argument_group("a served model")
    group.add_argument(
        "--endpoint",
        metavar="URL",
        help="measure on an OpenAI-compatible server, as http://127.0.0.1:8000/v1, in place of "
        "here; --model is then the name that it has there. --records, with --run "
        f"{SERVED_ROWS} in its folder, is gone on with where it is there already",
    )
    group.add_argument(
        "--tokenizer",
        metavar="MODEL",
        help="configuration and tokenizer of what is served: hub name, folder or GGUF file; rows "
        "are sent in its layout (default: the model of --run)",
    )
    group.add_argument(
        "--chat",
        action="store_true",
        help="ask by chat, where the server has nothing else: not the same layout",
    )
    group.add_argument(
        "--key-variable",
        metavar="NAME",
        help="environment variable that holds the server's key, as OPENAI_API_KEY; none is sent "
        "without it",
    )
    group.add_argument(
        "--num-concurrent", type=int, metavar="N", help="requests under way at most (default: 8)"
    )
    group.add_argument(
        "--num-retries",
        type=int,
        metavar="N",
        help="how often a request is sent again that failed as it may pass (default: 4)",
    )
    group.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="of one request (default: 600)"
    )


def check_endpoint_options(options: argparse.Namespace) -> None:
    """Raise ValueError for options of a served model without a server."""
    given = [name for name in _OF_ENDPOINT if getattr(options, name) not in (None, False)]
    if given and options.endpoint is None:
        names = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ValueError(f"{names}: without effect without --endpoint: give the server's address")


def evaluate_served(options: argparse.Namespace) -> Report:
    """The report of a prompt on the server that the options name.

    Raises:
        ValueError: as of `evaluation_input` and `evaluate_endpoint`; the options do not say which
            model, or in which layout; there are several processes.
    """
    from greater_fast.front_ends.endpoint import Server, evaluate_endpoint

    with checking_input():
        if join().size > 1:
            raise ValueError("--endpoint: one process asks a server: leave torchrun out")
        server = Server(**_of_server(options))
        asked = _input(options)
    tokenizer = None if options.chat else asked.given["model"]
    records = options.records
    if records is None and options.run:
        records = Path(options.run).expanduser() / SERVED_ROWS
    given = {name: value for name, value in asked.given.items() if name not in ("model", "data")}
    with asked.explained():
        return evaluate_endpoint(
            server, asked.given["data"], tokenizer=tokenizer, records=records, **given
        )


def _of_server(options: argparse.Namespace) -> dict[str, Any]:
    """What `Server` is made of: defaults are its own."""
    if not options.model or len(options.model) > 1:
        raise ValueError("--model: expected the one name that the server gives the model")
    named = {
        "key_variable": options.key_variable,
        "num_concurrent": options.num_concurrent,
        "num_retries": options.num_retries,
        "timeout_s": options.timeout,
    }
    given = {name: value for name, value in named.items() if value is not None}
    return {"url": options.endpoint, "model": options.model[0], **given}


def _input(options: argparse.Namespace) -> EvaluationInput:
    """Rows, prompts and settings, and as the model the one whose layout they have."""
    if options.chat and options.tokenizer:
        raise ValueError("--chat keeps no layout: leave --tokenizer out")
    if not (options.chat or options.tokenizer or options.run):
        raise ValueError(
            "--tokenizer missing: name a folder with the tokenizer of what is served, or --run RUN "
            "to take that of its model; --chat asks without one"
        )
    of_run = options.run and not options.chat  # which asks without a model's files
    laid_out = options.tokenizer or (None if of_run else options.model[0])
    own = {**vars(options), "model": [laid_out] if laid_out else None}
    asked = evaluation_input(argparse.Namespace(**own))
    if isinstance(asked.given["model"], list):
        names = ", ".join(asked.given["model"])
        raise ValueError(f"the run is of several models: name one of {names} (--tokenizer)")
    return asked
