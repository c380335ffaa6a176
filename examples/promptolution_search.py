"""GReaTer as an optimizer of promptolution, with a small model on a CPU.

    pip install "greater-fast[demo,promptolution]"
    python examples/promptolution_search.py

Task, predictor and evaluation are promptolution's; another of its optimizers (CAPO, OPRO,
EvoPromptGA) takes the place of GReaTer by its name, and wants a meta model.
"""

import pandas as pd
from promptolution.predictors import FirstOccurrencePredictor
from promptolution.tasks import ClassificationTask
from promptolution.utils.evaluation import evaluate_prompts
from promptolution.utils.prompt import Prompt

from greater_fast.examples.tasks import generate
from greater_fast.front_ends.promptolution import GReaTer, GreaterLLM

PROMPT = "Say true or false, and why"


def main(
    model: str = "smollm2-135m",
    num_train: int = 12,
    num_test: int = 48,
    num_steps: int = 8,
    max_new_tokens: int = 48,
) -> None:
    """Search on `num_train` rows, and compare on unseen ones."""
    rows = generate("boolean_expressions", num_train + num_test, seed=0)
    frame = pd.DataFrame({"x": [r.question for r in rows], "y": [r.answer for r in rows]})
    train, test = (
        ClassificationTask(part, task_description="Say whether an expression is true or false.")
        for part in (frame[:num_train], frame[num_train:])
    )
    llm = GreaterLLM(model, {"max_new_tokens": max_new_tokens, "num_finalists": 4})
    predictor = FirstOccurrencePredictor(llm, classes=["true", "false"])
    optimizer = GReaTer(predictor, train, initial_prompts=[PROMPT])
    best = optimizer.optimize(n_steps=num_steps)[0]
    print(f"prompt: {best.instruction!r}")
    if best == Prompt(PROMPT):
        print("nothing better was found in so few steps")
    print(f"tokens generated: {llm.engine.num_generated_tokens:,}")
    scores = evaluate_prompts([best, Prompt(PROMPT)], test, predictor)
    after, before = (scores.score[scores.prompt == str(each)].iloc[0] for each in (best, PROMPT))
    print(f"{num_test} unseen rows: {before:.0%} with the first prompt, {after:.0%} with the best")


if __name__ == "__main__":
    main()
