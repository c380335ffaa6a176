"""The version of greater_fast: the build, the package and the run log read it here."""

__version__ = "0.1.0"
