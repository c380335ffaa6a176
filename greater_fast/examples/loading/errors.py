"""The one form of an error for data that cannot be used."""

from os import PathLike

from greater_fast.wording import printable, shortened


def bad_data(name: object, got: str, expected: str, advice: str) -> ValueError:
    """The error for data that cannot be used, in the form of all our errors."""
    name = shortened(name, 200)
    return ValueError(printable(f"{name}: got {got}; expected {expected}; {advice}"))


def source_name(source: object) -> str:
    """Name a data source as error messages and reports should call it."""
    if not isinstance(source, str | PathLike):
        return f"the {type(source).__name__}"
    return shortened(source, 200)
