"""What would go wrong in silence, or far from its cause, is refused when a model is loaded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from greater_fast.model.byte_sizes import is_out_of_memory
from greater_fast.model.forwards import alike
from greater_fast.model.parallel.lockstep import differ
from greater_fast.wording import in_one_line

if TYPE_CHECKING:
    from greater_fast.model.lm import LM


class UnsupportedModelError(ValueError):
    """What a model is made of does not go with a way of running it; another way may do."""


def check_model(lm: LM) -> None:
    """Try a model: is it causal, finite, and are its logits understood here?

    Raises:
        ValueError: it is not; says what was found.
    """
    _check_parts(lm)
    _check_one_device(lm)
    base = lm.vocabulary.ids(" the answer is")
    # Special tokens may be added past the embedding (Gemma 3), plain ones may not.
    if lm.tokenizer.vocab_size > lm.vocab_size:
        raise ValueError(
            f"the tokenizer's ids exceed the model's vocabulary of {lm.vocab_size}: "
            "they do not belong together"
        )
    one, other = (torch.tensor([[*base, i]], device=lm.device) for i in (base[0], base[-1]))
    with torch.no_grad(), _tried(lm):
        states, later = lm.hidden(input_ids=one), lm.hidden(input_ids=other)
        ours, own = lm.logits(states[0]), lm.model(input_ids=one).logits[0].float()
    if differ(lm.ranks, (states, ours)):
        raise ValueError(
            f"the ranks that share {lm.name} come to different numbers, and would soon be at "
            "different places: expected GPUs of one kind, and the same software on all machines"
        )
    if not torch.isfinite(states).all():
        raise ValueError(
            f"the states of {lm.name} are not finite: its weights are damaged, or too large "
            f"for {lm.dtype} (dtype: bfloat16 or float32)"
        )
    if not _are_same(later[:, :-1], states[:, :-1]):
        raise ValueError(
            f"{lm.name} is no causal language model: a later token changes earlier states"
        )
    if ours.shape[-1] != lm.vocab_size:
        raise ValueError(
            f"{lm.name} has embeddings of {lm.vocab_size} tokens and logits of {ours.shape[-1]}: "
            "expected one vocabulary for both"
        )
    if ours.shape != own.shape:
        raise ValueError(
            f"{lm.name} makes its logits in a way that is not supported: {len(own)} rows of "
            f"{len(ours)} tokens, as where tokens of its own are put before a text"
        )
    # In 16 bits a model may round logits, and sums on the way to them, which are as large as any.
    size = max(1.0, float(own.abs().max())) if lm.dtype.itemsize == 2 else 1.0
    if not torch.allclose(ours.float(), own, rtol=1e-2, atol=1e-2 * size):
        raise ValueError(
            f"{lm.name} makes its logits in a way that is not supported "
            f"(they differ by {(ours.float() - own).abs().max():.3g})"
        )


def _are_same(states: torch.Tensor, others: torch.Tensor) -> bool:
    """Whether states are the same but for rounding.

    In 16 bits, and of quantised weights, what else is in a batch may decide by which kernel, or on
    which scale, a row is multiplied: there a tenth of a state's length is let pass, where
    attention that looks ahead makes another state of it.
    """
    is_close = torch.allclose(states, others, atol=1e-2)
    return is_close or (others.dtype.itemsize == 2 and alike(states, others))


def _check_one_device(lm: LM) -> None:
    """Refuse a model whose weights are in several places, or are brought when a layer needs them.

    Ids and states are on one device here, and kernels read weights where they are.
    """
    devices = sorted({str(parameter.device) for parameter in lm.model.parameters()})
    if len(devices) > 1 or "meta" in devices:
        raise ValueError(
            f"the weights of {lm.name} are on {' and '.join(devices)}, as device_map='auto' lays "
            "them out: expected all of them on one device. A model too large for one GPU is shared "
            "by several: give its name or folder and tensor_parallel=True, and start with torchrun "
            "(docs/tensor_parallel.md)"
        )


def _check_parts(lm: LM) -> None:
    if getattr(lm.model, "get_output_embeddings", lambda: None)() is None:
        raise ValueError(f"{lm.name} has no output embeddings: expected a causal language model")
    if getattr(lm.model.config, "is_encoder_decoder", False):
        raise ValueError(f"{lm.name} has an encoder: expected a causal language model")
    if lm.decoder is None:
        raise ValueError(f"{lm.name} has no decoder: expected a causal language model")


@contextlib.contextmanager
def _tried(lm: LM) -> Iterator[None]:
    """Make one sentence of whatever a model's own code raises."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(
            f"{lm.name} cannot be run: its forward pass of token ids alone ends in {said(error)}"
        ) from error


def said(error: Exception) -> str:
    """What an error says, in one line with its kind."""
    return f"{type(error).__name__}: {in_one_line(error)}"
