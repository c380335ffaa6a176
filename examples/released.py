"""GReaTer's own command on a file of rows as its own are, with a config of its own kind."""

import csv
import tempfile
from pathlib import Path

from greater_fast.cli.main import main as greater_fast
from greater_fast.examples.tasks import generate
from greater_fast.model.smollm2 import SMOLLM2

CONFIG = Path(__file__).parent / "configs" / "transfer_smollm2.py"


def main(
    model: str = SMOLLM2,
    num_train: int = 16,
    num_test: int = 40,
    steps: int = 4,
    max_new_tokens: int = 32,
) -> None:
    """Write rows, and run `greater-fast released` on them; its results go to results/."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "boolean_expressions.json"  # whose content is CSV, as there
        with data.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(("goal", "target", "final_target"))
            for example in generate("boolean_expressions", num_train + num_test, seed=0):
                rows.writerow((example.question, example.answer, example.answer))
        greater_fast(
            [
                "released",
                f"--config={CONFIG}",
                f"--config.model_paths=['{model}']",
                f"--config.tokenizer_paths=['{model}']",
                f"--config.train_data={data}",
                f"--config.n_train_data={num_train}",
                f"--config.n_test_data={num_test}",
                f"--config.n_steps={steps}",
                # 1024 there; a small model says the same again long before
                f"--max-new-tokens={max_new_tokens}",
                "--num-finalists=4",
            ]
        )


if __name__ == "__main__":
    main()
