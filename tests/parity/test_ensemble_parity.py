"""Steps of two models: as one's where they are alike, else as a plain reading of the rule says."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from greater_fast.config import Config
from greater_fast.examples.layout import Layouts
from greater_fast.model.lm import LM, load_lm
from greater_fast.rollouts.choose import make_engine
from greater_fast.search.ensemble import Ensemble, Models
from greater_fast.search.nouns import WORK_FIELDS, Step
from greater_fast.search.optimizer import run, start
from greater_fast.search.propose import draw_rows
from greater_fast.search.state import LoopState
from tests.cases import layouts_of, tiny_lm, tokenizer
from tests.oracle import Oracle, OracleStep
from tests.parity.test_oracle_parity import settings_of
from tests.tiny import EXTRACTOR, PROMPT, boolean_rows, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:all .* training rows are:RuntimeWarning")
NUM_ROWS = 3


def ensemble(lms: list[LM], config: Config) -> Ensemble:
    return Ensemble([make_engine(lm, config)[0] for lm in lms])


def searched(
    models: Models, layouts: Layouts, config: Config, state: LoopState | None = None
) -> tuple[list[dict[str, Any]], LoopState]:
    """The log of a search without what differs from run to run, and its state."""
    state = state or start(models, layouts, config)
    steps: list[dict[str, Any]] = []
    run(models, layouts, config, state, lambda step: steps.append(step.to_dict()))
    for step in steps:
        for name in WORK_FIELDS:
            del step[name]
    return steps, state


def without_scores(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """First-order scores of several models are in other units."""
    for step in steps:
        step["trials"] = [{**trial, "score": None} for trial in step["trials"]]
    return steps


def settings(**given: Any) -> Config:
    small = {"max_new_tokens": 8, "num_proposal_examples": 2, "num_draws": 2, "steps": 3}
    return Config.from_mapping({**small, **given})


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"objective": "loss", "accept": "best"},
        {"engine": "generate", "objective": "loss"},
        {"candidates": "both", "sampling_temperature": 0.7},
        {"gradient": "both", "objective": "loss"},
        {"gradient": "reasoning", "reasonings": "sampled"},
    ],
    ids=lambda given: "-".join(map(str, given.values())) or "default",
)
def test_two_copies_search_as_one(given: dict[str, Any]) -> None:
    config, lm = settings(**given), tiny_lm()
    layouts = layouts_of(lm, NUM_ROWS)
    alone, state = searched(make_engine(lm, config)[0], layouts, config)
    twice, twice_state = searched(ensemble([lm, lm], config), layouts, config)
    assert without_scores(twice) == without_scores(alone)
    assert any(step["trials"] for step in alone)
    assert twice_state.given_up == state.given_up
    assert twice_state.incumbent.rollouts == 2 * state.incumbent.rollouts
    assert [s.objective.value(config) for s in twice_state.scored.values()] == [
        s.objective.value(config) for s in state.scored.values()
    ]


class Pair:
    """Two models and rows, laid out by the package and by an oracle of each."""

    def __init__(self, lms: list[LM], config: Config, prompt: str = PROMPT) -> None:
        self.config, self.models = config, ensemble(lms, config)
        self.layouts = layouts_of(min(lms, key=lambda lm: lm.vocab_size), NUM_ROWS, prompt)
        first = Oracle(
            lms[0].model,
            lms[0].tokenizer,
            boolean_rows(NUM_ROWS),
            EXTRACTOR,
            settings_of(config, lms[0]),
        )
        self.oracles = [first]
        for lm in lms[1:]:  # texts and ids are the first one's
            other = copy.copy(first)
            other.model, other.embed = lm.model, lm.model.get_input_embeddings()
            other.vocab = range(other.embed.weight.shape[0])
            other.settings = replace(first.settings, end_ids=lm.end_ids)
            self.oracles.append(other)
        self.prompt_ids = self.oracles[0].prompt_ids(prompt)

    def step(self, index: int) -> tuple[Step, LoopState]:
        """One step of the package at a place."""
        state = start(self.models, self.layouts, self.config)
        state.index = index
        steps: list[Step] = []
        keep: Callable[[Step], bool] = lambda step: bool(steps.append(step)) or True  # noqa: E731
        run(self.models, self.layouts, self.config, state, keep)
        return steps[0], state

    @torch.no_grad()
    def candidates(self, p: list[int], t: int) -> list[int]:
        """Union over draws of the intersection over rows and models of the top k."""
        first = self.oracles[0]
        beside = {first.words[v] for v in [*p[max(t - 1, 0) : t], *p[t + 1 : t + 2]]}
        allowed = [v for v in sorted(first.allowed) if first.words[v] not in beside]
        tops: list[list[list[int]]] = []  # of each model, of each row
        for oracle in self.oracles:
            tops.append([])
            for head in oracle.heads:
                logits = oracle.model(input_ids=torch.tensor([head + p[:t]])).logits[0, -1]
                order = logits[allowed].neg().sort(stable=True).indices.tolist()
                tops[-1].append([allowed[i] for i in order])
        kept: list[int] = []
        for number in range(8):
            k = min(self.config.top_k * 2**number, len(allowed))
            agreed: set[int] = set()
            for rows in draw_rows(NUM_ROWS, 0, number, self.config):
                agreed |= set(allowed).intersection(
                    *(set(top[j][:k]) for top in tops for j in rows)
                )
            kept = [
                v for v in sorted(agreed - {p[t]}) if first.round_trip([*p[:t], v, *p[t + 1 :]])
            ]
            if len(kept) >= 2 * self.config.shortlist_size or k == len(allowed):
                break
        return kept

    def scores(self, p: list[int], t: int, reasonings: list[list[list[int]]]) -> dict[int, float]:
        """Candidates with the sum of the models' scores, by autograd."""
        candidates, allowed = self.candidates(p, t), sorted(self.oracles[0].allowed)
        scores = dict.fromkeys(candidates, 0.0)
        for oracle, own in zip(self.oracles, reasonings, strict=True):
            gradient = oracle.gradient(p, t, own).double()
            spread = gradient[allowed].std(correction=0)
            for v in candidates:
                scores[v] += float(gradient[v] / spread)
        return scores

    def expected(self, p: list[int], t: int) -> OracleStep:
        """The step by plain transformers and autograd, one model after the other."""
        scores = self.scores(p, t, [oracle.reasonings(p) for oracle in self.oracles])
        shortlist = sorted(scores, key=lambda v: (scores[v], v))[: self.config.shortlist_size]
        prompts = [p, *([*p[:t], v, *p[t + 1 :]] for v in sorted(shortlist))]
        objectives = {
            tuple(ids): sum(oracle.objective(ids) for oracle in self.oracles) / len(self.oracles)
            for ids in prompts
        }
        tied = [ids for ids, o in objectives.items() if o <= min(objectives.values()) + 1e-6]
        return OracleStep(list(scores), scores, shortlist, objectives, list(tied[0]))


def padded(rows: int) -> LM:
    """A model with more embeddings than its tokenizer has ids."""
    vocabulary = tokenizer("llama3")
    return load_lm((tiny_model("qwen2", len(vocabulary) + rows, seed=5), vocabulary))


@pytest.mark.parametrize(
    ("other", "given"),
    [
        (lambda: tiny_lm("llama", seed=1), {"objective": "error"}),
        (lambda: tiny_lm("qwen2"), {"objective": "loss"}),
        (lambda: tiny_lm("qwen3"), {"objective": "loss", "engine": "generate"}),
        (lambda: padded(64), {"objective": "loss"}),
    ],
    ids=["llama", "qwen2", "generate", "padded"],
)
def test_a_step_of_two_models_is_that_of_the_oracles(
    other: Callable[[], LM], given: dict[str, Any]
) -> None:
    config = settings(**given, steps=1)
    pair = Pair([tiny_lm(), other()], config)
    for index in (0, 7):
        step, state = pair.step(index)
        expected = pair.expected(pair.prompt_ids, index)
        assert list(step.candidate_ids) == expected.candidates
        assert [t.token_id for t in step.trials] == expected.shortlist
        assert list(step.prompt_ids) == expected.winner
        for trial in step.trials:
            assert trial.score == pytest.approx(expected.scores[trial.token_id], rel=1e-3, abs=1e-4)
        assert step.trials
        for prompt_ids, objective in expected.objectives.items():
            if prompt_ids in state.scored:
                own = state.scored[prompt_ids].objective.value(config)
                assert own == pytest.approx(objective, rel=1e-4, abs=1e-5)
            else:
                assert objective > step.objective


def test_the_order_of_models_changes_nothing_but_rounding() -> None:
    config, lms = settings(objective="loss"), [tiny_lm(), tiny_lm("qwen2")]
    found = [
        searched(ensemble(order, config), layouts_of(lms[0], NUM_ROWS), config)[0]
        for order in (lms, lms[::-1])
    ]
    assert [step["prompt_ids"] for step in found[0]] == [step["prompt_ids"] for step in found[1]]


def test_a_search_goes_on_from_a_state_that_was_written_down() -> None:
    config, lms = settings(objective="loss", steps=4), [tiny_lm(), tiny_lm("llama", seed=1)]
    layouts = layouts_of(lms[0], NUM_ROWS)
    whole, end = searched(ensemble(lms, config), layouts, config)
    half = settings(objective="loss", steps=2)
    first, state = searched(ensemble(lms, half), layouts, half)
    state = LoopState.from_dict(state.to_dict())
    assert len(state.incumbent.rollouts) == 2 * NUM_ROWS
    rest, again = searched(ensemble(lms, config), layouts, config, state)
    assert first + rest == whole
    assert again.to_dict() == end.to_dict()


@pytest.mark.model
def test_smollm2_beside_a_perturbed_copy(smollm2: LM) -> None:
    """One step of two models that differ, by the rule's plain reading."""
    model = copy.deepcopy(smollm2.model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.add_(0.02 * weight.std() * noise)
    other = load_lm((model, smollm2.tokenizer))
    config = settings(objective="loss", max_new_tokens=6, steps=1)
    pair = Pair([smollm2, other], config)
    step, state = pair.step(4)
    p = pair.prompt_ids
    reasonings = [oracle.reasonings(p) for oracle in pair.oracles]
    scores = pair.scores(p, 4, reasonings)
    assert list(step.candidate_ids) == list(scores)
    expected = sorted(scores, key=lambda v: (scores[v], v))[: config.shortlist_size]
    assert [t.token_id for t in step.trials] == expected
    own = [o.objective(p, rs) for o, rs in zip(pair.oracles, reasonings, strict=True)]
    found = state.scored[tuple(p)].objective.value(config)
    assert found == pytest.approx(sum(own) / 2, rel=1e-3)
    assert own[0] != pytest.approx(own[1], rel=1e-3)
