"""Which models go together: what is refused, with the reason, and what all have in common."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from greater_fast import optimize, plan
from greater_fast.config import Config
from greater_fast.examples.extractor import make_extractor
from greater_fast.examples.layout import build_layouts
from greater_fast.model.lm import LM, load_lm
from greater_fast.ranks import ALONE, Ranks
from greater_fast.runs.models.alike import (
    as_models,
    check_one_device,
    check_one_vocabulary,
    common_layouts,
    names_of,
)
from tests.cases import examples, layouts_of, tiny_lm, tokenizer
from tests.tiny import END_ID, EXTRACTOR, PROMPT, tiny_model, tiny_tokenizer
from tests.unit.model.test_lm_gguf import write


def with_tokenizer(changed: Any) -> LM:
    return load_lm((tiny_model("llama", len(changed)), changed))


def refused(other: LM, rows: list[dict[str, str]], settings: dict[str, Any], text: str) -> None:
    """Both orders are refused, before a run directory or a score."""
    for models in ([tiny_lm(), other], [other, tiny_lm()]):
        with pytest.raises(ValueError, match=text):
            plan(models, rows, prompt=PROMPT, config=settings)


def test_another_vocabulary_is_refused(
    rows: list[dict[str, str]], settings: dict[str, Any], tmp_path: Path
) -> None:
    text = r"have different vocabularies: \d+ tokens are in one alone or have other ids \('.*more\)"
    refused(tiny_lm("llama", "sentencepiece"), rows, settings, text)
    changed = tiny_tokenizer("llama3")
    changed.add_tokens(["unheard"])
    text = r"vocabularies: 1 tokens are in one alone or have other ids \('unheard'\), so that no"
    refused(with_tokenizer(changed), rows, settings, text)
    with pytest.raises(ValueError, match=text):
        optimize(
            [tiny_lm(), with_tokenizer(changed)], rows, config=settings, run_dir=tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()


def test_another_template_is_refused(rows: list[dict[str, str]], settings: dict[str, Any]) -> None:
    changed = tiny_tokenizer("llama3")
    changed.chat_template = changed.chat_template.replace("turn.role +", "'my ' + turn.role +")
    text = (
        "the chat templates of LlamaForCausalLM and LlamaForCausalLM differ: on row 0 one reads "
        r".*(>user<.*>my user|>my user.*>user<).*; give both the same template, or optimise"
    )
    refused(with_tokenizer(changed), rows, settings, text)


def test_a_template_that_only_looks_different_is_none(
    rows: list[dict[str, str]], settings: dict[str, Any]
) -> None:
    changed = tiny_tokenizer("llama3")
    changed.chat_template = "{# the same #}" + changed.chat_template
    assert plan([tiny_lm(), with_tokenizer(changed)], rows, config=settings).fits


def test_other_special_tokens_are_refused(
    rows: list[dict[str, str]], settings: dict[str, Any]
) -> None:
    changed = tiny_tokenizer("llama3")
    word = changed.convert_ids_to_tokens(500)
    changed.add_special_tokens({"additional_special_tokens": [word]})
    assert len(changed) == len(tokenizer("llama3"))
    refused(with_tokenizer(changed), rows, settings, "have different special tokens: '")


def test_a_tokenizer_that_cuts_otherwise_is_refused(
    rows: list[dict[str, str]], settings: dict[str, Any]
) -> None:
    """The same tokens with the same ids, but fewer merges."""
    own = tokenizer("llama3")
    made = json.loads(own.backend_tokenizer.to_str())
    made["model"]["merges"] = made["model"]["merges"][:40]
    made["model"]["ignore_merges"] = False
    changed = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(made)),
        bos_token=own.bos_token,
        eos_token=own.eos_token,
        pad_token=own.pad_token,
        chat_template=own.chat_template,
    )
    longer = {**settings, "max_prompt_tokens": 120}
    refused(with_tokenizer(changed), rows, longer, "cut row 0 into different tokens, though its")


def test_other_ids_of_the_answers_or_the_extractor_are_refused() -> None:
    lms, own = [tiny_lm(), tiny_lm(seed=1)], layouts_of(tiny_lm(), examples(2))
    for changed in (
        replace(own, extractor_ids=own.extractor_ids[1:]),
        replace(own, end_ids=frozenset([5])),
        replace(own, rows=(own.rows[0], replace(own.rows[1], answer_ids=(7,)))),
    ):
        with pytest.raises(ValueError, match="prompt, extractor or answers have other ids for"):
            common_layouts(lms, [own, changed])
    assert common_layouts(lms, [own, own]).rows == own.rows


def test_a_gguf_file_beside_a_folder_of_the_same_tokenizer(
    rows: list[dict[str, str]], settings: dict[str, Any], model_folder: Path, tmp_path: Path
) -> None:
    file = write(tmp_path / "tiny.gguf")
    for models in ([file, model_folder], [str(model_folder), tiny_lm("qwen2"), file]):
        memory = plan(models, rows, prompt=PROMPT, config={**settings, "device": "cpu"})
        assert len(memory.pools) == len(models)


def test_the_smaller_embedding_and_the_shorter_context_count() -> None:
    vocabulary = tokenizer("llama3")
    wide = load_lm((tiny_model("llama", len(vocabulary) + 64), vocabulary))
    short = copy.deepcopy(wide.model)
    rows, extractor = examples(6), make_extractor(EXTRACTOR)
    config = Config(max_new_tokens=8, max_prompt_tokens=20, on_long="drop")
    whole = build_layouts(wide, rows, "Think twice.", extractor, config)
    short.config.max_position_embeddings = whole.longest_sequence(config) - 1
    lms = [wide, load_lm((short, vocabulary)), tiny_lm()]
    own = [build_layouts(lm, rows, "Think twice.", extractor, config) for lm in lms]
    assert len({len(layouts) for layouts in own}) > 1
    common = common_layouts(lms, own)
    assert common.rows == own[1].rows
    assert len(common.candidate_mask) == common.vocab_size == len(vocabulary)
    assert "dropped" in common.notes[0]


def test_loaded_models_on_several_devices_are_refused() -> None:
    def lm(device: str) -> Any:
        return SimpleNamespace(device=torch.device(device))

    check_one_device([lm("cpu"), "a name"], [lm("cpu"), lm("meta")], "cpu")
    check_one_device([lm("cuda:0"), "a name"], [lm("cuda:0"), lm("meta")], "cuda")
    check_one_device(["a", "b"], [lm("meta")] * 2, "cuda")
    with pytest.raises(ValueError, match="got models on cpu and cuda, expected all on one device"):
        check_one_device([lm("cpu"), "a name"], [lm("cpu"), lm("meta")], "cuda")
    with pytest.raises(ValueError, match="got models on cuda:0 and cuda:1, expected all on one"):
        check_one_device([0, 1], [lm("cuda:0"), lm("cuda:1")], None)


def test_what_is_one_model_and_what_several() -> None:
    pair = (tiny_lm().model, tiny_lm().tokenizer)
    assert as_models("name", ALONE) == ["name"]
    assert as_models(pair, ALONE) == [pair]
    assert as_models(["a", "b"], ALONE) == ["a", "b"]
    assert as_models(["a"], Ranks(1, 2)) == ["a"]
    with pytest.raises(ValueError, match="got an empty list, expected a model, or several"):
        as_models([], ALONE)
    with pytest.raises(ValueError, match=r"got 2 models for 2 processes: .*leave torchrun out"):
        as_models(["a", "b"], Ranks(0, 2))


def test_a_race_of_several_models_is_refused(
    rows: list[dict[str, str]], settings: dict[str, Any]
) -> None:
    config = {**settings, "race": 0.05}
    assert plan(tiny_lm(), rows, config=config).fits
    with pytest.raises(ValueError, match=r"race: got 0\.05 with 2 models, whose answers to one"):
        plan([tiny_lm(), tiny_lm()], rows, config=config)


def test_names_that_come_again_are_numbered() -> None:
    lms: Any = [SimpleNamespace(name=name) for name in ("a", "b", "a", "a")]
    assert names_of(lms) == ["a", "b", "a (2)", "a (3)"]


def test_the_end_ids_of_a_model_are_no_matter() -> None:
    """Each model's own end its reasoning."""
    other = replace(tiny_lm(), end_ids=frozenset([END_ID]))
    check_one_vocabulary([tiny_lm(), other])
