"""Work of a step on each of several ranks, counted; nothing is timed.

`python -m benchmarks.harness.rank_work count --json CASE` is one rank, by torchrun's variables.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from benchmarks.harness.measure import ROOT, StepCase, arguments_of, load_inputs
from greater_fast.engine import Engine
from greater_fast.ranks import join
from greater_fast.rollouts.choose import make_engine
from greater_fast.rollouts.distributed import DistributedEngine
from greater_fast.search import optimizer
from greater_fast.search.nouns import WORK_FIELDS, Step
from greater_fast.search.optimizer import start

NUM_STEPS = 3


@dataclass(frozen=True, slots=True)
class RankWork:
    """The last of a few steps: what it decided, and tokens through the model on each rank.

    `exchanged_bytes` is what a rank receives. Tokens of the gradient go through the model twice.
    """

    decided: dict[str, Any]
    forward_tokens: list[int]
    gradient_tokens: list[int]
    exchanged_bytes: int


def count(case: StepCase) -> RankWork:
    """The work of this rank and of the others beside it."""
    torch.set_num_threads(1)
    ranks, inputs = join(), load_inputs(case)
    local, _ = make_engine(inputs.lm, inputs.config)
    engine: Engine = local if ranks.size == 1 else DistributedEngine(local, ranks)
    gradient_tokens = 0

    def add(_: Any, __: Any, options: dict[str, Any]) -> None:
        nonlocal gradient_tokens
        if torch.is_grad_enabled() and "inputs_embeds" in options:  # ids are those of a trial
            gradient_tokens += options["inputs_embeds"].shape[1]

    inputs.lm.decoder.register_forward_pre_hook(add, with_kwargs=True)
    counts: list[tuple[int, int, int]] = []
    steps: list[Step] = []

    def on_step(step: Step) -> None:
        steps.append(step)
        counts.append((local.num_forward_tokens, gradient_tokens, ranks.num_bytes))

    config = replace(inputs.config, steps=NUM_STEPS)
    state = start(engine, inputs.layouts, config)
    optimizer.run(engine, inputs.layouts, config, state, on_step)
    work = [now - before for before, now in zip(*counts[-2:], strict=True)]
    tokens, with_gradient, num_bytes = zip(*ranks.gathered(work), strict=True)
    decided = {k: v for k, v in steps[-1].to_dict().items() if k not in WORK_FIELDS}
    return RankWork(decided, list(tokens), list(with_gradient), max(num_bytes))


def count_on(num_ranks: int, case: StepCase) -> RankWork:
    """The same in so many fresh processes of this machine.

    Raises:
        subprocess.CalledProcessError: rank 0 failed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "benchmarks.harness.rank_work", "count"]
    shared = {"WORLD_SIZE": num_ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            [*command, "--json", json.dumps(asdict(case))],
            cwd=ROOT,
            env=os.environ
            | {name: str(value) for name, value in shared.items()}
            | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(num_ranks)
    ]
    printed = [process.communicate()[0] for process in processes]
    for process in processes:
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
    return RankWork(**json.loads(printed[0].splitlines()[-1]))


if __name__ == "__main__":
    _, fields_asked = arguments_of("benchmarks.harness.rank_work", ["count"])
    print(json.dumps(asdict(count(StepCase(**fields_asked)))))
