"""lm-evaluation-harness measures a run's prompt as `evaluate` does, sample by sample."""

import importlib
import json
import re
import runpy
import shutil
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers.processors import Sequence

from greater_fast import Config, evaluate, optimize
from greater_fast.engine import Rollout
from greater_fast.examples.answers import compared_form, normalise_answer
from greater_fast.examples.data import load_examples
from greater_fast.examples.extractor import given_extractor
from greater_fast.examples.layout import build_layouts
from greater_fast.runs.directory import read_run
from greater_fast.runs.input import OF_EVALUATION
from tests.tiny import LLAMA3_TEMPLATE, PROMPT, boolean_rows, tiny_model, tiny_tokenizer

pytestmark = [
    pytest.mark.front_ends,
    pytest.mark.filterwarnings("ignore:all .* training rows are:RuntimeWarning"),
]
Rows = list[dict[str, Any]]
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
# kind of tokenizer, has it a template, settings
DATED = "{{ 'Today is ' + strftime_now('%d %B %Y') + '. ' }}" + LLAMA3_TEMPLATE
KINDS: dict[str, tuple[str, bool, dict[str, Any]]] = {
    "template": ("llama3", True, {}),
    "prompt first": ("llama3", True, {"prompt_placement": "before"}),
    "system": ("llama3", True, {"system_prompt": 'Be "brief", {# so.'}),
    "dated": ("llama3", True, {"template_date": "2024-02-29"}),
    "base": ("sentencepiece", False, {"extractor": "So it is $"}),
    "sampled": ("llama3", True, {"sampling_temperature": 0.7, "seed": 5}),
    "template's prompt": ("llama3", True, {"prompt": 'Say {{ 7 * 7 }}, "so" \\x41 step by step.'}),
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data sets are cached where the test is."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module", params=KINDS)
def run(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    rows: Rows,
    settings: dict[str, Any],
) -> SimpleNamespace:
    """A run, six rows that it has not seen, and what `evaluate` makes of its prompt on them.

    Four of the rows are labelled by the model's own answers, two are not.
    """
    kind, has_template, more = KINDS[request.param]
    folder = tmp_path_factory.mktemp("lm_eval")
    tokenizer = tiny_tokenizer(kind, chat_template=has_template)
    if "template_date" in more:
        tokenizer.chat_template = DATED
    tiny_model("llama", len(tokenizer)).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    config = {**settings, "extractor": "The answer is", **more}
    prompt = config.pop("prompt", PROMPT)
    model, run_dir = str(folder / "model"), folder / "run"
    found = optimize(model, rows, prompt=prompt, config=config, run_dir=run_dir, progress=False)

    def measured(on: Rows) -> Any:
        own = {**read_run(run_dir)["run"]["config"], "extractor": config["extractor"]}
        own = {name: value for name, value in own.items() if name in OF_EVALUATION}
        return evaluate(model, on, prompt=found.prompt, config=own, progress=False)

    six = [{"question": question, "answer": "True"} for question, _ in boolean_rows(18)[12:]]
    for _ in range(3):  # the longest answer says how long one may be, and so changes some
        answers = [row.predicted for row in measured(six).evaluation.rows]
        golds = [said if compared_form(said) == normalise_answer(said) else "" for said in answers]
        six = [{**row, "answer": gold or "?"} for row, gold in zip(six, golds, strict=True)]
    six[2]["answer"], six[5]["answer"] = "never", "that"
    return SimpleNamespace(
        folder=run_dir,
        model=model,
        prompt=found.prompt,
        rows=six,
        report=measured(six),
        has_template=has_template,
    )


def harness(model: Any, task: Path, **more: Any) -> dict[str, Any]:
    """What the harness finds on a task file, without an index of its own tasks: that takes time."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_defaults=False)
    found = simple_evaluate(model, tasks=[str(task)], task_manager=manager, **more)
    (samples,), (figures,) = found["samples"].values(), found["results"].values()
    return {**figures, "samples": samples}


def test_the_harness_finds_what_evaluate_does(run: Any, tmp_path: Path) -> None:
    from greater_fast.front_ends.lm_eval import GreaterLM, export_task

    task = export_task(run.folder, run.rows, tmp_path / "task.yaml")
    model = GreaterLM.from_run(run.folder)
    found = harness(model, task, apply_chat_template=run.has_template)
    expected = run.report.evaluation
    assert len(expected.rows) == 6
    assert 0 < expected.accuracy < 1
    assert found["exact_match,answer"] == expected.accuracy
    assert [s["exact_match"] for s in found["samples"]] == [row.value for row in expected.rows]
    for sample, row in zip(found["samples"], expected.rows, strict=True):
        assert sample["doc"]["question"] == f"Q: {row.question}"
        ((text,),) = sample["resps"]
        assert row.reasoning in text


def test_the_context_is_the_text_of_the_run(run: Any, tmp_path: Path) -> None:
    from greater_fast.front_ends.lm_eval import GreaterLM, export_task

    task = export_task(run.folder, run.rows, tmp_path / "task.yaml")
    model = GreaterLM.from_run(run.folder)
    asked: list[tuple[int, ...]] = []
    plain = model._engine.run

    def watched(requests: Any, *rest: Any) -> Any:
        asked.extend(request.prompt_ids for request in requests)
        return plain(requests, *rest)

    model._engine.run = watched
    found = harness(model, task, apply_chat_template=run.has_template)
    written = read_run(run.folder)["run"]
    layouts = build_layouts(
        model.lm,
        load_examples(run.rows),
        run.prompt,
        given_extractor(written["extractor"]),
        Config.from_mapping(written["config"]),
    )
    prompt = layouts.joint.placed(run.prompt)
    texts = [f"{row.before}{prompt}{row.after}" for row in layouts.rows]
    assert [sample["arguments"][0][0] for sample in found["samples"]] == texts
    if written["config"]["template_date"] == "2024-02-29":
        assert all(text.startswith("Today is 29 February 2024. <|begin") for text in texts)
    assert asked == [layouts.context_ids(n, layouts.prompt_ids) for n in range(len(layouts))]


@pytest.fixture(scope="module")
def small(
    tmp_path_factory: pytest.TempPathFactory,
    model_folder: Path,
    rows: Rows,
    settings: dict[str, Any],
) -> Path:
    """The folder of a run without a step."""
    folder = tmp_path_factory.mktemp("small") / "run"
    config = {**settings, "steps": 0, "extractor": "So it is $"}
    optimize(str(model_folder), rows, config=config, run_dir=folder, progress=False)
    return folder


def test_it_is_found_by_the_command_line(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task is read by `lm_eval --tasks FILE` as the program reads its own."""
    from lm_eval import tasks
    from lm_eval.config.evaluate_config import EvaluatorConfig

    from greater_fast.front_ends.lm_eval import export_task

    monkeypatch.setattr(tasks, "TaskManager", partial(tasks.TaskManager, include_defaults=False))
    rows = [{"question": "Is it so?", "answer": "True"}]
    config = EvaluatorConfig(
        model="dummy", tasks=[str(export_task(small, rows, tmp_path / "t.yaml"))]
    )
    config.process_tasks()
    (read,) = config.tasks
    assert read["task"] == "greater_fast_t"


def instance(text: str, doc_id: int | None = None, **given: Any) -> Any:
    from lm_eval.api.instance import Instance

    return Instance("generate_until", {}, (text, given), 0, ("task", doc_id, 1))


CHAT = "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nIs it?<|eot_id|>"


@pytest.mark.parametrize(
    ("text", "given", "message"),
    [
        ("Is it so?", {}, "contexts are not written by it: evaluate with apply_chat_template=True"),
        (CHAT, {"max_gen_toks": 9}, r"max_gen_toks: got 9, expected 1\d at least: 6 of reasoning"),
        (CHAT, {"top_p": 0.5, "until": []}, "generation_kwargs: got top_p, expected until, do_sa"),
        (CHAT, {"do_sample": True}, r"temperature: got 1.0 of the task, the model was made with 0"),
        (CHAT, {"until": [""]}, "until: got '', expected a text of whole characters"),
        (CHAT * 240, {}, r"the context '.*' has \d+ tokens, which with \d+ behind them do not fit"),
    ],
)
def test_what_is_not_asked_for_rightly(
    small: Path, text: str, given: dict[str, Any], message: str
) -> None:
    from greater_fast.front_ends.lm_eval import GreaterLM

    with pytest.raises(ValueError, match=message):
        GreaterLM.from_run(small).generate_until([instance(text, **given)])


@pytest.mark.parametrize("engine", ["auto", "generate"])
def test_tasks_with_other_limits_may_be_evaluated_together(small: Path, engine: str) -> None:
    from greater_fast.front_ends.lm_eval import GreaterLM

    model = GreaterLM.from_run(small, config={"engine": engine})
    least = 6 + len(model._targets.extractor_ids) + 1
    given: list[dict[str, Any]] = [
        {"max_gen_toks": least + 2},
        {"max_gen_toks": least, "until": ["a"]},
        {"max_gen_toks": least + 2, "until": ["a"]},
        {"max_gen_toks": least + 2},
    ]
    requests = [instance(CHAT, number, **each) for number, each in enumerate(given)]
    together = model.generate_until(requests)
    alone = [text for request in requests for text in model.generate_until([request])]
    assert together == alone
    assert together[0] == together[3]


def test_a_base_model_has_no_template_and_no_empty_context(lm: Any) -> None:
    from greater_fast.front_ends.lm_eval import GreaterLM

    tokenizer = tiny_tokenizer("llama3", chat_template=False)
    tokenizer.backend_tokenizer.post_processor = Sequence([])
    model = GreaterLM((lm.model, tokenizer), "So it is $", {"max_new_tokens": 6})
    with pytest.raises(ValueError, match="a context has no token"):
        model.generate_until([instance("")])
    with pytest.raises(ValueError, match="has no chat template: leave apply_chat_template out"):
        model.apply_chat_template([{"role": "user", "content": "?"}])


def test_a_run_of_several_ranks_is_asked_by_one(small: Path, tmp_path: Path) -> None:
    from greater_fast.front_ends.lm_eval import GreaterLM

    folder = shutil.copytree(small, tmp_path / "run")
    written = json.loads((folder / "run.json").read_text())
    written["config"]["tensor_parallel"] = True
    (folder / "run.json").write_text(json.dumps(written))
    texts = GreaterLM.from_run(folder).generate_until([instance(CHAT)])
    assert texts == GreaterLM.from_run(small).generate_until([instance(CHAT)])


def test_until_ends_a_reasoning_and_a_row_is_sampled_by_its_number(small: Path) -> None:
    from greater_fast.front_ends.lm_eval import GreaterLM

    model = GreaterLM.from_run(small, config={"sampling_temperature": 1.0})
    given = {"do_sample": True, "temperature": 1.0}
    texts = model.generate_until([instance(CHAT, n, **given) for n in (3, 3, 4)])
    assert len(set(texts)) == 3
    assert model.generate_until([instance(CHAT, 4, **given)]) == texts[2:]
    reasoning = texts[0].partition(" So it is $")[0]
    (cut,) = model.generate_until([instance(CHAT, 3, until=reasoning[3], **given)])
    assert cut.partition(" So it is $")[0] == reasoning[: reasoning.index(reasoning[3])]


@pytest.mark.parametrize(
    ("written", "returned"),
    [
        (" **18**.$ and", " So it is $18$"),
        ("B) Paris", " So it is $b$"),
        ("", " So it is $$"),
        # The sign that closes an answer, in another width: such an answer is no gold one.
        ("a\uff04b", ""),
    ],
)
def test_the_answer_stands_as_it_is_compared(small: Path, written: str, returned: str) -> None:
    from greater_fast.front_ends.lm_eval import GreaterLM

    model = GreaterLM.from_run(small)
    ids = model.lm.vocabulary.ids(written) if written else ()
    rollout = Rollout(reasoning_ids=model.lm.vocabulary.ids(" I think"), answer_ids=ids)
    assert model._written(rollout) == (" I think" + returned if returned else "")


def test_a_reasoning_in_which_no_answer_can_be_read_is_left_out(lm: Any) -> None:
    from greater_fast.front_ends.lm_eval import GreaterLM

    model = GreaterLM(lm, "is is", {"max_new_tokens": 6})
    ids = model.lm.vocabulary.ids
    assert model._written(Rollout(ids(" it is"), answer_ids=ids(" 18"))) == " is is 18"


def test_messages_that_the_template_does_not_take_are_refused(own_lm: Any) -> None:
    from greater_fast.front_ends.lm_eval import GreaterLM

    model = GreaterLM(own_lm, "So it is $", {"max_new_tokens": 6})
    turns = [{"role": "user", "content": "Is it?"}]
    with pytest.raises(ValueError, match="gen_prefix: the reasoning begins the assistant's turn"):
        model.apply_chat_template(turns, add_generation_prompt=False)
    for template, message in {
        "{{ messages[0].content | upper }}": "leaves out or changes the user message 'Is it\\?'",
        "{{ raise_exception('no such role') }}": "refused the messages: no such role",
    }.items():
        with pytest.MonkeyPatch.context() as patch:  # the tokenizer is that of other tests, too
            patch.setattr(own_lm.tokenizer, "chat_template", template)
            with pytest.raises(ValueError, match=message):
                model.apply_chat_template(turns)


def test_runs_that_it_is_not_made_of(small: Path, tmp_path: Path) -> None:
    from greater_fast.front_ends.lm_eval import GreaterLM

    run = json.loads((small / "run.json").read_text())

    def refused(match: str, **values: Any) -> None:
        (tmp_path / "run.json").write_text(json.dumps({**run, **values}))
        with pytest.raises(ValueError, match=match):
            GreaterLM.from_run(tmp_path)

    refused("the run is of several models: name one of a, b", model=["a", "b"])
    refused("the run is damaged: TypeError", config=None)


def test_settings_that_are_to_differ_are_a_mapping(small: Path) -> None:
    from greater_fast.front_ends.lm_eval import GreaterLM

    with pytest.raises(ValueError, match="config: got a Config, expected a mapping of those"):
        GreaterLM.from_run(small, config=Config())  # type: ignore[arg-type]


def test_it_scores_no_text(small: Path) -> None:
    from greater_fast.front_ends.lm_eval import GreaterLM

    model = GreaterLM.from_run(small)
    for method in (model.loglikelihood, model.loglikelihood_rolling):
        with pytest.raises(NotImplementedError, match="take a task of generate_until"):
            method([])
    assert model.tokenizer_name.endswith(f"-{model._config.template_date}")
    assert "/" not in model.tokenizer_name


def test_the_example_finds_both_figures_equal(
    model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = runpy.run_path(str(EXAMPLES / "lm_eval_check.py"))
    names["main"](model=str(model_folder), steps=1, num_rows=2, max_new_tokens=6)
    theirs, ours = capsys.readouterr().out.splitlines()[-2:]
    assert re.fullmatch(r"the harness: (\d+\.\d% of 10 rows)", theirs)
    assert theirs.split()[2:] == ours.split()[1:]


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.api.instance", None)
    monkeypatch.delitem(sys.modules, "greater_fast.front_ends.lm_eval", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'greater-fast\[lm-eval\]'"):
        importlib.import_module("greater_fast.front_ends.lm_eval")
