"""TensorBoard: event files in the run's folder, under `tensorboard/`."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from greater_fast.trackers.tracker import Tracker


def _num_steps(run_dir: Path) -> int:
    """Steps of a run that goes on."""
    try:
        return (run_dir / "steps.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


class TensorBoard(Tracker):
    """An `on_step` that writes what `tensorboard --logdir runs` shows.

    Events are written and flushed step by step, without the writer's thread: what a disk does not
    take is known at once. A run that is resumed goes on in a file of its own beside the first.
    """

    name, package = "tensorboard", "tensorboard"

    def open(self, run_dir: Path, settings: Mapping[str, Any]) -> None:
        """Begin a new event file; the settings are its first text."""
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder = run_dir / "tensorboard"
        folder.mkdir(exist_ok=True)
        now = time.time()
        # Readers find files by this beginning of their names, and take them in their order.
        path = folder / f"events.out.tfevents.{now:017.6f}.greater_fast"
        self._records, self._last = RecordWriter(path.open("xb")), _num_steps(run_dir)
        self._write(wall_time=now, file_version="brain.Event:2")
        self._add_text("settings", json.dumps(settings, ensure_ascii=False, indent=2), 0)
        self._records.flush()

    def show(self, number: int, figures: Mapping[str, float], prompt: str) -> None:
        """A scalar for each figure, and the prompt where the step changed it."""
        for tag, value in figures.items():
            self._add_scalar(tag, value, number)
        if figures["changed"]:
            self._add_text("prompt", prompt, number)
        self._last = number
        self._records.flush()

    def close(self, outcome: Mapping[str, float | str] | None) -> None:
        """The outcome at the last step: figures as scalars, texts as text."""
        for tag, value in (outcome or {}).items():
            if isinstance(value, str):
                self._add_text(f"result/{tag}", value, self._last)
            else:
                self._add_scalar(f"result/{tag}", value, self._last)
        self._records.flush()
        self._records.close()

    def _add_scalar(self, tag: str, value: float, number: int) -> None:
        from torch.utils.tensorboard.summary import scalar

        self._write(step=number, wall_time=time.time(), summary=scalar(tag, value))

    def _add_text(self, tag: str, text: str, number: int) -> None:
        """A text that the page shows as it is: it is read as Markdown, where this is code."""
        from torch.utils.tensorboard.summary import text as text_summary

        code = "".join(f"    {line}\n" for line in text.split("\n"))
        self._write(step=number, wall_time=time.time(), summary=text_summary(tag, code))

    def _write(self, **event: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._records.write(Event(**event).SerializeToString())
