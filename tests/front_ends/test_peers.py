"""The comparison with promptolution's optimizers runs, is resumed, and counts what it says."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from promptolution.utils.prompt import Prompt

import greater_fast as gf
from benchmarks import peers
from benchmarks.evidence.effect_cells import Budget, Cell, Cost, Log, Outcome
from benchmarks.evidence.peers.arms import ARMS, GIVEN, SEARCHES, Bench, PeerSettings, Place
from greater_fast.examples.layout import Layouts
from greater_fast.model.lm import LM, load_lm
from greater_fast.runs.evaluation import RowRecord, evaluate_prompt
from tests.docs.pages import ROOT
from tests.tiny import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.front_ends

TASK = "boolean_expressions"


@pytest.fixture(scope="module")
def folder(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with room for the peers' meta prompts, which are long."""
    copy = tmp_path_factory.mktemp("roomy") / "tiny"
    shutil.copytree(model_folder, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 8192}))
    return copy


@pytest.fixture(scope="module")
def roomy(folder: Path) -> LM:
    return load_lm(str(folder))


def settings(**more: Any) -> PeerSettings:
    return PeerSettings(**({"model": "tiny"} | peers._SMOKE | more))


# CAPO compares prompts whose scores differ by their lengths alone: scipy says so.
@pytest.mark.filterwarnings("ignore:Precision loss occurred in moment calculation:RuntimeWarning")
def test_all_arms_run_and_what_is_done_is_not_done_again(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--smoke", "--model", str(folder), "--task", TASK, "--out", str(tmp_path)]
    peers.main([*command, "--minutes", "0"])
    assert "no search is done" in capsys.readouterr().out
    peers.main([*command, "--minutes", "1000"])
    told = capsys.readouterr().out
    for name in ARMS.values():
        assert f"seed 0, {name}: " in told
        assert f"| {name} | " in told
    (log,) = tmp_path.glob("*.jsonl")
    written = log.read_text()
    lines = [json.loads(line) for line in written.splitlines()]
    assert [line["cell"]["arm"] for line in lines] == list(ARMS)
    for line in lines:
        arm, outcome = line["cell"]["arm"], line["outcome"]
        assert line["cell"]["budget"]["kind"] == ("tokens" if arm in SEARCHES else "none")
        assert len(outcome["rows"]) == 6
        if arm in SEARCHES:
            assert outcome["search"]["tokens"] >= 400  # to the end of the budget
            assert outcome["search"]["forward_tokens"] > outcome["search"]["tokens"]
            assert outcome["stopped"].startswith("budget spent; ")
            asked_meta = " 0 tokens" not in outcome["stopped"]
            assert asked_meta == (arm != "greater")
            assert outcome["num_steps"] >= 1
            assert outcome["num_candidates"] > 0
        if arm != "initial":
            assert outcome["finals"]["tokens"] > 0
    peers.main([*command, "--minutes", "5"])
    assert "seed 0" not in capsys.readouterr().out
    assert log.read_text() == written
    peers.main([*command, "--minutes", "5", "--seeds", "3", "--arms", "initial"])
    assert "seed 3, first prompt: " in capsys.readouterr().out
    assert log.read_text().startswith(written)


def test_no_cell_begins_that_would_end_too_late(roomy: LM, tmp_path: Path) -> None:
    cells = peers.cells_of(TASK, [0], ["initial"], Budget("tokens", 1))
    log = Log(tmp_path, settings())
    assert list(peers.run_cells(Bench(roomy, settings()), cells, log, stop_at=0.0)) == []


def test_a_cell_that_fails_keeps_no_other_from_being_run(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = ["--smoke", "--model", str(folder), "--task", TASK, "--out", str(tmp_path)]
    command += ["--arms", "initial", "given"]
    run = Bench.run

    def fails(bench: Bench, cell: Cell) -> Outcome:
        if cell.arm == "initial":
            raise RuntimeError("a step failed after 0")
        return run(bench, cell)

    with monkeypatch.context() as patched:
        patched.setattr(Bench, "run", fails)
        assert peers.main(command) == 1
    told = capsys.readouterr().out
    assert "seed 0, first prompt: failed: RuntimeError('a step failed after 0')" in told
    assert f"seed 0, {ARMS['given']}: " in told
    (log,) = tmp_path.glob("*.jsonl")
    assert [json.loads(s)["cell"]["arm"] for s in log.read_text().splitlines()] == ["given"]
    assert peers.main(command) == 0  # what failed is tried again
    assert [json.loads(s)["cell"]["arm"] for s in log.read_text().splitlines()][1:] == ["initial"]


def test_given_prompts_that_cannot_be_searched_from_are_told_before_any_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tiny_tokenizer("llama3", more=["It is so.\nAnd so."] * 200)
    model = tiny_model("llama", len(tokenizer))
    model.config.max_position_embeddings = 8192
    monkeypatch.setattr(peers, "load_lm", lambda _: load_lm((model, tokenizer)))
    command = ["--smoke", "--task", TASK, "--out", str(tmp_path)]
    with pytest.raises(ValueError, match=r"model: no initial prompt .* greater out of --arms"):
        peers.main(command)
    assert list(tmp_path.glob("*.jsonl")) == []
    assert peers.main([*command, "--arms", "initial"]) == 0


def test_one_given_prompt_that_cannot_be_searched_from_is_one_too_many(
    roomy: LM, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, cell = Bench(roomy, settings()), Cell(task=TASK, seed=0, arm="greater")
    bench.check_given(cell)
    monkeypatch.setattr("benchmarks.evidence.peers.arms.GIVEN", (*GIVEN[:9], "word " * 200))
    with pytest.raises(ValueError, match="model: 1 of the given prompts cannot be searched from"):
        bench.check_given(cell)


def test_the_predictor_answers_as_an_evaluation_does(
    roomy: LM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On rows of which the even ones have what the model answers as their gold answer."""
    own = settings(max_new_tokens=6, num_test=12)
    place = Place(Bench(roomy, own), Cell(task=TASK, seed=0, arm="initial"))
    rows, prompt = list(place.splits.test), GIVEN[1]
    # Gold answers that the model has written would let it write longer ones.
    monkeypatch.setattr(Layouts, "answer_limit", place.predictor._max_answer_tokens)
    config = gf.Config(**place.predictor.llm.config.to_dict())
    turns = [{"role": "system", "content": "You are a helpful assistant."}]

    def around(row: gf.Example) -> tuple[str, str]:
        messages = [*turns, {"role": "user", "content": f"@@@\n{row.question}"}]
        text = roomy.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        before, _, after = text.partition("@@@")
        return before, after

    def expected() -> Sequence[RowRecord]:
        extractor = place.predictor.extractor
        layouts = gf.build_layouts(roomy, rows, prompt, extractor, config, around=around)
        engine = place.predictor.llm.engine
        return evaluate_prompt(engine, layouts, layouts.prompt_ids, config).rows

    for number, row in enumerate(expected()):
        if number % 2 == 0:
            rows[number] = gf.Example(row.question, row.predicted)
    told = expected()
    answers, _ = place.predictor.predict(prompt, [row.question for row in rows])
    assert answers == [row.predicted.lower() for row in told]
    found = place.scores([Prompt(prompt)], rows)
    assert found.shape == (1, 12)
    assert np.array_equal(found[0], [float(row.correct) for row in told])
    assert {*found[0]} == {0.0, 1.0}


def test_a_step_that_fails_is_no_outcome(roomy: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(roomy, settings())
    cell = Cell(task=TASK, seed=0, arm="opro", budget=Budget("tokens", 10**6))

    def fails(*_: Any, **__: Any) -> Any:
        raise OSError("the disk is gone")

    monkeypatch.setattr(bench.meta, "get_response", fails)
    with pytest.raises(RuntimeError, match=r"arm='opro'.*a step failed after 0"):
        bench.run(cell)


def test_the_table_has_paired_differences() -> None:
    budget = Budget("tokens", 100)
    outcomes = {}
    spent = [Cost(tokens=n, forward_tokens=9 * n, seconds=2.0) for n in (100, 110, 150)]
    for seed, (greater, capo) in enumerate([("1110", "1000"), ("1100", "1000"), ("1111", "0000")]):
        found = {"initial": "1000", "given": "1000", "greater": greater, "capo": capo}
        for arm, rows in found.items():
            own = Budget() if arm in ("initial", "given") else budget
            cell = Cell(task=TASK, seed=seed, arm=arm, budget=own)
            outcomes[cell] = Outcome(prompt="p", rows=rows, search=spent[seed])
    told = peers.report(outcomes, TASK, "tiny, cpu")
    assert "Too few to conclude: 0 seeds of a search, 4 are the least." in told  # no OPRO
    (line,) = [line for line in told.splitlines() if line.startswith("| CAPO |")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    # CAPO less GReaTer: -50, -25 and -100 points; t(2) = 4.303, s = 38.19, half = 94.9
    assert cells[:5] == ["CAPO", "16.7%", "-8.3 [-44.2, +27.5]", "-58.3 [-153.2, +36.5]", "3"]
    assert cells[5:8] == ["+50%", "120", "1,080"]
    titles = [cell.strip() for cell in told.splitlines()[4].strip("|").split("|")]
    assert titles[5:8] == ["over the budget, at most", "tokens, search", "forward tokens"]
    for name in ("first prompt", "best of the ten given"):
        (line,) = [line for line in told.splitlines() if line.startswith(f"| {name} |")]
        assert line.split("|")[6].strip() == "–"  # it has no budget
    assert "| GReaTer | 75.0% |" in told
    assert "OPRO" not in told


def test_enough_seeds_are_not_called_too_few() -> None:
    budget = Budget("tokens", 100)
    cells = peers.cells_of(TASK, range(peers.LEAST_SEEDS), list(ARMS), budget)
    outcomes = {cell: Outcome(prompt="p", rows="10", search=Cost(tokens=100)) for cell in cells}
    assert "Too few" not in peers.report(outcomes, TASK, "tiny, cpu")
    del outcomes[cells[-1]]
    assert "Too few to conclude: 3 seeds" in peers.report(outcomes, TASK, "tiny, cpu")


def test_the_page_shows_what_is_stored(capsys: pytest.CaptureFixture[str]) -> None:
    peers.main(["--minutes", "0", "--out", str(ROOT / "benchmarks/results/peers")])
    page = (ROOT / "docs/evidence/peers.md").read_text(encoding="utf-8").splitlines()
    printed = [line for line in capsys.readouterr().out.splitlines() if line]
    assert "| GReaTer |" in "\n".join(printed)
    assert [line for line in printed if line not in page] == []
