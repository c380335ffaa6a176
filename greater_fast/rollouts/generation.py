"""transformers' `generate`, in batches that change no row: which ones those are is tried."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from greater_fast.model.attention.far import far_obstacle, named_lengths
from greater_fast.model.attention.interface import rotates_by_length
from greater_fast.model.byte_sizes import is_out_of_memory
from greater_fast.model.checks import said
from greater_fast.model.forwards import alike
from greater_fast.model.lm import LM
from greater_fast.model.padding import row_groups
from greater_fast.model.text.stop_texts import StopTexts


@dataclass(frozen=True, slots=True)
class Until:
    """What ends a generated text: a number of tokens, one of some ids, a text."""

    limit: int
    end_ids: frozenset[int]
    stop: StopTexts | None = None

    def ended(self, tokens: Sequence[int]) -> Written:
        """What a text comes to, of tokens that may go on behind its end."""
        end = next((i for i, token in enumerate(tokens) if token in self.end_ids), None)
        ids = tuple(tokens[:end])
        if self.stop is not None and (found := self.stop.first_cut(ids, self.limit)):
            count, cut = found
            return Written(
                (*ids[: cut.num_kept], *cut.ids), count, None, self.stop.texts[cut.number]
            )
        return Written(ids, len(ids) + (end is not None), None if end is None else tokens[end])


class Written(NamedTuple):
    """A generated text's ids, the number of tokens that it took, and what ended it."""

    ids: tuple[int, ...]
    num_tokens: int
    end_id: int | None = None
    stop_text: str | None = None


LogitsProcessor = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
StoppingCriterion = Callable[..., torch.Tensor]
_NUM_TRIED = 5  # tokens that are generated on trial
_LONGEST = 128  # tokens of a row on trial, at most


@dataclass(frozen=True, slots=True)
class Way:
    """How rows are batched: padded on the left, or those of one length, of `most` at a time.

    Without a cache each token costs the whole sequence again.
    """

    padded: bool = True
    cached: bool = True
    most: int | None = None

    def groups(self, lengths: Sequence[int]) -> list[list[int]]:
        """Numbers of the rows that are generated together."""
        groups = row_groups(lengths, padded=self.padded)
        if self.most is None:
            return groups
        most = self.most
        return [g[start : start + most] for g in groups for start in range(0, len(g), most)]

    def __str__(self) -> str:
        rows = "one row" if self.most else "rows of one length"
        parts = ([] if self.padded else [f"{rows} at a time"]) + (
            [] if self.cached else ["without a cache, each token costs its whole sequence"]
        )
        return ", ".join(parts)


_WAYS = (
    Way(),
    Way(padded=False),
    Way(padded=False, most=1),
    Way(padded=False, cached=False),
    Way(padded=False, cached=False, most=1),
)


def choose_way(lm: LM, longest: int | None = None) -> Way:
    """The first way, the fastest first, in which rows come out as the model says of each alone.

    `longest` is what a sequence may have of tokens (None: not known).

    Raises:
        ValueError: there is none; says what was found.
        MemoryError: memory ends while it is tried.
    """
    by_length = rotates_by_length(lm, longest)
    pads = not by_length and _masks_by_place(lm, longest)
    reason = None
    for way in _WAYS:
        if (way.padded and not pads) or (way.cached and by_length):
            continue
        reason = _why_not(lm, way, longest)
        if reason is None:
            return way
    raise ValueError(f"{lm.name} cannot be run by generate: {reason}")


def _masks_by_place(lm: LM, longest: int | None) -> bool:
    """Whether padding in front moves nothing in far rows: chunks of places, say, it would move."""
    try:
        return far_obstacle(lm, longest) is None
    except Exception as error:  # no attention of that kind: what can be tried is tried below
        if is_out_of_memory(error):
            raise
        return True


def _why_not(lm: LM, way: Way, longest: int | None) -> str | None:
    """Why rows come out as others, or None where they do not."""
    ids = lm.vocabulary.ids(" the answer is that one plus two and then some more of it") * _LONGEST
    most = min(filter(None, (_LONGEST, longest, lm.max_context))) - _NUM_TRIED
    named = [n for n in named_lengths(lm.model.config.get_text_config()) if n < most]
    long = min(most, max(_LONGEST // 4, *(n + 1 for n in named), 0))
    contexts = [tuple(ids[start:stop]) for start, stop in ((0, 3), (1, long + 1), (2, long + 2))]
    for group in way.groups([len(ids) for ids in contexts]):
        rows = [contexts[number] for number in group]
        steps: list[torch.Tensor] = []

        def keep(_: torch.Tensor, logits: torch.Tensor, steps: Any = steps) -> torch.Tensor:
            steps.append(logits.clone())
            return logits

        try:
            sequences = generate(lm, rows, Until(_NUM_TRIED, frozenset()), way, [keep])
        except Exception as error:
            if is_out_of_memory(error):
                raise MemoryError(f"{lm.device} has no memory to generate {long} tokens") from error
            return f"it ends in {said(error)}"
        for row, context in enumerate(rows):
            whole = (*context, *sequences[row])
            with torch.inference_mode():
                inputs = torch.tensor([whole], device=lm.device)
                own = lm.model(input_ids=inputs, use_cache=False).logits[0, len(context) - 1 : -1]
            if not alike(torch.stack(steps, 1)[row], own):
                return "what it generates differs from the model's own pass of a whole row"
    return None


def generate(
    lm: LM,
    contexts: Sequence[Sequence[int]],
    until: Until,
    way: Way,
    processors: Sequence[LogitsProcessor] = (),
) -> list[list[int]]:
    """Greedy continuations of one batch, until all have ended; what is behind an end is padding.

    Raises:
        NotFiniteError: a row's logits are not finite.
    """
    from transformers import GenerationConfig, StoppingCriteriaList

    width = max(map(len, contexts))
    pad = min(until.end_ids or lm.end_ids)
    ids = [[*[pad] * (width - len(c)), *c] for c in contexts]
    mask = [[0] * (width - len(c)) + [1] * len(c) for c in contexts]
    settings = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=until.limit,
        eos_token_id=sorted(until.end_ids) or None,
        pad_token_id=pad,
        use_cache=way.cached,
    )
    with _plain_generation(lm.model), torch.inference_mode():
        output = lm.model.generate(
            input_ids=torch.tensor(ids, device=lm.device),
            attention_mask=torch.tensor(mask, device=lm.device),
            generation_config=settings,
            logits_processor=[watch := _Watch(), *processors],
            stopping_criteria=StoppingCriteriaList(_stopping(until, width)),
        )
    new: list[list[int]] = output[:, width:].tolist()
    watch.check([until.ended(tokens).num_tokens for tokens in new])
    return new


class NotFiniteError(FloatingPointError):
    """A token was written from logits that are NaN, or infinite: in this `row` of the batch."""

    def __init__(self, row: int) -> None:
        super().__init__("logits are not finite where text is generated: try dtype float32")
        self.row = row


class _Watch:
    """A processor that changes no logits, and remembers which rows had a finite highest one."""

    def __init__(self) -> None:
        self._finite: list[torch.Tensor] = []

    def __call__(self, _: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        self._finite.append(logits.amax(-1).isfinite())
        return logits

    def check(self, num_tokens: Sequence[int]) -> None:
        """Refuse rows of which a token was written from other logits; waits for the device."""
        finite = torch.stack(self._finite, 1).tolist()
        for row, (own, number) in enumerate(zip(finite, num_tokens, strict=True)):
            if not all(own[:number]):
                raise NotFiniteError(row)


def _stopping(until: Until, width: int) -> list[StoppingCriterion]:
    """What tells transformers which rows have come to a stop text."""
    stop = until.stop
    if stop is None:
        return []

    def have_ended(input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        rows = input_ids[:, width:].tolist()
        ended = [r[-1] in stop.last_ids and until.ended(r).stop_text is not None for r in rows]
        return torch.tensor(ended, device=input_ids.device)

    return [have_ended]


@contextlib.contextmanager
def _plain_generation(model: Any) -> Iterator[None]:
    """Keep the model's own generation settings (sampling, penalties) out of greedy decoding.

    One that stands around another, as PEFT's do, may hand its own on to that one.
    """
    from transformers import GenerationConfig

    owners = [m for m in model.modules() if m is model or "generation_config" in vars(m)]
    before = [owner.generation_config for owner in owners]
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        for owner, own in zip(owners, before, strict=True):
            owner.generation_config = own
