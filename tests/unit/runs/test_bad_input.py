"""Bad input is refused with a clear message, before any generation and with nothing written."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import normalizers

from greater_fast import evaluate, optimize
from greater_fast.config import Config
from greater_fast.model.lm import LM
from greater_fast.rollouts.batch import RolloutEngine
from tests.tiny import PROMPT, boolean_rows, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:all .* training rows are:RuntimeWarning")
Refused = Callable[..., str]
LONG_ROW = {"question": "True and " * 600 + "True is", "answer": "True"}


class NoModel:
    """Stands for a model that must not be touched: `load_lm` would refuse it by its name."""


@pytest.fixture
def refused(tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Refused:
    """Call `optimize`, and give the message of its error, which must come before all generation."""

    def generate(self: RolloutEngine, requests: object, on_finished: object = None) -> None:
        raise AssertionError("generated before the input was checked")

    monkeypatch.setattr(RolloutEngine, "run", generate)

    def call(train: Any, model: Any = None, prompt: str = PROMPT, **given: Any) -> str:
        sets = {name: given.pop(name) for name in ("dev", "test") if name in given}
        with pytest.raises(ValueError) as caught:  # noqa: PT011 (the caller reads the message)
            optimize(
                NoModel() if model is None else model,
                train,
                prompt=prompt,
                config={**settings, **given},
                run_dir=tmp_path / "run",
                **sets,
            )
        assert not (tmp_path / "run").exists()
        return str(caught.value)

    return call


def test_no_rows(refused: Refused, rows: list[Any], tmp_path: Path) -> None:
    assert "got no rows; expected at least one" in refused([])
    assert "got no rows" in refused(rows, dev=[])
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    message = refused(str(empty))
    assert "empty.jsonl: got an empty file" in message
    assert "no such file" in refused("absent.jsonl")
    with pytest.raises(ValueError, match="got no rows"):
        evaluate(NoModel(), [], prompt=PROMPT)


def test_one_row(refused: Refused, rows: list[Any]) -> None:
    message = refused(rows[:1])
    assert "train: got 1 different questions; expected at least 3" in message
    assert "add training rows" in message
    assert "expected at least 2" in refused(rows[:1], dev=rows[1:])
    assert "got 1 different questions" in refused(rows[:1] * 5)  # the same row five times


@pytest.mark.parametrize(
    "columns", [("Frage", "Antwort"), ("question", "anwser"), ("answer", "label")]
)
def test_missing_columns_are_told_with_those_found(
    refused: Refused, columns: tuple[str, str]
) -> None:
    message = refused([dict(zip(columns, row, strict=True)) for row in boolean_rows(6)])
    assert f"got the columns {columns[0]}, {columns[1]}" in message
    assert "expected question/answer or goal/final_target or input/target" in message
    assert "columns={'question': …, 'answer': …}" in message


def test_empty_questions_and_answers(refused: Refused, rows: list[dict[str, str]]) -> None:
    message = refused([*rows, {"question": "True is", "answer": "  "}])
    assert "1 empty answers (column 'answer'), in rows 13" in message
    message = refused([{"question": "", "answer": "True"}, *rows])
    assert "1 empty questions (column 'question'), in rows 1 " in message
    with pytest.raises(ValueError, match="1 empty answers"):
        evaluate(NoModel(), [*rows, {"question": "True is", "answer": ""}], prompt=PROMPT)


@pytest.mark.parametrize("prompt", ["", "  \n ", None, 7])
def test_empty_prompt(refused: Refused, rows: list[Any], prompt: Any) -> None:
    assert f"prompt: got {prompt!r}, expected a text of at least 2 tokens" in refused(
        rows, prompt=prompt
    )
    with pytest.raises(ValueError, match="expected a text of at least 2 tokens"):
        evaluate(NoModel(), rows, prompt=PROMPT, against=prompt or " ")


def test_prompt_of_one_token_or_too_many(refused: Refused, rows: list[Any], lm: LM) -> None:
    message = refused(rows, lm, prompt="the")
    assert "the prompt 'the' has 1 tokens, expected 2 to 40 (max_prompt_tokens)" in message
    assert "has 17 tokens, expected 2 to 16" in refused(rows, lm, max_prompt_tokens=16)
    with pytest.raises(ValueError, match="has 1 tokens"):
        evaluate(lm, rows, prompt="the", config={"max_new_tokens": 4, "max_prompt_tokens": 40})


def test_an_evaluation_refuses_before_weights_are_read(
    model_folder: Path, rows: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any) -> Any:
        raise AssertionError("the weights are read")

    monkeypatch.setattr("greater_fast.runs.models.ready.load_lm", load)
    for prompt, config, message in (
        ("word " * 400, {}, "tokens"),
        (PROMPT, {"metric": "numeric"}, "numeric"),
        (PROMPT, {"max_new_tokens": 100_000}, "max_new_tokens"),
    ):
        settings = {"max_new_tokens": 4, "max_prompt_tokens": 40, **config}
        with pytest.raises(ValueError, match=message):
            evaluate(str(model_folder), rows, prompt=prompt, config=settings)


def test_empty_extractor(refused: Refused, rows: list[Any]) -> None:
    assert "extractor: got '  ', expected a text that is not empty" in refused(rows, extractor="  ")


def test_extractor_that_merges_with_the_answer(refused: Refused, rows: list[Any]) -> None:
    tokenizer = tiny_tokenizer("llama3")
    tokenizer.add_tokens(["$True", "$False"])
    model = tiny_model("llama", len(tokenizer))
    message = refused(rows, (model, tokenizer), extractor="The answer is $")
    assert "merges the end of the extractor 'The answer is $' with the answer" in message
    assert "end the extractor with a word, or with a space behind its mark" in message


def test_extractor_that_leaves_no_answer_token(refused: Refused) -> None:
    tokenizer = tiny_tokenizer("llama3")
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(" \u2603", "")
    rows = [{"question": question, "answer": "\u2603"} for question, _ in boolean_rows(6)]
    model = (tiny_model("llama", len(tokenizer)), tokenizer)
    message = refused(rows, model, extractor="The answer is")
    assert "the extractor 'The answer is' leaves no token for the answer '\u2603'" in message


def test_question_that_does_not_fit_the_context(refused: Refused, rows: list[Any], lm: LM) -> None:
    message = refused(rows[:4], lm, dev=[*rows[4:7], LONG_ROW, rows[8]], num_dev=5)
    assert "1 of 5 rows do not fit the context of 512 tokens" in message
    assert "with 40 prompt and 6 reasoning tokens: row 3 (" in message
    assert message.startswith("dev rows: ")
    assert "on_long='drop'" in message
    with pytest.raises(ValueError, match=r"row 1 \(.*\), row 3 \(.*\); the longest needs"):
        evaluate(
            lm,
            [rows[0], LONG_ROW, rows[1], LONG_ROW],
            prompt=PROMPT,
            config={"max_new_tokens": 4, "max_prompt_tokens": 40},
        )


def test_no_row_that_fits_and_one_that_fits(refused: Refused, rows: list[Any], lm: LM) -> None:
    message = refused(rows, lm, max_new_tokens=500, on_long="drop")
    assert "4 of 4 rows do not fit" in message
    assert "dropping them leaves none" in message
    message = refused([LONG_ROW, rows[0]], lm, dev=rows[4:8], on_long="drop")
    assert "1 training row is left, expected 2 at least" in message


def test_long_rows_are_dropped_on_request(
    lm: LM, rows: list[Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    result = optimize(
        lm,
        [*rows[:4], LONG_ROW],
        rows[4:8],
        prompt=PROMPT,
        config={**settings, "num_train": 5, "steps": 1, "on_long": "drop"},
        run_dir=tmp_path / "run",
    )
    (note,) = [note for note in result.notes if "dropped" in note]
    assert note.startswith("train: dropped: 1 of 5 rows do not fit the context of 512 tokens")
    report = evaluate(
        lm,
        [LONG_ROW, *rows[:2]],
        prompt=PROMPT,
        config={"max_new_tokens": 4, "max_prompt_tokens": 40, "on_long": "drop"},
    )
    assert report.evaluation.num_rows == 2
    assert "row 0 (" in report.notes[0]


def test_identical_train_and_dev(refused: Refused, rows: list[Any]) -> None:
    message = refused(rows, dev=rows[::-1])
    assert "train and dev are identical" in message
    assert "leave dev out to have its rows drawn from train" in message
    assert "1 rows, all used in train or dev already" in refused(
        rows[:4], dev=rows[4:8], test=rows[:1]
    )


def test_wrong_settings_are_all_named(refused: Refused, rows: list[Any]) -> None:
    message = refused(rows, stepss=1, objektive="loss", top_k=0, temperature=float("nan"))
    for part in (
        "stepss: unknown, did you mean steps?",
        "objektive: unknown, did you mean objective?",
        "top_k: got 0, expected at least 1",
        "temperature: got nan, expected a number",
    ):
        assert part in message
    with pytest.raises(ValueError, match="config: got list, expected a Config or a mapping"):
        optimize(NoModel(), rows, config=[("steps", 1)])  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["run.json", "steps.jsonl", "state.json", "result.json"])
def test_run_dir_with_another_run(rows: list[Any], tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("kept")
    with pytest.raises(ValueError, match=rf"holds another run \({name}\): name another folder"):
        optimize(NoModel(), rows, prompt=PROMPT, run_dir=tmp_path)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(name, "kept")]


def test_run_dir_that_is_a_file(rows: list[Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file: name a folder"):
        optimize(NoModel(), rows, prompt=PROMPT, run_dir=tmp_path / "file")


def test_run_dir_that_cannot_be_made(rows: list[Any], tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(ValueError, match="run_dir"):
        optimize(NoModel(), rows, prompt=PROMPT, run_dir=tmp_path / "run" / "deep")


def test_records_that_exist_already(rows: list[Any], tmp_path: Path) -> None:
    records = tmp_path / "records.jsonl"
    records.write_text("kept")
    with pytest.raises(ValueError, match="exists already: name another file, or remove it"):
        evaluate(NoModel(), rows, prompt=PROMPT, records=records)
    assert records.read_text() == "kept"


def test_layers_that_cannot_be_computed_twice(
    refused: Refused, rows: list[Any], lm: LM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("greater_fast.gradients.recomputing.recomputable_layers", lambda _: [])
    text = refused(rows, lm, gradient_checkpointing="on")
    assert "no layers to checkpoint: set gradient_checkpointing='off'" in text


def test_what_is_forced_and_cannot_run_is_refused_before_weights_are_read(
    refused: Refused, rows: list[Any], model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: Any) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr("greater_fast.runs.models.ready.load_lm", read)
    monkeypatch.setattr("triton.knobs.runtime.interpret", False)
    text = refused(rows, str(model_folder), kernels="triton", device="cpu")
    assert "kernels='triton' cannot be used here: got tensors on cpu, expected a GPU" in text
    monkeypatch.setattr("greater_fast.gradients.recomputing.recomputable_layers", lambda _: [])
    text = refused(rows, str(model_folder), gradient_checkpointing="on")
    assert "no layers to checkpoint: set gradient_checkpointing='off'" in text


def test_system_prompt_without_a_template(refused: Refused, rows: list[Any]) -> None:
    tokenizer = tiny_tokenizer("llama3", chat_template=False)
    model = (tiny_model("llama", len(tokenizer)), tokenizer)
    message = refused(rows, model, system_prompt="Be brief.")
    assert "has no chat template, so system_prompt has no place: unset it" in message


def test_template_that_refuses_or_changes_the_message(refused: Refused, rows: list[Any]) -> None:
    tokenizer = tiny_tokenizer("llama3")
    model = (tiny_model("llama", len(tokenizer)), tokenizer)
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
        "{{ bos_token + messages[0].content + eos_token }}"
    )
    message = refused(rows, model, system_prompt="Be brief.")
    assert "refused the message: no system here; see system_prompt" in message
    tokenizer.chat_template = "{{ bos_token + messages[0].content | upper + eos_token }}"
    assert "changes the user's message, so the prompt cannot be placed" in refused(rows, model)


def test_config_object_is_taken_as_it_is(rows: list[Any]) -> None:
    with pytest.raises(ValueError, match="got NoModel, expected a model name"):
        optimize(NoModel(), rows, prompt=PROMPT, config=Config(num_train=4, num_dev=4))


@pytest.mark.parametrize("prompt", ["{question} Think.", "Think about {{input}}.", "$question"])
def test_placeholders_are_refused(refused: Refused, rows: list[Any], prompt: str) -> None:
    message = refused(rows, prompt=prompt)
    assert "prompt: got the placeholder" in message
    assert "the question is put beside the prompt" in message
    with pytest.raises(ValueError, match="got the placeholder"):
        evaluate(NoModel(), rows, prompt=PROMPT, against=prompt)
    assert "system_prompt: got the placeholder" in refused(rows, system_prompt="Be {role}.")
    assert "extractor: got the placeholder" in refused(rows, extractor="To {question}: $")
    assert "more than one place" in refused(rows, extractor="Is {answer} {final_answer}")


def test_gold_answers_that_an_extractor_cuts_are_refused(refused: Refused, rows: list[Any]) -> None:
    own = [{**row, "answer": f"Dr. Adams {n}"} for n, row in enumerate(rows)]
    message = refused(own, extractor="It is {answer}.")
    assert "ends an answer at '.', so 8 gold answers ('Dr. Adams" in message
    assert "leave it out to have one derived" in message
    with pytest.raises(ValueError, match="so 12 gold answers"):
        evaluate(NoModel(), own, prompt=PROMPT, config={"extractor": "It is {answer}."})


def test_settings_of_a_search_are_ignored_by_an_evaluation_and_named_once(
    lm: LM, rows: list[Any]
) -> None:
    given = {"max_new_tokens": 4, "max_prompt_tokens": 40}
    idle = {"gradient": "both", "reasonings": "sampled", "minutes": 0.001}
    plain = evaluate(lm, rows[:2], prompt=PROMPT, config=given)
    report = evaluate(lm, rows[:2], prompt=PROMPT, config={**given, **idle})
    assert report.evaluation == plain.evaluation
    told = "gradient and reasonings and minutes: without effect on an evaluation"
    assert report.notes.count(told) == 1
    assert set(report.notes) - set(plain.notes) == {told}
    of_another_engine = {**given, "engine": "generate", "max_step_tokens": 64}
    (note,) = (
        note
        for note in evaluate(lm, rows[:2], prompt=PROMPT, config=of_another_engine).notes
        if "without effect" in note
    )
    assert note.startswith("max_step_tokens: without effect on an evaluation, as engine 'generate'")


def test_rows_of_a_file_are_named_by_their_place_in_it(
    lm: LM, rows: list[Any], tmp_path: Path
) -> None:
    """Whatever the draw made of them."""
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(row) for row in (*rows[:9], LONG_ROW)]
    path.write_text("\n".join(lines))
    config = {"num_train": 5, "num_dev": 5, "max_new_tokens": 6, "max_prompt_tokens": 40}
    with pytest.raises(ValueError, match=re.escape(f"reasoning tokens: row 10 of {path} (")):
        optimize(lm, path, prompt=PROMPT, config=config, run_dir=tmp_path / "run")
