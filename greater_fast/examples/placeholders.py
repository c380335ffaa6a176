"""Placeholders of templates in a text: filled in where it is plain what is meant, else refused."""

import re

from greater_fast.wording import quoted

ANSWER = "{answer}"
_ANSWER_NAME = (
    r"(?:(?:the|your|final|correct|predicted|gold|model)[_ ]?)*"
    r"(?:answer|ans|final_target|target|label|prediction|response|result|solution|output)"
)
_ANSWER_PLACE = re.compile(
    rf"\$?\{{\{{\s*{_ANSWER_NAME}\s*\}}\}}|\$?\{{\s*(?:{_ANSWER_NAME}\s*)?\}}|\${_ANSWER_NAME}\b",
    re.IGNORECASE,
)
_COMMAND = re.compile(r"\\[a-zA-Z]+")  # a brace behind it is LaTeX's
_QUESTION_NAME = (
    r"(?:user[_ ])?(?:question|input|query|problem|prompt|instruction|task|context|passage)s?"
)
_QUESTION_PLACE = re.compile(
    r"\$?\{\{[\s%-]*[a-z_][^{}]*\}\}"  # {{ question }}
    r"|\{%(?:(?!\{%).)*?%\}"
    r"|(?<![\\\w^}\]])\$?\{\s*(?:[^\W\d][\w.]+|0)\s*(?:![rsa])?\}"  # {question}, {0}
    rf"|(?<!\\)\$(?:{_QUESTION_NAME})\b"
    rf"|%\(\w+\)s|<(?:{_QUESTION_NAME})>(?!.*</)|\[(?:{_QUESTION_NAME})\]",
    re.IGNORECASE | re.DOTALL,
)


# "\boxed{}" is LaTeX's; the braces of "{{}}" are a template's way to write braces
_EMPTY_PLACE = re.compile(r"(?<![\\\w^}\]{])\{\s*\}(?!\})|(?<![\w%])%[sd]\b")
# A line break as a shell hands it on; commands of LaTeX begin like it.
WRITTEN_LINE_BREAK = re.compile(
    r"(?<!\\)\\n(?!(?:abla|e|eq|eg|ewline|exists|geq|i|leq|mid|onumber|ot|otin|parallel|subseteq|u)"
    r"(?![a-zA-Z]))"
)


def with_answer_place(text: str) -> str:
    r"""An extractor with every spelling of the answer's place written as `{answer}`.

    "{final_answer}", "{{answer}}", "$answer" and "{}" are meant so; of "\boxed{answer}" the braces
    stay, and so do those of an answer in LaTeX, "\boxed{{answer}}".
    """

    def filled(match: re.Match[str]) -> str:
        command = max(text.rfind("\\", 0, match.start()), 0)
        if match[0].startswith("$") and text[match.end() :].startswith("$"):
            return f"${ANSWER}"  # dollar signs around it are marks
        in_latex = match[0].startswith("{") and _COMMAND.fullmatch(text, command, match.start())
        return f"{{{ANSWER}}}" if in_latex else ANSWER

    return _ANSWER_PLACE.sub(filled, text)


def has_placeholder(text: str) -> bool:
    """Whether a part of the text would be taken for a placeholder."""
    return bool(_ANSWER_PLACE.search(text) or _QUESTION_PLACE.search(text))


def empty_places(text: str) -> tuple[str, ...]:
    """Places of a format without a name, "{}" or "%s", which may be meant as they are written."""
    found = ("".join(place.split()) for place in _EMPTY_PLACE.findall(text))
    return tuple(dict.fromkeys(found))


def empty_place_notes(name: str, text: str, instead: str) -> tuple[str, ...]:
    """A line on such places in a text; none if there are none. `instead` says what to do."""
    places = empty_places(text)
    if not places:
        return ()
    return (
        f"{name}: {' and '.join(places)} stays in it as it is written, and nothing is put in its "
        f"place: {instead}",
    )


def check_no_placeholder(name: str, text: str, instead: str) -> None:
    """Refuse what looks like a template's placeholder: it would be sent as it is written.

    Raises:
        ValueError: there is one; `instead` says what to do.
    """
    for match in _QUESTION_PLACE.finditer(text):
        if not re.fullmatch(rf"\W*{_ANSWER_NAME}\W*", match[0], re.IGNORECASE):
            raise ValueError(
                f"{name}: got the placeholder {quoted(match[0])}, expected plain text: nothing "
                f"would be put in its place; {instead}"
            )
