"""Figures from benchmarks into results/<device>.json, and from there into docs/performance.md.

pytest benchmarks/ --benchmark-only --benchmark-json=bench.json
python -m benchmarks.report --collect bench.json    # the newest figure of each benchmark stays
python -m benchmarks.report                         # writes the page's tables
python -m benchmarks.report --check                 # fails where they differ
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"
START, STOP = "<!-- figures -->", "<!-- /figures -->"
Work = Mapping[str, Any]


class Line(NamedTuple):
    """How a benchmark is named in the table, what its ratio is over, and its figures in short."""

    what: str
    baseline: str
    detail: Callable[[Work], str]


def _seconds(work: Work) -> str:
    return f"{work['baseline']['seconds']:.3g} s → {work['ours']['seconds']:.3g} s"


def _memory(work: Work) -> str:
    return " → ".join(_megabytes(work[side]["peak_memory_bytes"]) for side in ("baseline", "ours"))


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.{0 if num_bytes > 1e7 else 1}f} MB"


def _both(work: Work) -> str:
    return f"{_seconds(work)}; peak memory {_memory(work)}"


def _rates(work: Work) -> str:
    rates = (work[side]["tokens_per_second"] for side in ("baseline", "ours"))
    return " → ".join(f"{rate:,.0f}" for rate in rates) + " tokens/s"


def _drafts(work: Work) -> str:
    plain, ours = work["baseline"], work["ours"]
    return (
        f"{ours['forward_steps_a_token']:.2f} steps, "
        f"{plain['rows_a_token']:.2f} → {ours['rows_a_token']:.2f} rows, "
        f"{plain['ms_a_token']:.2f} → {ours['ms_a_token']:.2f} ms a token"
    )


def _prompt_tokens(work: Work) -> str:
    counts = (work[side]["computed_tokens"] for side in ("baseline", "ours"))
    return " → ".join(f"{count:,}" for count in counts) + " tokens"


def _places(work: Work) -> str:
    pairs = zip(work["ours"]["places"], work["ours"]["seconds_by_place"], strict=True)
    return "; ".join(f"place {place}: {seconds:.3g} s" for place, seconds in pairs)


def _microseconds(work: Work) -> str:
    found = work.get("cases", {}).values() or [work["steps"]]
    return " and ".join(f"{case['microseconds']:.0f} µs" for case in found) + ", 150 asked for"


def _op(work: Work) -> str:
    ours = work["ours"]
    share = max(ours["share_of_copy_rate"], ours["share_of_product_rate"])
    return f"{_both(work)}; {share:.0%} of the device's rate"


def _stages(work: Work) -> str:
    stages = (f"{name} {found['seconds']:.2f} s" for name, found in work["stages"].items())
    return f"{', '.join(stages)}; {work['device_bytes'] / (1 << 30):.1f} GiB of the device"


def _gpu_step(what: str) -> Callable[[Work], tuple[str, ...]]:
    def cells(work: Work) -> tuple[str, ...]:
        floor = sum(stage["floor_seconds"] for stage in work["stages"].values())
        ratio = f"{floor / work['seconds']:.2f}×"
        return what, "its floor", ratio, f"{work['seconds']:.2f} s: {_stages(work)}"

    return cells


def _gpu_rollouts(work: Work) -> tuple[str, ...]:
    other = max(work["generate"], key=lambda found: found["batch"])
    ours, theirs = work["tokens_per_second"], other["tokens_per_second"]
    counts = other["new_tokens"], work["case"]["new_tokens"]
    is_same = len(set(counts)) == 1  # else the rates have other shares of reading prompts in them
    each = "" if is_same else ", {} tokens each where ours writes {}: no ratio".format(*counts)
    return (
        f"8B shapes: rollouts of {other['batch']} sequences",
        f"`generate`, a batch of {other['batch']}{each}",
        f"{ours / theirs:.2f}×" if is_same else "–",
        f"{theirs:,.0f} → {ours:,.0f} tokens/s; {work['ms_a_step']:.1f} ms a step, "
        f"{work['floor_seconds'] / work['seconds']:.0%} of the device's rate",
    )


def _gpu_reference(work: Work) -> tuple[str, ...]:
    return (
        f"8B shapes: a step of {work['rows']} rows",
        "released procedure",
        f"{work['ratio']:.1f}×",
        f"{work['reference_seconds']:.1f} s → {work['seconds']:.2f} s",
    )


# What of run_gpu.sh is shown: what, beside what, better by, figures. docs/gpu.md tells of the rest.
GPU_LINES: dict[str, Callable[[Work], tuple[str, ...]]] = {
    "gpu/rollouts": _gpu_rollouts,
    "gpu/step": _gpu_step("8B shapes: a step of 50 rows"),
    "gpu/capped": _gpu_step("the same under 24 GiB"),
    "gpu/reference": _gpu_reference,
}
SELECTION = "selection, 3 × 16 rollouts with scoring"
# In the order of the table.
LINES = {
    "step/step": Line("a whole step", "released procedure", _both),
    "greaterprompt/round[5]": Line("a round of 5 rows", "GreaterPrompt's procedure", _both),
    "greaterprompt/round[16]": Line("a round of 16 rows", "GreaterPrompt's procedure", _both),
    "rollout/selection[reference]": Line(SELECTION, "released procedure", _both),
    "rollout/selection[generate]": Line(SELECTION, "`generate`, one batch", _both),
    "rollout/selection[generate_batch]": Line(SELECTION, "`generate_batch`", _both),
    "rollout/drafts": Line("the same with drafts", "without drafts", _drafts),
    "rollout/prefill_tokens": Line("prompt tokens of a step", "without sharing", _prompt_tokens),
    "llama_cpp/batched_decode[24]": Line("rollouts of 24 sequences", "llama.cpp, fp32", _rates),
    "llama_cpp/batched_decode[48]": Line("rollouts of 48 sequences", "llama.cpp, fp32", _rates),
    "decode/decode": Line("decoding 150 sequences", "no attention at all", _rates),
    "scheduler/in_cpp": Line("scheduling 256 sequences, C++", "150 µs a step", _microseconds),
    "scheduler/from_python[plain]": Line("the same from Python", "150 µs a step", _microseconds),
    "scheduler/from_python[drafts]": Line("the same with drafts", "150 µs a step", _microseconds),
    "gradient/seconds": Line("gradient, seconds", "released procedure", _seconds),
    "gradient/memory": Line("gradient, peak memory", "released procedure", _memory),
    "gradient/places": Line("gradient at the last place", "at the first", _places),
    "candidate_scores/vocabulary_top_k": Line(
        "best of the vocabulary, peak memory", "product and `topk`", _op
    ),
    "target_logprob/target_logprob[forward]": Line("target log-probability", "torch", _op),
    "target_logprob/target_logprob[backward]": Line("its gradient", "torch", _op),
    "attention/paged_attention": Line("paged attention", "torch, contiguous cache", _op),
    "packed_attention/packed_attention[forward]": Line("packed attention", "torch, a loop", _op),
    "packed_attention/packed_attention[backward]": Line("its gradient", "torch, a loop", _op),
}


def collect(path: Path, results: Path = RESULTS) -> list[Path]:
    """Merge the figures of a file of pytest-benchmark into those of their devices.

    One that failed before it had its figure is left out, and named.

    Raises:
        ValueError: it holds figures of smoke mode, which measures nothing.
    """
    found = json.loads(path.read_text(encoding="utf-8"))
    written = []
    for benchmark in found["benchmarks"]:
        figure = dict(benchmark["extra_info"])
        if "smoke" not in figure:
            print(f"left out, as it failed: {benchmark['fullname']}", file=sys.stderr)
            continue
        if figure.pop("smoke"):
            raise ValueError(f"{path}: got figures of --smoke, expected measured ones")
        device, num_threads = figure.pop("device"), figure.pop("num_threads")
        figure = {"date": found["datetime"][:10], "commit": found["commit_info"]["id"]} | figure
        written.append(
            merge(results, device, num_threads, {name_of(benchmark["fullname"]): figure})
        )
    return written


def merge(
    results: Path, device: str, num_threads: int | None, figures: Mapping[str, Mapping[str, Any]]
) -> Path:
    """Put figures into a device's file, in place of older ones of the same names; its path."""
    threads = f"-{num_threads}-threads" if num_threads else ""
    path = results / (re.sub(r"\W+", "-", device.lower()).strip("-") + threads + ".json")
    known = json.loads(path.read_text(encoding="utf-8"))["results"] if path.exists() else {}
    content = {"device": device, "num_threads": num_threads, "results": {**known, **figures}}
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".tmp")  # a part that is ended as it writes leaves what there was
    new.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    new.replace(path)
    return path


def name_of(fullname: str) -> str:
    """`benchmarks/bench_step.py::test_step` as `step/step`."""
    file, _, test = fullname.partition("::")
    return f"{Path(file).stem.removeprefix('bench_')}/{test.removeprefix('test_')}"


def render(results: Path = RESULTS) -> str:
    """A table for each device; files of other figures are left alone."""
    files = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(results.glob("*.json"))]
    return "\n\n".join(_table(content) for content in files if "device" in content)


def _table(content: Mapping[str, Any]) -> str:
    threads = f", {content['num_threads']} threads" if content["num_threads"] else ""
    figures = content["results"]
    rows = [
        f"{content['device']}{threads}:",
        "",
        "| what | beside | better by | asked for | figures | measured |",
        "|---|---|---|---|---|---|",
    ]
    for name, line in LINES.items():
        if name in figures:
            figure = figures[name]
            asked = f"{figure['target']:g}×" if figure["target"] else "–"
            cells = (line.what, line.baseline, f"{figure['ratio']:.2f}×", asked)
            rows.append(
                f"| {' | '.join(cells)} | {line.detail(figure['work'])} | {_when(figure)} |"
            )
    for name, figure in figures.items():
        if name in GPU_LINES and figure["work"]:
            what, beside, ratio, detail = GPU_LINES[name](figure["work"])
            rows.append(f"| {what} | {beside} | {ratio} | – | {detail} | {_when(figure)} |")
    return "\n".join(rows)


def _when(figure: Mapping[str, Any]) -> str:
    return f"{figure['date']}, {figure['commit'][:7]}"


def with_tables(page: str, tables: str) -> str:
    """A page with these tables between its markers.

    Raises:
        ValueError: the markers are not there, or not once each.
    """
    if page.count(START) != 1 or page.count(STOP) != 1:
        raise ValueError(f"expected {START} and {STOP} once each in the page")
    before, _, rest = page.partition(START)
    return f"{before}{START}\n\n{tables}\n\n{STOP}{rest.partition(STOP)[2]}"


def main(arguments: list[str] | None = None) -> int:
    """The command line; 1 where --check finds a difference."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report")
    parser.add_argument("--collect", type=Path, metavar="FILE", help="of pytest-benchmark")
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    asked = parser.parse_args(arguments)
    if asked.collect:
        for path in sorted(set(collect(asked.collect))):
            print(f"wrote {path.relative_to(ROOT)}")
    page = PAGE.read_text(encoding="utf-8")
    wanted = with_tables(page, render())
    if asked.check and wanted != page:
        print(
            "docs/performance.md differs from benchmarks/results: run python -m benchmarks.report"
        )
        return 1
    if not asked.check:
        PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
