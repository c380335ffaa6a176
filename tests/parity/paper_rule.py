"""Short searches by the released rule and by the paper's text, step for step.

    python -m tests.parity.paper_rule > tests/parity/paper_rule.jsonl

made that file at commit 8d1dc22, whose defaults were these but for `accept` and `allowed`. A
search that differs from it is another method: the file is not to be made anew to please a test.
"""

import json
from typing import Any

from greater_fast.config import Config
from greater_fast.examples.data import Example
from greater_fast.examples.extractor import make_extractor
from greater_fast.examples.layout import build_layouts
from greater_fast.model.lm import LM, load_lm
from greater_fast.rollouts.choose import make_engine
from greater_fast.search.nouns import WORK_FIELDS, Step
from greater_fast.search.optimizer import run, start
from tests.tiny import boolean_rows, tiny_model, tiny_tokenizer

RULE: dict[str, Any] = {
    "accept": "best",
    "shortlist": "gradient",
    "candidates": "lm",
    "allowed": "ascii",
    "top_k": 10,
    "num_proposal_examples": 5,
    "num_draws": 5,
    "shortlist_size": 3,
    "temperature": 0.2,
    "fluency_weight": 0.2,
    "error_fluency_weight": 0.02,
    "gradient_norm": "none",
    "num_train": 50,
}
SHORT: dict[str, Any] = {"max_new_tokens": 6, "max_prompt_tokens": 6, "device": "cpu"}
# Objective -> initial prompt, steps: one wraps around, both grow.
RUNS = {"error": ("Think step by step.", 8), "loss": ("Think step by", 5)}


def answering_lm(seed: int = 0, times: float = 5) -> LM:
    """A tiny random Llama that often answers True or False, so that prompts differ in errors."""
    tokenizer = tiny_tokenizer("llama3")
    model = tiny_model("llama", len(tokenizer), seed=seed)
    answer_ids = tokenizer(" True False", add_special_tokens=False)["input_ids"]
    model.lm_head.weight[answer_ids] *= times
    return load_lm((model, tokenizer))


def outcomes(lm: LM, prompt: str, config: Config) -> list[dict[str, Any]]:
    """Of each step of a search, what follows from settings, rows and model, as JSON has it."""
    rows = [Example(*row) for row in boolean_rows(config.num_train)]
    layouts = build_layouts(lm, rows, prompt, make_extractor("The answer is"), config)
    engine, _ = make_engine(lm, config)
    steps: list[Step] = []
    run(engine, layouts, config, start(engine, layouts, config), steps.append)
    whole = json.loads(json.dumps([step.to_dict() for step in steps]))
    return [{k: v for k, v in step.items() if k not in WORK_FIELDS} for step in whole]


def main() -> None:
    """Print both searches, a line a step."""
    lm = answering_lm()
    for objective, (prompt, num_steps) in RUNS.items():
        config = Config(objective=objective, steps=num_steps, **RULE, **SHORT)
        for step in outcomes(lm, prompt, config):
            print(json.dumps({"objective_of": objective, "step": step}))


if __name__ == "__main__":
    main()
