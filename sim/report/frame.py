"""The frame of every page: head, contents, figures by section and programs, around what is the page's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sim.report.assets import parts, template
from sim.report.figures.common import MAX_ROWS, Figure, drawn


def render_page(
    name: str, version: str, sections: Mapping[str, Sequence[object]], figures: Mapping[str, list[Figure]], **own: Any
) -> str:
    """The page as text; at most 3 MB, of which plotly is two. ``name``: a template that extends frame.html.j2.

    ``sections`` by id: a heading, what it shows, and what else the template wants there; one without figures is left
    out. ``own``: the template's other names.
    """
    return template(name).render(
        version=version,
        sections=[(id_, *words, figures[id_]) for id_, words in sections.items() if figures[id_]],
        max_rows=MAX_ROWS,
        **parts(drawn(figures)),
        **own,
    )
