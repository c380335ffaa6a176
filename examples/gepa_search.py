"""GEPA searches a prompt for a small model on a CPU, with steps of GReaTer as its proposals.

    pip install "greater-fast[demo,gepa]"
    python examples/gepa_search.py

No reflection model is asked: each proposal is what two steps of GReaTer make of the parent's text,
by gradients through the model's own reasoning. GEPA keeps the Pareto front, and decides.
"""

import gepa

from greater_fast import evaluate
from greater_fast.examples.tasks import generate
from greater_fast.front_ends.gepa import GReaTerAdapter

SEED_PROMPT = "Think step by step, and give the answer."


def main(
    model: str = "smollm2-135m",
    task: str = "multistep_arithmetic",
    num_train: int = 12,
    num_test: int = 48,
    max_metric_calls: int = 100,
) -> None:
    """Search on `num_train` rows, choose on as many others, and compare on unseen ones."""
    rows = generate(task, 2 * num_train + num_test, seed=0)
    train, dev, test = (
        rows[:num_train],
        rows[num_train : 2 * num_train],
        rows[2 * num_train :],
    )
    adapter = GReaTerAdapter(model, train + dev, config={"max_new_tokens": 48})
    proposer = adapter.proposer(train, steps=2)
    result = gepa.optimize(
        {"prompt": SEED_PROMPT},
        train,
        dev,
        adapter=adapter,
        custom_candidate_proposer=proposer,
        reflection_minibatch_size=min(8, num_train),
        max_metric_calls=max_metric_calls,
        display_progress_bar=True,
        logger=Errors(),
    )
    best, scores = result.best_candidate["prompt"], result.val_aggregate_scores
    print(f"candidates: {result.num_candidates}, of which the best is number {result.best_idx}")
    print(f"prompt: {best!r}")
    print(f"validation: {scores[0]:.0%} with the seed, {scores[result.best_idx]:.0%} with the best")
    print(f"tokens generated: {adapter.engine.num_generated_tokens:,} in all, ", end="")
    print(f"{proposer.num_generated_tokens:,} of them for proposals")
    settings = {"max_new_tokens": 48, "extractor": adapter.extractor}
    before, after = (
        evaluate(adapter.engine.lm, test, prompt=prompt, config=settings, progress=False).accuracy
        for prompt in (SEED_PROMPT, best)
    )
    print(f"{num_test} unseen rows: {before:.0%} with the seed, {after:.0%} with the best")


class Errors:
    """GEPA prints all that it does, unless it has a logger: this one prints what failed."""

    def log(self, message: str) -> None:
        """Print a message of an error."""
        if any(word in message.lower() for word in ("failed", "exception", "error")):
            print(message)


if __name__ == "__main__":
    main()
