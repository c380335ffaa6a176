"""The commands that go on with a run, or repeat it: its rows as files, then its settings."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from typing import Any

from greater_fast.config import Config
from greater_fast.report.run_view import RunView
from greater_fast.runs.input import changed_settings
from greater_fast.runs.timing.time_budget import OUT_OF_TIME

_MOST_CHARACTERS = 20_000  # of commands; a part of a command would be another command
_FUNCTIONS = ("metric", "loss", "judge", "on_step")

# A run keeps a row's gold answers as they are asked for, the first apart from the others, and as
# the data has them, which metrics see: a file has the latter, in one list. The files are new ones
# in a new folder: where the commands are run, others of such names may be.
_SPLIT_ROWS = """\
import json, os
sets = {{}}
for line in open({examples!r}, encoding="utf-8"):
    row = json.loads(line)
    golds = [row["answer"], *row.pop("other_answers", [])]
    row["answer"] = row.pop("answers_given", []) or golds
    sets.setdefault(row.pop("split"), []).append(json.dumps(row) + "\\n")
os.mkdir({folder!r})
for name, lines in sets.items():
    open(os.path.join({folder!r}, name + ".jsonl"), "x").writelines(lines)
"""


def commands(view: RunView) -> str | None:
    """Shell commands, the second only where the first went well.

    None where a file does not say what the run was, or where they are too long to be shown. The
    rows are the run's own, as the model read them, so `template` is not given again; the extractor
    is, which a run may have derived from more rows than it used.
    """
    prompt, extractor = view.run.text("prompt"), view.run.text("extractor")
    splits = [split for split in ("train", "dev", "test") if view.num_examples(split)]
    if not (view.models and prompt and extractor and "train" in splits and "dev" in splits):
        return None
    settings = dict(view.run.object("config").values)
    settings |= {"extractor": extractor, "template": None}
    options = [_option(name, value) for name, value in changed_settings(settings).items()]
    pairs = zip(view.sources, view.models, strict=True)
    models = [name if source is None else source for source, name in pairs]
    run = view.folder.absolute()
    folder = re.sub(r"[^\w.-]+|^-", "_", run.name) + "-rows"
    script = _SPLIT_ROWS.format(examples=str(run / "examples.jsonl"), folder=folder)
    lines = [
        [*_program(view), "optimize", "--model", *models],
        [part for split in splits for part in (f"--{split}", f"{folder}/{split}.jsonl")],
        [f"--prompt={prompt}"],
        *([option] for option in options),
    ]
    search = " \\\n    ".join(" ".join(map(_quoted, line)) for line in lines)
    text = f"python3 -c {_quoted(script)} &&\n{search}\n"
    return text if len(text) <= _MOST_CHARACTERS else None


def resuming(view: RunView) -> str:
    """The command that goes on with a run where it ended, or the call that no command can make."""
    folder = str(view.folder.absolute())
    given = [*(["model"] if None in view.sources else []), *_functions(view)]
    if given:
        return f"greater_fast.resume({folder!r}, {', '.join(f'{name}=...' for name in given)})"
    command = [*_program(view), "resume", folder]
    minutes = view.run.object("config").number("minutes")
    if view.result and view.result.text("stopped") == OUT_OF_TIME and minutes:
        command.append(f"--minutes={2 * minutes:.12g}")  # in all: with as many it ends at once
    return " ".join(map(_quoted, command))


def _program(view: RunView) -> list[str]:
    """What starts the command: ranks that share a model are started together."""
    if not view.run.object("config").flag("tensor_parallel"):
        return ["greater-fast"]
    num_ranks = view.run.count("num_ranks") or 2
    return ["torchrun", f"--nproc-per-node={num_ranks}", "-m", "greater_fast"]


def not_repeated(view: RunView) -> list[str]:
    """What of a run no command can give again, in words: loaded models, and functions."""
    pairs = zip(view.sources, view.models, strict=True)
    loaded = [f"the loaded model {name}" for source, name in pairs if source is None]
    return [*loaded, *(f"the function {f} as {name}" for name, f in _functions(view).items())]


def _functions(view: RunView) -> dict[str, str]:
    """Functions of the user's own that a run was given."""
    named = {name: view.run.text(name) for name in _FUNCTIONS}
    if named["metric"] == view.run.object("config").text("metric"):
        named["metric"] = None  # one of a name: a setting
    return {name: value for name, value in named.items() if value}


def _quoted(text: str) -> str:
    """A text as one word of a shell; of what cannot be seen, each byte as its number."""
    if text.replace("\n", "").isprintable():
        return shlex.quote(text)
    seen = (c if c.isprintable() and c not in "'\\" else _escaped(c) for c in text)
    return f"$'{''.join(seen)}'"


def _escaped(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogatepass"))


def all_settings(view: RunView) -> dict[str, Any]:
    """Settings of a run in the order in which the program lists them, by name."""
    own = view.run.object("config").values
    known = [f.name for f in dataclasses.fields(Config) if f.name in own]
    return {name: own[name] for name in (*known, *sorted(own.keys() - set(known)))}


def _option(name: str, value: Any) -> str:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return f"--{flag}={value if isinstance(value, str) else json.dumps(value)}"
