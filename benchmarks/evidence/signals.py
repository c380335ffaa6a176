"""Does a signal rank candidates? Chains of places collected with a model, and a table without one.

    python -m benchmarks.evidence.signals --minutes 60   # goes on where it stopped
    python -m benchmarks.evidence.signals --minutes 0    # prints the table alone

At each place all candidates are run on all rows of one pool, whose rows are then split anew into
training and truth a hundred times. The table has, for each signal, the rank correlation with the
true error over the model's proposals, and the true error of its best three less that of three at
random, as means over places; intervals are 95%, by bootstrap over (task, seed).

What is asked was written down before the run, in `PRIMARY`:

- primary signal: "both gradients", the answer's and that of stored reasonings, on 50 rows; does its
  mean correlation with the true error differ from 0, that of chance?
- primary comparison: the mean true error of the three candidates that it puts first, less that of
  three at random; does it differ from 0?

All else is exploratory, its p-values corrected for all that the table asks (Holm). A default
changes only on a run with `--confirm`, whose seeds no other run has used.
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import torch

from benchmarks.evidence import plots
from benchmarks.evidence.chains import Chain, chain_path, load, load_chains, model_name, save
from benchmarks.evidence.places.collect import Collector, Settings, shared_settings
from benchmarks.evidence.places.table import signal_lines, table
from greater_fast.examples.tasks import TASKS
from greater_fast.model.lm import load_lm
from greater_fast.model.smollm2 import SMOLLM2

PRIMARY = ("both gradients", 50)
CONFIRMING = 100  # the first seed of a confirmation run
FOLDER = Path("benchmarks/results/signals")


def collect(
    source: str, dtype: str, settings: Settings, paths: dict[tuple[str, int], Path], minutes: float
) -> None:
    """Collect what is not whole yet of the chains by task and seed, each place written as it ends.

    No place is begun that would likely end too late.
    """
    stop_at = time.monotonic() + 60 * minutes
    logging.disable(logging.INFO)
    collector = Collector(load_lm(source, dtype=dtype), settings, list(paths))
    print(collector.note, flush=True)
    longest = 0.0
    for (task, seed), path in paths.items():
        chain = load(path) if path.exists() else collector.begin(model_name(source), task, seed)
        start = time.monotonic()
        for longer in collector.places(chain):
            save(longer, path, is_whole=settings.is_whole(longer))
            now = time.monotonic()
            seconds, start = now - start, now
            longest = max(longest, seconds)
            print(f"{task}, seed {seed}: {len(longer.places)} places, {seconds:.0f} s", flush=True)
            if now + longest > stop_at:
                return


def unfinished(
    paths: dict[tuple[str, int], Path], settings: Settings
) -> dict[tuple[str, int], Path]:
    """The chains that are not whole yet.

    Raises:
        ValueError: a chain was collected with other settings.
    """
    left = {}
    for key, path in paths.items():
        chain = load(path) if path.exists() else None
        if chain and not settings.made(chain):
            raise ValueError(f"{path} has other settings ({chain.settings}): name another --out")
        if chain is None or not settings.is_whole(chain):
            left[key] = path
    return left


def of_models(chains: Sequence[Chain], is_confirming: bool) -> dict[str, list[Chain]]:
    """Chains by model, with the seeds of the first run or of those that confirm it.

    Raises:
        ValueError: chains of a model were collected with several settings: no mean is of both.
    """
    asked = [chain for chain in chains if (chain.seed >= CONFIRMING) == is_confirming]
    found: dict[str, list[Chain]] = {model: [] for model in sorted({c.model for c in asked})}
    for chain in asked:
        own = found[chain.model]
        if own and shared_settings(chain) != shared_settings(own[0]):
            raise ValueError(
                f"chains of {chain.model} have several settings ({shared_settings(own[0])}, "
                f"{shared_settings(chain)}): put those of each in a folder of its own"
            )
        own.append(chain)
    return found


def report(models: dict[str, list[Chain]]) -> str:
    """The tables of all models."""
    parts = [f"## {model}\n\n{table(chains, PRIMARY)}" for model, chains in models.items()]
    return "\n\n".join(parts) or table([], PRIMARY)


def ending_of(is_confirming: bool) -> str:
    """Of a figure's name: one of a confirmation run takes no other's place."""
    return "-confirm" if is_confirming else ""


def draw(models: dict[str, list[Chain]], folder: Path, ending: str = "") -> None:
    """A figure of each model's correlations; none where its chains are too few for intervals."""
    for model, chains in models.items():
        lines = signal_lines(chains, PRIMARY)
        estimates = [
            plots.Estimate(name, e.mean, e.low, e.high, f"{num_rows} rows")
            for (name, num_rows), e in ((line.key, line.correlation) for line in lines)
            if math.isfinite(e.low) or math.isfinite(e.high)
        ]
        if estimates:
            plots.forest_plot(
                folder / f"signals-{model}{ending}.svg",
                estimates,
                title=model,
                x_label="rank correlation with the true error, mean over places",
            )


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence.signals")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the chains")
    parser.add_argument("--minutes", type=float, default=60.0, help="0 prints the table alone")
    parser.add_argument("--model", default=SMOLLM2, help="name, folder or GGUF file")
    parser.add_argument("--dtype", default="float32", help="of the weights; bfloat16 for 8B")
    parser.add_argument(
        "--tf32", action="store_true", help="a GPU multiplies float32 with TF32's 10 bits: faster"
    )
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument(
        "--seeds", nargs="+", type=int, help="of each task's chains: 0 to 3, or 100 to 103"
    )
    parser.add_argument("--plots", type=Path, help="folder for figures of the correlations")
    parser.add_argument("--confirm", action="store_true", help="seeds from 100 on, and their table")
    for setting in fields(Settings):
        parser.add_argument(
            f"--{setting.name.replace('_', '-')}", type=int, default=setting.default
        )
    asked = parser.parse_args(arguments)
    settings = Settings(**{name: getattr(asked, name) for name in asdict(Settings())})
    first = CONFIRMING if asked.confirm else 0
    seeds = asked.seeds or range(first, first + 4)
    if any((seed >= CONFIRMING) != asked.confirm for seed in seeds):
        parser.error(f"got --seeds {seeds}: those from {CONFIRMING} on are for --confirm alone")
    paths = {
        (task, seed): chain_path(asked.out, asked.model, task, seed)
        for seed in seeds
        for task in asked.tasks
    }
    if asked.minutes > 0 and (left := unfinished(paths, settings)):
        if asked.tf32 and torch.cuda.is_available():
            torch.set_float32_matmul_precision("high")
        collect(asked.model, asked.dtype, settings, left, asked.minutes)
    models = of_models(load_chains(asked.out), asked.confirm)
    if asked.plots is not None:
        draw(models, asked.plots, ending_of(asked.confirm))
    print(report(models))


if __name__ == "__main__":
    main()
