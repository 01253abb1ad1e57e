"""The roofline (Williams 2009): attainable FLOP/s = min(peak, intensity x bandwidth), a dot per phase."""

from __future__ import annotations

import math

from sim.report.figures.common import (
    BLUE,
    DASHES,
    GREEN,
    MAX_POINTS,
    ORANGE,
    PALETTE,
    SYMBOLS,
    Figure,
    Names,
    Trace,
    axis,
    clean,
    layout,
    sentence,
    table,
    thinned,
)
from sim.results.schema import Result, RooflineDot
from sim.units import format_bandwidth, format_count, format_flops, format_percent

_COLOURS = {"prefill": ORANGE, "decode": BLUE, "mixed": GREEN, "forward": BLUE, "backward": GREEN}


def roofline_figure(result: Result) -> Figure | None:
    """Log-log; one roof per pair of peak and bandwidth, one trace per phase."""
    dots = [d for d in result.roofline if min(d.flops_per_byte, d.flops_per_s, d.peak_flops, d.bandwidth) > 0]
    if not dots:
        return None
    low, high = _range(dots)
    roofs = list(dict.fromkeys((d.peak_flops, d.bandwidth) for d in dots))
    traces = [_roof(index, roof, low, high) for index, roof in enumerate(roofs[:4])]
    phases = list(dict.fromkeys(d.phase for d in dots))
    traces += [_dots(index, phase, dots) for index, phase in enumerate(phases)]
    return Figure(
        id="roofline",
        title="Roofline",
        takeaway=_takeaway(dots),
        alt="Log-log roofline of arithmetic intensity against speed, with "
        + ", ".join(f"{d.phase} on {d.device} at {format_flops(d.flops_per_s)}" for d in dots[:12]),
        traces=traces,
        layout=layout(
            xaxis=axis("FLOP per byte moved", type="log", dtick="D2", exponentformat="none"),
            yaxis=axis("FLOP/s", type="log", dtick="D2", exponentformat="SI"),
            hovermode="closest",
        ),
        columns=("GPUs", "phase", "FLOP per byte", "achieved", "attainable", "share"),
        rows=table(
            (
                d.device,
                d.phase,
                format_count(d.flops_per_byte),
                format_flops(d.flops_per_s),
                format_flops(_attainable(d)),
                format_percent(d.flops_per_s / _attainable(d)),
            )
            for d in dots
        ),
        height=380,
    )


def _attainable(dot: RooflineDot) -> float:
    return min(dot.peak_flops, dot.flops_per_byte * dot.bandwidth)


def _range(dots: list[RooflineDot]) -> tuple[float, float]:
    """Whole decades with some room beside dots and ridges."""
    ridges = [d.peak_flops / d.bandwidth for d in dots]
    values = [*ridges, *(d.flops_per_byte for d in dots)]
    return 10 ** math.floor(math.log10(min(values)) - 0.5), 10 ** math.ceil(math.log10(max(values)) + 0.3)


def _roof(index: int, roof: tuple[float, float], low: float, high: float) -> Trace:
    peak, bandwidth = roof
    ridge = peak / bandwidth
    return {
        "type": "scatter",
        "mode": "lines",
        "name": f"roof: {format_flops(peak)}, {format_bandwidth(bandwidth)}",
        "x": [low, ridge, high],
        "y": [low * bandwidth, peak, peak],
        "line": {"color": "#8A9099", "dash": DASHES[index % len(DASHES)], "width": 2},
        "hoverinfo": "name",
    }


def _dots(index: int, phase: str, dots: list[RooflineDot]) -> Trace:
    own = thinned([dot for dot in dots if dot.phase == phase], MAX_POINTS)
    label = Names()
    return {
        "type": "scatter",
        "mode": "markers",
        "name": clean(phase),
        "x": [dot.flops_per_byte for dot in own],
        "y": [dot.flops_per_s for dot in own],
        "customdata": [label(dot.device) for dot in own],
        "marker": {
            "symbol": SYMBOLS[index % len(SYMBOLS)],
            "size": 12,
            "color": _COLOURS.get(phase, PALETTE[(index + 3) % len(PALETTE)]),
            "line": {"width": 1, "color": "#fff"},
        },
        "hovertemplate": "%{customdata}: %{y:.3~s}FLOP/s at %{x:.3~g} FLOP/B<extra>%{fullData.name}</extra>",
    }


def _takeaway(dots: list[RooflineDot]) -> str:
    sentences = []
    for phase in dict.fromkeys(dot.phase for dot in dots):
        best = max((d for d in dots if d.phase == phase), key=lambda d: d.flops_per_s)
        side = "left" if best.flops_per_byte < best.peak_flops / best.bandwidth else "right"
        bound = "memory-bound" if side == "left" else "compute-bound"
        share = format_percent(best.flops_per_s / _attainable(best))
        sentences.append(f"{phase} is {bound} and reaches {share} of its roof")
    return sentence("; ".join(sentences[:4])) + "."
