"""What the page asks for, as settings and as the arguments of the command that runs it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from greater_fast.config import Config
from greater_fast.wording import quoted

DATA_ENDINGS = (".jsonl", ".json", ".csv", ".parquet")
# Settings that the page asks for, by their names in `Config`.
SETTINGS = ("steps", "num_train", "num_dev", "max_new_tokens", "minutes", "metric", "seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A filled form. What was left empty is None, or an empty text, and has its default.

    `model` is a name, folder or GGUF file; `data` and `test` are data files.
    """

    model: str
    data: str | None
    prompt: str
    test: str | None = None
    question_column: str = ""
    answer_column: str = ""
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def columns(self) -> dict[str, str] | None:
        """The columns that are named, as `load_examples` takes them; None where none is."""
        named = {"question": self.question_column.strip(), "answer": self.answer_column.strip()}
        return {role: column for role, column in named.items() if column} or None

    @property
    def config(self) -> Config:
        """The settings.

        Raises:
            ValueError: one has the wrong type, or lies out of range.
        """
        given = {name: value for name, value in self.settings.items() if value not in (None, "")}
        return Config.from_mapping(given)

    def check(self) -> None:
        """Raise ValueError where something is missing, or cannot be said on a command line."""
        if not self.model.strip():
            raise ValueError("no model: choose one, or type its name or folder")
        if self.data is None:
            raise ValueError("no rows: drop a data file")
        for column in (self.columns or {}).values():
            if "," in column or "=" in column:
                raise ValueError(
                    f"a column is named {quoted(column)}: rename it, without comma and '='"
                )
        if not self.prompt.strip():
            raise ValueError("no prompt: write the one to start from")
        if any("\0" in text for text in (self.model, self.prompt, *(self.columns or {}).values())):
            raise ValueError("a text holds the character NUL: take it out")
        _ = self.config

    def arguments(self, run_dir: Path) -> list[str]:
        """Arguments of `greater-fast` for a run in `run_dir`; values are never taken for options.

        Raises:
            ValueError: as `check`.
        """
        self.check()
        given = {"model": self.model.strip(), "train": self.data, "test": self.test}
        columns = ",".join(f"{role}={name}" for role, name in (self.columns or {}).items())
        given |= {"columns": columns or None, "prompt": self.prompt, "run-dir": str(run_dir)}
        given |= {
            name.replace("_", "-"): str(getattr(self.config, name))
            for name in self.settings
            if getattr(self.config, name) is not None
        }
        return ["optimize", *(f"--{name}={text}" for name, text in given.items() if text)]
