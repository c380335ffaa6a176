"""Chains made up of numbers, so that what is true of them is known."""

import numpy as np

from benchmarks.evidence.chains import Chain, Outcomes, Place

NUM_CANDIDATES = 7  # proposals, beside two candidates of the vocabulary


def chain(task="a", seed=0, num_places=6, num_rows=160, signals=None):
    """A chain; `signals` maps names to functions of (is_wrong [N, K], generator) -> [N, K]."""
    source = np.random.default_rng([seed, *task.encode()])
    places = tuple(place(source, number, num_rows, signals or {}) for number in range(num_places))
    return Chain("tiny", task, seed, min(50, num_rows // 3), places, {"max_new_tokens": 8})


def place(source, index, num_rows, signals):
    """A place: each candidate has an error rate of its own, rows are independent."""
    num, num_scored = NUM_CANDIDATES + 2, min(64, num_rows)
    rates = source.uniform(0.2, 0.8, 1 + num)[:, None]
    is_right = source.random((1 + num, num_rows)) >= rates
    texts = source.integers(0, 50_000, (num_rows, 3, 8))
    lengths = source.integers(0, 9, (num_rows, 3))
    which = source.integers(0, 3, (1 + num, num_rows))
    from_lm = np.arange(num) < NUM_CANDIDATES
    return Place(
        index=index,
        prompt_ids=tuple(range(100, 117)),
        candidate_ids=tuple(range(num)),
        logprobs=np.where(from_lm, source.normal(-3, 1, num), np.nan).astype(np.float32),
        from_lm=from_lm,
        from_vocabulary=~from_lm,
        outcomes=Outcomes(
            is_right=is_right,
            answer_loss=halves(source.gamma(2, 1, is_right.shape)),
            prompt_nll=halves(source.normal(4, 0.1, is_right.shape)),
            reasonings=tuple(
                tuple(tuple(texts[row, w, : lengths[row, w]].tolist()) for row, w in enumerate(own))
                for own in which
            ),
        ),
        scores={
            name: halves(made(~is_right[1:].T, source)[:num_scored])
            for name, made in signals.items()
        },
        num_effective=halves(source.uniform(0, 4, num_scored)),
        winner=int(source.integers(0, 1 + num)),
    )


def halves(values):
    """Values that float16 has, so that a file keeps them."""
    return values.astype(np.float16).astype(np.float32)
