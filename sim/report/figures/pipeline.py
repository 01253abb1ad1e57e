"""A training step as a Gantt chart, drawn as the papers on pipelines do (GPipe, 1F1B, interleaved, zero bubble).

A row a stage, the first on top; the number in a bar is its micro-batch, a lighter shade a later chunk of the stage,
and what is left between the bars is the bubble. All steps of a job are alike: the first is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sim.report.figures.common import (
    BLUE,
    GREEN,
    GREY,
    MAX_POINTS,
    ORANGE,
    PALE,
    PURPLE,
    RED,
    Figure,
    Names,
    Trace,
    axis,
    categories,
    clean,
    fill,
    layout,
    rows_height,
    some,
    table,
)
from sim.report.figures.gantt import gaps
from sim.report.values import joined, write
from sim.results.schema import DeviceClass, JobResult, Result, Span, TrainingMetrics
from sim.units import format_count, format_percent, format_seconds

MAX_STAGES: Final = 64
FIRST_LOOK: Final = 48
"""Forward passes that the view is long before anyone zooms: numbers are then read on a desktop's screen."""
PAST_WARM_UP: Final = 1.5
"""The view is at least as long as this times the first row's warm-up, so that deep pipelines show their shape."""
STILL_WHOLE: Final = 1.35
"""A step longer than the first look by no more than this shows whole."""
SMALLEST: Final = 8
"""Pixels of the numbers in bars; where there is no room for them, they wait for a zoom."""

PASSES: Final = ("forward", "backward", "weight gradient")
BUBBLE, IDLE, BETWEEN = "bubble", "idle", "between steps"
STYLES: Final[dict[str, tuple[int, str]]] = {
    "forward": (0, BLUE),
    "backward": (1, GREEN),
    "weight gradient": (2, ORANGE),
    "comm": (3, RED),
    "update": (4, PURPLE),
    BUBBLE: (5, PALE),
    IDLE: (5, PALE),
    BETWEEN: (6, GREY),
}
"""Pattern and colour of a kind of work, in the order of the legend."""
SHOWN_AS: Final = {"comm": "communication"}
HOVER_AS: Final = {"comm": "communication that no kernel hides"}
LIGHTEST: Final = 0.6
"""How far the shade of the last chunk goes towards white."""
INSIDE: Final = ("tp", "cp", "ep")
"""Axes whose exposed communication is part of a pass."""


@dataclass(frozen=True, slots=True)
class Step:
    """What there is to draw of one job: rows by device, bars with the gaps between them, and their time.

    ``names`` are for sentences and tables, ``labels`` the same for plotly.
    """

    job: JobResult
    metrics: TrainingMetrics
    names: dict[str, str]
    labels: dict[str, str]
    bubble: dict[str, float]
    slow: bool
    spans: list[Span]
    filler: list[Span]
    begin: float
    end: float

    @property
    def piped(self) -> bool:
        """Whether there is a pipeline: what its stages wait for is a bubble."""
        return any(span.kind == BUBBLE for span in self.filler)

    @property
    def whole(self) -> bool:
        """Whether the step is recorded to its end."""
        return self.end >= self.begin + self.metrics.step_time_s * (1 - 1e-9)

    @property
    def chunks(self) -> int:
        """Chunks of a stage."""
        return 1 + max((span.chunk for span in self.spans), default=0)


def step_figures(result: Result) -> list[Figure]:
    """A figure for each training job of which a step was recorded."""
    steps = ((index, _step(result, job)) for index, job in enumerate(result.jobs))
    return [_figure(result, index, step) for index, step in steps if step is not None]


def _step(result: Result, job: JobResult) -> Step | None:
    window, metrics = result.timeline.spans_window_s, job.metrics
    if not isinstance(metrics, TrainingMetrics) or len(window) != 2:
        return None
    begin = max(window[0], job.window.start_s)
    end = min(window[1], job.window.start_s + metrics.step_time_s)
    devices = [device for device in result.devices if device.job == job.name]
    spans = [_cut(s, begin, end) for s in result.timeline.spans if s.start_s < end and s.end_s > begin]
    devices = [device for device in devices if any(s.device == device.name for s in spans)]
    rest = BUBBLE if len({device.stage for device in devices}) > 1 else IDLE
    devices = devices[:MAX_STAGES]
    names, label = _names(job, devices), Names()
    spans = [span for span in spans if span.device in names]
    if not spans or end <= begin:
        return None
    bubble = {device.name: _bubble(device) for device in devices}
    labels = {device: label(name) for device, name in names.items()}
    filler = [gap for name in names for gap in _idle(name, rest, spans, begin, end)]
    slow = any(device.ledger.get("waiting for slow ranks") for device in devices)
    return Step(job, metrics, names, labels, bubble, slow, spans, filler, begin, end)


def _cut(span: Span, begin: float, end: float) -> Span:
    """What of a stretch lies in the time that is drawn."""
    if span.start_s >= begin and span.end_s <= end:
        return span
    return span.model_copy(update={"start_s": max(begin, span.start_s), "end_s": min(end, span.end_s)})


def _bubble(device: DeviceClass) -> float:
    """Share of the job's time that the ledger calls a bubble (the chart's gaps also hold hops and slower ranks)."""
    total = sum(seconds for bucket, seconds in device.ledger.items() if bucket != "waiting for work")
    return device.ledger.get("pipeline bubble", 0.0) / total if total > 0 else 0.0


def _names(job: JobResult, devices: Sequence[DeviceClass]) -> dict[str, str]:
    """Names of rows: the stage, or what else tells the classes of GPUs apart."""
    stages = {device.stage for device in devices}
    if len(devices) == 1:
        return {devices[0].name: f"{devices[0].count:,} GPUs" if devices[0].count > 1 else devices[0].gpu}
    if None not in stages and len(stages) == len(devices):
        return {device.name: f"stage {device.stage}" for device in devices}
    return {device.name: device.name.removeprefix(f"{job.name}.") for device in devices}


def _idle(name: str, kind: str, spans: list[Span], begin: float, end: float) -> Iterator[Span]:
    """Gaps of a row, and what follows the last work of the whole step (host, loading of data)."""
    last = min(end, max(span.end_s for span in spans))
    yield from gaps(name, kind, spans, [begin, last])
    if end - last > 1e-6 * (end - begin):
        yield Span(device=name, kind=BETWEEN, start_s=last, end_s=end, batch=0, tokens=0, micro_batch=0)


def _figure(result: Result, index: int, step: Step) -> Figure:
    job, rows = step.job, list(step.labels.values())
    classes = sum(device.job == job.name for device in result.devices)
    look = _first_look(step)
    words = _takeaway(step)
    stages = f"{len(rows)} rows" if len(rows) > 1 else "one row"
    return Figure(
        id=f"step-{index}",
        title=f"One step of {job.name}" + (", stage by stage" if step.piped else ""),
        takeaway=words,
        alt=f"Gantt chart of {format_seconds(step.end - step.begin)} of a training step of {job.name}, {stages}, "
        f"{step.metrics.micro_batches:,} micro-batches. {words}",
        traces=list(_traces(step)),
        layout=layout(
            barmode="overlay",
            bargap=0.14,
            dragmode="zoom",
            hovermode="closest",
            uniformtext={"mode": "hide", "minsize": SMALLEST},
            xaxis=axis("simulated time (s)", fixedrange=False, range=[step.begin, look], showgrid=False),
            yaxis=categories(categoryorder="array", categoryarray=rows),
            legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
        ),
        columns=("GPUs", "work", "micro-batch", "chunk", "start", "end"),
        rows=_rows(step),
        height=rows_height(len(rows), 36 if len(rows) <= 16 else 24, 120),
        note=" ".join(_notes(step, look, some(len(rows), classes, "classes"))),
    )


def _first_look(step: Step) -> float:
    """Where the view ends at first: with a short step, else while a forward pass of middling length is wide enough."""
    lengths = sorted(span.end_s - span.start_s for span in step.spans if span.kind == "forward")
    if not lengths:
        return step.end
    first = next(iter(step.names))
    warm = min((s.start_s for s in step.spans if s.device == first and s.kind == "backward"), default=step.end)
    length = max(FIRST_LOOK * lengths[len(lengths) // 2], PAST_WARM_UP * (warm - step.begin))
    return step.begin + length if step.end - step.begin > STILL_WHOLE * length else step.end


def _notes(step: Step, look: float, left_out: str) -> Iterator[str]:
    """How to read the chart, and what it does not show."""
    if look < step.end:
        shown, whole = format_seconds(look - step.begin), format_seconds(step.end - step.begin)
        yield f"The view opens on the first {shown} of {whole}: double-click to see all of it, drag sideways to zoom."
    shades = " Lighter bars are a stage's later chunks." if step.chunks > 1 else ""
    yield f"Numbers in bars are micro-batches; zoom in where they are hidden.{shades}"
    exposed = step.metrics.exposed_communication_s
    inside = [axis for axis in INSIDE if exposed.get(axis, 0.0) > 0]
    if step.whole and exposed.get("dp", 0.0) > 1.05 * _drawn(step) + 1e-9:
        yield f"Exposed {joined(['dp', *inside])} communication without a bar is part of the passes or the update."
    elif inside:
        yield f"Exposed {joined(inside)} communication is part of the passes."
    if step.piped:
        slow = " and waits for slower GPUs" if step.slow else ""
        yield f"Gaps also hold the hops between stages{slow}."
    if not step.whole:
        yield f"The first {format_seconds(step.end - step.begin)} of the step are recorded."
    if look >= step.end:
        yield "Drag sideways to zoom; double-click to go back."
    if left_out:
        yield left_out


def _drawn(step: Step) -> float:
    """Seconds of communication that have bars of their own, on the row with most."""
    return max(sum(s.end_s - s.start_s for s in step.spans if s.kind == "comm" and s.device == n) for n in step.names)


# ---- bars


def _traces(step: Step) -> Iterator[Trace]:
    """A trace a kind of work and chunk, cut where it has too many bars."""
    everything = [*step.spans, *step.filler]
    order = dict.fromkeys([*STYLES, *(span.kind for span in everything)])
    for number, kind in enumerate(order):
        own = sorted((s for s in everything if s.kind == kind), key=lambda s: s.start_s)
        named = True
        for chunk in sorted({span.chunk for span in own}):
            bars = [span for span in own if span.chunk == chunk]
            for at in range(0, len(bars), MAX_POINTS):
                marker = _marker(*STYLES.get(kind, (number % 8, PURPLE)), chunk, step.chunks)
                yield _trace(step, kind, bars[at : at + MAX_POINTS], marker) | ({} if named else {"showlegend": False})
                named = False


def _trace(step: Step, kind: str, spans: list[Span], marker: dict[str, Any]) -> Trace:
    name = SHOWN_AS.get(kind, kind)
    when = "from %{base:.6~s}s, %{x:.4~s}s long"
    trace: Trace = {
        "type": "bar",
        "orientation": "h",
        "name": clean(name),
        "legendgroup": clean(kind),
        "y": [step.labels[span.device] for span in spans],
        "base": [span.start_s for span in spans],
        "x": [span.end_s - span.start_s for span in spans],
        "marker": marker,
        "hovertemplate": f"%{{y}}<br>{clean(HOVER_AS.get(kind, name))}<br>{when}<extra></extra>",
    }
    if kind not in PASSES:
        return trace
    chunk = f", chunk {spans[0].chunk}" if step.chunks > 1 else ""
    tokens = {span.tokens for span in spans}
    size = f"<br>{tokens.pop():,} tokens" if len(tokens) == 1 else ""
    digits = len(str(max(span.micro_batch for span in step.spans)))
    trace["text"] = [_spaced(span.micro_batch, digits) for span in spans]
    trace["customdata"] = [span.micro_batch for span in spans]
    trace["textposition"] = "inside"
    trace["insidetextanchor"] = "middle"
    trace["textangle"] = 0
    trace["insidetextfont"] = {"color": ink_on(marker["color"]), "size": 12}
    trace["hovertemplate"] = (
        f"%{{y}}<br>%{{fullData.name}} of micro-batch %{{customdata}}{chunk}<br>{when}{size}<extra></extra>"
    )
    return trace


def _spaced(number: int, digits: int) -> str:
    """A number with room around it, as wide as the longest, so that bars of one width show all of theirs or none."""
    text = str(number)
    room = "\u200a" + "\u2005" * (digits - len(text))
    return f"{room}{text}{room}"


def _marker(pattern: int, colour: str, chunk: int, chunks: int) -> dict[str, Any]:
    """A bar's look: patterns are faint under numbers, and work is outlined since it follows without a gap.

    What is between steps is darker than a bubble, with clear lines: both are small in the legend.
    """
    quiet = colour == PALE
    made = fill(pattern, colour if quiet else lighter(colour, LIGHTEST * chunk / max(1, chunks - 1)))
    if not quiet:
        made["line"] = {"width": 0.6, "color": "rgba(0,0,0,0.6)"}
    if "pattern" in made:
        made["pattern"] |= {"fgopacity": 0.6 if colour == GREY else 0.18}
    return made


def lighter(colour: str, share: float) -> str:
    """A colour mixed with white."""
    parts = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return "#" + "".join(f"{round(part + (255 - part) * share):02X}" for part in parts)


def ink_on(colour: str) -> str:
    """Black or white, whichever is read better on a colour (contrast of WCAG 2)."""
    red, green, blue = (_linear(int(colour[at : at + 2], 16) / 255) for at in (1, 3, 5))
    light = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return "#000" if (light + 0.05) / 0.05 > 1.05 / (light + 0.05) else "#fff"


def _linear(part: float) -> float:
    return float(part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4)


# ---- words


def _takeaway(step: Step) -> str:
    if not step.piped:
        return _spent(step)
    share = write("bubble_fraction", step.metrics.bubble_fraction)
    most, least = max(step.bubble, key=lambda n: step.bubble[n]), min(step.bubble, key=lambda n: step.bubble[n])
    if step.bubble[most] - step.bubble[least] < 0.005:
        words = f"The bubble takes {share} of GPU time, about equally on all stages."
    else:
        words = (
            f"The bubble takes {share} of GPU time: most on {step.names[most]} ({format_percent(step.bubble[most])}), "
            f"least on {step.names[least]} ({format_percent(step.bubble[least])})."
        )
    return " ".join([words, *_phases(step)])


def _spent(step: Step) -> str:
    """Without a pipeline: how the step is spent, mean over rows."""
    spent: dict[str, float] = {}
    for span in [*step.spans, *step.filler]:
        name = SHOWN_AS.get(span.kind, span.kind)
        spent[name] = spent.get(name, 0.0) + (span.end_s - span.start_s) / (step.end - step.begin) / len(step.names)
    parts = [f"{name} {format_percent(share)}" for name, share in sorted(spent.items(), key=lambda p: -p[1])]
    mean = ", mean over rows" if len(step.names) > 1 else ""
    return f"Of {'the step' if step.whole else 'this time'}{mean}: {joined(parts)}."


def _phases(step: Step) -> Iterator[str]:
    """Warm-up, steady part and cool-down of the first row: until its first backward, after its last forward."""
    first, name = next(iter(step.names.items()))
    own = [span for span in step.spans if span.device == first]
    forward = [span for span in own if span.kind == "forward"]
    backward = [span for span in own if span.kind in ("backward", "weight gradient")]
    if not (step.whole and forward and backward):
        return
    warm, cool = min(s.start_s for s in backward), max(s.end_s for s in forward)
    over = max(s.end_s for s in backward)
    if warm >= cool:
        yield f"{name.capitalize()} runs all its forward passes before its first backward: nothing is steady."
        return
    parts = [format_percent(part / (step.end - step.begin)) for part in (warm - step.begin, cool - warm, over - cool)]
    yield (
        f"For {name}, warm-up (until its first backward) is {parts[0]} of the step, the steady part {parts[1]} "
        f"and cool-down (after its last forward) {parts[2]}."
    )


def _rows(step: Step) -> list[tuple[str, ...]]:
    counted = step.chunks > 1
    return table(
        (
            step.names[s.device],
            SHOWN_AS.get(s.kind, s.kind),
            format_count(s.micro_batch) if s.kind in PASSES else "–",
            s.chunk if counted and s.kind in PASSES else "–",
            f"{s.start_s:.6f} s",
            f"{s.end_s:.6f} s",
        )
        for s in step.spans
    )
