"""A run's message around any question, held against the ids that the run used, row by row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from greater_fast.config import Config
from greater_fast.examples.data import Example
from greater_fast.examples.extractor import Extractor, given_extractor
from greater_fast.examples.layout import Layouts, build_layouts
from greater_fast.examples.placing.joint import Joint
from greater_fast.examples.rendering import Renderer
from greater_fast.examples.targets import lay_out_targets
from greater_fast.memory.outline import outline_with_ends
from greater_fast.model.files import ModelFiles, locate
from greater_fast.model.lm import LM
from greater_fast.model.smollm2 import SMOLLM2, smollm2_source
from greater_fast.model.text.chat_template import has_template
from greater_fast.runs.read import one_source
from greater_fast.runs.saved.identity import layout_digest
from greater_fast.wording import quoted

SPLITS = ("train", "dev", "test")
_QUESTION = "\ue001question\ue001"
# The notes on data that say what a question and an answer are.
_OF_QUESTIONS = re.compile(
    "each question is put together as |gold answers, read as |system messages in |chats of several "
)
_ANSWER_TOKENS = 32  # where no row says how long answers are
_MESSAGE_TOKENS = 2048  # nor messages
_NOT_CHOSEN = (
    "the run has no result, or goes on: this is its last prompt, compared on no other rows"
)


@dataclass(frozen=True, slots=True)
class Rendering:
    """A row as text: `before`, its question without outer white space, `after`.

    It is tokenised with the tokenizer's own `special_tokens` or without; `num_behind` of the ids
    are taken off its end. `messages` are what the chat template makes that of, with {question} in
    its place; None for a model without one. `extractor_ids` follow the reasoning, which any
    of `end_ids` ends and none belongs to; then up to `max_answer_tokens` of the answer. The run's
    messages have up to `max_message_tokens`. `lm` is the
    model without its weights, `dtype` what the run had them in, or "auto" where that is not known.
    `question_notes` say what a question and an answer are where the rows' columns were not simply
    these.
    """

    lm: LM
    dtype: str
    files: ModelFiles
    config: Config
    prompt: str
    before: str
    after: str
    messages: tuple[dict[str, str], ...] | None
    special_tokens: bool
    num_behind: int
    extractor: Extractor
    extractor_ids: tuple[int, ...]
    extractor_text: str
    end_ids: tuple[int, ...]
    max_answer_tokens: int
    max_message_tokens: int
    notes: tuple[str, ...]
    question_notes: tuple[str, ...]


def rendering_of(run: Mapping[str, Any], model: str | None = None) -> Rendering:
    """The rendering of a run's best prompt, or of the last one of a run without a result.

    Raises:
        ValueError: no model is named, or several are; a file of the run is damaged; the tokenizer
            makes other ids of a row than the run had.
    """
    try:
        prompt, prompt_ids = _prompt_of(run)
        settings = {**run["run"]["config"], "extractor": run["run"]["extractor"]}
        extractor = given_extractor(run["run"]["extractor"])
        rows = {split: _examples(run, split) for split in SPLITS}
        source = one_source(run["run"], model)
        dtype = _dtype_of(run["run"], model)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"the run is damaged: {type(error).__name__}: {error}") from error
    config = Config.from_mapping(settings)
    name = model or run["run"]["model"]
    files = locate(name, smollm2_source() if source == SMOLLM2 else source)
    lm = _outline(source, config)
    joint = Joint(prompt_first=config.prompt_placement == "before").between(prompt)
    before, after = _around(lm, config, prompt, joint)
    targets = lay_out_targets(lm, (), extractor, config)
    rendering = Rendering(
        lm=lm,
        dtype=dtype or "auto",
        files=files,
        config=config,
        prompt=prompt,
        before=before,
        after=after,
        messages=_messages(config, prompt, joint) if has_template(lm.tokenizer) else None,
        special_tokens=not has_template(lm.tokenizer),
        num_behind=0,
        extractor=targets.extractor,
        extractor_ids=targets.extractor_ids,
        extractor_text=lm.vocabulary.text(targets.extractor_ids),
        end_ids=tuple(sorted(lm.end_ids | targets.end_ids)),
        max_answer_tokens=_ANSWER_TOKENS,
        max_message_tokens=_MESSAGE_TOKENS,
        notes=(*run["damage"], _worth(run["result"])),
        question_notes=_question_notes(run["run"]),
    )
    if run["examples"] and not run["damage"]:  # else there are rows that are not known
        _check_same(run["run"], rendering, rows)
    return _checked(rendering, [row for own in rows.values() for row in own], prompt_ids)


def _worth(result: Mapping[str, Any] | None) -> str:
    """What is known of the prompt: nobody is to take one for better that is not known to be."""
    return _NOT_CHOSEN if result is None else f"of the prompt: {result['summary']}"


def _question_notes(run: Mapping[str, Any]) -> tuple[str, ...]:
    """The notes of a run on how its training rows became questions and answers."""
    told = [str(note).removeprefix("train: ") for note in run.get("notes", ())]
    template = run["config"].get("template")
    given = [f"each question is put together as {template!r}"] if template else []
    return (*given, *(note for note in told if _OF_QUESTIONS.match(note)))


def _prompt_of(run: Mapping[str, Any]) -> tuple[str, list[int] | None]:
    """The prompt, and its ids where the search has changed it or could have."""
    if run["result"] is not None:
        return str(run["result"]["prompt"]), run["result"]["best"]["prompt_ids"]
    if run["steps"]:
        return str(run["steps"][-1]["prompt"]), run["steps"][-1]["prompt_ids"]
    return str(run["run"]["prompt"]), None


def _dtype_of(run: Mapping[str, Any], model: str | None) -> str | None:
    """What the run had a model's weights in, by its name where there are several."""
    dtypes = run.get("dtype")
    if isinstance(dtypes, list):
        names = run["model"]
        same = dtypes[0] if len(set(dtypes)) == 1 else None
        return dtypes[names.index(model)] if model in names else same
    return dtypes


def _examples(run: Mapping[str, Any], split: str) -> list[Example]:
    return [
        Example(row["question"], row["answer"], tuple(row.get("other_answers", ())))
        for row in run["examples"]
        if row["split"] == split
    ]


def _outline(model: str, config: Config) -> LM:
    """The model without its weights.

    Raises:
        ValueError: it cannot be found by this name.
    """
    try:
        return outline_with_ends(model, config.device or "cpu", config.dtype)
    except ValueError as error:
        raise ValueError(
            f"the tokenizer of the run's model is needed: {error}; where the model is found by "
            "another name, give that (--model)"
        ) from error


def _around(lm: LM, config: Config, prompt: str, joint: str) -> tuple[str, str]:
    """A row's whole text before and after the question."""
    before, after = Renderer(lm, config, literal=False).around(_QUESTION, joint)
    placed = f"{prompt}{joint}" if config.prompt_placement == "before" else f"{joint}{prompt}"
    start, _, end = f"{before}{placed}{after}".partition(_QUESTION)
    return start, end


def _messages(config: Config, prompt: str, joint: str) -> tuple[dict[str, str], ...]:
    """The conversation that the template is given."""
    first = config.prompt_placement == "before"
    content = f"{prompt}{joint}{{question}}" if first else f"{{question}}{joint}{prompt}"
    user = {"role": "user", "content": content}
    if config.system_prompt is None:
        return (user,)
    return ({"role": "system", "content": config.system_prompt}, user)


def _check_same(
    run: Mapping[str, Any], rendering: Rendering, rows: Mapping[str, list[Example]]
) -> None:
    """Raise ValueError where the rows have other ids, or end by others, than the run had."""
    extractor = given_extractor(run["extractor"])
    made = {
        split: build_layouts(rendering.lm, own, run["prompt"], extractor, rendering.config)
        for split, own in rows.items()
        if own
    }
    name, ends, before = rendering.files.name, list(rendering.end_ids), run.get("end_ids")
    if run.get("layout") not in (None, layout_digest(made)):  # older runs have none
        raise ValueError(
            f"{name} makes other token ids of the run's rows than the run had: tokenizer, chat "
            "template, examples.jsonl or the version of a library have changed, or it is another "
            "model; name the run's (--model)"
        )
    if before is not None and ends not in before:
        raise ValueError(
            f"{name} ends a reasoning by the ids {ends}, the run by {before[0]}: put "
            "generation_config.json back, or name the run's model (--model)"
        )


def _checked(rendering: Rendering, rows: list[Example], prompt_ids: list[int] | None) -> Rendering:
    """The rendering, once the tokenizer makes of it what the run had on all rows.

    Raises:
        ValueError: it does not, on a row that names no special token, or of the prompt.
    """
    if not rows:
        return replace(
            rendering, notes=(*rendering.notes, "no rows were found to hold the rendering against")
        )
    lm = rendering.lm
    plain = [row for row in rows if not lm.vocabulary.names_special(row.question)]
    notes = list(rendering.notes)
    if len(plain) < len(rows):
        notes.append(
            f"{len(rows) - len(plain)} of {len(rows)} rows name special tokens, which the run read "
            "as text: a plain tokenizer does not"
        )
    longest, message = _ANSWER_TOKENS, _MESSAGE_TOKENS
    if plain:
        extractor = given_extractor(rendering.extractor.in_config())
        layouts = build_layouts(lm, plain, rendering.prompt, extractor, rendering.config)
        if prompt_ids not in (None, list(layouts.prompt_ids)):
            raise ValueError(
                f"the tokenizer of {rendering.files.name} makes other ids of the prompt "
                f"{quoted(rendering.prompt)} than the run had: is it the run's model?"
            )
        rendering = replace(rendering, num_behind=num_ids_behind(rendering, layouts))
        longest = layouts.answer_limit
        own = (layouts.context_ids(row, layouts.prompt_ids) for row in range(len(layouts)))
        message = max(map(len, own))
    return replace(
        rendering,
        notes=tuple(notes),
        max_answer_tokens=longest,
        max_message_tokens=message,
    )


def num_ids_behind(rendering: Rendering, layouts: Layouts) -> int:
    """How many tokens the tokenizer adds behind each row's ids, which all come first.

    Raises:
        ValueError: they do not.
    """
    added = set()
    for number, row in enumerate(layouts.rows):
        text = f"{rendering.before}{row.example.question.strip()}{rendering.after}"
        ids = rendering.lm.tokenizer(text, add_special_tokens=rendering.special_tokens)["input_ids"]
        wanted = layouts.context_ids(number, layouts.prompt_ids)
        added.add(len(ids) - len(wanted))
        if tuple(ids[: len(wanted)]) != wanted or len(added) > 1:
            raise ValueError(
                f"row {number} ({quoted(row.example.question, 50)}) has other ids in the "
                "rendering than in the run: it cannot be exported exactly"
            )
    return added.pop()
