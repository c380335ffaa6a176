"""Chains with outcomes that a test gives, or that are drawn from a model that is known."""

import numpy as np

from benchmarks.evidence.chains import Chain, Outcomes, Place

NUM_SELECTION = 50
NUM_SCORED = 64  # rows that have scores
SCORES = ("answer", "stored", "sampled", "rescored", "weighted")


def place(is_wrong, scores=None, from_lm=None, logprobs=None, prompt_nll=4.0, losses=None):
    """A place of prompts [1 + K, N], the incumbent first; its scores are [64, K] by name."""
    is_wrong = np.asarray(is_wrong, bool)
    num, shape = len(is_wrong) - 1, is_wrong.shape
    nothing = np.zeros((NUM_SCORED, num))
    nll = np.broadcast_to(np.asarray(prompt_nll, np.float32), shape[:1])[:, None]
    return Place(
        index=0,
        prompt_ids=tuple(range(10)),
        candidate_ids=tuple(range(num)),
        logprobs=np.zeros(num, np.float32) if logprobs is None else np.float32(logprobs),
        from_lm=np.ones(num, bool) if from_lm is None else np.asarray(from_lm),
        from_vocabulary=np.zeros(num, bool),
        outcomes=Outcomes(
            is_right=~is_wrong,
            answer_loss=np.float32(is_wrong if losses is None else losses),
            prompt_nll=np.broadcast_to(nll, shape),
            reasonings=(((),) * shape[1],) * shape[0],
        ),
        scores={name: np.float32((scores or {}).get(name, nothing)) for name in SCORES},
        num_effective=np.zeros(NUM_SCORED, np.float32),
        winner=0,
    )


def chain(places, task="a", seed=0):
    """A chain of places."""
    return Chain("tiny", task, seed, NUM_SELECTION, tuple(places))


def outcomes(source, errors, num_rows, row_share=0.0):
    """Whether prompts of these true errors are wrong on rows, as `policies.model` has it."""
    own, new = source.random(num_rows), source.random((len(errors), num_rows))
    is_own = source.random(new.shape) < row_share**0.5
    return np.where(is_own, own, new) < np.asarray(errors)[:, None]


def drawn_chains(
    num_chains,
    num_rows=160,
    initial=0.5,
    effect=0.03,
    deviation=0.08,
    row_share=0.4,
    pull=0.5,
    correlation=0.0,
    num_candidates=7,
    accept=True,
):
    """Chains of 6 places from a known model; the truly best prompt is kept where `accept`."""
    chains = []
    for number in range(num_chains):
        source = np.random.default_rng(number)
        error, places = initial, []
        for _ in range(6):
            deviations = source.standard_normal(num_candidates)
            noise = source.standard_normal(num_candidates)
            others = error + effect + pull * (initial - error) + deviation * deviations
            errors = np.clip(np.append(error, others), 0.0, 1.0)
            signal = correlation * deviations + (1 - correlation**2) ** 0.5 * noise
            scores = {"answer": np.broadcast_to(signal, (NUM_SCORED, num_candidates))}
            places.append(place(outcomes(source, errors, num_rows, row_share), scores))
            error = errors.min() if accept else error
        chains.append(chain(places, "abc"[number % 3], number))
    return chains
