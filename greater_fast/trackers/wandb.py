"""Weights & Biases: a run of the project `greater_fast`, kept in its folder under `wandb/`."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from greater_fast.trackers.tracker import Tracker

_OFFLINE = ("offline", "dryrun", "disabled")
_LAST_UPLOAD = 60.0  # seconds that a run waits for it at its end


class WandB(Tracker):
    """An `on_step` that logs to Weights & Biases, as its own variables say.

    `WANDB_MODE=offline` keeps everything in the folder, for `wandb sync` later; `WANDB_PROJECT`
    names another project. What the run prints, its code, and what wandb finds out of it are not
    recorded. A run that is resumed goes on as the same one there. Where the caller has begun a
    run (`wandb.init`, a sweep), that one is logged to, in its own count of steps, and left open.
    """

    name, package = "wandb", "wandb"
    _is_own = True
    _run: Any

    def open(self, run_dir: Path, settings: Mapping[str, Any]) -> None:
        """Begin a run, or go on with the one that the folder names.

        Raises:
            ValueError: there is no key; `wandb.init` would ask for one, and wait.
        """
        import wandb

        self._is_own = wandb.run is None
        if not self._is_own:
            self._run = wandb.run
            self._run.config.update(dict(settings), allow_val_change=True)
            return
        own = wandb.setup().settings
        needs_key = own.mode not in _OFFLINE
        is_silent, own.silent = own.silent, True
        try:
            has_key = not needs_key or wandb.login(prompt=False, verify=False)
        finally:
            own.silent = is_silent
        if not has_key:
            raise ValueError(
                "no key: set WANDB_API_KEY, call `wandb login`, or set WANDB_MODE=offline"
            )
        quiet = wandb.Settings(
            console="off",
            disable_git=True,
            finish_timeout=_LAST_UPLOAD,
            save_code=False,
            silent=True,
            x_disable_meta=True,
        )
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or "greater_fast",
            name=run_dir.name,
            dir=str(run_dir),
            id=_own_id(run_dir),
            resume="allow",
            config=dict(settings),
            settings=quiet,
        )

    def show(self, number: int, figures: Mapping[str, float], prompt: str) -> None:
        """A row of history for each step."""
        row = {**figures, "prompt": prompt}
        if self._is_own:
            self._run.log(row, step=number)
        else:
            self._run.log({**row, "step": number})

    def close(self, outcome: Mapping[str, float | str] | None) -> None:
        """The outcome as the run's summary; without one a run of ours counts as failed."""
        self._run.summary.update({f"result/{tag}": value for tag, value in (outcome or {}).items()})
        if self._is_own:
            self._run.finish(exit_code=0 if outcome else 1)


def _own_id(run_dir: Path) -> str:
    """The run's name on the server: drawn once, and kept in its folder."""
    file = run_dir / "wandb.id"
    try:
        return file.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        drawn = secrets.token_hex(8)
        file.write_text(f"{drawn}\n", encoding="utf-8")
        return drawn
