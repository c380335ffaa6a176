"""A run before its model is loaded: input checked, rows laid out, memory planned."""

from __future__ import annotations

import dataclasses
import datetime
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from greater_fast.config import Config
from greater_fast.examples.data import Example, Examples, load_examples
from greater_fast.examples.extractor import (
    Extractor,
    check_reads_back,
    derive_extractor,
    given_extractor,
    option_letters,
)
from greater_fast.examples.golds import describe_changes, in_one_form, spellings
from greater_fast.examples.layout import Layouts, build_layouts
from greater_fast.examples.loading.choices import check_readings
from greater_fast.examples.loading.languages import language_note
from greater_fast.examples.metrics import Metric
from greater_fast.examples.placeholders import check_no_placeholder
from greater_fast.examples.splits import Splits, make_splits
from greater_fast.memory.budget import MemoryPlan, RowLengths
from greater_fast.memory.plan import plan_memory
from greater_fast.memory.shapes import ModelShapes
from greater_fast.model.byte_sizes import memory_bytes
from greater_fast.model.lm import LM
from greater_fast.runs.input import measured_by, metric_note
from greater_fast.runs.models.alike import common_layouts
from greater_fast.runs.models.outlines import is_loaded, outlined
from greater_fast.search.checks import check_no_race
from greater_fast.wording import quoted


@dataclass(frozen=True, slots=True)
class Prepared:
    """`layouts` has rows under train, dev and perhaps test; models may be without their weights.

    `prompt` is as it was given, outer white space included.
    """

    lms: tuple[LM, ...]
    device: str
    splits: Splits
    layouts: dict[str, Layouts]
    prompt: str

    @property
    def extractor(self) -> Extractor:
        """What asks for the answer, on all rows."""
        return self.layouts["train"].extractor

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the rows and the extractor."""
        dropped = [f"{name}: {note}" for name, rows in self.layouts.items() for note in rows.notes]
        measuring = metric_note(self.layouts["train"])
        language = language_note(self.extractor, self.splits.train)
        extractor = (self.extractor.describe(), *language)
        return (*self.splits.report, *dropped, *extractor, *measuring)

    def measured_by(self, metric: Metric | str | None) -> Prepared:
        """The same, with a metric of a user's own where one is given."""
        measured = {name: measured_by(metric, rows) for name, rows in self.layouts.items()}
        return replace(self, layouts=measured)

    def memory(self, config: Config, total_bytes: int | None = None) -> MemoryPlan:
        """The plan for so much memory, by default for all of the device's.

        Raises:
            ValueError: `kv_cache_bytes` is set, and too small for one sequence.
        """
        device, shapes = torch.device(self.device), [ModelShapes.of(lm) for lm in self.lms]
        if total_bytes is None:
            pairs = zip(shapes, self.lms, strict=True)
            loaded = sum(own.weight_bytes for own, lm in pairs if is_loaded(lm))
            total_bytes = min(self.lms[0].ranks.gathered(memory_bytes(device, loaded)))
        return plan_memory(
            shapes[0],
            RowLengths.of(self.layouts, config),
            config,
            total_bytes,
            device_type=device.type,
            beside=shapes[1:],
        )


def prepare(
    models: Sequence[Any], splits: Splits, prompt: str, config: Config, device: str | None = None
) -> Prepared:
    """Lay out the rows for one model or several, without the weights of what is not loaded.

    `device` is where the run is planned for, be it there or not; by default the device of a loaded
    model, else that of the settings.

    Raises:
        ValueError: no such device, or models, prompt and rows do not go together.
    """
    check_no_race(len(models), config)
    splits = _in_one_form(splits)
    extractor = choose_extractor(config, (*splits.train, *splits.dev), splits.test)
    lms, place = outlined(models, config, device)
    layouts = [_layouts(lm, splits, prompt, extractor, config) for lm in lms]
    common = {name: common_layouts(lms, [own[name] for own in layouts]) for name in layouts[0]}
    return Prepared(lms, place, splits, common, prompt)


def read_splits(train: Any, dev: Any, test: Any, config: Config) -> Splits:
    """The rows of each set, from what `load_examples` takes; `dev` and `test` may be None.

    Raises:
        ValueError: no such rows, or gold answers of one set that would be read as in another.
    """
    sets = {
        name: None if source is None else load_examples(source, template=config.template)
        for name, source in (("train", train), ("dev", dev), ("test", test))
    }
    check_readings({name: rows.readings for name, rows in sets.items() if rows})
    splits = make_splits(
        sets["train"] or [],
        sets["dev"],
        sets["test"],
        num_train=config.num_train,
        num_dev=config.num_dev,
        seed=config.seed,
    )
    notes = [f"{name}: {note}" for name, rows in sets.items() if rows for note in rows.notes]
    own = sets["train"] or Examples([])
    report = (*splits.report, *notes)
    return replace(splits, report=report, columns=own.columns, readings=own.readings)


def as_config(config: Config | Mapping[str, Any] | None) -> Config:
    """Settings from what a user passes: none, some, or all; the day of templates is settled."""
    return dated(checked_config(config))


def checked_config(config: Config | Mapping[str, Any] | None) -> Config:
    """Settings from what a user passes: none, some, or all."""
    if config is None or isinstance(config, Mapping):
        config = Config.from_mapping(config or {})
    if not isinstance(config, Config):
        raise ValueError(f"config: got {type(config).__name__}, expected a Config or a mapping")
    if config.system_prompt is not None:
        check_no_placeholder("system_prompt", config.system_prompt, "write it out")
    return config


def dated(config: Config, day: str | None = None) -> Config:
    """Settings with the day of templates: theirs, else a day, else today's."""
    day = config.template_date or day or datetime.date.today().isoformat()
    return dataclasses.replace(config, template_date=day)


def check_prompt(prompt: object) -> None:
    """Raise ValueError where a prompt is no text, or a template with places to fill in."""
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"prompt: got {quoted(prompt)}, expected a text of at least 2 tokens")
    instead = "leave it out: the question is put beside the prompt (prompt_placement says where)"
    check_no_placeholder("prompt", prompt, instead)


def choose_extractor(
    config: Config, examples: Sequence[Example], others: Sequence[Example] = ()
) -> Extractor:
    """The extractor of the settings, else one that suits the answers of the examples.

    Raises:
        ValueError: a gold answer of the examples, or of `others`, would not be read as itself.
    """
    golds = [gold for example in (*examples, *others) for gold in example.answers]
    if config.extractor is None:
        letters = option_letters(example.question for example in (*examples, *others))
        return derive_extractor([example.answer for example in examples], golds, letters)
    extractor = given_extractor(config.extractor)
    check_reads_back(extractor, golds)
    return extractor


def _in_one_form(splits: Splits) -> Splits:
    """The rows with their gold answers in one form, that of the rows searched and chosen on."""
    searched = (*splits.train, *splits.dev)
    spelled = spellings(gold for example in searched for gold in example.answers)
    train, dev = in_one_form(splits.train, spelled), in_one_form(splits.dev, spelled)
    report = (*splits.report, *describe_changes(searched, (*train, *dev)))
    test = in_one_form(splits.test, spelled)
    return dataclasses.replace(splits, train=train, dev=dev, test=test, report=report)


def _layouts(
    lm: LM, splits: Splits, prompt: str, extractor: Extractor, config: Config
) -> dict[str, Layouts]:
    """Layouts of each split that has rows.

    Raises:
        ValueError: among others, the prompt changes its ids on the way through text and back.
    """
    sets = {"train": splits.train, "dev": splits.dev, "test": splits.test}
    layouts: dict[str, Layouts] = {}
    longest_answer = 0
    for name, examples in sets.items():
        if not examples:
            continue
        try:
            layouts[name] = build_layouts(lm, examples, prompt, extractor, config, longest_answer)
        except ValueError as error:
            raise ValueError(f"{name} rows: {error}") from error
        longest_answer = layouts["train"].longest_answer
    train = layouts["train"]
    if len(train) < 2:
        raise ValueError(f"{len(train)} training row is left, expected 2 at least: {train.notes}")
    for name, other in layouts.items():
        if other.prompt_ids != train.prompt_ids:
            raise ValueError(f"the prompt has other tokens on the {name} rows than in training")
    return layouts


def refuse_or_warn(memory: MemoryPlan, device: str) -> None:
    """Refuse a run that a GPU cannot hold; on a CPU, where there is swap, only warn."""
    if memory.fits:
        return
    lines = "; ".join((memory.verdict, *memory.advice))
    message = f"the run does not fit the memory of {device}; {lines}"
    if device != "cpu":
        raise ValueError(message)
    warnings.warn(message, RuntimeWarning, stacklevel=5)
