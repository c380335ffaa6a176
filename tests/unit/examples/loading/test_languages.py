"""In which language rows seem to be, and who is told that the extractor is in English."""

import pytest

from greater_fast.examples.data import Example
from greater_fast.examples.extractor import derive_extractor, given_extractor
from greater_fast.examples.loading.languages import language_note, language_of
from greater_fast.examples.tasks import TASKS, generate

QUESTIONS = {
    "English": "Anna has 3 apples and buys 4 more in the shop. How many apples does she have?",
    "German": "Anna hat 3 Äpfel und kauft im Laden noch 4 dazu. Wie viele Äpfel hat sie und wo "
    "ist die Tüte, in der sie von der Mutter für den Weg eine Flasche hat?",
    "French": "Anna a 3 pommes et en achète 4 dans le magasin. Combien de pommes est-ce que la "
    "fille a, et quel est le prix des pommes pour les enfants qui sont avec elle?",
    "Spanish": "Ana tiene 3 manzanas y compra 4 en la tienda. ¿Cuántas manzanas tiene, y cuál es "
    "el precio de las manzanas para los niños que son sus amigos?",
    "Italian": "Anna ha 3 mele e ne compra 4 nel negozio. Quante mele ha, e quale è il prezzo "
    "della frutta per gli amici che non sono con lei?",
    "Portuguese": "Ana tem 3 maçãs e compra 4 na loja. Quantas maçãs ela tem, e qual é o preço "
    "da fruta para os amigos que não estão em casa com uma pessoa?",
    "Dutch": "Anna heeft 3 appels en koopt er nog 4 in de winkel. Hoeveel appels heeft zij, en "
    "wat is het bedrag dat zij voor het fruit van de boer met een kaart betaalt?",
    "Cyrillic": "У Анны 3 яблока, и она покупает ещё 4. Сколько у неё яблок?",
    "CJK": "小明有3个苹果，又买了4个。他一共有多少个苹果？",
    "Greek": "Η Άννα έχει 3 μήλα και αγοράζει άλλα 4. Πόσα μήλα έχει;",
}


@pytest.mark.parametrize("language", QUESTIONS)
def test_languages_are_told_apart(language: str) -> None:
    assert language_of([QUESTIONS[language]] * 3) == language


@pytest.mark.parametrize(
    "text", ["", "3 + 4 * 2 =", "der Hund", "oatmeal brick duck elephant zebra apple " * 9]
)
def test_what_tells_nothing_is_no_language(text: str) -> None:
    assert language_of([text]) is None


@pytest.mark.parametrize("task", sorted(TASKS))
def test_generated_rows_are_not_taken_for_another_language(task: str) -> None:
    assert language_of(row.question for row in generate(task, 20, 0)) in (None, "English")


def test_who_has_a_derived_extractor_is_told() -> None:
    rows = [Example(QUESTIONS["German"], str(number)) for number in range(5)]
    derived = derive_extractor([row.answer for row in rows])
    (note,) = language_note(derived, rows)
    assert note.startswith("the extractor was derived in English, and the questions seem to be Ger")
    assert "as 'Die endgültige Antwort lautet {answer}.' (extractor)" in note
    assert language_note(given_extractor("Die Antwort ist {answer}."), rows) == ()
    assert language_note(derived, [Example(QUESTIONS["English"], "7")] * 3) == ()
    (note,) = language_note(derived, [Example(QUESTIONS["Greek"], "7")] * 3)
    assert note.endswith("seem to be Greek: it may help to give one in their language (extractor)")
