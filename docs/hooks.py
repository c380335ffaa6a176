"""What MkDocs calls while it builds the site: lists that are made from the package itself."""

import dataclasses
from typing import Any

import greater_fast
from greater_fast.config import CHOICES, Config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A page with each list in place of its mark."""
    for mark, make in LISTS.items():
        if mark in markdown:
            markdown = markdown.replace(mark, make())
    return markdown


def settings_table() -> str:
    """Every field of `Config`: its name, its default, and what it does."""
    rows = ["| setting | default | what it does |", "|---|---|---|"]
    for field in dataclasses.fields(Config):
        default = {} if field.default is dataclasses.MISSING else field.default
        what = field.metadata["help"].replace("|", "\\|").replace("<", "&lt;")
        if field.name in CHOICES:
            what += f" ({' or '.join(f'`{choice!r}`' for choice in CHOICES[field.name])})"
        rows.append(f"| `{field.name}` | `{default!r}` | {what} |")
    return "\n".join(rows)


def public_names() -> str:
    """All that `greater_fast` exports, functions first, as mkdocstrings is asked for it."""
    names = sorted(greater_fast.__all__, key=lambda name: (name[0].isupper(), name))
    options = {"Config": "\n    options: {merge_init_into_class: false}"}  # it has a table
    return "\n\n".join(f"::: greater_fast.{name}{options.get(name, '')}" for name in names)


LISTS = {"<!-- settings -->": settings_table, "<!-- public names -->": public_names}
