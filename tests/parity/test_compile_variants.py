"""Kernels are compiled a few times for a model, whatever the size of its steps and batches."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from greater_fast.engine import RolloutRequest
from greater_fast.gradients.example_loss import Terms
from greater_fast.gradients.gradient_pass import ExampleSequence, choose_pass
from greater_fast.model.lm import LM, load_lm
from greater_fast.rollouts.batch import RolloutEngine
from tests.kernels.compiling.variants import recorded_variants
from tests.tiny import BOS_ID, END_ID, PAD_ID, tiny_tokenizer

MOST = 6  # of a kernel: forms that modules are tried in are among them


def small_lm() -> LM:
    """A Llama of one layer and few heads: each launch is interpreted."""
    words = tiny_tokenizer("llama3")
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=128,
        bos_token_id=BOS_ID,
        eos_token_id=END_ID,
        pad_token_id=PAD_ID,
    )
    torch.manual_seed(0)
    return load_lm((LlamaForCausalLM(config).eval().requires_grad_(requires_grad=False), words))


def run(lm: LM, num_slots: int, longest: int, lengths: tuple[int, ...]) -> None:
    """Rollouts of prompts of these lengths in steps of so many slots, and a gradient."""
    engine = RolloutEngine(
        lm,
        kernels="triton",
        fixed=True,
        max_tokens=num_slots,
        kv_cache_bytes=(3 + num_slots) * 2 * 16 * 16 * 4,
        longest_sequence=longest,
    )
    prompts = [tuple(range(7, 7 + length)) for length in lengths]
    asked = [RolloutRequest(ids, 2, lm.end_ids, target_ids=(7, 8), num_scored=1) for ids in prompts]
    assert all(engine.run(asked))
    batch = [
        ExampleSequence(row, (*ids, 9, 10, 11), 2, (len(ids),), Terms((), 0.0, (9,)))
        for row, ids in enumerate(prompts)
    ]
    leaf = lm.embed(torch.tensor([s.ids[s.place] for s in batch])).detach().requires_grad_()
    with choose_pass(engine).states(batch) as states_of:
        torch.autograd.grad(states_of(leaf).sum(), leaf)


def test_another_size_of_step_and_batch_compiles_nothing_new() -> None:
    lm = small_lm()
    with recorded_variants() as found:
        run(lm, 16, 33, (5,))
        first = {name: set(kinds) for name, kinds in found.items()}
        run(lm, 17, 64, (5, 9, 4))
    assert dict(found) == first
    counts = {name: len(kinds) for name, kinds in found.items()}
    assert max(counts.values()) <= MOST
    assert counts["paged_attention_kernel"] == counts["turn_back_kernel"] == 1
    assert counts["turn_kernel"] == 2  # into rows, into the pool
