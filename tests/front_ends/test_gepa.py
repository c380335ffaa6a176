"""GEPA with our engine and proposals: the same answers as everywhere, no reflection model."""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gepa
import pytest
import torch

import greater_fast as gf
from greater_fast.engine import RolloutRequest
from greater_fast.examples.data import Example, load_examples
from greater_fast.front_ends.gepa import GReaTerAdapter, GReaTerProposer
from greater_fast.model.lm import LM
from greater_fast.search.optimizer import run, start
from greater_fast.search.state import LoopState
from tests.tiny import PROMPT

pytestmark = pytest.mark.front_ends

SETTINGS: dict[str, Any] = {
    "objective": "loss",
    "max_new_tokens": 6,
    "max_prompt_tokens": 40,
    "num_proposal_examples": 2,
    "num_draws": 3,
    "extractor": "The answer is",
}
SEED = "Read the question with care and give the answer."
TOO_LONG = "word " * 60


@pytest.fixture(scope="module")
def rows(labelled_rows: Callable[[str], list[dict[str, str]]]) -> list[Example]:
    """Ten rows that the tiny model answers right with the usual prompt."""
    return load_examples(labelled_rows(PROMPT)[:10])


@pytest.fixture
def adapter(lm: LM, rows: list[Example]) -> GReaTerAdapter:
    return GReaTerAdapter(lm, rows, config=SETTINGS)


class Quiet:
    """GEPA prints what it does, unless it is given a logger."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, message: str) -> None:
        self.lines.append(message)


def optimized(lm: LM, rows: Sequence[Example], **more: Any) -> Any:
    """40 metric calls of GEPA on 6 rows for training and 4 for validation."""
    adapter = GReaTerAdapter(lm, rows, config=SETTINGS)
    given: dict[str, Any] = {
        "adapter": adapter,
        "custom_candidate_proposer": adapter.proposer(rows[:6], steps=2),
        "reflection_minibatch_size": 3,
        "max_metric_calls": 40,
        "logger": Quiet(),
    }
    return gepa.optimize({"prompt": SEED}, list(rows[:6]), list(rows[6:]), **(given | more))


def watched(adapter: GReaTerAdapter, monkeypatch: pytest.MonkeyPatch) -> list[list[RolloutRequest]]:
    """What the adapter's engine is asked for, batch by batch."""
    batches: list[list[RolloutRequest]] = []
    run_batch = adapter.engine.run

    def told(requests: Sequence[RolloutRequest], *rest: Any) -> Any:
        batches.append(list(requests))
        return run_batch(requests, *rest)

    monkeypatch.setattr(adapter.engine, "run", told)
    return batches


class TestAdapter:
    def test_a_score_is_what_an_evaluation_says_of_the_row(
        self, lm: LM, adapter: GReaTerAdapter, rows: list[Example]
    ) -> None:
        for prompt in (PROMPT, SEED):
            expected = gf.evaluate(lm, rows, prompt=prompt, config=SETTINGS, progress=False)
            found = adapter.evaluate(rows, {"prompt": prompt}, capture_traces=True)
            assert found.scores == [float(r.correct) for r in expected.evaluation.rows]
            assert found.outputs == [r.predicted for r in expected.evaluation.rows]
            told = [(t.reasoning, t.predicted, t.gold, t.question) for t in found.trajectories]
            assert told == [
                (r.reasoning, r.predicted, r.gold, r.question) for r in expected.evaluation.rows
            ]
        assert adapter.evaluate(rows, {"prompt": PROMPT}).scores == [1.0] * 10

    def test_the_gold_answer_is_scored_behind_the_reasoning(
        self, lm: LM, adapter: GReaTerAdapter, rows: list[Example]
    ) -> None:
        found = adapter.evaluate(rows[:3], {"prompt": SEED})
        config = gf.Config.from_mapping(SETTINGS)
        extractor = gf.make_extractor("The answer is")
        layouts = gf.build_layouts(lm, rows[:3], SEED, extractor, config)
        for row, scores in enumerate(found.objective_scores):
            context = torch.tensor([layouts.context_ids(row, layouts.prompt_ids)])
            ends = [*lm.end_ids]
            written = lm.model.generate(
                context, max_new_tokens=6, do_sample=False, eos_token_id=ends, pad_token_id=2
            )[0, context.shape[1] :].tolist()
            reasoning = [i for i in written if i not in lm.end_ids]
            ids = torch.tensor([[*context[0].tolist(), *reasoning, *layouts.target_ids(row)]])
            logprobs = (lm.model(ids).logits[0] / config.temperature).log_softmax(-1)
            answer = layouts.rows[row].answer_ids
            at = range(ids.shape[1] - len(answer) - 1, ids.shape[1] - 1)
            expected = sum(float(logprobs[i, t]) for i, t in zip(at, answer, strict=True))
            assert scores["answer_logprob"] == pytest.approx(expected / len(answer), abs=1e-3)
            assert scores["accuracy"] == found.scores[row]

    def test_many_candidates_are_one_batch_with_the_bits_of_each_alone(
        self, adapter: GReaTerAdapter, rows: list[Example], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        texts = (PROMPT, SEED, TOO_LONG, "Think about the question.")
        items = [({"prompt": text}, rows[i : i + 6]) for i, text in enumerate(texts)]
        alone = [adapter.evaluate(batch, own, capture_traces=True) for own, batch in items]
        batches = watched(adapter, monkeypatch)
        assert adapter.batch_evaluate(items) == alone
        assert [len(batch) for batch in batches] == [18, 18]  # rollouts, then gold answers scored
        assert all(request.max_new_tokens == 0 for request in batches[1])
        assert {bits for each in alone for bits in each.scores} == {0.0, 1.0}
        assert adapter.batch_evaluate(items, capture_traces=False)[0].trajectories is None

    def test_trajectories_and_scores_are_of_the_rows_in_their_order(
        self, adapter: GReaTerAdapter, rows: list[Example]
    ) -> None:
        batch = [rows[4], rows[0], rows[4], rows[9]]
        found = adapter.evaluate(batch, {"prompt": SEED}, capture_traces=True)
        assert [t.question for t in found.trajectories] == [row.question for row in batch]
        assert [t.gold for t in found.trajectories] == [row.answer for row in batch]
        assert [t.predicted for t in found.trajectories] == found.outputs
        assert len(found.scores) == len(found.objective_scores) == 4
        assert found.scores[0] == found.scores[2]
        empty = adapter.evaluate([], {"prompt": SEED}, capture_traces=True)
        assert (empty.outputs, empty.scores, empty.trajectories) == ([], [], [])

    def test_samples_of_a_row_are_its_own_in_any_batch(self, lm: LM, rows: list[Example]) -> None:
        adapter = GReaTerAdapter(lm, rows, config=SETTINGS | {"sampling_temperature": 1.0})
        whole = adapter.evaluate(rows, {"prompt": SEED}, capture_traces=True)
        part = adapter.evaluate(rows[7:], {"prompt": SEED}, capture_traces=True)
        assert part.trajectories == whole.trajectories[7:]

    def test_what_a_reflection_model_is_told(
        self, adapter: GReaTerAdapter, rows: list[Example]
    ) -> None:
        candidate = {"prompt": SEED}
        found = adapter.evaluate(rows, candidate, capture_traces=True)
        told = adapter.make_reflective_dataset(candidate, found, ["prompt"])
        assert list(told) == ["prompt"]
        assert {0.0, 1.0} == set(found.scores)
        for record, score, row in zip(told["prompt"], found.scores, rows, strict=True):
            assert record["Inputs"] == {"question": row.question}
            assert record["Generated Outputs"].keys() == {"reasoning", "answer"}
            said = record["Feedback"]
            assert said.startswith("Right: " if score else "Wrong: ")
            assert row.answer in said
        assert any("cut off at 6 tokens" in record["Feedback"] for record in told["prompt"])
        nothing = adapter.evaluate(rows, candidate)
        assert adapter.make_reflective_dataset(candidate, nothing, ["prompt"]) == {"prompt": []}

    def test_a_metric_gives_values(self, lm: LM, rows: list[Example]) -> None:
        adapter = GReaTerAdapter(lm, rows, config=SETTINGS | {"metric": "contains"})
        found = adapter.evaluate(rows, {"prompt": PROMPT}, capture_traces=True)
        assert found.scores == [1.0] * 10
        assert "The answer is worth 1.00 of 1" in found.trajectories[0].feedback

    @pytest.mark.parametrize("text", [TOO_LONG, "", "word"])
    def test_a_text_that_cannot_be_the_prompt_scores_nothing_and_says_why(
        self, adapter: GReaTerAdapter, rows: list[Example], text: str
    ) -> None:
        with pytest.raises(ValueError, match=r"the prompt|prompt"):
            adapter.evaluate(rows, {"prompt": text})  # the first of all is the user's own
        adapter.evaluate(rows[:1], {"prompt": SEED})
        found = adapter.evaluate(rows, {"prompt": text}, capture_traces=True)
        assert found.scores == [0.0] * 10
        for trajectory, row in zip(found.trajectories, rows, strict=True):
            assert trajectory.question == row.question
            assert trajectory.feedback.startswith("This text cannot be used as the prompt: ")
        worst = min(s["answer_logprob"] for s in found.objective_scores)
        right = adapter.evaluate(rows, {"prompt": SEED}).objective_scores
        assert worst < min(s["answer_logprob"] for s in right)

    def test_what_it_refuses(self, lm: LM, rows: list[Example], adapter: GReaTerAdapter) -> None:
        with pytest.raises(ValueError, match="rows: expected a list of Example"):
            GReaTerAdapter(lm, [{"question": "a", "answer": "b"}])  # type: ignore[list-item]
        with pytest.raises(ValueError, match="rows: got none, expected those of training"):
            GReaTerAdapter(lm, [])
        with pytest.raises(ValueError, match="on_long: got 'drop'"):
            GReaTerAdapter(lm, rows, config={"on_long": "drop"})
        with pytest.raises(ValueError, match=r"component.*'other'"):
            adapter.evaluate(rows, {"other": SEED})
        with pytest.raises(ValueError, match="1 rows are not among the adapter's"):
            adapter.evaluate([rows[0], Example("new", "1")], {"prompt": SEED})
        with pytest.raises(ValueError, match="1 rows are not among the adapter's"):
            adapter.evaluate([{"question": "a"}], {"prompt": SEED})  # type: ignore[list-item]


def proposed(proposer: GReaTerProposer, text: str, **more: Any) -> dict[str, str]:
    return proposer({"prompt": text}, {"prompt": []}, ["prompt"], **more)


class TestProposer:
    @pytest.fixture
    def proposer(self, adapter: GReaTerAdapter, rows: list[Example]) -> GReaTerProposer:
        return adapter.proposer(rows[:6], steps=2)

    def test_it_proposes_what_the_search_finds(
        self, lm: LM, adapter: GReaTerAdapter, rows: list[Example], proposer: GReaTerProposer
    ) -> None:
        layouts = gf.build_layouts(
            lm, rows[:6], SEED, gf.make_extractor("The answer is"), adapter.config
        )
        config = gf.Config(**adapter.config.to_dict() | {"steps": 2})
        found = gf.find_prompts(adapter.engine, layouts, config)
        assert found.best.objective < found.initial.objective  # there is something to find
        text = proposed(proposer, SEED, metadata={"of": "a later version"})["prompt"]
        assert text == found.best.prompt
        ids = layouts.with_prompt(text).prompt_ids
        assert ids == found.best.prompt_ids
        assert sum(a != b for a, b in zip(ids, layouts.prompt_ids, strict=False)) >= 1

    def test_its_tokens_are_those_that_the_engine_generates_for_it(
        self, adapter: GReaTerAdapter, rows: list[Example], proposer: GReaTerProposer
    ) -> None:
        engine, total = adapter.engine, 0
        for text in (SEED, PROMPT, SEED):
            before = engine.num_generated_tokens
            proposed(proposer, text)
            total += engine.num_generated_tokens - before
            assert proposer.num_generated_tokens == total
            adapter.evaluate(rows, {"prompt": text})  # which is no cost of the proposer's
        assert 0 < total < engine.num_generated_tokens

    def test_it_goes_on_in_the_parents_text_and_proposes_nothing_twice(
        self, adapter: GReaTerAdapter, rows: list[Example], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        proposer = adapter.proposer(rows[:6], steps=1)
        batches = watched(adapter, monkeypatch)
        parent = adapter._layouts.with_prompt(SEED).prompt_ids
        places, texts = [], []
        for _ in range(5):
            batches.clear()
            texts += proposed(proposer, SEED).values()
            tried = {
                request.prompt_ids[slice(*request.prompt_span)]
                for batch in batches
                for request in batch
            } - {parent}
            changed = [
                {i for i, (a, b) in enumerate(zip(ids, parent, strict=True)) if a != b}
                for ids in tried
            ]
            assert len({*map(frozenset, changed)}) == 1, changed  # one place at a time
            places += changed[0]
        assert places == [0, 1, 2, 3, 4]  # from the parent's own text, whatever was proposed
        assert len(set(texts)) == len(texts) > 0

    def test_all_better_prompts_are_proposed_the_best_first(
        self, adapter: GReaTerAdapter, rows: list[Example]
    ) -> None:
        """Of each call: the best of all scored so far that has not been proposed, till none is."""
        proposer = adapter.proposer(rows[:6], steps=2)
        parent = adapter._layouts.with_prompt(SEED).prompt_ids
        texts: list[str] = []
        while answer := proposed(proposer, SEED):
            text = answer["prompt"]
            objectives = {
                adapter._layouts.prompt_text(ids): scored.objective.value(adapter.config)
                for ids, scored in proposer._known.items()
                if ids != parent
            }
            left = {own: value for own, value in objectives.items() if own not in texts}
            assert left[text] == min(left.values())
            texts.append(text)
        own = proposer._known[parent].objective.value(adapter.config)
        better = {text for text, value in objectives.items() if value < own - 1e-6}
        assert set(texts) == better
        assert len(texts) == len(better) > 11  # its 11 places alone give as many at most

    def test_a_text_that_is_a_parent_is_not_proposed(
        self, adapter: GReaTerAdapter, rows: list[Example]
    ) -> None:
        first = proposed(adapter.proposer(rows[:6], steps=2), SEED)["prompt"]
        proposer = adapter.proposer(rows[:6], steps=2)
        proposed(proposer, first)  # GEPA has it from elsewhere
        texts = [text for _ in range(3) for text in proposed(proposer, SEED).values()]
        assert texts
        assert first not in texts

    def test_what_is_known_is_not_run_again(
        self, adapter: GReaTerAdapter, rows: list[Example], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        proposer = adapter.proposer(rows[:6], steps=2)
        child = proposed(proposer, SEED)["prompt"]
        batches = watched(adapter, monkeypatch)
        proposed(proposer, child)
        ids = adapter._layouts.with_prompt(child).prompt_ids
        run_again = [
            request
            for batch in batches
            for request in batch
            if request.prompt_ids[slice(*request.prompt_span)] == ids and request.num_scored
        ]
        assert run_again == []

    def test_nothing_better_proposes_nothing(
        self, lm: LM, adapter: GReaTerAdapter, rows: list[Example]
    ) -> None:
        """From the best of a whole search on these rows nothing is left to be found."""
        config = gf.Config(**adapter.config.to_dict() | {"steps": 40})
        layouts = gf.build_layouts(lm, rows[:2], SEED, gf.make_extractor("The answer is"), config)
        state: LoopState = start(adapter.engine, layouts, config)
        run(adapter.engine, layouts, config, state, lambda _: False)
        (best,) = state.best(1, config)
        text = layouts.prompt_text(best.prompt_ids)
        proposer = GReaTerProposer(adapter.engine, layouts, adapter.config, steps=1)
        answers = [proposed(proposer, text) for _ in range(3)]
        assert {} in answers
        for answer in answers:
            assert answer.get("prompt") != text

    def test_components(self, adapter: GReaTerAdapter, rows: list[Example]) -> None:
        layouts = adapter.proposer(rows[:6])._layouts
        given = (adapter.engine, layouts, adapter.config)
        two = {"first": SEED, "second": "Summarise the text."}
        named = GReaTerProposer(*given, component="first", steps=2)
        assert named(two, {}, ["second"]) == {}
        assert named(two, {}, ["first", "second"]).keys() == {"first"}
        for name in (None, "prompt"):
            proposer, said = GReaTerProposer(*given, component=name), rf"component: got {name!r}.*"
            match = rf"{said}'first', 'second'"
            with pytest.warns(RuntimeWarning, match=match), pytest.raises(ValueError, match=match):
                proposer(two, {}, ["first"])
            with pytest.raises(ValueError, match=match):  # the warning is given once
                proposer(two, {}, ["first"])
        with pytest.raises(ValueError, match="steps: got 0, expected 1 or more"):
            GReaTerProposer(*given, steps=0)
        with (
            pytest.warns(RuntimeWarning, match="ValueError: .*prompt"),
            pytest.raises(ValueError, match="prompt"),
        ):
            GReaTerProposer(*given)({"prompt": TOO_LONG}, {}, ["prompt"])
        with pytest.raises(ValueError, match="layouts: got no row"):
            adapter.proposer([])


class TestOptimize:
    def test_the_same_seed_gives_the_same_result(self, lm: LM, rows: list[Example]) -> None:
        first, second = (
            optimized(lm, rows, acceptance_criterion="improvement_or_equal") for _ in range(2)
        )
        assert first.candidates == second.candidates
        assert first.val_aggregate_scores == second.val_aggregate_scores
        assert first.parents == second.parents
        assert len(first.candidates) > 1  # something was found, and taken

    def test_the_best_candidate_is_no_worse_and_tokenises_to_itself(
        self, lm: LM, rows: list[Example], adapter: GReaTerAdapter
    ) -> None:
        more = {"acceptance_criterion": "improvement_or_equal", "frontier_type": "hybrid"}
        result = optimized(lm, rows, **more)
        assert result.candidates[0] == {"prompt": SEED}
        scores = result.val_aggregate_scores
        assert scores[result.best_idx] >= scores[0]
        layouts = adapter._layouts.with_prompt(result.best_candidate["prompt"])
        assert layouts.prompt_text(layouts.prompt_ids) == result.best_candidate["prompt"]
        assert layouts.round_trips([layouts.prompt_ids]) == [True]
        found = adapter.evaluate(rows[6:], result.best_candidate)
        assert sum(found.scores) / 4 == scores[result.best_idx]
        own = result.val_aggregate_subscores[result.best_idx]
        assert own["accuracy"] == scores[result.best_idx]

    def test_another_reflection_model_goes_with_the_adapter(
        self, lm: LM, rows: list[Example]
    ) -> None:
        asked: list[str] = []

        def reflection_lm(prompt: Any) -> str:
            asked.append(str(prompt))
            return f"```\n{PROMPT if len(asked) > 1 else TOO_LONG}\n```"

        result = optimized(lm, rows, custom_candidate_proposer=None, reflection_lm=reflection_lm)
        assert result.best_candidate["prompt"] == PROMPT  # on which all rows are right
        assert result.val_aggregate_scores[result.best_idx] == 1.0
        assert "Wrong: the answer is" in asked[0]
        assert SEED in asked[0]

    def test_what_the_proposer_raises_is_warned_of_where_gepa_goes_on(
        self, lm: LM, rows: list[Example], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(*_: Any, **__: Any) -> Any:
            raise MemoryError("the gradient does not fit")

        monkeypatch.setattr("greater_fast.front_ends.gepa.proposer.find_prompts", fails)
        logger = Quiet()
        match = "no proposal was made: MemoryError: the gradient does not fit"
        with pytest.warns(RuntimeWarning, match=match) as told:
            result = optimized(lm, rows, logger=logger)
        assert len([each for each in told if "no proposal" in str(each.message)]) == 1
        assert len(result.candidates) == 1
        assert any("MemoryError" in line or "does not fit" in line for line in logger.lines)

    def test_a_run_goes_on_from_its_folder(
        self, lm: LM, rows: list[Example], tmp_path: Path
    ) -> None:
        folder = str(tmp_path / "gepa")
        first = optimized(lm, rows, run_dir=folder, max_metric_calls=20, track_best_outputs=True)
        second = optimized(lm, rows, run_dir=folder, max_metric_calls=40, track_best_outputs=True)
        known = len(first.candidates)
        assert second.candidates[:known] == first.candidates
        assert second.total_metric_calls >= 40 > first.total_metric_calls >= 20


class Answering:
    """An engine of DSPy's: right on each question where the instructions are other than given."""

    def __init__(self, rows: Sequence[Example]) -> None:
        self.rows = rows

    def complete(self, request: Any) -> Any:
        from dspy.lm15 import Message, Response, TextPart, Usage

        system = request.system if isinstance(request.system, str) else request.system[0].text
        asked = request.messages[-1].text
        (row,) = [row for row in self.rows if row.question in asked]
        answer = "nothing" if SEED in system else row.answer
        text = f"[[ ## answer ## ]]\n{answer}\n\n[[ ## completed ## ]]"
        return Response(
            id=None,
            model="answering",
            message=Message.assistant([TextPart(text)]),
            finish_reason="stop",
            usage=Usage(input_tokens=0, output_tokens=0, total_tokens=0),
        )


def test_the_same_object_proposes_for_dspy(
    lm: LM, adapter: GReaTerAdapter, rows: list[Example]
) -> None:
    import dspy

    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    program = dspy.Predict(dspy.Signature("question -> answer", SEED))
    sets = [dspy.Example(question=r.question, answer=r.answer) for r in rows]
    sets = [example.with_inputs("question") for example in sets]

    def metric(
        gold: Any, pred: Any, trace: Any = None, name: Any = None, seen: Any = None
    ) -> float:
        return float(gold.answer == pred.answer)

    proposer = GReaTerProposer(
        adapter.engine, adapter.proposer(rows[:6])._layouts, adapter.config, steps=2
    )
    optimizer = dspy.GEPA(
        metric=metric, instruction_proposer=proposer, max_metric_calls=40, num_threads=1
    )
    with dspy.context(lm=dspy.LM("answering", engine=Answering(rows))):
        better = optimizer.compile(program, trainset=sets[:6], valset=sets[6:])
    found = better.signature.instructions
    assert found != SEED == program.signature.instructions
    assert found == proposed(adapter.proposer(rows[:6], steps=2), SEED)["prompt"]
    layouts = adapter._layouts.with_prompt(found)
    assert layouts.round_trips([layouts.prompt_ids]) == [True]


@pytest.mark.filterwarnings("ignore:all .* training rows are wrong:RuntimeWarning")  # tiny model
def test_the_example_runs(
    model_folder: Path, short_runs: None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(__file__).resolve().parents[2] / "examples" / "gepa_search.py"
    spec = importlib.util.spec_from_file_location("gepa_search", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(str(model_folder), num_train=4, num_test=4, max_metric_calls=12)
    told = capsys.readouterr().out
    assert "4 unseen rows: " in told
    assert "tokens generated: " in told
    module.Errors().log("Iteration 3: Selected program 0")
    assert capsys.readouterr().out == ""
    module.Errors().log("Per-task reflection failed: it does not fit")
    assert "it does not fit" in capsys.readouterr().out


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.startswith("greater_fast.front_ends.gepa")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gepa.core.adapter", None)
    with pytest.raises(ImportError, match=r"pip install 'greater-fast\[gepa\]'"):
        importlib.import_module("greater_fast.front_ends.gepa")
