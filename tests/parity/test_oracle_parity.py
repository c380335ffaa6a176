"""One step of the package is one step of the oracle: candidates, scores, objectives, winner."""

import random

import pytest
import torch

from greater_fast.config import Config
from greater_fast.engine import Engine
from greater_fast.examples.data import Example
from greater_fast.examples.extractor import make_extractor
from greater_fast.examples.layout import build_layouts
from greater_fast.model.lm import LM, load_lm
from greater_fast.rollouts.choose import make_engine
from greater_fast.search.ensemble import Models
from greater_fast.search.gradient import prompt_gradient
from greater_fast.search.nouns import Position, Step
from greater_fast.search.optimizer import run, start
from greater_fast.search.propose import draw_rows, propose
from greater_fast.search.state import LoopState
from tests.languages import PROMPTS, language_tokenizer
from tests.oracle import Draw, Oracle, OracleStep, Settings
from tests.tiny import EXTRACTOR, PROMPT, boolean_rows, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:all .* training rows are:RuntimeWarning")
FAMILIES = [
    ("llama", "llama3"),
    ("gemma2", "sentencepiece"),
    ("qwen2", "llama3"),
    ("qwen3", "llama3"),
]
UNFINISHED = "Use proper logical reasoning and think"


class Case:
    """A model, rows and settings, laid out by the package and by the oracle."""

    def __init__(
        self,
        lm: LM,
        prompt: str,
        config: Config,
        num_rows: int = 4,
        letters: str = "A-Za-z",
    ) -> None:
        rows = boolean_rows(num_rows)
        self.lm, self.config = lm, config
        self.layouts = build_layouts(
            lm,
            [Example(*row) for row in rows],
            prompt,
            make_extractor(config.extractor or EXTRACTOR),
            config,
        )
        self.oracle = self.oracle_of(rows, letters)
        self.prompt_ids = self.oracle.prompt_ids(prompt)

    def oracle_of(self, rows: list[tuple[str, str]], letters: str) -> Oracle:
        """The oracle on the same rows."""
        return Oracle(
            self.lm.model,
            self.lm.tokenizer,
            rows,
            self.config.extractor or EXTRACTOR,
            settings_of(self.config, self.lm),
            self.config.prompt_placement,
            letters,
        )

    def draw(self, number: int) -> Draw:
        """The rows of a step that its proposals are drawn of."""
        return lambda again: draw_rows(len(self.layouts), number, again, self.config)

    @property
    def engine(self) -> Engine:
        """A new one of the model."""
        return make_engine(self.lm, self.config)[0]

    def search(
        self, num_steps: int = 1, index: int = 0, models: Models | None = None
    ) -> tuple[list[Step], LoopState]:
        """So many steps of the package from a place on, and the state behind them."""
        models = models or self.engine
        state = start(models, self.layouts, self.config)
        state.index = index
        steps: list[Step] = []
        keep = lambda s: bool(steps.append(s)) or len(steps) == num_steps  # noqa: E731
        run(models, self.layouts, self.config, state, keep)
        return steps, state

    def check(self, index: int) -> Step:
        """Run one step at a place in both, compare all they found, and return the package's."""
        (step,), state = self.search(index=index)
        expected = self.oracle.step(self.prompt_ids, index, self.draw(0))
        check_scores(step, expected)
        self.check_objectives(step, state, expected.objectives)
        assert list(step.prompt_ids) == expected.winner
        return step

    def check_objectives(
        self, step: Step, state: LoopState, objectives: dict[tuple[int, ...], float]
    ) -> None:
        """Those of the prompts of a step; a pruned candidate has none."""
        for prompt_ids, objective in objectives.items():
            if prompt_ids in state.scored:
                own = state.scored[prompt_ids].objective.value(self.config)
                assert own == pytest.approx(objective, rel=1e-4, abs=1e-5)
            else:
                assert objective > step.objective


def settings_of(config: Config, lm: LM) -> Settings:
    """The oracle's, from the package's."""
    return Settings(
        top_k=config.top_k,
        shortlist_size=config.shortlist_size,
        temperature=config.temperature,
        fluency_weight=config.fluency_weight,
        error_fluency_weight=config.error_fluency_weight,
        max_new_tokens=config.max_new_tokens,
        objective=config.objective,
        end_ids=lm.end_ids,
        accept=config.accept,
    )


def check_scores(step: Step, expected: OracleStep) -> None:
    """Candidates, shortlist and scores."""
    assert list(step.candidate_ids) == expected.candidates
    assert [t.token_id for t in step.trials] == expected.shortlist
    for trial in step.trials:
        assert trial.score == pytest.approx(expected.scores[trial.token_id], rel=1e-3, abs=1e-5)


def tiny_lm(family: str, kind: str, seed: int = 0) -> LM:
    tokenizer = tiny_tokenizer(kind)
    return load_lm((tiny_model(family, len(tokenizer), seed=seed), tokenizer))


def config(**settings: object) -> Config:
    return Config.from_mapping({"max_new_tokens": 10, "num_proposal_examples": 2, **settings})


@pytest.mark.parametrize(("family", "kind"), FAMILIES)
@pytest.mark.parametrize(
    ("objective", "engine"), [("error", "paged"), ("loss", "paged"), ("loss", "generate")]
)
def test_a_step_equals_the_oracles(family: str, kind: str, objective: str, engine: str) -> None:
    case = Case(tiny_lm(family, kind), PROMPT, config(objective=objective, engine=engine))
    assert list(case.layouts.prompt_ids) == case.prompt_ids
    middle = len(case.prompt_ids) // 2
    for index in (0, middle, len(case.prompt_ids) - 1):
        assert case.check(index).trials


@pytest.mark.parametrize(("family", "kind"), FAMILIES)
def test_growth_equals_the_oracles(family: str, kind: str) -> None:
    case = Case(tiny_lm(family, kind), UNFINISHED, config(objective="loss"))
    step = case.check(len(case.prompt_ids))
    assert step.grows
    assert step.trials


@pytest.mark.parametrize(("family", "kind"), FAMILIES[:2])
def test_prompt_before_the_question_equals_the_oracles(family: str, kind: str) -> None:
    case = Case(tiny_lm(family, kind), PROMPT, config(prompt_placement="before", objective="loss"))
    for index in (0, 5):
        case.check(index)


@pytest.mark.parametrize(
    ("language", "letters"), [("german", "A-Za-zÀ-ÖØ-öø-ɏ"), ("russian", "Ѐ-ӿ")]
)
@pytest.mark.parametrize("kind", ["llama3", "sentencepiece"])
def test_steps_in_other_languages_equal_the_oracles(kind: str, language: str, letters: str) -> None:
    tokenizer = language_tokenizer(kind, *PROMPTS)
    lm = load_lm((tiny_model("llama", len(tokenizer)), tokenizer))
    case = Case(lm, PROMPTS[language], config(objective="loss"), 3, letters)
    places = [i for i in range(9) if not case.layouts.cuts_a_character(case.prompt_ids[i])]
    for index in (places[1], places[4]):
        step = case.check(index)
        assert step.index == index
        assert step.trials


@pytest.mark.parametrize(("family", "kind"), FAMILIES[:2])
def test_no_word_comes_twice_and_the_oracle_agrees(family: str, kind: str) -> None:
    case = Case(tiny_lm(family, kind), PROMPT, config(objective="loss", top_k=300))
    words = [case.lm.vocabulary.text([i]).strip().casefold() for i in case.prompt_ids]
    for index in (2, len(words) - 2):
        step = case.check(index)
        found = {case.lm.vocabulary.text([i]).strip().casefold() for i in step.candidate_ids}
        assert len(found) > 50
        assert not found & {words[index - 1], words[index + 1], ""}


@pytest.mark.parametrize(("family", "kind"), FAMILIES[:3])
@pytest.mark.parametrize("index", [0, 4])
def test_every_one_hot_gradient_equals_autograd(family: str, kind: str, index: int) -> None:
    case = Case(tiny_lm(family, kind), PROMPT, config(gradient_batch_tokens=200))
    engine = case.engine
    state = start(engine, case.layouts, case.config)
    position = Position(0, index, case.layouts.prompt_ids)
    rollouts = state.incumbent.rollouts
    gradient = prompt_gradient(engine, case.layouts, rollouts, position, case.config)
    own = case.lm.embed(torch.arange(case.lm.vocab_size)) @ gradient
    expected = case.oracle.gradient(
        case.prompt_ids, index, [list(r.reasoning_ids) for r in rollouts]
    )
    torch.testing.assert_close(own, expected, rtol=1e-3, atol=1e-5)


def test_reasonings_equal_the_oracles() -> None:
    case = Case(tiny_lm("llama", "llama3", seed=3), PROMPT, config(max_new_tokens=24))
    engine = case.engine
    rollouts = start(engine, case.layouts, case.config).incumbent.rollouts
    expected = case.oracle.reasonings(case.prompt_ids)
    assert [list(r.reasoning_ids) for r in rollouts] == expected


@pytest.mark.parametrize("accept", ["improve", "best"])
def test_drawn_shortlists_are_the_oracles(accept: str) -> None:
    """Of the proposals, by seed and step, without any score; all else as by the gradient."""
    given = config(shortlist="random", objective="loss", accept=accept)
    case = Case(tiny_lm("llama", "llama3"), PROMPT, given)
    p, oracle = case.prompt_ids, case.oracle
    steps, state = case.search(3, index=5)
    for number, step in enumerate(steps):
        candidates = oracle.propose(p, step.index, case.draw(number))
        source = random.Random(f"0/shortlist/{number}")
        drawn = source.sample(candidates, len(candidates))[:3]
        assert list(step.candidate_ids) == candidates
        assert [t.token_id for t in step.trials] == sorted(drawn)
        assert {t.score for t in step.trials} == {None}
        objectives, winner = oracle.select(p, step.index, drawn, oracle.reasonings(p))
        case.check_objectives(step, state, objectives)
        p = winner
        assert list(step.prompt_ids) == p
    assert len(steps) == 3


def test_proposals_widen_until_enough_survive() -> None:
    case = Case(tiny_lm("llama", "llama3"), PROMPT, config(top_k=1, shortlist_size=4, num_draws=1))
    position = Position(7, 3, case.layouts.prompt_ids)
    found = propose(case.engine, case.layouts, position, case.config)
    assert list(found.ids) == case.oracle.propose(case.prompt_ids, 3, case.draw(7))
    assert found.top_k > 1
    assert len(found.ids) >= 8


def test_a_second_step_follows_from_the_first() -> None:
    """The loop goes on from the winner with its rollouts; the oracle regenerates everything."""
    case = Case(tiny_lm("qwen3", "llama3"), PROMPT, config(objective="loss"))
    steps, _ = case.search(3)
    prompt_ids = case.prompt_ids
    for number, step in enumerate(steps):
        expected = case.oracle.step(prompt_ids, step.index, case.draw(number))
        assert [t.token_id for t in step.trials] == expected.shortlist
        prompt_ids = expected.winner
        assert list(step.prompt_ids) == prompt_ids
    assert len(steps) == 3


@pytest.mark.model
@pytest.mark.parametrize("engine", ["paged", "generate"])
def test_a_step_of_smollm2_equals_the_oracles(smollm2: LM, engine: str) -> None:
    given = config(objective="loss", engine=engine, max_new_tokens=6, num_draws=2)
    assert Case(smollm2, PROMPT, given, num_rows=3).check(4).trials
