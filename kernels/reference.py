"""The ops of this folder in plain torch with float32 accumulation: simple, and always right."""

from __future__ import annotations

import torch


def candidate_scores(embeddings: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    """Scores of replacement tokens, `E g`: how the loss changes to first order; lower is better.

    Args:
        embeddings: [K, D] rows of the candidates, any floating dtype.
        gradients: [G, D] gradient rows.

    Returns:
        [G, K] scores, float32 (float64 where an operand is float64).
    """
    dtype = torch.promote_types(
        torch.promote_types(embeddings.dtype, gradients.dtype), torch.float32
    )
    return gradients.to(dtype) @ embeddings.to(dtype).T
