import numpy as np
import pytest
import torch

from benchmarks.evidence.places.collect import Settings, lay_out
from benchmarks.evidence.places.row_scores import (
    MAX_WEIGHT,
    first_order,
    rescored,
    sampled_reasonings,
    surrogate_losses,
    weighted_errors,
)
from greater_fast.model.lm import load_lm
from greater_fast.rollouts.batch import RolloutEngine
from greater_fast.search.nouns import Position
from greater_fast.search.reasonings import Reasoning
from tests.tiny import tiny_model, tiny_tokenizer

SETTINGS = Settings(num_rows=4, num_selection=2, num_scored=4, max_new_tokens=5, num_reasonings=3)
RIGHT, WRONG, CUT = (
    Reasoning((301, 302, 303), True, 1),
    Reasoning((301, 305), False, 1),
    Reasoning((310, 311, 312, 313, 314), False, None),
)


@pytest.fixture(scope="module")
def lm():
    tokenizer = tiny_tokenizer("llama3")
    return load_lm((tiny_model("llama", len(tokenizer)), tokenizer))


@pytest.fixture(scope="module")
def layouts(lm):
    return lay_out(lm, SETTINGS, "boolean_expressions", 0)


@pytest.fixture(scope="module", params=[False, True], ids=["ragged", "fixed"])
def engine(lm, request):
    # The temperature is one of answers alone; a GPU's steps are fixed.
    return RolloutEngine(lm, kv_cache_bytes=1 << 22, temperature=0.2, fixed=request.param)


def logprob(lm, context, written):
    """Log-probability of what was written, in one plain pass."""
    ids = torch.tensor([[*context, *written]])
    states = lm.hidden(input_ids=ids)[0, len(context) - 1 : -1]
    logprobs = lm.logits(states).double().log_softmax(-1)
    return float(logprobs[range(len(written)), list(written)].sum())


def test_a_first_order_score_is_a_step_along_the_gradient(lm, engine, layouts):
    place = Position(0, 2, layouts.prompt_ids)
    gradients = torch.randn(4, lm.embedding_width, generator=torch.Generator().manual_seed(0))
    scores = first_order(engine, gradients, place, (400, place.incumbent_id))
    embedding = lm.model.get_input_embeddings().weight
    step = embedding[400] - embedding[place.incumbent_id]
    assert scores[:, 0] == pytest.approx((gradients * step).sum(1).numpy(), rel=1e-4, abs=1e-6)
    assert not scores[:, 1].any()


def test_stored_reasonings_are_read_under_each_prompt(lm, engine, layouts):
    place = Position(0, 1, layouts.prompt_ids)
    prompts = [place.prompt_ids, place.with_token(400), place.with_token(401)]
    writer = place.with_token(402)
    stored = [[RIGHT, WRONG, CUT], [WRONG], [RIGHT, CUT], [RIGHT, RIGHT]]
    writers = {(row, r.written_ids): writer for row, own in enumerate(stored) for r in own}
    scores, effective = rescored(engine, layouts, stored, prompts, writers)
    for row, weights in ((0, [1, -0.5, -0.5]), (2, [1, -1])):  # reward less that of the others
        own = stored[row]
        table = np.array(
            [
                [
                    logprob(lm, layouts.context_ids(row, ids), r.written_ids)
                    for ids in (*prompts, writer)
                ]
                for r in own
            ]
        )
        lengths = np.array([len(r.written_ids) for r in own])
        losses = -(np.array(weights) / lengths) @ table[:, :3] / len(own)
        assert scores["rescored"][row] == pytest.approx(losses[1:] - losses[0], abs=1e-4)
        ratios = np.minimum(np.exp(table[:, :3] - table[:, 3:]), MAX_WEIGHT)
        wrong = np.array([not r.is_right for r in own])
        errors = (ratios * wrong[:, None]).sum(0) / ratios.sum(0)
        assert scores["weighted"][row] == pytest.approx(errors[1:] - errors[0], abs=1e-3)
        numbers = ratios.sum(0) ** 2 / (ratios**2).sum(0)
        assert effective[row] == pytest.approx(numbers[1:].mean(), rel=1e-3)
    for row in (1, 3):  # one outcome says nothing
        assert not scores["rescored"][row].any()
        assert not scores["weighted"][row].any()
        assert effective[row] == 0


def test_no_row_with_both_outcomes_asks_the_engine_for_nothing(engine, layouts):
    scores, effective = rescored(
        engine, layouts, [[WRONG]] * 4, [layouts.prompt_ids, layouts.prompt_ids], {}
    )
    assert not effective.any()
    assert not scores["rescored"].any()
    assert scores["weighted"].shape == (4, 1)


def test_importance_by_hand():
    log_ratios = np.log([[1.0, 1e-300], [3.0, 1e-300], [1e9, 0.5e-300]])
    errors, effective = weighted_errors([RIGHT, WRONG, CUT], log_ratios)
    assert errors == pytest.approx([8 / 9, 1.5 / 2.5])  # 1, 3 and the bound of 5; tiny ones alike
    assert effective == pytest.approx([81 / 35, 2.5**2 / 2.25])
    assert surrogate_losses([RIGHT, WRONG], np.array([[-4.0], [-6.0]])) == pytest.approx(
        [(4 / 4 - 6 / 3) / 2]
    )


def test_reasonings_are_drawn_several_a_row_each_with_its_own_noise(lm, layouts):
    sampler = RolloutEngine(lm, kv_cache_bytes=1 << 22, sampling_temperature=1.0)
    first, later = Position(0, 1, layouts.prompt_ids), Position(3, 2, layouts.prompt_ids)
    drawn = sampled_reasonings(sampler, layouts, first, SETTINGS.config())
    assert [len(own) for own in drawn] == [3] * 4
    assert len({r.ids for own in drawn for r in own}) == 12
    again = sampled_reasonings(sampler, layouts, later, SETTINGS.config())
    assert again == drawn
