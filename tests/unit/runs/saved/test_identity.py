from typing import Any

import torch

from greater_fast.config import Config
from greater_fast.examples.data import Example
from greater_fast.examples.extractor import make_extractor
from greater_fast.examples.layout import Layouts, build_layouts
from greater_fast.model.lm import LM, load_lm
from greater_fast.runs.saved.identity import layout_digest, weights_digest
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
