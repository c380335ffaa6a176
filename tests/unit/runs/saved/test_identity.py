import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from greater_fast.config import Config
from greater_fast.examples.data import Example
from greater_fast.examples.extractor import make_extractor
from greater_fast.examples.layout import Layouts, build_layouts
from greater_fast.model.lm import LM, load_lm
from greater_fast.runs.saved.identity import (
    config_digest,
    ending_ids,
    layout_digest,
    weights_digest,
)
from tests.tiny import tiny_model


def layouts(lm: LM, *rows: tuple[str, str], prompt: str = "think step") -> dict[str, Layouts]:
    examples = [Example(*row) for row in rows]
    config = Config(max_new_tokens=6, max_prompt_tokens=8)
    return {"train": build_layouts(lm, examples, prompt, make_extractor("The answer is"), config)}


def test_rows_are_known_by_their_ids(lm: LM) -> None:
    rows = (("is it so?", "yes"), ("or not?", "no"))
    digest = layout_digest(layouts(lm, *rows))
    assert layout_digest(layouts(lm, *rows)) == digest
    others = [
        layouts(lm, *reversed(rows)),
        layouts(lm, rows[0], ("or not?", "yes")),
        layouts(lm, rows[0], ("or not!", "no")),
        layouts(lm, *rows, prompt="think well"),
        {"dev": layouts(lm, *rows)["train"]},
    ]
    assert len({digest, *map(layout_digest, others)}) == 6


def test_a_model_is_known_by_its_weights(tokenizer: Any, lm: LM) -> None:
    digest = weights_digest(lm)
    for seed, dtype in ((0, torch.float32), (1, torch.float32), (0, torch.bfloat16)):
        model = tiny_model("llama", len(tokenizer), dtype, seed)
        same = (seed, dtype) == (0, torch.float32)
        assert (weights_digest(load_lm((model, tokenizer))) == digest) is same


def test_the_ends_of_every_tensor_count(own_lm: LM) -> None:
    digests = {weights_digest(own_lm)}
    for _, tensor in list(own_lm.model.state_dict().items()):
        for place in (0, -1):
            tensor.view(-1)[place] += 1.0
            digests.add(weights_digest(own_lm))
    assert len(digests) == 1 + 2 * len(own_lm.model.state_dict())


def with_config(lm: LM, **values: Any) -> LM:
    """The model as one of another config.json."""
    model = copy.copy(lm.model)
    model.config = copy.deepcopy(lm.model.config)
    for name, value in values.items():
        setattr(model.config, name, value)
    return replace(lm, model=model)


@pytest.mark.parametrize(
    "values",
    [
        {"rms_norm_eps": 1e-3},
        {"max_position_embeddings": 77},
        {"sliding_window": 16},
        {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
        {"rope_parameters": {"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0}},
        {"logits_scaling": 2.0},
    ],
)
def test_a_model_is_known_by_its_config(lm: LM, values: dict[str, Any]) -> None:
    assert config_digest(with_config(lm)) == config_digest(lm)
    assert config_digest(with_config(lm, **values)) != config_digest(lm)


def test_names_paths_and_versions_are_not_what_a_model_is_known_by(lm: LM, tmp_path: Path) -> None:
    others = {"transformers_version": "4.0", "_name_or_path": "elsewhere", "dtype": torch.float16}
    assert config_digest(with_config(lm, **others)) == config_digest(lm)
    lm.model.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    assert config_digest(load_lm(tmp_path)) == config_digest(lm)


def test_ids_that_end_a_reasoning_are_the_models_and_the_rows(lm: LM) -> None:
    rows = layouts(lm, ("is it so?", "yes"))["train"]
    more = {"train": replace(rows, end_ids=frozenset({9})), "dev": rows}
    assert ending_ids(lm, {"train": rows}) == sorted(lm.end_ids | rows.end_ids)
    assert ending_ids(lm, more) == sorted(lm.end_ids | rows.end_ids | {9})
