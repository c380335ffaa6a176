import dataclasses
import json

import numpy as np
import pytest

from benchmarks.evidence.chains import save
from benchmarks.evidence.policies import __main__ as command
from benchmarks.evidence.policies.figures import draw
from benchmarks.evidence.policies.named import DEFAULT, POLICIES, RANDOM
from benchmarks.evidence.policies.report import LEAST_PLACES, Effort, compare, tables
from benchmarks.evidence.policies.rules import ANSWER
from tests.unit.evidence.policies.made_up import chain, drawn_chains, place

QUICK = Effort(num_splits=1, num_searches=2, budgets=(200, 400))


@pytest.fixture(scope="module")
def found():
    return compare(drawn_chains(10), QUICK)


def test_all_policies_that_can_be_are_replayed(found):
    assert (found["num_places"], found["num_chains"], found["num_clusters"]) == (60, 10, 10)
    assert (set(found["replayed"]), found["left_out"]) == (set(POLICIES), [])
    assert found["replayed"][DEFAULT]["gain_beside_default"] == [0, 0, 0]
    assert found["replayed"][DEFAULT]["p_value"] == 1
    for own in found["replayed"].values():
        gain, per_thousand = own["gain"], own["gain_per_1000_rollouts"]
        for end, own_end in zip(gain, per_thousand, strict=True):  # None where it is open
            expected = None if end is None else pytest.approx(end * 1000 / own["num_rollouts"])
            assert own_end == expected
        known = [end for end in (gain[1], gain[0], gain[2]) if end is not None]
        assert known == sorted(known)
        assert 0 < own["share_changed"] <= 1


def test_policies_that_need_more_rows_than_a_pool_has_are_left_out():
    chains = [dataclasses.replace(own, num_selection=45) for own in drawn_chains(1)]
    found = compare(chains, QUICK)
    rows = {"96 rows", "race, alpha 0.2, 96 rows", "confirmed on 50 further rows"}
    assert set(found["left_out"]) == rows


def test_searches_are_simulated_to_each_budget(found):
    assert len(found["simulated"]) < len(POLICIES)
    for name, own in found["simulated"].items():
        assert POLICIES[name].signal in (ANSWER, "random")
        assert POLICIES[name].objective == "error"
        assert list(own) == ["200", "400"]
    assert RANDOM in found["simulated"]


def test_values_are_plain_and_tables_name_what_is_simulated(found):
    read = json.loads(json.dumps(found, allow_nan=False))
    assert read == found
    text = tables(read)
    first, *rest = text.splitlines()
    assert first == "60 places of 10 chains"
    assert sum(DEFAULT in line for line in rest) == 2
    assert sum("SIMULATED" in line for line in rest) == 1
    header = next(line for line in rest if "after 400 rollouts" in line)
    assert "simulated" in header
    assert "Left out" not in text
    assert "Left out, as not all places have rows enough: x, y." in tables(
        found | {"left_out": ["x", "y"]}
    )


def test_too_few_places_are_headed_so(found):
    few = found | {"num_places": LEAST_PLACES - 1}
    assert tables(few).splitlines()[0] == "59 places of 10 chains: too few to conclude"


def test_chains_with_too_few_rows_are_refused():
    few = drawn_chains(1, num_rows=50)
    with pytest.raises(ValueError, match="too few rows for the default policy"):
        compare(few, QUICK)


def test_gains_are_of_the_right_sign():
    """A candidate is better by half at each place."""
    own = np.zeros((3, 160), bool)
    own[0], own[1, ::2], own[2, 1::2] = True, True, True
    found = compare([chain([place(own)], seed=seed) for seed in range(10)], QUICK)
    assert found["replayed"][DEFAULT]["gain"] == pytest.approx([0.5, 0.5, 0.5], abs=0.1)
    (line,) = [line for line in tables(found).splitlines() if line.startswith(f"| {DEFAULT} | +")][
        :1
    ]
    assert float(line.split("|")[2].split()[0]) == pytest.approx(50, abs=10)


def test_intervals_of_too_few_clusters_are_open():
    found = compare(drawn_chains(2), QUICK)
    assert found["replayed"][DEFAULT]["gain"][1:] == [None, None]
    assert "[–, –]" in tables(json.loads(json.dumps(found, allow_nan=False)))


def test_the_command_prints_tables_and_writes_values_and_figures(tmp_path, capsys):
    for own in drawn_chains(2):
        save(own, tmp_path / f"tiny-{own.seed}.xz")
    save(dataclasses.replace(drawn_chains(1)[0], seed=100), tmp_path / "tiny-100.xz")
    out, asked = tmp_path / "policies.json", ["--splits", "1", "--searches", "2"]
    command.main(["--chains", str(tmp_path), "--out", str(out), "--plots", str(tmp_path), *asked])
    values = json.loads(out.read_text())
    assert list(values) == ["tiny"]
    assert values["tiny"]["num_chains"] == 2
    assert capsys.readouterr().out == f"## tiny\n\n{tables(values['tiny'])}\n\n"
    assert [path.name for path in tmp_path.glob("*.svg")] == ["policies_simulated.svg"]


def test_a_folder_without_chains_to_ask_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        command.main(["--chains", str(tmp_path), "--confirm"])
    assert "expected a folder of chains with places" in capsys.readouterr().err


def test_figures_have_all_policies_of_all_models(found, tmp_path):
    written = draw(tmp_path / "plots", {"first": found, "second": found})
    assert [path.name for path in written] == ["policies.svg", "policies_simulated.svg"]
    for path, kind in zip(written, ("replayed", "simulated"), strict=True):
        text = path.read_text()
        assert all(name in text for name in (*found[kind], "first", "second"))
    assert "SIMULATED" in written[1].read_text()
    assert "SIMULATED" not in written[0].read_text()
