"""A model without its weights: what its configuration and its tokenizer alone say of it."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from greater_fast.model.files import (
    clear_load_errors,
    locate,
    read_config,
    read_tokenizer,
    weights_dtype,
)
from greater_fast.model.lm import LM, load_lm
from greater_fast.model.parallel.loading import check_shareable
from greater_fast.model.smollm2 import SMOLLM2, smollm2_source
from greater_fast.model.text.turn_end import end_ids
from greater_fast.model.text.vocabulary import Vocabulary
from greater_fast.ranks import ALONE, Ranks


def outline_lm(
    source: Any, device: str | None, dtype: str | None = None, ranks: Ranks | None = None
) -> LM:
    """An `LM` whose tensors have shapes and dtypes and no values (they are on the meta device).

    Texts can be laid out with it, nothing can be computed. The arguments are those of `load_lm`; a
    model that is loaded already comes back with its weights. The device, on which the dtype
    depends, need not be there.

    Raises:
        ValueError: as `load_lm`, as far as it can be told without weights.
    """
    if not isinstance(source, str | Path):
        return load_lm(source, ranks=ranks)
    from transformers import AutoModelForCausalLM

    name = str(source)
    files = locate(name, smollm2_source() if name == SMOLLM2 else name)
    config = read_config(files)
    if ranks is not None:
        check_shareable(files, config, device or "cpu", ranks)
    vocabulary = Vocabulary(read_tokenizer(files))
    with clear_load_errors(name), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config, dtype=weights_dtype(device, dtype), trust_remote_code=False
        )
    own = vocabulary.tokenizer
    return LM(model, own, name, vocabulary, end_ids=frozenset(), ranks=ranks or ALONE)


def outline_with_ends(source: Any, device: str | None, dtype: str | None = None) -> LM:
    """The outline with the ids that end a turn, which the generation settings name as well.

    Raises:
        ValueError: as `outline_lm`; nothing names such an id.
    """
    from transformers import GenerationConfig

    lm = outline_lm(source, device, dtype)
    if not isinstance(source, str | Path):
        return lm
    name = str(source)
    files = locate(name, smollm2_source() if name == SMOLLM2 else name)
    if files.options:  # transformers reads none beside a GGUF file
        return replace(lm, end_ids=end_ids(lm.model, lm.vocabulary))
    with contextlib.suppress(OSError):  # there are none
        lm.model.generation_config = GenerationConfig.from_pretrained(files.path)
    return replace(lm, end_ids=end_ids(lm.model, lm.vocabulary))
