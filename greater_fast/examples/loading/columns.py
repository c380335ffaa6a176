"""Which columns of a file are the question, what belongs to it, its options and its answers.

The names are those of public data sets and of other tools' files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from greater_fast.examples.loading.errors import bad_data
from greater_fast.wording import listed, quoted

# In order of preference, as are the answers. A `prompt` beside another of them (GreaterPrompt)
# holds the initial prompt, which is no part of the question.
QUESTIONS = (
    *("question", "question_stem", "query", "goal", "problem", "instruction", "input"),
    *("claim", "hypothesis", "conclusion", "statement", "ctx", "sentence", "text"),
    *("sentence1", "question1", "prompt", "user"),
)
ANSWERS = (
    *("answer", "final_target", "answers", "answerkey", "answer_key", "final_answer"),
    *("best_answer", "final_decision", "final_ans", "correct_answer", "target", "output"),
    *("response", "completion", "label_text", "label", "correct", "correct_option", "cop"),
    *("gold_label", "labels", "answer_idx", "answer_index", "is_duplicate", "gold", "gold_answer"),
    *("expected_answer", "ground_truth", "reference", "assistant", "solution", "answers_spans"),
    *("targets", "target_scores"),
)
_SURELY_GOLD = ("ground_truth", "gold_answer", "expected_answer", "correct_answer")
# Columns that may hold what a model has written, or options, and the gold ones that go before each.
_GOLD_BEFORE = {
    "answer": _SURELY_GOLD,
    "answers": (*_SURELY_GOLD, "correct_answer_id"),
    **dict.fromkeys(("output", "response", "completion"), (*_SURELY_GOLD, "reference", "gold")),
}
LISTS_OF_ANSWERS = ("answers", "answers_spans", "answer_aliases", "aliases", "other_answers")
MANY_ANSWERS = "answers"  # all that are right, or all that there are to choose from
_ALIASES = ("answer_aliases", "aliases", "other_answers")
_OPTIONS = (
    *("choices", "options", "endings", "candidates", "answer_choices", "answer_options"),
    *("alternatives", "multiple_choice", "target_scores"),
)
_INDICES = ("label", "answerkey", "correct", "correct_option", "answer_idx", "answer_index")
_OPTION_COLUMN = re.compile(
    r"(?P<stem>(?:options?|choices?|(?:mc_)?answer|ans|ending|sol|solution|alternative|op|alt)?"
    r"[ _-]?)"
    r"(?P<mark>[0-9]|[a-j])",
    re.IGNORECASE,
)
_WRONG_ANSWER = re.compile(r"(?:incorrect|wrong)_answer_?[0-9]+|distractor_?[0-9]+")
NAME_THEM = (
    "name them: --columns question=…,answer=…, or "
    "load_examples(data, columns={'question': …, 'answer': …}) in Python"
)
_MARKS = "0123456789 abcdefghij"
_BEFORE = (
    *("instruction", "instructions", "background", "passage", "context", "contexts", "article"),
    *("para", "paragraph", "paragraphs", "document", "story", "body", "support", "hint", "premise"),
    *("premises", "theory", "evidence", "dialogue", "scenario", "situation", "excerpt", "abstract"),
    *("word", "text", "sentence"),
)
_AFTER = ("input", "hypothesis", "conclusion", "claim", "sentence2", "question2")
# These belong to a question of these names alone. Alpaca's `text` holds the answer.
_ONLY_BESIDE = {
    "evidence": ("claim",),
    "text": ("question", "query"),
    "sentence": ("question",),
    "input": ("instruction",),
    "sentence2": ("sentence1",),
    "question2": ("question1",),
}


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of columns, as they are spelled in the rows.

    `options` is one column of lists, or a column an option; `wrong` holds options that are wrong,
    one a column, where the answer is the right one. `answer_is_named` by the user, who knows of no
    further answers then but its aliases.
    """

    question: str | None
    answer: str
    more_answers: tuple[str, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]
    options: tuple[str, ...]
    wrong: tuple[str, ...]
    answer_is_named: bool = False

    @property
    def used(self) -> set[str]:
        """All of them."""
        named = (self.question or "", self.answer, *self.more_answers, *self.before, *self.after)
        return {*named, *self.options, *self.wrong}


def folded(name: object) -> str:
    """A column's name as names are compared: case, and what parts its words, say nothing."""
    return re.sub(r"[ _-]+", "_", str(name).casefold())


class ColumnNames:
    """The names of the columns of a source, found whatever their case and what parts their words.

    `Ground Truth` is `ground_truth`.
    """

    def __init__(self, found: Iterable[str], source: str) -> None:
        self.found = list(found)
        self.source = source
        self._spelled: dict[str, list[str]] = {}
        for column in self.found:
            try:
                name = folded(column)
            except Exception as error:  # a class of the user's own, or too many digits
                got = f"a column named by {quoted(column)}"
                raise bad_data(source, got, "names that are text", "rename it") from error
            self._spelled.setdefault(name, []).append(column)

    def find(self, wanted: str) -> str | None:
        """The column of that name, or the only one that is spelled like it (`folded`).

        Raises:
            ValueError: several do.
        """
        spelled = self._spelled.get(folded(wanted), [])
        if wanted in spelled:
            return wanted
        if len(spelled) > 1:
            raise bad_data(
                self.source,
                f"the columns {listed(spelled)}, which differ in case, spaces or dashes alone",
                "one of them",
                f"rename one; question or answer, {NAME_THEM} with the exact names",
            )
        return spelled[0] if spelled else None

    def find_all(self, wanted: Iterable[str], besides: Iterable[str | None]) -> tuple[str, ...]:
        """The columns of these names that are there, but for those named already."""
        taken = set(besides)
        columns = (self.find(name) for name in wanted)
        return tuple(c for c in columns if c is not None and c not in taken)


def find_columns(names: ColumnNames, given: Mapping[str, str], template: str | None) -> Columns:
    """The columns among those found: as given under "question" and "answer", else by their names.

    A template may do without a question.

    Raises:
        ValueError: there is no question or no answer, or names are spelled alike.
    """
    answers = names.find_all([given["answer"]] if "answer" in given else ANSWERS, [])
    if "answer" not in given and answers:
        before = _GOLD_BEFORE.get(folded(answers[0]), ())
        answers = (*names.find_all(before, []), *answers)
    questions = names.find_all(
        [given["question"]] if "question" in given else QUESTIONS, answers[:1]
    )
    if not answers or (not questions and (template is None or "question" in given)):
        raise _missing(names, given)
    question, answer = questions[0] if questions else None, answers[0]
    options = _option_columns(names, {question, answer})
    if not options:
        options = names.find_all(_OPTIONS, [question])[:1]
    indices = names.find_all(_INDICES, [question])
    if not options and folded(answer) == "answers" and indices and "answer" not in given:
        options, answer = (answer,), indices[0]  # ReClor
    wrong = [c for c in names.found if _WRONG_ANSWER.fullmatch(folded(c))]
    besides = [
        name
        for name in (*_BEFORE, *_AFTER)
        if folded(question) in _ONLY_BESIDE.get(name, [folded(question)])
    ]
    taken = [question, answer, *options]
    return Columns(
        question,
        answer,
        more_answers=names.find_all((MANY_ANSWERS, *_ALIASES), taken),
        before=names.find_all([name for name in _BEFORE if name in besides], taken),
        after=names.find_all([name for name in _AFTER if name in besides], taken),
        options=options,
        wrong=() if options else tuple(wrong),
        answer_is_named="answer" in given,
    )


def _option_columns(names: ColumnNames, besides: set[str | None]) -> tuple[str, ...]:
    """Columns that hold an option each: A, B, C; option1, option2; ending0 and so on."""
    groups: dict[str, dict[str, str]] = {}
    for column in names.found:
        match = _OPTION_COLUMN.fullmatch(str(column))
        if match is not None and column not in besides:
            groups.setdefault(match["stem"].casefold(), {})[match["mark"].casefold()] = column
    for stem, columns in groups.items():
        marks = "".join(sorted(columns))
        first = "a" if not stem else marks[0]
        if len(marks) > 1 and marks in _MARKS and marks[0] == first and first in "a01":
            return tuple(columns[mark] for mark in marks)
    return ()


def option_mark(column: str) -> str:
    """What tells a column of one option from its like: "1" of "option1"."""
    match = _OPTION_COLUMN.fullmatch(str(column))
    return match["mark"] if match else str(column)


def _missing(names: ColumnNames, given: Mapping[str, str]) -> ValueError:
    usual = "question/answer or goal/final_target or input/target or other usual names of the two"
    return bad_data(
        names.source,
        f"the columns {listed(names.found)}",
        f"{given.get('question', 'question')}/{given.get('answer', 'answer')}" if given else usual,
        f"rename them, or {NAME_THEM}",
    )
