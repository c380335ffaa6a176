"""Command lines as shells and scripts make them, and as they should not."""

import dataclasses
import os

from hypothesis import strategies as st

from greater_fast.config import CHOICES, Config
from tests.fuzzing import inputs

MODEL, DATA, MORE_DATA, SETTINGS, NEW = "{model}", "{data}", "{more}", "{settings}", "{new}"
PLACES = (MODEL, DATA, MORE_DATA, SETTINGS, NEW)

# What a shell hands on: bytes but NUL, decoded as Python does.
raw = st.one_of(
    st.binary(max_size=12), inputs.texts.map(lambda text: text.encode("utf-8", "replace"))
).map(lambda argument: os.fsdecode(argument.replace(b"\0", b"")))
paths = st.one_of(st.sampled_from([*PLACES, "", ".", "absent", "a" * 300, "~nobody/x"]), raw)
columns = st.one_of(
    st.sampled_from(["question=question,answer=answer", "question=q", "answer=", "x=y", ","]), raw
)
numbers = st.one_of(st.integers(-2, 60).map(str), st.sampled_from(["1e9", "nan", "9" * 5000]), raw)

_GENERAL = {
    "--columns": columns,
    "--config": st.sampled_from([SETTINGS, DATA, "absent", "."]) | paths,
    "--prompt": raw,
}
_SEARCH = {
    "--dev": paths,
    "--test": paths,
    "--dev-columns": columns,
    "--test-columns": columns,
    "--difficulty": numbers,
    "--num-test": numbers,
    "--task": st.sampled_from(["object_counting", "boolean_expressions", "absent"]),
}
_OWN = {
    "optimize": {**_SEARCH, "--run-dir": st.just(NEW) | paths},
    "plan": {**_SEARCH, "--gpu-memory": st.sampled_from(["8GB", "1e400", "1", "24 GiB"]) | raw},
    "evaluate": {"--against": raw, "--run": paths, "--records": st.just(NEW) | paths},
}


def _value_of(setting: "dataclasses.Field[object]") -> st.SearchStrategy[str]:
    if setting.name == "device":
        return st.sampled_from(["cpu", "gpu", "\udcff"])
    if setting.name in CHOICES:
        return st.sampled_from([str(choice) for choice in CHOICES[setting.name]]) | raw
    if setting.name == "chat_template_kwargs":
        return st.sampled_from(['{"x": 1}', "{}", "[1]", "{", "[" * 5000, '{"a": "\\ud800"}']) | raw
    return numbers | raw


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    """The arguments of one call; `PLACES` stand for paths that the test fills in."""
    command = draw(st.sampled_from(sorted(_OWN)))
    data = "--train" if command == "optimize" else "--data"
    line = [command, "--model", draw(st.just(MODEL) | paths), data, draw(st.just(DATA) | paths)]
    line += ["--num-train=4", "--num-dev=4", "--max-new-tokens=4", "--max-prompt-tokens=60"]
    options = {**_GENERAL, **_OWN[command]}
    for name in draw(st.lists(st.sampled_from(sorted(options)), max_size=3, unique=True)):
        line.append(f"{name}={draw(options[name])}")
    for setting in draw(st.lists(st.sampled_from(dataclasses.fields(Config)), max_size=2)):
        line.append(f"--{setting.name.replace('_', '-')}={draw(_value_of(setting))}")
    if draw(st.integers(0, 9)) == 0:
        line.insert(draw(st.integers(0, len(line))), draw(raw))
    return line
