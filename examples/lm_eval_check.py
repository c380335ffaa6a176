"""A found prompt checked by lm-evaluation-harness: its figure beside our own.

`python examples/lm_eval_check.py`, where `pip install "greater-fast[lm-eval,demo]"` was done.
"""

import tempfile
from pathlib import Path

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from greater_fast import evaluate, optimize
from greater_fast.examples.tasks import generate
from greater_fast.front_ends.lm_eval import GreaterLM, export_task


def main(
    model: str = "smollm2-135m", steps: int = 2, num_rows: int = 6, max_new_tokens: int = 48
) -> None:
    """Search on some rows, and measure what was found on rows that it has not seen, twice."""
    rows = generate("boolean_expressions", 3 * num_rows + 8, seed=0, difficulty=1)
    config = {"steps": steps, "num_train": num_rows, "num_dev": num_rows}
    config |= {"max_new_tokens": max_new_tokens}
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        found = optimize(model, rows[: 2 * num_rows], config=config, run_dir=run, progress=False)
        print(found.summary, f"The prompt: {found.prompt}", sep="\n")

        test = rows[2 * num_rows :]
        task = export_task(run, test, run / "lm_eval.yaml")
        checked = simple_evaluate(
            model=GreaterLM.from_run(run),
            tasks=[str(task)],
            apply_chat_template=True,
            # The index of the harness' own tasks takes it half a minute, and is not needed.
            task_manager=TaskManager(include_defaults=False),
        )
        ours = {**config, "extractor": found.extractor}
        report = evaluate(model, test, prompt=found.prompt, config=ours, progress=False)
    (figures,) = checked["results"].values()
    print(f"the harness: {figures['exact_match,answer']:.1%} of {len(test)} rows")
    print(f"evaluate:    {report.accuracy:.1%} of {report.evaluation.num_rows} rows")


if __name__ == "__main__":
    main()
