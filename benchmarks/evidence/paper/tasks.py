"""The paper's tasks, as found in a folder of data: BBH, GSM8K, FOLIO, with rows for each split."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from greater_fast.examples.data import Example, load_examples
from greater_fast.examples.splits import Splits, make_splits

ENDINGS = {".json", ".jsonl", ".csv", ".parquet"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Rows for training, development and test."""

    train: int
    dev: int
    test: int

    @property
    def sum(self) -> int:
        """Rows of all splits."""
        return self.train + self.dev + self.test


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Accuracies of the paper's tables 1 and 2, in percent: zero-shot CoT and GReaTer."""

    initial: float
    greater: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """One column of the paper: its folder, its splits, and what was published, by model.

    Published figures are means over `num_tasks`.
    """

    name: str
    folder: str
    num_tasks: int
    sizes: Sizes
    published: dict[str, Published]


BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            name="bbh",
            folder="BBH",
            num_tasks=21,
            sizes=Sizes(train=50, dev=100, test=100),
            published={
                "Gemma-2-9B": Published(initial=71.7, greater=76.6),
                "Llama-3-8B": Published(initial=62.2, greater=68.7),
            },
        ),
        Benchmark(
            name="gsm8k",
            folder="GSM8K",
            num_tasks=1,
            sizes=Sizes(train=100, dev=100, test=1319),
            published={
                "Gemma-2-9B": Published(initial=88.6, greater=89.4),
                "Llama-3-8B": Published(initial=79.6, greater=82.6),
            },
        ),
        Benchmark(
            name="folio",
            folder="FOLIO",
            num_tasks=1,
            sizes=Sizes(train=100, dev=100, test=203),
            published={
                "Gemma-2-9B": Published(initial=65.0, greater=69.1),
                "Llama-3-8B": Published(initial=58.6, greater=62.6),
            },
        ),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task of a benchmark with the files of its splits; `rows` is drawn from for the others."""

    benchmark: str
    name: str
    rows: Path
    dev: Path | None = None
    test: Path | None = None

    @property
    def digest(self) -> str:
        """Of the files' bytes: cells of other rows are not compared with these."""
        files = (file for file in (self.rows, self.dev, self.test) if file)
        joined = b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)
        return hashlib.sha256(joined).hexdigest()[:16]

    def splits(self, sizes: Sizes, seed: int) -> Splits:
        """Rows of each split, no question in two of them; fewer where the files hold fewer.

        Where one file has to do for several splits, they share its rows in proportion to the sizes.

        Raises:
            ValueError: a file cannot be read, or holds too few rows.
        """
        rows = _read(self.rows)
        dev = _read(self.dev) if self.dev else None
        test = _read(self.test) if self.test else None
        train, held_out = sizes.train, sizes.dev
        if test is None:
            rows, test = _divided(rows, sizes, seed)
            share = min(1.0, len(rows) / (sizes.train + sizes.dev))
            train, held_out = max(2, int(share * sizes.train)), max(1, int(share * sizes.dev))
        kept = random.Random(f"{seed}/paper/test").sample(test, min(sizes.test, len(test)))
        return make_splits(rows, dev, kept, num_train=train, num_dev=held_out, seed=seed)


def found_tasks(folder: Path, benchmark: Benchmark) -> list[Task]:
    """Tasks of a benchmark in its folder: one of files named train, dev and test, else one a file.

    Raises:
        ValueError: there is no such folder, or no data in it.
    """
    path = folder / benchmark.folder
    files = sorted(f for f in path.glob("*") if f.suffix in ENDINGS)
    if not files:
        raise ValueError(
            f"{path}: got no data file, expected some of {', '.join(sorted(ENDINGS))}: "
            "name the folder that holds BBH, GSM8K and FOLIO"
        )
    named = {split: _named(files, split) for split in ("train", "dev", "test")}
    if not any(named.values()):
        return [Task(benchmark=benchmark.name, name=f.stem, rows=f) for f in files]
    train, dev, test = named["train"], named["dev"], named["test"]
    if test is None and train is not None:
        dev, test = None, dev  # rows that are no others' serve best at the end
    if train is None:
        train, dev, test = test or dev, None, None
    assert train is not None
    return [Task(benchmark=benchmark.name, name=benchmark.name, rows=train, dev=dev, test=test)]


def shortfalls(splits: Splits, sizes: Sizes) -> Iterator[str]:
    """Where splits hold fewer rows than the paper's."""
    for name, rows, wanted in (
        ("train", splits.train, sizes.train),
        ("dev", splits.dev, sizes.dev),
        ("test", splits.test, sizes.test),
    ):
        if len(rows) < wanted:
            yield f"{name} {len(rows)} of {wanted}"


def _named(files: Sequence[Path], split: str) -> Path | None:
    return next((f for f in files if f.stem.lower().split("_")[0] == split), None)


def _read(path: Path) -> list[Example]:
    return list(load_examples(path))


def _divided(
    rows: Sequence[Example], sizes: Sizes, seed: int
) -> tuple[list[Example], list[Example]]:
    """Rows to search on, and the test's, in proportion to the sizes."""
    order = random.Random(f"{seed}/paper").sample(range(len(rows)), len(rows))
    num_test = min(sizes.test, round(len(rows) * sizes.test / sizes.sum))
    chosen = set(order[:num_test])
    return (
        [row for i, row in enumerate(rows) if i not in chosen],
        [row for i, row in enumerate(rows) if i in chosen],
    )
