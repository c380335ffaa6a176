"""Text in, text out: what a model writes behind texts, all of them in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from greater_fast.engine import Engine, RolloutRequest
from greater_fast.model.lm import LM
from greater_fast.model.text.chat_template import has_template
from greater_fast.model.text.stop_texts import StopTexts


@dataclass(frozen=True, slots=True)
class Generated:
    """What was written behind a text, without the end id or the stop text that ended it.

    `num_tokens` are those of `text`, `num_prompt_tokens` those of the text before it. It is
    `finished` where an end id or a stop text ended it, not the token limit; `stop_text` names the
    stop text.
    """

    text: str
    num_prompt_tokens: int
    num_tokens: int
    finished: bool
    stop_text: str | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked for of texts beside themselves, checked: the same for all of a batch."""

    max_new_tokens: int
    stop: StopTexts | None
    special_tokens: bool

    @classmethod
    def of(
        cls,
        lm: LM,
        texts: Sequence[str],
        max_new_tokens: int,
        stop_texts: Sequence[str],
        special_tokens: bool | None,
    ) -> Asked:
        """That of the arguments of `generate`; errors as there, but for those of a single text."""
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise ValueError("texts: expected a list of texts")
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens: got {max_new_tokens}, expected 1 or more")
        if special_tokens is None:
            special_tokens = not has_template(lm.tokenizer)
        stop = StopTexts.of(lm.vocabulary, stop_texts)
        return cls(max_new_tokens, stop, bool(special_tokens))


def check_length(engine: Engine, num_tokens: int, num_behind: int, what: str) -> None:
    """Raise ValueError where a text, and all that may follow it, fit no sequence of the engine."""
    longest, context = num_tokens + num_behind, engine.lm.max_context
    most = engine.max_sequence_tokens
    length = f"{what} has {num_tokens} tokens, which with {num_behind} behind them do not fit"
    if context is not None and longest > context:
        raise ValueError(
            f"{length} the model's context of {context}: lower the limit of what is written, or "
            "shorten it"
        )
    if most is not None and longest > most:
        raise ValueError(
            f"{length} the {most} of a sequence that this engine was made for: raise "
            "kv_cache_bytes, make it for longer ones (longest_sequence), or take "
            'engine="generate", which is slower'
        )


def generate(
    engine: Engine,
    texts: Sequence[str],
    max_new_tokens: int,
    stop_texts: Sequence[str] = (),
    *,
    special_tokens: bool | None = None,
) -> list[Generated]:
    """What the engine's model writes behind each text: greedily, unless the engine samples.

    Args:
        engine: made by `make_engine`.
        texts: whole texts as the model reads them, a chat template's marks included.
        max_new_tokens: tokens of what is written at most.
        stop_texts: the first of these to stand in what is written ends it, and is no part of it.
        special_tokens: whether the tokenizer puts its own (BOS) before a text; by default where it
            has no chat template, which writes them itself.

    Raises:
        ValueError: no text, or one that has no token or does not fit the context; no limit of 1 or
            more; stop texts as of `StopTexts`.
    """
    asked = Asked.of(engine.lm, texts, max_new_tokens, stop_texts, special_tokens)
    return generate_numbered(engine, list(enumerate(texts)), asked)


def generate_numbered(
    engine: Engine, texts: Sequence[tuple[int, str]], asked: Asked
) -> list[Generated]:
    """What the model writes behind texts, each with its number in the call that it comes from.

    Where the engine samples, a text's sample is that of its number, whatever is in the batch.
    """
    lm = engine.lm
    encoded = lm.vocabulary.encode([text for _, text in texts], special_tokens=asked.special_tokens)
    numbers = [number for number, _ in texts]
    for number, ids in zip(numbers, encoded, strict=True):
        if not ids:
            raise ValueError(f"texts: text {number} has no token: there is nothing to go on from")
        check_length(engine, len(ids), asked.max_new_tokens, f"texts: text {number}")
    requests = [
        RolloutRequest(
            *(tuple(ids), asked.max_new_tokens, lm.end_ids), sample_key=number, stop=asked.stop
        )
        for number, ids in zip(numbers, encoded, strict=True)
    ]
    found = []
    for request, rollout in zip(requests, engine.run(requests), strict=True):
        assert rollout is not None  # nothing drops a text here
        found.append(
            Generated(
                text=lm.vocabulary.text(rollout.reasoning_ids),
                num_prompt_tokens=len(request.prompt_ids),
                num_tokens=len(rollout.reasoning_ids),
                finished=rollout.end_id is not None or rollout.stop_text is not None,
                stop_text=rollout.stop_text,
            )
        )
    return found
