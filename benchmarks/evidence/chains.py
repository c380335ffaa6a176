"""The store of the evidence: chains of successive places of a search, and all that came out there.

A chain is one model on one task with one seed: at each place of the prompt every candidate was run
on every row of one pool, so that signals and policies can be tried again without a model, with the
rows split anew each time. A file holds a chain: a line of JSON, then arrays, all compressed.
"""

from __future__ import annotations

import json
import lzma
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from greater_fast.config import Config

Ids = tuple[int, ...]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

SUFFIX = ".xz"
# Most arrays are of 16 bits: positions by their parity, no bits of the byte before.
_FILTER = {"id": lzma.FILTER_LZMA2, "lc": 0, "lp": 1, "pb": 1}
_SMALL, _FAST = 9 | lzma.PRESET_EXTREME, 0
_ALIGNMENT = 8
_ABOUT = ("model", "task", "seed", "num_selection", "settings")


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """What C prompts came to on the N rows of the pool: `reasonings[c][n]` is prompt c on row n.

    A row is right where every answer token is the model's first choice; `answer_loss` [C, N] is the
    mean cross-entropy of these tokens at the temperature of the loss, `prompt_nll` [C, N] the mean
    -log p of the prompt's, in nats, both with the precision of float16. A reasoning has all ids
    that were written: the last is the end id, unless the token limit cut it off.
    """

    is_right: Bools
    answer_loss: Floats
    prompt_nll: Floats
    reasonings: tuple[tuple[Ids, ...], ...]

    def of(self, number: int) -> Outcomes:
        """Those of one prompt alone, C = 1."""
        one = slice(number, number + 1)
        return Outcomes(
            self.is_right[one], self.answer_loss[one], self.prompt_nll[one], self.reasonings[one]
        )

    def objectives(self, rows: Any, config: Config) -> npt.NDArray[np.float64]:
        """What the search minimises, [C], on some rows: a slice, a mask or numbers."""
        terms: npt.NDArray[Any] = ~self.is_right
        weight = config.error_fluency_weight
        if config.objective == "loss":
            terms, weight = self.answer_loss, config.fluency_weight
        means = [values[:, rows].mean(1, dtype=np.float64) for values in (terms, self.prompt_nll)]
        found: npt.NDArray[np.float64] = means[0] + weight * means[1]
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """One place of the incumbent prompt, and K candidates for it.

    Attributes:
        index: of the token that the candidates take the place of.
        prompt_ids: the incumbent's.
        candidate_ids: tokens [K], sorted.
        logprobs: [K] mean log-probability over the examples asked, NaN where not proposed.
        from_lm: [K] whether it was drawn from the model's proposals.
        from_vocabulary: [K] whether it is of the lowest of the vocabulary by the answer's gradient.
        outcomes: of C = 1 + K prompts, the incumbent first, then the candidates in their order.
        scores: by the name of a signal [S, K], of the first S rows, predicted change of the row's
            loss against the incumbent, lower is better, with the precision of float16 and in a unit
            of their own.
        num_effective: [S] effective number of stored reasonings where they are weighted by their
            importance, mean over the candidates; 0 where the row has those of one outcome alone.
        winner: which of the C prompts was kept.
    """

    index: int
    prompt_ids: Ids
    candidate_ids: Ids
    logprobs: Floats
    from_lm: Bools
    from_vocabulary: Bools
    outcomes: Outcomes
    scores: Mapping[str, Floats]
    num_effective: Floats
    winner: int

    def prompt(self, number: int) -> Ids:
        """Ids of one of the C prompts: 0 is the incumbent, k + 1 has candidate k in the place."""
        if number == 0:
            return self.prompt_ids
        token_id = self.candidate_ids[number - 1]
        return (*self.prompt_ids[: self.index], token_id, *self.prompt_ids[self.index + 1 :])


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """Successive places, the change of each kept where it won on the first `num_selection` rows.

    `settings` say how it was made (`greater_fast.Config` values and the candidates' numbers),
    `made_on` by what kind of device, and in which numbers: "" where that was not written down.
    """

    model: str
    task: str
    seed: int
    num_selection: int
    places: tuple[Place, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    made_on: str = ""

    @property
    def cluster(self) -> tuple[str, int]:
        """What chains of different models share: the rows."""
        return self.task, self.seed


def model_name(source: str) -> str:
    """What a model is called here: by its folder or file, or with its owner's name by the hub's."""
    path = Path(source)
    is_local = path.exists() or path.is_absolute() or source.startswith((".", "~"))
    name = path.name if is_local else source.replace("/", "-")
    return name.removesuffix(".gguf").lower()


def chain_path(folder: Path, model: str, task: str, seed: int) -> Path:
    """The file of a chain."""
    return folder / f"{model_name(model)}-{task}-{seed}{SUFFIX}"


def load_chains(folder: Path) -> list[Chain]:
    """All chains of a folder, in the order of their names."""
    return [load(path) for path in sorted(folder.glob(f"*{SUFFIX}"))]


def save(chain: Chain, path: Path, is_whole: bool = True) -> None:
    """Write a chain of one place at least, in place of what is there, at once or not at all.

    One that goes on is compressed in a hurry.
    """
    arrays = _pack([place.outcomes.reasonings for place in chain.places])
    for number, place in enumerate(chain.places):
        arrays |= {f"{number}/{name}": array for name, array in _arrays_of(place).items()}
    about = {name: getattr(chain, name) for name in (*_ABOUT, "made_on")}
    shapes = {name: (array.dtype.str, array.shape) for name, array in arrays.items()}
    parts = [json.dumps({"about": about, "arrays": shapes}).encode() + b"\n"]
    parts += [np.ascontiguousarray(array).tobytes() for array in arrays.values()]
    data = b"".join(part + bytes(-len(part) % _ALIGNMENT) for part in parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")  # another process may write it too
    filters = [_FILTER | {"preset": _SMALL if is_whole else _FAST}]
    unfinished.write_bytes(lzma.compress(data, filters=filters))
    unfinished.replace(path)


def load(path: Path) -> Chain:
    """Read a chain.

    Raises:
        ValueError: the file is none.
    """
    try:
        data = lzma.decompress(path.read_bytes())
        head = data[: data.index(b"\n") + 1]
        written = json.loads(head)
        arrays, offset = {}, _aligned(len(head))
        for name, (kind, shape) in written["arrays"].items():
            flat = np.frombuffer(data, kind, math.prod(shape), offset)
            arrays[name] = flat.reshape(shape)
            offset += _aligned(flat.nbytes)
        about = {name: written["about"][name] for name in _ABOUT}
        about["made_on"] = written["about"].get("made_on", "")  # older files do not say
    except (lzma.LZMAError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: got no chain of this benchmark: {error}") from error
    reasonings = _unpack(arrays)
    places = [_place_of(arrays, number, own) for number, own in enumerate(reasonings)]
    return Chain(places=tuple(places), **about)


def _aligned(num_bytes: int) -> int:
    return num_bytes + -num_bytes % _ALIGNMENT


def _arrays_of(place: Place) -> dict[str, npt.NDArray[Any]]:
    """A place without its reasonings."""
    outcomes = place.outcomes
    arrays: dict[str, npt.NDArray[Any]] = {
        "where": np.array([place.index, place.winner], np.int32),
        "prompt_ids": np.array(place.prompt_ids, np.int32),
        "candidate_ids": np.array(place.candidate_ids, np.int32),
        "logprobs": place.logprobs.astype(np.float32),
        "num_effective": place.num_effective.astype(np.float16),
        "from": np.stack([place.from_lm, place.from_vocabulary]),
        "is_right": np.packbits(outcomes.is_right, axis=1),
        "answer_loss": outcomes.answer_loss.astype(np.float16),
        "prompt_nll": outcomes.prompt_nll.astype(np.float16),
    }
    for name, scores in place.scores.items():
        unit = float(np.abs(scores).max()) or 1.0  # float16 has no room for small gradients
        arrays[f"score/{name}"] = (scores / unit).astype(np.float16)
    return arrays


def _place_of(
    arrays: Mapping[str, npt.NDArray[Any]], number: int, reasonings: tuple[tuple[Ids, ...], ...]
) -> Place:
    start = f"{number}/"
    own = {name.removeprefix(start): a for name, a in arrays.items() if name.startswith(start)}
    num_rows = own["answer_loss"].shape[1]
    return Place(
        index=int(own["where"][0]),
        winner=int(own["where"][1]),
        prompt_ids=tuple(own["prompt_ids"].tolist()),
        candidate_ids=tuple(own["candidate_ids"].tolist()),
        logprobs=own["logprobs"],
        num_effective=own["num_effective"].astype(np.float32),
        from_lm=own["from"][0],
        from_vocabulary=own["from"][1],
        outcomes=Outcomes(
            is_right=np.unpackbits(own["is_right"], axis=1, count=num_rows).astype(bool),
            answer_loss=own["answer_loss"].astype(np.float32),
            prompt_nll=own["prompt_nll"].astype(np.float32),
            reasonings=reasonings,
        ),
        scores={
            name.removeprefix("score/"): array.astype(np.float32)
            for name, array in own.items()
            if name.startswith("score/")
        },
    )


def _pack(places: Sequence[Sequence[Sequence[Ids]]]) -> dict[str, npt.NDArray[Any]]:
    """Reasonings [place][prompt][row] as arrays: of each row the distinct ones, alike side by side.

    Sorted by their ids those that begin alike stand together, which is what the compression finds.
    `which` [places x prompts, N] numbers them within their row.
    """
    prompts = [reasonings for place in places for reasonings in place]
    num_rows = len(prompts[0]) if prompts else 0
    distinct = [sorted({reasonings[row] for reasonings in prompts}) for row in range(num_rows)]
    numbers = [{ids: number for number, ids in enumerate(own)} for own in distinct]
    which = [[numbers[row][ids] for row, ids in enumerate(reasonings)] for reasonings in prompts]
    texts = [ids for own in distinct for ids in own]
    return {
        "num_prompts": np.array([len(place) for place in places], np.int32),
        "which": _narrow(which).reshape(len(prompts), num_rows),
        "num_distinct": _narrow(len(own) for own in distinct),
        "lengths": _narrow(len(ids) for ids in texts),
        "tokens": _narrow(token for ids in texts for token in ids),
    }


def _unpack(arrays: Mapping[str, npt.NDArray[Any]]) -> list[tuple[tuple[Ids, ...], ...]]:
    """What `_pack` was given."""
    ids = arrays["tokens"].tolist()
    ends = np.cumsum(arrays["lengths"], dtype=np.int64).tolist()
    texts = [tuple(ids[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
    firsts = np.cumsum([0, *arrays["num_distinct"]], dtype=np.int64)[:-1]
    prompts = iter([tuple(texts[i] for i in firsts + numbers) for numbers in arrays["which"]])
    return [tuple(islice(prompts, number)) for number in arrays["num_prompts"].tolist()]


def _narrow(values: Iterable[Any]) -> npt.NDArray[Any]:
    """Numbers that are not negative in the narrowest type that has them."""
    array = np.array(list(values), np.int64)
    return array.astype(np.min_scalar_type(int(array.max(initial=0))))
