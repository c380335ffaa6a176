"""What is found with a model, whole in one process or shared by ranks: run by both, to compare.

    torchrun --nproc-per-node 2 -m tests.e2e.sharing MODELS OUT

loads each of `CASES` from the folder MODELS, and leaves what each rank finds in the folder OUT.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.distributed.configuration_utils import DistributedConfig

from greater_fast import optimize
from greater_fast.config import Config
from greater_fast.engine import Engine, Rollout
from greater_fast.memory.shapes import ModelShapes
from greater_fast.model.kv_cache import block_bytes
from greater_fast.model.lm import LM, load_lm
from greater_fast.model.parallel.sizes import bytes_of_rank
from greater_fast.ranks import Ranks, join
from greater_fast.rollouts.batch import RolloutEngine
from greater_fast.rollouts.plain import PlainRolloutEngine
from greater_fast.search.gradient import example_gradients
from greater_fast.search.nouns import Candidates, Position
from greater_fast.search.optimizer import start
from greater_fast.search.score import score
from tests.cases import layouts_of, small_config
from tests.exact import keep_exact
from tests.tiny import boolean_rows

CASES = [
    ("llama", "float64"),
    ("gemma2", "float64"),
    ("llama", "float32"),
    ("gemma2", "float32"),
    ("phi3", "float32"),
]
PLACE = 5
SETTINGS = {"temperature": 0.5, "max_new_tokens": 24, "candidates": "both"}


@dataclass
class Found:
    """Rollouts by both engines, and numbers by name: logits, gradients, scores, sizes."""

    rollouts: dict[str, tuple[Rollout, ...]]
    numbers: dict[str, torch.Tensor]
    bytes_of_weights: int
    bytes_of_plan: int
    bytes_of_block: int


class WholeEngine(PlainRolloutEngine):
    """An engine whose gradient goes through whole padded sequences."""

    can_pack = False  # type: ignore[assignment]


def find(lm: LM) -> Found:
    """Run both engines, the gradient in three ways, and score by it."""
    config = small_config(**SETTINGS)
    layouts = layouts_of(lm, 4)
    paged: Engine = RolloutEngine(
        lm, temperature=config.temperature, kv_cache_bytes=1 << 24, poisoned=True
    )
    plain = PlainRolloutEngine(lm, temperature=config.temperature)
    rollouts = {
        name: start(engine, layouts, config).incumbent.rollouts
        for name, engine in (("paged", paged), ("generate", plain))
    }
    position = Position(0, PLACE, layouts.prompt_ids)
    contexts = [layouts.context_ids(row, layouts.prompt_ids) for row in range(len(layouts))]

    def gradients(engine: Engine, **settings: Any) -> torch.Tensor:
        given = Config.from_mapping({**config.to_dict(), **settings})
        return example_gradients(engine, layouts, rollouts["paged"], position, given)

    packed = gradients(paged)
    proposed = Candidates(tuple(range(100, 400)), (0.0,) * 300, 10)
    shortlist = score([packed.sum(0)], [lm], layouts, proposed, position, config)
    numbers = {
        "logits": paged.next_logits(contexts),
        "generate's logits": plain.next_logits(contexts),
        "gradients": packed,
        "gradients of whole rows": gradients(WholeEngine(lm)),
        "gradients of layers made again": gradients(paged, gradient_checkpointing="on"),
        "shortlist": torch.tensor(list(shortlist)),
        "scores": torch.tensor(list(shortlist.values()), dtype=torch.float64),
    }
    return Found(
        rollouts=rollouts,
        numbers={name: tensor.detach().clone() for name, tensor in numbers.items()},
        bytes_of_weights=bytes_of_rank(lm.model, lm.ranks.size),
        bytes_of_plan=ModelShapes.of(lm).weight_bytes,
        bytes_of_block=block_bytes(lm),
    )


def find_all(models: Path, ranks: Ranks | None) -> dict[tuple[str, str], Found]:
    """All cases, by family and dtype."""
    torch.set_num_threads(1)  # tiny products: waiting for other threads takes longest
    found = {}
    for family, dtype in CASES:
        with pytest.MonkeyPatch.context() as patch:
            if dtype == "float64":
                keep_exact(family, patch)
            found[family, dtype] = find(load_lm(models / family, "cpu", dtype, ranks=ranks))
    return found


def main(models: Path, out: Path) -> None:
    """As one rank."""
    ranks = join()
    torch.save(find_all(models, ranks), out / f"{ranks.rank}.pt")
    result = search(models / "llama", out / "run", tensor_parallel=True)
    again = search(part(models / "llama", ranks), out / "again", tensor_parallel=True)
    assert result == again
    torch.save(result, out / f"result-{ranks.rank}.pt")


def part(folder: Path, ranks: Ranks) -> tuple[Any, Any]:
    """A rank's part of a model that its user has loaded, and the tokenizer."""
    config = DistributedConfig(tp_size=ranks.size)
    model = AutoModelForCausalLM.from_pretrained(folder, distributed_config=config)
    return model, AutoTokenizer.from_pretrained(folder)


def search(model: Any, run_dir: Path, **settings: Any) -> dict[str, Any]:
    """The prompt that a short search ends with, and the best ones with their objectives."""
    rows = [{"question": question, "answer": answer} for question, answer in boolean_rows(12)]
    config = {"steps": 3, "num_train": 4, "num_dev": 4, "num_finalists": 4, "objective": "loss"}
    config |= {"max_new_tokens": 6, "max_prompt_tokens": 40, "num_proposal_examples": 2}
    result = optimize(
        str(model) if isinstance(model, Path) else model,
        rows,
        config={**config, "device": "cpu", **settings},
        run_dir=run_dir,
        progress=False,
    )
    return {
        "prompt": result.prompt,
        "finalists": [(found.prompt, found.objective) for found in result.finalists],
    }


if __name__ == "__main__":
    from tests.e2e import sharing  # whose classes have a name that others can find

    sharing.main(*map(Path, sys.argv[1:]))
