"""A program that was written for GreaterPrompt; what it imports, and how it ends, is ours."""

from transformers import AutoModelForCausalLM, AutoTokenizer

from greater_fast import evaluate
from greater_fast.examples.tasks import generate
from greater_fast.front_ends.greaterprompt import GreaterDataloader, GreaterOptimizer
from greater_fast.model.smollm2 import SMOLLM2, smollm2_folder

PROMPT = "Use logical reasoning and think step by step."
EXTRACTOR = "\nTherefore, the final answer, True or False, is"


def main(
    model: str = SMOLLM2,
    num_rows: int = 16,
    num_test: int = 60,
    rounds: int = 6,
    max_new_tokens: int = 32,
) -> None:
    """Search a prompt on generated rows; then, on rows never seen, hold it beside the first."""
    folder = smollm2_folder() if model == SMOLLM2 else model
    tokenizer = AutoTokenizer.from_pretrained(folder)
    loaded = AutoModelForCausalLM.from_pretrained(folder)

    examples = generate("boolean_expressions", num_rows + num_test, seed=0)
    dataset = GreaterDataloader(
        custom_inputs=[
            {"question": example.question, "prompt": PROMPT, "answer": example.answer}
            for example in examples[:num_rows]
        ]
    )
    optimizer = GreaterOptimizer(
        model=loaded,
        tokenizer=tokenizer,
        optimize_config={
            "intersect_q": 5,
            "candidates_topk": 10,
            "generate_config": {"do_sample": False, "max_new_tokens": max_new_tokens},
        },
    )
    outputs = optimizer.optimize(inputs=dataset, p_extractor=EXTRACTOR, rounds=rounds)
    for prompt, loss in outputs[dataset[0]["question"]]:
        print(f"loss {loss:.3f}: {prompt}")

    best, _ = outputs[dataset[0]["question"]][0]
    report = evaluate(
        (loaded, tokenizer),
        examples[num_rows:],
        prompt=best,
        against=PROMPT,
        config={"extractor": EXTRACTOR, "max_new_tokens": max_new_tokens},
        progress=False,
    )
    assert report.against is not None
    print(
        f"on {num_test} rows never seen, right with the new prompt: {report.accuracy:.0%}, "
        f"with the first: {report.against.accuracy:.0%}"
    )


if __name__ == "__main__":
    main()
