"""The commands that repeat a run from its own folder: its rows as files, then its settings."""

from __future__ import annotations

import dataclasses
import json
import shlex
from typing import Any

from greater_fast.config import Config
from greater_fast.report.run_view import RunView

# A run keeps a row's first gold answer apart from the others; a file has them in one list.
_SPLIT_ROWS = """\
import json
sets = {{}}
for line in open({examples}, encoding="utf-8"):
    row = json.loads(line)
    row["answer"] = [row["answer"], *row.pop("other_answers", [])]
    sets.setdefault(row.pop("split"), []).append(json.dumps(row) + "\\n")
for name, lines in sets.items():
    open(name + ".jsonl", "w").writelines(lines)
"""


def commands(view: RunView) -> str | None:
    """Shell commands, one a line; None where a file does not say what the run was.

    The rows are the run's own, as the model read them, so `template` is not given again; the
    extractor is, which a run may have derived from more rows than it used.
    """
    prompt, extractor = view.run.text("prompt"), view.run.text("extractor")
    splits = [split for split in ("train", "dev", "test") if view.num_examples(split)]
    if not (view.models and prompt and extractor and "train" in splits and "dev" in splits):
        return None
    settings = dict(view.run.object("config").values)
    settings |= {"extractor": extractor, "template": None}
    options = [_option(name, value) for name, value in _changed(settings)]
    script = _SPLIT_ROWS.format(examples=json.dumps(f"{view.folder}/examples.jsonl"))
    lines = [
        ["greater-fast", "optimize", "--model", *view.models],
        [part for split in splits for part in (f"--{split}", f"{split}.jsonl")],
        [f"--prompt={prompt}"],
        *([option] for option in options),
    ]
    search = " \\\n    ".join(map(shlex.join, lines))
    return f"python3 -c {shlex.quote(script)}\n{search}\n"


def _changed(settings: dict[str, Any]) -> list[tuple[str, Any]]:
    """Settings that are not as by default."""
    defaults = Config().to_dict()
    return [(n, v) for n, v in settings.items() if n in defaults and v != defaults[n]]


def changed_settings(view: RunView) -> dict[str, Any]:
    """Settings of a run that are not as by default, by name."""
    return dict(_changed(dict(view.run.object("config").values)))


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
