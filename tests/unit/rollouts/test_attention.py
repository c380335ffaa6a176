"""CPU attention over block tables: right to rounding, and each row's bits are its own."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from greater_fast._core import paged_attention
from kernels.reference import Ranges
from kernels.reference import paged_attention as reference

Floats = NDArray[Any]

pytestmark = pytest.mark.usefixtures("every_vector_size")


class Batch:
    """Sequences of given (queries, context) whose older keys and values are in a poisoned pool."""

    def __init__(
        self,
        sequences: list[tuple[int, int]],
        *,
        heads: int = 4,
        kv_heads: int = 2,
        head_size: int = 32,
        block_size: int = 4,
        dtype: type = np.float32,
        num_padding: int = 0,
        seed: int = 0,
    ) -> None:
        rng = np.random.default_rng(seed)
        self.sequences, self.size = sequences, block_size
        counts = [-(-context // block_size) for _, context in sequences]
        num_blocks = 2 + sum(counts)  # block 0, and one that nobody has
        order = 1 + rng.permutation(num_blocks - 1).astype(np.int32)
        self.tables = np.full((len(sequences), max(counts) + 1), num_blocks - 1, np.int32)
        for b, count in enumerate(counts):
            self.tables[b, :count] = order[sum(counts[:b]) : sum(counts[: b + 1])]
        # Keys and values of each sequence's tokens, [context, KV, D]; queries [context, H, D].
        self.queries = [self._draw(rng, c, heads, head_size, dtype) for _, c in sequences]
        self.keys = [self._draw(rng, c, kv_heads, head_size, dtype) for _, c in sequences]
        self.values = [self._draw(rng, c, kv_heads, head_size, dtype) for _, c in sequences]
        self.pool = np.full((2, num_blocks, kv_heads, block_size, head_size), np.nan, dtype)
        self.num_padding = num_padding
        for b, (num_queries, context) in enumerate(sequences):
            for position in range(context - num_queries):
                block, offset = self.tables[b, position // block_size], position % block_size
                self.pool[0, block, :, offset] = self.keys[b][position]
                self.pool[1, block, :, offset] = self.values[b][position]

    @staticmethod
    def _draw(rng: Any, count: int, heads: int, size: int, dtype: type) -> Floats:
        return rng.standard_normal((count, heads, size)).astype(dtype)

    def arguments(self, only: list[int] | None = None) -> dict[str, Any]:
        """The plan of all sequences, or of some of them."""
        chosen = list(range(len(self.sequences))) if only is None else only
        own = [(b, *self.sequences[b]) for b in chosen]
        padding = self.num_padding

        def rows(parts: list[Floats]) -> Floats:
            new = np.concatenate([parts[b][context - count :] for b, count, context in own])
            filler = np.full((padding, *new.shape[1:]), np.nan, new.dtype)
            return np.concatenate([new, filler])

        slots = [
            self.tables[b, position // self.size] * self.size + position % self.size
            for b, count, context in own
            for position in range(context - count, context)
        ]
        queries = rows(self.queries)
        return {
            "queries": queries,
            "new_keys": rows(self.keys),
            "new_values": rows(self.values),
            "keys": self.pool[0].copy(),
            "values": self.pool[1].copy(),
            "output": np.full_like(queries, np.nan),
            "slots": np.array(slots + [i % self.size for i in range(padding)], np.int32),
            "query_starts": np.cumsum([0] + [count for _, count, _ in own]).astype(np.int32),
            "context_lens": np.array([context for *_, context in own], np.int32),
            "block_tables": self.tables[chosen].copy(),
            "num_sequences": len(own),
            "scale": 0.3,
            "soft_cap": 0.0,
            "window": 0,
        }


def check(batch: Batch, *, magnified: float = 1, **options: Any) -> None:
    given = {**batch.arguments(), **options}
    unwritten = {name: given[name].copy() for name in ("keys", "values")}
    paged_attention(**given)
    num_real = given["query_starts"][-1]
    assert (given["output"][num_real:] == 0).all()
    for name in ("keys", "values"):
        # Each new row is in its slot, and nothing else has changed.
        for row, slot in enumerate(given["slots"][:num_real].tolist()):
            block, offset = divmod(slot, batch.size)
            np.testing.assert_array_equal(given[name][block, :, offset], given[f"new_{name}"][row])
            unwritten[name][block, :, offset] = given[f"new_{name}"][row]
        np.testing.assert_array_equal(given[name][1:], unwritten[name][1:])
    pool = [torch.from_numpy(given[name]).double() for name in ("keys", "values")]
    wanted = reference(
        torch.from_numpy(given["queries"]).double(),
        (pool[0], pool[1]),
        Ranges(
            *(torch.from_numpy(given[n]) for n in ("query_starts", "context_lens", "block_tables"))
        ),
        given["scale"],
        given["soft_cap"],
        given["window"],
    ).numpy()
    tolerance = magnified * (2e-6 if given["queries"].dtype == np.float32 else 1e-14)
    found = given["output"][:num_real]
    np.testing.assert_allclose(found, wanted[:num_real], rtol=tolerance, atol=tolerance)


RAGGED = [(1, 1), (5, 5), (1, 23), (7, 30), (40, 40), (3, 4)]
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@DTYPES
@pytest.mark.parametrize("block_size", [1, 4, 16])
@pytest.mark.parametrize("kv_heads", [1, 2, 3])
@pytest.mark.parametrize("group", [1, 2, 3, 8])
def test_grouped_heads(dtype: type, block_size: int, kv_heads: int, group: int) -> None:
    shape = {"heads": kv_heads * group, "kv_heads": kv_heads, "block_size": block_size}
    check(Batch(RAGGED, dtype=dtype, num_padding=3, **shape))


@DTYPES
@pytest.mark.parametrize("head_size", [1, 12, 16, 32, 64, 80, 96, 100, 128, 255, 256, 512])
@pytest.mark.parametrize("options", [{}, {"soft_cap": 2.0, "window": 6}], ids=str)
def test_head_sizes(dtype: type, head_size: int, options: dict[str, Any]) -> None:
    check(Batch(RAGGED, head_size=head_size, dtype=dtype), scale=head_size**-0.5, **options)


@DTYPES
@pytest.mark.parametrize("soft_cap", [0.0, 0.5, 30.0])
@pytest.mark.parametrize("window", [0, 1, 2, 5, 16, 29, 30, 1000])
def test_soft_cap_and_window(dtype: type, soft_cap: float, window: int) -> None:
    check(Batch(RAGGED, dtype=dtype, num_padding=20), soft_cap=soft_cap, window=window)


def test_scores_far_apart() -> None:
    """The softmax neither overflows nor loses its sum."""
    for scale in (0.0, 50.0, -50.0):
        check(Batch(RAGGED, dtype=np.float64), scale=scale, magnified=1000)


def test_a_key_far_below_the_others_has_no_weight() -> None:
    """Nor a denormal one, which would be slow; a value of 1e38 shows the least of it."""
    given = Batch([(1, 2)], heads=1, kv_heads=1, head_size=8).arguments()
    for name in ("queries", "keys", "values", "new_keys"):
        given[name][:] = 0
    given["queries"][0, 0, 0], given["new_values"][:] = 1, 1e38
    for distance, expected in ((80.0, 1e38 * np.exp(-80.0)), (100.0, 0.0)):
        given["new_keys"][0, 0, 0] = -distance
        paged_attention(**{**given, "scale": 1.0})
        np.testing.assert_allclose(given["output"][0, 0], expected, rtol=1e-5)


@pytest.mark.parametrize("soft_cap", [0.0, 5.0])
def test_nan_stays(soft_cap: float) -> None:
    batch = Batch([(1, 5), (1, 7)])
    given = batch.arguments()
    given["queries"][0, 1, 3] = np.nan
    paged_attention(**{**given, "scale": 0.3, "soft_cap": soft_cap})
    assert np.isnan(given["output"][0, 1]).all()
    assert np.isfinite(given["output"][0, [0, 2, 3]]).all()
    assert np.isfinite(given["output"][1]).all()


def test_no_sequence() -> None:
    batch = Batch([(2, 2)], num_padding=3)
    given = batch.arguments([0])
    given["slots"][:] = 0
    given |= {"num_sequences": 0, "query_starts": np.zeros(1, np.int32)}
    paged_attention(**given)
    assert (given["output"] == 0).all()


OPTIONS: list[dict[str, Any]] = [{}, {"window": 5}, {"soft_cap": 2.0}]
SHAPES: list[dict[str, Any]] = [
    {"heads": 4, "kv_heads": 2, "head_size": 32},
    {"heads": 3, "kv_heads": 3, "head_size": 80},
    {"heads": 8, "kv_heads": 1, "head_size": 12},
    {"heads": 9, "kv_heads": 3, "head_size": 64, "block_size": 16},
]
INVARIANT = pytest.mark.parametrize(
    ("shape", "options", "dtype"),
    [
        (shape, options, dtype)
        for shape in SHAPES
        for options in OPTIONS
        for dtype in (np.float32, np.float64)
    ],
    ids=str,
)


@INVARIANT
def test_a_row_does_not_depend_on_its_batch(
    shape: dict[str, Any], options: dict[str, Any], dtype: type
) -> None:
    batch = Batch(RAGGED, dtype=dtype, **shape)
    together = {**batch.arguments(), **options}
    paged_attention(**together)
    starts = together["query_starts"]
    for order in ([0], [4], [5, 4, 3, 2, 1, 0], [2, 4]):
        alone = {**batch.arguments(order), **options}
        paged_attention(**alone)
        wanted = [together["output"][starts[b] : starts[b + 1]] for b in order]
        np.testing.assert_array_equal(alone["output"], np.concatenate(wanted))


@INVARIANT
@pytest.mark.parametrize("cuts", [[1] * 40, [40 - 3, 3], [2, 3, 5, 7, 11, 12], [33, 7]], ids=str)
def test_a_prompt_may_be_cut_anywhere(
    shape: dict[str, Any], options: dict[str, Any], dtype: type, cuts: list[int]
) -> None:
    batch = Batch([(40, 40)], dtype=dtype, **shape)
    whole = {**batch.arguments(), **options}
    paged_attention(**whole)
    keys, values, parts, done = batch.pool[0].copy(), batch.pool[1].copy(), [], 0
    for count in cuts:
        batch.sequences = [(count, done + count)]
        part = {**whole, "keys": keys, "values": values}
        for name in ("queries", "new_keys", "new_values", "slots"):
            part[name] = whole[name][done : done + count].copy()
        part["output"] = np.full_like(part["queries"], np.nan)
        part["query_starts"] = np.array([0, count], np.int32)
        part["context_lens"] = np.array([done + count], np.int32)
        paged_attention(**part)
        parts.append(part["output"])
        done += count
    np.testing.assert_array_equal(np.concatenate(parts), whole["output"])


@pytest.mark.parametrize("num_threads", [2, 3])
def test_threads_change_nothing(num_threads: int) -> None:
    before = torch.get_num_threads()
    outputs = []
    try:
        for count in (1, num_threads):
            torch.set_num_threads(count)
            given = Batch(RAGGED).arguments()
            paged_attention(**given)
            outputs.append(given["output"])
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(*outputs)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "queries of two dimensions": ({"queries": lambda a: a[0]}, "expected queries"),
    "keys of three dimensions": ({"keys": lambda a: a[0]}, "expected queries"),
    "flat tables": ({"block_tables": lambda a: a[0]}, "expected queries"),
    "another type": ({"keys": lambda a: a.astype(np.float64)}, "keys: got dtype float64"),
    "half precision": ({"queries": lambda a: a.astype(np.float16)}, "queries: got dtype float16"),
    "int64 slots": ({"slots": lambda a: a.astype(np.int64)}, "slots: got dtype int64"),
    "heads that do not divide": ({"queries": lambda a: a[:, :3].copy()}, "do not fit together"),
    "another head size": ({"queries": lambda a: a[..., :8].copy()}, "new_keys: expected shape"),
    "heads of 513": ({"queries": lambda a: np.zeros((2, 4, 513), a.dtype)}, "do not fit together"),
    "heads of nothing": ({"queries": lambda a: a[..., :0].copy()}, "do not fit together"),
    "blocks of nothing": ({"keys": lambda a: a[:, :, :0].copy()}, "do not fit together"),
    "fewer new keys": ({"new_keys": lambda a: a[1:]}, "new_keys: expected shape"),
    "fewer new values": ({"new_values": lambda a: a[1:]}, "new_values: expected shape"),
    "fewer values": ({"values": lambda a: a[1:]}, "values: expected shape"),
    "a small output": ({"output": lambda a: a[1:]}, "output: expected shape"),
    "queries between two numbers": (
        {
            "queries": lambda a: np.frombuffer(
                b"\0" + a.tobytes() + b"\0" * 7, a.dtype, a.size, 1
            ).reshape(a.shape)
        },
        "queries: expected an aligned array",
    ),
    "strided queries": ({"queries": lambda a: np.repeat(a, 2, 0)[::2]}, "contiguous"),
    "an output that is read-only": (
        {"output": lambda a: np.broadcast_to(a[:1], a.shape)},
        "output: expected a writable array",
    ),
    "fewer slots": ({"slots": lambda a: a[1:]}, "slots: got"),
    "fewer starts": ({"query_starts": lambda a: a[1:]}, "query_starts: got"),
    "fewer lengths": ({"context_lens": lambda a: a[1:]}, "context_lens: got"),
    "fewer tables": ({"block_tables": lambda a: a[1:]}, "num_sequences: expected"),
    "negative sequences": ({"num_sequences": lambda _: -1}, "num_sequences: expected"),
    "slots outside": ({"slots": lambda a: a + 10**6}, "slots: outside the pool"),
    "negative slots": ({"slots": lambda a: -1 - a}, "slots: outside the pool"),
    "blocks outside": ({"block_tables": lambda a: a + 1000}, "block_tables: outside the pool"),
    "falling starts": ({"query_starts": lambda a: -a}, "query_starts: expected to rise"),
    "starts that lead outside": (
        {"query_starts": lambda a: a + (a > 56)},
        "query_starts: expected to rise",
    ),
    "a late start": ({"query_starts": lambda a: a + 1}, "query_starts: expected to start at 0"),
    "short contexts": ({"context_lens": lambda a: a * 0}, "context_lens: less than the queries"),
    "long contexts": (
        {"context_lens": lambda a: a * 90},
        "context_lens: more than the block table",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name: str) -> None:
    changes, message = WRONG[name]
    given = Batch(RAGGED).arguments()
    given |= {key: change(given[key]) for key, change in changes.items()}
    with pytest.raises(ValueError, match=message):
        paged_attention(**given)
