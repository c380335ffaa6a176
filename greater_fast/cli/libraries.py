"""What libraries, and the package itself, say beside the output: warnings, and lines of logs."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from greater_fast.runs.visible import visible

_PACKAGE = Path(__file__).parents[1]


@contextlib.contextmanager
def heard_in_words() -> Iterator[None]:
    """Within the block nothing of a model or of data that a library quotes steers a terminal.

    The package's own warnings are one line without source code; transformers says its errors alone.
    """
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    factory = logging.getLogRecordFactory()
    with warnings.catch_warnings():
        warnings.showwarning = _shown(warnings.showwarning)
        logging.setLogRecordFactory(_VisibleRecord)
        try:
            yield
        finally:
            logging.setLogRecordFactory(factory)


class _VisibleRecord(logging.LogRecord):
    def getMessage(self) -> str:  # noqa: N802 (logging's name)
        return visible(super().getMessage())


def _shown(show: Callable[..., None]) -> Callable[..., None]:
    """What shows the package's warnings as one line, and all others by `show`."""

    def shown(message: Warning | str, category: type[Warning], filename: str, *rest: Any) -> None:
        if Path(filename).is_relative_to(_PACKAGE):
            text = visible(" ".join(str(message).split()))
            with contextlib.suppress(OSError, ValueError):  # the run goes on, if nobody is told
                print(f"greater-fast: warning: {text}", file=sys.stderr)
        else:
            show(visible(message), category, visible(filename), *rest)

    return shown
