"""Arguments, programs, rows, adapters and models that are refused."""

import copy
from typing import Any

import dspy
import pytest

from greater_fast.config import Config
from greater_fast.front_ends.dspy import GReaTer, local_lm
from greater_fast.model.lm import LM
from tests.front_ends.dspy_programs.programs import (
    SEARCH,
    Lenient,
    compiled,
    examples,
    odd,
    thought,
)
from tests.tiny import LLAMA3_TEMPLATE, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.front_ends


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"predictor": "other"}, r"predictor: got 'other', expected one of predict"),
        ({"answer_field": "question"}, r"answer_field: got 'question', .* gives reasoning, answer"),
        ({"config": {"extractor": "So:"}}, r"extractor: got 'So:', .* the adapter decides"),
        ({"config": {"chat_template_kwargs": {"a": 1}}}, r"chat_template_kwargs is the LM's"),
        ({"config": {"step": 1}}, r"step: unknown"),
        ({"config": {**SEARCH, "gradient": "both"}}, r"stop_texts: got some with gradient"),
        ({"config": {**SEARCH, "sampling_temperature": 1.0}}, r"sampling_temperature is the LM's"),
    ],
)
@pytest.mark.usefixtures("context")
def test_bad_arguments(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compiled(thought(), **given)


@pytest.mark.usefixtures("context")
def test_bad_programs() -> None:
    class Two(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = thought(), thought()

        def forward(self, question: str) -> Any:
            return self.first(question=question)

    with pytest.raises(ValueError, match=r"has 2 .*first.predict, second.predict.*predictor="):
        compiled(Two())
    with pytest.raises(ValueError, match=r"answers row 0 \(.*\) without asking second.predict"):
        compiled(Two(), predictor="second.predict")
    with pytest.raises(ValueError, match="no last line to begin a search from"):
        compiled(thought("Think.\n\n \n\x0b"))
    with pytest.raises(ValueError, match="has 1 tokens, expected 2"):
        compiled(thought("Think"))
    with pytest.raises(ValueError, match="name a special token"):
        compiled(thought("Think, and write <|eot_id|> then."))
    with pytest.raises(ValueError, match=r"of type list.*an answer of one line"):
        compiled(thought(fields="question -> answer: list[str]"))
    with pytest.raises(ValueError, match="teacher: got one"):
        GReaTer(odd).compile(thought(), trainset=examples(4), teacher=thought())
    with pytest.raises(ValueError, match="metric: got 5, expected a function of an example"):
        GReaTer(5)  # type: ignore[arg-type]


@pytest.mark.usefixtures("context")
def test_bad_rows() -> None:
    rows = examples(6)
    optimizer = GReaTer(odd, config=SEARCH)
    unlabelled = [*rows[:3], dspy.Example(question="So?").with_inputs("question")]
    with pytest.raises(ValueError, match="row 3 of trainset has no value of 'answer'"):
        optimizer.compile(thought(), trainset=unlabelled, valset=rows[4:])
    with pytest.raises(ValueError, match=r"row 3 of trainset: got dict, expected a dspy.Example"):
        optimizer.compile(thought(), trainset=[*rows[:3], {"question": "So?"}], valset=rows[4:])
    other = dspy.Example(text="So?", answer="True").with_inputs("text")
    with pytest.raises(
        ValueError, match=r"row 3 \(.*So\?.*\) leaves question of predictor predict"
    ):
        optimizer.compile(thought(), trainset=[*rows[:3], other], valset=rows[4:])
    with pytest.raises(
        ValueError, match=r"row 0 \(.*So\?.*\) leaves question of predictor predict"
    ):
        optimizer.compile(thought(), trainset=rows[:4], valset=[other])
    typed = thought(fields="question -> answer: Literal['True', 'False']")
    with pytest.raises(ValueError, match="config: got a Config, expected a mapping"):
        GReaTer(odd, config=Config())  # type: ignore[arg-type]
    odd_gold = dspy.Example(question="So?", answer="Maybe").with_inputs("question")
    with pytest.raises(ValueError, match=r"row 3 of trainset: answer: got 'Maybe', .*no reply"):
        optimizer.compile(typed, trainset=[*rows[:3], odd_gold], valset=rows[4:])
    long = [*rows[:3], dspy.Example(question="So?", answer="a\nb").with_inputs("question")]
    with pytest.raises(ValueError, match=r"ends an answer at .*the line's end"):
        optimizer.compile(thought(), trainset=long, valset=rows[4:])
    with pytest.raises(ValueError, match="trainset: 4 of its 4 rows are in the valset"):
        optimizer.compile(thought(), trainset=rows[:4], valset=rows[:4])
    with pytest.raises(ValueError, match="with_inputs"):
        optimizer.compile(thought(), trainset=[dspy.Example(question="So?", answer="a")] * 4)


class Twice(dspy.ChatAdapter):
    """Writes the instructions twice."""

    def format_task_description(self, signature: Any) -> str:
        return f"{signature.instructions}\n{signature.instructions}"


class Loud(dspy.ChatAdapter):
    """Changes the instructions."""

    def format_task_description(self, signature: Any) -> str:
        return f"Do: {signature.instructions}".replace("step", "stage")


class Nameless(dspy.ChatAdapter):
    """Has the answer alone, nothing before it."""

    def format_assistant_message_content(
        self, signature: Any, outputs: dict[str, Any], missing_field_message: Any = None
    ) -> str:
        return "".join(outputs.values())


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        (dspy.JSONAdapter(), "got JSONAdapter, which has answers escaped"),
        (dspy.TwoStepAdapter(dspy.LM("openai/none")), "got TwoStepAdapter"),
        (Nameless(), "does not write each output field once"),
        (Twice(), "stand 2 times in what is sent for row 0 of trainset"),
        (Loud(), "changes the instructions"),
    ],
)
def test_bad_adapters(asked: Any, adapter: Any, message: str) -> None:
    with dspy.context(lm=asked, adapter=adapter), pytest.raises(ValueError, match=message):
        compiled(thought())


def test_bad_models(attentive: LM) -> None:
    with dspy.context(lm=dspy.LM("openai/none")), pytest.raises(ValueError, match="the weights"):
        compiled(thought())
    with dspy.context(lm=None), pytest.raises(ValueError, match="no LM is configured"):
        compiled(thought(), model=attentive)
    with pytest.raises(ValueError, match="tensor_parallel: got True, but an LM of DSPy"):
        local_lm(attentive, config={"tensor_parallel": True})
    plain = tiny_tokenizer("llama3", chat_template=False)
    with pytest.raises(ValueError, match="has no chat template, and DSPy sends conversations"):
        local_lm((tiny_model("llama", len(plain)), plain))
    thinking = copy.deepcopy(attentive.tokenizer)
    thinking.chat_template = LLAMA3_TEMPLATE.replace(
        "assistant<|end_header_id|>\n\n' }}{% endif",
        "assistant<|end_header_id|>\n\n<think>' }}{% endif",
    )
    with (
        dspy.context(lm=local_lm((attentive.model, thinking)), adapter=Lenient()),
        pytest.raises(ValueError, match="thinks before it replies"),
    ):
        compiled(thought())
