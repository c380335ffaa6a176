"""What a run is gone on with, beside what it was begun with: refused, or noted where harmless."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from greater_fast.config import Config
from greater_fast.wording import listed, quoted

# What a run takes of memory and time: it may be changed where a run ended for want of them.
OF_MEMORY = (
    *("kv_cache_bytes", "max_step_tokens", "draft_tokens", "batch_size"),
    *("gradient_batch_tokens", "gradient_checkpointing"),
)
# Of device and dtype, what they come to is compared once the model is loaded.
CHANGEABLE = ("steps", "stop_unchanged", "minutes", "device", "dtype", *OF_MEMORY)
_LAST_BITS = "where two tokens are nearly as likely, what follows may differ from a run in one go"


def compare_settings(run: Mapping[str, Any], config: Config, num_done: int = 0) -> tuple[str, ...]:
    """Notes on settings that differ from those that a run of `num_done` steps was begun with.

    Raises:
        ValueError: one of them decides what the run comes to.
    """
    before, now = run["config"], config.to_dict()
    differ = [name for name in now if now[name] != before.get(name, now[name])]
    fixed = [name for name in differ if name not in CHANGEABLE]
    if fixed:
        shown = listed((f"{n} {quoted(before[n])}, now {quoted(now[n])}" for n in fixed), 4)
        raise ValueError(
            f"config: the run was begun with other settings ({shown}), which decide what it comes "
            "to: leave them as they were, or begin another run"
        )
    if config.steps < num_done:
        raise ValueError(
            f"steps: got {config.steps}, the run has done {num_done}: none can be taken back, and "
            "with as many it goes on to its finals"
        )
    others = [f"{n} {before[n]}, now {now[n]}" for n in differ if n in OF_MEMORY]
    return (f"resumed with {listed(others, 6)}: {_LAST_BITS}",) if others else ()


def compare_sources(run: Mapping[str, Any], number: int) -> None:
    """Raise ValueError where so many models are given, and the run was begun with others."""
    if number != (before := len(run["source"])):
        raise ValueError(
            f"model: got {number}, the run was begun with {before}: give it the same, in their "
            "order, or begin another run"
        )


def compare_functions(run: Mapping[str, Any], given: Mapping[str, str | None]) -> None:
    """Raise ValueError where a function of the user's own is missing, or has another name.

    `given` has the names of `on_step`, `loss`, `metric` and `judge`, None for none.
    """
    for name, now in given.items():
        before = run.get(name)
        if name == "metric" and before == run["config"].get("metric"):  # one of a name: a setting
            before = None
        if now is None and before is not None:
            instead = ", or another one" if name == "on_step" else ""
            raise ValueError(
                f"{name}: the run was begun with the function {quoted(before)}, which no file "
                f"holds: give it again{instead}, in Python: greater_fast.resume(..., {name}=...)"
            )
        if now != before and name != "on_step":
            raise ValueError(
                f"{name}: got {quoted(now)}, the run was begun with {quoted(before)}: leave it as "
                "it was, or begin another run"
            )


def compare_examples(run: Sequence[Any], now: Sequence[Any]) -> None:
    """Raise ValueError where the rows are not those that a run was begun with.

    What the files of an older version do not say of a row is not compared.
    """
    pairs = zip(run, now, strict=False)
    differ = sum(any(new.get(name) != old[name] for name in old) for old, new in pairs)
    differ += abs(len(run) - len(now))
    if not differ:
        return
    raise ValueError(
        f"train, dev or test: {differ} of {len(run)} rows are not those that the run was begun "
        "with: give it the same data, or begin another run"
    )


def compare_layout(run: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise ValueError where what is known without weights is not as a run was begun.

    That is the prompt, the rows' token ids, and how many ranks share a model.
    """
    if now["prompt"] != run["prompt"]:
        raise ValueError(
            f"prompt: got {quoted(now['prompt'])}, the run was begun with {quoted(run['prompt'])}: "
            "leave it as it was, or begin another run"
        )
    if run["config"]["tensor_parallel"] and now["num_ranks"] != run["num_ranks"]:
        raise ValueError(
            f"tensor_parallel: the run was begun with a model in {run['num_ranks']} parts, now "
            f"there are {now['num_ranks']}: start as many processes as then"
        )
    if now["layout"] != run["layout"]:
        raise ValueError(
            "the rows have other token ids than when the run was begun: tokenizer, chat template "
            "or the version of a library have changed, or it is another model; put them back, or "
            "begin another run"
        )


def compare_identity(run: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise ValueError where the model is not the one that a run was begun with."""
    if now["dtype"] != run["dtype"]:
        raise ValueError(
            f"dtype: the model is of {now['dtype']}, the run was begun with {run['dtype']}: set "
            "dtype to that"
        )
    if now["weights"] != run["weights"]:
        raise ValueError(
            "model: its weights are not those that the run was begun with: give it the same model, "
            "or begin another run"
        )
    if now["model_config"] != run.get("model_config", now["model_config"]):  # older ones have none
        raise ValueError(
            "model: its config.json is not that which the run was begun with (rope, windows, "
            "scaling, ...): put it back, or begin another run"
        )
    if now["end_ids"] != (before := run.get("end_ids", now["end_ids"])):
        raise ValueError(
            f"model: the ids that end a reasoning are {now['end_ids']}, the run was begun with "
            f"{before}: generation_config.json, tokenizer or chat template have changed; put them "
            "back, or begin another run"
        )


def surroundings_notes(run: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, ...]:
    """A note on versions, machine and processes that differ from those that a run began with."""
    before = {**run["versions"], **{name: run.get(name) for name in _AROUND}}
    after = {**now["versions"], **{name: now.get(name) for name in _AROUND}}
    differ = [f"{n} {before[n]}, now {after[n]}" for n in before if before[n] != after.get(n)]
    return (f"resumed with {listed(differ, 8)}: {_LAST_BITS}",) if differ else ()


_AROUND = ("machine", "device", "num_threads", "num_ranks")
