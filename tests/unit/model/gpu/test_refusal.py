"""What ends a trial says why a module is left alone, but for memory that ended."""

import pytest
import torch

from greater_fast.model.gpu.refusal import RefusedError, found_or_refused


def failing(error: Exception) -> None:
    raise error


def test_another_form_is_a_reason() -> None:
    assert found_or_refused(lambda: 5, "of another form") == 5
    for error in (AttributeError("no gate"), RuntimeError("shapes")):
        with pytest.raises(RefusedError, match="of another form"):
            found_or_refused(lambda error=error: failing(error), "of another form")
    with pytest.raises(RefusedError, match="of another form"):
        found_or_refused(lambda: None, "of another form")


def test_memory_that_ends_is_none() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        found_or_refused(lambda: failing(torch.OutOfMemoryError()), "of another form")
