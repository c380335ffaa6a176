"""Inputs as users and their tools make them, and as they should not: strategies of hypothesis."""

import csv
import dataclasses
import datetime
import decimal
import fractions
import gzip
import io
import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from greater_fast.config import CHOICES, Config
from greater_fast.examples.data import Example
from tests.tiny import PROMPT, boolean_rows

QUESTIONS = tuple(question for question, _ in boolean_rows(40))
COLUMNS = (
    ("question", "answer"),
    ("goal", "final_target"),
    ("input", "target"),
    ("Question", "Answer"),
    ("problem", "solution"),
    ("text", "label"),
    ("prompt", "completion"),
    ("instruction", "output"),
    ("query", "response"),
)
COMPANIONS = (
    *("choices", "options", "passage", "context", "id", "", "index", "answers", "a\x1b[2Jb"),
    *("target_scores", "aliases", "messages", "option1", "option2", "A", "B", "label", "wrong"),
    *("distractor1", "incorrect_answer_1", "premises", "input", "row", "train", "question", "7"),
)
SCRIPTS = (
    *("Denke Schritt für Schritt über die Übung nach.", "Думай шаг за шагом.", "一步一步地思考。"),
    *(
        "段階的に考えてください",
        "فكر خطوة بخطوة؟",
        "चरण दर चरण सोचें।",
        "คิดทีละขั้น",
        "단계별로 생각하세요.",
    ),
    *(
        "e\u0301",
        "👩\u200d👩\u200d👧",
        "🇩🇪",
        "Σκέψου βήμα βήμα",
        "İstanbul ŞİŞLİ",
        "\U0001d4b3 ∈ \u211d",
        "ﬁnd",
    ),
)
PLACEHOLDERS = (
    *("{question}", "{answer}", "{input}", "{final_answer}", "{{question}}", "$question", "{}"),
    *("{0}", "%s", "<question>", '{"a": 1}', "{", "}", "{answer}{answer}", "\\boxed{18}", "[INST]"),
)
SPECIALS = ("<|eot_id|>", "<|begin_of_text|>", "<|im_end|>", "<think>", "</think>", "</s>", "<pad>")
MARKS = ("\x00", "\x1b[31m", "\r", "\n", "\t", "\u2028", "\ufeff", "\u202e", "\u200b", "\xa0", "  ")
ENDS = (".", "。", "?", "!", ":", " $", "$$", '"', "(", "```", "####", "…", "'")
GOLDS = (
    *("True", "true", "(A)", "A", "18", "18.0", "1,000", "$5 off", "-3", "1/2", "#### 7", "Yes."),
    *("J. R. Smith", "3 p.m.", "\\boxed{\\frac{1}{2}}", "first\nsecond", "{}", '"quoted"', "$", ""),
    *("東京。", "são", "\uff11\uff12", "N/A", "nan", "None", "a" * 300),
)

# Cells that are lists or objects as text, and some that only look so.
LITERALS = (
    *(
        "['a', 'b']",
        '["a", "b"]',
        "{'text': ['x'], 'label': ['A']}",
        "{[1]: 2}",
        "{{'a'}}",
        "[" * 300,
    ),
    *("array(['x', 'y'], dtype=object)", "['a' 'b']", "(1, 2)", "[nan]", "{}", "[]", "['\\d']"),
    *(
        "A) one, B) two",
        "(A) 1 (B) 2",
        "[1e999]",
        "[None]",
        "[True, False]",
        "{'a'",
        "['a', ['b']]",
    ),
)


class Long(int):
    """A number of more digits than Python writes, that hypothesis can show."""

    def __repr__(self) -> str:
        return "LONG"

    def __str__(self) -> str:
        return str(int(self))


LONG = Long(10**5000)
words = st.sampled_from([*PROMPT.replace(".", "").split(), "the", "and", "answer", "is"])
oddities = st.one_of(
    st.sampled_from(SCRIPTS),
    st.sampled_from(PLACEHOLDERS),
    st.sampled_from(SPECIALS),
    st.sampled_from(MARKS),
    st.sampled_from(ENDS),
    st.text(st.characters(exclude_categories=()), max_size=12),
)
joints = st.sampled_from([" ", " ", " ", "", "\n"])
written = st.builds(
    lambda parts, joint: joint.join(parts),
    st.lists(st.one_of(words, words, oddities), max_size=14),
    joints,
)
texts = st.one_of(
    written, st.builds(lambda text, times: text * times, written, st.sampled_from([1, 40]))
)
prompts = st.one_of(
    st.builds(lambda ours, theirs, end: f"{ours} {theirs}{end}", st.just(PROMPT), written, joints),
    st.sampled_from(SCRIPTS),
    texts,
)
extractors = st.one_of(
    st.none(),
    st.builds(
        lambda text, place, end: f"{text} {place}{end}",
        written,
        st.sampled_from(["{answer}", "", "{final_answer}", "{answer} or {answer}"]),
        st.sampled_from(["", *ENDS]),
    ),
)
cells = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    texts,
    st.lists(written, max_size=4),
    st.dictionaries(st.sampled_from(["label", "text", "a"]), st.lists(words, max_size=4)),
    st.dictionaries(st.sampled_from(["yes", "no", "stem", "choices"]), st.integers(0, 1)),
    st.lists(
        st.fixed_dictionaries(
            {"role": st.sampled_from(["user", "assistant", "x"]), "content": written}
        ),
        max_size=3,
    ),
    st.sampled_from(LITERALS),
)
nested = st.recursive(cells, lambda inner: st.lists(inner, max_size=3), max_leaves=5)


# Cells that only Python has.
objects = st.one_of(
    st.sampled_from((LONG, b"bytes", object(), datetime.date(2026, 11, 26), {1, 2}, 1j, ...)),
    st.decimals(),
    st.sampled_from([decimal.Decimal("sNaN"), decimal.Decimal("1e999999")]),
    st.builds(fractions.Fraction, st.integers(), st.integers(1)),
    st.tuples(nested, nested),
)
ours = st.builds(
    Example, texts.filter(str.strip), st.sampled_from(GOLDS), st.lists(written).map(tuple)
)


@st.composite
def tables(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Rows that would mostly do, with what goes wrong in files: odd, missing and further cells."""
    question, answer = draw(st.sampled_from(COLUMNS))
    further = draw(st.lists(st.sampled_from(COMPANIONS), max_size=2, unique=True))
    golds = draw(st.lists(st.sampled_from(GOLDS), min_size=1, max_size=3))
    rows: list[dict[str, Any]] = []
    for number in range(draw(st.integers(0, 9))):
        row = {question: QUESTIONS[number], answer: golds[number % len(golds)]}
        row |= {name: draw(nested) for name in further}
        rows.append(row)
    for row in rows[: draw(st.integers(0, 2))]:
        row[draw(st.sampled_from([question, answer]))] = draw(nested)
    if rows and draw(st.booleans()):
        rows[-1].pop(draw(st.sampled_from([question, answer])))
    return rows


def _delimited(rows: list[dict[str, Any]], mark: str) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=mark)
    writer.writerow(columns)
    writer.writerows([[row.get(name, "") for name in columns] for row in rows])
    return file.getvalue()


def _columns(rows: list[dict[str, Any]]) -> dict[str, Any]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: [row.get(name) for row in rows] for name in names}


FORMATS = {
    "rows": lambda rows: json.dumps(rows),
    "readable": lambda rows: json.dumps(rows, ensure_ascii=False, indent=1),
    "lines": lambda rows: "".join(json.dumps(row) + "\n" for row in rows),
    "run together": lambda rows: "".join(json.dumps(row) for row in rows),
    "data": lambda rows: json.dumps({"version": 1, "data": rows}),
    "columns": lambda rows: json.dumps(_columns(rows)),
    "by index": lambda rows: json.dumps({str(i): row for i, row in enumerate(rows)}),
    "split": lambda rows: json.dumps(
        {
            "columns": list(_columns(rows)),
            "index": [*range(len(rows))],
            "data": [list(row.values()) for row in rows],
        }
    ),
    "nested": lambda rows: json.dumps({"train": {"data": [rows]}}),
    "commas": lambda rows: _delimited(rows, ","),
    "tabs": lambda rows: _delimited(rows, "\t"),
    "semicolons": lambda rows: _delimited(rows, ";"),
    "hub": lambda rows: json.dumps(
        {
            "features": [{"name": name, "type": {"names": ["a"]}} for name in _columns(rows)],
            "rows": [{"row_idx": i, "row": row} for i, row in enumerate(rows)],
        }
    ),
    "paragraphs": lambda rows: json.dumps({"data": [{"paragraphs": [{"qas": rows}]}]}),
    "text": lambda rows: "\n".join(str(row) for row in rows),
}


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """A data file's bytes: a format, an encoding, and now and then damage."""
    text = FORMATS[draw(st.sampled_from(sorted(FORMATS)))](draw(tables()))
    coding = draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252"]))
    content = text.encode(coding, errors="replace")
    damage = draw(st.sampled_from([None, None, None, "cut", "byte", "noise", "gzip", "quote"]))
    place = draw(st.integers(0, max(len(content) - 1, 0)))
    if damage == "cut":
        return content[:place]
    if damage == "byte":
        return content[:place] + bytes([draw(st.integers(0, 255))]) + content[place + 1 :]
    if damage == "noise":
        return draw(st.binary(max_size=60)) + content
    if damage == "gzip":
        return gzip.compress(content)
    if damage == "quote":
        return content[:place] + b'"' + content[place:]
    return content


def _hashes(value: object) -> bool:
    try:
        return isinstance(hash(value), int)
    except TypeError:
        return False


sources = st.one_of(
    tables(),
    tables().map(_columns),
    tables().map(iter),
    tables().map(lambda rows: {"train": rows}),
    nested,
    st.lists(nested, max_size=4),
    st.lists(ours, max_size=5),
    st.builds(lambda rows, mine: [*rows, *mine], tables(), st.lists(ours, max_size=2)),
    st.lists(st.fixed_dictionaries({"question": objects | texts, "answer": objects | nested})),
    st.lists(st.dictionaries(objects.filter(_hashes) | written, nested | objects), max_size=3),
    st.sampled_from(["a" * 5000, "\x00", "~nobody-here", "\udcff", "."]).map(Path),
    st.sampled_from(["", " ", "absent.jsonl", ".", "\x00", "a" * 5000, "org/name:x:y:z", 7, None]),
)

_WRONG = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), written, st.just([])),
    *(objects, nested),
)
_TINY = {"max_new_tokens": 4, "max_prompt_tokens": 60, "num_train": 4, "num_dev": 4, "steps": 1}


def _values(setting: dataclasses.Field[Any]) -> st.SearchStrategy[Any]:
    """Values of a setting that will do, more or less."""
    low, high = setting.metadata["low"], setting.metadata["high"]
    if setting.name in CHOICES:
        return st.sampled_from(CHOICES[setting.name])
    if isinstance(setting.default, bool):
        return st.booleans()
    if isinstance(setting.default, float):
        return st.floats(low, high)
    if low is not None:
        return st.integers(int(low) - 1, int(low) + 40)
    return st.one_of(st.none(), written)


templates = st.one_of(
    st.none(),
    st.builds(
        lambda before, name, behind: f"{before}{{{name}}}{behind}",
        written,
        st.sampled_from(
            ["question", "Question", "answer", "passage", "options", "x", " ", "input"]
        ),
        written,
    ),
    written,
)
template_arguments = st.dictionaries(
    st.sampled_from(["enable_thinking", "date_string", "add_generation_prompt", "messages", "x"]),
    st.one_of(st.booleans(), st.integers(), written, st.none()),
    max_size=2,
)
_OWN = {  # a device that is not there is tried with the model, and slowly
    "chat_template_kwargs": template_arguments,
    "extractor": extractors,
    "template": templates,
    "template_date": st.sampled_from([None, "2026-11-26", "20261126", "2026-W48-4", "0001-01-01"]),
    "device": st.sampled_from([None, "cpu", "cpu:0", "gpu", ""]),
}


@st.composite
def settings_of_a_run(draw: st.DrawFn) -> dict[str, Any]:
    """Settings: a small run's, some of them changed, now and then to what no run can have."""
    fields = {field.name: field for field in dataclasses.fields(Config)}
    values: dict[str, Any] = dict(_TINY)
    for name in draw(st.lists(st.sampled_from(sorted(fields)), max_size=4, unique=True)):
        values[name] = draw(_OWN[name] if name in _OWN else _values(fields[name]))
    for _ in range(draw(st.sampled_from([0, 0, 0, 0, 1, 30]))):
        values[draw(st.sampled_from([*sorted(fields), "stepz", "top-k", "\udcff" * 90]))] = draw(
            _WRONG
        )
    return values
