"""The page as text: complete, escaped, without a network, and small enough."""

from __future__ import annotations

import base64
import gzip
import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest

from sim.report.figures import figures_of
from sim.report.figures.common import MAX_POINTS, MAX_ROWS, Names, binned, clean, thinned, tidy
from sim.report.figures.placing import Edge, Vertex, place
from sim.report.page import render_html
from sim.results.schema import Result, Span

from .factory import HOSTILE, make_result

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Elements, text and balance of a document."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def script(html: str, id_: str) -> str:
    found = re.search(rf'<script type="[^"]+" id="{id_}">(.*?)</script>', html, re.DOTALL)
    assert found
    return found[1]


def test_sections_stand_in_order(result: Result) -> None:
    html = render_html(result)
    page = Page(html)
    assert page.open == []
    sections = [attributes["id"] for attributes in page.all("section")]
    assert sections == [
        *("verdict", "numbers", "ledger-section", "gantt-section", "timeline-section", "topology-section"),
        *("memory-section", "roofline-section", "latency-section", "cost-section", "assumptions"),
        *("limits", "reproduce"),
    ]
    assert page.all("html") == [{"lang": "en"}]
    for landmark in ("header", "nav", "main", "footer"):
        assert len(page.all(landmark)) == 1
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    targets = {attributes.get("id") for _, attributes in page.tags}
    assert all(str(link["href"])[1:] in targets for link in page.all("a"))


def test_the_answer_is_plain_html(result: Result) -> None:
    text = Page(render_html(result)).text
    for words in ("1,312", "[1,270, 1,350]", "TTFT p50", "p99 4.11 s", "0.156 USD/Mtok at saturation", "pp8",
                  "tpot_p99 171 ms, over 160 ms"):
        assert words in text
    assert "time to first token: from arrival" in text
    assert "sim run 4090_pp_home.yaml --seed 0 --detail auto" in text
    assert "policy: continuous" in text
    assert "NVIDIA Ada datasheet" in text
    assert "the network is fluid" in text


def test_each_figure_has_its_words_and_its_table(result: Result) -> None:
    page = Page(render_html(result))
    figures = [figure for group in figures_of(result).values() for figure in group]
    assert len(page.all("figure")) == len(figures) == 17
    plots = [a for a in page.all("div") if "data-figure" in a]
    assert [a["id"] for a in plots] == [figure.id for figure in figures]
    assert len({figure.id for figure in figures}) == len(figures)
    for attributes, figure in zip(plots, figures, strict=True):
        assert attributes["role"] == "img"
        assert attributes["aria-label"] == figure.alt
        assert len(figure.takeaway) > 10
        assert figure.takeaway[-1] == "."
        assert figure.rows
        assert len(figure.shown) <= MAX_ROWS
        assert all(len(row) == len(figure.columns) for row in figure.rows)


def test_no_trace_has_too_many_points(result: Result) -> None:
    long = make_result(bins=2000)
    many = [span for span in long.timeline.spans for _ in range(3)]
    long = long.model_copy(update={"timeline": long.timeline.model_copy(update={"spans": many})})
    for group in figures_of(long).values():
        for figure in group:
            for trace in figure.traces:
                assert len(trace.get("x", ())) <= MAX_POINTS
                assert all(len(row) <= MAX_POINTS for row in trace.get("z", ()))
    assert len(render_html(long).encode()) <= 3_000_000


def test_page_is_small_same_and_without_network(result: Result, two_jobs: Result, hostile: Result) -> None:
    for each in (result, two_jobs, hostile):
        html = render_html(each)
        assert len(html.encode()) <= 3_000_000
        assert html == render_html(each)
        page = Page(html)
        for _, attributes in page.tags:
            assert not {"src", "srcset", "data", "action", "poster"} & set(attributes)
            assert not any(name.startswith("on") for name in attributes)
        assert page.all("link") == []
        assert "@import" not in html
        assert "url(" not in html
        (policy,) = [a["content"] for a in page.all("meta") if "http-equiv" in a]
        assert str(policy).startswith("default-src 'none'; script-src 'sha256-")
    assert b"plotly.js" in gzip.decompress(base64.b64decode(script(render_html(result), "plotly-gzip")))[:200]


def test_hostile_names_stay_text(hostile: Result) -> None:
    html = render_html(hostile)
    page = Page(html)
    assert page.open == []
    assert page.all("img") == []
    assert page.all("b") == []
    assert len(page.all("script")) == 3
    assert HOSTILE[0] in page.text
    assert "{{ 7*7 }}" in page.text
    data = script(html, "figures")
    assert not re.search("[<>&\u2028\u2029]", data)
    assert "<" not in "".join(strings(json.loads(data), skip=("hovertemplate",)))


def strings(value: Any, skip: tuple[str, ...]) -> list[str]:
    if isinstance(value, dict):
        return [text for key, item in value.items() if key not in skip for text in strings(item, skip)]
    if isinstance(value, list):
        return [text for item in value for text in strings(item, skip)]
    return [value] if isinstance(value, str) else []


def test_without_optional_parts_the_page_still_answers(bare: Result) -> None:
    html = render_html(bare)
    page = Page(html)
    assert page.all("figure") == []
    assert len(html) < 100_000  # no figures, no plotly
    assert "1,312" in page.text
    assert "n/a" in page.text


@pytest.mark.parametrize(
    "topology", [{"nodes": 3}, {"nodes": [{}]}, {"nodes": ["x"], "edges": {}}, {"edges": [1]}]
)
def test_a_malformed_topology_is_left_out(result: Result, topology: dict[str, Any]) -> None:
    html = render_html(result.model_copy(update={"topology": topology}))
    assert "topology-section" not in html


def test_two_jobs_have_cards_and_series_each(two_jobs: Result) -> None:
    page = Page(render_html(two_jobs))
    assert len([a for a in page.all("ul") if a.get("class") == "cards"]) == 2
    assert {"job-0", "job-1"} <= {a.get("id") for a in page.all("div")}
    assert page.text.count("[1,270, 1,350]") == 4


def test_banners_and_states_are_shown_in_words(result: Result) -> None:
    verdict = result.verdict.model_copy(update={"state": "overloaded", "sentence": "overloaded: queue grows"})
    page = Page(render_html(result.model_copy(update={"verdict": verdict, "banners": ["KV reads are free"]})))
    assert "assumptions that physics forbids" in page.text
    assert "KV reads are free" in page.text
    assert "✕ overloaded : queue grows" in page.text


def test_gantt_draws_the_gaps_between_spans(result: Result) -> None:
    def span(start: float, end: float) -> Span:
        return Span(device="a", kind="decode", start_s=start, end_s=end, batch=1, tokens=1, micro_batch=0)

    update = {"spans": [span(0.0, 1.0), span(3.0, 4.0)], "spans_window_s": [0.0, 5.0]}
    timeline = result.timeline.model_copy(update=update)
    (figure,) = figures_of(result.model_copy(update={"timeline": timeline}))["gantt"]
    gaps = next(trace for trace in figure.traces if trace["name"] == "no kernel")
    assert list(zip(gaps["base"], gaps["x"], strict=True)) == [(1.0, 2.0), (4.0, 1.0)]


def test_switches_stand_over_their_nodes() -> None:
    vertices = {
        v.id: v
        for v in (
            Vertex("spine", "switch", "spine", None),
            Vertex("leaf", "switch", "leaf", None),
            *(Vertex(f"node{n}", "node", "node", None) for n in range(2)),
            *(Vertex(f"gpu{n}", "gpu", "gpu", f"node{n // 2}") for n in range(4)),
        )
    }
    cables = [("spine", "leaf"), *((f"gpu{n}", "leaf") for n in range(4))]
    drawing = place(vertices, [Edge(a, b, (), None) for a, b in cables])
    heights = [drawing.places[name][1] for name in ("gpu0", "leaf", "spine")]
    assert heights == sorted(set(heights))
    columns = [drawing.places[f"gpu{n}"][0] for n in range(4)]
    assert drawing.places["leaf"][0] == pytest.approx(sum(columns) / 4)
    assert len(set(columns)) == 4
    assert len(drawing.frames) == 2


def test_small_tools() -> None:
    assert binned([1.0, 3.0, 5.0, float("nan")], 2) == ([2.0, 5.0], 2)
    assert thinned(list(range(10)), 4) == [0, 3, 6, 9]
    assert tidy({"x": [1.2345678, float("inf")], "base": [100.0123456]}) == {
        "x": [1.2346, None],
        "base": [100.0123456],
    }
    names = Names()
    assert names("a" * 50) != names("a" * 51)
    assert clean("<a href='x'>&") == "&lt;a href='x'&gt;&amp;"


def test_gpus_that_never_rest_are_said_to_work_all_the_time(result: Result) -> None:
    span = Span(device="a", kind="decode", start_s=0.0, end_s=5.0, batch=1, tokens=1, micro_batch=0)
    timeline = result.timeline.model_copy(update={"spans": [span], "spans_window_s": [0.0, 5.0]})
    (figure,) = figures_of(result.model_copy(update={"timeline": timeline}))["gantt"]
    assert figure.takeaway.endswith("5 s, every class of GPUs was at work all the time, collectives included.")
