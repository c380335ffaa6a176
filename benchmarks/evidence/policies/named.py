"""The policies that are compared, by the names that tables have for them."""

from benchmarks.evidence.policies.rules import Policy

DEFAULT = "50 rows, best 3 by the gradient"
RANDOM = "50 rows, 3 at random"
# Those that take no rollouts of the candidates.
SIGNALS_TRIED = (
    "proposal log-probability",
    "reasoning gradient, stored",
    "reasoning gradient, sampled",
    "both gradients",
    "both gradients, sampled",
    "stored reasonings re-scored",
    "stored reasonings by importance",
    "ranks of both and log-probability",
)

POLICIES = {
    DEFAULT: Policy(),
    "the released rule: the best of 3, better or not": Policy(accept="best"),
    "by the loss": Policy(objective="loss"),
    "the paper's text: the best of 3 by the loss, better or not": Policy(
        objective="loss", accept="best"
    ),
    RANDOM: Policy(signal="random"),
    **{f"3 by {name}": Policy(signal=name) for name in SIGNALS_TRIED},
    "16 rows": Policy(num_rows=16),
    "24 rows": Policy(num_rows=24),
    "96 rows": Policy(num_rows=96),
    "best 1": Policy(shortlist_size=1),
    "best 5": Policy(shortlist_size=5),
    "1 at random": Policy(shortlist_size=1, signal="random"),
    "5 at random": Policy(shortlist_size=5, signal="random"),
    "all candidates": Policy(shortlist_size=None),
    "all candidates, 16 rows": Policy(shortlist_size=None, num_rows=16),
    "race, alpha 0.05": Policy(race=0.05),
    "race, alpha 0.2": Policy(race=0.2),
    "race, alpha 0.2, 96 rows": Policy(race=0.2, num_rows=96),
    "race, alpha 0.2, all candidates": Policy(race=0.2, shortlist_size=None),
    "fresh rows, 24": Policy(fresh_rows=True, num_rows=24),
    "fresh rows, 50": Policy(fresh_rows=True),
    "confirmed on 24 further rows": Policy(num_confirming=24),
    "confirmed on 50 further rows": Policy(num_confirming=50),
    "24 rows, all candidates, confirmed on 50": Policy(
        num_rows=24, shortlist_size=None, num_confirming=50
    ),
    "shrunk by the prior": Policy(shrinkage="prior"),
    "all candidates, shrunk towards their mean": Policy(shrinkage="place", shortlist_size=None),
    "sign test, level 0.3": Policy(level=0.3),
    "sign test, level 0.1": Policy(level=0.1),
    "sign test, level 0.05": Policy(level=0.05),
}
