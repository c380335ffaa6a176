"""The search that the released command stands for, and what it tells and writes meanwhile."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from greater_fast.config import Config
from greater_fast.engine import Engine
from greater_fast.examples.data import Example
from greater_fast.examples.extractor import check_reads_back, derive_extractor, make_extractor
from greater_fast.examples.layout import Layouts, build_layouts
from greater_fast.front_ends.released.keys import Given
from greater_fast.front_ends.released.rows import TEST_PLACE, test_rows, training_rows
from greater_fast.ranks import join
from greater_fast.rollouts.choose import make_engine
from greater_fast.runs.evaluation import Evaluation, evaluate_prompt
from greater_fast.runs.input import checking_input
from greater_fast.runs.models.ready import load_model
from greater_fast.runs.timing.pace import Pace
from greater_fast.runs.writer import Writer
from greater_fast.search.found import Found, find_prompts
from greater_fast.search.nouns import Step
from greater_fast.search.state import LoopState
from greater_fast.wording import in_one_line, listed

_EVERY, _NUM_BEST = 15, 10
_ESTIMATED_AFTER = (0, 1, 3)  # steps: then it is told how long the rest will take
Say = Callable[[str], object]


def run(
    values: Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
    say: Say = print,
    tell: Say = lambda line: None,
) -> Found:
    """Search as the released command does, by its keys, and write its file of results.

    Args:
        values: keys of its config.
        settings: further settings by our names, which take the place of the released rule's, but
            for those of rows and extractor, which are keys'.
        say: called with each line that is told.
        tell: called with a line on how long the rest will take, before the first step and twice
            after that.

    Returns:
        The prompts found, as they stand behind ". Use": by their loss on the training rows, or
        where there are test rows, by what is right of these.

    Raises:
        ValueError: keys, rows or a model that cannot work, before any step.
    """
    with checking_input():
        given, idle = Given.of(values)
        train, test = training_rows(given), test_rows(given)
        golds = [example.answer for example in (*train, *test)]
        text = given.extractor_text
        extractor = make_extractor(text) if text.strip() else derive_extractor(golds)
        check_reads_back(extractor, golds)
        config = given.config(len(train), settings or {})
        config = replace(config, extractor=extractor.in_config())  # as it is written down
        if config.tensor_parallel or join().size > 1:
            raise ValueError(
                "this command is not for several processes (torchrun, tensor_parallel): start it "
                "as one, or search with `optimize`, which takes them"
            )
        _check_prefix(given.result_prefix)
        lm = load_model(given.model_paths[0], config)
        layouts = build_layouts(lm, train, given.control, extractor, config)
        test_layouts = build_layouts(lm, test, given.control, extractor, config) if test else None
        longest = max(own.longest_sequence(config) for own in (layouts, test_layouts or layouts))
        num_sequences = config.shortlist_size * len(layouts)
        engine, engine_note = make_engine(lm, config, longest, num_sequences)
        path = _new_path(given.result_prefix)
    log = _Log.begin(path, given, config, {"train": train, "test": test}, say)
    shared = {example.question for example in train} & {example.question for example in test}
    draws_all = "topq" in values and len(train) <= config.num_proposal_examples
    for line in (
        *([f"without effect: {listed(idle, 40)}"] if idle else []),
        *(["without effect: topq, as all rows are in each draw"] if draws_all else []),
        *([extractor.describe()] if extractor.is_derived else []),
        *layouts.notes,
        *([f"{len(shared)} questions of the test rows are in training, too"] if shared else []),
        *([f"test rows begin at {test[0].source}: {TEST_PLACE}"] if test else []),
        f"{len(train)} training rows, {len(test)} test rows; {engine_note}",
        f"results in {log.path}",
    ):
        say(line)
    judge = None if test_layouts is None else _Judge(engine, test_layouts, config, log)
    begun = time.monotonic()
    state = find_prompts(engine, layouts, replace(config, steps=0)).state
    time_left = _TimeLeft(state, layouts, test_layouts, config, tell)
    time_left.begin(time.monotonic() - begun)

    def on_step(step: Step) -> None:
        log.add(step)
        time_left.add(step)

    found = find_prompts(engine, layouts, config, on_step=on_step, judge=judge, state=state)
    log.end(found)
    return found


def _check_prefix(prefix: str) -> None:
    """Refuse a name of results whose folder cannot be written to.

    Raises:
        ValueError: it cannot.
    """
    path = Path(f"{prefix}_").expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise ValueError(f"config.result_prefix: no {path}: {in_one_line(error)}") from error


def _new_path(prefix: str) -> Path:
    """The file of results, which is empty, and of no other process: it may begin in this second."""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H:%M:%S")
    for number in itertools.count(1):
        more = f"-{number}" if number > 1 else ""
        path = Path(f"{prefix}_{stamp}{more}.json").expanduser()
        with contextlib.suppress(FileExistsError):
            path.touch(exist_ok=False)
            return path
    raise AssertionError


@dataclass(slots=True)
class _Log:
    """The lines and the file of a search: lists of a value for each step, written after each."""

    path: Path
    num_steps: int
    say: Say
    content: dict[str, Any]
    writer: Writer = field(default_factory=Writer)
    best: list[tuple[float, str]] = field(default_factory=list)
    last_told: int = 0
    begun: float = field(default_factory=time.monotonic)

    @classmethod
    def begin(
        cls,
        path: Path,
        given: Given,
        config: Config,
        rows: Mapping[str, Sequence[Example]],
        say: Say,
    ) -> _Log:
        """A new file, with what was asked for."""
        params = asdict(given)
        for name, prefix in (("train", ""), ("test", "test_")):
            params[f"{prefix}goals"] = [example.question for example in rows[name]]
            params[f"{prefix}targets"] = [example.answer for example in rows[name]]
        params["settings"] = config.to_dict()
        names = ("controls", "losses", "runtimes", "tests")
        log = cls(path, config.steps, say, {"params": params, **{name: [] for name in names}})
        log._write()
        return log

    def add(self, step: Step) -> None:
        """A finished step: its prompt, as the released code prints it."""
        control, loss, now = _as_control(step.prompt), step.objective, time.monotonic()
        self.content["controls"].append(control)
        self.content["losses"].append(loss)
        self.content["runtimes"].append(now - self.begun)
        self.begun = now
        if (loss, control) not in self.best:
            self.best = sorted([*self.best, (loss, control)])[:_NUM_BEST]
        self._write()
        best_loss, best_control = self.best[0]
        self.say(f"New Control: {control}, New Loss: {loss}")
        self.say(f"Current Loss: {loss} Best Loss: {best_loss} Best Control: {best_control}")
        if step.step % _EVERY == 0 or step.step + 1 == self.num_steps:
            self._tell_best()

    def end(self, found: Found) -> None:
        """The prompt that was chosen, and by what."""
        if self.last_told < len(self.content["controls"]):
            self._tell_best()
        by = "its loss on the training rows"
        if tests := self.content["tests"]:
            number = tests[0]["total"]
            own, first = (
                next(t["right"] for t in tests if t["control"] == _as_control(each.prompt))
                for each in (found.best, found.initial)
            )
            by = f"{own} of {number} test rows right, of which the initial one has {first}"
        self._write()
        self.say(f"Chosen Control: {_as_control(found.best.prompt)}, by {by}")

    def add_test(self, control: str, evaluation: Evaluation) -> None:
        """What is right of the test rows with a prompt."""
        right = sum(row.correct for row in evaluation.rows)
        test = {"control": control, "right": right, "total": len(evaluation.rows)}
        self.content["tests"].append(test)
        self._write()

    def _tell_best(self) -> None:
        self.last_told = len(self.content["controls"])
        self.say(f"Step:  {self.last_told - 1} Candidates:  {self.best}")

    def _write(self) -> None:
        self.writer.replace(self.path, self.content, indent=4, durable=False)


class _TimeLeft:
    """Tells how long the rest will take, as far as the initial prompt's score and steps tell."""

    def __init__(
        self,
        initial: LoopState,
        layouts: Layouts,
        test_layouts: Layouts | None,
        config: Config,
        tell: Say,
    ) -> None:
        # Where there are test rows they are what chooses, as development rows elsewhere.
        rows = (
            {"train": layouts} if test_layouts is None else {"train": layouts, "dev": test_layouts}
        )
        self._pace, self._initial, self._config = Pace(rows, config), initial, config
        self._ids, self._tell = layouts.prompt_ids, tell

    def begin(self, seconds: float) -> None:
        """The initial prompt was scored in so many seconds."""
        self._pace.add_score(self._initial.scored[self._ids], seconds)
        self._estimate(0)

    def add(self, step: Step) -> None:
        """A finished step."""
        self._pace.add_step(step, sum(step.seconds.values()))
        self._estimate(step.step + 1)

    def _estimate(self, num_done: int) -> None:
        num_left = self._config.steps - num_done
        if num_done not in _ESTIMATED_AFTER or not num_left:
            return
        estimate = self._pace.estimate(self._initial, num_left)
        # Nothing is evaluated on the training rows behind the steps, and a key says how many.
        less = {name: s for name, s in estimate.less.items() if not name.startswith("num_train")}
        estimate = replace(estimate, finals=replace(estimate.finals, train=0.0), less=less)
        self._tell(f"to go: {estimate.describe()}")


@dataclass(frozen=True, slots=True)
class _Judge:
    """What is right of the test rows, with each of some prompts."""

    engine: Engine
    layouts: Layouts
    config: Config
    log: _Log

    def __call__(self, prompts: Sequence[str]) -> list[float]:
        accuracies = []
        for prompt in prompts:
            layouts = self.layouts.with_prompt(prompt)
            found = evaluate_prompt(self.engine, layouts, layouts.prompt_ids, self.config)
            self.log.add_test(_as_control(prompt), found)
            accuracies.append(found.accuracy)
        return accuracies


def _as_control(prompt: str) -> str:
    """A prompt as the released code writes it: with the space that stands before it."""
    return f" {prompt}"
