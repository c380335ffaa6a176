"""Where the models of a run are found again."""

import pytest

from greater_fast.runs.read import models_of, one_source


def test_models_are_found_where_they_lay():
    assert models_of({"model": "./a", "source": ["/x/a"]}) == ["/x/a"]
    assert models_of({"model": ["./a", "org/b"], "source": ["/x/a", "org/b"]}) == ["/x/a", "org/b"]
    assert models_of({"model": "org/b"}) == ["org/b"]  # of an older run
    with pytest.raises(ValueError, match="begun with a loaded model"):
        models_of({"model": "Llama", "source": [None]})


def test_a_folder_that_was_copied_is_found_by_the_name_that_was_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = {"model": "models/a", "source": ["/home/alice/models/a"]}
    assert models_of(run) == ["/home/alice/models/a"]
    (tmp_path / "models/a").mkdir(parents=True)
    assert models_of(run) == ["models/a"]


def test_one_model_is_taken_by_its_name():
    one, two = {"model": "./a", "source": ["/x/a"]}, {"model": ["a", "b"], "source": ["/a", "/b"]}
    assert one_source(one, None) == "/x/a"
    assert one_source(one, "elsewhere") == "elsewhere"
    assert one_source(two, "b") == "/b"
    assert one_source(two, "/moved/b") == "/moved/b"
    assert one_source({"model": "Llama", "source": [None]}, "/saved") == "/saved"
    mixed = {"model": ["Llama", "b"], "source": [None, "/b"]}
    assert (one_source(mixed, "b"), one_source(mixed, "Llama")) == ("/b", "Llama")
    with pytest.raises(ValueError, match=r"name one of a, b \(--model\)"):
        one_source(two, None)
