"""What ranks cannot share is refused with its reason, before any weight is read."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from greater_fast.config import Config
from greater_fast.memory.outline import outline_lm
from greater_fast.model.lm import LM, load_lm
from greater_fast.model.parallel.loading import (
    check_shared,
    ranks_of,
    shared_options,
    sharing_ranks,
)
from greater_fast.ranks import ALONE, Ranks
from greater_fast.runs.models.outlines import check_placement
from tests.cases import tiny_lm

TWO = Ranks(0, 2)


@pytest.fixture
def folder(tmp_path: Path, model_folder: Path) -> Path:
    """A model without its weights: nothing that is refused here comes to them."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text((model_folder / name).read_text())
    return tmp_path


def change(folder: Path, **values: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def refused(source: Path, ranks: Ranks, match: str) -> None:
    for load in (outline_lm, load_lm):
        with pytest.raises(ValueError, match=match):
            load(str(source), "cpu", ranks=ranks)


def test_one_process_has_nobody_to_share_with(folder: Path) -> None:
    refused(folder, ALONE, "tensor_parallel: got True in one process, .* torchrun")
    assert sharing_ranks(Config()) is None
    assert sharing_ranks(Config(tensor_parallel=True)) is not None


def test_gguf_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_lm().model.config
    for module in ("memory.outline", "model.lm"):
        monkeypatch.setattr(f"greater_fast.{module}.read_config", lambda _: config)
    (tmp_path / "tiny.gguf").touch()
    refused(tmp_path / "tiny.gguf", TWO, r"tiny\.gguf cannot be shared by 2 ranks: a GGUF file")


def test_quantised_weights(folder: Path) -> None:
    change(folder, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    refused(folder, TWO, "its weights are quantised")


def test_a_kind_of_model_without_a_plan(folder: Path) -> None:
    change(folder, model_type="opt", architectures=None)
    refused(folder, TWO, "transformers has no plan for models of the kind opt")


@pytest.mark.parametrize(
    ("num_ranks", "found"), [(3, "4 heads"), (4, "2 K/V heads"), (8, "4 heads")]
)
def test_heads_that_ranks_do_not_divide(folder: Path, num_ranks: int, found: str) -> None:
    refused(folder, Ranks(0, num_ranks), f"by {num_ranks} ranks: it has {found} a layer")


def test_a_device_that_transformers_would_not_take(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = torch.device("cuda")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: found)
    refused(folder, TWO, "device: got cpu beside tensor_parallel=True, .* runs on cuda")


def test_a_model_that_came_whole_all_the_same(lm: LM) -> None:
    check_shared(lm.model, ALONE)
    assert shared_options(ALONE) == {}
    with pytest.raises(ValueError, match=r"transformers \d.* does not share models out"):
        check_shared(lm.model, TWO)


def test_a_transformers_that_shares_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def older(**_: Any) -> None:
        raise TypeError("unexpected keyword argument 'tp_size'")

    module = "transformers.distributed.configuration_utils.DistributedConfig"
    monkeypatch.setattr(module, older)
    with pytest.raises(ValueError, match=r"transformers \d.* expected 5\.17 or later"):
        shared_options(TWO)


def test_a_loaded_model_and_the_setting_must_agree(lm: LM) -> None:
    part = LM(lm.model, lm.tokenizer, lm.name, lm.vocabulary, lm.end_ids, ranks=TWO)
    check_placement(lm.model, lm, Config())
    check_placement(lm.model, part, Config(tensor_parallel=True))
    with pytest.raises(ValueError, match=r"got True beside a loaded model that is whole"):
        check_placement(lm.model, lm, Config(tensor_parallel=True))
    with pytest.raises(ValueError, match=r"got False beside a loaded model that is shared"):
        check_placement(lm.model, part, Config())


def test_a_part_of_a_model_is_of_the_ranks_that_are_here(lm: LM) -> None:
    class Part:
        _tp_size = 2

    assert ranks_of(lm.model, TWO) is ALONE
    assert ranks_of(Part(), TWO) is TWO
    for ranks, here in ((None, 1), (ALONE, 1), (Ranks(0, 4), 4)):
        with pytest.raises(ValueError, match=f"each of 2 ranks, which are {here} here"):
            ranks_of(Part(), ranks)


def test_the_files_of_a_model_decide_alone(folder: Path) -> None:
    """What is shared out is planned for by a rank's part."""
    whole, part = outline_lm(str(folder), "cpu"), outline_lm(str(folder), "cpu", ranks=TWO)
    assert part.ranks is TWO
    assert [s.num_kv_heads for s in whole.layer_shapes] == [2, 2]
    assert [s.num_kv_heads for s in part.layer_shapes] == [1, 1]
