"""Rows that were answered are written as they end, and taken where the same is asked."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from greater_fast import Example
from greater_fast.model.lm import LM
from greater_fast.runs.result import Report
from tests.cases import examples
from tests.front_ends.endpoint.asking import (
    CONFIG,
    OTHER,
    ROOT,
    Rows,
    fails,
    layouts_of,
    measured,
)
from tests.front_ends.served import Handler, Served, serving
from tests.tiny import PROMPT, boolean_rows

pytestmark = pytest.mark.front_ends


def test_rows_that_were_answered_are_taken(
    served: Served, tmp_path: Path, right_rows: Rows, here: Report
) -> None:
    records = tmp_path / "folder" / "rows.jsonl"
    served.fault = _fails_from(5, lm=served.lm, rows=right_rows)
    with pytest.raises(ValueError, match=r"^row 5 \("):
        measured(served, right_rows, records=records, num_concurrent=1)
    lines = records.read_text().splitlines()
    assert [json.loads(line)["row"] for line in lines] == [0, 1, 2, 3, 4]
    with records.open("a") as file:  # as a kill leaves it
        file.write(lines[0][: len(lines[0]) // 2])
    served.fault = lambda *_: False
    served.asked.clear()
    report = measured(served, right_rows, records=records)
    assert report.evaluation == here.evaluation
    (note,) = [note for note in report.notes if "were taken" in note]
    assert note.startswith("5 rows were taken from the records, where the same was asked of 'tiny'")
    assert note.endswith(
        "if other weights are served there by now, name another file (records, --records)"
    )
    assert len(served.completions()) == 2 * (len(right_rows) - 5)
    told = [json.loads(line) for line in records.read_text().splitlines()]
    assert sorted(line["row"] for line in told) == list(range(len(right_rows)))
    assert [line["predicted"] for line in sorted(told, key=lambda line: line["row"])] == [
        row.predicted for row in here.evaluation.rows
    ]
    served.asked.clear()
    assert measured(served, right_rows, records=records).evaluation == here.evaluation
    assert served.completions() == []


CHILD = """
import sys
from greater_fast.front_ends.endpoint import Server, evaluate_endpoint
url, rows, records, tokenizer, prompt, config = map(eval, sys.argv[1:])
server = Server(url, "tiny", num_concurrent=1)
evaluate_endpoint(
    server, rows, prompt=prompt, tokenizer=tokenizer, config=config, records=records
)
"""


def test_what_a_killed_process_has_written_is_taken(
    served: Served, model_folder: Path, tmp_path: Path, right_rows: Rows, here: Report
) -> None:
    records, go_on = tmp_path / "rows.jsonl", threading.Event()

    def hangs(handler: Handler, path: str, body: Any) -> bool:
        return len(served.completions()) > 5 and go_on.wait(60)

    served.fault = hangs
    given = (served.url, right_rows, str(records), str(model_folder), PROMPT, CONFIG)
    words = [sys.executable, "-c", CHILD, *map(repr, given)]
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL) as child:
        while child.poll() is None and len(served.completions()) < 6:
            time.sleep(0.02)
        while child.poll() is None and records.read_bytes().count(b"\n") < 2:
            time.sleep(0.02)
        child.kill()
    assert child.returncode == -signal.SIGKILL
    go_on.set()
    served.fault = lambda *_: False
    num_known = len(records.read_text().splitlines())
    assert num_known == 2
    served.asked.clear()
    report = measured(served, right_rows, records=records)
    assert report.evaluation == here.evaluation
    assert len(served.completions()) == 2 * (len(right_rows) - num_known)


def _fails_from(row: int, lm: LM, rows: Rows) -> Callable[[Handler, str, Any], bool]:
    layouts = layouts_of(lm, rows)
    ids = list(layouts.context_ids(row, layouts.prompt_ids))

    def fault(handler: Handler, path: str, body: Any) -> bool:
        if path != "/v1/completions" or body["prompt"][: len(ids)] != ids:
            return False
        if body["max_tokens"] == 1:
            return False
        handler.send(400, {"message": "no more"})
        return True

    return fault


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": OTHER},
        {"model": "another"},
        {"config": {**CONFIG, "max_new_tokens": 5}},
        {"config": {**CONFIG, "extractor": "So the answer is"}},
        {"config": {**CONFIG, "system_prompt": "Be brief."}},
        {"tokenizer": None},
    ],
)
def test_rows_of_which_another_thing_was_asked_are_not_taken(
    served: Served, tmp_path: Path, change: dict[str, Any]
) -> None:
    records = tmp_path / "rows.jsonl"
    measured(served, examples(2), records=records)
    served.asked.clear()
    report = measured(served, examples(2), records=records, **change)
    assert not [note for note in report.notes if "were taken" in note]
    assert len([path for path, body, _ in served.asked if "completions" in path]) >= 4
    assert len(records.read_text().splitlines()) == 4


def test_lines_that_another_process_adds_stay(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it may right after the file was read."""
    records, opened = tmp_path / "rows.jsonl", Path.open
    measured(served, examples(1), records=records)
    line = records.read_bytes()

    def adding(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        file = opened(path, mode, *args, **options)
        if path == records and mode == "ab+":
            read = file.read

            def reads() -> bytes:
                content = read()
                with opened(records, "ab") as other:
                    other.write(line)
                return content

            file.read = reads
        return file

    monkeypatch.setattr(Path, "open", adding)
    measured(served, examples(1), records=records)
    assert records.read_bytes() == line + line


def test_another_server_is_asked_anew(served: Served, lm: LM, tmp_path: Path) -> None:
    records = tmp_path / "rows.jsonl"
    measured(served, examples(2), records=records)
    with serving(lm) as other:
        measured(other, examples(2), records=records)
        assert len(other.completions()) == 4


def test_a_gold_answer_or_a_metric_may_change(served: Served, tmp_path: Path) -> None:
    """What the server wrote is the same; what it is worth is told anew."""
    records = tmp_path / "rows.jsonl"
    rows = [{"question": q, "answer": "True"} for q, _ in boolean_rows(3)]
    first = measured(served, rows, records=records)
    served.asked.clear()
    changed = [{**row, "answer": "False"} for row in rows]
    again = measured(served, changed, records=records, metric=lambda predicted, example: 0.25)
    assert served.completions() == []
    assert [row.predicted for row in again.evaluation.rows] == [
        row.predicted for row in first.evaluation.rows
    ]
    assert again.accuracy == 0.25
    assert any(note.startswith("answers are measured by: ") for note in again.notes)


@pytest.mark.parametrize(
    "content",
    [
        b"question,answer\n1,2\n",
        b'{"question": "a", "answer": "b"}\n',
        b'{"asked": "a", "reasoning": "", "answer": "", "cut_off": false}\n',
        b"text",
        b"{}\n",
    ],
)
def test_a_file_that_is_no_record_is_left_alone(
    served: Served, tmp_path: Path, content: bytes
) -> None:
    records = tmp_path / "rows.jsonl"
    records.write_bytes(content)
    with pytest.raises(ValueError, match="holds something else than rows of a served model"):
        measured(served, examples(1), records=records)
    assert records.read_bytes() == content
    assert served.asked == []


def test_records_that_cannot_be_written(served: Served, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"records: .* cannot be written \(Is a directory\)"):
        measured(served, examples(1), records=tmp_path)
    served.fault = fails(1000, 400)
    with pytest.raises(ValueError, match="row 0"):
        measured(served, examples(1), records=tmp_path / "new" / "rows.jsonl")
    assert list(tmp_path.iterdir()) == []  # what no row came to is taken back


def test_a_disk_that_takes_nothing_is_told_of(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = tmp_path / "rows.jsonl"
    opened = Path.open

    def full(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        if path == records and options.get("buffering") == 0:
            raise OSError(28, "No space left on device")
        return opened(path, mode, *args, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.warns(RuntimeWarning, match="could not be written: No space left"):
        report = measured(served, examples(2), records=records)
    assert report.evaluation.num_rows == 2
    assert any("could not be written" in note for note in report.notes)


@pytest.mark.parametrize("num_concurrent", [1, 4])
def test_a_metric_that_fails_ends_it(served: Served, tmp_path: Path, num_concurrent: int) -> None:
    """Once rows under way have ended; what the server has answered is not asked for again."""
    records, under_way = tmp_path / "rows.jsonl", threading.Barrier(num_concurrent)

    def metric(predicted: str, example: Example) -> float:
        raise KeyError("mine")

    def waits(handler: Handler, path: str, body: Any) -> bool:
        if path == "/v1/completions" and body["max_tokens"] == CONFIG["max_new_tokens"]:
            under_way.wait(30)
        return False

    served.fault = waits
    options = {"records": records, "num_concurrent": num_concurrent}
    with pytest.raises(KeyError, match="mine") as caught:
        measured(served, examples(4), metric=metric, **options)
    assert "raised by the metric" in caught.value.__notes__[0]
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    num_asked = len(served.completions()) // 2
    assert len(lines) == num_asked >= num_concurrent
    assert not any("correct" in line for line in lines)
    served.fault = lambda *_: False
    served.asked.clear()
    report = measured(served, examples(4), **options)
    assert len(served.completions()) == 2 * (4 - num_asked)
    assert report.evaluation == measured(served, examples(4)).evaluation
