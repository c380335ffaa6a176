"""promptolution with our model and our optimizer: what it asks is what the search laid out."""

import importlib
import importlib.util
import logging
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from promptolution.predictors import FirstOccurrencePredictor, MarkerBasedPredictor
from promptolution.tasks import ClassificationTask
from promptolution.utils.callbacks import BaseCallback, LoggerCallback, TokenCountCallback
from promptolution.utils.prompt import Prompt

import greater_fast as gf
from greater_fast.engine import RolloutRequest
from greater_fast.front_ends.promptolution import GReaTer, GreaterLLM
from greater_fast.model.lm import LM
from tests.tiny import boolean_rows, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.front_ends

SETTINGS: dict[str, Any] = {
    "objective": "loss",
    "max_new_tokens": 6,
    "max_prompt_tokens": 40,
    "num_proposal_examples": 2,
    "num_draws": 3,
    "num_finalists": 3,
}
PROMPT = "Use proper logical reasoning and think step by step"


@pytest.fixture(scope="module")
def llm(lm: LM) -> GreaterLLM:
    return GreaterLLM(lm, SETTINGS)


@pytest.fixture(scope="module")
def merging() -> GreaterLLM:
    """A model whose tokenizer has one token for a full stop and a line break, as Llama's has."""
    tokenizer = tiny_tokenizer("llama3", more=["It is so.\nAnd so."] * 200)
    assert ".\n" in tokenizer.decode(tokenizer("so.\nAnd").input_ids[2:3])
    return GreaterLLM((tiny_model("llama", len(tokenizer)), tokenizer), SETTINGS)


def frame(number: int = 6) -> pd.DataFrame:
    return pd.DataFrame(boolean_rows(number), columns=["x", "y"])


def task_of(number: int = 6, **more: Any) -> ClassificationTask:
    return ClassificationTask(frame(number), "Is it true?", **more)


def searcher(llm: GreaterLLM, *prompts: Any, **more: Any) -> GReaTer:
    predictor = more.pop("predictor", None) or MarkerBasedPredictor(llm)
    task = more.pop("task", None) or task_of()
    return GReaTer(predictor, task, initial_prompts=list(prompts) or [PROMPT], **more)


@pytest.fixture
def asked(llm: GreaterLLM, monkeypatch: pytest.MonkeyPatch) -> list[RolloutRequest]:
    """What the model's engine is asked for."""
    requests: list[RolloutRequest] = []
    run = llm.engine.run

    def told(batch: Sequence[RolloutRequest], *rest: Any) -> Any:
        requests.extend(batch)
        return run(batch, *rest)

    monkeypatch.setattr(llm.engine, "run", told)
    return requests


class TestLLM:
    def test_a_response_is_what_the_model_writes(self, lm: LM, llm: GreaterLLM) -> None:
        messages = [question for question, _ in boolean_rows(3)]
        responses = llm.get_response(messages, "Answer.")
        for message, response in zip(messages, responses, strict=True):
            turns = [{"role": "system", "content": "Answer."}, {"role": "user", "content": message}]
            context = lm.tokenizer.apply_chat_template(
                turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )["input_ids"]
            written = lm.model.generate(
                context,
                max_new_tokens=6,
                do_sample=False,
                eos_token_id=[*lm.end_ids],
                pad_token_id=2,
            )[0, context.shape[1] :].tolist()
            assert response == lm.vocabulary.text([i for i in written if i not in lm.end_ids])

    def test_what_is_asked_at_once_is_one_batch(
        self, llm: GreaterLLM, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        batches = []
        run = llm.engine.run
        monkeypatch.setattr(llm.engine, "run", lambda each: batches.append(len(each)) or run(each))
        llm.get_response(["one", "two", "three"])
        assert llm.get_response([]) == []
        assert batches == [3]

    def test_tokens_are_the_models_own(self, lm: LM) -> None:
        llm = GreaterLLM(lm, SETTINGS)
        (response,) = llm.get_response("Is it true?", "Answer.")
        turns = [{"role": "system", "content": "Answer."}]
        turns.append({"role": "user", "content": "Is it true?"})
        text = lm.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        read = len(lm.tokenizer(text, add_special_tokens=False).input_ids)
        counts = llm.get_token_count()
        assert counts["input_tokens"] == read
        assert 0 < counts["output_tokens"] <= 6
        assert counts["output_tokens"] <= llm.engine.num_generated_tokens  # end ids aside
        assert llm.tokenizer is lm.tokenizer
        assert isinstance(response, str)

    def test_samples_differ_and_a_seed_repeats_them(self, lm: LM) -> None:
        llm = GreaterLLM(lm, SETTINGS | {"sampling_temperature": 1.0, "max_new_tokens": 12})
        same = ["Is it true?"] * 4
        first = llm.get_response(same)
        assert len({*first, *llm.get_response(same)}) > 4
        llm.set_generation_seed(0)
        assert llm.get_response(same) == first

    def test_a_template_without_a_system_has_its_text_before_the_users(self) -> None:
        tokenizer = tiny_tokenizer("llama3")
        tokenizer.chat_template = (
            "{% for turn in messages %}{% if turn.role == 'user' %}"
            "<|begin_of_text|>{{ turn.content }}<|eot_id|>{% endif %}{% endfor %}"
        )
        dropping = GreaterLLM((tiny_model("llama", len(tokenizer)), tokenizer), SETTINGS)
        tokenizer.chat_template = (
            "{% for turn in messages %}{% if turn.role == 'system' %}"
            "{{ raise_exception('no system') }}{% endif %}"
            "<|begin_of_text|>{{ turn.content }}<|eot_id|>{% endfor %}"
        )
        expected = gf.generate(
            dropping.engine, ["<|begin_of_text|>Answer.\n\nIs it true?<|eot_id|>"], 6
        )
        assert dropping.get_response("Is it true?", "Answer.") == [expected[0].text]
        bare = tiny_tokenizer("llama3", chat_template=False)
        plain = GreaterLLM((tiny_model("llama", len(bare)), bare), SETTINGS)
        expected = gf.generate(plain.engine, ["Answer.\n\nIs it true?"], 6)
        assert plain.get_response("Is it true?", "Answer.") == [expected[0].text]


class TestOptimizer:
    @pytest.mark.parametrize(
        "strategy", ["full", "subsample", "sequential_block", "random_block", "evaluated"]
    )
    def test_all_rows_of_the_task_decide(self, llm: GreaterLLM, strategy: Any) -> None:
        """Rows have the model's own answers as gold ones, with one prompt or with the other."""
        predictor, rows = MarkerBasedPredictor(llm), boolean_rows(12)
        few, many = PROMPT, "Explain the question"
        answers = {
            prompt: predictor.predict([prompt] * 12, [x for x, _ in rows])[0]
            for prompt in (few, many)
        }
        golds = [answers[few if number < 4 else many][number] for number in range(12)]
        labelled = pd.DataFrame({"x": [x for x, _ in rows], "y": golds})
        task = ClassificationTask(labelled, "Say it.", n_subsamples=5, eval_strategy=strategy)
        optimizer = searcher(llm, few, many, predictor=predictor, task=task)
        found = optimizer.optimize(n_steps=2)
        assert found is optimizer.prompts
        told = {
            prompt: predictor.predict([str(prompt)] * 12, list(labelled.x))[0] for prompt in found
        }
        right = {
            prompt: [answer == gold for answer, gold in zip(own, golds, strict=True)]
            for prompt, own in told.items()
        }
        scores = [sum(right[prompt]) / 12 for prompt in found]
        assert optimizer.scores == pytest.approx(scores)
        assert scores == sorted(scores, reverse=True)
        assert scores[0] >= scores[found.index(Prompt(many))] >= 8 / 12
        assert scores[found.index(Prompt(few))] >= 4 / 12
        assert scores[0] > scores[-1]  # any order would do of equals
        assert len(found) > 2

    def test_its_steps_are_those_of_a_search(self, lm: LM, llm: GreaterLLM) -> None:
        class Seen(BaseCallback):
            def on_step_end(self, optimizer: Any) -> bool:
                seen.append((list(optimizer.prompts), list(optimizer.scores)))
                return True

        seen: list[Any] = []
        optimizer = searcher(llm, callbacks=[Seen()])
        optimizer.optimize(n_steps=2)
        rows = [gf.Example(x, y.lower()) for x, y in boolean_rows(6)]
        given = {"around": around(lm), "stop_texts": ["<final_answer>"]}
        config = gf.Config(**llm.config.to_dict() | {"steps": 2})
        extractor = gf.make_extractor("<final_answer>{answer}</final_answer>")
        # The rows' order is the draw's, and draws of proposals depend on it.
        import random

        drawn = random.Random(0).sample(rows, 6)
        layouts = gf.build_layouts(lm, drawn, PROMPT, extractor, config, **given)
        found = gf.find_prompts(llm.engine, layouts, config)
        prompts, scores = seen[-1]
        assert [prompt.instruction for prompt in prompts] == [p.prompt for p in found.prompts]
        assert scores == [-p.objective for p in found.prompts]
        assert found.best.objective < found.initial.objective  # there was something to find

    @pytest.mark.parametrize("template", [None, "Task: <instruction> Input:"])
    def test_the_model_is_asked_with_the_ids_that_were_searched_on(
        self, llm: GreaterLLM, asked: list[RolloutRequest], template: str | None
    ) -> None:
        optimizer = searcher(llm, Prompt(PROMPT, downstream_template=template))
        optimizer._pre_optimization_loop()
        searched = {request.prompt_ids for request in asked}
        asked.clear()
        optimizer.task.evaluate(optimizer.prompts, optimizer.predictor)
        assert {request.prompt_ids for request in asked} == searched
        assert len(searched) == 6

    def test_found_prompts_are_asked_with_the_ids_that_were_searched_on(
        self, llm: GreaterLLM, asked: list[RolloutRequest]
    ) -> None:
        optimizer = searcher(llm, Prompt(PROMPT, ["Input:\n1\nOutput:\n2"]))
        optimizer._pre_optimization_loop()
        optimizer.prompts = optimizer._step()
        searched = {request.prompt_ids for request in asked}
        asked.clear()
        optimizer._on_train_end()
        assert len(asked) == 6 * len(optimizer.prompts) >= 12
        assert {request.prompt_ids for request in asked} <= searched
        assert all(prompt.few_shots for prompt in optimizer.prompts)

    def test_a_callback_may_stop_it(self, llm: GreaterLLM) -> None:
        class Stop(BaseCallback):
            steps = 0

            def on_step_end(self, optimizer: Any) -> bool:
                self.steps += 1
                return False

        stop = Stop()
        optimizer = searcher(llm, callbacks=[stop, LoggerCallback(logging.getLogger("quiet"))])
        optimizer.optimize(n_steps=5)
        assert stop.steps == 1
        optimizer.callbacks.clear()
        assert optimizer._found.num_steps == 1
        optimizer.optimize(n_steps=1)  # goes on where it stopped
        assert optimizer._found.num_steps == 2

    def test_a_budget_of_tokens_ends_it(self, lm: LM) -> None:
        llm = GreaterLLM(lm, SETTINGS)
        budget = TokenCountCallback(100, "output_tokens")
        optimizer = searcher(llm, callbacks=[budget])
        optimizer._pre_optimization_loop()
        scored = llm.get_token_count()
        assert scored["output_tokens"] == llm.engine.num_generated_tokens > 0
        assert scored["input_tokens"] > 0
        optimizer.optimize(n_steps=50)
        assert optimizer._found is not None
        assert optimizer._found.num_steps < 50
        assert llm.get_token_count()["output_tokens"] >= 100

    def test_settings_that_are_not_given_are_those_of_the_language_model(self, lm: LM) -> None:
        own = {**SETTINGS, "system_prompt": None, "top_k": 7, "template_date": "2024-02-29"}
        llm = GreaterLLM(lm, own)
        optimizer = searcher(llm, config={"num_train": 3})
        expected = gf.Config.from_mapping({**own, "num_train": 3, "steps": 1})
        assert optimizer.config == expected
        assert optimizer.engine is llm.engine
        assert [len(layouts) for layouts in optimizer._begun.values()] == [3]
        assert searcher(llm, config={"draft_tokens": 3}).engine is not llm.engine
        with pytest.raises(ValueError, match="config: template_date is the predictor's: give it"):
            searcher(llm, config={"template_date": "2024-03-01"})
        with pytest.raises(ValueError, match="num_dev: got 3, expected none: here the task"):
            searcher(llm, config={"num_dev": 3})

    def test_rows_that_decide_and_do_not_fit_are_told_before_the_search(
        self, llm: GreaterLLM
    ) -> None:
        long = frame(12)
        longest = len(long) - 1
        long.loc[longest, "x"] = "word " * 2040
        drawn = next(
            seed
            for seed in range(100)
            if longest not in random.Random(seed).sample(range(len(long)), 2)
        )
        with pytest.raises(ValueError, match=f"1 of 12 rows do not fit .*: row {longest} of the"):
            searcher(
                llm,
                task=ClassificationTask(long, "Is it true?"),
                config={"num_train": 2, "seed": drawn},
            )

    def test_an_error_in_a_step_is_logged_and_prompts_so_far_remain(
        self, llm: GreaterLLM, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        optimizer = searcher(llm)
        steps: list[int] = []
        step = optimizer._step

        def fails() -> list[Prompt]:
            steps.append(len(steps))
            if len(steps) == 2:
                raise FloatingPointError("the loss is not finite")
            return step()

        monkeypatch.setattr(optimizer, "_step", fails)
        found = optimizer.optimize(n_steps=4)
        assert steps == [0, 1]
        assert "Error during optimization step" in caplog.text
        assert "the loss is not finite" in caplog.text
        assert len(found) > 1
        assert len(optimizer.scores) == len(found)

    def test_it_begins_with_the_best_of_several_and_leaves_out_what_cannot_stand(
        self, merging: GreaterLLM, caplog: pytest.LogCaptureFixture
    ) -> None:
        ends, other, llm = "Think step by step.", "Explain the question", merging
        optimizer = searcher(llm, PROMPT, ends, other)
        assert f"the prompt '{ends}'" in caplog.text
        optimizer._pre_optimization_loop()
        objectives = {
            text: gf.find_prompts(
                llm.engine,
                optimizer._begun[Prompt(text)],
                gf.Config(**llm.config.to_dict() | {"steps": 0}),
            ).best.objective
            for text in (PROMPT, other)
        }
        assert optimizer._start.instruction == min(objectives, key=objectives.__getitem__)
        optimizer.prompts = optimizer._step()
        optimizer._on_train_end()
        assert {PROMPT, ends, other} <= {prompt.instruction for prompt in optimizer.prompts}

    def test_another_model_and_settings_than_the_predictors(self, lm: LM, llm: GreaterLLM) -> None:
        served = FirstOccurrencePredictor(Served(), ["true", "false"])
        more = {"extractor": "The answer is", "num_train": 3}
        optimizer = searcher(llm, predictor=served, model=lm, config=SETTINGS | more)
        assert [len(layouts) for layouts in optimizer._begun.values()] == [3]
        found = optimizer.optimize(n_steps=1)
        assert optimizer.engine is not llm.engine
        assert len(found) > 1
        derived = searcher(llm, predictor=served, model=lm, config=SETTINGS)
        (layouts,) = derived._begun.values()
        assert layouts.extractor.is_derived
        assert layouts.stop is None

    def test_what_it_refuses(self, llm: GreaterLLM, merging: GreaterLLM) -> None:
        ends = "Think step by step."
        with pytest.raises(ValueError, match=r"no initial prompt .* downstream_template="):
            searcher(merging, ends)
        searcher(merging, Prompt(ends, downstream_template="<instruction> Input:"))
        with pytest.raises(ValueError, match="model: got none beside a predictor that asks Served"):
            searcher(llm, predictor=MarkerBasedPredictor(Served()))
        for y in ("", " "):
            empty = frame().assign(y=y)
            with pytest.raises(ValueError, match="task: its rows have no gold answers"):
                searcher(llm, task=ClassificationTask(empty))
        twice = pd.concat([frame(), frame(2)])
        with pytest.raises(ValueError, match="task: got 6 inputs and 8 answers"):
            searcher(llm, task=ClassificationTask(twice))
        missing = frame().assign(y=[*frame(5).y, None])
        with pytest.raises(ValueError, match="task: its rows have no gold answers"):
            searcher(llm, task=ClassificationTask(missing))
        with pytest.raises(ValueError, match="task: it has no rows"):
            searcher(llm, task=ClassificationTask(frame(0).astype(str)))
        for none in ([], ""):
            with pytest.raises(
                ValueError, match=r"initial_prompts: got .*, expected a list of one"
            ):
                GReaTer(MarkerBasedPredictor(llm), task_of(), initial_prompts=none)
        with pytest.raises(ValueError, match=r"initial_prompts: got 'Think.', expected a list"):
            GReaTer(MarkerBasedPredictor(llm), task_of(), initial_prompts="Think.")

    @pytest.mark.parametrize("kind", [FirstOccurrencePredictor, MarkerBasedPredictor])
    def test_classes_that_no_gold_answer_is_are_refused(self, llm: GreaterLLM, kind: Any) -> None:
        with pytest.raises(
            ValueError, match=r"task: 6 of 6 rows .* never reads, .* 'false'.* yes, no:"
        ):
            searcher(llm, predictor=kind(llm, classes=["yes", "no"]))
        with pytest.raises(ValueError, match=r"of its classes it reads \(none\)"):
            searcher(llm, predictor=kind(llm, classes=[]))
        some = sum(y == "False" for y in frame().y)
        assert 0 < some < 6
        with pytest.warns(RuntimeWarning, match=rf"task: {some} of 6 rows .* the first is 'false'"):
            searcher(llm, predictor=kind(llm, classes=["true", "maybe"]))
        searcher(llm, predictor=kind(llm, classes=["true", "false", "maybe"]))
        searcher(  # the metric says what is right
            llm,
            predictor=kind(llm, classes=["yes", "no"]),
            task=task_of(
                metric=lambda golds, read: float((golds == ["true"]) == (read == ["yes"]))
            ),
        )

    def test_a_class_of_two_words_is_read_in_a_marker_alone(self, llm: GreaterLLM) -> None:
        task = ClassificationTask(frame().assign(y=["yes", *["it is not"] * 5]), "Say it.")
        classes = ["yes", "it is not"]
        searcher(llm, task=task, predictor=MarkerBasedPredictor(llm, classes))
        with pytest.warns(RuntimeWarning, match="task: 5 of 6 rows .* 'it is not'; .* reads yes:"):
            searcher(llm, task=task, predictor=FirstOccurrencePredictor(llm, classes))


class Served:
    """A model that answers elsewhere: the first class, always."""

    tokenizer = None

    def get_response(self, prompts: list[str], system_prompts: Any = None) -> list[str]:
        return ["It is true." for _ in prompts]


def around(lm: LM) -> Any:
    """A row's text as a predictor sends it, by the template alone."""

    def made(row: gf.Example) -> tuple[str, str]:
        turns = [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": f"@@@\n{row.question}"},
        ]
        text = lm.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        before, _, after = text.partition("@@@")
        return before, after

    return made


def test_an_experiment_takes_it_by_name(model_folder: Path, tmp_path: Path) -> None:
    from omegaconf import OmegaConf
    from promptolution.experiment.launch import launch

    frame(10).to_csv(tmp_path / "rows.csv", index=False)
    ours = "greater_fast.front_ends.promptolution"
    config = {
        "name": "first",
        "out_dir": str(tmp_path / "out"),
        "skip_completed": True,
        "random_seed": 42,
        "n_steps": 1,
        "test_frac": 0.4,
        "llm": {"_target_": f"{ours}.GreaterLLM", "model": str(model_folder), "config": SETTINGS},
        "meta_llm": None,
        "optimizer": {"_target_": f"{ours}.GReaTer", "initial_prompts": [PROMPT]},
        "task": {
            "_target_": "promptolution.tasks.ClassificationTask",
            "x_column": "x",
            "y_column": "y",
            "task_description": "Is it true?",
            "eval_strategy": "full",
        },
        "predictor": {"_target_": "promptolution.predictors.MarkerBasedPredictor"},
        "df": {
            "_target_": "pandas.read_csv",
            "filepath_or_buffer": str(tmp_path / "rows.csv"),
            "dtype": "str",
        },
    }
    scores = launch(OmegaConf.create(config))
    assert len(scores) > 1
    assert (tmp_path / "out" / ".finished").exists()


def test_the_example_runs(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(__file__).resolve().parents[2] / "examples" / "promptolution_search.py"
    spec = importlib.util.spec_from_file_location("promptolution_search", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(str(model_folder), num_train=4, num_test=4, num_steps=1, max_new_tokens=6)
    told = capsys.readouterr().out
    assert "4 unseen rows: " in told
    assert "tokens" in told


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "greater_fast.front_ends.promptolution")
    monkeypatch.setitem(sys.modules, "promptolution.utils.prompt", None)
    with pytest.raises(ImportError, match=r"pip install 'greater-fast\[promptolution\]'"):
        importlib.import_module("greater_fast.front_ends.promptolution")
