"""The method with candidates ranked by reasonings that were right and wrong on the same row.

One reasoning at a time, in plain transformers and autograd, by the formulas of docs/gradients.md.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from greater_fast.kernels.vocabulary.noise import gumbel_noise
from tests.oracle import Draw, Oracle, OracleStep


class Written(NamedTuple):
    """What a model wrote on a row, its end included, and whether its answer then was right."""

    ids: tuple[int, ...]
    is_right: bool


@dataclass
class ReasoningOracle(Oracle):
    """An oracle whose gradient is "reasoning" or "both", step after step of one search."""

    kind: str = "both"
    num_reasonings: int = 4
    weight: float = 1.0
    norm: str = "none"
    are_drawn: bool = False
    number: int = 0  # of the step
    num_contrasted: int = 0  # rows of the last gradient
    texts: dict[tuple[int, ...], list[list[int]]] = field(default_factory=dict)  # by prompt: rows
    known: dict[tuple[int, ...], list[Written]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        # Of each row: what was right and what was wrong, newest last.
        self.stored: list[dict[bool, list[tuple[int, ...]]]]
        self.stored = [{True: [], False: []} for _ in self.heads]

    def step(self, p: list[int], t: int, draw: Draw) -> OracleStep:
        """As the paper's, and what it scored to the end is remembered."""
        self.remember(p)
        found = super().step(p, t, draw)
        self.take_in(p, t, found)
        return found

    def take_in(self, p: list[int], t: int, found: OracleStep) -> None:
        """Remember the prompts of a step that are not over the best that was known before it."""
        tried = [(*p[:t], v, *p[t + 1 :]) for v in found.shortlist]
        known = [found.objectives[ids] for ids in tried if ids in self.known]
        if self.settings.accept == "improve":
            known.append(found.objectives[tuple(p)])
        for ids in tried:
            if found.objectives[ids] <= min(known, default=math.inf) + 1e-6:
                self.remember(list(ids))
        self.number += 1

    def reasonings(self, p: list[int]) -> list[list[int]]:
        """As the paper's, written once for each prompt."""
        if tuple(p) not in self.texts:
            self.texts[tuple(p)] = super().reasonings(p)
        return self.texts[tuple(p)]

    def remember(self, p: list[int]) -> None:
        """Keep the newest few reasonings of either outcome, none of them twice."""
        if tuple(p) in self.known:
            return
        self.known[tuple(p)] = [
            self.written(row, p, reasoning) for row, reasoning in enumerate(self.reasonings(p))
        ]
        for stored, new in zip(self.stored, self.known[tuple(p)], strict=True):
            for outcome in (True, False):
                stored[outcome] = [old for old in stored[outcome] if old != new.ids]
            stored[new.is_right].append(new.ids)
            del stored[new.is_right][: -self.num_reasonings]

    @torch.no_grad()
    def written(self, row: int, p: list[int], reasoning: list[int]) -> Written:
        """A reasoning with the id that ended it, where the limit did not."""
        _, _, is_right = self.read(row, p, reasoning)
        end = []
        if len(reasoning) < self.settings.max_new_tokens:
            ids = self.heads[row] + p + self.tails[row] + reasoning
            end = [int(self.model(torch.tensor([ids])).logits[0, -1].argmax())]
        return Written((*reasoning, *end), is_right)

    def chosen(self, row: int, p: list[int]) -> list[Written]:
        """The prompt's own, then one of the other outcome and one of its own by turns."""
        grown_from = tuple(p[:-1])
        own = self.known.get(tuple(p), self.known.get(grown_from, []))[row]
        turns = [
            [Written(old, outcome) for old in self.stored[row][outcome][::-1] if old != own.ids]
            for outcome in (not own.is_right, own.is_right)
        ]
        found = [own]
        while any(turns):
            found += [turn.pop(0) for turn in turns if turn]
        return found[: self.num_reasonings]

    @torch.no_grad()
    def drawn(self, row: int, p: list[int]) -> list[Written]:
        """Samples at temperature 1: the argmax of logits with the noise of a key and a place."""
        found = []
        for draw in range(self.num_reasonings):
            key = (self.number * self.num_reasonings + draw + 1) * len(self.heads) + row
            ids, written = self.heads[row] + p + self.tails[row], list[int]()
            while len(written) < self.settings.max_new_tokens:
                logits = self.model(torch.tensor([ids + written])).logits[0, -1]
                at = torch.tensor([key]), torch.tensor([len(written)])
                written.append(int((logits + gumbel_noise(0, *at, len(logits))[0]).argmax()))
                if written[-1] in self.settings.end_ids:
                    break
            reasoning = [token for token in written if token not in self.settings.end_ids]
            found.append(Written(tuple(written), self.read(row, p, reasoning)[2]))
        return found

    def gradient(self, p: list[int], t: int, reasonings: list[list[int]]) -> Tensor:
        """Scores [V] of all tokens by the two parts' vectors [D]."""
        rows = range(len(self.heads))
        own = [self.drawn(row, p) if self.are_drawn else self.chosen(row, p) for row in rows]
        self.num_contrasted = sum(len({each.is_right for each in several}) == 2 for several in own)
        by_reasoning = self.added([self.of_row(row, p, t, own[row]) for row in rows])
        total = by_reasoning
        if self.kind == "both" or not by_reasoning.any():
            by_answer = self.added([self.of_answer(row, p, t, reasonings[row]) for row in rows])
            total = unit(by_answer) + self.weight * unit(by_reasoning)
        return self.embed(torch.tensor(self.vocab)).detach() @ total

    def added(self, gradients: list[Tensor]) -> Tensor:
        """The sum of rows [D], each at length 1 first where that is asked for."""
        return sum(
            (unit(g) if self.norm == "example" else g for g in gradients),
            torch.zeros_like(gradients[0]),
        )

    def of_answer(self, row: int, p: list[int], t: int, reasoning: list[int]) -> Tensor:
        """∂L_i/∂e_t, [D], of the paper's loss."""
        e_t = self.embed(torch.tensor(p[t])).detach().requires_grad_()
        ce, nll, _ = self.read(row, p, reasoning, t, e_t)
        return torch.autograd.grad(ce + self.settings.fluency_weight * nll, e_t)[0]

    def of_row(self, row: int, p: list[int], t: int, several: list[Written]) -> Tensor:
        """∂/∂e_t of -1/n Σ_j A_ij log f(r_ij, end | head_i p tail_i) / num_tokens_ij, [D]."""
        total = torch.zeros_like(self.embed(torch.tensor(p[t]))).detach()
        for number, each in enumerate(several):
            others = several[:number] + several[number + 1 :]
            if not others:
                continue
            advantage = each.is_right - sum(other.is_right for other in others) / len(others)
            e_t = self.embed(torch.tensor(p[t])).detach().requires_grad_()
            log_f = self.log_f(row, p, t, each.ids, e_t)
            num_tokens = 1 if self.are_drawn else len(each.ids)
            loss = -advantage / len(several) * log_f / num_tokens
            total += torch.autograd.grad(loss, e_t)[0]
        return total

    def log_f(self, row: int, p: list[int], t: int, ids: tuple[int, ...], e_t: Tensor) -> Tensor:
        """The log-probability of ids behind the row's prompt, with e_t in the place of p_t's."""
        context, at = self.heads[row] + p + self.tails[row], len(self.heads[row]) + t
        embeds = self.embed(torch.tensor([*context, *ids]))
        embeds = torch.cat([embeds[:at], e_t[None], embeds[at + 1 :]])
        logits = self.model(inputs_embeds=embeds[None], use_cache=False).logits[0]
        logprobs = logits[len(context) - 1 : -1].log_softmax(-1)
        return logprobs.gather(1, torch.tensor(ids)[:, None]).sum()


def unit(vector: Tensor) -> Tensor:
    """At length 1; zero stays zero."""
    length = vector.norm()
    return vector / length if length > 0 else vector
