"""Which rows of a step are samples: all of them, or those of requests that are draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from greater_fast.engine import RolloutRequest
from greater_fast.rollouts.sampling import sample_keys
from greater_fast.rollouts.steps.row_reader import Answers


def not_finite(request: RolloutRequest) -> FloatingPointError:
    """The error where a token would be written from logits that are NaN, or infinite."""
    whose = "a drawn text" if request.is_draw else f"example {request.sample_key}"
    return FloatingPointError(
        f"the logits of {whose} are not finite where text is generated: try dtype float32"
    )


class SampledRows:
    """Keys and places of the noise in a step's rows; `samples_all` where not only draws have it."""

    def __init__(self, requests: Sequence[RolloutRequest], *, samples_all: bool) -> None:
        self._requests = requests
        self._write = np.array([r.max_new_tokens + r.max_answer_tokens > 0 for r in requests], bool)
        keys = sample_keys([r.sample_key for r in requests], torch.device("cpu"))
        self._keys = keys[:, None].view(torch.int32).numpy()  # [R, 2]
        self._starts = np.array([len(r.prompt_ids) for r in requests], np.int32)
        self._are_sampled = np.array([samples_all or r.is_draw for r in requests], bool)

    def place(self, buffers: Mapping[str, NDArray[np.int32]], num_rows: int) -> None:
        """Tell each row of logits its place in the reasoning; those without noise have none.

        These are rows inside of prompts, and of requests that are not sampled.
        """
        rows, keys = (buffers[name][:num_rows] for name in ("logit_rows", "row_keys"))
        places = buffers["positions"][rows] + 1 - self._starts[keys]
        have_noise = self._are_sampled[keys] & (places >= 0)
        buffers["sample_places"][:num_rows] = np.where(have_noise, places, -1)
        buffers["sample_keys"][:num_rows] = self._keys[keys]

    def written(self, answers: Answers, buffers: Mapping[str, NDArray[np.int32]]) -> Answers:
        """Answers of a step whose rows without noise write the argmax.

        Raises:
            FloatingPointError: logits are not finite where a token is to be generated.
        """
        num_rows = len(answers.argmax)
        targets, keys, places = (
            buffers[name][:num_rows] for name in ("targets", "row_keys", "sample_places")
        )
        if (wrong := np.isnan(answers.logprobs) & (targets < 0) & self._write[keys]).any():
            raise not_finite(self._requests[keys[wrong][0]])
        if answers.sampled is None:
            return answers
        return answers._replace(sampled=np.where(places >= 0, answers.sampled, answers.argmax))
