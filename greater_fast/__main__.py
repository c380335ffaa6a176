"""The command line's start: what must be settled before torch is imported, then the command.

A thread that waits for others spins for milliseconds by default, longer than another process on its
core has to wait: two runs on the same cores took ten times as long as one after the other. libgomp
reads for how long when it is loaded, with torch.
"""

import os
import sys

_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
_SPINS = "1000"  # tens of microseconds: as long as threads have nothing to do inside of a step


def main() -> int:
    """Run the command line, whose exit status this is."""
    if not any(name in os.environ for name in _WAITING):
        os.environ["GOMP_SPINCOUNT"] = _SPINS
    from greater_fast.runs.interrupts import end_at_once, signals_taken

    with signals_taken(end_at_once):
        from greater_fast.cli.main import main as command
    return command()


if __name__ == "__main__":
    sys.exit(main())
