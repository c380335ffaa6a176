"""The frozen settings of a run, validated once, problems named together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from greater_fast.config_checks import as_in_json, guess, problem_of
from greater_fast.wording import shortened

KV_CACHE_BYTES = 2 << 30  # of the K/V pool without a plan, and on a CPU at most
_NUM_PROBLEMS, _NUM_UNKNOWN = 8, 4  # that one message names
CHOICES: dict[str, tuple[str | None, ...]] = {
    "objective": ("error", "loss"),
    "accept": ("improve", "best"),
    "shortlist": ("gradient", "random"),
    "gradient": ("answer", "reasoning", "both"),
    "reasonings": ("stored", "sampled"),
    "candidates": ("lm", "vocabulary", "both"),
    "allowed": ("prompt", "ascii"),
    "prompt_placement": ("after", "before"),
    "on_long": ("error", "drop"),
    "engine": ("auto", "paged", "generate"),
    "kernels": ("auto", "triton", "reference"),
    "gradient_norm": ("none", "example"),
    "metric": (None, "exact", "numeric", "contains", "choice"),
    "gradient_checkpointing": ("auto", "on", "off"),
    "dtype": (None, "float32", "bfloat16", "float16", "float64"),
}

# What `Config.paper` sets: the method as it was published, whatever the defaults become. Sizes
# that it leaves open (of a grown prompt, of the finals) are as they were, and what is ours is off.
PAPER: dict[str, Any] = {
    "steps": 105,
    "top_k": 10,
    "num_proposal_examples": 5,
    "num_draws": 5,
    "shortlist_size": 3,
    "accept": "best",
    "stop_unchanged": False,
    "shortlist": "gradient",
    "gradient": "answer",
    "candidates": "lm",
    "allowed": "ascii",
    "temperature": 0.2,
    "fluency_weight": 0.2,
    "error_fluency_weight": 0.02,
    "sampling_temperature": 0.0,
    "max_new_tokens": 512,
    "max_prompt_tokens": 128,
    "prompt_placement": "after",
    "metric": None,
    "num_train": 50,
    "num_dev": 100,
    "num_finalists": 10,
    "gradient_norm": "none",
    "race": 0.0,
}


def _setting(default: Any, text: str, low: float | None = None, high: float | None = None) -> Any:
    return field(default=default, metadata={"help": text, "low": low, "high": high})


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of the method (paper, section 3); as it was published they are `Config.paper()`.

    Raises:
        ValueError: values have the wrong type or lie out of range; the first few are named.
    """

    steps: int = _setting(
        105, "steps at most, one prompt position each; 0: the initial prompt alone", 0
    )
    top_k: int = _setting(10, "next tokens proposed by an example (k of the paper)", 1)
    num_proposal_examples: int = _setting(5, "examples that must agree on a candidate (q)", 1)
    num_draws: int = _setting(
        5, "draws of that many examples, whose agreements are pooled", 1, 10_000
    )
    shortlist_size: int = _setting(3, "candidates whose reasoning is regenerated (mu)", 1)
    objective: str = _setting(
        "error", "error: answer error rate + a little fluency; loss: the paper's loss"
    )
    accept: str = _setting(
        "improve", "improve: the incumbent competes; best: the best candidate replaces it always"
    )
    stop_unchanged: bool = _setting(
        True, "a whole sweep of the prompt without a change ends the search"
    )
    shortlist: str = _setting(
        "gradient",
        "gradient: lowest scores first; random: drawn, without any gradient (the control)",
    )
    gradient: str = _setting(
        "answer",
        "answer: of the answer's loss, the reasoning held fixed (paper); reasoning: of how likely "
        "right reasonings are, and wrong ones; both: their sum, each at length 1",
    )
    reasoning_weight: float = _setting(1.0, "weight of the reasoning's gradient in both", 0.0)
    num_reasonings: int = _setting(4, "reasonings of a row in the reasoning's gradient", 2, 64)
    reasonings: str = _setting(
        "stored",
        "which they are: stored ones of the prompts scored so far, or sampled for each step from "
        "the prompt as it is, at temperature 1",
    )
    candidates: str = _setting(
        "lm",
        "lm: the shortlist is of the model's proposals; vocabulary: of all allowed tokens, by "
        "gradient alone; both: of each by turns",
    )
    allowed: str = _setting(
        "prompt",
        "prompt: candidates are words and marks of the scripts that the prompt uses; ascii: "
        "unaccented Latin letters, full stops and commas (paper)",
    )
    temperature: float = _setting(0.2, "divides the answer's logits in the loss (tau)", 1e-3, 1e3)
    fluency_weight: float = _setting(0.2, "weight of the prompt NLL in the loss (lambda)", 0.0)
    error_fluency_weight: float = _setting(
        0.02, "weight of the prompt NLL beside the error rate", 0.0
    )
    sampling_temperature: float = _setting(
        0.0,
        "of all text generated, evaluation's answers too; 0 takes the likeliest token, and the "
        "same seed samples the same",
        0.0,
        1e3,
    )
    max_new_tokens: int = _setting(512, "tokens of reasoning at most", 1)
    max_prompt_tokens: int = _setting(128, "tokens the prompt may grow to", 2)
    num_train: int = _setting(50, "training rows used (N)", 2)
    num_dev: int = _setting(100, "development rows used", 1)
    num_finalists: int = _setting(10, "best prompts scored on the development rows", 1)
    prompt_placement: str = _setting("after", "the prompt stands after or before the question")
    extractor: str | None = _setting(
        None, "text that asks for the answer after the reasoning; derived from the answers if unset"
    )
    template: str | None = _setting(
        None,
        "what a row's question is: text with columns in braces, as '{passage}\\n{question}'; the "
        "question with what is known to belong to it if unset",
    )
    system_prompt: str | None = _setting(None, "system message, where the template takes one")
    chat_template_kwargs: Mapping[str, Any] = field(
        default_factory=dict,
        metadata={"help": "arguments of the chat template, as JSON", "low": None, "high": None},
    )
    template_date: str | None = _setting(
        None, "day that a chat template writes which writes one, as 2026-11-26; today's if unset"
    )
    on_long: str = _setting("error", "rows that do not fit the context: stop, or drop them")
    engine: str = _setting(
        "auto",
        "paged: one continuous batch over a paged K/V cache; generate: transformers' generate; "
        "auto: paged where it runs",
    )
    kernels: str = _setting(
        "auto",
        "triton: fused kernels; reference: plain torch in rollouts, losses and scores; auto: "
        "triton on a GPU, and on a CPU C++ for the model's layers and plain torch for the rest",
    )
    kv_cache_bytes: int | None = _setting(
        None,
        "memory of the paged engine's K/V pool; what the memory plan leaves for it if unset",
        1,
    )
    max_step_tokens: int | None = _setting(
        None,
        "paged: tokens of a step; measured for a GPU's kernels, else 256 if unset",
        16,
        1 << 13,  # a step has buffers for so many sequences; the gain ends far below
    )
    draft_tokens: int | None = _setting(
        None,
        "paged: guessed tokens fill a step up to this many, 0 for no guesses; by default all of a "
        "GPU's free slots, and none on a CPU (or in plain torch), where each costs as much as a "
        "token",
        0,
    )
    batch_size: int = _setting(32, "rows generated at a time by the generate engine", 1)
    gradient_norm: str = _setting(
        "none", "examples' gradients added up as they are (none), or each at length 1 (example)"
    )
    race: float = _setting(
        0.0,
        "drop a candidate once it lost so many rows to the incumbent as an equally good one does "
        "with this probability at most: sure in the first step, later a heuristic, for incumbents "
        "are chosen on the same rows (with objective error, accept improve); 0: never",
        0.0,
        0.5,
    )
    metric: str | None = _setting(
        None,
        "what a generated answer is worth, in evaluation and, by objective error, in the search: "
        "exact, equal to a gold answer; numeric, the same number; contains, it stands in it; "
        "choice, the same letter; if unset, the search wants gold answers token by token",
    )
    gradient_batch_tokens: int | None = _setting(
        None, "tokens of a gradient micro-batch at most; as memory allows if unset", 1
    )
    gradient_checkpointing: str = _setting(
        "auto", "compute layers again for the gradient: on, off, or auto, where memory demands it"
    )
    minutes: float | None = _setting(
        None,
        "minutes that a run may take in all, from loading to the test: the search ends in time for "
        "finals and test; no limit if unset",
        1e-3,
    )
    device: str | None = _setting(None, "cpu, cuda, ...; a GPU where there is one if unset")
    dtype: str | None = _setting(
        None,
        "of the weights; bfloat16 on a GPU (float16 where it has none), float32 on a CPU if unset",
    )
    tensor_parallel: bool = _setting(
        False,
        "for a model too large for one GPU: the processes that torchrun started share its weights, "
        "and each rollout, in place of dealing rows among them",
    )
    seed: int = _setting(0, "seed of splits and draws", 0)

    def __post_init__(self) -> None:
        problems = [
            problem
            for setting in dataclasses.fields(self)
            if (problem := problem_of(setting, getattr(self, setting.name), CHOICES))
        ]
        if not problems and self.race and (reason := self._why_no_race()):
            problems = [f"race: got {self.race} with {reason}, or race 0"]
        if not problems and self.draws_reasonings and self.sampling_temperature not in (0, 1):
            problems = [
                f"reasonings: got 'sampled', which is at temperature 1, with sampling_temperature "
                f"{self.sampling_temperature}, expected 0 or 1"
            ]
        if problems:
            few, more = problems[:_NUM_PROBLEMS], len(problems) - _NUM_PROBLEMS
            text = "; ".join([*few, *([f"{more} more"] if more > 0 else [])])
            raise ValueError(f"invalid settings: {text}")
        object.__setattr__(self, "chat_template_kwargs", as_in_json(self.chat_template_kwargs))

    @property
    def takes_gradients(self) -> bool:
        """Whether candidates are ranked by gradients: a random shortlist needs none."""
        return self.shortlist == "gradient"

    @property
    def asks_for_reasonings(self) -> bool:
        """Whether candidates are ranked by a gradient that has the reasoning's part in it."""
        return self.takes_gradients and self.gradient != "answer"

    @property
    def draws_reasonings(self) -> bool:
        """Whether reasonings are sampled for it, step by step."""
        return self.asks_for_reasonings and self.reasonings == "sampled"

    def _why_no_race(self) -> str | None:
        """What keeps candidates from racing the incumbent, and what is expected instead."""
        if self.objective != "error":
            return f"objective '{self.objective}', expected 'error': rows that are right or wrong"
        if self.accept != "improve":
            return f"accept '{self.accept}', where no incumbent competes, expected 'improve'"
        return None

    @classmethod
    def paper(cls, objective: str = "error", **others: Any) -> Config:
        """The released code's rule, or with objective "loss" that of the paper's text.

        `others` are further settings, or take the place of the rule's. What the released code gets
        wrong is left out; `top_k` doubles where too few tokens agree, and development rows choose.

        Raises:
            ValueError: as `from_mapping`.
        """
        return cls.from_mapping({**PAPER, "objective": objective, **others})

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Config:
        """Settings from names and values, as a file or the shell gives them.

        Raises:
            ValueError: a name is unknown (the nearest known one is suggested) or a value is wrong.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        unknown = [shortened(name) for name in values if name not in known]
        problems = [f"{name}: unknown{guess(name, known)}" for name in unknown[:_NUM_UNKNOWN]]
        if len(unknown) > _NUM_UNKNOWN:
            problems.append(f"{len(unknown) - _NUM_UNKNOWN} more are unknown")
        try:
            config = cls(**{name: value for name, value in values.items() if name in known})
        except ValueError as error:
            problems.append(str(error).removeprefix("invalid settings: "))
        if problems:
            raise ValueError(f"invalid settings: {'; '.join(problems)}")
        return config

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values, for JSON."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
