"""What is exported tokenises to the ids that the run used, row by row, by whoever reads it."""

import json
import re
import shutil
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from greater_fast import optimize
from greater_fast.engine import RolloutRequest
from greater_fast.examples.cutting import closed_answer, opening_of
from greater_fast.examples.extractor import make_extractor
from greater_fast.export import export_run
from greater_fast.export.formats import as_chat_json, as_text, as_vllm
from greater_fast.export.lm_eval import answer_read
from greater_fast.export.rendering import _question_notes, rendering_of
from greater_fast.model.lm import load_lm
from greater_fast.rollouts.batch import RolloutEngine
from greater_fast.runs.directory import read_run
from tests.tiny import GEMMA_TEMPLATE, PROMPT, tiny_model, tiny_tokenizer
from tests.unit.model.test_lm_gguf import write as write_gguf

pytestmark = pytest.mark.filterwarnings("ignore:all .* training rows are:RuntimeWarning")

NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    + GEMMA_TEMPLATE
)
THINKING = (
    "{{ '<|begin_of_text|>' }}{% for turn in messages %}{{ '<|start_header_id|>' + turn.role + "
    "'<|end_header_id|>\n\n' + turn.content + '<|eot_id|>' }}{% endfor %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n<think>\n' }}"
    "{% if mood is defined %}{{ mood }}{% endif %}"
)
DATED = "{{ '<bos>' + strftime_now('%d %B %Y') + '\n' }}" + GEMMA_TEMPLATE
# kind of tokenizer, template (None: a base model, "": its own), settings
KINDS: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "template": ("llama3", "", {}),
    "template, prompt first": ("llama3", "", {"prompt_placement": "before"}),
    "system": ("llama3", "", {"system_prompt": "Be brief."}),
    "no system role": ("sentencepiece", NO_SYSTEM, {}),
    "open thought": ("llama3", THINKING, {"chat_template_kwargs": {"mood": "Well"}}),
    "a date": ("sentencepiece", DATED, {"template_date": "2024-02-29"}),
    "base": ("llama3", None, {}),
    "base, prompt first": ("llama3", None, {"prompt_placement": "before"}),
    "base, sentencepiece": ("sentencepiece", None, {}),
    "base that closes texts": ("llama3", None, {"max_new_tokens": 5}),
    "penalties": ("llama3", "", {"max_new_tokens": 12}),
}
# As models bring them along (Qwen2.5-Instruct a penalty and top_k); a run does not use them.
PENALTIES: dict[str, Any] = {
    "do_sample": True,
    "temperature": 0.7,
    "top_k": 1,
    "top_p": 0.8,
    "repetition_penalty": 50.0,
    "no_repeat_ngram_size": 1,
}
ODD_ROWS = [
    {"question": "  Is\n\n( True ) 'so'? \\n {question} ", "answer": "True"},
    {"question": 'It says """no""": Übung 思考, is that False?', "answer": "False"},
]


def closing_texts(tokenizer: Any) -> None:
    """The tokenizer adds a token behind a text, too, as some base models' do."""
    from tokenizers import processors

    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A <|eot_id|>",
        special_tokens=[("<|begin_of_text|>", 0), ("<|eot_id|>", 1)],
    )


@pytest.fixture(scope="module", params=KINDS)
def run(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[dict[str, str]],
    settings: dict[str, Any],
) -> Any:
    """A run of a model in a folder, with the ids of all of its requests."""
    kind, template, more = KINDS[request.param]
    folder = tmp_path_factory.mktemp("export")
    tokenizer = tiny_tokenizer(kind, chat_template=template is not None)
    if template:
        tokenizer.chat_template = template
    if "closes" in request.param:
        closing_texts(tokenizer)
    model = tiny_model("llama", len(tokenizer))
    if request.param == "penalties":
        model.generation_config.update(**PENALTIES)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    asked: list[RolloutRequest] = []
    plain = RolloutEngine.run

    def watched(self: Any, requests: Sequence[RolloutRequest], *rest: Any) -> Any:
        asked.extend(requests)
        return plain(self, requests, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RolloutEngine, "run", watched)
        optimize(
            str(folder / "model"),
            [*rows, *ODD_ROWS],
            prompt=PROMPT,
            config={**settings, "extractor": "The answer is $", "num_dev": 10, **more},
            run_dir=folder / "run",
            progress=False,
        )
    return SimpleNamespace(folder=folder / "run", model=folder / "model", asked=asked)


def questions(run: Any) -> dict[str, str]:
    """Every question of the run, with the set that it is in."""
    return {row["question"]: row["split"] for row in read_run(run.folder)["examples"]}


def check_ids(run: Any, message: Any) -> None:
    """All messages of the best prompt are among what the run asked its engine, ids for ids."""
    asked = {request.prompt_ids for request in run.asked}
    prompt = read_run(run.folder)["result"]["best"]["prompt_ids"]
    for question in questions(run):
        ids = tuple(message(question))
        assert ids in asked
        assert any(list(ids[n : n + len(prompt)]) == prompt for n in range(len(ids)))


def script(run: Any, to: str) -> dict[str, Any]:
    """The names that the exported script defines."""
    code = export_run(run.folder, to)
    if to == "text":
        code = code.rpartition("In Python, exactly:\n")[2].partition("\n")[2]
    names: dict[str, Any] = {}
    exec(compile(code, to, "exec"), names)
    return names


class FakeLLM:
    """vLLM's calls, answered by transformers' greedy generation."""

    def __init__(self, model: str, tokenizer: str, dtype: str, max_model_len: int) -> None:
        from transformers import AutoModelForCausalLM, GenerationConfig

        self._most = max_model_len

        assert tokenizer == model
        path, options = model, {}
        if Path(model).is_file():  # a folder of GGUF files is no model
            path, options = str(Path(model).parent), {"gguf_file": Path(model).name}
        self._model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, **options)
        self._model.generation_config = GenerationConfig()  # SamplingParams are used alone
        self.asked: list[list[int]] = []

    def generate(self, prompts: list[dict[str, list[int]]], sampling: Any) -> list[Any]:
        assert sampling.temperature == 0
        self.asked += [prompt["prompt_token_ids"] for prompt in prompts]
        found = []
        for ids in (prompt["prompt_token_ids"] for prompt in prompts):
            out = self._model.generate(
                torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                max_new_tokens=sampling.max_tokens,
                eos_token_id=sampling.stop_token_ids,
                do_sample=False,
            )
            found.append(SimpleNamespace(outputs=[SimpleNamespace(token_ids=out[0, len(ids) :])]))
        return [
            SimpleNamespace(outputs=[SimpleNamespace(token_ids=o.outputs[0].token_ids.tolist())])
            for o in found
        ]


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = ModuleType("vllm")
    fake.LLM = FakeLLM  # type: ignore[attr-defined]
    fake.SamplingParams = SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", fake)


def measured(run: Any) -> dict[str, dict[str, Any]]:
    """What the run wrote down of the best prompt on development rows, by question."""
    best = read_run(run.folder)["result"]["prompt"]
    lines = (run.folder / "rows.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return {r["question"]: r for r in rows if r["split"] == "dev" and r["prompt"] == best}


def test_the_text_tokenises_to_the_ids_of_the_run(run: Any) -> None:
    names = script(run, "text")
    check_ids(run, names["message"])
    dev = [request for request in run.asked if request.max_answer_tokens]
    assert {request.target_ids for request in dev} == {tuple(names["EXTRACTOR"])}
    assert {request.end_ids for request in dev} == {frozenset(names["ENDS"])}
    assert {request.max_new_tokens for request in dev} == {names["REASONING_TOKENS"]}


def test_the_text_writes_the_reasonings_of_the_run(run: Any) -> None:
    names, found, lm = script(run, "text"), measured(run), load_lm(str(run.model))
    assert found
    for question, row in found.items():
        written = names["go_on"](names["message"](question), names["REASONING_TOKENS"])
        assert lm.vocabulary.plain_text(names["without_end"](written)) == row["reasoning"]


@pytest.mark.parametrize("run", ["template", "penalties"], indirect=True)
def test_the_text_samples_from_all_tokens(run: Any) -> None:
    """Not from the first 50, which is what `generate` does by itself, nor as the model has it."""
    names = script(run, "text")
    names["TEMPERATURE"] = 1000.0
    ids = names["message"]("Is it so?")
    assert len({names["go_on"](ids, 1)[0] for _ in range(100)}) > 50


def test_a_script_for_vllm_does_what_the_run_did(run: Any, vllm: None) -> None:
    names, found = script(run, "vllm"), measured(run)
    check_ids(run, names["message"])
    answers = names["ask"](list(found))
    lm = load_lm(str(run.model))
    for number, row in enumerate(found.values()):
        begun, asked = names["llm"].asked[number], names["llm"].asked[len(found) + number]
        reasoning = asked[len(begun) : len(asked) - len(names["EXTRACTOR"])]
        assert lm.vocabulary.plain_text(reasoning) == row["reasoning"]
        assert asked[len(asked) - len(names["EXTRACTOR"]) :] == names["EXTRACTOR"]
    assert len(answers) == len(found)


def test_scripts_of_a_run_on_a_gguf_file_load_the_file(
    tmp_path: Path, rows: list[dict[str, str]], settings: dict[str, Any], vllm: None
) -> None:
    file = write_gguf(tmp_path / "a 'tiny' one.gguf")
    optimize(
        str(file),
        rows,
        prompt=PROMPT,
        config={**settings, "extractor": "The answer is $", "num_dev": 6},
        run_dir=tmp_path / "run",
        progress=False,
    )
    run = SimpleNamespace(folder=tmp_path / "run", model=file)
    by_vllm, by_transformers = script(run, "vllm"), script(run, "text")
    vocabulary, found = load_lm(str(file)).vocabulary, measured(run)
    assert found
    for question, row in found.items():
        ids = by_vllm["message"](question)
        assert ids == by_transformers["message"](question)
        (written,) = by_vllm["go_on"]([ids], by_vllm["REASONING_TOKENS"])
        assert vocabulary.plain_text(by_vllm["without_end"](written)) == row["reasoning"]
        also = by_transformers["go_on"](ids, by_vllm["REASONING_TOKENS"])
        assert also == written
    assert by_vllm["ask"](list(found)) == [by_transformers["ask"](question) for question in found]


def test_scripts_load_the_numbers_of_the_run(
    tmp_path: Path, rows: list[dict[str, str]], settings: dict[str, Any]
) -> None:
    """A CPU runs in float32 what is stored in bfloat16: another precision reasons otherwise."""
    tokenizer = tiny_tokenizer("llama3")
    tiny_model("llama", len(tokenizer), torch.bfloat16).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    run = SimpleNamespace(folder=tmp_path / "run", model=tmp_path / "model")
    given = {**settings, "extractor": "The answer is $", "steps": 0}
    optimize(str(run.model), rows, prompt=PROMPT, config=given, run_dir=run.folder, progress=False)
    names = script(run, "text")
    assert names["DTYPE"] == "float32"
    assert names["model"].dtype is torch.float32


def test_messages_are_rendered_to_the_ids_of_the_run(run: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(run.model)
    if tokenizer.chat_template is None:
        with pytest.raises(ValueError, match="has no chat template, so there are no messages"):
            export_run(run.folder, "chat-json")
        return
    values = json.loads(export_run(run.folder, "chat-json"))
    template = tokenizer.chat_template.replace(
        "strftime_now('%d %B %Y')",
        "'29 February 2024'",  # the day of the run
    )

    def message(question: str) -> list[int]:
        turns = [
            {**turn, "content": turn["content"].replace("{question}", question.strip(), 1)}
            for turn in values["messages"]
        ]
        text = tokenizer.apply_chat_template(
            turns,
            chat_template=template,
            tokenize=False,
            add_generation_prompt=True,
            **values["chat_template_kwargs"],
        )
        whole = values["rendered"]["before"] + question.strip() + values["rendered"]["after"]
        assert text == whole
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    check_ids(run, message)
    names = script(run, "text")
    assert values["extractor"]["ids"] == names["EXTRACTOR"]
    assert values["stop_token_ids"] == names["ENDS"]
    assert (values["top_p"], values["top_k"], values["repetition_penalty"]) == (1, -1, 1)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("The answer is $", " 18$ and 19$"),
        ("So it is {answer}.", " 1.5. Or more."),
        ("It is <answer> {answer} </answer>", " two\nlines </answer> more"),
        ("The answer is", " yes\nno"),
        ('It is "', ' a b" c'),
        ('It is "', ' "a b" c'),
        ("The answer is $", " $18$"),
        ("It is <answer> {answer} </answer>", " <answer>18</answer>"),
        ("It is <answer> {answer} </answer>", " 42 \nBecause it is."),  # which is not closed
        ("It is <answer> {answer} </answer>", "\n<answer>\n42\nBecause"),
        ("It is <answer> {answer} </answer>", ""),
        ("So it is \\boxed{", "\\frac{1}{2}} and"),
        ("So it is \\boxed{", "\\text{B}\nand}"),
        ("So it is \\boxed{{answer}}.", " 18}\nand so}."),
        ("It is (", "(B)"),
        ("It is (", "B) or (C)"),
    ],
)
def test_an_answer_ends_where_the_run_ends_it(text: str, written: str) -> None:
    """And begins where it begins; so it does for lm-evaluation-harness."""
    extractor = make_extractor(text)
    begun = written.strip().removeprefix(opening_of(extractor.closing.strip())).strip()
    closed = re.match(closed_answer(extractor.closing.strip()), begun)
    found = (closed[1] if closed else begun.split("\n")[0]).strip()
    assert found == extractor.cut(written) == answer_read(extractor, extractor.text + written)


def test_a_run_of_another_tokenizer_is_refused(run: Any, tmp_path: Path) -> None:
    other = tiny_tokenizer("llama3", more=["reasoning prompts differ" * 9] * 900)
    tiny_model("llama", len(other)).save_pretrained(tmp_path)
    other.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"makes other token ids of the run's rows|no argument"):
        export_run(run.folder, "text", str(tmp_path))


def test_a_template_that_has_changed_is_refused(run: Any, tmp_path: Path) -> None:
    """The prompt's own ids are the same; what stands around it is not."""
    name = read_run(run.folder)["run"]["model"]
    model = shutil.copytree(name, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(model)
    if tokenizer.chat_template is None:
        pytest.skip("a base model has no template")
    tokenizer.chat_template += "So:\n"
    tokenizer.save_pretrained(model)
    with pytest.raises(ValueError, match=r"chat template, .* have changed, or it is another"):
        export_run(run.folder, "text", str(model))


def test_ends_that_have_changed_are_refused(run: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(run.folder, tmp_path / "run")
    own = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**own, "end_ids": [[*own["end_ids"][0], 7]]}))
    with pytest.raises(ValueError, match=r"ends a reasoning by the ids .*, the run by"):
        export_run(folder, "text")


def test_what_a_question_is_made_of_is_told(
    model_folder: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    rows = [
        {
            "passage": f"Box {n} is red.",
            "question": "Which?",
            "choices": ["red", "blue"],
            "answer": n % 2,
        }
        for n in range(12)
    ]
    limits = {**settings, "steps": 0, "num_train": 4, "num_dev": 4, "num_finalists": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimize(str(model_folder), rows, config=limits, run_dir=tmp_path, progress=False)
    rendering = rendering_of(read_run(tmp_path))
    put, letters = rendering.question_notes
    assert put.startswith("each question is put together as 'Passage: {passage}")
    assert letters.endswith("become letters of the options")
    templated = read_run(tmp_path)
    templated["run"]["config"]["template"] = "{passage} {question}"
    assert _question_notes(templated["run"])[0] == (
        "each question is put together as '{passage} {question}'"
    )
    for written in (as_text(rendering), as_vllm(rendering), as_chat_json(rendering)):
        assert "each question is put together as" in written
        assert "become letters of the options" in written
