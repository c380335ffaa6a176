"""One loaded model: the module, its tokenizer, and the few forward passes that the stages need."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from greater_fast.kernels.dispatch import target_logprob, uses_triton
from greater_fast.kernels.reference import Head
from greater_fast.model.attention.kernels import without_cudnn
from greater_fast.model.checks import check_model
from greater_fast.model.exclusive import MODELS
from greater_fast.model.files import (
    ModelFiles,
    clear_load_errors,
    locate,
    read_config,
    read_tokenizer,
    usable_device,
    weights_dtype,
)
from greater_fast.model.layers import LayerShape
from greater_fast.model.lm_head import LogitScaling, float32_products, plain_head, sums_in_float32
from greater_fast.model.padding import pads, states_at
from greater_fast.model.parallel.loading import check_shareable, ranks_of
from greater_fast.model.parallel.sizes import shapes_of_rank
from greater_fast.model.quantised import keep_differentiable
from greater_fast.model.smollm2 import SMOLLM2, smollm2_folder
from greater_fast.model.text.turn_end import end_ids
from greater_fast.model.text.vocabulary import Vocabulary
from greater_fast.model.weights import read_weights
from greater_fast.ranks import ALONE, Ranks

LOGIT_FLOATS = 1 << 25  # logits held at a time: [rows, V] of 128 MiB


@dataclass(frozen=True, eq=False, repr=False)
class LM:
    """A causal language model with frozen weights, ready for the method.

    `model` is the transformers module, unchanged; `end_ids` end a turn of the assistant; `notes`
    say what a user should know of its files; `ranks` are the processes that share the weights.
    """

    model: Any
    tokenizer: Any
    name: str
    vocabulary: Vocabulary
    end_ids: frozenset[int]
    notes: tuple[str, ...] = ()
    ranks: Ranks = ALONE

    def __repr__(self) -> str:
        return f"LM({self.name!r}, {self.dtype} on {self.device})"

    @property
    def device(self) -> torch.device:
        """Where the embedding is, and so where ids go."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        dtype: torch.dtype = self.model.get_input_embeddings().weight.dtype
        return dtype

    @property
    def vocab_size(self) -> int:
        """V, the rows of the embedding (it may be padded past the tokenizer's ids)."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    @property
    def embedding_width(self) -> int:
        """D of `embed`, which need not be that of the states."""
        return int(self.model.get_input_embeddings().weight.shape[1])

    @property
    def max_context(self) -> int | None:
        """Positions the model was made for, or None where its configuration names none."""
        config = self.model.config.get_text_config()
        names = ("max_position_embeddings", "max_target_positions")
        positions = next((p for name in names if (p := getattr(config, name, None))), None)
        return int(positions) if positions else None

    @cached_property
    def layer_shapes(self) -> tuple[LayerShape, ...]:
        """What each decoder layer is like, as this rank has it where several share the model.

        Raises:
            ValueError: the configuration does not say how many there are, or how wide.
        """
        return shapes_of_rank(self.model.config.get_text_config(), self.ranks.size)

    @cached_property
    def lock(self) -> threading.RLock:
        """Held by the thread that runs the model; one for all that share a configuration."""
        return MODELS.of(self.model.config.get_text_config())

    @cached_property
    def decoder(self) -> Any:
        """The module that makes hidden states of ids, without the head; None where there is none.

        `get_decoder` is asked first, and not believed: of some models it names the whole, or
        another part.
        """
        embedding, head = self.model.get_input_embeddings(), self.model.get_output_embeddings()

        def fits(part: Any) -> bool:
            modules = {id(module) for module in part.modules()}
            return id(embedding) in modules and (head is embedding or id(head) not in modules)

        named = getattr(self.model, "get_decoder", lambda: None)()
        parts = [*([] if named is None else [named]), *self.model.modules()]
        return next(filter(fits, parts), None)

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Input embeddings `[..., D]` of ids by the model's own module (Gemma scales inside)."""
        embedded: torch.Tensor = self.model.get_input_embeddings()(ids)
        return embedded

    def hidden(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Last hidden states [B, T, D] of `input_ids` [B, T] or `inputs_embeds` [B, T, D].

        Rows are padded on the right, so a causal model needs no mask.
        """
        states: torch.Tensor = self.decoder(**inputs, use_cache=False).last_hidden_state
        return states

    def hidden_at(
        self, sequences: Sequence[Sequence[int]], rows: Sequence[Sequence[int]]
    ) -> torch.Tensor:
        """Hidden states [R, D] at `rows[b]` of `sequences[b]`, sequence after sequence."""
        with torch.no_grad():
            return states_at(self, sequences, rows, lambda ids, _: self.hidden(input_ids=ids))

    @cached_property
    def pads(self) -> bool:
        """Whether rows of several lengths may share a pass, padded on the right."""
        return pads(self)

    def pad_right(self, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
        """Ids [B, T] int64 on the model's device, padded behind with an id nothing attends to."""
        width = max(map(len, sequences))
        fill = min(self.end_ids)
        padded = [[*ids, *[fill] * (width - len(ids))] for ids in sequences]
        return torch.tensor(padded, dtype=torch.int64, device=self.device)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [R, V] of hidden states [R, D], in at least float32, scaled as the model does.

        Those of 16-bit weights are not rounded to 16 bits where torch and the head allow it.
        """
        if sums_in_float32(hidden) and self.head:
            return self._logit_scaling.logits(float32_products(hidden, self.head.weight))
        return self._logit_scaling.logits(self.model.get_output_embeddings()(hidden))

    @cached_property
    def _logit_scaling(self) -> LogitScaling:
        return LogitScaling.of(self.model.config.get_text_config())

    @cached_property
    def head(self) -> Head | None:
        """The LM head as the kernels take it, None where it is more than one dense matrix."""
        return plain_head(self.model.get_output_embeddings(), self._logit_scaling)

    def fused_head(self, kernels: str = "auto") -> Head | None:
        """The head where Triton takes log-probabilities from it, None where logits are made first.

        Raises:
            ValueError: `kernels` is "triton", and it cannot; says why.
        """
        matrix = self.head.weight if self.head else self.model.get_input_embeddings().weight
        unknown = None if self.head else "the LM head is more than one dense matrix"
        return self.head if uses_triton(kernels, matrix, matrix, unknown) else None

    def logprobs(
        self,
        hidden: torch.Tensor,
        ids: torch.Tensor,
        temperature: float = 1.0,
        kernels: str = "auto",
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities [R] of `ids` [R] at softmax(logits / temperature), and argmax hits.

        Differentiable in `hidden` [R, D]; logits exist for a tile or a chunk of rows at a time.

        Raises:
            ValueError: `kernels` is "triton", and it cannot run; says why.
        """
        if head := self.fused_head(kernels):
            values, argmax = target_logprob(hidden, ids, head, temperature, kernels)
            return values, argmax == ids
        chunk = max(1, LOGIT_FLOATS // self.vocab_size)
        parts, hits = [], []
        for rows, targets in zip(hidden.split(chunk), ids.split(chunk), strict=True):
            logits = self.logits(rows)
            hits.append(logits.detach().argmax(-1) == targets)
            parts.append(logprobs_of(targets, logits / temperature))
        return torch.cat(parts), torch.cat(hits)


def logprobs_of(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Log-probabilities [R] of `ids` [R] under softmax(logits), `logits` [R, V]."""
    return logits.log_softmax(-1).gather(-1, ids[:, None]).squeeze(-1)


def load_lm(
    source: Any,
    device: str | None = None,
    dtype: str | None = None,
    tokenizer: Any = None,
    ranks: Ranks | None = None,
) -> LM:
    """The one way a model comes in.

    Args:
        source: a hub name, a folder, a GGUF file, `smollm2-135m` (the demonstration model), a
            loaded transformers model (its tokenizer is found by its name), a pair
            (model, tokenizer), or an `LM`, which is returned as it is.
        device: `cpu`, `cuda`, ...; by default a GPU where there is one.
        dtype: `float32`, `bfloat16`, `float16` or `float64`; by default bfloat16 on a GPU, or
            float16 where it has none (below compute capability 8.0), float32 on a CPU. A loaded
            model keeps its own device and dtype.
        tokenizer: that of a named model, where it has been read already.
        ranks: processes that share the weights of the model, in place of each having all of them.

    The model is put in eval mode and its weights are frozen; a loaded one stays so, unless it is
    refused.

    Raises:
        ValueError: no such model, no causal language model, no usable tokenizer, or one that
            cannot be shared.
    """
    if isinstance(source, LM):
        return source
    notes: tuple[str, ...] = ()
    if isinstance(source, str | Path):
        name, device = str(source), usable_device(device)
        files = locate(name, smollm2_folder() if name == SMOLLM2 else name)
        config = read_config(files)
        if ranks is not None:
            check_shareable(files, config, device, ranks)
        tokenizer = read_tokenizer(files) if tokenizer is None else tokenizer
        ranks = ranks or ALONE
        is_quantised = getattr(config, "quantization_config", None) is not None
        onto = "cpu" if is_quantised else device  # bits are packed in a way of their own
        model, notes = read_weights(files, config, weights_dtype(device, dtype), ranks, onto)
        if ranks.size == 1:
            with clear_load_errors(name):
                model.to(device)
    else:
        model, tokenizer = source if _is_pair(source) else (source, tokenizer)
        if not hasattr(model, "get_input_embeddings") or not hasattr(model, "config"):
            raise ValueError(
                f"got {type(model).__name__}, expected a model name, a folder, a GGUF file or a "
                "loaded transformers model"
            )
        name = getattr(model, "name_or_path", "")
        if tokenizer is None and not name:
            raise ValueError("no usable tokenizer for a nameless model: pass (model, tokenizer)")
        if tokenizer is None:
            tokenizer = read_tokenizer(ModelFiles(name, name, {}))
        name, ranks = name or type(model).__name__, ranks_of(model, ranks)
    vocabulary = Vocabulary(tokenizer)
    lm = LM(model, tokenizer, name, vocabulary, end_ids(model, vocabulary), notes, ranks)
    with lm.lock, without_cudnn(), _unchanged_by_failure(model):
        model.requires_grad_(False)
        model.eval()
        keep_differentiable(model)
        check_model(lm)
    return lm


def _is_pair(source: Any) -> bool:
    return isinstance(source, tuple) and len(source) == 2


@contextlib.contextmanager
def _unchanged_by_failure(model: Any) -> Iterator[None]:
    """Leave a model as it was found where it is refused."""
    trained = [p for p in model.parameters() if p.requires_grad]
    training = [m for m in model.modules() if m.training]
    try:
        yield
    except BaseException:
        for parameter in trained:
            parameter.requires_grad_(True)
        for module in training:
            module.training = True
        raise
