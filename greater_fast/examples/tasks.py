"""Generated tasks: seeded, unlimited, and right by construction, for demo, tests and benchmarks."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from greater_fast.examples.data import Example
from greater_fast.wording import quoted

# Every word takes a plain "s" and belongs to one category alone: a count is not in dispute.
_CATEGORIES = {
    "fruits": ("apple", "banana", "fig", "grape", "lemon", "melon", "orange", "pear", "plum"),
    "animals": ("cat", "dog", "duck", "goat", "hen", "horse", "lion", "rabbit", "tiger"),
    "instruments": ("banjo", "cello", "drum", "flute", "guitar", "harp", "piano", "violin"),
    "vehicles": ("bicycle", "canoe", "car", "scooter", "tractor", "train", "tram", "truck"),
    "clothes": ("coat", "glove", "hat", "jacket", "shirt", "skirt", "sock", "sweater"),
    "tools": ("chisel", "drill", "hammer", "rake", "saw", "screwdriver", "shovel", "spade"),
}
# By difficulty: most kinds of the category asked for, most kinds of another, most things of a kind.
_COUNTING_SIZES = ((5, 0, 1), (5, 2, 1), (4, 2, 3), (5, 3, 6), (7, 5, 12))
# By difficulty: numbers, their largest, and the operators between them.
_ARITHMETIC_SIZES = ((2, 12, "+*"), (3, 10, "+-*"), (4, 12, "+-*"), (5, 15, "+-*"), (7, 20, "+-*"))
_NEGATION_SHARE = 0.3
# A draw that was seen is drawn again. This many in a row leave little that was not seen.
_MAX_REPEATS = 5000


@dataclass(frozen=True, slots=True)
class Task:
    """A kind of question, and how hard to make it: 1 to `max_difficulty`."""

    name: str
    description: str
    default_difficulty: int
    max_difficulty: int
    generator: Callable[[random.Random, int], Example]


@dataclass(frozen=True, slots=True)
class _Expression:
    """An expression's text, its value, and its outermost operator: "" if it needs no brackets."""

    text: str
    value: int
    operator: str = ""


def generate(
    task: str, num_examples: int, seed: int, difficulty: int | None = None
) -> list[Example]:
    """Draw distinct questions of one task; None takes the task's default difficulty.

    The rows depend on the arguments alone, and a longer list starts with the shorter one.

    Raises:
        ValueError: the task is unknown, an argument is out of range, or the difficulty has fewer
            distinct questions than `num_examples`.
    """
    if task not in TASKS:
        raise ValueError(f"task: got {quoted(task)}, expected one of {', '.join(TASKS)}")
    if num_examples < 1:
        raise ValueError(f"num_examples: got {num_examples}, expected 1 or more")
    chosen = TASKS[task]
    if difficulty is None:
        difficulty = chosen.default_difficulty
    if difficulty not in range(1, chosen.max_difficulty + 1):
        raise ValueError(
            f"difficulty: got {difficulty} for {task}, expected a whole number "
            f"from 1 to {chosen.max_difficulty}"
        )
    generator = random.Random(f"{seed}/{task}/{difficulty}")
    examples: dict[str, Example] = {}
    num_repeats = 0
    while len(examples) < num_examples:
        example = chosen.generator(generator, difficulty)
        num_repeats = num_repeats + 1 if example.question in examples else 0
        if num_repeats > _MAX_REPEATS:
            raise ValueError(
                f"num_examples: got {num_examples}, but {task} at difficulty {difficulty} has "
                f"hardly more than {len(examples)} distinct questions: ask for fewer, or for a "
                f"higher difficulty"
            )
        examples.setdefault(example.question, example)
    return list(examples.values())


def _boolean_expression(generator: random.Random, difficulty: int) -> Example:
    """`difficulty + 2` literals; True and False are equally frequent answers."""
    wanted = generator.random() < 0.5
    while True:
        expression = _draw_boolean(generator, difficulty + 2)
        if bool(expression.value) == wanted:
            return Example(
                f"Here is a logical expression: {expression.text}. What is its value?",
                str(wanted),
            )


def _draw_boolean(generator: random.Random, num_literals: int) -> _Expression:
    if num_literals == 1:
        value = generator.random() < 0.5
        drawn = _Expression(str(value), value)
    else:
        num_left = generator.randint(1, num_literals - 1)
        sides = [_draw_boolean(generator, num) for num in (num_left, num_literals - num_left)]
        operator = generator.choice(("and", "or"))
        value = (all if operator == "and" else any)(side.value for side in sides)
        texts = [
            side.text if side.operator in ("", operator) else f"({side.text})" for side in sides
        ]
        drawn = _Expression(f" {operator} ".join(texts), value, operator)
    if generator.random() < _NEGATION_SHARE:
        text = f"({drawn.text})" if drawn.operator else drawn.text
        return _Expression(f"not {text}", not drawn.value)
    return drawn


def _multistep_arithmetic(generator: random.Random, difficulty: int) -> Example:
    """Whole numbers under "+", "-" and "*", brackets around every operation but the outermost."""
    expression = _draw_arithmetic(generator, *_ARITHMETIC_SIZES[difficulty - 1])
    return Example(f"Work out the value of {expression.text}.", str(expression.value))


def _draw_arithmetic(
    generator: random.Random, num_numbers: int, largest: int, operators: str
) -> _Expression:
    if num_numbers == 1:
        number = generator.randint(1, largest)
        return _Expression(str(number), number)
    num_left = generator.randint(1, num_numbers - 1)
    left = _draw_arithmetic(generator, num_left, largest, operators)
    right = _draw_arithmetic(generator, num_numbers - num_left, largest, operators)
    operator = generator.choice(operators)
    value = {
        "+": left.value + right.value,
        "-": left.value - right.value,
        "*": left.value * right.value,
    }[operator]
    sides = [f"({side.text})" if side.operator else side.text for side in (left, right)]
    return _Expression(f" {operator} ".join(sides), value, operator)


def _object_counting(generator: random.Random, difficulty: int) -> Example:
    """Things of one category among things of another, from difficulty 3 on several of a kind."""
    most_kinds, most_others, most_of_a_kind = _COUNTING_SIZES[difficulty - 1]
    asked, other = generator.sample(list(_CATEGORIES), 2)
    words = generator.sample(_CATEGORIES[asked], generator.randint(2, most_kinds))
    counts = {word: generator.randint(1, most_of_a_kind) for word in words}
    answer = sum(counts.values())
    if most_others:
        for word in generator.sample(_CATEGORIES[other], generator.randint(1, most_others)):
            counts[word] = generator.randint(1, most_of_a_kind)
    listed = list(counts)
    generator.shuffle(listed)
    if most_of_a_kind > 1:
        listed = [f"{counts[word]} {word}{'s' * (counts[word] > 1)}" for word in listed]
    things = "things" if most_others else asked
    verb = "are there in total" if most_of_a_kind > 1 else "are on the list"
    return Example(
        f"Here is a list of {things}: {', '.join(listed[:-1])} and {listed[-1]}. "
        f"How many {asked} {verb}?",
        str(answer),
    )


TASKS = {
    task.name: task
    for task in (
        Task(
            "boolean_expressions",
            "the truth value of an expression of True, False, and, or, not and brackets",
            1,
            5,
            _boolean_expression,
        ),
        Task(
            "multistep_arithmetic",
            "the value of sums, differences and products of whole numbers in brackets",
            1,
            5,
            _multistep_arithmetic,
        ),
        Task(
            "object_counting",
            "how many things of one category a list holds",
            1,
            5,
            _object_counting,
        ),
    )
}
