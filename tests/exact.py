"""Tiny models that compute in float64 throughout: transformers casts norms and softmax down."""

import importlib
from typing import Any

import pytest
import torch

from greater_fast.model.lm import LM, load_lm
from tests.cases import tokenizer
from tests.tiny import tiny_model

_NORMS = {
    "llama": "LlamaRMSNorm",
    "qwen2": "Qwen2RMSNorm",
    "qwen3": "Qwen3RMSNorm",
    "gemma2": "Gemma2RMSNorm",
}


def exact_lm(family: str, monkeypatch: pytest.MonkeyPatch, kind: str = "llama3") -> LM:
    """A float64 model of a family, with norms and eager attention that keep to float64."""
    keep_exact(family, monkeypatch)
    vocabulary = tokenizer(kind)
    return load_lm((tiny_model(family, len(vocabulary), torch.float64), vocabulary))


def keep_exact(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let norms and eager attention of a family's models keep to float64."""
    module = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    norm = _gemma_norm if family == "gemma2" else _norm
    monkeypatch.setattr(getattr(module, _NORMS[family]), "forward", norm)
    monkeypatch.setattr(module, "eager_attention_forward", _attention)


def _norm(self: Any, states: torch.Tensor) -> torch.Tensor:
    scale = torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
    return torch.as_tensor(self.weight * states * scale)


def _gemma_norm(self: Any, states: torch.Tensor) -> torch.Tensor:
    scale = torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + self.eps)
    return torch.as_tensor((1 + self.weight) * states * scale)


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float,
    softcap: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Eager attention [1, T, H, D] of query [1, H, T, D], key and value [1, KV, T, D]."""
    groups = query.shape[1] // key.shape[1]
    key, value = (states.repeat_interleave(groups, dim=1) for states in (key, value))
    scores = query @ key.transpose(-1, -2) * scaling
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    weights = (scores + attention_mask).softmax(-1)
    return (weights @ value).transpose(1, 2), None
