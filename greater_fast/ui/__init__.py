"""A page to work with: rows looked at, a run begun, watched, stopped and gone on with."""
