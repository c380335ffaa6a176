import dataclasses

import numpy as np
import pytest

from benchmarks.evidence import signals
from benchmarks.evidence.chains import load, load_chains, save
from benchmarks.evidence.places import collect
from benchmarks.evidence.places.chain_state import rollouts_of
from benchmarks.evidence.places.collect import Collector, Settings, lay_out, winner_of
from benchmarks.evidence.signals import CONFIRMING
from greater_fast.config import Config
from greater_fast.engine import Rollout
from greater_fast.examples.tasks import TASKS
from greater_fast.model.lm import load_lm
from greater_fast.search.nouns import TIE, Position
from tests.tiny import tiny_model, tiny_tokenizer
from tests.unit.evidence import synthetic

SETTINGS = Settings(
    num_rows=8,
    num_selection=3,
    num_scored=6,
    num_places=3,
    num_proposals=3,
    num_lowest=2,
    max_new_tokens=4,
    num_reasonings=3,
)
TASK = "boolean_expressions"
OPTIONS = [
    f"--{name.replace('_', '-')}={value}" for name, value in dataclasses.asdict(SETTINGS).items()
]


@pytest.fixture(autouse=True)
def rows_are_right_by_what_was_written(monkeypatch):
    """A tiny model is never right; so some are, and the same reasoning always is."""
    right = property(lambda rollout: sum(rollout.reasoning_ids) % 2 == 0)
    monkeypatch.setattr(Rollout, "is_wrong", right)


@pytest.fixture(scope="module")
def lm():
    tokenizer = tiny_tokenizer("llama3")
    return load_lm((tiny_model("llama", len(tokenizer)), tokenizer))


@pytest.fixture(scope="module")
def collector(lm):
    return Collector(lm, SETTINGS, [(TASK, 1), (TASK, 5)])


@pytest.fixture
def whole(collector):
    return list(collector.places(collector.begin("tiny", TASK, 1)))[-1]


def same(first, second):
    """Whether two chains are the same to the last bit."""
    texts = [[repr(dataclasses.astuple(place)) for place in c.places] for c in (first, second)]
    return texts[0] == texts[1]


def test_a_chain_goes_on_from_any_place_as_if_it_had_not_stopped(collector, whole, tmp_path):
    assert len(whole.places) == 3
    for number in range(3):
        save(dataclasses.replace(whole, places=whole.places[: number + 1]), tmp_path / "c.xz")
        longer = [load(tmp_path / "c.xz"), *collector.places(load(tmp_path / "c.xz"))]
        assert len(longer) == 3 - number
        save(longer[-1], tmp_path / "c.xz")
        save(whole, tmp_path / "whole.xz")
        assert same(load(tmp_path / "c.xz"), load(tmp_path / "whole.xz"))


def test_rows_are_the_same_on_another_day(lm, monkeypatch):
    template = "{{ strftime_now('%d %b %Y') }} {{ messages[0]['content'] }} A:"
    monkeypatch.setattr(lm.tokenizer, "chat_template", template)
    rows = []
    for day in ("2026-03-01", "2026-03-02"):
        monkeypatch.setattr("greater_fast.examples.rendering._today", lambda day=day: day)
        rows.append(lay_out(lm, SETTINGS, TASK, 1).rows)
    assert rows[0] == rows[1]


def test_a_chain_goes_on_in_the_numbers_that_it_was_begun_in(collector, whole, tmp_path):
    begun = dataclasses.replace(whole, places=whole.places[:2])
    save(begun, tmp_path / "c.xz")
    assert load(tmp_path / "c.xz").made_on == "cpu, float32"
    other = dataclasses.replace(begun, made_on="NVIDIA H100, bfloat16")
    with pytest.raises(ValueError, match="begun on NVIDIA H100, bfloat16: got cpu, float32, on"):
        next(collector.places(other))
    unknown = dataclasses.replace(begun, made_on="")
    assert len(next(collector.places(unknown)).places) == 3


def test_places_follow_each_other_with_the_winner_kept(collector, whole):
    num_tokens = len(whole.places[0].prompt_ids)
    assert [p.index for p in whole.places] == [3, 4, 5]  # the second seed's
    later = next(collector.places(collector.begin("tiny", TASK, 5)))
    assert later.places[0].index == 15 % num_tokens
    for place, following in zip(whole.places, whole.places[1:], strict=False):
        assert following.prompt_ids == place.prompt(place.winner)
        kept = place.outcomes.of(place.winner)
        assert following.outcomes.reasonings[0] == kept.reasonings[0]
        assert (following.outcomes.is_right[0] == kept.is_right[0]).all()
        assert (
            following.prompt_ids[place.index]
            == ((place.prompt_ids[place.index], *place.candidate_ids)[place.winner])
        )


def test_candidates_are_proposals_and_the_lowest_of_the_vocabulary(whole):
    for place in whole.places:
        assert list(place.candidate_ids) == sorted(set(place.candidate_ids))
        assert place.from_lm.sum() <= SETTINGS.num_proposals
        assert place.from_vocabulary.sum() == SETTINGS.num_lowest
        assert (place.from_lm | place.from_vocabulary).all()
        assert np.isfinite(place.logprobs[place.from_lm]).all()
        shape = (SETTINGS.num_scored, len(place.candidate_ids))
        assert {scores.shape for scores in place.scores.values()} == {shape}
        assert set(place.scores) == {"answer", "stored", "sampled", "rescored", "weighted"}
    last = whole.places[-1]
    assert all(np.abs(scores).sum() > 0 for scores in last.scores.values())
    assert (last.num_effective > 0).any()
    assert last.num_effective.max() <= SETTINGS.num_reasonings


def test_the_winner_is_the_lowest_where_it_is_lower_than_the_incumbent():
    config = Config()
    for seed in range(20):
        outcomes = synthetic.chain(seed=seed, num_places=1).places[0].outcomes
        values = []
        for right, nll in zip(outcomes.is_right, outcomes.prompt_nll, strict=True):
            values.append(np.mean(~right[:9]) + 0.02 * np.mean(nll[:9]))
        expected = 0
        for number, value in enumerate(values):
            if value < values[expected] - TIE:
                expected = number
        assert winner_of(outcomes, 9, config) == expected
    nll = outcomes.prompt_nll[:1]
    twice = dataclasses.replace(
        outcomes,
        is_right=np.repeat(outcomes.is_right[:1], 2, 0),
        prompt_nll=np.concatenate([nll, nll - 1e-5]),  # lower by less than a tie
    )
    assert winner_of(twice, 9, config) == 0


def test_rollouts_come_back_from_what_was_written():
    outcomes = synthetic.chain(num_places=1, num_rows=3).places[0].outcomes.of(0)
    outcomes = dataclasses.replace(outcomes, reasonings=(((5, 6, 2), (2,), (5, 6, 7)),))
    found = rollouts_of(outcomes, {2, 3})
    assert [(r.reasoning_ids, r.end_id) for r in found] == [
        ((5, 6), 2),
        ((), 2),
        ((5, 6, 7), None),
    ]
    assert [r.answer_hits for r in found] == [(right,) for right in outcomes.is_right[0].tolist()]


def test_a_chain_goes_on_with_the_noise_that_it_was_begun_with(collector, whole, monkeypatch):
    asked = []
    for name in ("draw_reasonings", "sampled_reasonings"):
        true = getattr(collect, name)
        monkeypatch.setattr(collect, name, lambda *a, n=name, f=true: asked.append(n) or f(*a))
    begun = dataclasses.replace(whole, places=whole.places[:1])
    assert same(list(collector.places(begun))[-1], whole)
    assert asked == ["draw_reasonings"] * 2
    assert begun.settings == dataclasses.asdict(SETTINGS) | {"noise_by_place": 2}
    old, oldest = (
        dataclasses.replace(begun, settings=dataclasses.asdict(SETTINGS) | said)
        for said in ({"noise_by_place": 1}, {})
    )
    for older, draw in ((old, "draw_reasonings"), (oldest, "sampled_reasonings")):
        asked.clear()
        longer = list(collector.places(older))[-1]
        assert asked == [draw] * 2
        assert longer.settings == older.settings
    for settings in (begun.settings, old.settings, oldest.settings):
        assert SETTINGS.made(dataclasses.replace(begun, settings=settings))
        other = settings | {"num_rows": 9}
        assert not SETTINGS.made(dataclasses.replace(begun, settings=other))


def test_no_two_chains_draw_with_the_same_noise(whole):
    steps = [
        collect._step_of_draws(dataclasses.replace(whole, task=task, seed=seed), position)
        for task in TASKS
        for seed in (0, 1, CONFIRMING, CONFIRMING + 3)
        for position in (Position(number, 5, (1, 2)) for number in range(7))
    ]
    assert len(set(steps)) == len(steps)
    first = dataclasses.replace(whole, seed=3, settings={"noise_by_place": 1})
    assert collect._step_of_draws(first, Position(6, 5, (1, 2))) == 6  # as it was begun


def test_a_run_does_what_is_left_and_no_more(lm, tmp_path, monkeypatch, capsys):
    loaded = []
    monkeypatch.setattr(signals, "load_lm", lambda *_, **__: loaded.append(1) or lm)
    command = ["--model=tiny", "--tasks", TASK, f"--out={tmp_path}", *OPTIONS]
    command += ["--seeds", "0", "4"]
    signals.main([*command, "--minutes=1e-9"])  # one place is begun whatever it takes
    assert [len(chain.places) for chain in load_chains(tmp_path)] == [1]
    signals.main([*command, "--minutes=100"])
    first = load_chains(tmp_path)
    assert [(chain.seed, len(chain.places)) for chain in first] == [(0, 3), (4, 3)]
    assert capsys.readouterr().out.count("places, ") == 1 + 5 + 2  # of each place, and two tables
    signals.main([*command, "--minutes=100"])
    assert len(loaded) == 2
    assert all(map(same, load_chains(tmp_path), first))
    with pytest.raises(ValueError, match="has other settings"):
        signals.main([*command, "--minutes=1", "--num-rows=9"])


@pytest.mark.parametrize("seeds", [["--seeds", "1", "100"], ["--confirm", "--seeds", "99"]])
def test_seeds_that_confirm_are_no_others(seeds, tmp_path, capsys):
    with pytest.raises(SystemExit):
        signals.main([*seeds, f"--out={tmp_path}", *OPTIONS])
    assert "from 100 on are for --confirm alone" in capsys.readouterr().err
