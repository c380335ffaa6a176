"""The gradient flows through frozen layers whose weights are quantised."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import cosine_similarity, cross_entropy
from transformers import AutoModelForCausalLM, LlamaConfig

from greater_fast.engine import Rollout
from greater_fast.examples.layout import Layouts
from greater_fast.model.lm import LM, load_lm
from greater_fast.rollouts.plain import PlainRolloutEngine
from greater_fast.search.gradient import prompt_gradient
from greater_fast.search.nouns import Position
from tests.cases import layouts_of, small_config, tokenizer
from tests.tiny import END_ID

pytestmark = pytest.mark.filterwarnings("default")
ROLLOUTS = [Rollout(tuple(range(20 + 9 * i, 20 + 11 * i))) for i in range(3)]
INDEX = 3


def random_model() -> Any:
    """A Llama whose widths are what 4-bit blocks ask for."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer("llama3")),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.1,
        eos_token_id=END_ID,
    )
    return AutoModelForCausalLM.from_config(config).eval()


def int8_by_torchao(model: Any) -> None:
    quantization = pytest.importorskip("torchao.quantization")
    quantization.quantize_(model.model, quantization.Int8WeightOnlyConfig())


def nf4_by_bitsandbytes(model: Any) -> None:
    nn = pytest.importorskip("bitsandbytes").nn
    for name, layer in list(model.model.named_modules()):
        if isinstance(layer, torch.nn.Linear):
            quantised = nn.Linear4bit(
                layer.in_features,
                layer.out_features,
                bias=False,
                compute_dtype=torch.float32,
                quant_type="nf4",
            )
            quantised.weight = nn.Params4bit(
                layer.weight.data, requires_grad=False, quant_type="nf4"
            )
            model.model.set_submodule(name, quantised)
    model.to("cuda" if torch.cuda.is_available() else "cpu")  # they are quantised as they move


def expected_gradient(lm: LM, layouts: Layouts, fluency_weight: float) -> torch.Tensor:
    """Autograd's through the model as it is, one example after the other."""
    total = torch.zeros(64, device=lm.device)
    for row, rollout in enumerate(ROLLOUTS):
        context = layouts.context_ids(row, layouts.prompt_ids)
        ids = torch.tensor([*context, *rollout.reasoning_ids, *layouts.target_ids(row)])
        ids = ids.to(lm.device)
        start, stop = layouts.prompt_span(row, layouts.prompt_ids)
        embedded = lm.embed(ids).detach().requires_grad_()
        logits = lm.model(inputs_embeds=embedded[None], use_cache=False).logits[0, :-1]
        number = len(layouts.rows[row].answer_ids)
        loss = cross_entropy(logits[-number:] / 0.5, ids[-number:])
        loss = loss + fluency_weight * cross_entropy(logits[start - 1 : stop - 1], ids[start:stop])
        total += torch.autograd.grad(loss, embedded)[0][start + INDEX]
    return total


@pytest.mark.parametrize("quantise", [int8_by_torchao, nf4_by_bitsandbytes])
def test_the_gradient_is_the_quantised_models_own(quantise: Any) -> None:
    model = random_model()
    quantise(model)
    lm = load_lm((model, tokenizer("llama3")))
    assert lm.dtype == torch.float32
    layouts = layouts_of(lm, 3)
    engine = PlainRolloutEngine(lm)
    assert engine.can_pack
    position = Position(0, INDEX, layouts.prompt_ids)
    for checkpointing in ("off", "on"):
        config = small_config(temperature=0.5, gradient_checkpointing=checkpointing)
        found = prompt_gradient(engine, layouts, ROLLOUTS, position, config)
        expected = expected_gradient(lm, layouts, config.fluency_weight)
        assert cosine_similarity(found, expected, dim=0) > 0.9999
        assert float(found.norm() / expected.norm()) == pytest.approx(1, rel=1e-2)
        plain = expected_gradient(load_lm((random_model(), lm.tokenizer)), layouts, 0.2)
        assert cosine_similarity(found.cpu(), plain, dim=0) > 0.85  # as 4 bits allow
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())


def test_weights_packed_already_are_refused() -> None:
    """As bitsandbytes packs them on the first use without a gradient, on some processors."""
    model = random_model()
    layer = model.model.layers[0].mlp.up_proj
    layer.support_avx512bf16_for_cpu = True
    layer.weight.quant_state = SimpleNamespace(packing_format_for_cpu=True)
    with pytest.raises(ValueError, match="packed for inference when it was first used"):
        load_lm((model, tokenizer("llama3")))
    layer.weight.quant_state.packing_format_for_cpu = False
    load_lm((model, tokenizer("llama3")))
    assert layer.support_avx512bf16_for_cpu is False


def test_an_operator_without_a_gradient_is_an_error() -> None:
    library = torch.library.Library("greater_fast_test", "DEF")
    library.define("double(Tensor x) -> Tensor")
    library.impl("double", lambda x: 2 * x, "CPU")
    model = random_model()
    mlp = model.model.layers[0].mlp
    own = mlp.forward
    mlp.forward = lambda states: torch.ops.greater_fast_test.double(own(states))
    lm = load_lm((model, tokenizer("llama3")))
    layouts = layouts_of(lm, 3)
    position = Position(0, INDEX, layouts.prompt_ids)
    text = "layer without a gradient, made by greater_fast_test::double"
    with pytest.raises(ValueError, match=text):
        prompt_gradient(PlainRolloutEngine(lm), layouts, ROLLOUTS, position, small_config())
