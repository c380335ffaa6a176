"""GreaterPrompt's programs, with another import."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from greater_fast import Config, build_layouts, find_prompts, make_engine, make_extractor
from greater_fast.examples.data import Example
from greater_fast.front_ends.greaterprompt import GreaterDataloader, GreaterOptimizer
from greater_fast.model.lm import LM
from tests.conftest import shared_data
from tests.tiny import PROMPT, boolean_rows

pytestmark = pytest.mark.front_ends
OTHER = "Think step by step and explain the answer."
EXTRACTOR = "\nNext, give only the answer:"
SHORT: dict[str, Any] = {"generate_config": {"max_new_tokens": 6}}
ROOT = Path(__file__).parents[2]


def rows_of(prompts: list[str], first: int = 0) -> list[dict[str, Any]]:
    pairs = boolean_rows(first + len(prompts))[first:]
    return [
        {"question": question, "prompt": prompt, "answer": answer}
        for (question, answer), prompt in zip(pairs, prompts, strict=True)
    ]


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """Six rows with two prompts by turns."""
    return rows_of([PROMPT, OTHER] * 3)


@pytest.fixture(scope="module")
def found(lm: LM, rows: list[dict[str, Any]]) -> Any:
    optimizer = GreaterOptimizer(
        model=lm.model,
        tokenizer=lm.tokenizer,
        optimize_config={"intersect_q": 2, "candidates_topk": 10, **SHORT},
    )
    return optimizer.optimize(GreaterDataloader(rows), p_extractor=EXTRACTOR, rounds=3)


def test_every_question_gets_its_prompts_from_the_best_on(found: Any, rows: Any) -> None:
    assert list(found) == [row["question"] for row in rows]
    for row in rows:
        prompts = found[row["question"]]
        assert all(type(text) is str and type(loss) is float for text, loss in prompts)
        assert len(prompts) > 1
        losses = [loss for _, loss in prompts]
        assert losses == sorted(losses)
        assert row["prompt"] in [text for text, _ in prompts]


def test_rows_of_one_prompt_share_a_search(found: Any, rows: Any) -> None:
    first, second, *others = (found[row["question"]] for row in rows)
    assert first != second
    assert others == [first, second, first, second]


def test_it_is_our_search_on_the_rows_of_a_prompt(found: Any, rows: Any, lm: LM) -> None:
    """The same by the parts that a front end takes, written out."""
    config = Config(
        objective="loss",
        temperature=1.0,
        fluency_weight=0.0,
        top_k=10,
        num_proposal_examples=2,
        steps=3,
        max_new_tokens=6,
    )
    examples = [Example(row["question"], row["answer"]) for row in rows[1::2]]
    layouts = build_layouts(lm, examples, OTHER, make_extractor(EXTRACTOR), config)
    engine, _ = make_engine(lm, config)
    expected = find_prompts(engine, layouts, config).prompts
    assert found[rows[1]["question"]] == [(p.prompt, p.answer_loss) for p in expected]


def test_prompts_stay_the_same_tokens(found: Any, rows: Any, lm: LM) -> None:
    for start, row in enumerate(rows[:2]):
        examples = [Example(r["question"], r["answer"]) for r in rows[start::2]]
        extractor = make_extractor(EXTRACTOR)
        for text, _ in found[row["question"]]:
            layouts = build_layouts(lm, examples, text, extractor, Config(max_new_tokens=6))
            assert layouts.round_trips([layouts.prompt_ids]) == [True]
            assert layouts.prompt_text(layouts.prompt_ids) == text


def test_losses_are_the_mean_cross_entropy_of_the_answers(found: Any, rows: Any, lm: LM) -> None:
    """By the model alone: the message, greedy reasoning, the extractor on a line, the answer."""
    tokenizer, own = lm.tokenizer, [row for row in rows if row["prompt"] == PROMPT]
    for text, loss in found[own[0]["question"]]:
        losses = []
        for row in own:
            turns = [{"role": "user", "content": f"{row['question']} {text}"}]
            context = tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True
            )
            ids = tokenizer(context, add_special_tokens=False).input_ids
            for _ in range(6):
                following = int(lm.model(torch.tensor([ids])).logits[0, -1].argmax())
                if following in lm.end_ids:
                    break
                ids.append(following)
            ids += tokenizer(EXTRACTOR, add_special_tokens=False).input_ids
            answer = tokenizer(f" {row['answer']}", add_special_tokens=False).input_ids
            logits = lm.model(torch.tensor([[*ids, *answer]])).logits[0]
            losses.append(F.cross_entropy(logits[len(ids) - 1 : -1], torch.tensor(answer)))
        assert loss == pytest.approx(float(torch.stack(losses).mean()), rel=1e-4)


def test_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    first = {"id": "a", "question": "Is it?", "prompt": PROMPT, "answer": "yes", "more": [1]}
    second = {"question": "One\u2028two?", "prompt": PROMPT, "answer": 2}
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(row, ensure_ascii=False) for row in (first, second)]
    path.write_text(f"\ufeff{lines[0]}\r\n\n{lines[1]}\n", encoding="utf-8")
    rows = GreaterDataloader(data_path=path)
    assert isinstance(rows, torch.utils.data.Dataset)
    assert rows.items == rows[:] == list(rows) == [first, second]
    assert (len(rows), rows[-1], rows[1:]) == (2, second, [second])


def test_given_rows_are_numbered() -> None:
    rows = rows_of([PROMPT] * 2)
    loaded = GreaterDataloader(custom_inputs=[{**rows[0], "note": 1}, {**rows[1], "id": "x"}])
    assert loaded.items == [{"id": "0", **rows[0]}, {"id": "x", **rows[1]}]


def test_without_settings_and_on_one_row(lm: LM) -> None:
    optimizer = GreaterOptimizer(lm.model, lm.tokenizer, {}, config={"max_new_tokens": 4})
    assert optimizer.config == Config(
        objective="loss",
        temperature=1.0,
        fluency_weight=0.0,
        top_k=3,
        num_proposal_examples=1,
        max_new_tokens=4,
    )
    (row,) = rows_of([PROMPT])
    (prompts,) = optimizer.optimize([row], EXTRACTOR, 1).values()
    assert prompts
    assert PROMPT in [text for text, _ in prompts]
    assert optimizer.notes[:2] == (
        "the prompts are chosen on the rows that they were searched on",
        "losses are the mean cross-entropy of the gold answers of these rows, in nats per token",
    )


def test_settings_are_ours_by_other_names(lm: LM) -> None:
    def config(**given: Any) -> Config:
        return GreaterOptimizer(lm.model, lm.tokenizer, given).config

    sampled = {"do_sample": True, "temperature": 0.2, "max_new_tokens": 9}
    assert config(generate_config=sampled).sampling_temperature == 0.2
    assert config(generate_config=sampled).max_new_tokens == 9
    assert config(generate_config={"do_sample": True}).sampling_temperature == 1.0
    assert config(generate_config={"temperature": 0.2}).sampling_temperature == 0.0
    assert config().max_new_tokens == 512
    assert config(perplexity_loss=True).fluency_weight == 0.2
    assert config(perplexity_loss=True, perplexity_lambda=0.5).fluency_weight == 0.5
    assert config(perplexity_lambda=0.5).fluency_weight == 0.0
    assert config(filter=True, loss_function=F.cross_entropy) == config()


def test_prompts_come_by_the_answers_loss_whatever_was_minimised(lm: LM, rows: Any) -> None:
    given = {"perplexity_loss": True, "perplexity_lambda": 50.0, "candidates_topk": 10, **SHORT}
    optimizer = GreaterOptimizer(lm.model, lm.tokenizer, given)
    prompts = optimizer.optimize(rows[:3:2], EXTRACTOR, 4)[rows[0]["question"]]
    losses = [loss for _, loss in prompts]
    assert losses == sorted(losses)
    assert any("perplexity" in note for note in optimizer.notes)


def test_a_loss_function_may_give_a_value_for_each_token(lm: LM, rows: Any) -> None:
    """It steers the search as its mean does, which another loss does not."""
    seen: list[tuple[int, ...]] = []

    def each(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(logits.shape))
        return F.cross_entropy(logits, ids, reduction="none")

    def search(loss: Any) -> Any:
        given = {"loss_function": loss, "intersect_q": 2, "candidates_topk": 10, **SHORT}
        optimizer = GreaterOptimizer(lm.model, lm.tokenizer, given)
        return optimizer.optimize(rows[:3:2], EXTRACTOR, 3), optimizer.notes

    plain, notes = search(None)
    found, own_notes = search(each)
    assert found == plain
    assert seen
    assert {len(shape) for shape in seen} == {2}
    assert search(lambda logits, ids: -each(logits, ids))[0] != plain
    assert len(own_notes) == len(notes) + 1
    assert any(note.startswith("loss_function: ") for note in own_notes)


def test_a_question_of_two_prompts_gets_the_prompts_of_both(lm: LM) -> None:
    row = rows_of([PROMPT])[0]
    optimizer = GreaterOptimizer(lm.model, lm.tokenizer, SHORT)
    found = optimizer.optimize([row, {**row, "prompt": OTHER}], EXTRACTOR, 1)
    assert list(found) == [row["question"]]
    (prompts,) = found.values()
    assert {PROMPT, OTHER} <= {text for text, _ in prompts}
    assert [loss for _, loss in prompts] == sorted(loss for _, loss in prompts)


def test_a_row_that_is_too_long_for_the_search_gets_its_prompts(lm: LM) -> None:
    rows = rows_of([PROMPT] * 3)
    rows[1]["question"] += " Is it so?" * 400
    optimizer = GreaterOptimizer(lm.model, lm.tokenizer, SHORT, config={"on_long": "drop"})
    found = optimizer.optimize(rows, EXTRACTOR, 1)
    first, second, third = found.values()
    assert first
    assert first == second == third
    optimizer = GreaterOptimizer(lm.model, lm.tokenizer, SHORT)
    with pytest.raises(ValueError, match="row 1"):
        optimizer.optimize(rows, EXTRACTOR, 1)


def test_progress_is_told_as_their_page_wants_it(
    lm: LM, rows: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    heard: list[tuple[float, dict[str, Any]]] = []
    given = {"intersect_q": 2, "candidates_topk": 10, **SHORT}
    optimizer = GreaterOptimizer(lm.model, lm.tokenizer, given)

    def callback(progress: float, info: dict[str, Any]) -> bool:
        heard.append((progress, info))
        return True  # which ends nothing

    by_page = optimizer.optimize_streamlit(
        inputs=rows, p_extractor=EXTRACTOR, rounds=3, callback=callback
    )
    assert capsys.readouterr().err == ""
    assert by_page == optimizer.optimize_streamlit(rows, EXTRACTOR, 3)
    shares = [share for share, _ in heard]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert heard[-1] == (1.0, {"status": "complete"})
    told = [info for _, info in heard[:-1]]
    assert all(info.keys() == {*told[0]} for info in told)
    assert [(i["batch"], i["round"]) for i in told] == [(b, r) for b in (1, 2) for r in (1, 2, 3)]
    assert {(i["total_batches"], i["total_rounds"]) for i in told} == {(2, 3)}
    for first, *later in (told[:3], told[3:]):
        assert first["loss"] is None
        losses = [info["loss"] for info in later]
        assert losses == sorted(losses, reverse=True)
    assert by_page == optimizer.optimize(rows, EXTRACTOR, 3)
    assert "step 1 of 3" in capsys.readouterr().err


def test_what_a_callback_raises_ends_it(lm: LM, rows: Any) -> None:
    optimizer = GreaterOptimizer(lm.model, lm.tokenizer, SHORT)

    def stop(progress: float, info: dict[str, Any]) -> None:
        if progress > 0:
            raise RuntimeError("the page was closed")

    with pytest.raises(RuntimeError, match="the page was closed"):
        optimizer.optimize_streamlit(rows, EXTRACTOR, 2, stop)


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_searches_that_ended_outlive_a_later_one(
    lm: LM, rows: Any, kind: type[BaseException]
) -> None:
    given = {"intersect_q": 2, "candidates_topk": 10, **SHORT}
    optimizer = GreaterOptimizer(lm.model, lm.tokenizer, given)
    assert optimizer.found == {}
    complete = optimizer.optimize(rows, EXTRACTOR, 2)
    assert optimizer.found == complete

    def stop_in(batch: int, number: int) -> list[str]:
        def stop(_: float, info: dict[str, Any]) -> None:
            if (info["batch"], info["round"]) == (batch, number):
                raise kind

        with pytest.raises(kind) as raised:
            optimizer.optimize_streamlit(rows, EXTRACTOR, 2, stop)
        return list(getattr(raised.value, "__notes__", ()))

    nothing: dict[str, Any] = {row["question"]: [] for row in rows}
    first = {row["question"]: complete[row["question"]] for row in rows[::2]}
    note = "1 of 2 searches had ended: what they found is in the optimizer's `found`"
    for number in (1, 2):
        assert note in stop_in(2, number)
        assert optimizer.found == nothing | first
    assert not any("had ended" in line for line in stop_in(1, 2))
    assert optimizer.found == nothing


def test_rows_may_come_from_whatever_gives_them(lm: LM, rows: Any) -> None:
    optimizer = GreaterOptimizer(lm.model, lm.tokenizer, SHORT)
    expected = optimizer.optimize(rows[:4:2], EXTRACTOR, 1)
    subset = torch.utils.data.Subset(GreaterDataloader(rows), [0, 2])
    assert optimizer.optimize(subset, EXTRACTOR, 1) == expected
    assert optimizer.optimize((row for row in rows[:4:2]), EXTRACTOR, 1) == expected
    part, _ = torch.utils.data.random_split(GreaterDataloader(rows[:4:2]), [2, 0])
    assert optimizer.optimize(part, EXTRACTOR, 1).keys() == expected.keys()
    with pytest.raises(ValueError, match="inputs: got 3, expected rows"):
        optimizer.optimize(3, EXTRACTOR, 1)  # type: ignore[arg-type]


def test_the_model_is_frozen_as_it_was_loaded(own_lm: LM) -> None:
    model = own_lm.model.train()
    model.requires_grad_(True)
    GreaterOptimizer(model, own_lm.tokenizer)
    assert not model.training
    assert not any(weight.requires_grad for weight in model.parameters())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"generate_config": {"top_p": 0.9}}, "generate_config: got 'top_p'"),
        ({"generate_config": {"max_tokens": 9}}, "did you mean max_new_tokens"),
        ({"generate_config": {"do_sample": "yes"}}, "do_sample: got 'yes', expected True or False"),
        ({"generate_config": None}, "generate_config: got None, expected a dict"),
        (
            {"generate_config": {"do_sample": True, "temperature": -1}},
            "temperature, our sampling_temperature: got -1",
        ),
        ({"intersection": True}, "got 'intersection', did you mean intersect_q"),
        ({"intersect_q": 0}, "intersect_q, our num_proposal_examples: got 0"),
        ({"candidates_topk": "10"}, "candidates_topk, our top_k: got '10'"),
        (
            {"perplexity_loss": True, "perplexity_lambda": -1.0},
            "perplexity_lambda, our fluency_weight: got -1.0",
        ),
        ({"perplexity_loss": 1}, "perplexity_loss: got 1, expected True or False"),
        ({"loss_function": "mse"}, "loss_function: got 'mse', expected a function"),
        (["intersect_q"], "optimize_config: got .*, expected a dict"),
    ],
)
def test_settings_that_are_refused(lm: LM, given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GreaterOptimizer(lm.model, lm.tokenizer, given)


def test_our_own_settings_are_refused_by_their_own_names(lm: LM) -> None:
    with pytest.raises(ValueError, match=r"invalid settings: top_k: got 0"):
        GreaterOptimizer(lm.model, lm.tokenizer, {"candidates_topk": 5}, config={"top_k": 0})
    with pytest.raises(ValueError, match="tokn: unknown"):
        GreaterOptimizer(lm.model, lm.tokenizer, config={"tokn": 0})


@pytest.mark.parametrize(
    ("name", "value", "decides"),
    [
        ("steps", 9, "rounds decides"),
        ("extractor", "So:", "p_extractor decides"),
        ("num_train", 2, "inputs decides"),
        ("num_dev", 2, "inputs decides"),
        ("template", "{question}", "a row's question decides"),
        ("metric", "contains", "the cross-entropy of the gold answers"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(
    lm: LM, name: str, value: Any, decides: str
) -> None:
    message = f"{name}: got {value!r}, expected none: here {decides}"
    with pytest.raises(ValueError, match=re.escape(message)):
        GreaterOptimizer(lm.model, lm.tokenizer, config={"objective": "error", name: value})


def test_a_model_by_name_is_of_the_device_and_type_asked_for(model_folder: Path, lm: LM) -> None:
    given = {"device": "cpu", "dtype": "float64"}
    optimizer = GreaterOptimizer(model_folder, lm.tokenizer, config=given)
    assert optimizer.lm.model.dtype == torch.float64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": None}, "row 1 of inputs: prompt: got None"),
        ({"question": " "}, "row 1 of inputs: question: got ' '"),
        ({"answer": ["24"]}, "row 1 of inputs: answer: got "),
        ({"prompt": "Think"}, "expected 2 to"),
    ],
)
def test_rows_that_are_refused(lm: LM, change: dict[str, Any], message: str) -> None:
    first, second = rows_of([PROMPT] * 2)
    optimizer = GreaterOptimizer(lm.model, lm.tokenizer, SHORT)
    with pytest.raises(ValueError, match=message):
        optimizer.optimize([first, {**second, **change}], EXTRACTOR, 1)


def test_calls_that_are_refused(lm: LM, rows: Any) -> None:
    optimizer = GreaterOptimizer(lm.model, lm.tokenizer, SHORT)
    with pytest.raises(ValueError, match="no rows"):
        optimizer.optimize([], EXTRACTOR, 1)
    with pytest.raises(ValueError, match="row 0 of inputs: got 'question', expected a dict"):
        optimizer.optimize(["question"], EXTRACTOR, 1)  # type: ignore[list-item]
    for rounds in (0, 1.0, True):
        with pytest.raises(ValueError, match="rounds: got"):
            optimizer.optimize(rows, EXTRACTOR, rounds)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the extractor is empty"):
        optimizer.optimize(rows, " ", 1)
    for loss in (lambda logits, ids: 1.0, lambda logits, ids: logits.detach()):
        given = {**SHORT, "loss_function": loss}
        with pytest.raises(ValueError, match="loss: "):
            GreaterOptimizer(lm.model, lm.tokenizer, given).optimize(rows, EXTRACTOR, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"question": "a", "prompt": "b", "answer": 1}\n{"a"', "line 2: no JSON"),
        (
            '{"Ticket": "a", "Abteilung": "b"}\n',
            r"rows\.jsonl, line 1: got the columns Ticket, Abteilung, expected question, prompt, "
            "answer: rename them",
        ),
        ('{"question": "a", "prompt": " ", "answer": 1}', "line 1: prompt: got ' ', expected a"),
        ("", r"data_path: .*rows\.jsonl: got no rows, expected 1 or more"),
        ("\n \n", r"data_path: .*rows\.jsonl: got no rows, expected 1 or more"),
        ("[1]", r"line 1: got \[1\], expected an object"),
        ("\ud800", "cannot read"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(ValueError, match=message):
        GreaterDataloader(data_path=path)


def test_loaders_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot read .*none\.jsonl"):
        GreaterDataloader(data_path=str(tmp_path / "none.jsonl"))
    with pytest.raises(ValueError, match="one of custom_inputs and data_path"):
        GreaterDataloader()
    with pytest.raises(ValueError, match="row 1 of custom_inputs: got the columns question, prom"):
        GreaterDataloader([*rows_of([PROMPT]), {"question": "Is it?", "prompt": PROMPT}])
    with pytest.raises(ValueError, match="custom_inputs: got no rows, expected 1 or more"):
        GreaterDataloader([])
    with pytest.raises(ValueError, match=r"custom_inputs: got 'rows\.jsonl', .* is data_path"):
        GreaterDataloader("rows.jsonl")  # type: ignore[arg-type]


def test_a_placeholder_in_a_prompt_is_refused_and_an_empty_one_noted(lm: LM) -> None:
    optimizer = GreaterOptimizer(lm.model, lm.tokenizer, SHORT)
    with pytest.raises(ValueError, match=r"prompt: got the placeholder '\{question\}'"):
        optimizer.optimize(rows_of(["Answer this {question} now"]), EXTRACTOR, 1)
    optimizer.optimize(rows_of(["Answer this {} now"]), EXTRACTOR, 1)
    assert any(note.startswith("prompt: {} stays in it as it is") for note in optimizer.notes)


def test_arguments_that_they_do_not_read_are_told(lm: LM) -> None:
    with pytest.warns(RuntimeWarning, match="GreaterDataloader: shuffle without effect"):
        GreaterDataloader(rows_of([PROMPT]), shuffle=True)
    with pytest.warns(RuntimeWarning, match="GreaterOptimizer: argument 4 and verbose without"):
        GreaterOptimizer(lm.model, lm.tokenizer, {}, 1, verbose=True)


def test_their_other_optimizers_are_elsewhere() -> None:
    with pytest.raises(ImportError, match="import it from greaterprompt"):
        from greater_fast.front_ends.greaterprompt import TextGradOptimizer  # noqa: F401
    with pytest.raises(ImportError, match="cannot import name"):
        from greater_fast.front_ends.greaterprompt import NoOptimizer  # noqa: F401
    from greater_fast.front_ends.greaterprompt import optimizer

    assert optimizer.GreaterOptimizer is GreaterOptimizer
    assert optimizer.GreaterDataloader is GreaterDataloader


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("boolean_expressions", 5),
        ("date_understanding", 5),
        ("movie_recommendation", 250),
        ("multistep_arithmetic", 5),
    ],
)
def test_their_example_files_run_as_they_are(lm: LM, name: str, number: int) -> None:
    rows = GreaterDataloader(data_path=str(shared_data(f"GreaterPrompt/{name}.jsonl")))
    assert len(rows) == number
    given = {"intersect_q": 5, "candidates_topk": 3, "generate_config": {"max_new_tokens": 2}}
    optimizer = GreaterOptimizer(lm.model, lm.tokenizer, given, config={"shortlist_size": 1})
    found = optimizer.optimize(rows[:40], "\nNext, only give the exact answer:", 1)
    assert list(found) == list(dict.fromkeys(row["question"] for row in rows[:40]))
    assert all(prompts for prompts in found.values())


def test_the_example(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("example", ROOT / "examples" / "greaterprompt.py")
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    example.main(str(model_folder), num_rows=3, num_test=2, rounds=1, max_new_tokens=4)
    out = capsys.readouterr().out
    assert "rows never seen" in out
