import pytest

from greater_fast.config import Config
from greater_fast.rollouts.choose import make_engine
from greater_fast.texts.generation import Generated, generate
from tests.cases import plain_logits, tiny_lm
from tests.tiny import BOS_ID

TEXTS = ["Please count the apple.", " The old man", "Question: is it True?\n\nAnswer", "The"]
ENGINES = pytest.mark.parametrize("name", ["paged", "generate"])


def one_by_one(text: str, limit: int, stops: tuple[str, ...] = ()) -> Generated:
    """The oracle: one argmax after the other, all decoded each time."""
    lm = tiny_lm()
    ids = list(lm.tokenizer(text, add_special_tokens=False).input_ids)
    found: list[int] = []
    for _ in range(limit):
        token = int(plain_logits(lm, [*ids, *found])[-1].argmax())
        if token in lm.end_ids:
            return Generated(lm.vocabulary.text(found), len(ids), len(found), True)
        found.append(token)
        written = lm.vocabulary.text(found)
        for stop in stops:
            if stop in written:
                return Generated(written[: written.index(stop)], len(ids), -1, True, stop)
    return Generated(lm.vocabulary.text(found), len(ids), len(found), False)


@ENGINES
def test_texts_go_on_as_the_model_says(name: str) -> None:
    engine, _ = make_engine(tiny_lm(), Config(engine=name))
    expected = [one_by_one(text, 9) for text in TEXTS]
    assert generate(engine, TEXTS, 9) == expected
    assert len({found.finished for found in expected}) == 2
    assert generate(engine, TEXTS[:1], 9) == expected[:1]
    assert generate(engine, [], 9) == []


@ENGINES
def test_a_stop_text_ends_what_is_written(name: str) -> None:
    engine, _ = make_engine(tiny_lm(), Config(engine=name))
    whole = [one_by_one(text, 9).text for text in TEXTS]
    stop = next(text[3:5] for text in whole if len(text) > 5 and "\ufffd" not in text[3:5])
    for text, found in zip(TEXTS, generate(engine, TEXTS, 9, [stop]), strict=True):
        expected = one_by_one(text, 9, (stop,))
        assert (found.text, found.finished, found.stop_text) == (
            (expected.text, expected.finished, expected.stop_text)
        )
    assert any(one_by_one(text, 9, (stop,)).stop_text for text in TEXTS)


def test_special_tokens_stand_before_a_text_where_they_are_asked_for() -> None:
    engine, _ = make_engine(tiny_lm(), Config())
    (plain,) = generate(engine, TEXTS[:1], 4)
    (more,) = generate(engine, TEXTS[:1], 4, special_tokens=True)
    assert more.num_prompt_tokens == plain.num_prompt_tokens + 1
    bos = tiny_lm().tokenizer.convert_ids_to_tokens(BOS_ID)
    assert generate(engine, [bos + TEXTS[0]], 4) == [more]


@pytest.mark.parametrize(
    ("texts", "limit", "message"),
    [
        ("one text", 3, "texts: expected a list of texts"),
        ([None], 3, "texts: expected a list of texts"),
        (["a", ""], 3, "texts: text 1 has no token"),
        (["a", "a"], 10**6, r"text 0 has \d tokens, which with 1000000 .* not fit the model's"),
        (["a"], 0, "max_new_tokens: got 0, expected 1 or more"),
    ],
)
def test_what_cannot_be_gone_on_from(texts: list[str], limit: int, message: str) -> None:
    engine, _ = make_engine(tiny_lm(), Config(engine="generate"))
    with pytest.raises(ValueError, match=message):
        generate(engine, texts, limit)
