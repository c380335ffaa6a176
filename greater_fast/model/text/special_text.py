"""A tokenizer's double that reads the names of special tokens in a text as text."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from greater_fast.wording import quoted

_FIRST_NAME = 0xF0000  # private use: in no text


def literal_double(tokenizer: Any) -> tuple[Any, dict[str, str]]:
    """The same tokenizer, whose special tokens have other names, and these by their own names.

    Written under its other name a special token keeps its id and its effect on the text around it.
    A name is as long as the one that it stands for.

    Raises:
        ValueError: the tokenizer cannot be changed so.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    special = [token["content"] for token in state["added_tokens"] if token["special"]]
    names = {name: chr(_FIRST_NAME + i) * len(name) for i, name in enumerate(special)}
    for token in state["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    model = state["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(token, token): i for token, i in model["vocab"].items()}
    else:  # Unigram: pairs of token and score
        model["vocab"] = [[names.get(token, token), score] for token, score in model["vocab"]]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    backend = Tokenizer.from_str(json.dumps(state))
    moved = [n for n, other in names.items() if backend.token_to_id(other) != _id(tokenizer, n)]
    if moved:
        raise ValueError(
            f"the tokenizer cannot read its special token {quoted(moved[0])} as text: take the "
            "names of special tokens out of the rows, the prompt and the extractor"
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend), names


def _id(tokenizer: Any, token: str) -> int | None:
    found: int | None = tokenizer.backend_tokenizer.token_to_id(token)
    return found
