"""One GReaTer step as the released code does it, in our own words: the baseline of step figures.

Each step generates the incumbent's reasoning again, in batches of 9; gradients go through the full
sequence, one example at a time, for all weights and with logits at all positions; scoring runs each
finished sequence again without its KV cache. Left out are the garbage-collection calls, and the
errors that GREATER.md names: both sides must be proven equal before they are timed.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot
from transformers import GenerationConfig

STAGES = ("proposals", "generation", "gradients", "scoring")
# set although they are defaults: transformers fills unset values from the model's own settings
GREEDY = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
Item = TypeVar("Item")


class ReferenceRow(NamedTuple):
    """Token ids of one example, laid out as head · prompt · tail · reasoning · ext · answer."""

    head_ids: Sequence[int]
    tail_ids: Sequence[int]
    extractor_ids: Sequence[int]
    answer_ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class ReferenceSettings:
    """Settings of the procedure; the defaults are the released code's."""

    end_ids: tuple[int, ...]
    pad_id: int
    max_new_tokens: int = 512
    top_k: int = 10
    shortlist_size: int = 3
    temperature: float = 0.2
    fluency_weight: float = 0.2
    error_fluency_weight: float = 0.02
    batch_size: int = 9


class ProposalRules(NamedTuple):
    """Ids allowed at a place, draws of a round as row numbers, what a changed prompt must pass."""

    allowed: Tensor  # [V] bool
    draw: Callable[[int], list[list[int]]]
    keep: Callable[[list[int]], bool]


class Objective(NamedTuple):
    """Both objectives of one prompt over all rows (GREATER.md, step 3)."""

    error: float
    loss: float


@dataclass(frozen=True, slots=True)
class ReferenceStep:
    """What a step decided and cost: forward tokens with padding, generated ones with the end id."""

    seconds: dict[str, float]
    forward_tokens: dict[str, int]
    generated_tokens: int
    candidates: list[int]
    shortlist: list[int]
    scores: list[float]  # of the shortlist
    reasonings: list[list[int]]  # of the incumbent
    incumbent: Objective
    objectives: dict[int, Objective]  # by shortlisted id
    winner: int


class ReferenceProcedure:
    """The stages on one causal LM of transformers and fixed rows, metered in seconds and tokens."""

    def __init__(
        self, model: Any, rows: Sequence[ReferenceRow], settings: ReferenceSettings
    ) -> None:
        assert all(row.head_ids for row in rows), "each row needs a head"
        self.model, self.rows, self.settings = model.eval(), rows, settings
        self.embedding = model.get_input_embeddings()
        self.device = self.embedding.weight.device
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.forward_tokens = dict.fromkeys(STAGES, 0)
        self.generated_tokens = 0

    def step(self, prompt_ids: list[int], position: int, rules: ProposalRules) -> ReferenceStep:
        """One step; the best candidate wins, even where the incumbent is better."""
        reasonings = self.generate(prompt_ids)
        candidates = self.propose(prompt_ids, position, rules)
        scores = self.gradient(prompt_ids, position, reasonings)[candidates]  # [K]
        best = scores.sort(stable=True).indices[: self.settings.shortlist_size]
        shortlist = [candidates[i] for i in best]
        incumbent = self.evaluate(prompt_ids, reasonings)
        objectives = {}
        for candidate in shortlist:
            changed = _changed(prompt_ids, position, candidate)
            objectives[candidate] = self.evaluate(changed, self.generate(changed))
        ranked = sorted(shortlist, key=lambda candidate: (objectives[candidate].error, candidate))
        winner = (ranked or [prompt_ids[position]])[0]
        return ReferenceStep(
            seconds=dict(self.seconds),
            forward_tokens=dict(self.forward_tokens),
            generated_tokens=self.generated_tokens,
            candidates=candidates,
            shortlist=shortlist,
            scores=scores[best].tolist(),
            reasonings=reasonings,
            incumbent=incumbent,
            objectives=objectives,
            winner=winner,
        )

    def propose(self, prompt_ids: list[int], position: int, rules: ProposalRules) -> list[int]:
        """Candidates, sorted: top-k of each row, intersected in a draw, united over the draws."""
        allowed, num_allowed = rules.allowed, int(rules.allowed.sum())
        candidates: list[int] = []
        with self._stage("proposals"):
            for round_number in range(8):
                k = self.settings.top_k * 2**round_number
                union: set[int] = set()
                for numbers in rules.draw(round_number):
                    tops = [self._top_k(i, prompt_ids[:position], allowed, k) for i in numbers]
                    union |= set.intersection(*tops)
                candidates = [
                    candidate
                    for candidate in sorted(union - {prompt_ids[position]})
                    if rules.keep(_changed(prompt_ids, position, candidate))
                ]
                if len(candidates) >= 2 * self.settings.shortlist_size or k >= num_allowed:
                    break
        return candidates

    @torch.no_grad()
    def _top_k(self, number: int, prefix_ids: list[int], allowed: Tensor, k: int) -> set[int]:
        ids = torch.tensor([[*self.rows[number].head_ids, *prefix_ids]], device=self.device)
        logits = self.model(ids).logits[0, -1].float().cpu()  # [V], of [1, T, V]
        self.forward_tokens["proposals"] += ids.numel()
        ranked = logits.masked_fill(~allowed, -torch.inf).sort(descending=True, stable=True)
        return set(ranked.indices[: min(k, int(allowed.sum()))].tolist())

    def generate(self, prompt_ids: list[int]) -> list[list[int]]:
        """Greedy reasoning of all rows, in left-padded batches that run until the last row ends."""
        config = GenerationConfig(
            max_new_tokens=self.settings.max_new_tokens,
            eos_token_id=list(self.settings.end_ids) or [-1],
            pad_token_id=self.settings.pad_id,
            **GREEDY,
        )
        reasonings = []
        with self._stage("generation"):
            for rows in _batches(self.rows, self.settings.batch_size):
                contexts = [[*row.head_ids, *prompt_ids, *row.tail_ids] for row in rows]
                ids, mask = self._padded(contexts, left=True)  # [B, L]
                output = self.model.generate(ids, attention_mask=mask, generation_config=config)
                new = output[:, ids.shape[1] :].tolist()  # [B, W]
                for line in new:
                    ends = [i for i, token in enumerate(line) if token in self.settings.end_ids]
                    reasonings.append(line[: ends[0]] if ends else line)
                    self.generated_tokens += ends[0] + 1 if ends else len(line)
                self.forward_tokens["generation"] += len(rows) * (output.shape[1] - 1)
        return reasonings

    def gradient(self, prompt_ids: list[int], position: int, reasonings: list[list[int]]) -> Tensor:
        """dL/d one-hot at the position, summed over the examples: [V] float32 (step 2)."""
        weight = self.embedding.weight
        scale = getattr(self.embedding, "embed_scale", 1.0)  # Gemma's module multiplies by it
        total = torch.zeros(len(weight))
        with self._stage("gradients"), _all_weights_trained(self.model):
            for row, reasoning in zip(self.rows, reasonings, strict=True):
                ids = self._tensor(_sequence(row, prompt_ids, reasoning))  # [T]
                hot = one_hot(self._tensor(prompt_ids), len(weight)).to(weight)  # [P, V]
                hot.requires_grad_()
                start, stop = len(row.head_ids), len(row.head_ids) + len(prompt_ids)
                embeds = self.embedding(ids).detach()  # [T, D]
                embeds = torch.cat([embeds[:start], hot @ weight * scale, embeds[stop:]])
                logits = self.model(inputs_embeds=embeds[None]).logits[0]  # [T, V]
                answer_loss, prompt_nll, _ = self._losses(logits, row, prompt_ids)
                (answer_loss + self.settings.fluency_weight * prompt_nll).backward()
                assert hot.grad is not None
                total += hot.grad[position].float().cpu()
                self.model.zero_grad()
                self.forward_tokens["gradients"] += len(ids)
        return total

    @torch.no_grad()
    def evaluate(self, prompt_ids: list[int], reasonings: list[list[int]]) -> Objective:
        """Both objectives, from all logits of the finished sequences run again without a cache."""
        losses = []
        with self._stage("scoring"):
            pairs = list(zip(self.rows, reasonings, strict=True))
            for batch in _batches(pairs, self.settings.batch_size):
                sequences = [_sequence(row, prompt_ids, text) for row, text in batch]
                ids, mask = self._padded(sequences, left=False)  # [B, T]
                logits = self.model(ids, attention_mask=mask, use_cache=False).logits  # [B, T, V]
                for i, (row, _) in enumerate(batch):
                    losses.append(self._losses(logits[i, : len(sequences[i])], row, prompt_ids))
                self.forward_tokens["scoring"] += ids.numel()
        answer_loss, nll, wrong = torch.tensor(losses, dtype=torch.float64).mean(0).tolist()
        return Objective(
            error=wrong + self.settings.error_fluency_weight * nll,
            loss=answer_loss + self.settings.fluency_weight * nll,
        )

    def _losses(
        self, logits: Tensor, row: ReferenceRow, prompt_ids: list[int]
    ) -> tuple[Tensor, Tensor, bool]:
        """Of one row's logits [T, V]: answer cross-entropy at tau, prompt NLL, any answer miss."""
        answer, prompt = self._tensor(row.answer_ids), self._tensor(prompt_ids)
        answer_logits = logits[-len(answer) - 1 : -1].float()
        prompt_logits = logits[len(row.head_ids) - 1 :][: len(prompt)].float()
        answer_loss = cross_entropy(answer_logits / self.settings.temperature, answer)
        missed = bool((answer_logits.argmax(-1) != answer).any())
        return answer_loss, cross_entropy(prompt_logits, prompt), missed

    def _tensor(self, ids: Sequence[int]) -> Tensor:
        return torch.tensor(list(ids), device=self.device)

    def _padded(self, sequences: list[list[int]], left: bool) -> tuple[Tensor, Tensor]:
        side = "left" if left else "right"
        tensors = [self._tensor(sequence) for sequence in sequences]
        pad = torch.nn.utils.rnn.pad_sequence
        ids = pad(tensors, True, self.settings.pad_id, padding_side=side)
        return ids, pad([torch.ones_like(t) for t in tensors], True, 0, padding_side=side)

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        start = self._now()
        yield
        self.seconds[name] += self._now() - start

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


@contextmanager
def _all_weights_trained(model: Any) -> Iterator[None]:
    """Gradients for all weights: the released code never freezes the model."""
    flags = [(weight, weight.requires_grad) for weight in model.parameters()]
    model.requires_grad_(True)
    yield
    for weight, flag in flags:
        weight.requires_grad_(flag)


def _sequence(row: ReferenceRow, prompt_ids: list[int], reasoning: list[int]) -> list[int]:
    before = [*row.head_ids, *prompt_ids, *row.tail_ids]
    return [*before, *reasoning, *row.extractor_ids, *row.answer_ids]


def _changed(prompt_ids: list[int], position: int, candidate: int) -> list[int]:
    return [*prompt_ids[:position], candidate, *prompt_ids[position + 1 :]]


def _batches(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[i : i + size] for i in range(0, len(items), size)]
