"""The page in a real browser: figures drawn as asked, no network, no errors; dark, narrow and on paper."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sim.report.figures import figures_of
from sim.report.page import render_html

from ..pages import ARGUMENTS, DRAWN, chromium
from .factory import bare_result, hostile_result, make_mixed, make_result, make_training

pytestmark = pytest.mark.browser
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

RESULTS = {
    "one": make_result,
    "two": lambda: make_result(stages=4, jobs=("chat", "batch")),
    "few": lambda: make_result(stages=2),
    "hostile": hostile_result,
    "training": make_training,
    "chunks": lambda: make_training(chunks=2),
    "mixed": make_mixed,
    "hostile training": lambda: hostile_result(make_training()),
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = chromium()
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield started
        started.close()


@pytest.fixture
def visit(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """Opens a page; at the end there was no complaint and no request but for the file itself."""
    complaints: list[str] = []
    requests: list[str] = []
    contexts: list[Any] = []

    def open_(html: str, wait: bool = True, **options: Any) -> Any:
        file = tmp_path / "index.html"
        file.write_text(html, encoding="utf-8")
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(file.as_uri())
        if wait:
            page.wait_for_selector(DRAWN, state="attached")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert complaints == []
    assert {url.rpartition("/")[2].partition("#")[0] for url in requests} <= {"index.html"}


def drawn(page: Any) -> dict[str, dict[str, Any]]:
    """What plotly made of each figure: types as drawn and how many marks are on the screen."""
    return page.evaluate(
        """() => {
        const size = (mark) => mark.getBoundingClientRect();
        const seen = (mark) => size(mark).width + size(mark).height > 0;
        return Object.fromEntries([...document.querySelectorAll('.plot')].map((plot) => [plot.id, {
            types: plot._fullData.map((trace) => trace.type),
            marks: [...plot.querySelectorAll('.mlayer path, .mlayer image')].filter(seen).length,
            width: plot.querySelector('.main-svg').clientWidth,
            room: plot.clientWidth,
            font: plot._fullLayout.font.color,
            grid: plot._fullLayout.xaxis.gridcolor,
        }]));
        }"""
    )


def wait_until(page: Any, holds: Callable[[], bool]) -> None:
    """Polls from outside: the page's policy forbids evaluating strings inside."""
    for _ in range(100):
        if holds():
            return
        page.wait_for_timeout(50)
    raise AssertionError("it did not come true")


@pytest.mark.parametrize("name", [name for name in RESULTS if name not in ("few", "two")])
def test_each_figure_is_drawn_as_asked(visit: Any, name: str) -> None:
    result = RESULTS[name]()
    found = drawn(visit(render_html(result)))
    figures = [figure for group in figures_of(result).values() for figure in group]
    assert list(found) == [figure.id for figure in figures]
    for figure in figures:
        assert found[figure.id]["types"] == figure.types, figure.id
        assert found[figure.id]["marks"] > 0, figure.id


def test_hostile_names_run_nothing_and_show_as_text(visit: Any) -> None:
    page = visit(render_html(hostile_result()))
    assert page.locator("img").count() == 0
    assert page.locator('.plot a[href], .plot [href^="javascript"]').count() == 0
    assert "<script>" in page.locator("h1").text_content() + page.locator("#ledger").text_content()


@pytest.mark.parametrize("name", ["hostile", "training"])
def test_narrow_screens_have_no_sideways_scroll(visit: Any, name: str) -> None:
    page = visit(render_html(RESULTS[name]()), viewport={"width": 375, "height": 800})
    page.evaluate("document.querySelectorAll('details').forEach((item) => { item.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    assert all(figure["width"] <= figure["room"] for figure in drawn(page).values())


def numbers(page: Any, id_: str) -> list[str]:
    """Texts inside the bars of a figure that can be read: their size on the screen is not zero."""
    return page.evaluate(
        """(id) => [...document.querySelectorAll(`#${id} .bartext`)]
            .filter((text) => text.getBoundingClientRect().width > 0)
            .map((text) => text.textContent.trim())""",
        id_,
    )


def test_bars_of_a_pipeline_carry_their_micro_batch(visit: Any) -> None:
    page = visit(render_html(make_training()), viewport={"width": 1280, "height": 900})
    assert sorted(numbers(page, "step-0")) == sorted([str(n) for n in range(8)] * 8)
    ticks = [page.locator("#step-0 .ytick text").nth(at) for at in range(4)]
    ticks.sort(key=lambda tick: tick.bounding_box()["y"])
    assert [tick.text_content() for tick in ticks] == ["stage 0", "stage 1", "stage 2", "stage 3"]
    legend = page.locator("#step-0 .legendtext").all_text_contents()
    assert legend == ["forward", "backward", "communication", "update", "bubble", "between steps"]


def test_numbers_appear_when_zooming(visit: Any) -> None:
    page = visit(render_html(make_training(micro=64)), viewport={"width": 390, "height": 800})
    assert len(numbers(page, "step-0")) < 2 * 64 * 4
    page.evaluate("window.Plotly.relayout('step-0', {'xaxis.range': [0, 0.5]})")
    wait_until(page, lambda: len(numbers(page, "step-0")) == 2 * 64 * 4)


def test_shades_of_chunks_have_one_entry_in_the_legend(visit: Any) -> None:
    page = visit(render_html(make_training(chunks=2)))
    legend = page.locator("#step-0 .legendtext").all_text_contents()
    assert legend.count("forward") == legend.count("backward") == 1
    fills = page.evaluate(
        """() => [...new Set(document.getElementById('step-0')._fullData
            .filter((trace) => trace.name === 'forward').map((trace) => trace.marker.color))]"""
    )
    assert len(fills) == 2


def test_as_many_bars_as_a_result_holds_are_drawn(visit: Any) -> None:
    page = visit(render_html(make_training(stages=16, micro=187)), viewport={"width": 1280, "height": 900})
    assert drawn(page)["step-0"]["marks"] > 0


def test_dark_switches_the_figures_too(visit: Any) -> None:
    page = visit(render_html(make_result()))
    light = drawn(page)
    page.click("#theme")
    dark = drawn(page)
    assert page.locator("#theme").text_content() == "Light"
    for id_ in light:
        assert dark[id_]["font"] != light[id_]["font"]
        assert dark[id_]["grid"] != light[id_]["grid"] or light[id_]["grid"] is None
    page.click("#theme")
    assert drawn(page) == light
    page.emulate_media(color_scheme="dark")
    assert drawn(page) == light  # the choice stands
    assert (
        drawn(visit(render_html(make_result()), color_scheme="dark"))["ledger"]["font"]
        == dark["ledger"]["font"]
    )


def test_paper_is_light_and_without_buttons(visit: Any) -> None:
    page = visit(render_html(make_result()), color_scheme="dark")
    before = drawn(page)
    page.emulate_media(media="print")
    wait_until(page, lambda: drawn(page)["ledger"]["font"] == "#000")
    assert all(figure["width"] == 660 for figure in drawn(page).values())
    assert not page.locator("#theme").is_visible()
    assert page.locator("details").first.is_hidden()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert len(page.pdf()) > 10_000
    page.emulate_media(media="screen")
    wait_until(page, lambda: drawn(page) == before)


def test_a_training_job_is_read_without_javascript(visit: Any) -> None:
    page = visit(render_html(make_training()), wait=False, java_script_enabled=False)
    assert page.get_by_text("Pipeline bubble").first.is_visible()
    assert page.get_by_text("The bubble takes 18.2%").first.is_visible()


def test_numbers_are_read_without_javascript(visit: Any) -> None:
    page = visit(render_html(make_result()), wait=False, java_script_enabled=False)
    assert page.get_by_text("1,312").first.is_visible()
    assert page.get_by_text("bound by KV memory").first.is_visible()
    assert page.locator(".plot").first.is_hidden()
    page.locator("figure summary").first.click()
    assert page.get_by_text("memory-bound").last.is_visible()


def test_definitions_show_on_focus(visit: Any) -> None:
    page = visit(render_html(make_result()))
    page.locator(".tip").first.focus()
    assert page.locator(".tip-text").first.is_visible()
    assert "generated tokens per second" in page.locator(".tip-text").first.text_content()


def test_keyboard_reaches_the_answer_first(visit: Any) -> None:
    page = visit(render_html(bare_result()))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_an_old_browser_is_told_why(browser: Any, tmp_path: Path) -> None:
    file = tmp_path / "index.html"
    file.write_text(render_html(make_result()), encoding="utf-8")
    context = browser.new_context()
    page = context.new_page()
    page.add_init_script("delete window.DecompressionStream")
    page.goto(file.as_uri())
    page.wait_for_selector(".plot.failed")
    assert "too old to unpack the figures" in page.locator(".plot.failed").first.text_content()
    context.close()
