import copy
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, CohereConfig, GraniteConfig, LlamaForCausalLM

from greater_fast.model import lm as lm_module
from greater_fast.model.lm import LM, load_lm
from greater_fast.rollouts.generation import _plain_generation
from tests.cases import plain_logits, tiny_lm, tokenizer
from tests.tiny import END_ID, tiny_model, tiny_tokenizer

FAMILIES = ["llama", "gemma2", "qwen3", "cohere", "granite"]
SEQUENCES = [[0, 5, 60, 7], [0, 9], [0, 300, 301, 302, 900, 31, 44], [0, 77, 78]]


@functools.cache
def any_lm(family: str) -> LM:
    """A tiny model; Cohere's and Granite's scale their logits."""
    if family not in ("cohere", "granite"):
        return tiny_lm(family)
    found = tokenizer("llama3")
    shape: dict[str, Any] = {
        "vocab_size": len(found),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.5,
        "bos_token_id": 0,
        "eos_token_id": END_ID,
        "pad_token_id": 2,
    }
    config = (
        CohereConfig(**shape, logit_scale=0.25)
        if family == "cohere"
        else GraniteConfig(**shape, logits_scaling=8.0, embedding_multiplier=3.0)
    )
    torch.manual_seed(0)
    return load_lm((AutoModelForCausalLM.from_config(config), found))


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_the_models_own(family: str) -> None:
    lm = any_lm(family)
    for ids in SEQUENCES:
        with torch.no_grad():
            ours = lm.logits(lm.hidden(input_ids=torch.tensor([ids]))[0])
        torch.testing.assert_close(ours, plain_logits(lm, ids))
    if family == "gemma2":
        assert ours.abs().max() < 8.0  # the cap
    assert ours.std() > 0.2


@pytest.mark.parametrize("family", FAMILIES)
def test_states_from_embeddings_are_those_from_ids(family: str) -> None:
    lm, ids = any_lm(family), torch.tensor([SEQUENCES[2]])
    with torch.no_grad():
        expected = lm.hidden(input_ids=ids)
        torch.testing.assert_close(lm.hidden(inputs_embeds=lm.embed(ids)), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_at_equals_sequences_alone(family: str) -> None:
    """Padding on the right changes nothing; order and repetition of the rows are kept."""
    lm = any_lm(family)
    rows = [[3, 0], [1], [], [2, 2, 1]]
    found = lm.hidden_at(SEQUENCES, rows)
    expected, model = [], copy.deepcopy(lm.model)  # hooks stay in one that was asked for states
    for ids, positions in zip(SEQUENCES, rows, strict=True):
        with torch.no_grad():
            output = model(torch.tensor([ids]), output_hidden_states=True, use_cache=False)
        expected += [output.hidden_states[-1][0, i] for i in positions]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_padding_is_behind_and_an_end_id() -> None:
    padded = tiny_lm().pad_right([[5, 6, 7], [8]])
    assert padded.dtype == torch.int64
    assert padded.tolist() == [[5, 6, 7], [8, END_ID, END_ID]]


@pytest.mark.parametrize("family", ["llama", "gemma2", "cohere"])
@pytest.mark.parametrize("temperature", [1.0, 0.2])
def test_logprobs_are_log_softmax(
    family: str, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm, ids = any_lm(family), [0, *range(100, 120)]
    targets = torch.tensor([*ids[1:], 5])
    logits = plain_logits(lm, ids)
    targets[3] = int(logits[3].argmax())
    hidden = lm.hidden_at([ids], [range(len(ids))])
    expected = (logits / temperature).log_softmax(-1)[range(len(ids)), targets]
    for rows in (1, 2, 7, 1000):
        monkeypatch.setattr(lm_module, "LOGIT_FLOATS", rows * lm.vocab_size)
        seen = count_logit_rows(lm, monkeypatch)
        values, hits = lm.logprobs(hidden, targets, temperature)
        torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-4)
        assert hits.tolist() == (logits.argmax(-1) == targets).tolist()
        assert max(seen) == min(rows, len(ids))
    assert hits[3]


def count_logit_rows(lm: LM, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of every call of `LM.logits` from here on."""
    seen: list[int] = []
    own = LM.logits.__get__(lm)

    def counted(self: LM, hidden: torch.Tensor) -> torch.Tensor:
        seen.append(len(hidden))
        logits: torch.Tensor = own(hidden)
        return logits

    monkeypatch.setattr(LM, "logits", counted)
    return seen


def test_logprobs_of_nothing() -> None:
    values, hits = tiny_lm().logprobs(torch.zeros(0, 48), torch.zeros(0, dtype=torch.int64))
    assert values.shape == hits.shape == (0,)


def test_logprobs_carry_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny_lm("gemma2")
    targets = torch.tensor([4, 9, 16])
    hidden = torch.randn(3, 48, generator=torch.Generator().manual_seed(0)).requires_grad_()
    logits = lm.model.lm_head(hidden)
    logits = 8.0 * torch.tanh(logits / 8.0)
    expected = torch.autograd.grad(
        -torch.nn.functional.cross_entropy(logits / 0.5, targets, reduction="sum"), hidden
    )
    monkeypatch.setattr(lm_module, "LOGIT_FLOATS", lm.vocab_size)
    values, _ = lm.logprobs(hidden, targets, 0.5)
    torch.testing.assert_close(torch.autograd.grad(values.sum(), hidden), expected)


INTERPRETED = pytest.mark.skipif(
    torch.cuda.is_available(), reason="no interpreter where there is a GPU"
)


@INTERPRETED
@pytest.mark.parametrize("family", FAMILIES)
def test_logprobs_by_a_kernel(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same from the states, gradient included, and no logits."""
    lm = any_lm(family)
    assert lm.fused_head() is None  # on a CPU it must be asked for
    hidden = lm.hidden_at([SEQUENCES[2]], [range(7)]).requires_grad_()
    targets = torch.tensor([4, 9, 16, 8, 0, 3, lm.vocab_size - 1])
    targets[2] = int(lm.logits(hidden)[2].argmax())
    expected, hits = lm.logprobs(hidden, targets, 0.3, "reference")
    weights = torch.arange(1.0, 8.0)
    by_states = torch.autograd.grad((weights * expected).sum(), hidden)
    monkeypatch.setattr(LM, "logits", lambda *_: pytest.fail("logits were made"))
    found, found_hits = lm.logprobs(hidden, targets, 0.3, "triton")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert found_hits.tolist() == hits.tolist()
    assert hits[2]
    gradient = torch.autograd.grad((weights * found).sum(), hidden)
    torch.testing.assert_close(gradient, by_states, rtol=1e-3, atol=1e-4)
    with torch.inference_mode():
        inferred, _ = lm.logprobs(hidden.detach(), targets, 0.3, "triton")
    assert torch.equal(inferred, found)
    none, no_hits = lm.logprobs(hidden[:0], targets[:0], 0.3, "triton")
    assert none.shape == no_hits.shape == (0,)


class Weights(torch.Tensor):
    """Weights of a class of their own, as quantised ones are."""


class Doubled(torch.nn.Linear):
    """A head that is more than its matrix."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(inputs)


def with_bias(head: Any) -> None:
    head.bias = torch.nn.Parameter(torch.linspace(-1, 1, len(head.weight)), requires_grad=False)


def with_weights_of_a_class(head: Any) -> None:
    head.weight = torch.nn.Parameter(head.weight.data.as_subclass(Weights), requires_grad=False)


def with_a_forward_of_its_own(head: Any) -> None:
    head.forward = lambda inputs: torch.nn.functional.linear(inputs, 3 * head.weight)


def of_a_subclass(head: Any) -> None:
    head.__class__ = Doubled


def with_a_hook_behind(head: Any) -> None:
    head.register_forward_hook(lambda module, inputs, output: -output)


def with_a_hook_before(head: Any) -> None:
    head.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))


@INTERPRETED
@pytest.mark.parametrize(
    "change",
    [
        with_bias,
        with_weights_of_a_class,
        with_a_forward_of_its_own,
        of_a_subclass,
        with_a_hook_behind,
        with_a_hook_before,
    ],
)
def test_a_head_that_is_more_than_a_matrix_makes_its_logits(change: Any) -> None:
    found = tokenizer("llama3")
    model = tiny_model("llama", len(found))
    change(model.get_output_embeddings())
    lm = load_lm((model, found))
    assert lm.head is None
    hidden = lm.hidden_at([SEQUENCES[0]], [range(4)])
    targets = torch.tensor(SEQUENCES[2][:4])
    expected = plain_logits(lm, SEQUENCES[0]).log_softmax(-1)[range(4), targets]
    for kernels in ("auto", "reference"):
        torch.testing.assert_close(lm.logprobs(hidden, targets, 1.0, kernels)[0], expected)
    with pytest.raises(ValueError, match=r"kernels='triton' .* more than one dense matrix"):
        lm.logprobs(hidden, targets, 1.0, "triton")


@INTERPRETED
def test_weights_that_no_kernel_takes() -> None:
    found = tokenizer("llama3")
    lm = load_lm((tiny_model("llama", len(found), torch.float64), found))
    assert lm.head is not None
    with pytest.raises(ValueError, match=r"kernels='triton' .* got torch.float64, expected"):
        lm.fused_head("triton")


def test_a_loaded_pair_and_an_lm() -> None:
    found = tokenizer("llama3")
    model = tiny_model("llama", len(found), torch.float64).train().requires_grad_(True)
    lm = load_lm((model, found), device="meta", dtype="bfloat16")
    assert lm.model is model
    assert lm.tokenizer is found
    assert (lm.dtype, lm.device) == (torch.float64, torch.device("cpu"))
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert lm.name == "LlamaForCausalLM"
    assert lm.max_context == 512
    assert load_lm(lm) is lm


@pytest.mark.parametrize("dtype", [None, "float64", "bfloat16"])
def test_a_folder(model_folder: Path, dtype: str | None) -> None:
    for source in (model_folder, str(model_folder)):
        lm = load_lm(source, "cpu", dtype)
    assert lm.name == str(model_folder)
    assert lm.dtype == getattr(torch, dtype or "float32")
    assert lm.end_ids == tiny_lm().end_ids
    assert lm.tokenizer.chat_template == tiny_lm().tokenizer.chat_template
    if dtype is None:
        ids = SEQUENCES[2]
        torch.testing.assert_close(plain_logits(lm, ids), plain_logits(tiny_lm(), ids))
    logits = lm.logits(torch.zeros(1, 48, dtype=lm.dtype))
    assert logits.dtype == (torch.float64 if dtype == "float64" else torch.float32)


def test_a_loaded_model_finds_its_tokenizer_by_its_name(model_folder: Path) -> None:
    lm = load_lm(LlamaForCausalLM.from_pretrained(model_folder))
    assert len(lm.tokenizer) == len(tokenizer("llama3"))
    assert lm.name == str(model_folder)


def test_generation_settings_of_a_model_are_left_as_they_are(model_folder: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(model_folder)
    before = copy.deepcopy(model.generation_config.to_dict())
    load_lm((model, tiny_tokenizer("llama3")))
    assert model.generation_config.to_dict() == before


def test_generation_settings_within_a_model_are_left_as_they_are() -> None:
    """One that stands around another may hand its own on, as PEFT's do."""
    inner = tiny_model("llama", 1200)
    settings = inner.generation_config

    class Around(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base, self.generation_config = inner, settings

    model = Around()
    with _plain_generation(model):
        model.base.generation_config = model.generation_config
        assert model.generation_config is not settings
    assert model.generation_config is settings
    assert inner.generation_config is settings
