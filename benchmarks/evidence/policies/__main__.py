"""Which rule of a step gains most? Policies on stored chains, without a language model.

    python -m benchmarks.evidence.policies --out policies.json --plots FOLDER

The chains are those that `benchmarks.evidence.signals` has collected. For each model a table says
what each policy's choice was worth at the places, on rows that it did not see: intervals are 95%,
by bootstrap over (task, seed). A second one has whole searches, which are simulated from a model
fitted to the chains. Policies are many and none was named before: what looks best here is to be
confirmed by real runs.
"""

import argparse
import json
from pathlib import Path

from benchmarks.evidence.chains import load_chains
from benchmarks.evidence.policies.figures import draw
from benchmarks.evidence.policies.report import Effort, compare, tables
from benchmarks.evidence.signals import FOLDER, ending_of, of_models


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    usual = Effort()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence.policies")
    parser.add_argument("--chains", type=Path, default=FOLDER, help="folder of chains")
    parser.add_argument("--out", type=Path, help="file for the values, as JSON")
    parser.add_argument("--plots", type=Path, help="folder for figures")
    parser.add_argument("--confirm", action="store_true", help="the chains of seeds from 100 on")
    parser.add_argument("--splits", type=int, default=usual.num_splits, help="of rows, at a place")
    parser.add_argument("--searches", type=int, default=usual.num_searches, help="simulated ones")
    asked = parser.parse_args(arguments)
    models = of_models(load_chains(asked.chains), asked.confirm)
    if not any(chain.places for chains in models.values() for chain in chains):
        parser.error(f"--chains: got {asked.chains}, expected a folder of chains with places")
    effort = Effort(asked.splits, asked.searches)
    found = {model: compare(chains, effort) for model, chains in models.items()}
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if asked.plots:
        draw(asked.plots, found, ending_of(asked.confirm))
    for model, own in found.items():
        print(f"## {model}\n\n{tables(own)}\n")


if __name__ == "__main__":
    main()
