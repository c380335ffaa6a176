"""An arm of `peers`: GReaTer or one of promptolution's, until its budget is spent."""

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from promptolution.optimizers import CAPO, OPRO, EvoPromptGA
from promptolution.optimizers.base_optimizer import BaseOptimizer
from promptolution.tasks import ClassificationTask
from promptolution.utils.callbacks import BaseCallback
from promptolution.utils.prompt import Prompt

from benchmarks.evidence.effect_cells import (
    MOST_IDLE_STEPS,
    NOTHING_NEW,
    Cell,
    Cost,
    Outcome,
    Settings,
)
from benchmarks.evidence.peers.predictor import AskedAnswer
from benchmarks.gpu.main import commit
from benchmarks.harness.machine import machine
from greater_fast.api import DEFAULT_PROMPT
from greater_fast.config import Config
from greater_fast.engine import Engine
from greater_fast.examples.answers import answers_match
from greater_fast.examples.data import Example
from greater_fast.examples.layout import SPARE_ANSWER_TOKENS
from greater_fast.examples.splits import Splits
from greater_fast.examples.tasks import TASKS
from greater_fast.front_ends.promptolution import GReaTer, GreaterLLM
from greater_fast.model.lm import LM
from greater_fast.runs.prepare import choose_extractor

ARMS = {
    "initial": "first prompt",
    "given": "best of the ten given",
    "greater": "GReaTer",
    "capo": "CAPO",
    "opro": "OPRO",
    "evoprompt": "EvoPrompt (GA)",
}
SEARCHES = ("greater", "capo", "opro", "evoprompt")  # these end with the budget
GIVEN = (
    DEFAULT_PROMPT,
    "Let's think step by step.",
    "Read the question carefully, then solve it step by step.",
    "Work the problem out in small steps, and check each of them.",
    "First write down what is known, then find the answer.",
    "Explain your reasoning briefly, and end with the answer.",
    "Solve the task below and show how you came to the result.",
    "You are careful and exact. Answer the question.",
    "Break the question into parts, answer each part, then give the result.",
    "Think about the question, and say what the right answer is.",
)
_POOL_BYTES = 1 << 30  # of each engine's keys and values
_MOST_STEPS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSettings(Settings):
    """What all cells share. A block is what OPRO and EvoPrompt evaluate on, and CAPO races over."""

    num_train: int = 120
    num_dev: int = 80
    num_searched: int = 50
    num_block: int = 30
    max_meta_tokens: int = 256
    meta_temperature: float = 0.7

    def asked(self, seed: int) -> Config:
        """Settings of a search, without what promptolution decides: steps, and rows that judge."""
        config, unset = self.config("greater", seed), Config()
        own = replace(config, steps=unset.steps, num_dev=unset.num_dev)
        return replace(own, kv_cache_bytes=_POOL_BYTES)


class Search(GReaTer):
    """GReaTer without the evaluation at its end: development rows decide for all arms alike."""

    @property
    def num_begun(self) -> int:
        """How many of the given prompts the search may begin with."""
        return len(self._begun)

    def _on_train_end(self) -> None:
        BaseOptimizer._on_train_end(self)


class Spending(BaseCallback):
    """Ends an optimizer once the budget is spent."""

    def __init__(self, bench: "Bench", budget: float) -> None:
        self._bench, self._budget = bench, budget
        self.num_steps, self._num_idle, self._seen = 0, 0, bench.spent
        self.stopped = ""

    def on_step_end(self, optimizer: BaseOptimizer) -> bool:
        """Whether another step may begin."""
        self.num_steps += 1
        spent = self._bench.spent
        self._num_idle = 0 if spent > self._seen else self._num_idle + 1
        self._seen = spent
        if spent >= self._budget:
            self.stopped = "budget spent"
        elif self._num_idle >= MOST_IDLE_STEPS:
            self.stopped = NOTHING_NEW
        return not self.stopped


@dataclass(slots=True, repr=False)
class Bench:
    """A model that answers and, sampling, proposes; made once for all cells of a process."""

    lm: LM
    settings: PeerSettings
    llm: GreaterLLM = field(init=False)
    meta: GreaterLLM = field(init=False)
    _engines: list[Engine] = field(init=False)
    _begun: Cost = field(default_factory=Cost)

    def __post_init__(self) -> None:
        config = self.settings.asked(0)
        self.llm = GreaterLLM(self.lm, config)
        self.meta = GreaterLLM(
            self.lm,
            replace(
                config,
                max_new_tokens=self.settings.max_meta_tokens,
                sampling_temperature=self.settings.meta_temperature,
            ),
        )
        self._engines = [self.llm.engine, self.meta.engine]

    @property
    def spent(self) -> int:
        """Tokens generated since `begin`."""
        return self.cost().tokens

    def begin(self, *others: Engine) -> None:
        """From now on costs are counted: of the two models, and of an arm's own engine."""
        self._engines = [self.llm.engine, self.meta.engine, *others]
        self._begun = Cost()
        self._begun = self.cost()

    def cost(self) -> Cost:
        """What was spent since `begin`."""
        return Cost(
            tokens=sum(e.num_generated_tokens for e in self._engines) - self._begun.tokens,
            forward_tokens=sum(e.num_forward_tokens for e in self._engines)
            - self._begun.forward_tokens,
            seconds=time.perf_counter() - self._begun.seconds,
        )

    def check_given(self, cell: Cell) -> None:
        """See that GReaTer can begin with all of the given prompts.

        Raises:
            ValueError: it cannot, with this model's tokenizer.
        """
        problem = Place(self, cell).problem_of_given()
        if problem:
            raise ValueError(
                f"model: {problem}. All arms begin with the same ten, and these end in a full "
                "stop before a line break, which Llama 3 and Qwen have one token for: take another "
                "model, or leave greater out of --arms"
            )

    def run(self, cell: Cell) -> Outcome:
        """Search with an arm, choose on the development rows, test."""
        place = Place(self, cell)
        entrants: list[Prompt] = [Prompt(GIVEN[0])]
        outcome = Outcome(prompt="", rows="", commit=commit(), machine=machine())
        if cell.arm != "initial":
            found, told = place.search()
            outcome = replace(outcome, search=self.cost(), **told)
            entrants = list(dict.fromkeys([*entrants, *found]))
            self.begin()
            scores = place.scores(entrants, place.splits.dev).mean(axis=1)
            outcome = replace(outcome, finals=self.cost())
            entrants = [entrants[int(np.argmax(scores))]]  # of equals the first prompt, as optimize
        rows = place.scores(entrants, place.splits.test)[0]
        shown = "".join("1" if value else "0" for value in rows)
        return replace(outcome, prompt=entrants[0].construct_prompt(), rows=shown)


class Place:
    """A task's rows for one seed, and an arm on them."""

    def __init__(self, bench: Bench, cell: Cell) -> None:
        self._bench, self._cell = bench, cell
        self.splits: Splits = bench.settings.splits(cell.task, cell.seed)
        searched = (*self.splits.train, *self.splits.dev)
        config = bench.settings.config("greater", cell.seed)
        extractor = choose_extractor(config, searched, self.splits.test)
        ids = bench.lm.vocabulary.ids
        longest = max(len(ids(extractor.answer_in_place(row.answer))) for row in searched)
        self.predictor = AskedAnswer(bench.llm, extractor, longest + SPARE_ANSWER_TOKENS)

    def search(self) -> tuple[list[Prompt], Mapping[str, Any]]:
        """The arm's best prompts, the best first, and how it went."""
        settings, given = self._bench.settings, [Prompt(text) for text in GIVEN]
        random.seed(self._cell.seed)
        np.random.seed(self._cell.seed)  # promptolution draws from both
        self._bench.meta.set_generation_seed(self._cell.seed * 1_000_000)
        task = self._task(self.splits.train, "sequential_block")
        if self._cell.arm == "given":
            self._bench.begin()
            scores = task.evaluate(given, self.predictor, eval_strategy="full").agg_scores
            order = sorted(range(len(given)), key=lambda number: -scores[number])
            best = [given[number] for number in order[: settings.num_finalists]]
            return best, {"stopped": "all are evaluated", "num_candidates": len(given) - 1}
        optimizer = self._optimizer(task, given)
        meta = self._bench.meta.engine
        self._bench.begin(*([optimizer.engine] if isinstance(optimizer, Search) else []))
        meta_before = meta.num_generated_tokens
        rule = Spending(self._bench, self._cell.budget.amount)
        optimizer.callbacks.append(rule)
        prompts = optimizer.optimize(n_steps=_MOST_STEPS)
        if not rule.stopped:  # promptolution logs what ended a step, and goes on
            raise RuntimeError(f"{self._cell}: a step failed after {rule.num_steps}; see the log")
        meta_tokens = meta.num_generated_tokens - meta_before
        ranked = sorted(
            zip(prompts, optimizer.scores, strict=True), key=lambda pair: -float(pair[1])
        )
        told = {
            "num_steps": rule.num_steps,
            "num_candidates": _num_tried(optimizer, task) - 1,
            "stopped": f"{rule.stopped}; {meta_tokens:,} tokens by the meta model",
        }
        return [prompt for prompt, _ in ranked[: settings.num_finalists]], told

    def problem_of_given(self) -> str:
        """What keeps GReaTer from beginning with all given prompts; empty if nothing does."""
        task = self._task(self.splits.train, "full")
        try:
            search = self._optimizer(task, [Prompt(text) for text in GIVEN])
        except ValueError as error:
            return str(error)
        num_begun = search.num_begun if isinstance(search, Search) else 0
        left_out = len(GIVEN) - num_begun
        return f"{left_out} of the given prompts cannot be searched from" if left_out else ""

    def scores(self, prompts: Sequence[Prompt], rows: Sequence[Example]) -> np.ndarray:
        """A 1 for each row that is right, a 0 for each other [prompts, rows]."""
        found = self._task(rows, "full").evaluate(list(prompts), self.predictor).scores
        return np.asarray(found)

    def _task(self, rows: Sequence[Example], strategy: Any) -> ClassificationTask:
        frame = pd.DataFrame({"x": [r.question for r in rows], "y": [r.answer for r in rows]})
        return ClassificationTask(
            frame,
            task_description=f"Say {TASKS[self._cell.task].description}.",
            n_subsamples=self._bench.settings.num_block,
            eval_strategy=strategy,
            seed=self._cell.seed,
            metric=lambda golds, answers: float(answers_match(answers[0], golds[0])),
        )

    def _optimizer(self, task: ClassificationTask, given: list[Prompt]) -> BaseOptimizer:
        settings, asked = self._bench.settings, (self.predictor, task)
        if self._cell.arm == "greater":
            config = replace(
                settings.asked(self._cell.seed),
                num_train=settings.num_searched,
                extractor=self.predictor.extractor.in_config(),
            )
            return Search(*asked, config=config, initial_prompts=given)
        peer = {"capo": CAPO, "opro": OPRO, "evoprompt": EvoPromptGA}[self._cell.arm]
        return peer(*asked, meta_llm=self._bench.meta, initial_prompts=given)


def _num_tried(optimizer: BaseOptimizer, task: ClassificationTask) -> int:
    """How many prompts an arm has tried on some of the rows, given ones among them."""
    if isinstance(optimizer, Search):
        return len(GIVEN) - 1 + optimizer.num_tried
    return len({prompt for prompt, *_ in task.eval_cache})
