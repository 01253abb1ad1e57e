"""The page's programs: plotly once, compressed, and the few lines that start it; nothing is fetched.

The bundle is 4.8 MB as text and 2 MB as gzip in base64; the browser unpacks it (DecompressionStream). The
page names the hashes of exactly these two programs in its content security policy, so no other script runs,
whatever a result holds.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from sim.report.screen import tied

TEMPLATES: Final = Path(__file__).parent / "templates"

_ESCAPES: Final = {code: f"\\u{code:04x}" for code in (0x3C, 0x3E, 0x26, 0x2028, 0x2029)}


@cache
def plotly_bundle() -> str:
    """The whole of plotly.js as gzip in base64; the same bytes each time."""
    return base64.b64encode(gzip.compress(_plotly().encode(), 9, mtime=0)).decode()


@cache
def template_file(name: str) -> str:
    """A style sheet or program that stands beside the template."""
    return (TEMPLATES / name).read_text(encoding="utf-8")


def template(name: str) -> Template:
    """A page's template. Text is autoescaped, and a name that is missing is an error."""
    found = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["tied"] = tied
    return found.get_template(name)


def parts(drawings: Any) -> dict[str, Markup | str]:
    """What every page's template needs beside its own: style, programs, their policy, and the figures' data.

    Without figures plotly is left out.
    """
    return {
        "css": Markup(template_file("page.css")), "js": Markup(template_file("page.js")), "policy": security_policy(),
        "drawings": Markup(script_json(drawings)), "bundle": Markup(plotly_bundle()) if drawings else "",
    }  # fmt: skip


@cache
def security_policy() -> str:
    """The page's content security policy: two known scripts, own styles, no network."""
    scripts = " ".join(f"'sha256-{_digest(text)}'" for text in (template_file("page.js"), _plotly()))
    return (
        f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def script_json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False).translate(_ESCAPES)


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs  # here, because plotly costs start-up

    # A browser reads CRLF in a script as LF, which would change the hash.
    text: str = get_plotlyjs()
    return text.replace("\r\n", "\n")
