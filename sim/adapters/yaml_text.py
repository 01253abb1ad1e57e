"""YAML as a person would write it: comments of whole words, values on one line."""

from __future__ import annotations

import textwrap
from typing import Any

import yaml

_WIDTH = 118


def comment(text: str, first: str = "# ", rest: str = "# ") -> list[str]:
    """A comment of whole words; a file name in it may hold anything but a line's end."""
    plain = "".join(c if c.isprintable() else "?" for c in text)
    return textwrap.wrap(
        plain, _WIDTH, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )


def flow(value: Any) -> str:
    """A value on one line; a name that starts like a number is quoted, for it may be one in YAML."""
    if isinstance(value, str) and value[:1].isdigit():
        return f'"{value}"'
    text = yaml.safe_dump(value, default_flow_style=True, width=10**9, sort_keys=False, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
