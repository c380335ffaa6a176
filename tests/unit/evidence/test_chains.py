import dataclasses
import json
import lzma

import numpy as np
import pytest

from benchmarks.evidence.chains import chain_path, load, load_chains, model_name, save
from greater_fast.config import Config
from greater_fast.engine import Rollout
from greater_fast.search.nouns import objective_of
from tests.unit.evidence import synthetic


def noise(is_wrong, source):
    return source.normal(0, 1e-9, is_wrong.shape)  # smaller than float16 has


def test_a_chain_comes_back_as_it_was(tmp_path):
    made = synthetic.chain(num_places=3, num_rows=21, signals={"noise": noise})
    save(made, tmp_path / "chain.xz")
    read = load(tmp_path / "chain.xz")
    assert dataclasses.replace(read, places=()).__repr__() == (
        dataclasses.replace(made, places=()).__repr__()
    )
    for place, expected in zip(read.places, made.places, strict=True):
        assert place.index == expected.index
        assert place.winner == expected.winner
        assert place.prompt_ids == expected.prompt_ids
        assert place.candidate_ids == expected.candidate_ids
        assert place.outcomes.reasonings == expected.outcomes.reasonings
        for name in ("logprobs", "from_lm", "from_vocabulary", "num_effective"):
            np.testing.assert_array_equal(getattr(place, name), getattr(expected, name))
        for name in ("is_right", "answer_loss", "prompt_nll"):
            got, want = (getattr(p.outcomes, name) for p in (place, expected))
            np.testing.assert_array_equal(got, want)
            assert got.dtype == want.dtype
    assert [list(p.scores) for p in read.places] == [["noise"]] * 3


def test_a_file_that_does_not_say_what_it_was_made_on_is_read(tmp_path):
    path = tmp_path / "chain.xz"
    save(dataclasses.replace(synthetic.chain(num_places=1), made_on="cpu, float32"), path)
    assert load(path).made_on == "cpu, float32"
    head, rest = lzma.decompress(path.read_bytes()).split(b"\n", 1)
    older = json.loads(head)
    del older["about"]["made_on"]
    text = json.dumps(older).encode() + b"\n"
    padding = -len(head + b"\n") % 8
    path.write_bytes(lzma.compress(text + bytes(-len(text) % 8) + rest[padding:]))
    read = load(path)
    assert read.made_on == ""
    assert len(read.places) == 1


def test_small_scores_keep_their_digits(tmp_path):
    made = synthetic.chain(num_places=1)
    scores = np.random.default_rng(0).normal(0, 1e-12, (64, 9)).astype(np.float32)
    made = dataclasses.replace(
        made, places=(dataclasses.replace(made.places[0], scores={"s": scores}),)
    )
    save(made, tmp_path / "chain.xz")
    read = load(tmp_path / "chain.xz").places[0].scores["s"]
    np.testing.assert_allclose(read * np.abs(scores).max(), scores, rtol=2e-3, atol=1e-15)


def test_a_prompt_has_its_candidate_in_the_place():
    place = synthetic.chain().places[2]
    assert place.prompt(0) == place.prompt_ids
    assert place.prompt(4) == (*place.prompt_ids[:2], 3, *place.prompt_ids[3:])


def test_texts_that_repeat_take_no_room(tmp_path):
    save(synthetic.chain(num_places=1), tmp_path / "one.xz")
    one = synthetic.chain(num_places=1)
    save(dataclasses.replace(one, places=one.places * 4), tmp_path / "four.xz")
    sizes = [(tmp_path / name).stat().st_size for name in ("one.xz", "four.xz")]
    assert sizes[1] < 1.1 * sizes[0]


def test_a_folder_is_read_in_order_and_a_model_is_named_by_its_file(tmp_path):
    for seed in (1, 0):
        made = synthetic.chain(seed=seed, num_places=1, num_rows=9)
        save(made, chain_path(tmp_path, "/models/Tiny-1.5B.gguf", "a", seed))
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "tiny-1.5b-a-0.xz",
        "tiny-1.5b-a-1.xz",
    ]
    assert [chain.seed for chain in load_chains(tmp_path)] == [0, 1]
    assert load_chains(tmp_path / "none") == []


def test_another_file_is_refused_by_its_name(tmp_path):
    (tmp_path / "other.xz").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"other\.xz: got no chain"):
        load(tmp_path / "other.xz")


@pytest.mark.parametrize("objective", ["error", "loss"])
def test_objectives_are_those_of_the_search(objective):
    config = Config(objective=objective)
    outcomes = synthetic.chain(num_rows=12).places[0].outcomes
    rows = [1, 4, 5]
    expected = [
        objective_of(
            [
                Rollout((), (-float(loss[row]),), (bool(right[row]),), float(nll[row]))
                for row in rows
            ],
            len(rows),
        ).value(config)
        for right, loss, nll in zip(
            outcomes.is_right, outcomes.answer_loss, outcomes.prompt_nll, strict=True
        )
    ]
    np.testing.assert_allclose(outcomes.objectives(rows, config), expected, rtol=1e-6)
    assert outcomes.of(2).objectives(rows, config) == pytest.approx(expected[2:3])
    assert outcomes.of(2).reasonings == outcomes.reasonings[2:3]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("smollm2-135m", "smollm2-135m"),
        ("HuggingFaceTB/SmolLM2-135M", "huggingfacetb-smollm2-135m"),  # the base model
        ("owner/repository/file.gguf", "owner-repository-file"),
        ("/folder/Gemma-3.gguf", "gemma-3"),
        ("./checkpoint", "checkpoint"),
    ],
)
def test_models_of_several_owners_have_names_of_their_own(source, name):
    assert model_name(source) == name


def test_a_folder_is_called_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "runs" / "Tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert model_name("runs/Tiny") == "tiny"
