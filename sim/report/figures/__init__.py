"""The figures of a run, in the order of the page; each is a function from the Result to a Figure or None."""

from __future__ import annotations

from sim.report.figures.capacity import capacity_figures
from sim.report.figures.common import Figure
from sim.report.figures.cost import cost_figure, purchase_figure
from sim.report.figures.effects import effects_figure
from sim.report.figures.gantt import gantt_figure
from sim.report.figures.latency import latency_figures
from sim.report.figures.ledger import ledger_figure
from sim.report.figures.memory import memory_figures
from sim.report.figures.payback import payback_figure
from sim.report.figures.pipeline import step_figures
from sim.report.figures.roofline import roofline_figure
from sim.report.figures.timeline import device_figure, job_figures, link_figure
from sim.report.figures.topology import topology_figure
from sim.report.figures.use import day_figure, mix_figure, use_figure
from sim.results.schema import Result


def figures_of(result: Result) -> dict[str, list[Figure]]:
    """Figures by section of the page; a section without data is an empty list."""
    over_time = [device_figure(result), link_figure(result), *job_figures(result)]
    made: dict[str, list[Figure | None]] = {
        "capacity": [*capacity_figures(result)],
        "ledger": [ledger_figure(result)],
        "gantt": [gantt_figure(result), *step_figures(result)],
        "timeline": over_time,
        "topology": [topology_figure(result)],
        "memory": [*memory_figures(result)],
        "roofline": [roofline_figure(result)],
        "latency": [*latency_figures(result)],
        "cost": [
            cost_figure(result), purchase_figure(result), payback_figure(result), use_figure(result),
            day_figure(result), mix_figure(result), effects_figure(result),
        ],
    }
    return {section: [figure for figure in figures if figure] for section, figures in made.items()}
