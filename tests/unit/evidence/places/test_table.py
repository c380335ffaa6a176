import dataclasses
from itertools import combinations

import numpy as np
import pytest

from benchmarks.evidence import signals
from benchmarks.evidence.chains import Chain, chain_path, save
from benchmarks.evidence.places.ranking import (
    SIGNALS,
    Errors,
    Measured,
    Splits,
    by_rank,
    means,
    ranking,
    together,
)
from benchmarks.evidence.places.table import (
    LEAST_PLACES,
    VOCABULARY,
    baselines,
    rankings,
    shares_as_searched,
    table,
)
from tests.unit.evidence import synthetic

PRIMARY = signals.PRIMARY


def noise(is_wrong, source):
    return source.normal(0, 1, is_wrong.shape)


def truth(is_wrong, source):
    return is_wrong.mean(0) + 0.0 * is_wrong  # of the whole pool, on each row


def nothing(is_wrong, source):
    return np.zeros(is_wrong.shape)


MADE = {"answer": noise, "stored": truth, "sampled": noise, "rescored": noise, "weighted": nothing}


@pytest.fixture(scope="module")
def chains():
    return [
        synthetic.chain(task, seed, num_places=7, signals=MADE)
        for task in "abc"
        for seed in range(4)
    ]


@pytest.fixture(scope="module")
def found(chains):
    return [dict(rankings(p, c.num_selection)) for c in chains[::2] for p in c.places[1:]]


def mean(found, name, num_train, what="correlation"):
    return np.mean([getattr(own[name, num_train], what) for own in found])


def test_training_and_truth_share_no_row_and_truth_none_of_the_selection():
    splits = Splits.drawn((50, 64, 160), 24, 96)
    assert splits.train.shape == splits.truth.shape == (100, 160)
    for shares, number in ((splits.train, 24), (splits.truth, 96)):
        assert ((shares > 0).sum(1) == number).all()
        assert set(np.unique(shares)) == {0, 1}
    assert not (splits.train * splits.truth).any()
    assert not splits.truth[:, :50].any()
    assert not splits.train[:, 64:].any()
    assert splits.train[:, :64].any(0).all()
    first, second = splits.halves
    assert not (first * second).any()
    assert first + second == pytest.approx(splits.truth)
    assert len(np.unique(splits.truth, axis=0)) == 100
    assert (splits.train == Splits.drawn((50, 64, 160), 24, 96).train).all()


def test_a_search_has_stored_what_was_not_given_up():
    """The incumbent is right on even rows; of two candidates the worse one alone knows row 1."""
    (first, second) = synthetic.chain(num_places=2, signals=MADE).places
    outcomes = first.outcomes
    even = np.arange(160) % 2 == 0
    is_right = np.tile(even, (len(outcomes.is_right), 1))
    is_right[1, 1], is_right[1, 0:50:2] = True, False  # given up
    is_right[2, 3], is_right[2, 4] = True, False  # as good
    alike = np.full_like(outcomes.prompt_nll, 4)
    outcomes = dataclasses.replace(outcomes, is_right=is_right, prompt_nll=alike)
    places = [dataclasses.replace(p, outcomes=outcomes, winner=0) for p in (first, second)]
    own = Chain("tiny", "a", 0, 50, tuple(places))
    assert shares_as_searched(own) == [0, 2 / 64]


def test_equal_counts_are_equal_means_whatever_the_order_of_their_sum():
    rows = Splits.drawn((50, 64, 160), 24, 96).truth
    wrong = np.random.default_rng(0).random((160, 7)) < 0.3
    counts = rows.astype(int) @ wrong.astype(int)
    assert (means(rows, wrong) == counts / 96).all()
    turned = slice(None, None, -1)
    assert (means(rows[:, turned], wrong[turned]) == means(rows, wrong)).all()


def test_few_rows_are_split_without_sharing_any():
    splits = Splits.drawn((3, 6, 9), 24, 6)
    assert ((splits.train > 0).sum(1) == 3).all()
    assert not (splits.train * splits.truth).any()


def test_a_signal_that_is_the_truth_reaches_the_ceiling_and_noise_is_nothing(found, chains):
    bases = [baselines(p, c.num_selection) for c in chains[::2] for p in c.places[1:]]
    half = np.mean([base.half_correlation for base in bases])
    highest = np.sqrt(2 * half / (1 + half))
    assert mean(found, "reasoning gradient, stored", 50) == pytest.approx(highest, abs=0.05)
    assert mean(found, "reasoning gradient, sampled", 50) == pytest.approx(0, abs=0.2)
    assert mean(found, "stored reasonings by importance", 50) == 0
    assert 0.5 < mean(found, "error, regenerated", 24) < mean(found, "error, regenerated", 50)
    # of seven the first three of a perfect ranking, less the mean of all
    gap = np.mean([base.lowest - base.mean for base in bases])
    assert gap < mean(found, "reasoning gradient, stored", 50, "best") < -0.05
    assert mean(found, "both gradients", 50) > mean(found, "both gradients, sampled", 50)


def test_all_signals_are_there_for_each_number_of_rows(found):
    names = {*SIGNALS, VOCABULARY}
    assert set(found[0]) == {(name, n) for name in names for n in (24, 50)} - {
        ("proposal log-probability", 24)
    }


def test_a_ranking_by_hand():
    errors = np.array([[0.1, 0.5, 0.3, 0.9]])
    same = Errors(errors, (errors, errors))  # halves that agree: no luck in the lowest
    own = ranking(np.array([[1.0, 2.0, 3.0, 4.0]]), same, same)
    assert own.correlation == pytest.approx(0.8)  # ranks 1 3 2 4: 1 - 6 * 2 / (4 * 15)
    assert own.best == pytest.approx(0.3 - 0.45)
    assert own.lowest == pytest.approx(0.1 - (3 * 0.1 + 0.3) / 4)
    alike = np.array([[0.2, 0.2, 0.2]])
    other = ranking(np.array([[4.0, 2.0, 3.0, 1.0]]), same, Errors(alike, (alike, alike)))
    assert other.best == pytest.approx((0.9 + 0.5 + 0.3) / 3 - 0.2)
    assert other.lowest == pytest.approx(0.3 - 0.2)


def test_the_lowest_is_chosen_on_one_half_and_measured_on_the_other():
    first, second = np.random.default_rng(0).random((2, 3, 6))
    errors = Errors((first + second) / 2, (first, second))
    for row, found in enumerate(errors.lowest_of(3)):
        crossed = []
        for by, on in ((first[row], second[row]), (second[row], first[row])):
            crossed += [on[min(three, key=by.__getitem__)] for three in combinations(range(6), 3)]
        assert found == pytest.approx(np.mean(crossed))
    assert errors.lowest_of(6) == pytest.approx(
        [(s[f.argmin()] + f[s.argmin()]) / 2 for f, s in zip(first, second, strict=True)]
    )
    assert errors.at(np.array([[1, 4]] * 3)).lowest_of(3) == pytest.approx(
        Errors(errors.whole[:, [1, 4]], (first[:, [1, 4]], second[:, [1, 4]])).lowest_of(2)
    )


def test_luck_is_no_part_of_the_lowest():
    """Of candidates that all err alike the lowest does too, though measured rows say otherwise."""
    is_wrong = np.random.default_rng(3).random((160, 7)) < 0.4
    splits = Splits.drawn((50, 64, 160), 50, 96)
    many = [Errors.on(splits, np.random.default_rng(n).random((160, 7)) < 0.4) for n in range(40)]
    assert np.mean([e.lowest_of(7).mean() for e in many]) == pytest.approx(0.4, abs=0.02)
    assert np.mean([e.whole.min(1).mean() for e in many]) < 0.36
    one = Errors.on(splits, is_wrong)
    assert one.whole == pytest.approx(means(splits.truth, is_wrong))
    assert (one.halves[0] + one.halves[1]) / 2 == pytest.approx(one.whole)


def test_scores_together_weigh_alike_and_a_constant_one_says_nothing():
    first, second = np.array([[1.0, 2.0, 4.0]]), np.array([[100.0, -100.0, 0.0]])
    assert together(first, second) == pytest.approx(first / first.std() + second / second.std())
    assert together(first, np.ones((1, 3))) == pytest.approx(first / first.std())
    assert by_rank(first, second) == pytest.approx(np.array([[1 + 3, 2 + 1, 3 + 2]]))


def test_signals_read_the_training_rows_alone(chains):
    place = chains[0].places[0]
    train = np.zeros((1, 160))
    train[0, [3, 5]] = 0.5
    own = Measured(place, train, place.from_lm)
    outcomes = place.outcomes
    for k in range(synthetic.NUM_CANDIDATES):
        right = outcomes.is_right[k + 1, [3, 5]]
        assert own.error()[0, k] == pytest.approx(1 - right.mean())
        loss = outcomes.answer_loss[k + 1, [3, 5]].mean()
        nll = outcomes.prompt_nll[k + 1, [3, 5]].mean()
        assert own.loss()[0, k] == pytest.approx(loss + 0.2 * nll, rel=1e-6)
        assert own.score("answer")[0, k] == pytest.approx(place.scores["answer"][[3, 5], k].mean())
        assert own.logprob()[0, k] == pytest.approx(-place.logprobs[k])
    everyone = Measured(place, train, np.ones(9, bool))
    assert np.isinf(everyone.logprob()[0, 7:]).all()


def test_the_table_says_how_many_places_and_that_few_are_too_few(chains):
    text = table(chains, PRIMARY)
    assert text.startswith("72 places, 12 chains\n")
    assert "too few" not in text
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert rows[0].startswith("| **both gradients** (primary) | 50 | +")
    assert len(rows) == 2 * (len(SIGNALS) + 1) - 1 + 1 + 2
    few = table(chains[:2], PRIMARY)
    assert few.startswith(f"12 places, 2 chains: too few to conclude, {LEAST_PLACES} are the least")
    assert table([], PRIMARY).startswith("0 places, 0 chains: too few to conclude")


def test_a_paired_difference_is_taken_place_by_place(chains, found):
    text = table(chains[::2], PRIMARY)
    lines = [line.split(" | ") for line in text.splitlines() if " − reasoning" in line]
    assert [line[1] for line in lines] == ["24", "50"]
    for line in lines:
        own = mean(found, "stored reasonings re-scored", int(line[1]))
        difference = own - mean(found, "reasoning gradient, stored", int(line[1]))
        assert float(line[2].split()[0].replace("−", "-")) == pytest.approx(difference, abs=0.006)


def test_places_with_few_proposals_are_left_out(chains):
    place = chains[0].places[0]
    bare = dataclasses.replace(place, from_lm=np.arange(9) < 3)
    one = dataclasses.replace(chains[0], places=(place, bare, *chains[0].places[2:]))
    assert table([one], PRIMARY).startswith(
        "5 places, 1 chains (1 places with too few proposals are left out): too few"
    )


def test_the_table_is_printed_without_a_model(tmp_path, capsys, chains):
    for seed in (0, 1, 100):
        made = dataclasses.replace(chains[0], seed=seed, places=chains[0].places[: 2 + seed % 99])
        save(made, chain_path(tmp_path, "tiny", "a", seed))
    signals.main(["--minutes", "0", "--out", str(tmp_path)])
    assert capsys.readouterr().out.startswith("## tiny\n\n3 places, 2 chains: too few")
    signals.main(["--minutes", "0", "--out", str(tmp_path), "--confirm"])
    assert capsys.readouterr().out.startswith("## tiny\n\n2 places, 1 chains: too few")
    signals.main(["--minutes", "0", "--out", str(tmp_path / "none")])
    assert capsys.readouterr().out.startswith("0 places")


def test_chains_of_several_settings_are_not_averaged(chains):
    one, other, third = chains[:3]
    given = {"max_new_tokens": 64}
    one, third = (
        dataclasses.replace(c, settings=given | more)
        for c, more in ((one, {}), (third, {"noise_by_place": 1}))
    )
    assert signals.of_models([one, third], is_confirming=False) == {one.model: [one, third]}
    other = dataclasses.replace(other, settings={"max_new_tokens": 128})
    with pytest.raises(
        ValueError, match=r"several settings \(.*64.*, .*128.*\): put those of each"
    ):
        signals.of_models([one, other], is_confirming=False)


def test_the_table_says_what_chains_were_made_on(chains):
    made = [dataclasses.replace(chains[0], made_on="cpu, float32"), *chains[1:3]]
    assert "made on: cpu, float32 (1); not written down (2).\n" in table(made, PRIMARY)


def test_a_figure_is_drawn_where_there_are_intervals(tmp_path, chains):
    pytest.importorskip("matplotlib")
    begun = dataclasses.replace(chains[0], places=chains[0].places[:1])  # the first does not count
    signals.draw({"tiny": chains, "short": chains[:2], "begun": [begun]}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["signals-tiny.svg"]
    text = (tmp_path / "signals-tiny.svg").read_text(encoding="utf-8")
    assert all(name in text for name in SIGNALS)
