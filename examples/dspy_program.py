"""A DSPy program on a small model in this process: optimised, evaluated, saved and loaded.

`python examples/dspy_program.py`, where `pip install "greater-fast[dspy,demo]"` was done.
"""

import logging
import tempfile
from pathlib import Path

import dspy

from greater_fast.examples.tasks import generate
from greater_fast.front_ends.dspy import GReaTer, InstructionLast, local_lm

INSTRUCTIONS = "Use proper logical reasoning and think step by step."
# Without some, a model of this size does not keep to the adapter's format at all.
DEMOS = [
    dspy.Example(question=f"Work out the value of {sum_}.", reasoning=reasoning, answer=answer)
    for sum_, reasoning, answer in (
        ("7 - (1 - 6)", "1 - 6 is -5, and 7 - -5 is 12.", 12),
        ("5 + (10 * 4)", "10 * 4 is 40, and 5 + 40 is 45.", 45),
        ("20 + 3", "20 + 3 is 23.", 23),
    )
]


def rows(number: int, seed: int) -> list[dspy.Example]:
    """Sums of two numbers, and products."""
    return [
        dspy.Example(question=row.question, answer=int(row.answer)).with_inputs("question")
        for row in generate("multistep_arithmetic", number, seed=seed, difficulty=1)
    ]


def is_right(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> bool:
    """The user's own metric."""
    return bool(prediction.answer == example.answer)


def main(
    model: str = "smollm2-135m",
    steps: int = 3,
    num_train: int = 6,
    num_val: int = 8,
    max_tokens: int = 40,
) -> None:
    """Optimise a program, and say what it gained on rows that it has not seen."""
    logging.getLogger("dspy").setLevel(logging.CRITICAL)  # each reply that cannot be read is told
    lm = local_lm(model, max_tokens=max_tokens)
    dspy.configure(lm=lm, adapter=InstructionLast(use_json_adapter_fallback=False))
    signature = dspy.Signature("question -> answer: int", INSTRUCTIONS)
    # Such a model often leaves out the header of its reasoning: that of the answer is enough.
    program = dspy.ChainOfThought(signature, rationale_field_type=str | None)
    program.predict.demos = DEMOS

    config = {"objective": "loss", "steps": steps, "num_finalists": 2}
    optimizer = GReaTer(is_right, config=config, num_threads=num_val)
    data = rows(num_train + 2 * num_val, seed=1)
    train, val, test = data[:num_train], data[num_train:-num_val], data[-num_val:]
    better = optimizer.compile(program, trainset=train, valset=val)
    report = optimizer.report
    print(f"from {report['initial_prompt']!r}\nto   {report['prompt']!r}")
    for name in ("score", "forced_accuracy", "num_unread"):
        print(f"{name} on validation rows: {report[f'initial_{name}']} -> {report[name]}")

    evaluate = dspy.Evaluate(
        devset=test, metric=is_right, num_threads=num_val, max_errors=num_val + 1
    )
    before, after = evaluate(program).score, evaluate(better).score
    print(f"right on {num_val} other rows: {before} % -> {after} %")

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program.json"
        better.save(path)
        again = dspy.ChainOfThought("question -> answer: int", rationale_field_type=str | None)
        again.load(path)
    print(f"loaded again: {again.predict.signature.instructions!r}")


if __name__ == "__main__":
    main()
