"""The whole of one GReaTer step (arXiv 2412.09722) in plain transformers and autograd.

One example at a time, laid out in ids as  seq_i(p, r) = head_i · p · tail_i · r_i · ext · y_i.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from os.path import commonprefix
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

Draw = Callable[[int], list[list[int]]]  # round -> num_draws lists of q row numbers
CLOSING = {"$": "$", '"': '"', "'": "'", "`": "`", "(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True)
class Settings:
    top_k: int  # k
    shortlist_size: int  # mu
    temperature: float  # tau
    fluency_weight: float  # lambda
    error_fluency_weight: float
    max_new_tokens: int
    objective: str  # "error" | "loss"
    end_ids: frozenset[int]
    accept: str = "improve"  # or "best": the incumbent does not compete


@dataclass(frozen=True)
class OracleStep:
    candidates: list[int]  # sorted
    scores: dict[int, float]  # candidate -> ∂L/∂ε_t[candidate]
    shortlist: list[int]  # best first
    objectives: dict[tuple[int, ...], float]  # prompt -> objective, the incumbent first
    winner: list[int]


@dataclass
class Oracle:
    """A causal language model, N (question, answer) pairs, and the method of the paper."""

    model: Any
    tokenizer: Any
    examples: list[tuple[str, str]]
    extractor: str
    settings: Settings
    placement: str = "after"  # or "before": where the prompt stands beside the question
    letters: str = "A-Za-z"  # that candidates are made of, and the paper's

    def __post_init__(self) -> None:
        self.embed = self.model.get_input_embeddings()
        self.vocab = range(self.embed.weight.shape[0])

        # What a row has at its start (end) with any prompt is its head (tail).
        probes = [[self.rendered_ids(q, x) for x in ("the", "and", "of")] for q, _ in self.examples]
        self.heads = [list(commonprefix(ids)) for ids in probes]  # noqa: RUF071
        self.tails = [list(commonprefix([i[::-1] for i in ids])[::-1]) for ids in probes]  # noqa: RUF071
        assert all(self.heads), "the first prompt token has nothing before it"

        text, mark = " " + self.extractor.strip(), CLOSING.get(self.extractor.strip()[-1], "")
        gap = "" if mark and self.extractor[-1] == text[-1] else " "
        end = gap + mark if mark else ""
        ext = self.extractor_ids = self.ids_in_place(text)
        both = [self.ids_in_place(text + gap + answer + end) for _, answer in self.examples]
        if any(ids[: len(ext)] != ext or ids == ext for ids in both):
            raise ValueError(f"an answer merges with the extractor {self.extractor!r}")
        self.answers = [ids[len(ext) :] for ids in both]

        special = {i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        texts = {i: self.text_in_place([i]) for i in self.vocab[: len(self.tokenizer)]}
        self.allowed = {
            i for i in texts if re.fullmatch(f" ?[{self.letters}]+|[.]|,", texts[i])
        } - special
        self.words = {i: text.strip().casefold() for i, text in texts.items()}

    def rendered_ids(self, question: str, prompt: str) -> list[int]:
        """The ids of a row's whole text up to the reasoning, tokenised at once."""
        parts = (question.strip(), prompt)[:: 1 if self.placement == "after" else -1]
        text, plain = " ".join(parts), self.tokenizer.chat_template is None
        if not plain:
            chat, how = [{"role": "user", "content": text}], {"add_generation_prompt": True}
            text = self.tokenizer.apply_chat_template(chat, tokenize=False, **how)
        return list(self.tokenizer(text, add_special_tokens=plain)["input_ids"])

    def ids_in_place(self, text: str) -> list[int]:
        """The ids of a text that begins with a space and stands behind another."""
        a, ids = self.tokenizer(["a", "a" + text], add_special_tokens=False)["input_ids"]
        assert ids[: len(a)] == a
        return list(ids[len(a) :])

    def text_in_place(self, ids: list[int]) -> str:
        """The text of ids behind another text: with its leading space."""
        ids = self.tokenizer("a", add_special_tokens=False)["input_ids"] + ids
        return str(self.tokenizer.decode(ids, clean_up_tokenization_spaces=False))[1:]

    def prompt_ids(self, prompt: str) -> list[int]:
        """The prompt's ids p in place, the same on all rows."""
        ids = self.rendered_ids(self.examples[0][0], prompt.strip())
        ids = ids[len(self.heads[0]) : len(ids) - len(self.tails[0])]
        if not self.round_trip(ids) or self.text_in_place(ids).strip() != prompt.strip():
            raise ValueError(f"the prompt {prompt!r} has no ids of its own in place")
        return ids

    def round_trip(self, p: list[int]) -> bool:
        """Whether a user who pastes the prompt's text gets the same ids, on all rows."""
        ids = [self.rendered_ids(q, self.text_in_place(p).strip()) for q, _ in self.examples]
        return ids == [head + p + tail for head, tail in zip(self.heads, self.tails, strict=True)]

    def propose(self, p: list[int], t: int, draw: Draw) -> list[int]:
        """Step 1: union over draws of intersection over rows j of top-k f(· | head_j · p_<t)."""
        return list(self._candidates(p, t, draw))

    @torch.no_grad()
    def _candidates(self, p: list[int], t: int, draw: Draw) -> dict[int, float]:
        """Candidates with their mean log-probability over the distinct rows of the last round."""
        beside = {self.words[v] for v in [*p[max(t - 1, 0) : t], *p[t + 1 : t + 2]]}
        allowed = torch.tensor([v for v in sorted(self.allowed) if self.words[v] not in beside])
        contexts = [torch.tensor([head + p[:t]]) for head in self.heads]
        logits = torch.cat([self.model(input_ids=ids).logits[:, -1] for ids in contexts])
        ranked = allowed[logits[:, allowed].neg().sort(dim=-1, stable=True).indices].tolist()
        for round in range(8):
            k, draws = min(self.settings.top_k * 2**round, len(allowed)), draw(round)
            top = [set(ids[:k]) for ids in ranked]
            found = set.union(*(set.intersection(*(top[j] for j in rows)) for rows in draws))
            found -= set(p[t : t + 1])
            kept = [v for v in sorted(found) if self.round_trip([*p[:t], v, *p[t + 1 :]])]
            if len(kept) >= 2 * self.settings.shortlist_size or k == len(allowed):
                break
        mean = logits[sorted({j for rows in draws for j in rows})].log_softmax(-1).mean(0)
        return {v: float(mean[v]) for v in kept}

    @torch.no_grad()
    def reasonings(self, p: list[int]) -> list[list[int]]:
        """r_i of each example: greedy, to an end id (which is not part of it) or the limit."""
        found: list[list[int]] = [[] for _ in self.heads]
        for reasoning, head, tail in zip(found, self.heads, self.tails, strict=True):
            new, cache = head + p + tail, None
            while len(reasoning) < self.settings.max_new_tokens:
                out = self.model(torch.tensor([new]), past_key_values=cache, use_cache=True)
                new, cache = [int(out.logits[0, -1].argmax())], out.past_key_values
                if new[0] in self.settings.end_ids:
                    break
                reasoning += new
        return found

    def read(
        self, row: int, p: list[int], reasoning: list[int], t: int = 0, e_t: Tensor | None = None
    ) -> tuple[Tensor, Tensor, bool]:
        """CE_i of y_i at tau, prompt NLL_i, whether all of y_i are argmaxes; e_t: [D] for p_t's."""
        head, y = self.heads[row], self.answers[row]
        ids = head + p + self.tails[row] + reasoning + self.extractor_ids + y
        embeds, at = self.embed(torch.tensor(ids)), len(head) + t
        if e_t is not None:
            embeds = torch.cat([embeds[:at], e_t[None], embeds[at + 1 :]])
        logits = self.model(inputs_embeds=embeds[None], use_cache=False).logits[0, :-1]
        y_logits, p_logits = logits[-len(y) :], logits[len(head) - 1 :][: len(p)]
        ce = cross_entropy(y_logits / self.settings.temperature, torch.tensor(y))
        return ce, cross_entropy(p_logits, torch.tensor(p)), y_logits.argmax(-1).tolist() == y

    def gradient(self, p: list[int], t: int, reasonings: list[list[int]]) -> Tensor:
        """Step 2: Σ_i ∂L_i/∂ε_t, [V], with e_t = ε_t E and L_i = CE_i + lambda NLL_i."""
        matrix = self.embed(torch.tensor(self.vocab)).detach()  # E: [V, D]
        epsilon = one_hot(torch.tensor(p[t]), len(self.vocab)).to(matrix.dtype).requires_grad_()
        for row, reasoning in enumerate(reasonings):
            ce, nll, _ = self.read(row, p, reasoning, t, epsilon @ matrix)
            torch.autograd.backward(ce + self.settings.fluency_weight * nll)
        assert epsilon.grad is not None
        return epsilon.grad

    @torch.no_grad()
    def objective(self, p: list[int], reasonings: list[list[int]] | None = None) -> float:
        """Mean over i of  wrong_i + 0.02 NLL_i  ("error")  or  CE_i + lambda NLL_i  ("loss")."""
        s, total = self.settings, 0.0
        for row, reasoning in enumerate(reasonings or self.reasonings(p)):
            ce, nll, right = self.read(row, p, reasoning)
            error, loss = (not right) + s.error_fluency_weight * nll, ce + s.fluency_weight * nll
            total += float(error if s.objective == "error" else loss)
        return total / len(self.examples)

    def step(self, p: list[int], t: int, draw: Draw) -> OracleStep:
        """Propose, score by the gradient, select; t == P tries to grow the prompt by one token."""
        reasonings, likely = self.reasonings(p), self._candidates(p, t, draw)
        placeholder = max(likely, key=lambda v: (likely[v], -v), default=p[-1])
        gradient = self.gradient(p if t < len(p) else [*p, placeholder], t, reasonings)
        scores = {v: float(gradient[v]) for v in likely}
        shortlist = sorted(scores, key=lambda v: (scores[v], v))[: self.settings.shortlist_size]
        objectives, winner = self.select(p, t, shortlist, reasonings)
        return OracleStep(list(likely), scores, shortlist, objectives, winner)

    def select(
        self, p: list[int], t: int, shortlist: list[int], reasonings: list[list[int]]
    ) -> tuple[dict[tuple[int, ...], float], list[int]]:
        """Step 3: the objective of each prompt, the incumbent first; the prompt of the lowest."""
        objectives = {tuple(p): self.objective(p, reasonings)}
        for v in sorted(shortlist):
            changed = [*p[:t], v, *p[t + 1 :]]
            objectives[tuple(changed)] = self.objective(changed)
        return objectives, self.winner(objectives)

    def winner(self, objectives: dict[tuple[int, ...], float]) -> list[int]:
        """The prompt of the lowest objective, where the incumbent stands first and may compete."""
        best = self.settings.accept == "best" and len(objectives) > 1
        compete = dict(list(objectives.items())[best:])
        tied = [ids for ids, o in compete.items() if o <= min(compete.values()) + 1e-6]
        return list(tied[0])
