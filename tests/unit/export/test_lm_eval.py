"""A task of lm-evaluation-harness, as whoever reads the file has it; that harness is not needed."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import load_dataset
from jinja2 import Environment, StrictUndefined
from transformers import AutoTokenizer

from greater_fast import optimize
from greater_fast.examples.extractor import make_extractor
from greater_fast.export.lm_eval import answer_read, export_task, write_task
from greater_fast.export.rendering import rendering_of
from greater_fast.runs.directory import read_run
from tests.tiny import boolean_rows
from tests.unit.export.test_export import run

pytestmark = pytest.mark.filterwarnings("ignore:all .* training rows are:RuntimeWarning")
__all__ = ["run"]
NEW = [{"question": question, "answer": answer} for question, answer in boolean_rows(20)[14:]]
ODD = {"question": '  Now\n\n{{ question }} "so" 思考? \\n{% raw %} ', "answer": "True"}


@pytest.fixture
def plain(
    tmp_path_factory: pytest.TempPathFactory, model_folder: Path, rows: Any, settings: Any
) -> Path:
    """The folder of a run whose prompt could be taken for a template."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    config = {**settings, "steps": 0, "extractor": "The answer is"}
    prompt = 'Say {{ 7 * 7 }}, "so" \\x41 {# step by step.'
    optimize(str(model_folder), rows, prompt=prompt, config=config, run_dir=folder, progress=False)
    return folder


def task_of(file: Path) -> dict[str, Any]:
    return dict(yaml.load(file.read_text(encoding="utf-8"), yaml.CSafeLoader))


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.with_suffix(".jsonl").read_text().splitlines()]


def filled(template: str, row: dict[str, Any]) -> str:
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    return str(environment.from_string(template).render(**row))


def test_messages_are_those_of_the_run(run: Any, tmp_path: Path) -> None:
    """In every kind of template; a placeholder in a question is text."""
    task = task_of(file := export_task(run.folder, [*NEW, ODD], tmp_path / "task.yaml"))
    rendering = rendering_of(read_run(run.folder))
    tokenizer = AutoTokenizer.from_pretrained(run.model)
    template = (tokenizer.chat_template or "").replace(
        "strftime_now('%d %B %Y')",
        "'29 February 2024'",  # the day of the run
    )
    assert len(rows_of(file)) == len(NEW) + 1
    for row in rows_of(file):
        text = filled(task["doc_to_text"], row)
        if template:
            system = filled(task.get("description", ""), row)
            turns = [{"role": "system", "content": system}] * bool(system)
            text = tokenizer.apply_chat_template(
                [*turns, {"role": "user", "content": text}],
                chat_template=template,
                tokenize=False,
                add_generation_prompt=True,
                **rendering.config.chat_template_kwargs,
            )
        assert text == rendering.before + row["question"].removeprefix("Q: ") + rendering.after


def test_tasks_of_two_runs_have_names_of_their_own(plain: Path, tmp_path: Path) -> None:
    """Under one name the harness keeps one of them, and says nothing."""
    names = []
    for name in ("a/run", "b/run"):
        folder = tmp_path / name
        shutil.copytree(plain, folder)
        for part in ("some", "all"):
            (folder / part).mkdir()
            rows = NEW[:2] if part == "some" else NEW
            task = task_of(export_task(folder, rows, folder / part / "lm_eval.yaml"))
            names.append(task["task"])
    assert len(set(names)) == 4
    assert all(re.fullmatch(r"greater_fast_run_[0-9a-f]{6}", name) for name in names)


def test_the_fields_are_those_of_the_run(plain: Path, tmp_path: Path) -> None:
    file = export_task(plain, NEW, tmp_path / "a [task] of*.yaml")
    task = task_of(file)
    assert task["task"] == "greater_fast_a__task__of_"
    (path,) = task["dataset_kwargs"]["data_files"].values()
    found = load_dataset("json", data_files={"test": path}, cache_dir=str(tmp_path))["test"]
    assert (
        [*found]
        == rows_of(file)
        == [{"question": f"Q: {r['question']}", "answers": [r["answer"].lower()]} for r in NEW]
    )
    prompt = read_run(plain)["result"]["prompt"]
    assert "{{ 7 * 7 }}" in prompt
    assert filled(task["doc_to_text"], {"question": "Q: {{ 1 }}?"}) == f"{{{{ 1 }}}}? {prompt}"
    rendering = rendering_of(read_run(plain))
    written = task["generation_kwargs"].pop("max_gen_toks")
    assert written == 6 + len(rendering.extractor_ids) + rendering.max_answer_tokens
    assert task["generation_kwargs"] == {
        "until": ["<|eot_id|>"],
        "do_sample": False,
        "temperature": 0,
    }
    assert (task["num_fewshot"], task["doc_to_target"]) == (0, "answers")
    worth = f"of the prompt: {read_run(plain)['result']['summary']}"
    assert task["metadata"]["notes"] == [worth]
    assert task["metadata"]["extractor"] == "The answer is {answer}"
    assert file.read_text().startswith("# A task of lm-evaluation-harness: lm_eval --tasks ")


def test_gold_answers_stand_as_they_are_compared(plain: Path, tmp_path: Path) -> None:
    """All of a row's; those that are dates stay texts to who reads the file."""
    golds = [["2024-01-02", "2 Jan"], ["2024-01-03"]]
    rows = [{"question": f"When, {gold}?", "answer": gold} for gold in golds]
    file = export_task(plain, rows, tmp_path / "dates.yaml")
    path = task_of(file)["dataset_kwargs"]["data_files"]["test"]
    found = load_dataset("json", data_files={"test": path}, cache_dir=str(tmp_path))["test"]
    assert found["answers"][:] == [
        ["2024-01-02", "2 jan", " 2024-01-02"],
        ["2024-01-03", " 2024-01-03"],
    ]
    rows = [{"question": f"How much, {n}?", "answer": a} for n, a in enumerate(["$1,000", "(B)"])]
    file = export_task(plain, rows, tmp_path / "numbers.yaml")
    assert [row["answers"] for row in rows_of(file)] == [["1000"], ["b"]]


def test_questions_that_are_dates_are_asked_as_they_are(plain: Path, tmp_path: Path) -> None:
    questions = ["2024-01-05", "2024-01-06"]
    rows = [{"question": question, "answer": "Friday"} for question in questions]
    task = task_of(export_task(plain, rows, tmp_path / "days.yaml"))
    path = task["dataset_kwargs"]["data_files"]["test"]
    found = load_dataset("json", data_files={"test": path}, cache_dir=str(tmp_path))["test"]
    prompt = read_run(plain)["result"]["prompt"]
    asked = [filled(task["doc_to_text"], row) for row in found]
    assert asked == [f"{question} {prompt}" for question in questions]


def test_what_a_reader_should_know_is_told(plain: Path, rows: Any, tmp_path: Path) -> None:
    seen = [{"question": e["question"], "answer": "True"} for e in read_run(plain)["examples"]]
    special = [{"question": "Is <|eot_id|> it?", "answer": "True"}]
    settings = json.loads((plain / "run.json").read_text())
    (plain / "run.json").write_text(json.dumps({**settings, "metric": "close"}))
    file, notes = write_task(plain, [*seen, *NEW, *special], tmp_path / "task.yaml")
    assert len(rows_of(file)) == len(NEW) + 1
    assert (
        notes
        == task_of(file)["metadata"]["notes"]
        == [
            f"of the prompt: {read_run(plain)['result']['summary']}",
            f"{len(seen)} rows are left out: the run has searched or chosen on them",
            "the run measured answers by close; here they are compared with gold ones",
            f"1 of {len(NEW) + 1} rows name special tokens, which evaluate reads as text: a "
            "harness reads the tokens",
        ]
    )


def test_arguments_of_a_template_are_told(
    tmp_path: Path, own_lm: Any, rows: Any, settings: Any
) -> None:
    own_lm.tokenizer.chat_template += "{{ mood or '' }}"
    own_lm.model.save_pretrained(tmp_path / "model")
    own_lm.tokenizer.save_pretrained(tmp_path / "model")
    config = {**settings, "steps": 0, "chat_template_kwargs": {"mood": "calm"}}
    run_dir = tmp_path / "run"
    optimize(str(tmp_path / "model"), rows, config=config, run_dir=run_dir, progress=False)
    _, (_, note) = write_task(run_dir, NEW, tmp_path / "task.yaml")
    assert note.startswith('the chat template was given {"mood": "calm"}')


def test_what_cannot_be_exported(plain: Path, tmp_path: Path) -> None:
    def refused(match: str, data: Any = NEW, name: str = "new.yaml") -> None:
        before = sorted(tmp_path.iterdir())
        with pytest.raises(ValueError, match=match):
            export_task(plain, data, tmp_path / name)
        assert sorted(tmp_path.iterdir()) == before

    refused(r"path: got 'task.json', expected a name that ends in \.yaml", name="task.json")
    refused(r"path: .*/no/new.yaml cannot be written: No such file", name="no/new.yaml")
    (tmp_path / "old.jsonl").touch()
    refused(r"path: .*/old.jsonl exists already: name another file", name="old.yaml")
    refused(
        "the run has seen all",
        [{"question": read_run(plain)["examples"][0]["question"], "answer": "1"}],
    )
    refused(
        "gold answer 'A. Paris' reads as a choice", [{"question": "Where?", "answer": "A. Paris"}]
    )
    refused(
        r"1 gold answers \('a\\nb'\) would never be right", [{"question": "Two?", "answer": "a\nb"}]
    )


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is", "18"),
        ("The answer is $", "1.5"),
        ("So it is {answer}.", "1.5 and 2"),
        ("It is <answer> {answer} </answer>", "a </b> . c"),
        ('It is "', "it's so."),
        ("(Answer)\n\n[[ {answer} ]]", "so"),
    ],
)
def test_the_last_answer_is_read(text: str, answer: str) -> None:
    """Whatever stands before the extractor, and behind the answer, where something closes it."""
    extractor = make_extractor(text)
    asked = extractor.text + extractor.answer_in_place(answer)
    for before in ("", "I think.\n", f"{extractor.text} 7 or so ", f"{asked}\n"):
        assert answer_read(extractor, before + asked) == answer
        if extractor.closing:
            assert answer_read(extractor, f"{before}{asked} And more.\n\nYes.") == answer
    assert answer_read(extractor, extractor.text) == ""
    assert answer_read(extractor, "18") is None
