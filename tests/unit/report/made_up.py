"""Run directories that no run has written: of any size, and with any text."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from greater_fast.config import Config

INITIAL = "Think step by step and give the answer."


def measured(num_correct: int, num_rows: int, **others: Any) -> dict[str, Any]:
    share = num_correct / num_rows
    return {
        "prompt": "",
        "accuracy": share,
        "interval": [max(0.0, share - 0.1), min(1.0, share + 0.1)],
        "num_correct": num_correct,
        "num_rows": num_rows,
        "num_cut_off": 0,
        **others,
    }


def compared(difference: float, p_value: float, **others: Any) -> dict[str, Any]:
    return {
        "num_only_first": 5,
        "num_only_second": 2,
        "p_value": p_value,
        "difference": difference,
        "interval": [difference - 0.1, difference + 0.1],
        **others,
    }


def step(number: int, prompt: str, changed: bool, draw: random.Random) -> dict[str, Any]:
    objective = 0.8 - 0.004 * number
    trials = [
        {
            "token_id": 100 + n,
            "token": f" word{n}",
            "score": draw.uniform(-1, 1),
            "objective": objective if n == 0 and changed else draw.choice([None, 0.9]),
            "error_rate": 0.5,
            "dropped_after": None,
        }
        for n in range(3)
    ]
    return {
        "step": number,
        "index": number % 7,
        "grows": False,
        "prompt": prompt,
        "prompt_ids": [100] * 8,
        "objective": objective,
        "error_rate": 0.5,
        "candidate_ids": [100, 101, 102],
        "candidate_top_k": 10,
        "trials": trials,
        "changed": changed,
        "num_generated_tokens": 400,
        "seconds": {"propose": 0.1, "gradient": 1.5, "score": 0.01, "select": 3.0},
        "peak_memory_bytes": 1 << 30,
    }


def write_run(
    folder: Path,
    *,
    num_steps: int = 4,
    num_rows: int = 6,
    text: Callable[[str], str] = lambda plain: plain,
    metric: str | None = None,
    models: tuple[str, ...] = ("tiny",),
    changes: bool = True,
) -> Path:
    """A finished run in a new folder; `text` makes whatever text comes from data and model."""
    draw = random.Random(0)
    folder.mkdir(parents=True)
    words, steps = INITIAL.split(" "), []
    for number in range(num_steps):
        changed = changes and number % 2 == 0
        if changed:
            words[number % len(words)] = f"word{number}"
        steps.append(step(number, text(" ".join(words)), changed, draw))
    prompts = {"initial": text(INITIAL), "new": steps[-1]["prompt"] if steps else text(INITIAL)}
    values = {role: [draw.random() for _ in range(num_rows)] for role in prompts}
    rows = [
        {
            "split": split,
            "prompt": prompt,
            **({"model": model} if len(models) > 1 else {}),
            "question": text(f"{split} question {n}?"),
            "gold": text(f"gold{n}"),
            "predicted": text(f"{role} answer {n}"),
            "correct": values[role][n] >= 0.5,
            "reasoning": text(f"{role} reasoning {n}."),
            "cut_off": n == 0,
            **({"metric": round(values[role][n], 3)} if metric else {}),
        }
        for split in ("dev", "test")
        for role, prompt in prompts.items()
        for model in models
        for n in range(num_rows)
    ]
    named = {"metric": metric} if metric else {}
    if len(models) > 1:
        named["by_model"] = {model: measured(2, 6) for model in models}
    figures = {"dev": measured(3, 6, **named), "test": measured(3, 6, **named), "train": None}
    best = {"prompt": prompts["new"], "prompt_ids": [2], "objective": 0.4, "train_error_rate": 0.25}
    first = {"prompt": prompts["initial"], "prompt_ids": [1], "objective": 0.8, **figures}
    first["train_error_rate"], same = 0.5, prompts["new"] == prompts["initial"]
    test = {"test": "sign flips"} if metric else {}
    result = {
        "summary": text("On 6 rows never seen, the new prompt is right more often."),
        "prompt": prompts["new"],
        "stopped": "all steps done",
        "num_steps": num_steps,
        "notes": [text("a note")],
        "run_dir": str(folder),
        "best": first if same else {**best, **figures},
        "baseline": first,
        "finalists": [first] if same else [{**best, **figures}, first],
        "dev_comparison": compared(0.0 if same else 0.15, 1.0 if same else 0.2, **test),
        "test_comparison": compared(0.0 if same else 0.12, 1.0 if same else 0.01, **test),
    }
    run = {
        "model": models[0] if len(models) == 1 else list(models),
        "device": "cpu",
        "dtype": "float32",
        "prompt": prompts["initial"],
        "extractor": text("The answer is {answer}."),
        "rendered_example": text("user: question"),
        "config": {**Config(steps=num_steps, num_train=4).to_dict(), "system_prompt": text("be")},
        "metric": metric,
        "memory_plan": {"needs": [{"name": "weights", "num_bytes": 1 << 20, "how": text("all")}]},
        "notes": [],
        "started": "2026-11-26T12:00:00+00:00",
        "versions": {"greater_fast": "0.1.0", "torch": "2"},
        "machine": text("cpu"),
    }
    questions = {(row["split"], row["question"], row["gold"]) for row in rows}
    examples = [
        {"split": split, "question": question, "answer": gold, "other_answers": []}
        for split, question, gold in sorted(questions)
    ] + [
        {
            "split": "train",
            "question": text(f"train {n}"),
            "answer": "1",
            "other_answers": [],
            "answers_given": ["1.0"],
        }
        for n in range(4)
    ]
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "result.json").write_text(json.dumps(result))
    for name, lines in (("steps", steps), ("rows", rows), ("examples", examples)):
        content = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(content)
    return folder


def change(path: Path, **values: Any) -> None:
    """Put other values in a JSON file; `...` takes one away."""
    known = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({k: v for k, v in known.items() if v is not ...}))
