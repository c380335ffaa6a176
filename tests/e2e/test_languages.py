"""Searches that start from a prompt in another language than English, to their end."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from greater_fast import evaluate, optimize
from greater_fast.cli.main import main
from greater_fast.model.lm import LM, load_lm
from greater_fast.runs.directory import read_run
from greater_fast.search.state import LoopState
from tests.languages import PROMPTS, language_tokenizer
from tests.tiny import tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:all .* training rows are:RuntimeWarning")
SCRIPTS = {
    "german": {"LATIN"},
    "russian": {"CYRILLIC"},
    "chinese": {"CJK"},
    "japanese": {"CJK", "HIRAGANA", "KATAKANA"},
}


def language_lm(kind: str = "llama3") -> LM:
    tokenizer = language_tokenizer(kind, *PROMPTS)
    return load_lm((tiny_model("llama", len(tokenizer)), tokenizer))


@pytest.mark.parametrize("candidates", ["lm", "vocabulary"])
@pytest.mark.parametrize(
    ("language", "kind"), [*((name, "llama3") for name in PROMPTS), ("chinese", "sentencepiece")]
)
def test_a_prompt_keeps_its_script(
    language: str,
    kind: str,
    candidates: str,
    rows: list[dict[str, str]],
    settings: dict[str, Any],
    tmp_path: Path,
) -> None:
    """Every step has candidates, and what it accepts is written as the prompt was."""
    lm, prompt = language_lm(kind), PROMPTS[language]
    given = {**settings, "steps": 6, "accept": "best", "candidates": candidates}
    result = optimize(lm, rows, prompt=prompt, config=given, run_dir=tmp_path / "run")
    assert len(result.steps) == 6
    for step in result.steps:
        assert step.trials
        letters = {c for c in step.prompt if unicodedata.category(c)[0] == "L"}
        assert {unicodedata.name(c).split()[0].split("-")[0] for c in letters} <= SCRIPTS[language]
        assert "  " not in step.prompt
    assert result.steps[-1].prompt != prompt
    report = evaluate(
        lm, rows, prompt=result.steps[-1].prompt, config={**settings, "extractor": result.extractor}
    )
    assert report.evaluation.prompt == result.steps[-1].prompt


def test_places_inside_characters_cost_no_step(
    rows: list[dict[str, str]], settings: dict[str, Any], tmp_path: Path
) -> None:
    """Emoji, and letters that the tokenizer has in parts: none of their tokens is tried."""
    lm = language_lm()
    result = optimize(
        lm,
        rows,
        prompt="Think 😀🙂 of Жґ.",
        config={**settings, "steps": 40, "top_k": 4},
        run_dir=tmp_path / "run",
    )
    assert result.steps
    for step in result.steps:
        assert "\ufffd" not in lm.vocabulary.text([step.prompt_ids[step.index]])
        assert "😀🙂" in step.prompt
        assert "ґ" in step.prompt


def test_a_prompt_of_such_places_alone_ends_at_once(
    rows: list[dict[str, str]], settings: dict[str, Any], tmp_path: Path
) -> None:
    config = {**settings, "max_prompt_tokens": 8, "prompt_placement": "before"}
    result = optimize(language_lm(), rows, prompt="😀🙂", config=config, run_dir=tmp_path / "run")
    assert (result.steps, result.prompt) == ((), "😀🙂")
    assert result.stopped == "a whole sweep without a change"
    state = LoopState.from_dict(json.loads((tmp_path / "run" / "state.json").read_text()))
    assert state.step == 0


DATED = "{{ 'Today is ' + strftime_now('%d %b %Y') + '. ' }}"


def test_a_run_tells_and_keeps_the_day_of_its_template(
    rows: list[dict[str, str]], settings: dict[str, Any], tmp_path: Path, lm: LM
) -> None:
    folder, data = tmp_path / "model", tmp_path / "rows.jsonl"
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    template = folder / "chat_template.jinja"
    template.write_text(DATED + template.read_text())
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {**settings, "template_date": "2024-02-29", "steps": 1}
    optimize(str(folder), data, config=config, run_dir=tmp_path / "run")
    run = read_run(tmp_path / "run")["run"]
    assert run["rendered_example"].startswith("Today is 29 Feb 2024. <|begin_of_text|>")
    assert run["prompt"] in run["rendered_example"]
    assert run["config"]["template_date"] == "2024-02-29"


def test_evaluate_takes_the_day_of_a_run(
    rows: list[dict[str, str]],
    settings: dict[str, Any],
    tmp_path: Path,
    lm: LM,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, data = tmp_path / "run", tmp_path / "test.jsonl"
    folder = tmp_path / "model"
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    optimize(
        str(folder),
        rows[:8],
        config={**settings, "template_date": "2024-02-29", "steps": 0},
        run_dir=run,
    )
    data.write_text("".join(json.dumps(row) + "\n" for row in rows[8:]))
    seen: list[str | None] = []

    def evaluated(*_: Any, config: Any, **__: Any) -> Any:
        seen.append(config.template_date)
        raise ValueError("enough")

    monkeypatch.setattr("greater_fast.cli.commands.evaluate", evaluated)
    assert main(["evaluate", "--run", str(run), "--data", str(data)]) == 1
    assert seen == ["2024-02-29"]
