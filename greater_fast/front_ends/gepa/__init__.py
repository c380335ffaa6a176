"""GEPA with steps of GReaTer as its proposals, and with our engine as the model of its task.

`GReaTerProposer` is what `gepa.optimize` takes as `custom_candidate_proposer`, and `dspy.GEPA` as
`instruction_proposer`: no reflection model is needed. `GReaTerAdapter` is an adapter of GEPA, for
any proposer.
"""

from greater_fast.front_ends.gepa.adapter import GReaTerAdapter, Trajectory
from greater_fast.front_ends.gepa.proposer import GReaTerProposer

__all__ = ["GReaTerAdapter", "GReaTerProposer", "Trajectory"]
