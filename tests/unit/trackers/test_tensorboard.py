"""Event files, read back by TensorBoard's own reader."""

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

from greater_fast.runs.directory import read_run
from greater_fast.trackers.tensorboard import TensorBoard

pytestmark = [
    pytest.mark.filterwarnings("ignore:all .* training rows are:RuntimeWarning"),
    # TensorBoard's reader and server import what warns about itself
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:pkg_resources:UserWarning"),
]

SCRIPT = "</pre><script>alert(1)</script> [x](javascript:alert(1)) ![](http://e.x/p.png)\n# h"


def events(run: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run / "tensorboard"), {"tensors": 0, "scalars": 0})
    found.Reload()
    return found


def texts(found: Any, tag: str) -> list[str]:
    tensors = found.Tensors(f"{tag}/text_summary")
    return [tensor.tensor_proto.string_val[0].decode() for tensor in tensors]


def test_a_run_is_read_back(
    command: Any, model_folder: Path, data: Path, limits: list[str], tmp_path: Path
) -> None:
    arguments = ("--model", model_folder, "--train", data, "--run-dir", tmp_path, "--json")
    done = command("optimize", *arguments, *limits, "--log", "tensorboard")
    assert done.status == 0
    found, run = events(tmp_path), read_run(tmp_path)
    objectives = [(event.step, event.value) for event in found.Scalars("objective")]
    assert objectives == [
        (step["step"] + 1, pytest.approx(step["objective"])) for step in run["steps"]
    ]
    (best,) = found.Scalars("result/dev_accuracy/best")
    assert best.value == pytest.approx(done.values["dev_accuracy"])
    assert json.loads(texts(found, "settings")[0])["max_new_tokens"] == 6
    assert texts(found, "result/summary") == [f"    {done.values['summary']}\n"]


def test_the_outcome_of_a_run_that_took_no_step_more_is_at_its_last(tmp_path: Path) -> None:
    (tmp_path / "steps.jsonl").write_text("{}\n" * 7)
    tracker = TensorBoard()
    tracker.begin(tmp_path)
    tracker.close({"accuracy": 0.5})
    assert [event.step for event in events(tmp_path).Scalars("result/accuracy")] == [7]


def test_a_run_that_goes_on_adds_a_file(tmp_path: Path) -> None:
    for number in (1, 2):
        tracker = TensorBoard()
        tracker.begin(tmp_path)
        tracker.show(number, {"objective": float(number), "changed": 0.0}, "p")
        tracker.end(None)
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    assert [event.step for event in events(tmp_path).Scalars("objective")] == [1, 2]


def test_a_prompt_is_no_markup_on_the_page(tmp_path: Path) -> None:
    """By the very function with which TensorBoard's page makes HTML of a text."""
    from tensorboard import plugin_util

    tracker = TensorBoard()
    tracker.begin(tmp_path)
    tracker.show(1, {"changed": 1.0}, SCRIPT)
    tracker.end(None)
    (text,) = texts(events(tmp_path), "prompt")
    page = plugin_util.markdown_to_safe_html(text)
    assert re.sub("<[^>]*>", "", page) != ""
    assert set(re.findall(r"<\s*/?(\w+)", page)) == {"pre", "code"}
    inner = re.fullmatch(r"<pre><code>(.*)\n</code></pre>", page, re.DOTALL)
    assert inner
    assert html.unescape(inner[1]) == SCRIPT


def test_a_full_disk_is_known_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = TensorBoard()
    tracker.begin(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tracker._records, "write", full)
        with pytest.raises(OSError, match="No space"):
            tracker.show(1, {"objective": 1.0, "changed": 0.0}, "p")
    tracker.close(None)
