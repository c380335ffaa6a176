"""Where fuzzed input has been taken, and work with the model would begin."""

import pytest

from greater_fast.runs.models import ready


class ReachedError(Exception):
    """The input was taken: model work would begin here."""


@pytest.fixture
def before_model_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop where the engine would be made."""

    def reached(*arguments: object, **named: object) -> None:
        raise ReachedError

    monkeypatch.setattr(ready, "make_engine_of", reached)
