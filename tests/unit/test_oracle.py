import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from tests.oracle import Oracle, Settings
from tests.tiny import END_ID, EXTRACTOR, PROMPT, boolean_rows, tiny_model, tiny_tokenizer

SETTINGS = Settings(
    top_k=10,
    shortlist_size=3,
    temperature=0.2,
    fluency_weight=0.2,
    error_fluency_weight=0.02,
    max_new_tokens=8,
    objective="loss",
    end_ids=frozenset([END_ID]),
)
KINDS = ("llama3", "sentencepiece")


def draw(round: int) -> list[list[int]]:
    rng = random.Random(round)
    return [rng.sample(range(3), 2) for _ in range(2)]


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Any]:
    return {kind: tiny_tokenizer(kind) for kind in KINDS}


def make(tokenizer: Any, family: str = "llama", **changes: Any) -> Oracle:
    """An oracle of a tiny model on three boolean rows; `changes` go to Oracle or its settings."""
    model = tiny_model(family, len(tokenizer), changes.pop("dtype", torch.float32))
    ends = frozenset(model.generation_config.eos_token_id)
    known = Settings.__dataclass_fields__
    settings = replace(
        SETTINGS, end_ids=ends, **{key: changes.pop(key) for key in list(changes) if key in known}
    )
    kept = {"examples": boolean_rows(3), "extractor": EXTRACTOR} | changes
    return Oracle(model, tokenizer, settings=settings, **kept)


@pytest.fixture
def exact_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Llama's norms without their cast to float32."""

    def forward(self: Any, hidden: torch.Tensor) -> torch.Tensor:
        scale = torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return torch.as_tensor(self.weight * hidden * scale)

    monkeypatch.setattr(LlamaRMSNorm, "forward", forward)


@pytest.mark.usefixtures("exact_norms")
@pytest.mark.parametrize("t", [0, 7, 16])
def test_gradient_equals_central_differences(tokenizers: dict[str, Any], t: int) -> None:
    oracle = make(tokenizers["llama3"], dtype=torch.float64, examples=boolean_rows(1))
    oracle.model.set_attn_implementation("sdpa")  # eager attention casts its softmax to float32
    p = oracle.prompt_ids(PROMPT)
    reasonings = oracle.reasonings(p)
    gradient = oracle.gradient(p, t, reasonings)
    matrix, at, h = oracle.embed.weight, len(oracle.heads[0]) + t, 1e-5

    def loss(shift: torch.Tensor) -> float:
        def add(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
            moved = output.clone()
            moved[at] += shift
            return moved

        hook = oracle.embed.register_forward_hook(add)
        value = oracle.objective(p, reasonings)
        hook.remove()
        return value

    for v in (p[t], 0, 300, 501, 777):
        measured = (loss(h * matrix[v]) - loss(-h * matrix[v])) / (2 * h)
        assert measured == pytest.approx(float(gradient[v]), rel=1e-6, abs=1e-7)


def test_gradient_sums_over_examples(tokenizers: dict[str, Any]) -> None:
    tokenizer, rows = tokenizers["sentencepiece"], boolean_rows(3)
    together = make(tokenizer, "gemma2", examples=rows)
    p = together.prompt_ids(PROMPT)
    reasonings = together.reasonings(p)
    apart = [
        make(tokenizer, "gemma2", examples=[row]).gradient(p, 4, [reasoning])
        for row, reasoning in zip(rows, reasonings, strict=True)
    ]
    torch.testing.assert_close(together.gradient(p, 4, reasonings), sum(apart))


@pytest.mark.parametrize("template", [True, False])
@pytest.mark.parametrize("placement", ["after", "before"])
@pytest.mark.parametrize("kind", KINDS)
def test_layout_is_the_rendered_text(kind: str, placement: str, template: bool) -> None:
    tokenizer = tiny_tokenizer(kind, chat_template=template)
    oracle = make(tokenizer, placement=placement)
    p = oracle.prompt_ids(PROMPT)
    assert oracle.text_in_place(p).strip() == PROMPT
    for (question, _), head, tail in zip(oracle.examples, oracle.heads, oracle.tails, strict=True):
        text = tokenizer.decode(head + p + tail)
        order = (question, PROMPT) if placement == "after" else (PROMPT, question)
        assert " ".join(order) in text
        assert (head + p + tail).count(tokenizer.bos_token_id) == 1
        assert question in tokenizer.decode(head if placement == "after" else tail)
        assert bool(tail) == (template or placement == "before")
    if placement == "after":
        assert oracle.text_in_place(p[:1]) == " Use"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("extractor", "expected"),
    [
        ("The answer is $", " The answer is $|True$"),
        ("The answer is $ ", " The answer is $| True $"),
        ("The answer is (", " The answer is (|True)"),
        ("The answer is", " The answer is| True"),
    ],
)
def test_answers_follow_the_extractor(
    tokenizers: dict[str, Any], kind: str, extractor: str, expected: str
) -> None:
    oracle = make(tokenizers[kind], examples=[("Is it?", "True")], extractor=extractor)
    parts = [oracle.text_in_place(ids) for ids in (oracle.extractor_ids, oracle.answers[0])]
    assert "|".join(parts) == expected


def test_an_answer_that_merges_with_the_extractor_is_an_error(tokenizers: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="merges with the extractor"):
        make(tokenizers["llama3"], examples=[("How much?", "$5")], extractor="It costs (")


@pytest.mark.parametrize("kind", KINDS)
def test_allowed_ids_are_letters_spaces_full_stop_and_comma(
    tokenizers: dict[str, Any], kind: str
) -> None:
    oracle = make(tokenizers[kind])
    texts = {oracle.text_in_place([i]) for i in oracle.allowed}
    assert {" proper", "ly", ".", ",", " Use"} <= texts
    assert not oracle.allowed & set(tokenizers[kind].all_special_ids)
    assert all(text in (".", ",") or text.replace(" ", "a").isalpha() for text in texts)
    assert all(text.isascii() for text in texts)


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip_refuses_ids_that_text_does_not_give(
    tokenizers: dict[str, Any], kind: str
) -> None:
    oracle, tokenizer = make(tokenizers[kind]), tokenizers[kind]
    p = oracle.prompt_ids(PROMPT)
    assert oracle.round_trip(p)
    letters = [*oracle.ids_in_place(" p"), *tokenizer.convert_tokens_to_ids(list("roper"))]
    assert oracle.text_in_place(letters) == oracle.text_in_place(p[1:2]) == " proper"
    assert not oracle.round_trip(p[:1] + letters + p[2:])
    assert not oracle.round_trip(p + oracle.ids_in_place(" "))
    assert not oracle.round_trip([*tokenizer.convert_tokens_to_ids(["s"]), *p[1:]])


@pytest.mark.parametrize("kind", KINDS)
def test_reading_one_row_equals_one_pass_over_its_ids(
    tokenizers: dict[str, Any], kind: str
) -> None:
    oracle = make(tokenizers[kind], "gemma2")
    p = oracle.prompt_ids(PROMPT)
    reasoning = oracle.reasonings(p)[1]
    start = oracle.heads[1] + p + oracle.tails[1]
    with torch.no_grad():
        ids = start + reasoning + oracle.extractor_ids + oracle.answers[1]
        log_probs = oracle.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    for i, token in enumerate(reasoning, start=len(start)):
        assert int(log_probs[i - 1].argmax()) == token
    first = len(oracle.heads[1])
    expected = -sum(float(log_probs[first + i - 1, token]) for i, token in enumerate(p)) / len(p)
    assert float(oracle.read(1, p, reasoning)[1].detach()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("place", ["middle", "growth"])
@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("llama", "llama3"),
        ("qwen2", "llama3"),
        ("qwen3", "sentencepiece"),
        ("gemma2", "sentencepiece"),
    ],
)
def test_a_step(tokenizers: dict[str, Any], family: str, kind: str, place: str) -> None:
    oracle = make(tokenizers[kind], family)
    p = oracle.prompt_ids(PROMPT)
    t = len(p) if place == "growth" else 3
    step = oracle.step(p, t, draw)

    assert step.candidates == sorted(set(step.candidates)) == oracle.propose(p, t, draw)
    assert len(step.candidates) >= 6
    assert set(step.candidates) <= oracle.allowed - {p[t - 1]} - set(p[t : t + 1])
    assert step.shortlist == sorted(step.candidates, key=step.scores.__getitem__)[:3]
    changed = [(*p[:t], v, *p[t + 1 :]) for v in step.shortlist]
    assert all(oracle.round_trip(list(prompt)) for prompt in changed)
    assert set(step.objectives) == {tuple(p), *changed}
    assert step.objectives[tuple(p)] == oracle.objective(p)
    assert tuple(step.winner) == min(step.objectives, key=step.objectives.__getitem__)


def test_the_incumbent_wins_a_tie(
    tokenizers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    oracle = make(tokenizers["llama3"])
    p = oracle.prompt_ids(PROMPT)
    values = iter([1.0, 1.0 - 5e-7, 1.0, 1.0])
    monkeypatch.setattr(oracle, "objective", lambda *_: next(values))
    assert oracle.step(p, 3, draw).winner == p
    values = iter([1.0, 0.5, 0.5, 0.7])
    step = oracle.step(p, 3, draw)
    assert step.winner[3] == min(step.shortlist)


def test_the_error_objective_counts_wrong_rows(tokenizers: dict[str, Any]) -> None:
    oracle = make(tokenizers["llama3"], objective="error")
    p = oracle.prompt_ids(PROMPT)
    reasonings = oracle.reasonings(p)
    with torch.no_grad():
        fluency = sum(float(oracle.read(i, p, r)[1]) for i, r in enumerate(reasonings)) / 3
        ids = oracle.heads[0] + p + oracle.tails[0] + reasonings[0] + oracle.extractor_ids
        likeliest = int(oracle.model(torch.tensor([ids])).logits[0, -1].argmax())
    assert oracle.objective(p, reasonings) == pytest.approx(1 + 0.02 * fluency)
    oracle.answers[0] = [likeliest]
    assert oracle.objective(p, reasonings) == pytest.approx(2 / 3 + 0.02 * fluency)
