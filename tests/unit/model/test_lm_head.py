"""Logits of 16-bit weights keep the float32 of their sums where torch can; here a fake can."""

from collections.abc import Callable, Iterator

import pytest
import torch

from greater_fast.model import lm as lm_module
from greater_fast.model import lm_head
from greater_fast.model.lm import LM, load_lm
from tests.tiny import tiny_model, tiny_tokenizer

CPU = torch.device("cpu")
Product = Callable[..., torch.Tensor]
plain_product = torch.mm


def in_float32(a: torch.Tensor, b: torch.Tensor, out_dtype: torch.dtype) -> torch.Tensor:
    return plain_product(a.to(out_dtype), b.to(out_dtype))


def rounded(a: torch.Tensor, b: torch.Tensor, out_dtype: torch.dtype) -> torch.Tensor:
    return plain_product(a, b).to(out_dtype)


def ended(*_: torch.Tensor, out_dtype: torch.dtype) -> torch.Tensor:
    raise RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")


def of_no_such_argument(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return plain_product(a, b)


@pytest.fixture
def _tried_anew() -> Iterator[None]:
    lm_head.keeps_float32.cache_clear()
    yield
    lm_head.keeps_float32.cache_clear()


@pytest.fixture
def _a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products as on a GPU that keeps float32."""
    monkeypatch.setattr(lm_module, "sums_in_float32", lambda hidden: True)
    monkeypatch.setattr(torch, "mm", in_float32)


@pytest.mark.usefixtures("_tried_anew")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("product", "keeps"),
    [(torch.mm, False), (in_float32, True), (rounded, False), (of_no_such_argument, False)],
)
def test_what_torch_offers_is_tried(
    dtype: torch.dtype, product: Product, keeps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "mm", product)
    assert lm_head.keeps_float32(CPU, dtype) is keeps


@pytest.mark.usefixtures("_tried_anew")
def test_memory_that_ends_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "mm", ended)
    with pytest.raises(RuntimeError, match="ALLOC_FAILED"):
        lm_head.keeps_float32(CPU, torch.bfloat16)
    monkeypatch.setattr(torch, "mm", in_float32)
    assert lm_head.keeps_float32(CPU, torch.bfloat16)


def test_only_16_bits_on_a_gpu_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    class Far:
        device = torch.device("cuda")

        def __init__(self, dtype: torch.dtype) -> None:
            self.dtype = dtype

    asked: list[torch.dtype] = []

    def keeps(_: torch.device, dtype: torch.dtype) -> bool:
        asked.append(dtype)
        return True

    monkeypatch.setattr(lm_head, "keeps_float32", keeps)
    assert not lm_head.sums_in_float32(torch.zeros(1, 4, dtype=torch.bfloat16))
    assert not lm_head.sums_in_float32(Far(torch.float32))  # type: ignore[arg-type]
    assert not asked
    assert lm_head.sums_in_float32(Far(torch.float16))  # type: ignore[arg-type]
    assert asked == [torch.float16]


def of_16_bits(family: str) -> LM:
    kind = "sentencepiece" if family == "gemma2" else "llama3"
    tokenizer = tiny_tokenizer(kind)
    return load_lm((tiny_model(family, len(tokenizer), torch.bfloat16), tokenizer))


def exact_logits(lm: LM, hidden: torch.Tensor) -> torch.Tensor:
    """In float64, with the cap that Gemma 2 has."""
    logits = hidden.double() @ lm.model.lm_head.weight.double().T
    cap = getattr(lm.model.config, "final_logit_softcapping", None)
    return cap * torch.tanh(logits / cap) if cap else logits


@pytest.mark.usefixtures("_a_gpu")
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_logits_keep_the_digits_of_their_sums(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = of_16_bits(family)
    hidden = torch.randn(5, 48, generator=torch.Generator().manual_seed(0)).bfloat16()
    expected = exact_logits(lm, hidden)
    found = lm.logits(hidden)
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    assert torch.equal(lm.logits(hidden.view(1, 5, 48)), found[None])
    assert lm.logits(hidden[:0]).shape == (0, lm.vocab_size)
    monkeypatch.setattr(lm_module, "sums_in_float32", lambda hidden: False)
    assert (lm.logits(hidden) - expected).abs().max() > 1e-3 * expected.abs().max()


@pytest.mark.usefixtures("_a_gpu")
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_gradient_passes_through_them(family: str) -> None:
    lm = of_16_bits(family)
    hidden = torch.randn(3, 48, generator=torch.Generator().manual_seed(0)).bfloat16()
    leaf, exact_leaf = hidden.clone().requires_grad_(), hidden.double().requires_grad_()
    (found,) = torch.autograd.grad(lm.logits(leaf).log_softmax(-1)[:, 7].sum(), leaf)
    logprobs = exact_logits(lm, exact_leaf).log_softmax(-1)
    (expected,) = torch.autograd.grad(logprobs[:, 7].sum(), exact_leaf)
    assert found.dtype == torch.bfloat16
    assert (found - expected).norm() < 0.02 * expected.norm()


@pytest.mark.usefixtures("_a_gpu")
def test_a_head_that_is_more_than_a_matrix_makes_its_own_logits() -> None:
    tokenizer = tiny_tokenizer("llama3")
    model = tiny_model("llama", len(tokenizer), torch.bfloat16)
    model.lm_head.bias = torch.nn.Parameter(torch.ones(len(tokenizer), dtype=torch.bfloat16))
    lm, hidden = load_lm((model, tokenizer)), torch.ones(2, 48, dtype=torch.bfloat16)
    assert torch.equal(lm.logits(hidden), model.lm_head(hidden).float())
