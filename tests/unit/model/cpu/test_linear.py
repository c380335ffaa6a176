"""The linear layer of csrc against a float64 product, on every instruction set of the machine."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from greater_fast.engine import RolloutRequest
from greater_fast.model.cpu.extension import linear, linears_backward
from greater_fast.model.cpu.linear import CPULinears
from greater_fast.model.lm import LM, load_lm
from greater_fast.rollouts.batch import RolloutEngine
from tests.cases import tokenizer
from tests.tiny import tiny_model


def product(
    inputs: NDArray[Any], weights: NDArray[Any], bias: NDArray[Any] | None = None
) -> NDArray[Any]:
    outputs = np.full((len(inputs), len(weights)), np.nan, inputs.dtype)
    linear(inputs, weights, bias, outputs)
    return outputs


def case(rows: int, width: int, height: int, dtype: Any) -> tuple[NDArray[Any], ...]:
    source = np.random.default_rng(rows * 1000 + width)
    shapes = (rows, width), (height, width), (height,)
    return tuple(source.standard_normal(shape).astype(dtype) for shape in shapes)


@pytest.mark.usefixtures("every_vector_size")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("width", [1, 3, 16, 37, 576, 4099])
@pytest.mark.parametrize(("rows", "height"), [(1, 1), (2, 5), (7, 6), (38, 49), (67, 97), (200, 3)])
def test_it_equals_the_product(rows: int, height: int, width: int, dtype: Any) -> None:
    inputs, weights, bias = case(rows, width, height, dtype)
    exact = inputs.astype(np.longdouble) @ weights.astype(np.longdouble).T
    scale = np.abs(inputs).astype(np.longdouble) @ np.abs(weights).astype(np.longdouble).T
    allowed = 8 * np.finfo(dtype).eps * (scale + np.abs(bias))
    assert (np.abs(product(inputs, weights) - exact) <= allowed).all()
    assert (np.abs(product(inputs, weights, bias) - exact - bias) <= allowed).all()


@pytest.mark.usefixtures("every_vector_size")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("width", [30, 576, 5000])
def test_a_row_has_the_same_bits_in_any_batch(width: int, dtype: Any) -> None:
    inputs, weights, _ = case(53, width, 50, dtype)
    whole = product(inputs, weights)
    for start, stop in ((0, 1), (52, 53), (1, 4), (3, 19), (10, 50)):
        assert (product(inputs[start:stop].copy(), weights) == whole[start:stop]).all()
    for start, stop in ((0, 1), (49, 50), (1, 8)):  # nor does a column depend on its neighbours
        assert (product(inputs, weights[start:stop].copy()) == whole[:, start:stop]).all()


def test_no_rows_are_no_rows() -> None:
    inputs, weights, _ = case(2, 8, 3, np.float32)
    assert product(inputs[:0], weights).shape == (0, 3)
    assert input_gradients(np.zeros((0, 3), np.float32), weights).shape == (0, 8)


@pytest.mark.usefixtures("every_vector_size")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("height", [1, 3, 37, 768, 1601])
@pytest.mark.parametrize(
    ("rows", "width"), [(1, 1), (2, 5), (7, 16), (38, 49), (67, 97), (9, 64), (200, 3), (11, 240)]
)
def test_the_inputs_gradient_equals_the_product(
    rows: int, width: int, height: int, dtype: Any
) -> None:
    _, weights, _ = case(rows, width, height, dtype)
    gradients = np.random.default_rng(0).standard_normal((rows, height)).astype(dtype)
    exact = gradients.astype(np.longdouble) @ weights.astype(np.longdouble)
    scale = np.abs(gradients).astype(np.longdouble) @ np.abs(weights).astype(np.longdouble)
    allowed = 8 * np.finfo(dtype).eps * np.sqrt(height) * scale
    found = input_gradients(gradients, weights)
    assert (np.abs(found - exact) <= allowed).all()
    middle = slice(rows // 3, rows // 3 + 1)  # a row alone has the same bits
    assert (input_gradients(gradients[middle].copy(), weights) == found[middle]).all()


def input_gradients(gradients: NDArray[Any], weights: NDArray[Any]) -> NDArray[Any]:
    found = np.full((len(gradients), weights.shape[1]), np.nan, weights.dtype)
    linears_backward([(gradients, weights)], found)
    return found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gradients": np.zeros(3, np.float32)}, r"gradients \[M, N\]"),
        ({"weights": np.zeros((4, 8), np.float32)}, "weights: expected shape"),
        ({"weights": np.zeros((3, 8))}, "weights: got dtype float64"),
        ({"input_gradients": np.zeros((2, 3), np.float32)}, "input_gradients: expected shape"),
        (
            {"gradients": np.zeros((2, 0), np.float32), "weights": np.zeros((0, 8), np.float32)},
            "at least one column",
        ),
    ],
)
def test_gradients_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    arguments = {
        "gradients": np.zeros((2, 3), np.float32),
        "weights": np.zeros((3, 8), np.float32),
        "input_gradients": np.zeros((2, 8), np.float32),
    }
    given = arguments | change
    with pytest.raises(ValueError, match=message):
        linears_backward([(given["gradients"], given["weights"])], given["input_gradients"])


def test_a_gradient_reaches_the_inputs_of_a_layer(own_lm: LM) -> None:
    own_lm.model.requires_grad_(False)
    head = own_lm.model.get_output_embeddings()
    inputs = torch.randn(3, 4, head.in_features, dtype=own_lm.dtype, requires_grad=True)
    factors = torch.randn(3, 4, head.out_features, dtype=own_lm.dtype)
    (own,) = torch.autograd.grad(head(inputs), inputs, factors)
    (own_sum,) = torch.autograd.grad(head(inputs).sum(), inputs)
    linears = CPULinears(own_lm)
    with linears.installed():
        with linears.installed():
            pass
        assert "forward" in vars(head)
        (ours,) = torch.autograd.grad(head(inputs), inputs, factors)
        (ours_sum,) = torch.autograd.grad(head(inputs).sum(), inputs)  # by an expanded number
    assert "forward" not in vars(head)
    torch.testing.assert_close(ours_sum, own_sum, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours, own, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": np.zeros(8, np.float32)}, r"inputs \[M, K\]"),
        ({"weights": np.zeros((3, 7), np.float32)}, "weights: expected shape"),
        ({"weights": np.zeros((3, 8))}, "weights: got dtype float64"),
        ({"bias": np.zeros(2, np.float32)}, "bias: expected shape"),
        ({"bias": [0.0, 0.0, 0.0]}, "bias: expected an array"),
        ({"outputs": np.zeros((2, 4), np.float32)}, "outputs: expected shape"),
        ({"weights": np.zeros((8, 3), np.float32).T}, "weights: expected a contiguous array"),
        (
            {"inputs": np.zeros((2, 0), np.float32), "weights": np.zeros((3, 0), np.float32)},
            "at least one column",
        ),
        ({"inputs": np.zeros((2, 8), np.int32)}, "inputs: got dtype int32"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    arguments = {
        "inputs": np.zeros((2, 8), np.float32),
        "weights": np.zeros((3, 8), np.float32),
        "bias": np.zeros(3, np.float32),
        "outputs": np.zeros((2, 3), np.float32),
    }
    with pytest.raises(ValueError, match=message):
        linear(**arguments | change)


def test_the_layers_of_a_model_are_taken_over_and_given_back(lm: LM) -> None:
    ids = torch.tensor([lm.vocabulary.ids(" the answer is that one plus two")])
    layer = lm.model.get_output_embeddings()
    with torch.inference_mode():
        own = lm.logits(lm.hidden(input_ids=ids))
        with CPULinears(lm).installed():
            assert "forward" in vars(layer)
            ours = lm.logits(lm.hidden(input_ids=ids))
    assert "forward" not in vars(layer)
    torch.testing.assert_close(ours, own)
    assert not torch.equal(ours, own)  # another order of additions: it did run elsewhere


def test_plain_torch_multiplies_where_it_was_asked_for(lm: LM) -> None:
    engines = {
        k: RolloutEngine(lm, kv_cache_bytes=1 << 20, kernels=k) for k in ("auto", "reference")
    }
    for kernels, engine in engines.items():
        with engine._own_layers():
            taken = "forward" in vars(lm.model.get_output_embeddings())
        assert taken == (kernels == "auto")


def test_a_layer_with_a_forward_of_its_own_keeps_it(own_lm: LM) -> None:
    layer = own_lm.model.get_output_embeddings()
    layer.forward = own = lambda inputs: inputs
    with CPULinears(own_lm).installed():
        assert layer.forward is own
    assert layer.forward is own


def test_a_layer_of_a_subclass_keeps_its_own_forward(own_lm: LM) -> None:
    class Doubled(torch.nn.Linear):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(inputs)

    own_lm.model.get_output_embeddings().__class__ = Doubled
    linears = CPULinears(own_lm)
    with linears.installed():
        assert "forward" not in vars(own_lm.model.get_output_embeddings())
    assert not linears.are_all
    assert padding(own_lm) == 15


def test_weights_of_a_tensor_subclass_are_left_alone(own_lm: LM) -> None:
    class Packed(torch.Tensor):
        pass

    head = own_lm.model.get_output_embeddings()
    head._parameters["weight"] = head.weight.detach().as_subclass(Packed)
    linears = CPULinears(own_lm)
    with linears.installed():
        assert "forward" not in vars(head)
    assert not linears.are_all


def test_few_rows_are_not_padded_where_all_layers_are_ours(lm: LM) -> None:
    assert CPULinears(lm).are_all
    assert padding(lm) == 0


def padding(lm: LM) -> int:
    """Padding tokens of a step of one token."""
    engine = RolloutEngine(lm, kv_cache_bytes=1 << 20)
    engine.run([RolloutRequest((5,), 1, frozenset())])
    return engine.statistics["padding_tokens"]


def test_the_head_is_known_though_it_is_taken_over() -> None:
    lm = load_lm((tiny_model("llama", len(tokenizer("llama3"))), tokenizer("llama3")))
    with CPULinears(lm).installed():
        assert lm.head is not None
