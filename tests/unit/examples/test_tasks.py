import random
import re
import statistics

import pytest

from greater_fast.examples.data import Example
from greater_fast.examples.tasks import TASKS, generate

NUM_EXAMPLES = 150
DIFFICULTIES = range(1, 6)
# Who counts as what, written apart from the package's own table.
CATEGORY_OF = {
    "fruits": "apple banana fig grape lemon melon orange pear plum",
    "animals": "cat dog duck goat hen horse lion rabbit tiger",
    "instruments": "banjo cello drum flute guitar harp piano violin",
    "vehicles": "bicycle canoe car scooter tractor train tram truck",
    "clothes": "coat glove hat jacket shirt skirt sock sweater",
    "tools": "chisel drill hammer rake saw screwdriver shovel spade",
}


class Evaluator:
    """Recursive descent over one grammar for both kinds of expressions, loosest operators first."""

    LEVELS = (("or",), ("and",), ("not",), ("+", "-"), ("*",))

    def __init__(self, text: str) -> None:
        self.tokens = re.findall(r"\w+|[()+*-]", text)
        assert "".join(self.tokens) == text.replace(" ", "")
        self.place = 0

    def value(self) -> int | bool:
        result = self.level(0)
        assert self.place == len(self.tokens)
        return result

    def peek(self) -> str:
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def take(self) -> str:
        self.place += 1
        return self.tokens[self.place - 1]

    def level(self, depth: int) -> int | bool:
        if depth == len(self.LEVELS):
            return self.atom()
        if "not" in self.LEVELS[depth]:
            if self.peek() != "not":
                return self.level(depth + 1)
            self.take()
            return not self.level(depth)
        result = self.level(depth + 1)
        while self.peek() in self.LEVELS[depth]:
            operator, right = self.take(), self.level(depth + 1)
            if operator == "or":
                result = True if result else right
            elif operator == "and":
                result = right if result else False
            elif operator == "+":
                result += right
            elif operator == "-":
                result -= right
            else:
                result *= right
        return result

    def atom(self) -> int | bool:
        token = self.take()
        if token == "(":
            result = self.level(0)
            assert self.take() == ")"
            return result
        return {"True": True, "False": False}[token] if token.isalpha() else int(token)


def expression_in(question: str) -> str:
    found = re.fullmatch(
        r"(?:Here is a logical expression: |Work out the value of )([^.?]+)\..*", question
    )
    assert found, question
    return found[1]


def things_in(question: str) -> tuple[str, dict[str, int]]:
    found = re.fullmatch(
        r"Here is a list of (\w+): ([^.]+)\. "
        r"How many (\w+) (?:are on the list|are there in total)\?",
        question,
    )
    assert found, question
    things = {}
    items = re.split(", | and ", found[2])
    for item in items:
        count, _, word = item.rpartition(" ")
        num = int(count or 1)
        assert word.endswith("s") == (num > 1), item
        things[word.removesuffix("s")] = num
    assert len(things) == len(items), "a thing is listed twice"
    return found[3], things


def independent_answer(task: str, example: Example) -> str:
    if task != "object_counting":
        return str(Evaluator(expression_in(example.question)).value())
    asked, things = things_in(example.question)
    words = CATEGORY_OF[asked].split()
    return str(sum(num for word, num in things.items() if word in words))


def size(task: str, example: Example) -> int:
    if task != "object_counting":
        return len(re.findall(r"True|False|\d+", expression_in(example.question)))
    return sum(things_in(example.question)[1].values())


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("not True or True", True),
        ("not (True or True)", False),
        ("True or False and False", True),
        ("not False and False", False),
        ("not not True", True),
        ("2 + 3 * 4", 14),
        ("(2 + 3) * 4", 20),
        ("9 - 3 - 2", 4),
        ("1 - (2 - 3)", 2),
    ],
)
def test_the_evaluator_of_these_tests_keeps_precedence(text, value):
    assert Evaluator(text).value() is value or Evaluator(text).value() == value


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
@pytest.mark.parametrize("task", TASKS)
def test_answers_are_right(task, difficulty):
    for example in generate(task, NUM_EXAMPLES, seed=3, difficulty=difficulty):
        assert example.answer == independent_answer(task, example), example


@pytest.mark.parametrize("task", TASKS)
def test_same_arguments_same_rows_and_longer_lists_start_with_shorter_ones(task):
    random.seed(1)
    rows = generate(task, 40, seed=7)
    random.seed(2)
    assert generate(task, 90, seed=7)[:40] == rows
    assert generate(task, 40, 7, TASKS[task].default_difficulty) == rows
    assert generate(task, 40, seed=8) != rows


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
@pytest.mark.parametrize("task", TASKS)
def test_questions_are_distinct_clean_and_fit_one_line(task, difficulty):
    rows = generate(task, NUM_EXAMPLES, seed=0, difficulty=difficulty)
    assert len({row.question for row in rows}) == NUM_EXAMPLES
    for row in rows:
        assert row.question == " ".join(row.question.split())
        assert row.answer == row.answer.strip() != ""


@pytest.mark.parametrize("task", TASKS)
def test_default_difficulty_has_enough_questions_for_all_splits(task):
    assert len(generate(task, 250, seed=0)) == 250


@pytest.mark.parametrize("task", TASKS)
def test_difficulty_grows(task):
    sizes = [
        statistics.mean(size(task, row) for row in generate(task, NUM_EXAMPLES, 0, difficulty))
        for difficulty in DIFFICULTIES
    ]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 2 * sizes[0]


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_true_and_false_are_both_frequent(difficulty):
    rows = generate("boolean_expressions", NUM_EXAMPLES, seed=5, difficulty=difficulty)
    num_true = sum(row.answer == "True" for row in rows)
    assert 0.35 < num_true / NUM_EXAMPLES < 0.65


def test_counting_leaves_other_things_out():
    for difficulty in DIFFICULTIES[1:]:
        for row in generate("object_counting", 50, 0, difficulty):
            asked, things = things_in(row.question)
            assert any(word not in CATEGORY_OF[asked].split() for word in things)


def test_rows_are_the_same_on_every_machine():
    # Not to be changed lightly: published figures refer to these rows.
    first = {task: generate(task, 1, seed=0) for task in TASKS}
    assert first == {
        "boolean_expressions": [
            Example(
                "Here is a logical expression: not (not (True and not True) or False). "
                "What is its value?",
                "False",
            )
        ],
        "multistep_arithmetic": [Example("Work out the value of 11 + 7.", "18")],
        "object_counting": [
            Example(
                "Here is a list of fruits: pear and lemon. How many fruits are on the list?", "2"
            )
        ],
    }


def test_tasks_are_described():
    for name, task in TASKS.items():
        assert task.name == name
        assert task.description
        assert 1 <= task.default_difficulty <= task.max_difficulty == DIFFICULTIES[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sudoku", 5, 0), "task: got 'sudoku', expected one of boolean_expressions, multistep"),
        (("object_counting", 0, 0), "num_examples: got 0, expected 1 or more"),
        (("object_counting", 5, 0, 0), "got 0 for object_counting, expected a whole number from 1"),
        (("object_counting", 5, 0, 6), "got 6 for object_counting, expected .* from 1 to 5"),
        (("object_counting", 5, 0, 1.5), "difficulty: got 1.5"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        generate(*arguments)


def test_more_questions_than_there_are():
    with pytest.raises(ValueError, match=r"got 100000, but .* hardly more than \d+ distinct"):
        generate("multistep_arithmetic", 100_000, seed=0, difficulty=1)
