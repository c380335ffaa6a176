"""A round of GreaterPrompt 1.1.4 in our own words: the baseline of what changing the import gains.

Row after row, nothing batched and nothing kept: a forward pass proposes tokens for the place, the
reasoning is generated anew, and behind it each token of the answer takes a pass over the whole
sequence, all of them with a graph, for the model's own greedy tokens. One pass back through all of
these gives the gradient of the embedding matrix; the other weights are frozen. The token is taken
whose row of it has the lowest mean, and no prompt is tried.

Left out are what empties the allocator's cache, and the reasoning's way through text and back: both
sides run on the same ids, so that they can be proven equal before they are timed.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig

from benchmarks.baselines.reference_procedure import GREEDY, ReferenceRow


@dataclass(frozen=True, slots=True)
class RoundSettings:
    """Settings of the procedure, by its names; the defaults are those of its README."""

    end_ids: tuple[int, ...]
    max_new_tokens: int = 512
    intersect_q: int = 5
    candidates_topk: int = 10


@dataclass(frozen=True, slots=True)
class Round:
    """What a round found on each row: the reasoning, the loss of the answer, the token taken."""

    reasonings: list[list[int]]
    losses: list[float]
    taken: list[int]
    seconds: float


class GreaterPromptProcedure:
    """Rounds on one causal LM of transformers and fixed rows, metered in tokens."""

    def __init__(self, model: Any, rows: Sequence[ReferenceRow], settings: RoundSettings) -> None:
        self.model, self.rows, self.settings = model.eval(), rows, settings
        self.weight: Tensor = model.get_input_embeddings().weight  # [V, D]
        model.requires_grad_(False)
        self.weight.requires_grad_(True)
        self.forward_tokens = self.generated_tokens = 0

    def round(self, prompt_ids: list[int], position: int) -> Round:
        """A round at a place of the prompt, which is the same on all rows; in batches as there."""
        reasonings, losses, taken = [], [], []
        start = self._now()
        for first in range(0, len(self.rows), self.settings.intersect_q):
            rows = self.rows[first : first + self.settings.intersect_q]
            proposed = [self._propose(row, prompt_ids, position) for row in rows]
            candidates = sorted(set.intersection(*proposed) or set.union(*proposed))
            for row in rows:
                reasoning = self.reason(row, prompt_ids)
                loss = self.answer_loss(row, prompt_ids, reasoning)
                self.model.zero_grad()
                loss.backward()
                assert self.weight.grad is not None
                gradient = self.weight.grad.detach().clone()
                means = [gradient[candidate].mean().item() for candidate in candidates]
                reasonings.append(reasoning)
                losses.append(loss.item())
                taken.append(candidates[means.index(min(means))])
        return Round(reasonings, losses, taken, self._now() - start)

    @torch.inference_mode()
    def _propose(self, row: ReferenceRow, prompt_ids: list[int], position: int) -> set[int]:
        """The likeliest tokens for the place, and the one that stands there."""
        logits = self._logits([*row.head_ids, *prompt_ids[:position]])
        likeliest = logits.softmax(-1).topk(self.settings.candidates_topk).indices.tolist()
        return {*likeliest, prompt_ids[position]}

    @torch.inference_mode()
    def reason(self, row: ReferenceRow, prompt_ids: list[int]) -> list[int]:
        """The greedy reasoning of a row by itself; transformers keeps keys and values within it."""
        ids = self._tensor([*row.head_ids, *prompt_ids, *row.tail_ids])
        config = GenerationConfig(
            max_new_tokens=self.settings.max_new_tokens,
            eos_token_id=list(self.settings.end_ids),
            pad_token_id=self.settings.end_ids[0],
            **GREEDY,
        )
        mask = torch.ones_like(ids)
        output = self.model.generate(ids, attention_mask=mask, generation_config=config)
        new: list[int] = output[0, ids.shape[1] :].tolist()
        self.generated_tokens += len(new)
        self.forward_tokens += output.shape[1] - 1
        return new[:-1] if new[-1] in self.settings.end_ids else new

    def answer_loss(self, row: ReferenceRow, prompt_ids: list[int], reasoning: list[int]) -> Tensor:
        """Cross-entropy of the answer, with a graph; its logits follow the model's own tokens."""
        before = [*row.head_ids, *prompt_ids, *row.tail_ids]
        ids, logits = [*before, *reasoning, *row.extractor_ids], []
        with torch.enable_grad():
            for _ in row.answer_ids:
                logits.append(self._logits(ids))
                ids.append(int(logits[-1].argmax()))
            return cross_entropy(torch.stack(logits), self._tensor(row.answer_ids)[0])

    def _logits(self, ids: list[int]) -> Tensor:
        """The next token's logits [V], of a pass over the whole sequence and all of its logits."""
        self.forward_tokens += len(ids)
        sequence = self._tensor(ids)
        logits: Tensor = self.model(sequence, attention_mask=torch.ones_like(sequence)).logits
        return logits[0, -1]

    def _tensor(self, ids: Sequence[int]) -> Tensor:
        return torch.tensor([list(ids)], device=self.weight.device)

    def _now(self) -> float:
        if self.weight.device.type == "cuda":
            torch.cuda.synchronize(self.weight.device)
        return time.perf_counter()
