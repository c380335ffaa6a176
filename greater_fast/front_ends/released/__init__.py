"""The command of GReaTer's released code: its config files, its keys, its output, on our search."""

from greater_fast.front_ends.released.config_file import read_config
from greater_fast.front_ends.released.keys import KEYS, SWITCHES, Given, parse_overrides
from greater_fast.front_ends.released.search import run

__all__ = ["KEYS", "SWITCHES", "Given", "parse_overrides", "read_config", "run"]
