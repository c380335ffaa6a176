"""Models with their weights and engines: what a run, or an evaluation, is made with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from greater_fast.config import Config
from greater_fast.engine import Engine
from greater_fast.gradients.example_loss import AnswerLoss, try_loss
from greater_fast.gradients.gradient_pass import check_gradient
from greater_fast.gradients.recomputing import check_recomputable
from greater_fast.kernels.dispatch import uses_triton
from greater_fast.memory.budget import MemoryPlan, RowLengths
from greater_fast.model.byte_sizes import memory_errors_explained
from greater_fast.model.kv_cache import default_pool_bytes
from greater_fast.model.lm import LM, load_lm
from greater_fast.model.parallel.loading import sharing_ranks
from greater_fast.ranks import Ranks, join
from greater_fast.rollouts.distributed import choices_of, make_engine_of
from greater_fast.runs.input import idle_settings, notes_on_texts
from greater_fast.runs.models.alike import names_of
from greater_fast.runs.models.outlines import check_placement, is_loaded
from greater_fast.runs.prepare import Prepared, refuse_or_warn
from greater_fast.runs.progress import Teller
from greater_fast.search.ensemble import Ensemble, Models, members


def make_ready(
    sources: Sequence[Any],
    prepared: Prepared,
    config: Config,
    loss: AnswerLoss | None,
    teller: Teller,
    held: Sequence[Mapping[str, Any]] = (),
) -> tuple[Models, MemoryPlan, tuple[str, ...]]:
    """The engines of a run with their models loaded, the plan of memory, and notes for the user.

    `held` are what the engines of a run that is gone on with were made with (`choices_of`).
    """
    layouts, ranks = prepared.layouts, join()
    memory = ranks.from_first(prepared.memory(config))
    refuse_or_warn(memory, prepared.device)
    teller.say(memory.verdict, "\n".join(memory.table))
    lms = load_models(sources, prepared.lms, prepared.device, config, teller.say)
    if loss is not None:
        with memory_errors_explained(lms[0].device):
            for lm in lms:
                try_loss(loss, lm, [row.answer_ids for row in layouts["train"].rows])
    lengths = RowLengths.of(layouts, config)
    most = lengths.num_sequences(config)
    models, engine_note = _together(
        [
            make_engine_of(ranks, lm, replace(settled, **own), lengths.longest, most)
            for number, (lm, own) in enumerate(zip(lms, held or [{}] * len(lms), strict=True))
            for settled in [memory.settled(config, number)]
        ]
    )
    found: list[tuple[str, ...]] = []
    if config.takes_gradients:
        with memory_errors_explained(lms[0].device):
            found = [check_gradient(own, config.kernels) for own in members(models)]
    gradient_notes = dict.fromkeys(note for notes in found for note in notes)
    notes = (
        *(*notes_of(models), *prepared.notes, *idle_settings(config, engines_of(models))),
        *notes_on_texts([prepared.prompt], config),
        *(memory.verdict, engine_note, *gradient_notes),
    )
    if loss is not None:
        name = getattr(loss, "__name__", type(loss).__name__)
        is_idle = "" if config.takes_gradients else ", without effect: the shortlist is random"
        notes += (f"gradient of: {name}{is_idle}",)
    for note in notes:
        teller.keep(note)
    return models, memory, notes


def _check_forced(lm: LM, config: Config, device: str) -> None:
    """Raise ValueError where what the settings force cannot run, which its outline tells."""
    if config.kernels == "triton":
        number = torch.empty(1, 1, dtype=lm.dtype, device=device)
        uses_triton("triton", number, number)
    if config.takes_gradients and config.gradient_checkpointing == "on":
        check_recomputable(lm)


def load_models(
    sources: Sequence[Any],
    outlines: Sequence[LM],
    place: str,
    config: Config,
    say: Callable[[str], object] = str,
) -> list[LM]:
    """The models that were `outlined`, with their weights; `say` is told of each before.

    Raises:
        ValueError: as `load_lm`; what the settings force cannot run, whatever the weights are.
    """
    for outline in outlines:
        _check_forced(outline, config, place)
    lms = []
    for source, outline in zip(sources, outlines, strict=True):
        say(
            f"loading {source if isinstance(source, str) else 'the model'} {_where(outline, place)}"
        )
        lm = outline
        if not is_loaded(outline):
            with memory_errors_explained(torch.device(place)):
                sharing = sharing_ranks(config)
                lm = load_lm(source, config.device, config.dtype, outline.tokenizer, sharing)
        lms.append(lm)
    return lms


def _where(lm: LM, place: str) -> str:
    """On which device, and in which numbers."""
    dtype = str(lm.dtype).removeprefix("torch.")
    device = torch.device(place)
    if device.type == "cuda" and torch.cuda.is_available():
        return f"on {place} ({torch.cuda.get_device_name(device)}) in {dtype}"
    unseen = device.type == "cpu" and not torch.cuda.is_available()
    return f"on {place} in {dtype}{' (torch sees no GPU)' if unseen else ''}"


def load_model(source: Any, config: Config, tokenizer: Any = None) -> LM:
    """A model as the settings say: on their device, of their type, shared by ranks or not.

    Raises:
        ValueError: as `load_lm`; a loaded one lies elsewhere than the settings say.
    """
    lm = load_lm(source, config.device, config.dtype, tokenizer, sharing_ranks(config))
    check_placement(source, lm, config)
    return lm


def engines_of(models: Models) -> set[str]:
    """The kinds of engine that run them, "paged" or "generate"."""
    return {choices_of(own)["engine"] for own in members(models)}


def make_models(
    lms: Sequence[LM], config: Config, longest: int, most: int, ranks: Ranks
) -> tuple[Models, str]:
    """Engines of models that are not planned for; several share the memory of a pool.

    `longest` are the tokens of a sequence, `most` the sequences at a time.
    """
    if len(lms) > 1 and config.kv_cache_bytes is None:
        config = replace(config, kv_cache_bytes=default_pool_bytes(lms[0].device) // len(lms))
    return _together([make_engine_of(ranks, lm, config, longest, most) for lm in lms])


def _together(made: Sequence[tuple[Engine, str]]) -> tuple[Models, str]:
    """Engines with what each says of itself: of one model as it is, of several as one."""
    if len(made) == 1:
        return made[0]
    engines = [engine for engine, _ in made]
    names = names_of([engine.lm for engine in engines])
    said = "; ".join(f"{name}: {note}" for name, (_, note) in zip(names, made, strict=True))
    return Ensemble(engines), f"{len(made)} models, one after the other; {said}"


def notes_of(models: Models) -> tuple[str, ...]:
    """What a user should know of the models' files."""
    return tuple(dict.fromkeys(note for own in members(models) for note in own.lm.notes))


def described(models: Models) -> dict[str, Any]:
    """Name, device and type of a model, for who wants to run it again; of several, the lists."""
    lms = [own.lm for own in members(models)]
    names, dtypes = [lm.name for lm in lms], [str(lm.dtype).removeprefix("torch.") for lm in lms]
    return {
        "model": names[0] if len(lms) == 1 else names,
        "device": str(lms[0].device),
        "dtype": dtypes[0] if len(lms) == 1 else dtypes,
    }
